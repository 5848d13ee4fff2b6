"""Check `labels.validation_noise`."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.checks._audit import audit, audit_findings
from gendebug_torch.labels.checks._estimate import estimate_cost


@check(
    "labels.validation_noise",
    cause=Cause.LABEL_NOISE,
    needs=("validation.targets", "validation.logits"),
    cost=estimate_cost("validation", networks=0.4),
    partial_labels=None,
)
def validation_labels_are_right(
    validation: Records,
    deadline: Deadline = NO_DEADLINE,
    *,
    alpha: float = 0.0005,
    min_rate: float = 0.02,
    max_rows: int = 20_000,
    limit: int = 3,
    seed: int = 0,
) -> Iterator[Finding]:
    """The labels of the validation rows are right, except for ambiguous rows.

    The labels are compared with the model's logits. Where the features predict them beyond the
    logits, small networks get both, so that a systematic failure of the model is not mistaken for
    wrong labels. Each label of a multilabel task is judged, and each target of a regression.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225; Northcutt, Athalye and Mueller (2021),
    arXiv:2103.14749, on errors in test sets; Benjamini and Hochberg (1995), JRSS B 57:289 over the
    groups; Lange, Little and Taylor (1989), JASA 84:881, for quantities.

    Args:
        validation: records with labels and logits; rows without a label are left out.
        deadline: end of the time.
        alpha: significance level.
        min_rate: smallest share of wrong labels that matters; the lower bound must reach half.
        max_rows: most rows used, drawn at random.
        limit: most groups reported one by one.
        seed: seed of the drawing and the networks.
    """
    estimate = audit(
        validation,
        out_of_sample=True,
        stacked=True,
        max_rows=max_rows,
        seed=seed,
        deadline=deadline,
    )
    yield from audit_findings(
        validation_labels_are_right,
        validation,
        estimate,
        alpha=alpha,
        min_rate=min_rate,
        limit=limit,
    )

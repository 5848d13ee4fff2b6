"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.labels.checks._judged import _cost, _findings, _judge


@check(
    "labels.validation_noise",
    cause=Cause.LABEL_NOISE,
    needs=("validation.targets", "validation.logits"),
    cost=_cost("validation"),
)
def validation_labels_are_right(
    validation: Records,
    *,
    alpha: float = 0.0005,
    min_rate: float = 0.02,
    rows: int = 50_000,
    limit: int = 3,
    seed: int = 0,
) -> Iterator[Finding]:
    """The labels of the validation rows are right, but for ambiguous rows: the model is not blamed
    for them.

    The model's logits and the features together are given to small networks, so that what is a
    systematic failure of the model is not taken for wrong labels. Where the networks know less than
    the model alone (few rows of many columns), the model is the judge.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225; Northcutt, Athalye and Mueller (2021),
    arXiv:2103.14749, on errors in test sets; Benjamini and Hochberg (1995), JRSS B 57:289 over the
    groups.

    Args:
        validation: records with class targets and logits.
        alpha: chance of a false alarm.
        min_rate: smallest share of wrong labels that matters; half of it must be sure.
        rows: most rows judged, drawn at random.
        limit: most groups reported one by one.
        seed: of the drawing and the networks.
    """
    judged = _judge(validation, True, True, rows, seed)
    yield from _findings(validation_labels_are_right, validation, judged, alpha, min_rate, limit)

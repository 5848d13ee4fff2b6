"""Check `labels.noise`."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.checks._audit import audit, audit_findings
from gendebug_torch.labels.checks._estimate import NoiseEstimate, estimate_cost
from gendebug_torch.labels.noise.pruning import pruning_effect


@check(
    "labels.noise",
    cause=Cause.LABEL_NOISE,
    needs=("train.targets",),
    cost=estimate_cost("train"),
    partial_labels=None,
)
def training_labels_are_right(
    train: Records,
    validation: Records | None = None,
    deadline: Deadline = NO_DEADLINE,
    *,
    alpha: float = 0.0005,
    min_rate: float = 0.02,
    out_of_sample: bool = False,
    max_rows: int = 50_000,
    limit: int = 3,
    seed: int = 0,
) -> Iterator[Finding]:
    """The labels of the training rows are right, except for ambiguous rows.

    Each label is predicted by small networks that did not see the row. Disagreement counts as noise
    only beyond what their calibrated confidence expects, so overlapping classes are not noise. Then
    the labels of each group (labeler, batch, time, pair of classes) are compared with the whole. Of
    a multilabel task each label is judged, of a regression the residuals of each target beyond
    heavy tails.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225; Northcutt, Jiang and Chuang (2021), J. Artif.
    Intell. Res. 70:1373; Benjamini and Hochberg (1995), JRSS B 57:289 over the groups; Lange,
    Little and Taylor (1989), JASA 84:881, for quantities.

    Args:
        train: records with labels, and features or logits; training dynamics in the metadata order
            the rows. Rows without a label are left out.
        validation: records with logits and labels, on which the effect of leaving out suspicious
            rows is evaluated.
        deadline: end of the time.
        alpha: significance level.
        min_rate: smallest share of wrong labels that matters; the lower bound must reach half.
        out_of_sample: whether the logits are of models that did not see the row; they then replace
            the small networks.
        max_rows: most rows used, drawn at random.
        limit: most groups reported one by one.
        seed: seed of the drawing and the networks.
    """
    this = training_labels_are_right
    estimate = audit(
        train,
        out_of_sample=out_of_sample,
        stacked=False,
        max_rows=max_rows,
        seed=seed,
        held_out=validation,
        deadline=deadline,
    )
    yield from audit_findings(this, train, estimate, alpha=alpha, min_rate=min_rate, limit=limit)
    if not isinstance(estimate, NoiseEstimate) or train.logits is None or out_of_sample:
        return
    rest = ~estimate.noise.suspicious
    if estimate.noise.p_value <= alpha and int(rest.sum()) >= 2:
        yield _pruning_finding(train, validation, estimate)


def _pruning_finding(
    train: Records, validation: Records | None, estimate: NoiseEstimate
) -> Finding:
    """The model's temperature and log loss without the suspicious rows."""
    part = train.select(estimate.rows)
    assert part.logits is not None
    assert part.targets is not None
    evaluation, where = None, "the remaining rows (a biased figure)"
    validation = None if validation is None else validation.labeled()
    if (
        validation is not None
        and validation.logits is not None
        and validation.targets is not None
        and len(validation)
    ):
        evaluation, where = (validation.logits, validation.targets), validation.name
    suspicious = estimate.noise.suspicious.to(part.logits.device)
    effect = pruning_effect(part.logits, part.targets, suspicious, evaluation=evaluation)
    before, after = effect.temperature[1:3].tolist()
    row = effect.table().iloc[2]
    change, low, high = row[["log_loss_change", "log_loss_low", "log_loss_high"]].tolist()
    text = (
        f"Without the {effect.pruned:,} suspicious rows the model's temperature would be "
        f"{after:.2f} instead of {before:.2f}, and its log loss on {where} would change by "
        f"{change:+.3f} nats (95 % interval {low:+.3f} to {high:+.3f}). `labels.pruning_effect` "
        "also evaluates a retrained model."
    )
    numbers = {
        "pruned": effect.pruned,
        "temperature_all": before,
        "temperature_kept": after,
        "log_loss_change": change,
        "log_loss_low": low,
        "log_loss_high": high,
        "biased": effect.biased,
    }
    return training_labels_are_right.finding(Severity.NOTE, text, numbers=numbers, evidence=effect)

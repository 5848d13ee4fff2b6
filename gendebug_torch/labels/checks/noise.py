"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.labels.checks._judged import _cost, _findings, _judge, _Judged
from gendebug_torch.labels.noise.pruning import pruning_effect


@check("labels.noise", cause=Cause.LABEL_NOISE, needs=("train.targets",), cost=_cost("train"))
def training_labels_are_right(
    train: Records,
    validation: Records | None = None,
    *,
    alpha: float = 0.0005,
    min_rate: float = 0.02,
    out_of_sample: bool = False,
    rows: int = 50_000,
    limit: int = 3,
    seed: int = 0,
) -> Iterator[Finding]:
    """The labels of the training rows are right, but for ambiguous rows.

    Each row is judged by small networks that did not see its label. Disagreement counts as noise
    only beyond what their calibrated confidence expects, so classes that overlap are not noise.
    Then: where wrong labels crowd.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225; Northcutt, Jiang and Chuang (2021), J. Artif.
    Intell. Res. 70:1373; Benjamini and Hochberg (1995), JRSS B 57:289 over the groups.

    Args:
        train: records with class targets, and features or logits; training dynamics in the metadata
            order the rows.
        validation: records with logits and labels, to say what leaving out suspicious rows would
            change.
        alpha: chance of a false alarm.
        min_rate: smallest share of wrong labels that matters; half of it must be sure.
        out_of_sample: whether the logits are of models that did not see the row; they are then
            taken as they are.
        rows: most rows judged, drawn at random.
        limit: most groups reported one by one.
        seed: of the drawing and the networks.
    """
    judged = _judge(train, out_of_sample, False, rows, seed)
    yield from _findings(training_labels_are_right, train, judged, alpha, min_rate, limit)
    if (
        not isinstance(judged, str)
        and judged.noise.p_value <= alpha
        and train.logits is not None
        and not out_of_sample
    ):
        yield from _pruning_finding(train, validation, judged)


def _pruning_finding(
    train: Records, validation: Records | None, judged: _Judged
) -> Iterator[Finding]:
    """What the model's temperature and log loss become without the suspicious rows."""
    part = train.select(judged.rows)
    if part.logits is None or part.targets is None or int((~judged.noise.suspicious).sum()) < 2:
        return
    there = None
    if (
        validation is not None
        and validation.logits is not None
        and validation.targets is not None
        and len(validation)
    ):
        there = (validation.logits, validation.targets)
    effect = pruning_effect(part.logits, part.targets, judged.noise.suspicious, judged_on=there)
    before, after = effect.temperature[1:3].tolist()
    row = effect.table().iloc[2]
    change, low, high = row[["log_loss_change", "log_loss_low", "log_loss_high"]].tolist()
    place = (
        "the rows kept (partly by construction)"
        if validation is None or there is None
        else validation.name
    )
    text = (
        f"Without the {effect.pruned:,} suspicious rows the temperature of the model would be "
        f"{after:.2f} instead of {before:.2f}, and the "
        f"log loss on {place} would change by {change:+.3f} nats (95 % interval {low:+.3f} to "
        f"{high:+.3f}); "
        "what training anew would bring, `labels.pruning_effect` tells with `fit`."
    )
    numbers = {
        "pruned": effect.pruned,
        "temperature_all": before,
        "temperature_kept": after,
        "log_loss_change": change,
    }
    numbers |= {"log_loss_low": low, "log_loss_high": high, "biased": effect.biased}
    yield training_labels_are_right.finding(Severity.NOTE, text, numbers=numbers, evidence=effect)

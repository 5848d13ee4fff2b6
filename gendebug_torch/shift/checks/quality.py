"""`shift.quality`: whether the model is as good in production as in validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost, DerivedInput
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.quality.change import MetricChange
from gendebug_torch.shift.quality.quality_change import (
    HELD,
    MIN_ROWS,
    QualityChange,
    quality_change,
)
from gendebug_torch.shift.quality.wrong_class import WrongClass, wrong_class

# Causes of a fall of the accuracy that the remedy of the same name wins back.
_RESTORED = {"move_threshold": Cause.THRESHOLD, "recalibrate": Cause.MISCALIBRATION}


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = (given.get("validation"), given.get("production"))
    sizes = [side.logits.numel() for side in sides if side is not None and side.logits is not None]
    return Cost(elements=60.0 * sum(sizes) + 1e7)


def _of_rows() -> Callable[..., QualityChange | None]:
    return quality_change


# How quality is compared: by the rows of both sides, or by sums over more rows than these.
QUALITY = DerivedInput("compare_quality", _of_rows)


@check(
    "shift.quality",
    cause=Cause.UNKNOWN,
    needs=("validation.logits", "validation.targets", "production.logits", "production.targets"),
    cost=_cost,
    derived=(QUALITY,),
    partial_labels=True,
    positions=True,
)
def quality_is_that_of_validation(
    validation: Records,
    production: Records,
    compare_quality: Callable[..., QualityChange | None] = quality_change,
    *,
    level: float = 0.99,
) -> Iterator[Finding]:
    """The model is as good on labeled production rows as in validation.

    By AUC and accuracy of two classes or of labels, accuracy of more classes, RMSE of quantities;
    the class, label or output that fell most is named. Another threshold and recalibration (of
    quantities a line through the outputs) are tried on held-out rows: where one wins back what
    fell, it is the cause; else the cause is unknown here, and for the other checks to name. A
    threshold in the schema says what errors cost.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837; Agresti and Caffo (2000),
    Am. Stat. 54:280; Kish (1965), Survey Sampling, for dependent rows.

    Args:
        validation: records with targets and logits.
        production: the same.
        compare_quality: function of both and the level, derived.
        level: coverage of the intervals of all metrics together; half of the rest is the chance of
            a false alarm.
    """
    this = quality_is_that_of_validation
    found = compare_quality(validation, production, level=level)
    if found is None:
        sizes = len(validation), len(production)
        text = (
            f"Not judged: needs {MIN_ROWS} labeled rows a side with outputs of one task; there are "
            f"{sizes[0]:,} and {sizes[1]:,}."
        )
        yield this.finding(Severity.NOTE, text, numbers={"n": sizes[0], "m": sizes[1]})
        return
    if not found.fell:
        metrics = "; ".join(map(str, found.metrics))
        text = f"Quality did not fall beyond its interval: {metrics}."
        yield this.finding(Severity.OK, text, numbers=_numbers(found), evidence=found)
        return
    yield _fallen_finding(found, wrong_class(validation, production))


def _fallen_finding(found: QualityChange, became: WrongClass | None) -> Finding:
    first = found.principal
    restoring = next((name for name in _RESTORED if found.restored_by(name)), None)
    text = f"Quality fell: {'; '.join(map(str, found.fallen))}.{_parts_text(found)}"
    text += "" if became is None else f" Most of all, {became}."
    trial = None if restoring is None else found.remedy(restoring)
    if trial is not None:
        remedy = f"{trial.sentence} That restores it; {trial.lost:{trial.digits}} was lost."
    else:
        remedy = "Find out why: the other findings name causes, slices and error clusters."
        if tried := ", ".join(map(str, found.remedies)):
            remedy += f" Tried on held-out production rows without restoring it: {tried}."
    return quality_is_that_of_validation.finding(
        Severity.FAIL if first.relative_fall > HELD else Severity.WARN,
        text,
        cause=None if restoring is None else _RESTORED[restoring],
        numbers=_numbers(found) | ({} if became is None else _became(became)),
        remedy=remedy,
        evidence=found,
    )


def _became(found: WrongClass) -> dict[str, Any]:
    shares = [found.before, found.after]
    return {"true_class": found.true, "called": found.called, "called_shares": shares}


def _parts_text(found: QualityChange) -> str:
    """Sentences on the class, label or output that fell most; empty where none stands out."""
    worst = found.worst_part
    if worst is None or len(found.parts) < 2:
        return ""
    fallen = sum(part.p_value < (1 - part.level) / 2 for part in found.parts)
    what = {"class": "classes", "label": "labels", "output": "outputs"}[found.part]
    return f" {fallen} of {len(found.parts)} {what} fell beyond doubt, most of all: {worst}."


def _numbers(found: QualityChange) -> dict[str, Any]:
    numbers: dict[str, Any] = {"metric": found.principal.name}
    for change in found.metrics:
        numbers |= {f"{change.name} {key}": value for key, value in _values(change).items()}
    for trial in found.remedies:
        numbers[f"{trial.name} gain"] = trial.gain
        numbers[f"{trial.name} interval"] = [trial.low, trial.high]
    worst = found.worst_part
    if worst is not None:
        numbers |= {"worst_part": worst.name, "worst_part_change": worst.after - worst.before}
    rows = found.metrics[0].rows
    return numbers | {"n": rows[0], "m": rows[1]}


def _values(change: MetricChange) -> dict[str, Any]:
    return {
        "validation": change.before,
        "production": change.after,
        "interval": [change.low, change.high],
        "p_value": change.p_value,
    }

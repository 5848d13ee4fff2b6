"""Notes on curves beside the regime: observations, not interpretations."""

from __future__ import annotations

import math

from gendebug_torch.curves.diagnosis.regimes import CurveNumbers
from gendebug_torch.curves.fit.curve_statistics import CurveStatistics
from gendebug_torch.curves.generalization_gap import Gap
from gendebug_torch.curves.learning_curves import LearningCurves


def notes(numbers: CurveNumbers) -> tuple[str, ...]:
    """Sentences on level shifts, transient rises, a negative gap, flat losses, and the record.

    Args:
        numbers: statistics of the curves and the thresholds.
    """
    curves, val = numbers.curves, numbers.val
    sentences = []
    if val is not None:
        sentences += [_level_shift(*shift, curves.unit) for shift in val.level_shifts]
        sentences += _transient(val, curves.unit)
    sentences += _negative_gap(numbers.gap, numbers.tolerance)
    if val is not None and math.isnan(numbers.learned) and _is_flat(val, numbers.tolerance):
        sentences.append(
            f"The losses are flat from the first {curves.unit} on: the model learned within it, or "
            "never. `baseline_loss`, the loss of a constant prediction, would tell which."
        )
    record = map(_sentence, curves.notes)
    return (*sentences, *_infinite(curves), *_early_end(curves), *record)


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].removesuffix('.')}."


def _level_shift(epoch: int, height: float, unit: str) -> str:
    direction = "down" if height < 0 else "up"
    return (
        f"The validation loss steps {direction} by {abs(height):.1%} at {unit} {epoch} and stays "
        "there."
    )


def _transient(val: CurveStatistics, unit: str) -> list[str]:
    if val.transient is None:
        return []
    start, top, end, height = val.transient
    return [
        f"The validation loss rose after {unit} {start} by {height:.1%} up to {unit} {top}, and "
        f"came down again by {unit} {end}."
    ]


def _negative_gap(gap: Gap, tolerance: float) -> list[str]:
    """A validation loss below the training loss, and which usual reasons the record rules out."""
    if not (gap.absolute + 3 * gap.error < 0 and gap.relative < -tolerance):
        return []
    below = f"The validation loss is {-gap.relative:.1%} below the training loss."
    if gap.basis == "train_eval":
        return [
            f"{below} Dropout, augmentation and moving weights are ruled out, as the training rows "
            "were evaluated in the same way. Easier validation rows, or rows that are also in the "
            "training data, remain."
        ]
    return [
        f"{below} That the training loss is averaged within the epoch is ruled out; dropout, "
        "augmentation, easier validation rows or shared rows remain. `train_eval` would rule out "
        "the first two."
    ]


def _is_flat(val: CurveStatistics, tolerance: float) -> bool:
    return float(val.fit.max() - val.fit.min()) < 2 * tolerance * val.scale


def _infinite(curves: LearningCurves) -> list[str]:
    sentences = []
    for name, loss in (("training", curves.train_loss), ("validation", curves.val_loss)):
        epochs = curves.epoch[loss.isinf()].tolist()
        if epochs:
            first = ", ".join(map(str, epochs[:5]))
            sentences.append(f"The {name} loss is infinite at {curves.unit} {first}.")
    return sentences


def _early_end(curves: LearningCurves) -> list[str]:
    """A validation loss that stops well before a training loss that goes on.

    That is three epochs before, or more where validations are rarer.
    """
    finite = curves.val_loss.isfinite().nonzero()[:, 0]
    if not len(finite) or not bool(curves.train_loss[-1:].isfinite().all()):
        return []
    missing = len(curves) - 1 - int(finite[-1])
    if missing < max(3, int(finite.diff().max()) if len(finite) > 1 else 1):
        return []
    unit, last = curves.unit, int(curves.epoch[finite[-1]])
    return [
        f"The validation loss ends at {unit} {last}, the training loss at {unit} "
        f"{int(curves.epoch[-1])}: not recorded, or NaN."
    ]

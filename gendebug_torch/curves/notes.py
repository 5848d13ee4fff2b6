"""What else the curves show, said as what was seen, not as what is believed."""

from __future__ import annotations

from gendebug_torch.curves.fit.curve_statistics import Measured
from gendebug_torch.curves.generalization_gap import Gap
from gendebug_torch.curves.learning_curves import LearningCurves


def remarks(
    curves: LearningCurves, val: Measured | None, gap: Gap, learned: float, tolerance: float
) -> tuple[str, ...]:
    """Sentences on steps, humps, a validation below the training, what the training loss measures,
    and the record.
    """
    told = []
    if val is not None:
        told += [_step(epoch, height, curves.unit) for epoch, height in val.jumps]
        told += _hump(val, curves.unit)
    told += _below(gap, tolerance)
    if learned != learned and val is not None and _flat(curves, val, tolerance):
        told.append(
            f"The losses are flat from the first {curves.unit} on: learned within it, or never; "
            "`baseline_loss`, the loss of the best constant prediction, would tell which."
        )
    return (*told, *_unfinite(curves), *_ends_early(curves), *curves.notes)


def _step(epoch: int, height: float, unit: str) -> str:
    return (
        f"The validation loss steps {'down' if height < 0 else 'up'} by {abs(height):.1%} at "
        f"{unit} {epoch} and stays there."
    )


def _hump(val: Measured, unit: str) -> list[str]:
    if val.hump is None:
        return []
    first, top, last, height = val.hump
    return [
        f"The validation loss rose after {unit} {first}, by {height:.1%} up to {unit} {top}, and "
        f"came down again by {unit} {last}."
    ]


def _below(gap: Gap, tolerance: float) -> list[str]:
    """A validation loss below the training loss, and which of the usual reasons the record rules
    out.
    """
    if not (gap.absolute + 3 * gap.error < 0 and gap.relative < -tolerance):
        return []
    seen = f"The validation loss is {-gap.relative:.1%} below the training loss"
    if gap.basis == "train_eval":
        told = (
            "dropout, augmentation and moving weights are ruled out, as the training rows were "
            "evaluated the same way"
        )
        return [
            f"{seen}; {told}: easier validation rows, or rows that are also in the training data, "
            "remain."
        ]
    told = (
        "the half epoch by which the training loss lags is ruled out; dropout, augmentation, "
        "easier rows or shared rows remain"
    )
    return [f"{seen}; {told}: `train_eval` would rule out the first two."]


def _flat(curves: LearningCurves, val: Measured, tolerance: float) -> bool:
    spread = float(val.fit.max() - val.fit.min())
    return spread < 2 * tolerance * val.level


def _unfinite(curves: LearningCurves) -> list[str]:
    told = []
    for name, loss in (("training", curves.train_loss), ("validation", curves.val_loss)):
        at = curves.epoch[loss.isinf()].tolist()
        if at:
            told.append(
                f"The {name} loss is infinite at {curves.unit} {', '.join(map(str, at[:5]))}."
            )
    return told


def _ends_early(curves: LearningCurves) -> list[str]:
    """A validation loss that stops three epochs or more before a training loss that goes on, beyond
    its own rhythm.
    """
    known = curves.val_loss.isfinite().nonzero()[:, 0]
    if not len(known) or not bool(curves.train_loss[-1:].isfinite().all()):
        return []
    missing = len(curves) - 1 - int(known[-1])
    if missing < max(3, int(known.diff().max()) if len(known) > 1 else 1):
        return []
    unit, last = curves.unit, int(curves.epoch[known[-1]])
    return [
        f"The validation loss ends at {unit} {last}, the training loss at {unit} "
        f"{int(curves.epoch[-1])}: not recorded, or NaN."
    ]

"""When a training under way should stop: a verdict that stands being asked for after every
epoch.
"""

from __future__ import annotations

from gendebug_torch.curves.diagnosis import CurveDiagnosis, diagnose_curves
from gendebug_torch.curves.learning_curves import LearningCurves, moving_average

# Looked at after every epoch, a test that may err once in a hundred would err many times: this is
# asked of each look, and a rise of as many standard deviations of a single epoch, over as many
# epochs.
_ALPHA, _RISE, _EPOCHS = 0.001, 3.0, 8


def sure_inflection(curves: LearningCurves) -> CurveDiagnosis | None:
    """The diagnosis of a training under way where it overfits beyond doubt, else None.

    Stricter than `diagnose_curves`, as it is asked again after every epoch: p < 0.001, and a rise
    of more than 3 standard deviations of a single epoch. `inflection_epoch` is the checkpoint to
    keep.

    Args:
        curves: what was recorded so far; fewer than 8 epochs with a validation loss are never
            enough.

    Cost: some 0.1 s where the last epochs are above the best ones, else next to nothing.
    """
    val = curves.val_loss[curves.val_loss.isfinite()]
    if len(val) < _EPOCHS:
        return None
    smooth = moving_average(val)
    if float(smooth[-2:].mean()) <= float(smooth.min()):
        return None
    found = diagnose_curves(curves, alpha=_ALPHA)
    return found if found.regime == "overfit" and found.rise > _RISE * found.noise else None

"""When a training in progress should stop: a verdict that may be repeated after every epoch."""

from __future__ import annotations

from gendebug_torch.curves.diagnosis.curve_diagnosis import CurveDiagnosis
from gendebug_torch.curves.diagnosis.diagnose import diagnose_curves
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.curves.learning_curves import LearningCurves

# Repeated after every epoch, a test that errs once in a hundred would err many times: each test has
# this level, and the rise must be this many standard deviations of a single epoch.
_ALPHA, _RISE_IN_SD = 0.001, 3.0
MIN_EPOCHS = 8


def early_stopping_diagnosis(curves: LearningCurves) -> CurveDiagnosis | None:
    """The diagnosis of a training in progress where it overfits beyond doubt, else None.

    Stricter than `diagnose_curves`, as it is repeated after every epoch: p < 0.001, and a rise
    of more than 3 standard deviations of a single epoch. `inflection_epoch` is the checkpoint to
    keep.

    Args:
        curves: losses per epoch so far; fewer than 8 epochs with a validation loss are never
            enough.

    Cost: some 0.1 s where the last epochs are above the best ones, else next to nothing.

    Example:
        >>> import torch
        >>> from gendebug_torch.curves import LearningCurves
        >>> epoch = torch.arange(30)
        >>> fall = torch.exp(-epoch / 3) + 0.001 * (-1.0) ** epoch
        >>> early_stopping_diagnosis(LearningCurves(epoch, fall, fall)) is None
        True
        >>> rise = fall + 0.02 * (epoch - 15).clamp(min=0)
        >>> early_stopping_diagnosis(LearningCurves(epoch, fall, rise)).regime
        'overfit'
    """
    val = curves.val_loss[curves.val_loss.isfinite()]
    if len(val) < MIN_EPOCHS:
        return None
    smooth = moving_average(val)
    if float(smooth[-2:].mean()) <= float(smooth.min()):
        return None
    diagnosis = diagnose_curves(curves, alpha=_ALPHA)
    certain = diagnosis.regime == "overfit" and diagnosis.rise > _RISE_IN_SD * diagnosis.noise
    return diagnosis if certain else None

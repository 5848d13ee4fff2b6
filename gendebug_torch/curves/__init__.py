"""Learning curves: what they show, from which epoch a network overfits, and how sure that is.

No rule can place the start of a rise of r standard deviations of an epoch over m epochs better than to a standard error
of about `2 sqrt(m) / r` epochs, more where neighbouring epochs correlate: 3.7 epochs for r = 3 and m = 30. On simulated
runs that nothing was tuned on (`scripts/bench_curves.py --first 5000`) the start was found within 2 epochs in 95 % where
r >= 40, 90 % where that error is at most 1 epoch and 22 % where r < 5; a rise below 5 was seen at all in 67 %.
"""

from gendebug_torch.curves.curves import LearningCurves as LearningCurves
from gendebug_torch.curves.curves import moving_average as moving_average
from gendebug_torch.curves.curves import overlay as overlay
from gendebug_torch.curves.diagnosis import CurveDiagnosis as CurveDiagnosis
from gendebug_torch.curves.diagnosis import diagnose_curves as diagnose_curves
from gendebug_torch.curves.forecast import Forecast as Forecast
from gendebug_torch.curves.gap import Gap as Gap
from gendebug_torch.curves.gap import generalization_gap as generalization_gap
from gendebug_torch.curves.sizes import SizeCurves as SizeCurves
from gendebug_torch.curves.stopping import sure_inflection as sure_inflection

__all__ = [
    "CurveDiagnosis",
    "Forecast",
    "Gap",
    "LearningCurves",
    "SizeCurves",
    "diagnose_curves",
    "generalization_gap",
    "moving_average",
    "overlay",
    "sure_inflection",
]

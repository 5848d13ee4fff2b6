"""Learning curves: what they show, from which epoch a network overfits, and how sure that is."""

from gendebug_torch.curves.curves import LearningCurves as LearningCurves
from gendebug_torch.curves.curves import moving_average as moving_average
from gendebug_torch.curves.curves import overlay as overlay
from gendebug_torch.curves.diagnosis import CurveDiagnosis as CurveDiagnosis
from gendebug_torch.curves.diagnosis import diagnose_curves as diagnose_curves
from gendebug_torch.curves.forecast import Forecast as Forecast
from gendebug_torch.curves.gap import Gap as Gap
from gendebug_torch.curves.gap import generalization_gap as generalization_gap
from gendebug_torch.curves.sizes import SizeCurves as SizeCurves

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
]

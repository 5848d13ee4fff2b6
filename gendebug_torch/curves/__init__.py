"""Learning curves: what they show, from which epoch a network overfits, and how sure that is."""

from gendebug_torch.curves.curves import LearningCurves as LearningCurves
from gendebug_torch.curves.curves import moving_average as moving_average
from gendebug_torch.curves.diagnosis import CurveDiagnosis as CurveDiagnosis
from gendebug_torch.curves.diagnosis import diagnose_curves as diagnose_curves

__all__ = ["CurveDiagnosis", "LearningCurves", "diagnose_curves", "moving_average"]

"""Callbacks for a Lightning `Trainer`; importing this loads Lightning."""

from gendebug_torch.callbacks.attribution import AttributionMonitor as AttributionMonitor
from gendebug_torch.callbacks.behavior import BehaviorMonitor as BehaviorMonitor
from gendebug_torch.callbacks.calibration import CalibrationError as CalibrationError
from gendebug_torch.callbacks.calibration import CalibrationMonitor as CalibrationMonitor
from gendebug_torch.callbacks.curves import LearningCurveMonitor as LearningCurveMonitor
from gendebug_torch.callbacks.dynamics import TrainingDynamicsMonitor as TrainingDynamicsMonitor
from gendebug_torch.callbacks.hooks.steps import extra_forward as extra_forward
from gendebug_torch.callbacks.hooks.training_sizes import (
    learning_curve_over_sizes as learning_curve_over_sizes,
)
from gendebug_torch.callbacks.network import NetworkMonitor as NetworkMonitor

__all__ = [
    "AttributionMonitor",
    "BehaviorMonitor",
    "CalibrationError",
    "CalibrationMonitor",
    "LearningCurveMonitor",
    "NetworkMonitor",
    "TrainingDynamicsMonitor",
    "extra_forward",
    "learning_curve_over_sizes",
]

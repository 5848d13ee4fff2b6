"""Two samples of the same columns, compared: features, missing values, categories, model scores."""

from gendebug_torch.shift.columns.chunks import prepare_table as prepare_table
from gendebug_torch.shift.columns.prepared import PreparedReference as PreparedReference
from gendebug_torch.shift.columns.prepared import prepare_reference as prepare_reference
from gendebug_torch.shift.kinds.change_kinds import change_kinds as change_kinds
from gendebug_torch.shift.scores.bimodality import confidence_bimodality as confidence_bimodality
from gendebug_torch.shift.scores.confidence import confidence_shift as confidence_shift
from gendebug_torch.shift.scores.estimated_accuracy import estimated_accuracy as estimated_accuracy
from gendebug_torch.shift.time.change_point import change_point as change_point
from gendebug_torch.shift.time.monitor import DriftMonitor as DriftMonitor
from gendebug_torch.shift.time.monitor import drift_windows as drift_windows
from gendebug_torch.shift.two_sample.categories import category_shift as category_shift
from gendebug_torch.shift.two_sample.effect_sizes import effect_sizes as effect_sizes
from gendebug_torch.shift.two_sample.joint import joint_shift as joint_shift
from gendebug_torch.shift.two_sample.ks import ks_two_sample as ks_two_sample
from gendebug_torch.shift.two_sample.missing import missing_shift as missing_shift

__all__ = [
    "DriftMonitor",
    "PreparedReference",
    "category_shift",
    "change_kinds",
    "change_point",
    "confidence_bimodality",
    "confidence_shift",
    "drift_windows",
    "effect_sizes",
    "estimated_accuracy",
    "joint_shift",
    "ks_two_sample",
    "missing_shift",
    "prepare_reference",
    "prepare_table",
]

"""Two samples of the same columns, compared: quantities, categories, missing values and the model's
confidence.
"""

from gendebug_torch.shift.columns.chunks import is_large as is_large
from gendebug_torch.shift.columns.chunks import prepare_table as prepare_table
from gendebug_torch.shift.columns.chunks import read_table_in_chunks as read_table_in_chunks
from gendebug_torch.shift.columns.prepared import PreparedReference as PreparedReference
from gendebug_torch.shift.columns.prepared import prepare_reference as prepare_reference
from gendebug_torch.shift.columns.prepared_table import PreparedTable as PreparedTable
from gendebug_torch.shift.columns.prepared_table import TablePair as TablePair
from gendebug_torch.shift.columns.prepared_table import table_pair as table_pair
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds as ChangeKinds
from gendebug_torch.shift.kinds.change_kinds import change_kinds as change_kinds
from gendebug_torch.shift.kinds.class_shares import ClassShares as ClassShares
from gendebug_torch.shift.kinds.class_shares import class_shares as class_shares
from gendebug_torch.shift.kinds.column_transforms import FeatureTransform as FeatureTransform
from gendebug_torch.shift.kinds.column_transforms import (
    fit_feature_transform as fit_feature_transform,
)
from gendebug_torch.shift.kinds.moved_columns import FeatureChange as FeatureChange
from gendebug_torch.shift.kinds.score_relation import RelationChange as RelationChange
from gendebug_torch.shift.kinds.score_relation import relation_change as relation_change
from gendebug_torch.shift.scores.bimodality import ConfidenceModes as ConfidenceModes
from gendebug_torch.shift.scores.bimodality import confidence_modes as confidence_modes
from gendebug_torch.shift.scores.confidence import ConfidenceShift as ConfidenceShift
from gendebug_torch.shift.scores.confidence import confidence_shift as confidence_shift
from gendebug_torch.shift.scores.dip import dip as dip
from gendebug_torch.shift.scores.dip import dip_p_value as dip_p_value
from gendebug_torch.shift.scores.estimated_accuracy import EstimatedAccuracy as EstimatedAccuracy
from gendebug_torch.shift.scores.estimated_accuracy import estimated_accuracy as estimated_accuracy
from gendebug_torch.shift.time.change_point import ChangePoint as ChangePoint
from gendebug_torch.shift.time.change_point import change_point as change_point
from gendebug_torch.shift.time.change_point import windowed_means as windowed_means
from gendebug_torch.shift.time.monitor import DriftMonitor as DriftMonitor
from gendebug_torch.shift.time.monitor import DriftStep as DriftStep
from gendebug_torch.shift.time.monitor import drift_windows as drift_windows
from gendebug_torch.shift.time.splits import Split as Split
from gendebug_torch.shift.time.splits import SplitComparison as SplitComparison
from gendebug_torch.shift.time.splits import compare_splits as compare_splits
from gendebug_torch.shift.time.splits import group_split as group_split
from gendebug_torch.shift.time.splits import probe_judge as probe_judge
from gendebug_torch.shift.time.splits import random_split as random_split
from gendebug_torch.shift.time.splits import shifted_split as shifted_split
from gendebug_torch.shift.time.splits import time_blocks as time_blocks
from gendebug_torch.shift.two_sample.categories import CategoryShift as CategoryShift
from gendebug_torch.shift.two_sample.categories import MissingShift as MissingShift
from gendebug_torch.shift.two_sample.categories import category_shift as category_shift
from gendebug_torch.shift.two_sample.categories import missing_shift as missing_shift
from gendebug_torch.shift.two_sample.categories import unseen_excess as unseen_excess
from gendebug_torch.shift.two_sample.effect_sizes import EffectSizes as EffectSizes
from gendebug_torch.shift.two_sample.effect_sizes import effect_sizes as effect_sizes
from gendebug_torch.shift.two_sample.feature_shift import Atom as Atom
from gendebug_torch.shift.two_sample.feature_shift import FeatureShift as FeatureShift
from gendebug_torch.shift.two_sample.feature_shift import feature_shift as feature_shift
from gendebug_torch.shift.two_sample.feature_shift import largest_atom as largest_atom
from gendebug_torch.shift.two_sample.joint import JointShift as JointShift
from gendebug_torch.shift.two_sample.joint import joint_shift as joint_shift
from gendebug_torch.shift.two_sample.joint import mmd_two_sample as mmd_two_sample
from gendebug_torch.shift.two_sample.ks import KSTest as KSTest
from gendebug_torch.shift.two_sample.ks import for_dependent_rows as for_dependent_rows
from gendebug_torch.shift.two_sample.ks import ks_two_sample as ks_two_sample
from gendebug_torch.shift.two_sample.most_shifted import MostShifted as MostShifted
from gendebug_torch.shift.two_sample.most_shifted import most_shifted as most_shifted
from gendebug_torch.stats.effective_sample_size import autocorrelation_time as autocorrelation_time
from gendebug_torch.stats.effective_sample_size import cautious as cautious

__all__ = [
    "Atom",
    "CategoryShift",
    "ChangeKinds",
    "ChangePoint",
    "ClassShares",
    "ConfidenceModes",
    "ConfidenceShift",
    "DriftMonitor",
    "DriftStep",
    "EffectSizes",
    "EstimatedAccuracy",
    "FeatureChange",
    "FeatureShift",
    "FeatureTransform",
    "JointShift",
    "KSTest",
    "MissingShift",
    "MostShifted",
    "PreparedReference",
    "PreparedTable",
    "RelationChange",
    "Split",
    "SplitComparison",
    "TablePair",
    "autocorrelation_time",
    "category_shift",
    "cautious",
    "change_kinds",
    "change_point",
    "class_shares",
    "compare_splits",
    "confidence_modes",
    "confidence_shift",
    "dip",
    "dip_p_value",
    "drift_windows",
    "effect_sizes",
    "estimated_accuracy",
    "feature_shift",
    "fit_feature_transform",
    "for_dependent_rows",
    "group_split",
    "is_large",
    "joint_shift",
    "ks_two_sample",
    "largest_atom",
    "missing_shift",
    "mmd_two_sample",
    "most_shifted",
    "prepare_reference",
    "prepare_table",
    "probe_judge",
    "random_split",
    "read_table_in_chunks",
    "relation_change",
    "shifted_split",
    "table_pair",
    "time_blocks",
    "unseen_excess",
    "windowed_means",
]

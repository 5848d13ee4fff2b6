"""What a model cannot know in production but was given here: target leaks, splits that share rows,
fits on validation rows.
"""

from gendebug_torch.leakage.columns.association import Association as Association
from gendebug_torch.leakage.columns.association import association as association
from gendebug_torch.leakage.columns.exact_sums import ExactSum as ExactSum
from gendebug_torch.leakage.columns.exact_sums import exact_sum as exact_sum
from gendebug_torch.leakage.columns.identifiers import AfterLabel as AfterLabel
from gendebug_torch.leakage.columns.identifiers import after_label as after_label
from gendebug_torch.leakage.columns.identifiers import row_numbers as row_numbers
from gendebug_torch.leakage.columns.leak_value import LeakCost as LeakCost
from gendebug_torch.leakage.columns.leak_value import Skill as Skill
from gendebug_torch.leakage.columns.leak_value import permuted_cost as permuted_cost
from gendebug_torch.leakage.columns.leak_value import probe_cost as probe_cost
from gendebug_torch.leakage.columns.leak_value import skill_without as skill_without
from gendebug_torch.leakage.columns.missing_values import Gaps as Gaps
from gendebug_torch.leakage.columns.missing_values import telling_gaps as telling_gaps
from gendebug_torch.leakage.preprocessing.fitted_rows import FittedRows as FittedRows
from gendebug_torch.leakage.preprocessing.fitted_rows import fitted_rows as fitted_rows
from gendebug_torch.leakage.preprocessing.parity import Parity as Parity
from gendebug_torch.leakage.preprocessing.parity import parity as parity
from gendebug_torch.leakage.splits.likely_groups import LikelyGroup as LikelyGroup
from gendebug_torch.leakage.splits.likely_groups import likely_groups as likely_groups
from gendebug_torch.leakage.splits.near_duplicates import NearDuplicates as NearDuplicates
from gendebug_torch.leakage.splits.near_duplicates import near_rows as near_rows
from gendebug_torch.leakage.splits.near_duplicates import near_texts as near_texts
from gendebug_torch.leakage.splits.overlap import SplitOverlap as SplitOverlap
from gendebug_torch.leakage.splits.overlap import identical_rows as identical_rows
from gendebug_torch.leakage.splits.overlap import shared_values as shared_values
from gendebug_torch.leakage.splits.row_hashes import row_keys as row_keys
from gendebug_torch.leakage.splits.time_overlap import TimeOverlap as TimeOverlap
from gendebug_torch.leakage.splits.time_overlap import time_overlap as time_overlap

__all__ = [
    "AfterLabel",
    "Association",
    "ExactSum",
    "FittedRows",
    "Gaps",
    "LeakCost",
    "LikelyGroup",
    "NearDuplicates",
    "Parity",
    "Skill",
    "SplitOverlap",
    "TimeOverlap",
    "after_label",
    "association",
    "exact_sum",
    "fitted_rows",
    "identical_rows",
    "likely_groups",
    "near_rows",
    "near_texts",
    "parity",
    "permuted_cost",
    "probe_cost",
    "row_keys",
    "row_numbers",
    "shared_values",
    "skill_without",
    "telling_gaps",
    "time_overlap",
]

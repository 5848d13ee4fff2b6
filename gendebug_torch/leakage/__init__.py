"""What a model cannot know in production but was given here: target leaks, splits that share rows, fits on validation rows."""

from gendebug_torch.leakage.association import Association as Association
from gendebug_torch.leakage.association import association as association
from gendebug_torch.leakage.cost import LeakCost as LeakCost
from gendebug_torch.leakage.cost import Skill as Skill
from gendebug_torch.leakage.cost import permuted_cost as permuted_cost
from gendebug_torch.leakage.cost import probe_cost as probe_cost
from gendebug_torch.leakage.cost import skill_without as skill_without
from gendebug_torch.leakage.gaps import Gaps as Gaps
from gendebug_torch.leakage.gaps import telling_gaps as telling_gaps
from gendebug_torch.leakage.identity import ExactSum as ExactSum
from gendebug_torch.leakage.identity import exact_sum as exact_sum
from gendebug_torch.leakage.ids import AfterLabel as AfterLabel
from gendebug_torch.leakage.ids import after_label as after_label
from gendebug_torch.leakage.ids import row_numbers as row_numbers
from gendebug_torch.leakage.keys import row_keys as row_keys
from gendebug_torch.leakage.likely_groups import LikelyGroup as LikelyGroup
from gendebug_torch.leakage.likely_groups import likely_groups as likely_groups
from gendebug_torch.leakage.near import NearDuplicates as NearDuplicates
from gendebug_torch.leakage.near import near_rows as near_rows
from gendebug_torch.leakage.near import near_texts as near_texts
from gendebug_torch.leakage.overlap import SplitOverlap as SplitOverlap
from gendebug_torch.leakage.overlap import identical_rows as identical_rows
from gendebug_torch.leakage.overlap import shared_values as shared_values
from gendebug_torch.leakage.parity import Parity as Parity
from gendebug_torch.leakage.parity import parity as parity
from gendebug_torch.leakage.preprocessing import FittedRows as FittedRows
from gendebug_torch.leakage.preprocessing import fitted_rows as fitted_rows
from gendebug_torch.leakage.time import TimeOverlap as TimeOverlap
from gendebug_torch.leakage.time import time_overlap as time_overlap

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

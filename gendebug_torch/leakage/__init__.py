"""What a model cannot know in production but was given here: target leaks, splits that share rows, fits on validation rows."""

from gendebug_torch.leakage.additive import Skill as Skill
from gendebug_torch.leakage.additive import additive_skill as additive_skill
from gendebug_torch.leakage.association import Association as Association
from gendebug_torch.leakage.association import association as association
from gendebug_torch.leakage.gaps import Gaps as Gaps
from gendebug_torch.leakage.gaps import telling_gaps as telling_gaps
from gendebug_torch.leakage.identity import ExactSum as ExactSum
from gendebug_torch.leakage.identity import exact_sum as exact_sum
from gendebug_torch.leakage.ids import AfterLabel as AfterLabel
from gendebug_torch.leakage.ids import after_label as after_label
from gendebug_torch.leakage.ids import row_numbers as row_numbers
from gendebug_torch.leakage.keys import row_keys as row_keys
from gendebug_torch.leakage.overlap import SplitOverlap as SplitOverlap
from gendebug_torch.leakage.overlap import identical_rows as identical_rows
from gendebug_torch.leakage.overlap import shared_values as shared_values
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
    "Skill",
    "SplitOverlap",
    "TimeOverlap",
    "additive_skill",
    "after_label",
    "association",
    "exact_sum",
    "fitted_rows",
    "identical_rows",
    "row_keys",
    "row_numbers",
    "shared_values",
    "telling_gaps",
    "time_overlap",
]

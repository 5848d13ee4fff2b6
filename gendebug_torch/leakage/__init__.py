"""Leakage: information in training or validation that a model will not have in production."""

from gendebug_torch.leakage.columns.association import association as association
from gendebug_torch.leakage.columns.identifiers import identifier_columns as identifier_columns
from gendebug_torch.leakage.columns.missing_values import (
    missing_value_association as missing_value_association,
)
from gendebug_torch.leakage.preprocessing.feature_parity import feature_parity as feature_parity
from gendebug_torch.leakage.preprocessing.preprocessing_leaks import (
    preprocessing_leaks as preprocessing_leaks,
)
from gendebug_torch.leakage.splits.near_duplicate_rows import (
    near_duplicate_rows as near_duplicate_rows,
)
from gendebug_torch.leakage.splits.near_duplicate_texts import (
    near_duplicate_texts as near_duplicate_texts,
)
from gendebug_torch.leakage.splits.shared_rows import identical_rows as identical_rows
from gendebug_torch.leakage.splits.shared_rows import shared_values as shared_values
from gendebug_torch.leakage.times.label_times import label_delays as label_delays
from gendebug_torch.leakage.times.time_overlap import time_overlap as time_overlap

__all__ = [
    "association",
    "feature_parity",
    "identical_rows",
    "identifier_columns",
    "label_delays",
    "missing_value_association",
    "near_duplicate_rows",
    "near_duplicate_texts",
    "preprocessing_leaks",
    "shared_values",
    "time_overlap",
]

"""Subgroups for which a model fails: slices by columns, slices that collapsed, clusters of errors,
sheets to look at.
"""

from gendebug_torch.slices.change import SliceChange as SliceChange
from gendebug_torch.slices.change import slice_change as slice_change
from gendebug_torch.slices.clusters import ErrorClusters as ErrorClusters
from gendebug_torch.slices.clusters import error_clusters as error_clusters
from gendebug_torch.slices.review_sheet import review_rows as review_rows
from gendebug_torch.slices.review_sheet import review_sheet as review_sheet
from gendebug_torch.slices.review_sheet import confusion_cell as confusion_cell
from gendebug_torch.slices.search.columns import Binning as Binning
from gendebug_torch.slices.search.columns import fit_binnings as fit_binnings
from gendebug_torch.slices.search.events import Event as Event
from gendebug_torch.slices.search.events import plain_events as plain_events
from gendebug_torch.slices.search.events import promised_events as promised_events
from gendebug_torch.slices.search.expected_errors import promised_rate as promised_rate
from gendebug_torch.slices.search.result import Slices as Slices
from gendebug_torch.slices.search.search import confirmed_slices as confirmed_slices
from gendebug_torch.slices.search.search import find_slices as find_slices
from gendebug_torch.slices.search.search import remeasured as remeasured

__all__ = [
    "Binning",
    "ErrorClusters",
    "Event",
    "SliceChange",
    "Slices",
    "review_rows",
    "review_sheet",
    "confirmed_slices",
    "confusion_cell",
    "error_clusters",
    "find_slices",
    "fit_binnings",
    "plain_events",
    "promised_events",
    "promised_rate",
    "remeasured",
    "slice_change",
]

"""Subgroups for which a model fails: slices by columns, collapsed slices, clusters of errors."""

from gendebug_torch.slices.clusters.error_clusters import error_clusters as error_clusters
from gendebug_torch.slices.review import confusion_cell as confusion_cell
from gendebug_torch.slices.review import review_rows as review_rows
from gendebug_torch.slices.review import review_sheet as review_sheet
from gendebug_torch.slices.search.change import slice_change as slice_change
from gendebug_torch.slices.search.find import confirmed_slices as confirmed_slices
from gendebug_torch.slices.search.find import find_slices as find_slices
from gendebug_torch.slices.statistics.isotonic import isotonic_rate as isotonic_rate

__all__ = [
    "confirmed_slices",
    "confusion_cell",
    "error_clusters",
    "find_slices",
    "isotonic_rate",
    "review_rows",
    "review_sheet",
    "slice_change",
]

"""Which rows belong together: positions of one sample of a dense head, or rows that share the group
of the schema.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.calibration.model_outputs import validated
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema

_SAMPLE = "sample"


def dense_records(
    logits: Tensor, targets: Tensor, *, ignore_index: int | None = None, name: str = "records"
) -> Records:
    """The labeled positions of dense outputs as records, one row each, grouped by the sample that
    they belong to.

    The positions of one image are not independent, so that checks and `recalibrate` judge these
    rows by whole samples.

    Args:
        logits: `[b, k, ...]` float, e.g. `[b, k, h, w]` of a segmentation.
        targets: `[b, ...]` int64 class ids.
        ignore_index: target of positions that do not count.
        name: for messages.

    Returns:
        `[m, k]` logits and `[m]` targets in the order of the samples, with the metadata column
        `sample`, 0..b-1.

    Raises:
        InputError: shapes or dtypes do not fit.
    """
    validated(logits, targets, None, ignore_index)
    kept = (
        torch.ones_like(targets, dtype=torch.bool)
        if ignore_index is None
        else targets != ignore_index
    )
    sample = kept.nonzero()[:, 0].cpu()
    frame = pd.DataFrame({_SAMPLE: sample.numpy()})
    return Records(
        None, targets[kept].long(), logits.movedim(1, -1)[kept], frame, Schema(group=_SAMPLE), name
    )


def group_ids(records: Records) -> Tensor | None:
    """`[n]` int64 ids 0..g-1 of the groups that the schema names; None where rows stand for
    themselves.
    """
    column = records.schema.group
    if column is None or records.metadata is None or column not in records.metadata:
        return None
    codes, names = pd.factorize(records.metadata[column], use_na_sentinel=False)
    return None if len(names) == len(records) else torch.from_numpy(codes.astype("int64"))

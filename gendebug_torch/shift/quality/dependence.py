"""Design effects: how much more a metric varies where rows depend on each other."""

from __future__ import annotations

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.stats.effective_sample_size import two_sample_autocorrelation_times

_TAIL = 0.005


def design_effects(
    before: Tensor, after: Tensor, validation: Records, production: Records
) -> tuple[float, float]:
    """Variance of two means over that of independent rows, at least 1.

    Rows of one `schema.group` count together (Kish, 1965, Survey Sampling), rows in the order of
    `schema.time` by their autocorrelation time; the larger effect counts.

    Args:
        before: contributions of the rows of validation, `[n]` with mean 0.
        after: the same of production, `[m]`.
        validation: records that hold the columns.
        production: the same.
    """
    effects = [_group_effect(before, validation), _group_effect(after, production)]
    ordered = [_in_time(before, validation), _in_time(after, production)]
    if ordered[1] is not None:
        times = two_sample_autocorrelation_times(*ordered)
        effects = [max(effects[i], float(times[i].max())) for i in range(2)]
    return effects[0], effects[1]


def group_effect(influence: Tensor, groups: Tensor) -> float:
    """Variance of a mean over groups of rows, relative to that of independent rows; at least 1.

    Few groups say little of their own variance: it is enlarged as the quantile of Student's t with
    one degree of freedom less than there are groups is larger than the normal one.

    Args:
        influence: contributions of the rows, `[n]` with mean 0.
        groups: ids of their groups, `[n]` int64 from 0.
    """
    count = int(groups.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, influence)
    own = float(influence.square().sum())
    if count < 2 or own <= 0:
        return 1.0
    ratio = float(sums.square().sum()) / own * count / (count - 1)
    return max(1.0, ratio * float(stdtrit(count - 1, _TAIL) / ndtri(_TAIL)) ** 2)


def group_ids(records: Records) -> Tensor | None:
    """Ids of the groups that the schema names, `[n]` int64 from 0; None without them."""
    column, metadata = records.schema.group, records.metadata
    if column is None or metadata is None or column not in metadata or not len(metadata):
        return None
    codes = torch.from_numpy(metadata[column].factorize()[0].copy()).long()
    # A row without a group is one of its own.
    alone = codes < 0
    codes[alone] = int(codes.max()) + 1 + torch.arange(int(alone.sum()))
    return codes


def _group_effect(influence: Tensor, records: Records) -> float:
    groups = group_ids(records)
    return 1.0 if groups is None else group_effect(influence, groups)


def _in_time(influence: Tensor, records: Records) -> Tensor | None:
    """`[n, 1]` contributions in the order of time; None where no time is known."""
    column, metadata = records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return None
    times = parse_times(metadata[column], column)
    order = times.order[: len(influence) - times.missing]
    return influence[order][:, None] if len(order) else None

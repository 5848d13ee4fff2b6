"""Design effects: how much more a mean varies where rows of a group, or of a time, are alike."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from scipy.special import chdtri, ndtri, stdtrit
from torch import Tensor

from gendebug_torch.data.inputs.nested_values import hashable_values
from gendebug_torch.data.records import Records

# Tail of means over groups.
_MEAN_TAIL = 0.005
# Numbers of blocks of consecutive rows, their fewest rows, the fewest blocks of a part, and the
# chance of taking noise for dependence.
_BLOCKS, _MIN_BLOCK, _MIN_BLOCKS, _BLOCK_TAIL = (12, 36), 5, 8, 0.05


def group_effect(influence: Tensor, groups: Tensor) -> float:
    """Variance of a mean over groups of rows, relative to that of independent rows; at least 1.

    Few groups say little of their own variance: it is enlarged as the quantile of Student's t with
    one degree of freedom less than there are groups is larger than the normal one.

    Args:
        influence: contributions of the rows, `[n]` with mean 0.
        groups: ids of their groups, `[n]` int64 from 0.
    """
    freedom = int(groups.max())
    return max(1.0, _variance_ratio(influence, groups, freedom) * few_groups(freedom))


def block_effect(influence: Tensor, *, parts: int = 1) -> float:
    """Variance of a mean over rows in time, relative to that of independent rows; at least 1.

    By the variance of the sums of 12 and of 36 consecutive blocks, the larger one where chance
    makes it so in one of twenty records at most. Unlike the time at which an autocorrelation has
    died out it also sees spells that last long and change each row but little, as bad weeks of a
    rare class; unlike ranks it goes by the rows that make the variance.

    Source: Kuensch (1989), Ann. Stat. 17:1217, for the variance of a mean by blocks; Kish (1965),
    Survey Sampling, for blocks as groups.

    Args:
        influence: contributions of the rows in the order of time, `[n]` with mean 0.
        parts: consecutive parts whose means are taken off, so that a break between two of them is
            no dependence; of more than one the 36 blocks alone are asked.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> spells = torch.randn(100, generator=draw).repeat_interleave(30)
        >>> round(block_effect(spells))  # thirty rows of a spell count as about one
        26
    """
    rows = torch.arange(len(influence))
    part = rows * parts // max(len(rows), 1)
    means = _summed(influence, part, parts) / part.bincount(minlength=parts)
    deviations = influence - means[part]
    effects = [1.0]
    for blocks in _BLOCKS:
        if len(rows) < _MIN_BLOCK * blocks or blocks < _MIN_BLOCKS * parts:
            continue
        freedom = blocks - parts
        ratio = _variance_ratio(deviations, rows * blocks // len(rows), freedom)
        if ratio * freedom > chdtri(freedom, _BLOCK_TAIL):
            effects.append(ratio * few_groups(freedom))
    return max(effects)


def _summed(values: Tensor, groups: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64).index_add_(0, groups, values.double())


def _variance_ratio(influence: Tensor, groups: Tensor, freedom: int) -> float:
    """Variance of the sums of groups over that of independent rows; 0 where nothing varies."""
    count = int(groups.max()) + 1
    own = float(influence.double().square().sum())
    if freedom < 1 or own <= 0:
        return 0.0
    return float(_summed(influence, groups, count).square().sum()) / own * count / freedom


def few_groups(freedom: float) -> float:
    """Square of Student's quantile over the normal one: what few groups may have hidden.

    Args:
        freedom: degrees of freedom, taken for 1 where they are fewer.
    """
    return float(stdtrit(max(freedom, 1.0), _MEAN_TAIL) / ndtri(_MEAN_TAIL)) ** 2


def group_keys(records: Records, column: str | None) -> pd.Series[Any] | None:
    """Values of a column of the metadata, or of a table of features, `[n]`; None without it."""
    for part in (records.metadata, records.features):
        if column is not None and isinstance(part, pd.DataFrame) and column in part:
            values: pd.Series[Any] = part[column]
            return hashable_values(values)
    return None


def group_ids(records: Records) -> Tensor | None:
    """Ids of the groups of the rows, `[n]` int64 from 0; None without them."""
    keys = group_keys(records, records.group_column)
    if keys is None or not len(keys):
        return None
    codes = torch.from_numpy(keys.factorize()[0].copy()).long()
    # A row without a group is one of its own.
    alone = codes < 0
    codes[alone] = int(codes.max()) + 1 + torch.arange(int(alone.sum()))
    return codes

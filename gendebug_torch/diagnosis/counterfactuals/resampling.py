"""Weights of a bootstrap over independent rows, groups of rows, or stretches of time."""

from __future__ import annotations

import math

import torch
from scipy.special import stdtrit
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.stats.dependence.design_effects import group_ids
from gendebug_torch.stats.dependence.effective_sample_size import autocorrelation_time


def resampling_weights(blocks: Tensor, count: int, seed: int) -> Tensor:
    """Weights of the rows as they are, then of `count` resampled ones, `[n, 1 + count]` float32.

    Each block has an exponential weight (the Bayesian bootstrap of Rubin, 1981, Ann. Statist. 9:
    130), so that no class is ever without rows.

    Args:
        blocks: ids of the blocks that the rows belong to, `[n]` int64 from 0.
        count: number of replicates.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    size = int(blocks.max()) + 1 if len(blocks) else 0
    drawn = torch.empty(size, count).exponential_(generator=generator)
    # A replicate lies in one piece of memory: few of them are taken at a time.
    return torch.cat([torch.ones(1, len(blocks)), drawn.T[:, blocks]]).T


def blocks_of(records: Records, losses: Tensor) -> Tensor:
    """Ids of the blocks that vary together, `[n]` int64: groups, stretches of time, or rows.

    A stretch has twice the autocorrelation time of the losses.

    Args:
        records: rows whose schema may name a group or a time.
        losses: contributions of the rows, `[n]`.
    """
    groups = group_ids(records)
    if groups is not None:
        return groups
    rows, column, metadata = torch.arange(len(records)), records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return rows
    times = parse_times(metadata[column], column)
    order = times.order
    span = math.ceil(2 * float(autocorrelation_time(losses.double().cpu()[order][:, None]).max()))
    if span <= 2:
        return rows
    blocks = torch.empty_like(rows)
    blocks[order] = rows // span
    return blocks


def interval(replicates: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Normal 95 % interval around the first replicate, by Student's t of the number of blocks.

    Args:
        replicates: the estimate and its resampled values, `[..., 1 + r]`.
        blocks: number of blocks of the smaller side.
    """
    half = float(stdtrit(max(1, blocks - 1), 0.975)) * replicates[..., 1:].std(-1)
    return replicates[..., 0] - half, replicates[..., 0] + half

"""What every method is given, and what it answers for a batch of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.row_space import RowSpace
from gendebug_torch.model.evaluation import Model

# Nearest rows whose similarities are averaged; and columns from which the largest are looked for in
# groups of eight.
NEAREST, _MANY, _GROUP = 5, 128, 8
# Halves of the queries on which scores are computed again, in pairs that complement each other.
HALVES = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows on the device of the network.

    Args:
        inputs: what the network is fed.
        labels: `[n]` class ids, or `[n, k]` labels or quantities; None where there are none.
        answers: what the network answered, in the same form.
    """

    inputs: Any
    labels: Tensor | None
    answers: Tensor


@dataclass(frozen=True, eq=False)
class Question:
    """Which training rows push a network towards its answers to some rows.

    Args:
        model: network.
        form: how answers are compared.
        space: unit vectors of rows.
        queries: rows that are to be explained.
        right: rows that the network answers rightly, `labels` being given; may be empty.
        sample: some training rows with labels.
        halves: weights of the queries, `[1 + HALVES, q]`: all of them, then the halves; rows add
            up to 1.
        checkpoints: weights of the network at moments of its training; none for those at the end.
    """

    model: Model
    form: AnswerForm
    space: RowSpace
    queries: Rows
    right: Rows
    sample: Rows
    halves: Tensor
    checkpoints: tuple[Mapping[str, Tensor], ...] = ()


# From inputs and labels of b rows to scores `[b, 1 + HALVES]`, high where a row pushes the network
# towards its answers to the queries.
Scorer = Callable[[Any, Tensor], Tensor]


def half_weights(queries: int, seed: int, device: torch.device) -> Tensor:
    """Weights `[1 + HALVES, q]` of all queries and of random halves, the odd ones the others' rest.

    Source: Shao and Wu (1989), Ann. Statist. 17:1176, the delete-half jackknife.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.ones(queries)]
    for _ in range(HALVES // 2):
        half = torch.zeros(queries)
        half[torch.randperm(queries, generator=generator)[: (queries + 1) // 2]] = 1.0
        # A single query is its own half.
        rows += [half, 1 - half if queries > 1 else half]
    weights = torch.stack(rows)
    return (weights / weights.sum(1, keepdim=True)).to(device)


def largest(values: Tensor) -> Tensor:
    """`[b, 5]` largest values of each row of `[b, m]`, fewer where m is.

    The five largest of many lie in the five groups with the highest peaks.
    """
    groups = values.shape[1] // _GROUP if values.shape[1] >= _MANY else 0
    if groups:
        whole = values[:, : groups * _GROUP].reshape(-1, _GROUP, groups)
        highest = whole.amax(1).topk(NEAREST, 1).indices[:, None].expand(-1, _GROUP, -1)
        rest = values[:, groups * _GROUP :]
        values = torch.cat([whole.gather(2, highest).flatten(1), rest], 1)
    return values.topk(min(NEAREST, values.shape[1]), 1).values


def largest_at_each_place(tensors: Iterable[Tensor]) -> Tensor:
    """`[5, ...]` five largest of tensors of one shape at each place, in falling order.

    Each tensor is inserted into the five and overwritten: for few tensors with many places this is
    ten times as fast as a search in each place. -inf stands where there are fewer than five.
    """
    best: list[Tensor] = []
    spare = torch.empty(0)
    for value in tensors:
        if not best:
            best = [torch.full_like(value, -math.inf) for _ in range(NEAREST)]
            spare = torch.empty_like(value)
        for rank in range(NEAREST):
            torch.maximum(best[rank], value, out=spare)
            torch.minimum(best[rank], value, out=value)
            best[rank], spare = spare, best[rank]
    return torch.stack(best)


def mean_of_nearest(halves: Tensor) -> Callable[[Tensor], Tensor]:
    """From similarities `[q, b]` to the queries, to means of the largest `[b, 1 + HALVES]`.

    Queries of the same halves form a cell: the largest of a half are among the largest of its
    cells, so that a row is searched once for all halves.

    Args:
        halves: weights of the queries, `[1 + HALVES, q]`.
    """
    member = halves > 0
    cells, cell = torch.unique(member, dim=1, return_inverse=True)
    # Position q stands for no query, and the last cell for none.
    queries = _padded([(cell == c).nonzero()[:, 0] for c in range(cells.shape[1])], len(cell))
    parts = _padded([row.nonzero()[:, 0] for row in cells], cells.shape[1])
    counts = member.sum(1).clamp(max=NEAREST)[:, None]

    def means(similarities: Tensor) -> Tensor:
        none = similarities.new_full((1, similarities.shape[1]), -math.inf)
        values = torch.cat([similarities, none])
        best = largest_at_each_place(values[numbers] for numbers in queries)[: len(queries)]
        best = torch.cat([best, none.expand(len(best), -1, -1)], 1)
        of_halves = largest_at_each_place(row[numbers] for numbers in parts for row in best)
        of_halves.masked_fill_(of_halves == -math.inf, 0.0)
        return (of_halves.sum(0) / counts).T

    return means


def _padded(lists: list[Tensor], filler: int) -> Tensor:
    """`[m, l]` l lists of numbers as columns, short ones filled up."""
    return torch.nn.utils.rnn.pad_sequence(lists, padding_value=filler)

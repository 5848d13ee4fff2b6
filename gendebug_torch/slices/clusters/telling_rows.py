"""Errors of a cluster in the order in which a person should look at them."""

from __future__ import annotations

import torch
from torch import Tensor

# Nearest rows whose errors are counted.
_NEIGHBOURS = 20
# Errors of each cluster that are put in order, and rows among which neighbours are sought.
_MOST_ERRORS, _MOST_ROWS = 2_000, 8_000


def telling_rows(
    scaled: Tensor, wrong: Tensor, assignment: Tensor, clusters: int, *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Errors of each cluster, those amid the largest share of errors first, `[e_i]` int64 each.

    Errors that lie among correct rows are in a cluster because every error is in one; those whose
    20 nearest rows are errors as well are the failing group. Equal shares are put in the order of
    the distance to these rows. Source: the local error rate of Cover and Hart (1967), IEEE Trans.
    Inf. Theory 13:21, here of the rows that were not right. Cost: distances of at most 2,000 errors
    of each cluster, drawn at random, to at most 8,000 rows.

    Args:
        scaled: features, `[n, d]` float64, on one scale and finite.
        wrong: which rows are errors, `[n]` bool.
        assignment: cluster of each row, `[n]` int64.
        clusters: number of clusters.
        seed: of what is drawn.

    Example:
        >>> x = torch.tensor([[0.0]] * 30 + [[9.0]] * 30).double()
        >>> wrong = torch.arange(60) >= 30
        >>> wrong[3] = True
        >>> (rows,) = telling_rows(x, wrong, torch.zeros(60, dtype=torch.int64), 1)
        >>> int(rows[0]), int(rows[-1])
        (30, 3)
    """
    generator = torch.Generator().manual_seed(seed)
    others = _drawn(torch.arange(len(scaled)), _MOST_ROWS, generator)
    found = []
    for i in range(clusters):
        rows = _drawn((wrong & (assignment == i)).nonzero()[:, 0], _MOST_ERRORS, generator)
        share, distance = _neighbourhood(scaled, wrong, rows, others)
        order = distance.argsort(stable=True)
        found.append(rows[order[share[order].argsort(descending=True, stable=True)]])
    return tuple(found)


def _drawn(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:most].sort().values]


def _neighbourhood(
    scaled: Tensor, wrong: Tensor, rows: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """Share of errors among the nearest other rows of each row, and their mean distance, `[e]`."""
    distances = torch.cdist(scaled[rows], scaled[others])
    distances[rows[:, None] == others] = torch.inf
    near = distances.topk(min(_NEIGHBOURS, max(1, len(others) - 1)), largest=False)
    return wrong[others][near.indices].double().mean(1), near.values.mean(1)

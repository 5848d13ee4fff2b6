"""The search: values of training rows that are answered otherwise, put in one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.attribution.counterfactuals.columns import Columns

# From inputs `[b, d]` to how far their answer is on the wanted side, `[b]`; positive is there. The
# second argument holds the row of the question that each input belongs to.
Margin = Callable[[Tensor, Tensor], Tensor]
# Halvings of the change of each quantity.
_HALVINGS = 5


@dataclass(frozen=True)
class Plan:
    """What a search costs per row, stated before.

    Args:
        donors: training rows tried per row.
        steps: most columns that change.
        columns: columns that may change.
    """

    donors: int
    steps: int
    columns: int

    @property
    def evaluations(self) -> int:
        """Most evaluations of the network per row: putting in, taking back, making smaller."""
        return self.donors * self.steps * (self.columns + self.steps + _HALVINGS)


def affordable_plan(budget: int, columns: int, donors: int, steps: int) -> Plan:
    """The largest plan within a budget per row: fewer donors first, then fewer changes.

    Args:
        budget: most evaluations of the network per row.
        columns: columns that may change.
        donors: most donors.
        steps: most columns that change.
    """
    plan = Plan(donors, min(steps, columns), columns)
    while plan.evaluations > budget and (plan.donors > 1 or plan.steps > 1):
        fewer = plan.donors > 1
        plan = Plan(plan.donors - fewer, plan.steps - (not fewer), columns)
    return plan


def nearest_donors(columns: Columns, rows: Tensor, wanted: Tensor, donors: int) -> Tensor:
    """`[r, m]` positions of the nearest training rows that are answered as wanted.

    Rows without enough of them repeat the nearest; -1 where there are none.

    Args:
        columns: columns and training rows.
        rows: rows of the question, `[r, d]`.
        wanted: whether each training row is answered as wanted for each row, `[r, n]` bool.
        donors: number of donors m.
    """
    found = []
    for row, allowed in zip(rows, wanted, strict=True):
        gap = columns.distance(columns.rows, row)
        # A change that is not permitted is not put in, so that it does not count either.
        size = (gap * columns.allowed(row, columns.rows)).sum(1).masked_fill(~allowed, torch.inf)
        # Donors that would put in the same, or nothing, are one.
        values, at = size.masked_fill(size == 0, torch.inf).sort(stable=True)
        differs = torch.cat([values[:1] > 0, values[1:] > values[:-1]]) & values.isfinite()
        at = torch.cat([at[differs][:donors], torch.tensor([-1])])
        found.append(torch.cat([at[:-1], at[:1].expand(donors + 1 - len(at))]))
    return torch.stack(found)


def searched(
    columns: Columns, margin: Margin, rows: Tensor, donors: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Changed rows `[r, m, d]`, and whether each is answered as wanted, `[r, m]`.

    Each step puts in the value of the donor that brings the answer nearest to what is wanted. Then
    changes that are not needed are taken back, and quantities move back towards the row as far as
    the answer stays.

    Source: Brughmans, Leyman and Martens (2024), Data Min. Knowl. Discov. 38:2665, NICE. Deviation:
    several donors, taking back and moving back.

    Args:
        columns: columns and training rows.
        margin: how far inputs are on the wanted side.
        rows: rows of the question, `[r, d]`.
        donors: positions of training rows, `[r, m]`.
        steps: most columns that change.
    """
    r, m = donors.shape
    start = rows[:, None].expand(r, m, -1).reshape(r * m, -1)
    donor = columns.rows[donors.clamp(min=0)].reshape(r * m, -1)
    owner = torch.arange(r).repeat_interleave(m)
    free = columns.allowed(start, donor) & (donors >= 0).reshape(-1, 1)
    current = start.clone()
    done = torch.zeros(r * m, dtype=torch.bool)
    for _ in range(steps):
        open_rows = (~done & (free & (current == start)).any(1)).nonzero()[:, 0]
        if not len(open_rows):
            break
        at, column = (free & (current == start))[open_rows].nonzero().T
        at = open_rows[at]
        tried = current[at].clone()
        tried[torch.arange(len(at)), column] = donor[at, column]
        score = torch.full(current.shape, -torch.inf)
        score[at, column] = margin(tried, owner[at])
        best, chosen = score[open_rows].max(1)
        current[open_rows, chosen] = donor[open_rows, chosen]
        done[open_rows] = best > 0
    current = _taken_back(margin, start, current, done, owner)
    current = _moved_back(columns, margin, start, current, done, owner)
    return current.reshape(r, m, -1), done.reshape(r, m)


def _taken_back(
    margin: Margin, start: Tensor, current: Tensor, done: Tensor, owner: Tensor
) -> Tensor:
    """Without changes that the answer does not need, one at a time."""
    current = current.clone()
    for column in range(current.shape[1]):
        rows = (done & (current[:, column] != start[:, column])).nonzero()[:, 0]
        rows = rows[(current[rows] != start[rows]).sum(1) > 1]
        if not len(rows):
            continue
        tried = current[rows].clone()
        tried[:, column] = start[rows, column]
        still = margin(tried, owner[rows]) > 0
        current[rows[still], column] = start[rows[still], column]
    return current


def _moved_back(
    columns: Columns,
    margin: Margin,
    start: Tensor,
    current: Tensor,
    done: Tensor,
    owner: Tensor,
) -> Tensor:
    """Quantities as near to the row as the answer allows, by halving the change."""
    current = current.clone()
    for column in (~columns.codes).nonzero()[:, 0].tolist():
        rows = (done & (current[:, column] != start[:, column])).nonzero()[:, 0]
        near, far = start[rows, column].clone(), current[rows, column].clone()
        for _ in range(_HALVINGS if len(rows) else 0):
            middle = (near + far) / 2
            middle = middle.round() if columns.whole[column] else middle
            tried = current[rows].clone()
            tried[:, column] = middle
            still = (margin(tried, owner[rows]) > 0) & (middle != start[rows, column])
            far, near = torch.where(still, middle, far), torch.where(still, near, middle)
        current[rows, column] = far
    return current

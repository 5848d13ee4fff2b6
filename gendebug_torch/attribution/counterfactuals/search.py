"""The search: units of training rows that are answered otherwise, put in one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.attribution.counterfactuals.units import Units

# From flat inputs `[b, d]` to how far their answer is on the wanted side, `[b]`; positive is there.
# The second argument holds the row of the question that each input belongs to.
Margin = Callable[[Tensor, Tensor], Tensor]
# The same from numbers of attempts `[b]` and the units of their donors that are put in, `[b, u]`.
Attempt = Callable[[Tensor, Tensor], Tensor]
# Halvings of the change of each quantity, and values of inputs that are made at once.
_HALVINGS, _VALUES = 5, 2**25


@dataclass(frozen=True)
class Plan:
    """What a search costs per row, stated before.

    Args:
        donors: training rows tried per row.
        steps: most units that change.
        units: units that may change.
        halvings: halvings of the change of each quantity.
    """

    donors: int
    steps: int
    units: int
    halvings: int

    @property
    def evaluations(self) -> int:
        """Most evaluations of the network per row: putting in, taking back, making smaller."""
        return self.donors * self.steps * (self.units + self.steps + self.halvings)


def affordable_plan(budget: int, units: Units, donors: int, steps: int) -> Plan:
    """The largest plan within a budget per row: fewer donors first, then fewer changes.

    Args:
        budget: most evaluations of the network per row.
        units: units and training rows.
        donors: most donors.
        steps: most units that change.
    """
    free = int((units.by_unit((units.up | units.down).float()) > 0).sum())
    halvings = 0 if units.whole is None else _HALVINGS
    plan = Plan(donors, min(steps, free), free, halvings)
    while plan.evaluations > budget and (plan.donors > 1 or plan.steps > 1):
        fewer = plan.donors > 1
        plan = Plan(plan.donors - fewer, plan.steps - (not fewer), free, halvings)
    return plan


def nearest_donors(units: Units, rows: Tensor, wanted: Tensor, donors: int) -> Tensor:
    """`[r, m]` positions of the nearest training rows that are answered as wanted.

    Rows without enough of them repeat the nearest; -1 where there are none.

    Args:
        units: units and training rows.
        rows: rows of the question, `[r, d]`.
        wanted: whether each training row is answered as wanted for each row, `[r, n]` bool.
        donors: number of donors m.
    """
    found = []
    for row, answered in zip(rows, wanted, strict=True):
        gap, permitted = units.distance(units.rows, row), units.allowed(row, units.rows)
        # A change of a column that is not permitted is not put in, so that it does not count.
        size = (gap * permitted if units.whole is not None else gap).sum(1)
        size.masked_fill_(~answered | ~permitted.any(1) | (size == 0), torch.inf)
        # Donors that would put in the same are one.
        values, at = size.sort(stable=True)
        differs = torch.cat([values[:1] > 0, values[1:] > values[:-1]]) & values.isfinite()
        at = torch.cat([at[differs][:donors], torch.tensor([-1])])
        found.append(torch.cat([at[:-1], at[:1].expand(donors + 1 - len(at))]))
    return torch.stack(found)


def searched(
    units: Units, margin: Margin, rows: Tensor, donors: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Changed rows `[r, m, d]`, and whether each is answered as wanted, `[r, m]`.

    Each step puts in the unit of the donor that brings the answer nearest to what is wanted. Then
    changes that are not needed are taken back, and quantities move back towards the row as far as
    the answer stays.

    Source: Brughmans, Leyman and Martens (2024), Data Min. Knowl. Discov. 38:2665, NICE; Goyal et
    al. (2019), ICML, counterfactual visual explanations, for regions. Deviation: several donors,
    taking back and moving back.

    Args:
        units: units and training rows.
        margin: how far inputs are on the wanted side.
        rows: rows of the question, `[r, d]`.
        donors: positions of training rows, `[r, m]`.
        steps: most units that change.
    """
    r, m = donors.shape
    start = rows[:, None].expand(r, m, -1).reshape(r * m, -1)
    donor = units.rows[donors.clamp(min=0)].reshape(r * m, -1)
    owner = torch.arange(r).repeat_interleave(m)
    free = units.allowed(start, donor) & (donors >= 0).reshape(-1, 1)
    size = max(1, _VALUES // max(1, rows.shape[1]))

    def attempt(at: Tensor, taken: Tensor) -> Tensor:
        parts = []
        for some, put in zip(torch.split(at, size), torch.split(taken, size), strict=True):
            inputs = torch.where(put[:, units.of], donor[some], start[some])
            parts.append(margin(inputs, owner[some]))
        return torch.cat(parts)

    taken, done = _put_in(attempt, free, steps)
    taken = _taken_back(attempt, taken, done)
    current = torch.where(taken[:, units.of], donor, start)
    if units.whole is not None:
        current = _moved_back(units, margin, start, current, done, owner)
    return current.reshape(r, m, -1), done.reshape(r, m)


def _put_in(attempt: Attempt, free: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Units `[b, u]` put in one by one, the best first, and whether the answer is as wanted."""
    taken, done = torch.zeros_like(free), torch.zeros(len(free), dtype=torch.bool)
    for _ in range(steps):
        left = free & ~taken & ~done[:, None]
        at, unit = left.nonzero().T
        if not len(at):
            break
        tried = taken[at]
        tried[torch.arange(len(at)), unit] = True
        score = torch.full(free.shape, -torch.inf)
        score[at, unit] = attempt(at, tried)
        best, chosen = score.max(1)
        rows = left.any(1).nonzero()[:, 0]
        taken[rows, chosen[rows]] = True
        done[rows] = best[rows] > 0
    return taken, done


def _taken_back(attempt: Attempt, taken: Tensor, done: Tensor) -> Tensor:
    """Without units that the answer does not need, one at a time."""
    taken = taken.clone()
    for unit in range(taken.shape[1]):
        rows = (done & taken[:, unit] & (taken.sum(1) > 1)).nonzero()[:, 0]
        if not len(rows):
            continue
        fewer = taken[rows]
        fewer[:, unit] = False
        taken[rows, unit] = attempt(rows, fewer) <= 0
    return taken


def _moved_back(
    units: Units,
    margin: Margin,
    start: Tensor,
    current: Tensor,
    done: Tensor,
    owner: Tensor,
) -> Tensor:
    """Quantities as near to the row as the answer allows, by halving the change."""
    current = current.clone()
    assert units.whole is not None
    for column in (~units.codes).nonzero()[:, 0].tolist():
        rows = (done & (current[:, column] != start[:, column])).nonzero()[:, 0]
        near, far = start[rows, column].clone(), current[rows, column].clone()
        for _ in range(_HALVINGS if len(rows) else 0):
            middle = (near + far) / 2
            middle = middle.round() if units.whole[column] else middle
            tried = current[rows].clone()
            tried[:, column] = middle
            still = (margin(tried, owner[rows]) > 0) & (middle != start[rows, column])
            far, near = torch.where(still, middle, far), torch.where(still, near, middle)
        current[rows, column] = far
    return current

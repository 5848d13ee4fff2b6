"""Shapley values of a few players: exact, or over orders in which each comes first as often."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

# Players up to which all coalitions are evaluated, and about how many are of more.
EXACT, _COALITIONS = 6, 200

Coalition = frozenset[int]


def shapley_values(players: int, values: Callable[[Sequence[Coalition]], Tensor]) -> Tensor:
    """What each player adds to a coalition on average over all orders, `[k, c]`.

    `phi_i = sum_S |S|! (k - |S| - 1)! / k! (v(S + i) - v(S))`. Beyond six players the orders are
    drawn: each with its rotations, so that every player takes every place as often, and with their
    reverses. The values sum to `v(all) - v(none)` either way.

    Source: Shapley (1953), Contributions to the Theory of Games 2:307; Mitchell, Cooper, Frank and
    Holmes (2022), JMLR 23(43), for sampling orders in antithetic sets.

    Args:
        players: number of players k.
        values: coalitions -> their values, `[w, c]`.

    Example:
        >>> import torch
        >>> def product(coalitions):
        ...     return torch.tensor([[float(len(one) == 2)] for one in coalitions])
        >>> shapley_values(2, product)[:, 0].tolist()
        [0.5, 0.5]
    """
    if players <= EXACT:
        return _exact(players, values)
    orders = _drawn_orders(players)
    coalitions = list(dict.fromkeys(c for order in orders for c in _growing(order)))
    known = dict(zip(coalitions, values(coalitions), strict=True))
    total = torch.zeros(players, values(coalitions[:1]).shape[1], dtype=torch.float64)
    for order in orders:
        steps = _growing(order)
        for player, before, after in zip(order, steps, steps[1:], strict=False):
            total[player] += known[after] - known[before]
    return total / len(orders)


def _exact(players: int, values: Callable[[Sequence[Coalition]], Tensor]) -> Tensor:
    coalitions = [
        frozenset(members)
        for size in range(players + 1)
        for members in combinations(range(players), size)
    ]
    known = dict(zip(coalitions, values(coalitions), strict=True))
    added = []
    for player in range(players):
        total = torch.zeros_like(known[frozenset()])
        for coalition in coalitions:
            if player not in coalition:
                size = len(coalition)
                share = math.factorial(size) * math.factorial(players - size - 1)
                gain = known[coalition | {player}] - known[coalition]
                total = total + share / math.factorial(players) * gain
        added.append(total)
    return torch.stack(added)


def _drawn_orders(players: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    orders = []
    for _ in range(max(1, _COALITIONS // (2 * players**2))):
        order = torch.randperm(players, generator=generator).tolist()
        for at in range(players):
            rotated = order[at:] + order[:at]
            orders += [rotated, rotated[::-1]]
    return orders


def _growing(order: Sequence[int]) -> list[Coalition]:
    return [frozenset(order[:size]) for size in range(len(order) + 1)]

"""Slow literal versions of what the topic `shift` computes fast."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
from scipy.optimize import linprog


def ks_distance(reference, live):
    """sup over all observed values of |F - G|, counted one by one (Smirnov, 1939)."""
    a = [x for x in reference if not math.isnan(x)]
    b = [x for x in live if not math.isnan(x)]
    if not a or not b:
        return math.nan
    return max(
        abs(sum(v <= x for v in a) / len(a) - sum(v <= x for v in b) / len(b)) for x in a + b
    )


def total_variation(reference, live):
    p, q = Counter(reference), Counter(live)
    return sum(abs(p[x] / len(reference) - q[x] / len(live)) for x in p.keys() | q.keys()) / 2


def largest_growth(reference, live):
    """(value, share before, share after) of the value whose share grew most; ties to the smallest
    value."""
    return max(
        (
            (x, reference.count(x) / len(reference), live.count(x) / len(live))
            for x in sorted(set(live))
        ),
        key=lambda entry: entry[2] - entry[1],
    )


def dip(knots, cdf):
    """Smallest distance to a piecewise linear function with one mode, by one linear program for
    each modal cell."""
    cells, width = len(knots) - 1, np.diff(knots)
    band = np.hstack([np.eye(cells + 1), -np.ones((cells + 1, 1))])
    below = np.hstack([-np.eye(cells + 1), -np.ones((cells + 1, 1))])
    bends = np.zeros((cells - 1, cells + 2))
    for i in range(cells - 1):
        bends[i, i : i + 3] = [-1 / width[i], 1 / width[i] + 1 / width[i + 1], -1 / width[i + 1]]
    cost = np.eye(cells + 2)[-1]
    bounds = [(None, None)] * (cells + 1) + [(0, None)]
    limits = np.concatenate([cdf, -cdf, np.zeros(cells - 1)])
    best = 1.0
    for mode in range(cells):
        turned = np.where(np.arange(1, cells) <= mode, 1.0, -1.0)[:, None] * bends
        best = min(
            best,
            linprog(cost, A_ub=np.vstack([band, below, turned]), b_ub=limits, bounds=bounds).fun,
        )
    return best


def weighted_ks(reference, weights, live):
    """sup over all observed values of |F_w - G|."""
    points = np.concatenate([reference, live])
    return max(
        abs(weights[reference <= x].sum() / weights.sum() - (live <= x).mean()) for x in points
    )


def tied_ks(reference, live):
    """P-value given the ties, over all ways to deal the pooled values out (Hodges, 1958, section
    5)."""
    pooled = sorted([*reference, *live])
    observed = ks_distance(reference, live)
    hits = [
        ks_distance(
            [pooled[i] for i in chosen], [pooled[i] for i in range(len(pooled)) if i not in chosen]
        )
        > observed - 1e-9
        for chosen in combinations(range(len(pooled)), len(reference))
    ]
    return sum(hits) / len(hits)

"""Has a distribution one mode or more? The dip of a distribution function and its p-value."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Quantiles of sqrt(n) * dip for the uniform distribution as n grows, from 4e6 Brownian bridges on
# 1000 steps.
_SCALED = np.array([0.0, 0.2021, 0.2285, 0.2579, 0.2763, 0.3121, 0.3611, 0.4212, 0.4854])
_TAIL = np.array([1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1])
# Beyond, log p = c0 + c1 t + c2 t^2: within 2 % of the simulated tail down to p = 5e-5.
_FAR = (1.57532, -0.30279, -15.83603)


def dip(knots: Points, cdf: Points) -> float:
    """Hartigan's dip of a piecewise linear distribution function: its distance to the nearest one
    with one mode.

    The greatest convex minorant and the least concave majorant over a modal interval bound the
    distance, and the interval shrinks until it cannot grow. Of a distribution function read off at
    the edges of a histogram the dip is at most that of the sample, and short of it by no more than
    the share of the fullest bin.

    Source: Hartigan and Hartigan (1985), Ann. Stat. 13:70.

    Args:
        knots: `[b + 1]` ascending.
        cdf: `[b + 1]` values of the distribution function there, from 0 to 1.

    Cost: a few passes over the knots.
    """
    low, high, found = 0, len(knots) - 1, 0.0
    while high - low > 1:
        x, y = knots[low : high + 1], cdf[low : high + 1]
        below, above = _hull(x, y, 1.0), _hull(x, y, -1.0)
        floor, ceiling = np.interp(x, x[below], y[below]), np.interp(x, x[above], y[above])
        gap = ceiling - floor
        i, j = below[int(gap[below].argmax())], above[int(gap[above].argmax())]
        if gap[i] > gap[j]:
            start, stop = i, int(above[np.searchsorted(above, i)])
        else:
            start, stop = int(below[np.searchsorted(below, j, side="right") - 1]), j
        if max(gap[i], gap[j]) <= found:
            break
        found = max(found, float((y - floor)[: start + 1].max()), float((ceiling - y)[stop:].max()))
        if (start, stop) == (0, high - low):
            break
        low, high = low + int(start), low + int(stop)
    return found / 2


def dip_p_value(statistic: float, n: int) -> float:
    """P-value of a dip for n rows of a distribution with one mode; NaN without rows.

    The uniform distribution is the least favourable; the limit as n grows is used throughout, which
    is conservative for few rows (at n = 50 a nominal 1 % is 0.5 %).

    Source: Hartigan and Hartigan (1985), Ann. Stat. 13:70, section 5; the quantiles are our own
    simulation.
    """
    if not n or math.isnan(statistic):
        return math.nan
    scaled = statistic * math.sqrt(n)
    if scaled <= _SCALED[-1]:
        return float(np.exp(np.interp(scaled, _SCALED, np.log(_TAIL))))
    return math.exp(min(math.log(_TAIL[-1]), _FAR[0] + _FAR[1] * scaled + _FAR[2] * scaled**2))


def _hull(x: Points, y: Points, sign: float) -> NDArray[np.int64]:
    """Places of the vertices of the lower (sign 1) or upper (sign -1) hull, by Andrew's monotone
    chain (1979).
    """
    xs, ys = x.tolist(), (sign * y).tolist()
    kept: list[int] = []
    for i, (u, v) in enumerate(zip(xs, ys, strict=True)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (xs[b] - xs[a]) * (v - ys[a]) - (ys[b] - ys[a]) * (u - xs[a]) > 0:
                break
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.int64)

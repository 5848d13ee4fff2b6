"""Slow literal versions of what the topic `curves` computes."""

import numpy as np


def moving_average(values, window=5):
    """Mean of as many epochs to either side as both sides have, at most half the window."""
    out = []
    for i in range(len(values)):
        half = min(i, len(values) - 1 - i, window // 2)
        out.append(sum(values[i - half : i + half + 1]) / (2 * half + 1))
    return out


def tail_slopes(values, sd, correlation, fewest=4):
    """z of the least-squares slope of every tail, by a line fit to each."""
    out = []
    for start in range(len(values) - fewest + 1):
        tail = np.asarray(values[start:])
        slope = np.polyfit(np.arange(len(tail)), tail, 1)[0]
        spread = len(tail) * (len(tail) ** 2 - 1) / 12
        out.append(slope / (sd * np.sqrt((1 + correlation) / (1 - correlation) / spread)))
    return out


def trend_error(values, correlation, start, times):
    """Smallest whitened residual sum of squares of decays plus a line from `start` on, by a
    general-purpose solver."""
    from scipy.optimize import lsq_linear

    t = len(values)
    index = np.arange(t)
    columns = [np.ones(t)] + [np.exp(-index / max(share * t, 0.3)) for share in times]
    if start < t:
        columns.append(np.clip(index - start, 0, None) / t)
    design = np.stack(columns, 1)
    left = np.concatenate(
        [[design[0] * np.sqrt(1 - correlation**2)], design[1:] - correlation * design[:-1]]
    )
    right = np.concatenate(
        [[values[0] * np.sqrt(1 - correlation**2)], values[1:] - correlation * values[:-1]]
    )
    low = [-np.inf] + [0.0] * (design.shape[1] - 1)
    return float(2 * lsq_linear(left, right, bounds=(low, np.inf), tol=1e-14, method="bvls").cost)

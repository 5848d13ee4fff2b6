"""Slow literal versions of what the topic `shift` computes fast."""

import math
from collections import Counter


def ks_distance(reference, live):
    """sup over all observed values of |F - G|, counted one by one (Smirnov, 1939)."""
    a = [x for x in reference if not math.isnan(x)]
    b = [x for x in live if not math.isnan(x)]
    if not a or not b:
        return math.nan
    return max(abs(sum(v <= x for v in a) / len(a) - sum(v <= x for v in b) / len(b)) for x in a + b)


def total_variation(reference, live):
    p, q = Counter(reference), Counter(live)
    return sum(abs(p[x] / len(reference) - q[x] / len(live)) for x in p.keys() | q.keys()) / 2


def largest_growth(reference, live):
    """(value, share before, share after) of the value whose share grew most; ties to the smallest value."""
    return max(
        ((x, reference.count(x) / len(reference), live.count(x) / len(live)) for x in sorted(set(live))),
        key=lambda entry: entry[2] - entry[1],
    )

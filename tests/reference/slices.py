"""Slow literal versions of what the topic `slices` computes fast."""

import itertools
import math
from collections import Counter


def pair_counts(rows, weights):
    """Rows and weight of every set of one or two (column, level): `rows` are lists of levels."""
    count, weight = Counter(), Counter()
    for levels, w in zip(rows, weights, strict=True):
        pairs = list(enumerate(levels))
        for size in (1, 2):
            for members in itertools.combinations(pairs, size):
                count[members] += 1
                weight[members] += w
    return count, weight


def poisson_binomial_tail(probs, hits):
    """P(X >= hits) by convolution, one event at a time."""
    distribution = [1.0]
    for p in probs:
        distribution = [a * (1 - p) + b * p for a, b in zip([*distribution, 0.0], [0.0, *distribution], strict=True)]
    return sum(distribution[hits:])


def hypergeometric_tail(hits, drawn, marked, size):
    """P(X >= hits) by counting (Fisher, 1935)."""
    ways = sum(math.comb(marked, k) * math.comb(size - marked, drawn - k) for k in range(hits, min(drawn, marked) + 1))
    return ways / math.comb(size, drawn)


def isotonic(score, events):
    """max over starts of min over ends of the mean (Barlow et al., 1972), ties of the score taken together."""
    levels = sorted(set(score))
    groups = [[e for s, e in zip(score, events, strict=True) if s == level] for level in levels]

    def mean(a, b):
        pooled = list(itertools.chain(*groups[a : b + 1]))
        return sum(pooled) / len(pooled)

    fitted = [max(min(mean(a, b) for b in range(i, len(levels))) for a in range(i + 1)) for i in range(len(levels))]
    return [fitted[levels.index(s)] for s in score]


def log_odds_rise(inside, outside):
    """z of log odds ratio after : before inside against outside, each ((hits, misses) before, (hits, misses) after)."""
    rise, variance = 0.0, 0.0
    for sign, ((a, b), (c, d)) in ((1, inside), (-1, outside)):
        rise += sign * (math.log((c + 0.5) / (d + 0.5)) - math.log((a + 0.5) / (b + 0.5)))
        variance += sum(1 / (x + 0.5) for x in (a, b, c, d))
    return rise / math.sqrt(variance)

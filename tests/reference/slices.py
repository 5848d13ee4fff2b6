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
        distribution = [
            a * (1 - p) + b * p
            for a, b in zip([*distribution, 0.0], [0.0, *distribution], strict=True)
        ]
    return sum(distribution[hits:])


def hypergeometric_tail(hits, drawn, marked, size):
    """P(X >= hits) by counting (Fisher, 1935)."""
    ways = sum(
        math.comb(marked, k) * math.comb(size - marked, drawn - k)
        for k in range(hits, min(drawn, marked) + 1)
    )
    return ways / math.comb(size, drawn)


def isotonic(score, events):
    """max over starts of min over ends of the mean (Barlow et al., 1972), ties of the score taken
    together."""
    levels = sorted(set(score))
    groups = [[e for s, e in zip(score, events, strict=True) if s == level] for level in levels]

    def mean(a, b):
        pooled = list(itertools.chain(*groups[a : b + 1]))
        return sum(pooled) / len(pooled)

    fitted = [
        max(min(mean(a, b) for b in range(i, len(levels))) for a in range(i + 1))
        for i in range(len(levels))
    ]
    return [fitted[levels.index(s)] for s in score]


def noncentral_tail(hits, events, before, after, ratio):
    """P(X >= hits), X of `events` falling in `after` rows and not in `before` ones, by Fisher's
    noncentral hypergeometric."""
    weight = {
        k: math.comb(after, k) * math.comb(before, events - k) * ratio**k
        for k in range(max(0, events - before), min(events, after) + 1)
    }
    return sum(w for k, w in weight.items() if k >= hits) / sum(weight.values())


def moved_centers(points, centers, iterations=50):
    """Centers of one start of k-means after Lloyd's iterations, all as lists of floats."""
    members = None
    for _ in range(iterations):
        before, members = (
            members,
            [min(range(len(centers)), key=lambda i: math.dist(p, centers[i])) for p in points],
        )
        if members == before:
            break
        for i in range(len(centers)):
            own = [p for p, member in zip(points, members, strict=True) if member == i]
            if own:
                centers = [
                    *centers[:i],
                    [sum(x) / len(own) for x in zip(*own, strict=True)],
                    *centers[i + 1 :],
                ]
    return centers

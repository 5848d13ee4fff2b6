"""Slow literal versions of what the topic `leakage` computes fast."""

import math
from collections import Counter
from itertools import combinations


def explained_share(levels, classes):
    """Goodman and Kruskal's tau, adjusted for the number of levels, by its definition as a
    reduction of error."""
    n = len(classes)
    shares = [count / n for count in Counter(classes).values()]
    error = 1 - sum(share**2 for share in shares)
    within = 0.0
    for level in set(levels):
        inside = [c for lv, c in zip(levels, classes, strict=True) if lv == level]
        within += (
            len(inside)
            / n
            * (1 - sum((count / len(inside)) ** 2 for count in Counter(inside).values()))
        )
    raw = 1 - within / error
    return 1 - (1 - raw) * (n - 1) / (n - len(set(levels)))


def explained_values(levels, values):
    """The correlation ratio of level means, adjusted."""
    n, mean = len(values), sum(values) / len(values)
    total = sum((v - mean) ** 2 for v in values)
    within = 0.0
    for level in set(levels):
        inside = [v for lv, v in zip(levels, values, strict=True) if lv == level]
        centre = sum(inside) / len(inside)
        within += sum((v - centre) ** 2 for v in inside)
    return 1 - within / total * (n - 1) / (n - len(set(levels)))


def mutual_information(levels, classes):
    n = len(classes)
    joint, a, b = Counter(zip(levels, classes, strict=True)), Counter(levels), Counter(classes)
    raw = sum(count / n * math.log(count * n / (a[x] * b[y])) for (x, y), count in joint.items())
    return raw - (len(a) - 1) * (len(b) - 1) / (2 * n)


def auc(values, classes):
    positives, negatives = (
        [v for v, c in zip(values, classes, strict=True) if c == wanted] for wanted in (1, 0)
    )
    pairs = [(p > q) + (p == q) / 2 for p in positives for q in negatives]
    return sum(pairs) / len(pairs)


def first_match(train, validation):
    """For each validation row the first equal training row, or -1; missing values are equal."""

    def key(row):
        return tuple("missing" if isinstance(v, float) and math.isnan(v) else v for v in row)

    hashes = [key(row) for row in train]
    return [hashes.index(key(row)) if key(row) in hashes else -1 for row in validation]


def label_agreement(first, second):
    """Cohen's kappa and the exact mean and variance of the agreement over all permutations, for
    short lists."""
    from itertools import permutations

    m = len(first)
    agreements = [
        sum(a == b for a, b in zip(first, order, strict=True)) / m for order in permutations(second)
    ]
    mean = sum(agreements) / len(agreements)
    variance = sum((a - mean) ** 2 for a in agreements) / len(agreements)
    agreement = sum(a == b for a, b in zip(first, second, strict=True)) / m
    return (agreement - mean) / (1 - mean), variance


def jaccard(a, b, width=5):
    """Of the character shingles of two texts."""
    shingles = [
        {text[i : i + width] for i in range(max(len(text) - width + 1, 1))} for text in (a, b)
    ]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


def close_pairs(points, radius):
    return {
        (i, j)
        for i, j in combinations(range(len(points)), 2)
        if math.dist(points[i], points[j]) <= radius
    }

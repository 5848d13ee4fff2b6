"""Slow literal versions of what the topic `calibration` computes fast: Python floats, one row at a
time."""

import math


def softmax(row):
    top = max(row)
    weights = [math.exp(z - top) for z in row]
    return [w / math.fsum(weights) for w in weights]


def top_label(rows, targets):
    """(confidence, right) of each row of logits; the first of equal classes is predicted."""
    pairs = []
    for row, target in zip(rows, targets, strict=True):
        probs = softmax(row)
        pairs.append((max(probs), row.index(max(row)) == target))
    return pairs


def bin_of(confidence, bins):
    """The bin (lo, hi] of Guo et al. (2017), by their edges i / bins; 0 belongs to the first."""
    return next(b for b in range(bins) if confidence <= (b + 1) / bins or b == bins - 1)


def expected_calibration_error(pairs, bins=15):
    """`sum_b n_b / n |accuracy_b - mean confidence_b|` (Naeini, Cooper and Hauskrecht, 2015)."""
    groups = [[] for _ in range(bins)]
    for confidence, right in pairs:
        groups[bin_of(confidence, bins)].append((confidence, right))
    return math.fsum(
        abs(math.fsum(c for c, _ in group) - sum(r for _, r in group)) for group in groups
    ) / len(pairs)


def log_loss(rows, targets, temperature=1.0, weights=None):
    """Mean of `logsumexp(z / T) - z_y / T`."""
    weights = weights or [1.0] * len(rows)
    total = 0.0
    for row, target, weight in zip(rows, targets, weights, strict=True):
        scaled = [z / temperature for z in row]
        top = max(scaled)
        total += weight * (
            top + math.log(math.fsum(math.exp(z - top) for z in scaled)) - scaled[target]
        )
    return total / math.fsum(weights)


def brier_score(rows, targets):
    """Mean squared distance of the probabilities from the label (Brier, 1950)."""
    total = 0.0
    for row, target in zip(rows, targets, strict=True):
        total += math.fsum((p - (j == target)) ** 2 for j, p in enumerate(softmax(row)))
    return total / len(rows)


def label_shares(probs, reference, rounds=20_000):
    """The EM iteration of Saerens, Latinne and Decaestecker (2002), as printed."""
    shares = list(reference)
    for _ in range(rounds):
        totals = [0.0] * len(shares)
        for row in probs:
            weights = [p * q / r for p, q, r in zip(row, shares, reference, strict=True)]
            mass = math.fsum(weights)
            totals = [t + w / mass for t, w in zip(totals, weights, strict=True)]
        following = [t / len(probs) for t in totals]
        if max(abs(a - b) for a, b in zip(following, shares, strict=True)) < 1e-14:
            break
        shares = following
    return shares

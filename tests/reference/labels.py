"""Confident learning and the noise model, written out row by row from the papers; slow on
purpose."""

import math

import numpy as np


def confident_class(row, thresholds):
    reached = [j for j, p in enumerate(row) if p >= thresholds[j] - 1e-6]
    if len(reached) > 1:
        return max(range(len(row)), key=lambda j: row[j])
    return reached[0] if reached else None


def thresholds(probs, labels, k):
    means = []
    for j in range(k):
        own = [row[j] for row, y in zip(probs, labels, strict=True) if y == j]
        means.append(max(math.fsum(own) / len(own), 2e-6) if own else 2.0)
    return means


def joint(probs, labels, k):
    limits = thresholds(probs, labels, k)
    counts = [[0] * k for _ in range(k)]
    for row, y in zip(probs, labels, strict=True):
        found = confident_class(row, limits)
        if found is not None:
            counts[y][found] += 1
    return counts


def calibrated(counts, labels, k):
    """Rows scaled to the label counts; the largest remainders, in the order of NumPy's sort, make
    the sums whole."""
    matrix = []
    for y in range(k):
        row = [max(c, 1) if j == y else c for j, c in enumerate(counts[y])]
        scaled = [c / sum(row) * labels.count(y) for c in row]
        whole = [round(s) for s in scaled]
        missing = round(sum(scaled)) - sum(whole)
        order = np.argsort([s - w for s, w in zip(scaled, whole, strict=True)]).tolist()
        for j in order[::-1][:missing] if missing > 0 else order[:-missing]:
            whole[j] += 1 if missing > 0 else -1
        matrix.append(whole)
    return matrix


def issues(probs, labels, k, rule):
    limits = thresholds(probs, labels, k)
    chosen = set()
    if rule == "confident_joint":
        chosen = {
            i
            for i, row in enumerate(probs)
            if confident_class(row, limits) not in (None, labels[i])
        }
    else:
        matrix = calibrated(joint(probs, labels, k), labels, k)
        by_class, by_rate = set(), set()
        for y in range(k):
            members = [i for i in range(len(labels)) if labels[i] == y]
            if len(members) < 2:
                continue
            others = max(sum(c != 0 for c in matrix[y]) - 1, 1)
            lack = max(1 - matrix[y][y], 0)
            wanted = [
                max(matrix[y][y], 1) if j == y else max(int(c - lack / others), 0)
                for j, c in enumerate(matrix[y])
            ]
            by_class |= set(
                sorted(members, key=lambda i, y=y: probs[i][y])[: max(len(members) - wanted[y], 0)]
            )
            for j in range(k):
                if j != y:
                    by_rate |= set(
                        sorted(members, key=lambda i, y=y, j=j: probs[i][y] - probs[i][j])[
                            : wanted[j]
                        ]
                    )
        chosen = {"by_class": by_class, "by_noise_rate": by_rate, "both": by_class & by_rate}[rule]
    return {
        i
        for i in chosen
        if max(p for j, p in enumerate(probs[i]) if j != labels[i]) > probs[i][labels[i]] + 1e-6
    }


def wrong_probability(row, label, transition):
    joint_row = [p * transition[c][label] for c, p in enumerate(row)]
    return 1 - joint_row[label] / math.fsum(joint_row)


def average_precision(wrong, score):
    """Mean precision at each wrong label, rows from the highest score down."""
    hits, total = 0, 0.0
    for place, i in enumerate(sorted(range(len(score)), key=lambda i: -score[i]), start=1):
        if wrong[i]:
            hits += 1
            total += hits / place
    return total / hits

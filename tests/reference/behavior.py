"""Slow, literal versions of what the behavioral suites compute: one case, one pair, one subset at a
time."""

import itertools
import re


def holds(expect, scores, classes, threshold, of, tolerance):
    """Whether class probabilities `[1 + changes][k]` satisfy an expectation, spelled out case by
    case.

    `same_class` is CheckList's `Expect.inv` and the directions its `Expect.monotonic`, Ribeiro et
    al. (2020).
    """

    def label(row):
        if len(row) == 2:
            return 1 if row[1] >= threshold else 0
        return row.index(max(row))

    first, *rest = scores
    if of == "predicted" or (of is None and len(first) > 2):
        meant = label(first)
    elif of is None:
        meant = 1
    else:
        meant = classes.index(of)
    if isinstance(expect, dict) and "score" in expect:
        low, high = expect["score"]
        return low - tolerance <= first[meant] <= high + tolerance
    if isinstance(expect, dict):
        wanted = [
            classes.index(name)
            for name in (
                expect["class"] if isinstance(expect["class"], list) else [expect["class"]]
            )
        ]
        if len(first) == 2:
            return any(
                first[1] >= threshold - tolerance if w == 1 else first[1] < threshold + tolerance
                for w in wanted
            )
        others = [score for k, score in enumerate(first) if k not in wanted]
        return not others or max(first[w] for w in wanted) >= max(others) - tolerance
    for row in rest:
        if expect == "same":
            columns = range(len(first)) if of is None else [meant]
            if any(abs(row[k] - first[k]) > tolerance for k in columns):
                return False
        elif expect == "same_class":
            if (
                label(row) != label(first)
                and abs(row[label(first)] - first[label(first)]) > tolerance
            ):
                return False
        else:
            moved = row[meant] - first[meant]
            upward = moved if expect in ("higher", "not_lower") else -moved
            if (upward <= -tolerance) if expect in ("higher", "lower") else (upward < -tolerance):
                return False
    return True


def near_duplicates(suite, near=0.02, overlap=0.8):
    """Pairs of cases with the same expectation whose every field is near, pair by pair."""
    found = []
    for a, b in itertools.combinations(suite.cases, 2):
        if (a.expect, a.change, a.of) != (b.expect, b.change, b.of) or set(a.input) != set(b.input):
            continue
        if all(_near(suite, name, a.input[name], b.input[name], near, overlap) for name in a.input):
            found.append((a.id, b.id))
    return found


def _near(suite, name, x, y, near, overlap):
    if isinstance(x, (int, float)) and isinstance(y, (int, float)):
        own = [
            case.input[name]
            for case in suite.cases
            if isinstance(case.input.get(name), (int, float))
        ]
        return x == y or abs(x - y) <= near * (max(own) - min(own))
    if " " in str(x) and " " in str(y):
        a, b = (set(re.findall(r"\w+", text.lower())) for text in (x, y))
        return len(a & b) >= overlap * len(a | b)
    return x == y


def least_cover(noticed):
    """Size of the smallest set of rows that notices every column any row notices, by trying all
    sets."""
    wanted = {column for row in noticed for column, some in enumerate(row) if some}
    for size in range(len(noticed) + 1):
        for rows in itertools.combinations(noticed, size):
            if {column for row in rows for column, some in enumerate(row) if some} == wanted:
                return size
    return None

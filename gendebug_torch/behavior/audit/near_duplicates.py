"""Cases with nearly the same input and the same expectation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.behavior.suite.cases import Case, Suite

# Pairs are compared within the first so many cases, 32 MB per matrix.
_MAX_CASES = 2000
_WORD = re.compile(r"\w+")


def near_duplicates(
    suite: Suite, *, distance: float = 0.02, overlap: float = 0.8
) -> tuple[tuple[str, str], ...]:
    """Pairs of cases with nearly the same input and the same expectation, among the first 2,000.

    Args:
        suite: cases to compare.
        distance: largest distance of numbers, as a share of the range of their column in the suite.
        overlap: least share of words that two texts have in common (Jaccard, 1912, New Phytol.
            11:37).

    Cost: O(c^2 d) for c cases of the same expectation with d fields.
    """
    groups: dict[str, list[Case]] = {}
    for case in suite.cases[:_MAX_CASES]:
        groups.setdefault(_requirement(case), []).append(case)
    ranges = _ranges(suite)
    found = []
    for group in groups.values():
        near = _near(group, ranges, distance, overlap).triu(1)
        found += [(group[i].id, group[j].id) for i, j in near.nonzero().tolist()]
    return tuple(found)


def _requirement(case: Case) -> str:
    """Key of what must be equal before two inputs are compared."""
    expect = None if case.expect is None else case.expect.to_yaml()
    return repr((expect, case.change, case.of, sorted(case.inputs[0])))


def _ranges(suite: Suite) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for case in suite.cases:
        for name, value in case.input.items():
            if isinstance(value, (int, float)):
                values.setdefault(name, []).append(float(value))
    return {name: max(own) - min(own) for name, own in values.items()}


def _near(
    group: list[Case], ranges: Mapping[str, float], distance: float, overlap: float
) -> Tensor:
    """`[c, c]` bool, whether every field of two cases is near."""
    near = torch.ones(len(group), len(group), dtype=torch.bool)
    for name in group[0].inputs[0]:
        values = [case.input[name] for case in group]
        if all(isinstance(value, (int, float)) for value in values):
            column = torch.tensor([float(value) for value in values], dtype=torch.float64)
            limit = distance * ranges.get(name, 0.0)
            near &= ((column[:, None] - column).abs() <= limit) | (column[:, None] == column)
        elif all(isinstance(value, str) and len(value.split()) > 1 for value in values):
            near &= _jaccard([set(_WORD.findall(value.lower())) for value in values]) >= overlap
        else:
            codes: dict[str, int] = {}
            column = torch.tensor([codes.setdefault(_key(value), len(codes)) for value in values])
            near &= column[:, None] == column
    return near


def _jaccard(sets: list[set[str]]) -> Tensor:
    """`[c, c]` share of words in common."""
    columns = {word: number for number, word in enumerate(sorted(set().union(*sets)))}
    indicator = torch.zeros(len(sets), max(len(columns), 1))
    for row, words in enumerate(sets):
        indicator[row, [columns[word] for word in words]] = 1.0
    common, size = indicator @ indicator.T, indicator.sum(1)
    return common / (size[:, None] + size - common).clamp(min=1.0)


def _key(value: Any) -> str:
    return repr(value.tolist()) if isinstance(value, Tensor) else repr(value)

"""Cases whose inputs are nearly the same and that expect the same of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.behavior.suite.cases import Case, Suite

# Pairs are compared within the first so many cases, 32 MB per matrix.
_MOST_CASES = 2000
_WORD = re.compile(r"\w+")


def near_twins(
    suite: Suite, *, near: float = 0.02, overlap: float = 0.8
) -> tuple[tuple[str, str], ...]:
    """Pairs of cases that expect the same of nearly the same input, among the first 2,000.

    Args:
        suite: the cases.
        near: largest distance of numbers, as a share of the range that their column has in the
            suite.
        overlap: least share of words that two texts have in common (Jaccard, 1912, New Phytol.
            11:37).

    Cost: O(c^2 d) for c cases of the same expectation with d fields.
    """
    alike: dict[str, list[Case]] = {}
    for case in suite.cases[:_MOST_CASES]:
        alike.setdefault(_question(case), []).append(case)
    scale = _ranges(suite)
    found = []
    for group in alike.values():
        close = _close(group, scale, near, overlap).triu(1)
        found += [(group[i].id, group[j].id) for i, j in close.nonzero().tolist()]
    return tuple(found)


def _question(case: Case) -> str:
    """What must be equal before two inputs are compared."""
    expect = None if case.expect is None else case.expect.plain()
    return repr((expect, case.change, case.of, sorted(case.inputs[0])))


def _ranges(suite: Suite) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for case in suite.cases:
        for name, value in case.input.items():
            if isinstance(value, (int, float)):
                values.setdefault(name, []).append(float(value))
    return {name: max(own) - min(own) for name, own in values.items()}


def _close(group: list[Case], scale: Mapping[str, float], near: float, overlap: float) -> Tensor:
    """`[c, c]` bool, whether every field of two cases is near."""
    close = torch.ones(len(group), len(group), dtype=torch.bool)
    for name in group[0].inputs[0]:
        values = [case.input[name] for case in group]
        if all(isinstance(value, (int, float)) for value in values):
            column = torch.tensor([float(value) for value in values], dtype=torch.float64)
            apart = (column[:, None] - column).abs()
            close &= (apart <= near * scale.get(name, 0.0)) | (column[:, None] == column)
        elif all(isinstance(value, str) and len(value.split()) > 1 for value in values):
            close &= _jaccard([set(_WORD.findall(value.lower())) for value in values]) >= overlap
        else:
            codes: dict[str, int] = {}
            column = torch.tensor([codes.setdefault(_key(value), len(codes)) for value in values])
            close &= column[:, None] == column
    return close


def _jaccard(sets: list[set[str]]) -> Tensor:
    place = {word: number for number, word in enumerate(sorted(set().union(*sets)))}
    hot = torch.zeros(len(sets), max(len(place), 1))
    for row, words in enumerate(sets):
        hot[row, [place[word] for word in words]] = 1.0
    both, size = hot @ hot.T, hot.sum(1)
    return both / (size[:, None] + size - both).clamp(min=1.0)


def _key(value: Any) -> str:
    return repr(value.tolist()) if isinstance(value, Tensor) else repr(value)

"""Mutants: a model behind a fault that is planted into its inputs.

Source: mutation analysis after DeMillo, Lipton and Sayward (1978), Computer 11(4):34.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from gendebug_torch.behavior.running.model_adapter import as_predict
from gendebug_torch.behavior.running.results import BehaviorRun
from gendebug_torch.behavior.running.run import case_result
from gendebug_torch.behavior.running.scores import score_inputs
from gendebug_torch.behavior.suite.cases import Suite

Row = dict[str, Any]
Mutation = Callable[[Row], Row]
# Above this many pairs of columns only those that are near each other are swapped.
_MAX_PAIRS = 2000
_UNITS = (100.0, 0.01, 1000.0, 0.001, -1.0)
_WORD_SAMPLES = 12
_NEGATION = re.compile(r"\b(?:not|no|never)\b\s?|n't\b", re.IGNORECASE)


def mutations(suite: Suite) -> dict[str, Mutation]:
    """Faults of a pipeline, by name: swapped columns, another unit, a constant column, other text.

    Args:
        suite: cases whose inputs say which columns hold numbers, codes and texts.
    """
    numbers, codes, texts = _columns(suite)
    constants = {name: median(filter(_is_number, values)) for name, values in numbers.items()}
    constants |= {
        name: Counter(filter(_is_code, values)).most_common(1)[0][0]
        for name, values in codes.items()
    }
    found = column_mutations(suite)
    found |= {
        f"{name} always {value!r}": _constant(name, value) for name, value in constants.items()
    }
    for name in texts:
        found |= {f"{name}: {what}": _edit(name, change) for what, change in _TEXT.items()}
        found |= {
            f"{name}: without a quarter of the words #{i}": _edit(name, _without_words(i))
            for i in range(_WORD_SAMPLES)
        }
    return found


def column_mutations(suite: Suite) -> dict[str, Mutation]:
    """Faults of how columns are fed: two of them swapped, or one in another unit or sign.

    Args:
        suite: cases whose inputs say which columns hold numbers.
    """
    numbers = list(_columns(suite)[0])
    pairs = sorted(
        itertools.combinations(range(len(numbers)), 2), key=lambda pair: pair[1] - pair[0]
    )
    swaps = {
        f"{numbers[i]} and {numbers[j]} swapped": _swap(numbers[i], numbers[j])
        for i, j in pairs[:_MAX_PAIRS]
    }
    units = {
        f"{name} times {factor:g}": _scale(name, factor) for name in numbers for factor in _UNITS
    }
    return swaps | units


def mutant_runs(
    suite: Suite, model: Any, faults: Mapping[str, Mutation], *, batch_size: int = 4096
) -> dict[str, BehaviorRun]:
    """The runs of a suite on the model behind each fault, in as few calls as possible.

    Args:
        suite: cases to run.
        model: network or predict function, as for `run_suite`.
        faults: name -> mutation of an input.
        batch_size: most inputs per call.

    Cost: one row through the model per fault, input and change.
    """
    predict = as_predict(model, suite.features)
    groups = [
        [mutate(row) for row in case.inputs] for mutate in faults.values() for case in suite.cases
    ]
    scores = score_inputs(predict, groups, batch_size)
    size = len(suite.cases)
    runs = {}
    for number, name in enumerate(faults):
        own = zip(suite.cases, scores[number * size : (number + 1) * size], strict=True)
        results = tuple(case_result(suite, case, part) for case, part in own)
        runs[name] = BehaviorRun(results, suite.name, name, suite.path)
    return runs


def detection_matrix(
    base: BehaviorRun, runs: Sequence[BehaviorRun]
) -> tuple[tuple[str, ...], torch.Tensor]:
    """Which cases detect which faults.

    Args:
        base: run of the model itself; a case that fails there detects nothing.
        runs: m runs behind faults.

    Returns:
        Ids of the c cases that pass in `base`, and `[c, m]` bool, whether each fails in each run.
    """
    ids = tuple(result.id for result in base.evaluated if result.status == "passed")
    failing = [{result.id for result in run.failures} for run in runs]
    detected = [[name in names for names in failing] for name in ids]
    return ids, torch.tensor(detected, dtype=torch.bool).reshape(len(ids), len(runs))


def _columns(suite: Suite) -> tuple[dict[str, list[Any]], dict[str, list[Any]], list[str]]:
    """Values of the columns of numbers and of codes, and the names of the columns of text."""
    values: dict[str, list[Any]] = {}
    for case in suite.cases:
        for row in case.inputs:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
    order = [name for name in suite.features if name in values] or list(values)
    numbers = {
        name: values[name]
        for name in order
        if all(_is_number(v) or v is None for v in values[name])
        and any(map(_is_number, values[name]))
    }
    texts = [
        name
        for name in order
        if any(isinstance(v, str) and len(v.split()) > 1 for v in values[name])
    ]
    codes = {
        name: values[name]
        for name in order
        if name not in texts and any(map(_is_code, values[name]))
    }
    return numbers, codes, texts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_code(value: Any) -> bool:
    return isinstance(value, (str, bool))


def _swap(a: str, b: str) -> Mutation:
    def swap(row: Row) -> Row:
        moved = {target: row[name] for target, name in ((a, b), (b, a)) if name in row}
        return row | moved

    return swap


def _scale(name: str, factor: float) -> Mutation:
    return lambda row: {**row, name: row[name] * factor} if _is_number(row.get(name)) else row


def _constant(name: str, value: Any) -> Mutation:
    return lambda row: {**row, name: value} if name in row else row


def _edit(name: str, change: Callable[[str], str]) -> Mutation:
    return lambda row: {**row, name: change(row[name])} if isinstance(row.get(name), str) else row


def _without_words(number: int) -> Callable[[str], str]:
    """Removes a quarter of all words, always the same ones."""
    return lambda text: " ".join(
        word for word in text.split() if zlib.crc32(f"{number} {word.lower()}".encode()) % 4
    )


def _first_half(text: str) -> str:
    words = text.split()
    return " ".join(words[: (len(words) + 1) // 2])


_TEXT: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "first half only": _first_half,
    "words reversed": lambda text: " ".join(reversed(text.split())),
    "no negation": lambda text: _NEGATION.sub("", text),
}

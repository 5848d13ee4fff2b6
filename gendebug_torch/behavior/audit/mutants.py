"""Faults planted into the inputs: which cases would notice them, and which of them would explain
the failures there are.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from gendebug_torch.behavior.audit.near_duplicates import near_twins
from gendebug_torch.behavior.running.explanation import Explanation
from gendebug_torch.behavior.running.model_adapter import as_predict
from gendebug_torch.behavior.running.run import BehaviorRun, result_of, run_suite, score_groups
from gendebug_torch.behavior.suite.cases import Suite

Row = dict[str, Any]
Mutation = Callable[[Row], Row]
# Above this many pairs of columns only those that stand near each other are swapped.
_MOST_PAIRS = 2000
_UNITS = (100.0, 0.01, 1000.0, 0.001, -1.0)
_DEAF = 12
_FEWEST_FAILING = 3
_MOST_ASKED = 200
_NEGATION = re.compile(r"\b(?:not|no|never)\b\s?|n't\b", re.IGNORECASE)


def mutations(suite: Suite) -> dict[str, Mutation]:
    """Faults of a pipeline, by name: swapped columns, another unit, a column stuck on one value,
    damaged text.
    """
    _, stuck, texts = _columns(suite)
    found = wiring(suite)
    found |= {f"{name} stuck on {value!r}": _set(name, value) for name, value in stuck.items()}
    for name in texts:
        found |= {f"{name}: {what}": _edit(name, change) for what, change in _TEXT.items()}
        found |= {f"{name}: deaf to words #{i}": _edit(name, _deaf(i)) for i in range(_DEAF)}
    return found


def wiring(suite: Suite) -> dict[str, Mutation]:
    """The faults that can be undone by feeding the columns another way: two swapped, one in another
    unit or sign.
    """
    numeric, _, _ = _columns(suite)
    pairs = list(itertools.combinations(range(len(numeric)), 2))
    pairs = sorted(pairs, key=lambda pair: pair[1] - pair[0])[:_MOST_PAIRS]
    swaps = {
        f"{numeric[i]} and {numeric[j]} swapped": _swap(numeric[i], numeric[j]) for i, j in pairs
    }
    units = {
        f"{name} times {factor:g}": _scale(name, factor) for name in numeric for factor in _UNITS
    }
    return swaps | units


def mutant_runs(
    suite: Suite, model: Any, changes: Mapping[str, Mutation], *, batch_size: int = 4096
) -> dict[str, BehaviorRun]:
    """The suite against the model behind each fault, all in as few calls as possible.

    Cost: one row through the model per fault, input and change.
    """
    predict = as_predict(model, suite.features)
    groups = [
        [mutate(row) for row in case.inputs] for mutate in changes.values() for case in suite.cases
    ]
    scored = score_groups(predict, groups, batch_size)
    step = len(suite.cases)
    runs = {}
    for place, name in enumerate(changes):
        own = zip(suite.cases, scored[place * step : (place + 1) * step], strict=True)
        runs[name] = BehaviorRun(
            tuple(result_of(suite, case, found) for case, found in own),
            suite.name,
            name,
            suite.path,
        )
    return runs


def examine(suite: Suite, model: Any, *, name: str = "", alpha: float = 0.01) -> BehaviorRun:
    """`run_suite`, with cases that say the same, and with what heals the failures, where one way of
    feeding the columns does.

    Args:
        suite: what is expected.
        model: as for `run_suite`.
        name: of the model, for reports.
        alpha: largest corrected p-value of an explanation.
    """
    run = run_suite(suite, model, name=name)
    return replace(
        run, explanation=explain_failures(suite, model, run, alpha=alpha), twins=near_twins(suite)
    )


def explain_failures(
    suite: Suite, model: Any, run: BehaviorRun, *, alpha: float = 0.01
) -> Explanation | None:
    """The one way of feeding the columns that heals most failing cases; None where none does beyond
    chance.

    Args:
        suite: what is expected.
        model: as for `run_suite`.
        run: of this suite and model.
        alpha: largest corrected p-value.

    Cost: one row through the model per fault, input and change, for at most 200 failing and 200
    passing cases; none where too few fail to tell.
    """
    asked = {
        result.id
        for result in [
            *run.broken[:_MOST_ASKED],
            *[r for r in run.judged if not r.broken][:_MOST_ASKED],
        ]
    }
    failing = {result.id for result in run.broken} & asked
    changes = wiring(suite) if len(failing) >= _FEWEST_FAILING else {}
    turned = {}
    for name, mutant in mutant_runs(
        suite.select(lambda case: case.id in asked), model, changes
    ).items():
        still = {result.id for result in mutant.broken}
        turned[name] = tuple(sorted(failing - still)), tuple(sorted(still - failing))
    if not turned:
        return None
    chance = sum(len(healed) for healed, _ in turned.values()) / (len(turned) * len(failing))
    best = max(turned, key=lambda name: len(turned[name][0]) - len(turned[name][1]))
    found = Explanation(best, *turned[best], len(failing), len(asked), len(turned), chance)
    return (
        found
        if found.p_value <= alpha and 2 * (len(found.healed) - len(found.spoiled)) > len(failing)
        else None
    )


def outcome_matrix(
    base: BehaviorRun, runs: Sequence[BehaviorRun]
) -> tuple[tuple[str, ...], torch.Tensor]:
    """Ids of the cases that hold in `base`, and `[cases, runs]` bool whether each of them notices
    each run's fault.
    """
    ids = tuple(result.id for result in base.judged if result.status == "passed")
    broken = [{result.id for result in run.broken} for run in runs]
    noticed = torch.tensor(
        [[name in fallen for fallen in broken] for name in ids], dtype=torch.bool
    )
    return ids, noticed.reshape(len(ids), len(runs))


def _columns(suite: Suite) -> tuple[list[str], dict[str, Any], list[str]]:
    """Numeric columns, the value on which each column would be stuck, and text columns."""
    values: dict[str, list[Any]] = {}
    for case in suite.cases:
        for row in case.inputs:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
    order = [name for name in suite.features if name in values] or list(values)
    numeric = [
        name
        for name in order
        if all(_is_number(v) or v is None for v in values[name])
        and any(map(_is_number, values[name]))
    ]
    texts = [
        name
        for name in order
        if any(isinstance(v, str) and len(v.split()) > 1 for v in values[name])
    ]
    codes = [
        name
        for name in order
        if name not in texts and any(isinstance(v, (str, bool)) for v in values[name])
    ]
    stuck: dict[str, Any] = {
        name: median(v for v in values[name] if _is_number(v)) for name in numeric
    }
    stuck |= {
        name: Counter(v for v in values[name] if isinstance(v, (str, bool))).most_common(1)[0][0]
        for name in codes
    }
    return numeric, stuck, texts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _swap(a: str, b: str) -> Mutation:
    return lambda row: {
        **row,
        **({a: row[b]} if b in row else {}),
        **({b: row[a]} if a in row else {}),
    }


def _scale(name: str, factor: float) -> Mutation:
    return lambda row: {**row, name: row[name] * factor} if _is_number(row.get(name)) else row


def _set(name: str, value: Any) -> Mutation:
    return lambda row: {**row, name: value} if name in row else row


def _edit(name: str, change: Callable[[str], str]) -> Mutation:
    return lambda row: {**row, name: change(row[name])} if isinstance(row.get(name), str) else row


def _deaf(number: int) -> Callable[[str], str]:
    """Drops a fourth of all words, always the same ones."""
    return lambda text: " ".join(
        word for word in text.split() if zlib.crc32(f"{number} {word.lower()}".encode()) % 4
    )


def _halved(words: Sequence[str]) -> Iterator[str]:
    yield from words[: (len(words) + 1) // 2]


_TEXT: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "first half only": lambda text: " ".join(_halved(text.split())),
    "words reversed": lambda text: " ".join(reversed(text.split())),
    "no negation": lambda text: _NEGATION.sub("", text),
}

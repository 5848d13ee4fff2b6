"""New cases: a row of a table, and expectations proposed from the present answers of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.behavior.running.model_adapter import as_predict
from gendebug_torch.behavior.running.scores import last_line, score_inputs
from gendebug_torch.behavior.running.verdict import predicted_class, score_class, verdict
from gendebug_torch.behavior.suite.cases import INVARIANCE_TOLERANCE, Case, Suite
from gendebug_torch.behavior.suite.expectation import Expectation
from gendebug_torch.errors import did_you_mean, reject


def case_of_row(
    table: pd.DataFrame,
    row: int,
    suite: Suite,
    *,
    expect: str | None = None,
    fields: Sequence[str] = (),
    source: str = "table",
    **more: Any,
) -> dict[str, Any]:
    """A case of one row, as it is written in a file.

    Args:
        table: rows, `[n, columns]`.
        row: position, counted from 0.
        suite: suite that the case is for; names the columns where `fields` do not: its `features`,
            else those that its inputs use, else all.
        expect: `0.0:0.3` for a range of scores, or a class; None makes a draft.
        fields: columns to take.
        source: name of the table, for the id and the origin.
        more: further fields of the case; `id` and `origin` replace those made from the source.

    Raises:
        InputError: no such row or column, or a range outside [0, 1].
    """
    if not 0 <= row < len(table):
        remedy = "Rows are counted from 0, the header is none."
        reject("row", f"a position in 0..{len(table) - 1}", str(row), remedy)
    names = list(fields) or list(suite.features) or _used_columns(table, suite)
    if missing := [name for name in names if name not in table]:
        remedy = f"{did_you_mean(missing[0], map(str, table.columns))}Name them with --fields."
        reject("fields", f"columns of {source}", ", ".join(missing), remedy)
    stem = Path(source).name.partition(".")[0]
    case: dict[str, Any] = {"id": f"{stem}-row-{row}", "origin": f"{Path(source).name} row {row}"}
    case["input"] = {name: _yaml_value(table[name].iloc[row]) for name in names}
    if expect is not None:
        case["expect"] = _expectation(expect).to_yaml()
    return case | {key: value for key, value in more.items() if value}


def proposed_expectations(
    suite: Suite, model: Any, *, width: float = 0.1
) -> tuple[dict[str, Any], dict[str, str]]:
    """Expectations that drafts meet now, for a person to confirm, and why others have none.

    Two classes give a range of scores, more give the class; a draft with a change gives `same` or
    the direction.

    Args:
        suite: suite with drafts: cases without `expect`.
        model: network or predict function, as for `run_suite`.
        width: half the range of scores.

    Returns:
        Draft -> expectation as it is written, and draft -> the error of the model on it.
    """
    drafts = [case for case in suite.cases if case.expect is None]
    scores = score_inputs(as_predict(model, suite.features), [case.inputs for case in drafts])
    proposals, errors = {}, {}
    for case, own in zip(drafts, scores, strict=True):
        if isinstance(own, str):
            errors[case.id] = last_line(own)
        else:
            proposals[case.id] = _proposal(suite, case, own, width).to_yaml()
    return proposals, errors


def _used_columns(table: pd.DataFrame, suite: Suite) -> list[str]:
    """Columns that the inputs of a suite use, else all."""
    used = dict.fromkeys(name for case in suite.cases for name in case.input)
    return [name for name in used if name in table] or list(map(str, table.columns))


def _expectation(text: str) -> Expectation:
    """`0.0:0.3` as a range of scores, everything else as a class."""
    low, colon, high = text.partition(":")
    try:
        bounds = [float(low), float(high)] if colon else []
    except ValueError:
        bounds = []
    name = int(text) if text.isdecimal() else text
    return Expectation.of({"score": bounds} if bounds else {"class": name})


def _yaml_value(value: Any) -> Any:
    """A cell as a YAML scalar: numbers as they are, missing values as null, times as ISO text."""
    if isinstance(value, np.generic):
        value = value.item()
    missing = value is None or value is pd.NaT or value is pd.NA
    if missing or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, int, float, str)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _proposal(suite: Suite, case: Case, scores: list[list[float]], width: float) -> Expectation:
    first = predicted_class(suite, scores[0])
    if len(scores) > 1:
        index = score_class(suite, case, scores[0])
        return Expectation(_direction([row[index] - scores[0][index] for row in scores[1:]]))
    if len(scores[0]) > 2:
        return Expectation("class", classes=(suite.classes[first] if suite.classes else first,))
    base = verdict(suite, case, scores).score
    low, high = math.floor(100 * (base - width)) / 100, math.ceil(100 * (base + width)) / 100
    return Expectation("score", max(0.0, low), min(1.0, high))


def _direction(differences: list[float]) -> str:
    if max(map(abs, differences)) <= INVARIANCE_TOLERANCE:
        return "same"
    if min(differences) > 0:
        return "higher"
    return "lower" if max(differences) < 0 else "same_class"

"""New cases: an offending row of a table, and expectations proposed from what a model says now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.behavior.running.model_adapter import as_predict
from gendebug_torch.behavior.running.run import last_line, score_groups
from gendebug_torch.behavior.running.verdict import judge, predicted
from gendebug_torch.behavior.suite.cases import INVARIANCE_TOLERANCE, Case, Expectation, Suite
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
        table: `[n, columns]`.
        row: position, counted from 0.
        suite: where the case will go; names the columns where `fields` do not: its `features`, else
            those that its inputs use, else all.
        expect: `0.0:0.3` for a range of scores, or a class; None makes a draft.
        fields: columns to take.
        source: of the row, for the id and the origin.
        more: further fields of the case; `id` and `origin` replace those made from the source.

    Raises:
        InputError: no such row or column, or a range outside [0, 1].
    """
    if not 0 <= row < len(table):
        reject(
            "row",
            f"a position in 0..{len(table) - 1}",
            str(row),
            "Rows are counted from 0, the header is none.",
        )
    used = dict.fromkeys(name for case in suite.cases for name in case.input)
    wanted = (
        list(fields)
        or list(suite.features)
        or [name for name in used if name in table]
        or list(map(str, table.columns))
    )
    if missing := [name for name in wanted if name not in table]:
        hint = did_you_mean(missing[0], map(str, table.columns))
        reject(
            "fields", f"columns of {source}", ", ".join(missing), f"{hint}Name them with --fields."
        )
    stem = Path(source).name.partition(".")[0]
    case: dict[str, Any] = {"id": f"{stem}-row-{row}", "origin": f"{Path(source).name} row {row}"}
    case["input"] = {name: plain(table[name].iloc[row]) for name in wanted}
    if expect is not None:
        case["expect"] = expectation_of(expect).plain()
    return case | {key: value for key, value in more.items() if value}


def expectation_of(text: str) -> Expectation:
    """`0.0:0.3` as a range of scores, everything else as a class.

    Raises:
        InputError: a range outside [0, 1].
    """
    low, colon, high = text.partition(":")
    try:
        bounds = [float(low), float(high)] if colon else []
    except ValueError:
        bounds = []
    return Expectation.of(
        {"score": bounds} if bounds else {"class": int(text) if text.isdigit() else text}
    )


def plain(value: Any) -> Any:
    """A cell as a YAML scalar: numbers as they are, missing values as null, times as ISO text."""
    if isinstance(value, np.generic):
        value = value.item()
    if (
        value is None
        or value is pd.NaT
        or value is pd.NA
        or (isinstance(value, float) and math.isnan(value))
    ):
        return None
    return (
        value
        if isinstance(value, (bool, int, float, str))
        else value.isoformat()
        if hasattr(value, "isoformat")
        else str(value)
    )


def proposed_expectations(
    suite: Suite, model: Any, *, width: float = 0.1
) -> tuple[dict[str, Any], dict[str, str]]:
    """Draft -> what the model says of it now, as an expectation that a person must confirm; and
    draft -> why there is none.

    Two classes give a range of scores, more give the class; a draft with a change gives `same` or
    the direction.

    Args:
        suite: with drafts: cases without `expect`.
        model: as for `run_suite`.
        width: half the range of scores.
    """
    drafts = [case for case in suite.cases if case.expect is None]
    scored = score_groups(as_predict(model, suite.features), [case.inputs for case in drafts])
    found, broken = {}, {}
    for case, scores in zip(drafts, scored, strict=True):
        if isinstance(scores, str):
            broken[case.id] = last_line(scores)
        else:
            found[case.id] = _proposal(suite, case, scores, width).plain()
    return found, broken


def _proposal(suite: Suite, case: Case, scores: list[list[float]], width: float) -> Expectation:
    base = judge(suite, case, scores).score
    if len(scores) > 1:
        moved = [
            row[1 if len(row) == 2 else predicted(suite, scores[0])] - base for row in scores[1:]
        ]
        still = max(map(abs, moved)) <= INVARIANCE_TOLERANCE
        return Expectation(
            "same"
            if still
            else "higher"
            if min(moved) > 0
            else "lower"
            if max(moved) < 0
            else "same_class"
        )
    if len(scores[0]) > 2:
        return Expectation(
            "class",
            classes=(
                suite.classes[predicted(suite, scores[0])]
                if suite.classes
                else predicted(suite, scores[0]),
            ),
        )
    low, high = math.floor(100 * (base - width)) / 100, math.ceil(100 * (base + width)) / 100
    return Expectation("score", max(0.0, low), min(1.0, high))

"""The inputs of a diagnosis: that they are what they should be, how tables meet the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.rows import named
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_values
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError, reject
from gendebug_torch.model.collection.callables import as_model

# Times that are read to see that a column holds some.
_FIRST_TIMES = 1000


def validated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The model as a function, curves, and the records, each under the name of its split."""
    for name in ("train", "validation", "production"):
        if given[name] is not None and not isinstance(given[name], Records):
            remedy = "Build them with Records.from_frame, collect(model, loader) or profile(rows)."
            reject(name, "Records or a Profile", type(given[name]).__name__, remedy)
    model = None if given["model"] is None else as_model(given["model"])
    if given.get("served") is not None and not callable(given["served"]):
        remedy = "Load it first, e.g. with torch.jit.load or torch.export.load(...).module()."
        reject("served", "a module or a callable", type(given["served"]).__name__, remedy)
    sources = ("train", "validation", "production", "curves", "network", "behavior")
    if all(given[name] is None for name in sources):
        remedy = "Pass the records, curves, training or suite to inspect."
        reject(", ".join(sources), "at least one of them", "none", remedy)
    splits = ("train", "validation", "production")
    for name in splits:
        _check_times(given[name], name)
    records = of_one_task({name: named(given[name], name) for name in splits})
    return {"model": model, "curves": _curves_of(given["curves"])} | records


def _curves_of(curves: Any) -> LearningCurves | None:
    """Learning curves as they are, or from a table or the rows of a log."""
    if curves is None or isinstance(curves, LearningCurves):
        return curves
    if isinstance(curves, pd.DataFrame):
        return LearningCurves.from_frame(curves)
    if not isinstance(curves, Sequence) or not all(isinstance(row, Mapping) for row in curves):
        remedy = "Read them with LearningCurves.from_run(path), from_frame or from_log."
        reject("curves", "LearningCurves or the rows of a log", type(curves).__name__, remedy)
    return LearningCurves.from_log(curves)


def of_one_task(sides: Mapping[str, Any]) -> dict[str, Any]:
    """The records in one task: where some have quantities, outputs without labels are quantities.

    Raises:
        InputError: quantities on one side and classes on another.
    """
    records = {name: side for name, side in sides.items() if isinstance(side, Records)}
    tasks = {name: side.task for name, side in records.items() if _has_labels(side)}
    quantities = [name for name, task in tasks.items() if task is Task.REGRESSION]
    others = [name for name in tasks if name not in quantities and tasks[name] is not Task.DENSE]
    if not quantities:
        return dict(sides)
    if others:
        got = f"quantities in {quantities[0]} and classes in {others[0]}"
        remedy = "Declare `regression: true` or `classes` in the schema of both."
        reject("targets", "labels of one task", got, remedy)
    open_ones = {
        name: replace(side, task=None, schema=replace(side.schema, regression=True))
        for name, side in records.items()
        if name not in tasks and side.logits is not None and side.logits.ndim < 3
    }
    return dict(sides) | open_ones


def _check_times(records: Records | None, name: str) -> None:
    """Refuse a column of times none of which can be read, before every check does."""
    if records is None or records.metadata is None:
        return
    for column in (records.schema.time, records.schema.label_time):
        if column is None or column not in records.metadata:
            continue
        times = records.metadata[column]
        try:
            parse_times(times.dropna().head(_FIRST_TIMES))
        except InputError:
            parse_times(times, f"column {column} of {name}")


def _has_labels(records: Records) -> bool:
    return records.targets is not None and not bool(missing_values(records.targets).all())


def fed_by_name(findings: list[Finding], given: Mapping[str, Any]) -> dict[str, Records]:
    """Tables with the columns that the model was trained on, in their order, with a note.

    The first table of training or validation says which columns those are.
    """
    tables = {
        name: given[name]
        for name in ("train", "validation", "production")
        if given[name] is not None and isinstance(given[name].features, pd.DataFrame)
    }
    if given["model"] is None or not tables or next(iter(tables)) == "production":
        return {}
    columns = list(next(iter(tables.values())).features.columns)
    aligned = {}
    for name, records in tables.items():
        own = list(records.features.columns)
        if own == columns or not set(columns) <= set(own):
            continue
        aligned[name] = replace(records, features=records.features[columns])
        extra = [column for column in own if column not in columns]
        also = f" Left out: {', '.join(extra[:5])}." if extra else ""
        text = (
            f"The columns of {name} are not those of training in their order; the model is fed by "
            f"column name.{also}"
        )
        numbers = {"order": own, "left_out": extra}
        remedy = "Make sure that serving feeds the model by column name as well."
        note = Finding("diagnose.columns", Cause.TRAIN_SERVE_SKEW, Severity.NOTE, text)
        findings.append(replace(note, numbers=numbers, remedy=remedy, inputs=(name,)))
    return aligned

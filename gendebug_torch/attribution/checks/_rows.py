"""Rows that the checks of attribution explain, and what explaining them costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.model.binary import PositiveLogit, is_binary
from gendebug_torch.model.evaluation import Model

_MIN_ROWS = 50
# Quantities that are explained, of more outputs the first.
_MAX_OUTPUTS = 4
# Rows from which shares of attribution are estimated, and steps of their integrals: shares need no
# better accuracy.
SHARE_ROWS, SHARE_STEPS = 500, 32


def sample_records(records: Records, rows: int, seed: int) -> Records:
    """At most this many rows, sampled without repetition."""
    if len(records) <= rows:
        return records
    generator = torch.Generator().manual_seed(seed)
    return records.select(torch.randperm(len(records), generator=generator)[:rows].sort().values)


def explained_rows(records: Records, rows: int) -> int:
    """How many rows are explained: a quarter of them where each is a picture or a series.

    A pass of theirs costs what hundreds of a table do; 125 rows tell 10 % from 20 %.

    Args:
        records: rows with features.
        rows: most rows of a table.
    """
    features = records.features
    return rows // 4 if isinstance(features, Tensor) and features.ndim > 2 else rows


def inputs_only(records: Records) -> Records:
    """The features alone, whose explained output does not depend on labels or quantities."""
    return Records(records.features, name=records.name)


def reason_not_to_explain(records: Records) -> str:
    """Why rows cannot be explained as a table of floats `[n, d]`; empty if they can."""
    if len(records) < _MIN_ROWS:
        return f"{records.name} has {len(records)} rows, fewer than {_MIN_ROWS}"
    inputs = model_inputs(records)
    if inputs.ndim != 2:
        shape = list(inputs.shape[1:])
        return f"a row of {records.name} has shape {shape}, and columns of a table are judged here"
    return "" if inputs.is_floating_point() else f"the features of {records.name} are no floats"


def row_count(given: Mapping[str, Any], name: str, max_rows: int) -> int:
    """Rows of the records of this name among the inputs of a check, up to a limit."""
    records = given.get(name)
    return 0 if records is None else min(max_rows, len(records))


def explanation_cost(times: int, max_rows: int) -> Callable[[Mapping[str, Any]], Cost]:
    """Cost of explaining the validation rows so many times with 50 steps."""

    def cost(given: Mapping[str, Any]) -> Cost:
        validation = given["validation"]
        rows = float(times * min(explained_rows(validation, max_rows), len(validation)))
        return Cost(backwards=50 * rows, forwards=3 * rows)

    return cost


def single_logit(model: Model, records: Records) -> Model:
    """A binary network as one logit, so that contributions mean the same in all rows."""
    return PositiveLogit(model) if is_binary(model, records) else model


def output_attributions(model: Model, records: Records) -> list[Attributions]:
    """Attributions of rows for shares: of the predicted class, or of each of the first quantities.

    Args:
        model: network to explain.
        records: rows with features; targets say whether outputs are quantities.
    """
    model, rows = single_logit(model, records), inputs_only(records)
    options: dict[str, Any] = {"baseline": "median", "steps": SHARE_STEPS, "trust": False}
    outputs = 1
    if records.task is Task.REGRESSION and records.targets is not None:
        outputs = 1 if records.targets.ndim < 2 else records.targets.shape[1]
    if outputs == 1:
        return [attribute(model, rows, **options)]
    return [
        attribute(model, rows, target=output, **options)
        for output in range(min(outputs, _MAX_OUTPUTS))
    ]

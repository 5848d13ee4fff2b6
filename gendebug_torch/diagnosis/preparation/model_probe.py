"""Whether a network gives a row one answer, whatever it was asked before and beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.errors import brief
from gendebug_torch.model.batches import cut, leaves
from gendebug_torch.model.devices import device_of
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import as_model_takes, logits_of

_ROWS = 16
# Rows that go through the model: all twice, and each alone.
PROBED_ROWS = 3 * _ROWS
# Change of an output, in standard deviations of the outputs, that rounding does not explain.
_LIMIT = 0.01


def output_changes(model: Model, inputs: Any, device: torch.device) -> tuple[float, float, str]:
    """Mean changes of the outputs, in their standard deviations: called again, and row by row.

    Where one row alone is refused, the change is infinite, and the text says by which error.

    Args:
        model: module or callable.
        inputs: a batch of at least two rows.
        device: device of the module meanwhile.

    Cost: `2 + n` forwards of at most n rows.
    """
    inputs = as_model_takes(inputs, model, device)
    rows = len(next(leaves(inputs)))
    with evaluating(model, device=device), torch.no_grad():
        first, again = logits_of(model, inputs), logits_of(model, inputs)
        spread = float(first.double().std()) or 1.0
        repeated = float((again - first).double().abs().mean()) / spread
        try:
            single = torch.cat([logits_of(model, cut(inputs, at, at + 1)) for at in range(rows)])
        # Whatever a network raises of one row, it has just answered it among others.
        except (RuntimeError, ValueError, IndexError) as error:
            return repeated, math.inf, f"{type(error).__name__}: {brief(str(error))}"
    return repeated, float((single - first).double().abs().mean()) / spread, ""


def model_findings(given: Mapping[str, Any], device: str | torch.device) -> Iterator[Finding]:
    """What is wrong with a network that gives the same row different answers.

    Args:
        given: inputs of the diagnosis by name.
        device: device of the forward passes.
    """
    sides = [given[name] for name in ("validation", "production", "train")]
    fed = [rows for side in sides if side is not None and (rows := _rows(side)) is not None]
    if given["model"] is None or not fed:
        return
    again, single, error = output_changes(given["model"], fed[0], device_of(device))
    numbers = {"again": again, "row_by_row": single, "rows": len(fed[0])}
    how: dict[str, Any] = {"numbers": numbers, "inputs": ("model",)}
    if again > _LIMIT:
        yield Finding(
            "diagnose.model",
            Cause.UNRELIABLE_EXPLANATION,
            Severity.WARN,
            "The network is random in evaluation mode: two calls on the same rows change its "
            f"outputs by {again:.2g} standard deviations.",
            remedy="Use nn.Dropout, or `training=self.training`; draw no states in forward.",
            **how,
        )
    elif single > _LIMIT:
        yield Finding(
            "diagnose.model",
            Cause.TRAIN_SERVE_SKEW,
            Severity.WARN,
            "The answer to a row depends on the other rows of its batch: "
            + (
                f"one row alone is refused ({error})."
                if error
                else f"row by row the outputs change by {single:.2g} standard deviations."
            ),
            remedy="Use the running statistics of BatchNorm, and no statistics over the batch.",
            **how,
        )


def _rows(records: Records) -> Tensor | None:
    """A few rows that the network can be fed; None where there are none."""
    features = records.features
    if isinstance(features, pd.DataFrame):
        if any(dtype.kind not in "fiu" for dtype in features.dtypes):
            return None
        complete = features.notna().all(axis=1).to_numpy().nonzero()[0][:_ROWS]
        return model_inputs(records.select(complete)) if len(complete) > 1 else None
    return features[:_ROWS] if features is not None and len(features) > 1 else None

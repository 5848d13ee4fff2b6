"""Comparison of attributions in half precision with float32, on a few rows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.precision import PrecisionCheck, compare_precisions
from gendebug_torch.attribution.explain import explain
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.batches import sample_rows
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.evaluation import Model

_ROWS = 32


def precision_check(
    task: AttributionTask, model: Model, loader: Any, unpack: Unpack | None
) -> PrecisionCheck:
    """The same few rows in half precision and in float32, both for the class that float32 predicts.

    Args:
        task: options of the run.
        model: network.
        loader: rows.
        unpack: function from a batch to (inputs, targets).

    Raises:
        InputError: a loader that cannot be iterated again.
        UnsupportedError: attributions that are mostly rounding.
    """
    inputs, targets = sample_rows(loader, _ROWS, unpack=unpack)

    def run(own: AttributionTask, labels: Tensor | None) -> Attributions:
        return explain(own, model, [(inputs, labels)], unpack=lambda batch: batch, alone=True)

    single = run(replace(task, precision="32-true"), targets)
    if task.target == "predicted" and len(single) and int(single.targets.min()) >= 0:
        half = run(replace(task, target="target"), single.targets)
    else:
        half = run(task, targets)
    check = compare_precisions(half.flat, single.flat, task.precision)
    if not check.usable:
        raise UnsupportedError(
            f"{check}: that is mostly rounding. Use precision='32-true' for {single.method}"
        )
    if not check.accurate:
        warnings.warn(f"{check}; `32-true` avoids it", stacklevel=3)
    return check

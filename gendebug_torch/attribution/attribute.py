"""`attribute()`: one method over all rows of a loader, in batches, the network left unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions, stored_rows
from gendebug_torch.attribution.devices import Devices, explain_on_devices
from gendebug_torch.attribution.explain import explain
from gendebug_torch.attribution.explanation.baselines import (
    FROM_ROWS,
    SAMPLE_ROWS,
    check_baseline,
)
from gendebug_torch.attribution.explanation.explained_output import check_target
from gendebug_torch.attribution.explanation.row_sample import row_sample
from gendebug_torch.attribution.explanation.task import AttributionTask, explains_layer
from gendebug_torch.attribution.trust.audit import trust_card
from gendebug_torch.attribution.trust.half_precision import precision_check
from gendebug_torch.attribution.trust.robustness_trials import total_evaluations
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.model.batches import sample_rows
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.devices import Precision, device_of
from gendebug_torch.model.evaluation import Model, on_device

# Rows for a mean or median baseline.
_CENTER_ROWS = 2048


def attribute(
    model: Model,
    loader: Any,
    method: Any = "integrated_gradients",
    *,
    target: str | int = "predicted",
    baseline: Any = None,
    groups: Sequence[int] | Tensor | None = None,
    parts: Sequence[str] | None = None,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    compile: bool = False,
    batch_size: int | None = None,
    feature_names: Sequence[str] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    stream: bool = False,
    trust: bool | Literal["full"] = True,
    **method_options: Any,
) -> Attributions:
    """Contributions of every input to one output of every row.

    Inside a process group (torchrun, Lightning Fabric) the ranks share the batches, and each gets
    all rows.

    Args:
        model: module or callable from inputs to logits `[n]`, `[n, 1]` or `[n, k]`; it is left as
            it was.
        loader: DataLoader, batches, Tensor, or `Records`; inputs are a Tensor, a tuple or a mapping
            of Tensors.
        method: name in `METHODS`, or any class of captum.attr by name or as an instance
            (`captum.Saliency` for Captum's own).
        target: `predicted` class of each row, `target` for its label, `margin` of the predicted
            class over the next, or a class id. For a single logit, class 1 is the logit, class 0
            its negative, and `predicted` the logit itself. For several quantities, the number of
            one output.
        baseline: `zero`, `mean`, `median`, `sample`, `blur`, a number, one row, or rows of the same
            structure.
        groups: `[d]` feature of each input, where inputs are explained together.
        parts: keys or positions of the attributed Tensors; default all that can be.
        unpack: function from a batch to (inputs, targets).
        device: device of the network; `auto` takes CUDA if there is one.
        devices: number of devices with one process each, their numbers, or `auto` for all.
        precision: as in Lightning; half precision is first compared with float32 on a few rows.
        compile: whether the network runs through torch.compile, except for methods with hooks.
        batch_size: rows per batch for a Tensor or Records.
        feature_names: names of the features; default the columns of a table.
        progress: whether to show rows per second and the time left.
        checkpoint: directory of shards, with which an interrupted run continues.
        stream: whether the answers stay in `checkpoint` and are mapped into memory, so that memory
            does not grow with the rows.
        trust: whether to measure the trust card on a sample of rows, in at most a fifth of the
            model evaluations of the run; `full` for all of it at any cost.
        **method_options: options of the method, e.g. `steps=100`, `samples=500`, or `layer="body"`
            for Captum.

    Raises:
        InputError: an unknown method, target or option, or a loader of something unknown.
        UnsupportedError: a method that cannot answer for this model, or a precision whose answers
            are mostly rounding.

    Source: that of each method in its function; for Captum's Kokhlikyan et al. (2020),
    arXiv:2009.07896.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0, 0.0]]))
        >>> result = attribute(model, torch.ones(4, 3), feature_names=["a", "b", "c"])
        >>> result.table()[["feature", "mean"]].round(3).values.tolist()
        [['a', 2.0], ['b', -1.0], ['c', 0.0]]
    """
    model = as_model(model)
    check_target(target)
    check_baseline(baseline)
    if stream and checkpoint is None:
        reject("checkpoint", "a directory to stream to", "None", "Pass one, or leave `stream` out.")
    if trust not in (True, False, "full"):
        reject("trust", "True, False or `full`", repr(trust), "Choose one of them.")
    if isinstance(loader, Records) and loader.schema.regression and loader.targets is not None:
        # As floats, counts are quantities too.
        loader = replace(loader, targets=loader.targets.float())
    task = AttributionTask(
        method=method,
        target=target,
        baseline=baseline,
        background=_background(baseline, loader, unpack),
        groups=groups,
        parts=parts,
        feature_names=_names(loader, method) if feature_names is None else tuple(feature_names),
        device=device,
        precision=precision,
        compile=compile,
        options=method_options,
    )
    check = None if precision == "32-true" else precision_check(task, model, loader, unpack)
    sample = row_sample(loader, unpack, shared=devices != 1) if trust else None
    options: dict[str, Any] = {"unpack": unpack, "batch_size": batch_size, "progress": progress}
    options |= {"checkpoint": checkpoint, "stream": stream}
    # The network stays there for the trust card, whose trials would move it again and again.
    with on_device(model, device_of(device) if devices == 1 else None):
        if devices == 1:
            watch = sample.add if sample is not None and not len(sample) else None
            result = explain(task, model, loader, watch=watch, **options)
        else:
            result = explain_on_devices(task, model, loader, devices, **options)
        result = replace(result, precision=check, modality=_drawable(loader, result))
        if sample is None:
            return result
        streamed = stream and checkpoint is not None
        rows = (
            stored_rows(result, str(checkpoint), sample.positions)
            if streamed
            else result.select(sample.positions)
        )
        noise = loader.schema.noise if isinstance(loader, Records) else ()
        total, full = total_evaluations(result), trust == "full"
        return replace(
            result, trust=trust_card(task, model, rows, sample, total, noise=noise, full=full)
        )


def _drawable(loader: Any, result: Attributions) -> str | None:
    """The modality of inputs whose contributions are drawn over them; None of others."""
    own = loader.features if isinstance(loader, Records) else loader
    values, inputs = result.values, result.inputs
    if inputs is None or inputs.shape != values.shape:
        return None
    modality = modality_of(own if isinstance(own, Tensor) else inputs)
    fits = not isinstance(own, Tensor) or own.shape[1:] == values.shape[1:]
    named = modality is not None and modality.name in ("image", "text")
    return modality.name if modality is not None and named and fits else None


def _background(baseline: Any, loader: Any, unpack: Unpack | None) -> Any:
    """Inputs of the data for a baseline that is computed from rows."""
    if not isinstance(baseline, str) or baseline not in FROM_ROWS:
        return None
    rows = SAMPLE_ROWS if baseline == "sample" else _CENTER_ROWS
    return sample_rows(loader, rows, unpack=unpack)[0]


def _names(loader: Any, method: Any) -> tuple[str, ...]:
    """Columns of a table; none for the units of a layer."""
    table = isinstance(loader, Records) and isinstance(loader.features, pd.DataFrame)
    if not table or explains_layer(method):
        return ()
    return tuple(map(str, loader.features.columns))

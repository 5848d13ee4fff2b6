"""`attribute()`: one method over all rows of a loader, in batches, the network left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.captum_bridge import Explain, captum_step, words
from gendebug_torch.attribution.gradient import gradient, integrated_gradients
from gendebug_torch.errors import reject
from gendebug_torch.records import Records
from gendebug_torch.runner import Model, Precision, Unpack, logits_of, map_rows

OWN = ("integrated_gradients", "saliency", "input_x_gradient")


def attribute(
    model: Model,
    loader: Any,
    method: Any = "integrated_gradients",
    *,
    target: str | int = "predicted",
    baseline: Tensor | float | None = None,
    steps: int = 50,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    feature_names: Sequence[str] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    **method_options: Any,
) -> Attributions:
    """Contributions of every input to one output of every row.

    Args:
        model: module or callable from inputs to logits `[n]`, `[n, 1]` or `[n, k]`; left as it was found.
        loader: DataLoader, batches, Tensor, or `Records`.
        method: `integrated_gradients`, `saliency`, `input_x_gradient`, or any class of captum.attr by name or
            as an instance (`captum.IntegratedGradients` for Captum's own).
        target: `predicted` class of each row, `target` for its label, or one class id for all.
        baseline: what stands for "no signal", broadcastable to a row; default 0.
        steps: of integrated gradients.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one.
        precision: as in Lightning.
        batch_size: rows at once for a Tensor or Records.
        feature_names: default: the columns of a table.
        progress: show a bar.
        checkpoint: directory of shards, so that an interrupted run goes on where it stopped.
        **method_options: arguments of a Captum method, e.g. `layer=model.body`.

    Raises:
        InputError: an unknown method, target or option, or a loader that yields something unknown.
        UnsupportedError: a method that cannot answer for this model.

    Cost: as the method; integrated gradients take `steps` forwards and backwards per row.

    Source: as `integrated_gradients`; for Captum's methods Kokhlikyan et al. (2020), arXiv:2009.07896.
    """
    if isinstance(target, bool) or not (isinstance(target, int) or target in ("predicted", "target")):
        reject("target", "`predicted`, `target` or a class id", repr(target), "Choose one of them.")
    own = isinstance(method, str) and method in OWN
    explain = _own(model, method, baseline, steps, method_options) if own else None
    if explain is None:
        options = dict(method_options)
        if baseline is not None:
            options["baselines"] = baseline
        explain = captum_step(model, method, options, steps)

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        if not isinstance(inputs, Tensor):
            reject("loader", "one Tensor of inputs per batch", type(inputs).__name__, "Pass `unpack` that gives (inputs, targets).")
        explained = _classes(model, inputs, targets, target)
        return explain(inputs, explained) | {"explained": explained}

    how: dict[str, Any] = {"unpack": unpack, "device": device, "precision": precision, "batch_size": batch_size}
    rows = map_rows(step, loader, model=model, grad=True, progress=progress, checkpoint=checkpoint, **how)
    names = tuple(feature_names) if feature_names is not None else _names(loader)
    return Attributions(rows["values"], rows["explained"], rows.get("delta"), words(method), names)


def _own(model: Model, method: str, baseline: Tensor | float | None, steps: int, options: dict[str, Any]) -> Explain:
    if options:
        reject("method_options", f"no further options for {method}", str(sorted(options)), "Pass `baseline` and `steps` by name.")

    def output(inputs: Tensor) -> Tensor:
        return logits_of(model, inputs)

    def explain(inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        if method == "integrated_gradients":
            start = None if baseline is None else torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device)
            values, delta = integrated_gradients(output, inputs, target.clamp(min=0), baseline=start, steps=steps)
            return {"values": values.float(), "delta": delta.float()}
        slope = gradient(output, inputs, target.clamp(min=0))
        return {"values": slope.float() if method == "saliency" else (slope * inputs).float()}

    return explain


def _classes(model: Model, inputs: Tensor, targets: Tensor | None, target: str | int) -> Tensor:
    """`[r]` int64 class to explain; -1 where the model has a single output."""
    with torch.no_grad():
        logits = logits_of(model, inputs)
    if logits.ndim == 1:
        return torch.full((len(inputs),), -1, dtype=torch.int64, device=logits.device)
    if target == "target":
        if targets is None or targets.is_floating_point():
            reject("target", "a loader that yields class targets", "none", "Pass targets, or explain the `predicted` class.")
        return targets.long()
    if target == "predicted":
        return logits.argmax(1)
    if not 0 <= int(target) < logits.shape[1]:
        reject("target", f"a class id in 0..{logits.shape[1] - 1}", str(target), "Choose one of the model's outputs.")
    return torch.full((len(inputs),), int(target), dtype=torch.int64, device=logits.device)


def _names(loader: Any) -> tuple[str, ...]:
    if isinstance(loader, Records) and isinstance(loader.features, pd.DataFrame):
        return tuple(map(str, loader.features.columns))
    return ()

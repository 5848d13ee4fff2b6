"""`attribute()`: one method over all rows of a loader, in batches, the network left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions, stored_rows
from gendebug_torch.attribution.devices import Devices, explained_by_devices
from gendebug_torch.attribution.explanation.baselines import BACKGROUND, FROM_ROWS, check_baseline
from gendebug_torch.attribution.explanation.explained_output import check_target
from gendebug_torch.attribution.explanation.explainer import Explainer
from gendebug_torch.attribution.explanation.row_sample import row_sample
from gendebug_torch.attribution.methods.captum_bridge import of_layer
from gendebug_torch.attribution.trust.audit import trust_card
from gendebug_torch.attribution.trust.half_precision import precision_check
from gendebug_torch.attribution.trust.robustness_trials import cost_of
from gendebug_torch.data.batches import Unpack, sample_rows
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, Precision

# Rows from which a mean or median baseline is taken.
_KNOWN_ROWS = 2048


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
        model: module or callable from inputs to logits `[n]`, `[n, 1]` or `[n, k]`; left as it was
            found.
        loader: DataLoader, batches, Tensor, or `Records`; inputs are a Tensor, a tuple or a mapping
            of Tensors.
        method: a name in `METHODS`, or any class of captum.attr by name or as an instance
            (`captum.Saliency` for Captum's own).
        target: `predicted` class of each row, `target` for its label, `margin` of the predicted
            class over the next, or a class id. Of a single logit class 1 is the logit, class 0
            minus it, `predicted` the logit itself.
        baseline: `zero`, `mean`, `median`, `sample`, `blur`, a number, one row, or rows of the same
            structure.
        groups: `[d]` feature of each input, where inputs are taken together.
        parts: keys or positions of the Tensors to attribute; default all that can be.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one.
        devices: start a process on each of so many devices, on those with these numbers, or on all
            (`auto`).
        precision: as in Lightning; half precision is first compared with float32 on a few rows.
        compile: run the network through torch.compile, but for methods that set hooks on it.
        batch_size: rows at once for a Tensor or Records.
        feature_names: default: the columns of a table.
        progress: show rows per second and the time left.
        checkpoint: directory of shards, so that an interrupted run goes on where it stopped.
        stream: leave the answers in `checkpoint` and map them into memory, so that memory does not
            grow with the rows.
        trust: measure how far the answers can be believed, on a sample of rows, in at most a fifth
            of the model evaluations of the run; `full` on as many rows as that takes; False not at
            all.
        **method_options: of the method, e.g. `steps=100`, `samples=500`, or `layer="body"` for
            Captum.

    Raises:
        InputError: an unknown method, target or option, or a loader that yields something unknown.
        UnsupportedError: a method that cannot answer for this model, or a precision in which its
            answers are rounding.

    Source: of each method in its function; for Captum's Kokhlikyan et al. (2020), arXiv:2009.07896.
    """
    check_target(target)
    check_baseline(baseline)
    if stream and checkpoint is None:
        reject("checkpoint", "a directory to stream to", "None", "Pass one, or leave `stream` out.")
    if trust not in (True, False, "full"):
        reject("trust", "True, False or `full`", repr(trust), "Choose one of them.")
    needed = {"sample": BACKGROUND}.get(str(baseline), _KNOWN_ROWS)
    known = (
        sample_rows(loader, needed, unpack=unpack)[0]
        if isinstance(baseline, str) and baseline in FROM_ROWS
        else None
    )
    names = (
        tuple(feature_names)
        if feature_names is not None
        else ()
        if of_layer(method)
        else _names(loader)
    )
    asked = Explainer(
        method,
        target,
        baseline,
        known,
        groups,
        parts,
        names,
        device,
        precision,
        compile,
        method_options,
    )
    checked = None if precision == "32-true" else precision_check(asked, model, loader, unpack)
    sample = row_sample(loader, unpack, shared=devices != 1) if trust else None
    how: dict[str, Any] = {
        "unpack": unpack,
        "batch_size": batch_size,
        "progress": progress,
        "checkpoint": checkpoint,
        "stream": stream,
    }
    if devices == 1:
        found = asked.explain(
            model,
            loader,
            watch=sample.add if sample is not None and not len(sample) else None,
            **how,
        )
    else:
        found = explained_by_devices(asked, model, loader, devices, **how)
    found = replace(found, precision=checked)
    if sample is None:
        return found
    noise = loader.schema.noise if isinstance(loader, Records) else ()
    kept = (
        found.select(sample.positions)
        if not stream or checkpoint is None
        else stored_rows(found, checkpoint, sample.positions)
    )
    return replace(
        found,
        trust=trust_card(
            asked, model, kept, sample, cost_of(found), noise=noise, full=trust == "full"
        ),
    )


def _names(loader: Any) -> tuple[str, ...]:
    if isinstance(loader, Records) and isinstance(loader.features, pd.DataFrame):
        return tuple(map(str, loader.features.columns))
    return ()

"""`explain()`: an `AttributionTask` over all rows of a loader."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions, joined_rows
from gendebug_torch.attribution.explanation.batch import BatchBuilder, ExplainedBatch
from gendebug_torch.attribution.explanation.input_space import InputSpace, unwrapped
from gendebug_torch.attribution.explanation.task import AttributionTask, explains_layer
from gendebug_torch.attribution.methods.captum.bridge import captum_method
from gendebug_torch.attribution.methods.captum.classes import perturbs_inputs
from gendebug_torch.attribution.methods.table import METHODS, Method
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.devices import fitting
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import map_rows


def own_method(task: AttributionTask) -> Method | None:
    """The method of this library that a task names; None for one of Captum."""
    return METHODS.get(task.method) if isinstance(task.method, str) else None


def takes_seed(task: AttributionTask) -> bool:
    """Whether the method of a task is one of this library with a `seed`."""
    own = own_method(task)
    return own is not None and "seed" in inspect.signature(own.function).parameters


def uses_gradient(task: AttributionTask) -> bool:
    """Whether a task explains inputs by the gradient of the output, or by rules in its place."""
    own = own_method(task)
    if own is not None:
        return own.gradient
    return not explains_layer(task.method) and not perturbs_inputs(task.method)


def explain(
    task: AttributionTask,
    model: Model,
    loader: Any,
    *,
    checkpoint: str | Path | None = None,
    stream: bool = False,
    **run_options: Any,
) -> Attributions:
    """Contributions of every row of a loader.

    Args:
        task: options of the run.
        model: network.
        loader: rows, as in `attribute`.
        checkpoint: directory of shards.
        stream: whether the answers stay in `checkpoint` and are mapped into memory.
        **run_options: options of `map_rows`.

    Raises:
        InputError: an unknown method or option.
        UnsupportedError: a method that cannot answer for this network.
    """
    method = _bound_method(task, model)
    builder = BatchBuilder(task, _network(task, model), method.gradient)
    # What `map_rows` hands to ranks without a batch, and to a run that finds all shards finished.
    notes: dict[str, Any] = {}

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        with gradients_enabled(model):
            batch, space = builder.build(inputs, targets)
            # The runner halves rows if even their outputs do not fit; points are halved here.
            answer = fitting(lambda: _answer(method, builder.limit(batch)), builder.halve)
        notes["names"] = space.names if task.groups is None and not method.layer else ()
        return _row_fields(batch, space, answer, method)

    rows = map_rows(
        step,
        loader,
        model=model,
        grad=True,
        checkpoint=checkpoint,
        keep=not stream,
        device=task.device,
        precision=task.precision,
        identity=task.digest,
        learned=notes,
        **run_options,
    )
    rows = joined_rows(checkpoint) if stream and checkpoint is not None else rows
    names = task.feature_names or tuple(notes.get("names", ()))
    return Attributions.from_rows(rows, task.title, names)


def _answer(method: Method, batch: ExplainedBatch) -> dict[str, Tensor]:
    """The answer of a method; a network that uses its inputs as indices may refuse the points."""
    try:
        return method.function(batch)
    except IndexError as error:
        raise UnsupportedError(
            f"the network accepts the rows, but not points between or beside them ({error}): it "
            "seems to use an input as an index. Choose `kernel_shap` or `feature_ablation`, with a "
            "row of the data as `baseline`."
        ) from error


def _bound_method(task: AttributionTask, model: Model) -> Method:
    """The method of a task for this network, its options checked."""
    own = own_method(task)
    if own is not None:
        return own.with_options(str(task.method), dict(task.options))
    return captum_method(model, task.method, dict(task.options), task.baseline is not None)


def _network(task: AttributionTask, model: Model) -> Model:
    """The network to evaluate, compiled on request; Captum's hooks need the plain module."""
    if own_method(task) is None:
        return unwrapped(model)
    if not task.compile:
        return model
    module = unwrapped(model)
    before = set(vars(module))
    compiled = torch.compile(module)
    # torch.compile leaves an attribute on the module of the user.
    for name in set(vars(module)) - before:
        vars(module).pop(name)
    return compiled


@contextlib.contextmanager
def gradients_enabled(model: Model) -> Iterator[None]:
    """Gradients on whatever the caller's mode; recurrent layers off cuDNN.

    In evaluation mode cuDNN has no backward pass for them.
    """
    recurrent = isinstance(model, nn.Module) and any(
        isinstance(module, nn.RNNBase) for module in model.modules()
    )
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        yield


def _row_fields(
    batch: ExplainedBatch, space: InputSpace, answer: dict[str, Tensor], method: Method
) -> dict[str, Tensor]:
    """The per-row fields of `Attributions` for one batch."""
    values = answer.pop("values").detach()
    # A gradient may be finite where the output is not; it means nothing there.
    finite = batch.output_change.isfinite()
    values = torch.where(finite.reshape(-1, *[1] * (values.ndim - 1)), values, torch.nan)
    if values.shape == space.points.shape and batch.groups is not None:
        values = batch.per_feature(values)
    # The units of a layer are not the inputs, even where there are as many.
    per_input = not method.layer and torch.Size(values.shape[1:]).numel() == batch.features
    values = values.reshape(len(space.points), *batch.shape) if per_input else values
    fields = {
        "values": values,
        "outputs": batch.outputs,
        "base": batch.baseline_outputs,
        "evaluations": batch.evaluations,
    }
    if method.complete and "convergence_delta" not in answer:
        change = batch.outputs.double() - batch.baseline_outputs.double()
        fields["convergence_delta"] = values.flatten(1).double().sum(1) - change
    if per_input and space.feature_values.shape[1] == batch.features:
        fields["inputs"] = space.feature_values.reshape(len(space.points), *batch.shape)
    floats = {name: value.detach().float() for name, value in (fields | answer).items()}
    return floats | {"targets": batch.classes}

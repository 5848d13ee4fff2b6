"""`explain()`: an `AttributionTask` over all rows of a loader."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gendebug_torch.attribution.attributions import Attributions, joined_rows
from gendebug_torch.attribution.explanation.batch import BatchBuilder, ExplainedBatch
from gendebug_torch.attribution.explanation.input_space import InputSpace, unwrapped
from gendebug_torch.attribution.explanation.task import AttributionTask, explains_layer
from gendebug_torch.attribution.methods.captum.bridge import captum_method
from gendebug_torch.attribution.methods.captum.classes import perturbs_inputs
from gendebug_torch.attribution.methods.table import METHODS, Method
from gendebug_torch.errors import UnsupportedError, brief, reject
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
        InputError: an unknown method or option, or a wrong number of feature names.
        UnsupportedError: a method that cannot answer for this network, or a network whose rows
            depend on each other.
    """
    _refuse_batch_statistics(model)
    method = _bound_method(task, model)
    builder = BatchBuilder(task, _network(task, model), method.gradient)
    # What `map_rows` hands to ranks without a batch, and to a run that finds all shards finished.
    notes: dict[str, Any] = {}

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        with gradients_enabled(model):
            batch, space = builder.build(inputs, targets)
            # The runner halves rows if even their outputs do not fit; points are halved here.
            answer = fitting(lambda: _answer(method, builder.limit(batch)), builder.halve)
        fields = _row_fields(batch, space, answer, method)
        notes["names"] = _feature_names(task, batch, space, method, fields["values"])
        return fields

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
    return Attributions.from_rows(rows, task.title, noted_names(notes))


def noted_names(notes: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the features in the notes of a run.

    Args:
        notes: what the run noted, or what was read from its directory.

    Raises:
        InputError: they are no names.
    """
    names = notes.get("names", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        reject("checkpoint", "names of features", brief(names), "Choose an empty directory.")
    return tuple(names)


def _refuse_batch_statistics(model: Model) -> None:
    """Refuse a network in which the output of a row depends on the other rows of its batch."""
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    for name, module in modules:
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UnsupportedError(
                f"`{name}` is a {type(module).__name__} without running statistics: in evaluation "
                "mode too, the output of a row depends on the other rows of its batch, and so has "
                "no attribution of its own. Use `track_running_stats=True`, or another "
                "normalization."
            )


def _feature_names(
    task: AttributionTask,
    batch: ExplainedBatch,
    space: InputSpace,
    method: Method,
    values: Tensor,
) -> tuple[str, ...]:
    """A name for each attribution of a row, groups named by their members; empty for numbers."""
    width = torch.Size(values.shape[1:]).numel()
    names = task.feature_names or (() if method.layer else space.names)
    inputs = space.feature_values.shape[1]
    if task.groups is not None and len(names) == inputs and width == batch.features:
        _, numbers = torch.unique(torch.as_tensor(task.groups).cpu(), return_inverse=True)
        members: list[list[str]] = [[] for _ in range(width)]
        for name, group in zip(names, numbers.flatten().tolist(), strict=True):
            members[group].append(name)
        return tuple(map(_group_name, members))
    if task.feature_names and len(names) != width:
        expected = f"{width} names, one per attribution of a row"
        remedy = "Name every input, or leave them out."
        reject("feature_names", expected, f"{len(names)}: {list(names)[:5]}", remedy)
    return names if len(names) == width else ()


def _group_name(members: list[str]) -> str:
    """The names of the members of a group, the first three of them."""
    more = [f"{len(members) - 3} more"] if len(members) > 3 else []
    return " + ".join(members[:3] + more)


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

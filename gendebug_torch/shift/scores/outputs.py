"""The outputs of a model, one by one: names, labels of each, and which of them are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task

# Labels or outputs that are compared one by one; of more, those that vary most.
MAX_OUTPUTS = 30


@dataclass(frozen=True, eq=False)
class LabeledOutput:
    """One output of a model on the labeled rows of both sides, on the host.

    Args:
        name: name of the output.
        predictions: its outputs for the reference, `[n]` float64.
        targets: its labels, answers 0 and 1 `[n]` int64, or quantities `[n]` float64.
        live_predictions: its outputs for production, `[m]` float64.
        live_targets: its labels in production, `[m]`.
    """

    name: str
    predictions: Tensor
    targets: Tensor
    live_predictions: Tensor
    live_targets: Tensor


def task_of_pair(reference: Records, production: Records) -> Task | None:
    """The task of two sides, of which one may lack the labels that tell it."""
    tasks = (reference.task, production.task)
    for task in (Task.REGRESSION, Task.MULTILABEL):
        if task in tasks:
            return task
    return reference.task or production.task


def has_outputs(reference: Records, production: Records) -> bool:
    """Whether the model gives quantities or several labels, which are looked at one by one."""
    return task_of_pair(reference, production) in (Task.REGRESSION, Task.MULTILABEL)


def output_columns(values: Tensor) -> Tensor:
    """Outputs or targets `[n]` or `[n, k]` as `[n, k]` on the host."""
    columns = values.detach().cpu()
    return columns[:, None] if columns.ndim == 1 else columns


def output_names(records: Records, count: int, kind: str = "") -> tuple[str, ...]:
    """Names of the outputs: declared classes, columns of the outputs, the target, or numbers.

    Args:
        records: records whose schema may name them.
        count: number of outputs.
        kind: word before a number; default `label` of a multilabel model, else `output`.
    """
    schema = records.schema
    if count == 1 and schema.target:
        return (schema.target,)
    for names in (schema.classes, schema.logits, schema.probs):
        if len(names) == count:
            return tuple(map(str, names))
    word = kind or ("label" if records.task is Task.MULTILABEL else "output")
    return tuple(f"{word} {i}" for i in range(count))


def labeled_rows(targets: Tensor) -> Tensor:
    """Whether each label is there, `[n]` or `[n, k]` bool."""
    return ~targets.isnan() if targets.is_floating_point() else targets != IGNORED


def compared_outputs(targets: Tensor) -> list[int]:
    """Numbers of the outputs that are compared: all up to 30, else those that vary most.

    Args:
        targets: answers or quantities `[n, k]`, missing ones NaN or -100.
    """
    if targets.shape[1] <= MAX_OUTPUTS:
        return list(range(targets.shape[1]))
    present = labeled_rows(targets)
    values = targets.double().masked_fill(~present, 0.0)
    count = present.sum(0).clamp(min=1)
    spread = values.square().sum(0) / count - (values.sum(0) / count).square()
    return sorted(spread.argsort(descending=True, stable=True)[:MAX_OUTPUTS].tolist())


def labeled_outputs(reference: Records, production: Records) -> Iterator[LabeledOutput]:
    """Outputs of a multilabel model or of a regression that both sides label, one by one.

    Rows without the label of an output are left out for this output alone.
    """
    parts = (reference.logits, reference.targets, production.logits, production.targets)
    if any(part is None for part in parts):
        return
    z, y, live_z, live_y = (output_columns(part) for part in parts if part is not None)
    if not (z.shape[1:] == y.shape[1:] == live_z.shape[1:] == live_y.shape[1:]):
        return
    names = output_names(reference, z.shape[1])
    for j in compared_outputs(y):
        before, after = labeled_rows(y[:, j]), labeled_rows(live_y[:, j])
        yield LabeledOutput(
            names[j],
            z[before, j].double(),
            y[before, j],
            live_z[after, j].double(),
            live_y[after, j],
        )

"""Dependence of the output on chance, and on inputs that the gradient does not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.explain import gradients_enabled, uses_gradient
from gendebug_torch.attribution.explanation.batch import BatchBuilder, Output
from gendebug_torch.attribution.explanation.explained_output import explained_output
from gendebug_torch.attribution.explanation.row_sample import select_rows
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import map_rows

# Rows whose values serve as replacements, and rows in which a feature is replaced.
_SAMPLE, _ROWS = 64, 6
# Change of the output, in standard deviations of the outputs, that is more than rounding.
_CHANGE = 1e-3


@dataclass(frozen=True)
class OutputDependence:
    """What attributions cannot show of their network.

    Args:
        blind_inputs: features on which the output depends although its gradient is exactly 0, as
            behind a rounding, a threshold, an index or a `detach`.
        repeat_change: largest change of the output between two identical calls, in standard
            deviations of the outputs; 0 for a deterministic network.
        rows: number of rows of the repeated calls.
        evaluations: model evaluations.
    """

    blind_inputs: tuple[str, ...]
    repeat_change: float
    rows: int
    evaluations: float


def output_dependence(
    task: AttributionTask,
    model: Model,
    inputs: Any,
    targets: Any,
    attributions: Attributions,
    budget: float,
) -> OutputDependence | None:
    """Whether a network is random, and which inputs its gradient does not see.

    For a gradient method, each feature whose contributions are exactly 0 in all rows is replaced by
    its most distant value. The gradient is blind to it if the output changes, and the gradient is 0
    there too.

    Args:
        task: options of the run.
        model: network.
        inputs: inputs of some rows.
        targets: targets of the same rows.
        attributions: attributions of the same rows.
        budget: largest number of model evaluations.

    Returns:
        None where the budget pays for no row.

    Cost: two forwards per row, and a forward and a backward per row and feature without any
    contribution.
    """
    n, outputs = len(attributions), attributions.outputs
    rows = int(min(_ROWS, n, budget / 4))
    if rows < 1 or outputs is None:
        return None
    # A Captum object of the user may explain another space of inputs, and a layer has none.
    zeros = (attributions.flat == 0).all(0).nonzero()[:, 0]
    affordable = int(min(budget - 2 * rows, 2**31) / (3 * rows))
    candidates = zeros[:affordable].tolist() if uses_gradient(task) else []
    scale = float(outputs.double().std().clamp(min=1e-6)) if n > 1 else 1.0
    positions = torch.arange(min(n, _SAMPLE))
    batch = tuple(select_rows(part, positions, n) for part in (inputs, targets))

    def step(part: Any, labels: Tensor | None) -> dict[str, Tensor]:
        with gradients_enabled(model):
            change, blind = _changes(task, model, part, labels, rows, candidates, scale)
        count = len(positions)
        return {"change": change.expand(count), "blind": blind.expand(count, -1)}

    result = map_rows(
        step,
        [batch],
        model=model,
        grad=True,
        unpack=lambda pair: pair,
        device=task.device,
        precision=task.precision,
        alone=True,
    )
    change = float(result["change"].max()) / scale
    blind = [i for i, flag in zip(candidates, result["blind"].any(0).tolist(), strict=True) if flag]
    if change > _CHANGE:
        # Chance changes the output too.
        blind = []
    names = tuple(attributions.names[i] for i in blind)
    return OutputDependence(names, change, rows, rows * (2.0 + 3.0 * len(candidates)))


def _changes(
    task: AttributionTask,
    model: Model,
    inputs: Any,
    targets: Tensor | None,
    rows: int,
    candidates: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Change of the output between two calls, and `[c]` bool, true for blind candidates."""
    builder = BatchBuilder(task, model, gradient=True)
    space = builder.space(inputs)
    groups, _ = builder.grouping(space)
    points = space.points.detach()
    first, index = points[:rows], torch.arange(min(rows, len(points)), device=points.device)
    with torch.no_grad():
        logits = space.logits(first, index)
        labels = None if targets is None else targets[:rows]
        explained = explained_output(logits, labels, task.target)
        outputs, again = explained(logits, index), explained(space.logits(first, index), index)

    def output(at: Tensor, index: Tensor) -> Tensor:
        return explained(space.logits(at, index), index)

    columns = torch.arange(points.shape[1], device=points.device) if groups is None else groups
    blind = [
        _is_blind(output, points, index, columns == feature, outputs, _CHANGE * scale)
        for feature in candidates
    ]
    return (again - outputs).abs().max(), torch.tensor(blind, dtype=torch.bool)


def _is_blind(
    output: Output,
    points: Tensor,
    index: Tensor,
    columns: Tensor,
    outputs: Tensor,
    tolerance: float,
) -> bool:
    """Whether the output changes with the columns of a feature, at a gradient of exactly 0."""
    values, replaced = points[:, columns], points[index].clone()
    distant = torch.cdist(values[index].float(), values.float()).nan_to_num(-1.0).argmax(1)
    replaced[:, columns] = values[distant]
    if torch.equal(replaced, points[index]):
        return False
    leaf = replaced.requires_grad_()
    changed = output(leaf, index)
    differs = (changed.detach() - outputs).abs() > tolerance
    if not bool(differs.any()):
        return False
    if not changed.requires_grad:
        return True
    gradient = torch.autograd.grad(changed.sum(), leaf, allow_unused=True)[0]
    flat = torch.ones_like(differs) if gradient is None else (gradient[:, columns] == 0).all(1)
    return bool((differs & flat).any())

"""`ExplainedBatch`: what every method explains of one batch, and how it is built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.baselines import baseline_points
from gendebug_torch.attribution.explanation.explained_output import (
    check_quantities,
    explained_output,
)
from gendebug_torch.attribution.explanation.input_space import InputSpace, input_space, unwrapped
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved
from gendebug_torch.model.evaluation import Model

# Points that keep a CPU core or a GPU busy with a small network, and bytes of activations that stay
# in the cache of a CPU.
_POINTS = {"cpu": 4096, "cuda": 65536}
_CACHE = 2**25

# From points `[p, d]` and the row `[p]` of each to the explained output `[p]`.
Output = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """The function, the points and the baselines of one batch: what every method explains.

    Args:
        output: the explained output at any points.
        points: `[n, d]` float, all attributed inputs of each row side by side.
        baseline: `[b, n, d]` float baselines, a view where rows share them.
        outputs: `[n]` float32 output at the points.
        baseline_outputs: `[n]` float32 mean output over the baselines.
        groups: `[d]` int64 feature of each column; None where each column is a feature.
        shape: shape of one row of the attributions.
        classes: `[n]` int64 explained class; -1 for a single output.
        single_tensor: whether the features are one Tensor of the batch as it is.
        points_per_pass: most points in one pass through the network.
        evaluations: `[n]` float32 model evaluations per row so far, one with a gradient as two.
    """

    output: Output
    points: Tensor
    baseline: Tensor
    outputs: Tensor
    baseline_outputs: Tensor
    groups: Tensor | None
    shape: tuple[int, ...]
    classes: Tensor
    single_tensor: bool
    points_per_pass: int
    evaluations: Tensor

    @property
    def features(self) -> int:
        """Number of features."""
        return torch.Size(self.shape).numel()

    @property
    def output_change(self) -> Tensor:
        """`[n]` output at the points minus that at the baseline."""
        return self.outputs - self.baseline_outputs

    def pass_size(self, inner: int) -> tuple[int, int]:
        """Rows, and points per row out of `inner`, that go into one pass."""
        rows = max(1, min(len(self.points), self.points_per_pass // max(1, inner)))
        return rows, max(1, min(inner, self.points_per_pass // rows))

    def per_feature(self, values: Tensor) -> Tensor:
        """`[n, f]` contributions of features: the sums of `[n, d]` contributions of columns."""
        if self.groups is None:
            return values
        return values.new_zeros(len(values), self.features).index_add_(1, self.groups, values)

    def column_masks(self, masks: Tensor) -> Tensor:
        """`[m, d]` masks of columns from `[m, f]` masks of features."""
        return masks if self.groups is None else masks[:, self.groups]

    def select(self, rows: Tensor) -> ExplainedBatch:
        """The same for some of the rows, by position."""
        return replace(
            self,
            output=lambda points, index: self.output(points, rows[index]),
            points=self.points[rows],
            baseline=self.baseline[:, rows],
            outputs=self.outputs[rows],
            baseline_outputs=self.baseline_outputs[rows],
            classes=self.classes[rows],
            evaluations=self.evaluations[rows],
        )


class BatchBuilder:
    """Builds the `ExplainedBatch` of every batch of one run.

    What is the same for all batches is computed once: the background as points, the numbering of
    the groups, and how many points fit into one pass.

    Args:
        task: options of the run.
        model: network.
        gradient: whether the method needs gradients.
    """

    def __init__(self, task: AttributionTask, model: Model, gradient: bool) -> None:
        self.task, self.model, self.gradient = task, model, gradient
        self.points_per_pass: int | None = None
        # By number of columns.
        self._background: dict[int, Tensor] = {}
        self._groups: dict[int, tuple[Tensor, int]] = {}

    def limit(self, batch: ExplainedBatch) -> ExplainedBatch:
        """The batch with as many points per pass as have fitted so far."""
        return replace(batch, points_per_pass=self.points_per_pass or 1)

    def halve(self) -> bool:
        """Halve the points per pass for all further batches; false at one point."""
        before = self.points_per_pass or 1
        self.points_per_pass = max(1, before // 2)
        return before > 1

    def build(self, inputs: Any, targets: Tensor | None) -> tuple[ExplainedBatch, InputSpace]:
        """The batch to explain, and its inputs as a space."""
        space = self.space(inputs)
        n, device = len(space.points), space.points.device
        rows = torch.arange(n, device=device)
        with torch.no_grad():
            logits = space.logits(space.points, rows)
            if n and self.points_per_pass is None:
                check_quantities(logits, targets, self.task.target)
            explained = explained_output(logits, targets, self.task.target)
            baseline = baseline_points(
                self.task.baseline,
                inputs,
                space,
                lambda given: self._background_points(given, space.points),
                self.task.background,
            )
            at_baseline = [explained(space.logits(start, rows), rows) for start in baseline]

        def output(points: Tensor, index: Tensor) -> Tensor:
            return explained(space.logits(points, index), index)

        groups, shape = self.grouping(space)
        if n and self.points_per_pass is None:
            self.points_per_pass = self._measured_points(output, space.points[:1])
        evaluations = torch.full((n,), 1.0 + len(baseline), device=device)
        return ExplainedBatch(
            output=_counted(output, evaluations),
            points=space.points,
            baseline=baseline,
            outputs=explained(logits, rows),
            baseline_outputs=torch.stack(at_baseline).mean(0),
            groups=groups,
            shape=shape,
            classes=explained.classes,
            single_tensor=space.single_tensor and self.task.groups is None,
            points_per_pass=self.points_per_pass or 1,
            evaluations=evaluations,
        ), space

    def _background_points(self, inputs: Any, points: Tensor) -> Tensor:
        """Background inputs as points like these, computed once for each number of columns."""
        d = points.shape[1]
        if d not in self._background:
            self._background[d] = self.space(moved(inputs, points.device)).points
        return self._background[d]

    def grouping(self, space: InputSpace) -> tuple[Tensor | None, tuple[int, ...]]:
        """`[d]` feature of each column, numbered from 0 without gaps, and the shape of a row."""
        if self.task.groups is None:
            return space.groups, space.shape
        d, features = space.points.shape[1], space.feature_values.shape[1]
        if d not in self._groups:
            groups = torch.as_tensor(self.task.groups).flatten().long().cpu()
            if len(groups) != features or not len(groups):
                expected = f"one number for each of {features} inputs"
                remedy = "Pass the feature that each input belongs to."
                reject("groups", expected, str(len(groups)), remedy)
            names, dense = torch.unique(groups, return_inverse=True)
            dense = moved(dense, space.points.device)
            columns = dense if space.groups is None else dense[space.groups]
            self._groups[d] = columns, len(names)
        columns, count = self._groups[d]
        return columns, (count,)

    def _measured_points(self, output: Output, point: Tensor) -> int:
        """Points per pass; a compiled network is not compiled again for this measurement."""
        compiled = unwrapped(self.model) is not self.model
        eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
        with eager:
            return _points_per_pass(output, point)

    def space(self, inputs: Any) -> InputSpace:
        """The attributed inputs of a batch as points."""
        return input_space(self.model, inputs, gradient=self.gradient, parts=self.task.parts)


def _counted(output: Output, evaluations: Tensor) -> Output:
    """The same output, which adds the evaluations of each row to a counter."""

    def counted(points: Tensor, rows: Tensor) -> Tensor:
        ones = evaluations.new_ones(1).expand(len(rows))
        evaluations.index_add_(0, rows, ones, alpha=2 if torch.is_grad_enabled() else 1)
        return output(points, rows)

    return counted


def _points_per_pass(output: Output, point: Tensor) -> int:
    """Points whose saved activations fit a CPU cache, or half of the free memory of a GPU."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    sizes = []
    for times in (1, 2):
        total = 0
        points = point.repeat(times, 1).requires_grad_()
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with torch.enable_grad(), hooks:
            output(points, torch.zeros(times, dtype=torch.int64, device=point.device))
        sizes.append(total)
    # Weights are saved too, but once: only the difference grows with the points.
    each = max(sizes[1] - sizes[0], 4 * point.shape[1], 1)
    free = torch.cuda.mem_get_info(point.device)[0] // 2 if point.is_cuda else _CACHE
    return max(1, min(free // each, _POINTS.get(point.device.type, 4096)))

"""The question that every method is asked about a batch, and how it is put."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.baselines import baselines
from gendebug_torch.attribution.inputs import Space, space_of
from gendebug_torch.attribution.outputs import explained_of
from gendebug_torch.errors import reject
from gendebug_torch.runner import Model, moved

# Enough points to fill a CPU core or a GPU with a small network; and bytes of activations that stay in a CPU's cache.
_POINTS = {"cpu": 4096, "cuda": 65536}
_CACHE = 2**25

# Points `[p, d]` and the row `[p]` that each belongs to, to the explained number of each point `[p]`.
Output = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Question:
    """What every method answers: how the output at the points comes about, against the baselines.

    Args:
        output: the explained number at any points.
        points: `[n, d]` float, one row each, all attributed inputs side by side.
        baseline: `[b, n, d]` what stands for "no signal" (a view where rows share it).
        at_points: `[n]` float32 output at the points.
        at_baseline: `[n]` float32 mean output over the baselines.
        groups: `[d]` int64 feature of each column; None where each column is a feature.
        shape: of one row of the answer.
        classes: `[n]` int64 explained class; -1 for the only output.
        at_once: most points in one pass.
        spent: `[n]` float32 model evaluations that each row took so far; one with a gradient counts as two.
    """

    output: Output
    points: Tensor
    baseline: Tensor
    at_points: Tensor
    at_baseline: Tensor
    groups: Tensor | None
    shape: tuple[int, ...]
    classes: Tensor
    at_once: int
    spent: Tensor

    @property
    def features(self) -> int:
        """How many features there are."""
        return torch.Size(self.shape).numel()

    def blocks(self, inner: int) -> tuple[int, int]:
        """Rows, and points per row out of `inner`, that go into one pass."""
        rows = max(1, min(len(self.points), self.at_once // max(1, inner)))
        return rows, max(1, min(inner, self.at_once // rows))

    def per_feature(self, values: Tensor) -> Tensor:
        """`[n, d]` contributions of columns, summed into `[n, f]` contributions of features."""
        if self.groups is None:
            return values
        return values.new_zeros(len(values), self.features).index_add_(1, self.groups, values)

    def columns(self, masks: Tensor) -> Tensor:
        """`[m, f]` masks of features as `[m, d]` masks of columns."""
        return masks if self.groups is None else masks[:, self.groups]

    def of_rows(self, rows: Tensor) -> Question:
        """The same question about some of the rows."""
        return replace(
            self,
            output=lambda points, index: self.output(points, rows[index]),
            points=self.points[rows],
            baseline=self.baseline[:, rows],
            at_points=self.at_points[rows],
            at_baseline=self.at_baseline[rows],
            classes=self.classes[rows],
            spent=self.spent[rows],
        )


@dataclass(frozen=True, eq=False)
class Setting:
    """What is the same for every batch of a run.

    Args:
        model: network.
        target: which output of a row is explained.
        baseline: as the user gave it.
        rows: inputs of the data, for baselines that are taken from it.
        gradient: whether the method needs gradients.
        parts: Tensors to attribute.
        groups: `[d]` feature of each input, where inputs are taken together.
        learned: what the first batch told about all.
    """

    model: Model
    target: str | int = "predicted"
    baseline: Any = None
    rows: Any = None
    gradient: bool = True
    parts: Sequence[str] | None = None
    groups: Sequence[int] | Tensor | None = None
    learned: dict[str, int] = field(default_factory=dict)

    def question(self, inputs: Any, targets: Tensor | None) -> tuple[Question, Space]:
        """The question about one batch, and its inputs as a space."""
        space = self._space(inputs)
        n, device = len(space.points), space.points.device
        everyone = torch.arange(n, device=device)
        with torch.no_grad():
            logits = space.logits(space.points, everyone)
            explained = explained_of(logits, targets, self.target)
            start = baselines(self.baseline, inputs, space, lambda given: self._space(moved(given, device)).points, self.rows)
            at_start = torch.stack([explained(space.logits(each, everyone), everyone) for each in start]).mean(0)

        spent = torch.full((n,), 1.0 + len(start), device=device)

        def uncounted(points: Tensor, rows: Tensor) -> Tensor:
            return explained(space.logits(points, rows), rows)

        def output(points: Tensor, rows: Tensor) -> Tensor:
            spent.index_add_(0, rows, spent.new_ones(1).expand(len(rows)), alpha=2 if torch.is_grad_enabled() else 1)
            return uncounted(points, rows)

        groups = space.groups if self.groups is None else _numbered(self.groups, space)
        shape = space.shape if self.groups is None else (int(groups.max()) + 1,) if groups is not None else ()
        said = explained(logits, everyone)
        if n and "at_once" not in self.learned:
            self.learned["at_once"] = _points_at_once(uncounted, space.points[:1])
        at_once = self.learned.get("at_once", 1)
        return Question(output, space.points, start, said, at_start, groups, shape, explained.target, at_once, spent), space

    def _space(self, inputs: Any) -> Space:
        return space_of(self.model, inputs, gradient=self.gradient, parts=self.parts)


def _points_at_once(output: Output, point: Tensor) -> int:
    """Points whose saved activations fit the cache of a CPU core, or half of what is free on a GPU."""
    kept = [0]

    def count(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    sizes = []
    for times in (1, 2):
        kept[0] = 0
        points = point.repeat(times, 1).requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output(points, torch.zeros(times, dtype=torch.int64, device=point.device))
        sizes.append(kept[0])
    # Weights are saved too, but once: only the difference grows with the points.
    each = max(sizes[1] - sizes[0], 4 * point.shape[1], 1)
    free = torch.cuda.mem_get_info(point.device)[0] // 2 if point.is_cuda else _CACHE
    return max(1, min(free // each, _POINTS.get(point.device.type, 4096)))


def _numbered(groups: Sequence[int] | Tensor, space: Space) -> Tensor:
    """`[d]` feature of each column, numbered from 0 without gaps."""
    given = torch.as_tensor(groups, device=space.points.device).flatten().long()
    features = space.shown.shape[1]
    if len(given) != features or not len(given):
        reject("groups", f"one number for each of {features} inputs", str(len(given)), "Pass the feature that each input belongs to.")
    dense: Tensor = torch.unique(given, return_inverse=True)[1]
    return dense if space.groups is None else dense[space.groups]

"""The question that every method is asked about a batch, and how it is put."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.baselines import baselines
from gendebug_torch.attribution.explanation.explained_output import explained_of
from gendebug_torch.attribution.explanation.input_space import Space, space_of, unwrapped
from gendebug_torch.data.batches import moved
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model

# Enough points to fill a CPU core or a GPU with a small network; and bytes of activations that stay
# in a CPU's cache.
_POINTS = {"cpu": 4096, "cuda": 65536}
_CACHE = 2**25

# Points `[p, d]` and the row `[p]` that each belongs to, to the explained number of each point
# `[p]`.
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
        whole: whether the features are one Tensor of the batch as it is.
        at_once: most points in one pass.
        spent: `[n]` float32 model evaluations that each row took so far; one with a gradient counts
            as two.
    """

    output: Output
    points: Tensor
    baseline: Tensor
    at_points: Tensor
    at_baseline: Tensor
    groups: Tensor | None
    shape: tuple[int, ...]
    classes: Tensor
    whole: bool
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
    learned: dict[str, Any] = field(default_factory=dict)

    def at_most(self, question: Question) -> Question:
        """The question with as many points in a pass as have fitted so far."""
        return replace(question, at_once=self.learned.get("at_once", 1))

    def shrink(self) -> bool:
        """Half as many points in a pass from now on; false where it is one already."""
        now: int = self.learned.get("at_once", 1)
        self.learned["at_once"] = max(1, now // 2)
        return now > 1

    def question(self, inputs: Any, targets: Tensor | None) -> tuple[Question, Space]:
        """The question about one batch, and its inputs as a space."""
        space = self._space(inputs)
        n, device = len(space.points), space.points.device
        everyone = torch.arange(n, device=device)
        with torch.no_grad():
            logits = space.logits(space.points, everyone)
            explained = explained_of(logits, targets, self.target)
            start = baselines(
                self.baseline,
                inputs,
                space,
                lambda given: self._known_points(given, space.points),
                self.rows,
            )
            at_start = torch.stack(
                [explained(space.logits(each, everyone), everyone) for each in start]
            ).mean(0)

        spent = torch.full((n,), 1.0 + len(start), device=device)

        def uncounted(points: Tensor, rows: Tensor) -> Tensor:
            return explained(space.logits(points, rows), rows)

        def output(points: Tensor, rows: Tensor) -> Tensor:
            spent.index_add_(
                0,
                rows,
                spent.new_ones(1).expand(len(rows)),
                alpha=2 if torch.is_grad_enabled() else 1,
            )
            return uncounted(points, rows)

        groups, shape = (
            (space.groups, space.shape)
            if self.groups is None
            else self._numbered(self.groups, space)
        )
        said = explained(logits, everyone)
        if n and "at_once" not in self.learned:
            # A compiled network is not compiled anew for so few points.
            eager = (
                torch.compiler.set_stance("force_eager")
                if unwrapped(self.model) is not self.model
                else contextlib.nullcontext()
            )
            with eager:
                self.learned["at_once"] = _points_at_once(uncounted, space.points[:1])
        at_once = self.learned.get("at_once", 1)
        whole = space.whole and self.groups is None
        return Question(
            output,
            space.points,
            start,
            said,
            at_start,
            groups,
            shape,
            explained.target,
            whole,
            at_once,
            spent,
        ), space

    def _known_points(self, given: Any, points: Tensor) -> Tensor:
        """Given inputs as points beside these, worked out once for all batches of this width."""
        key = f"points of {points.shape[1]}"
        if key not in self.learned:
            self.learned[key] = self._space(moved(given, points.device)).points
        known: Tensor = self.learned[key]
        return known

    def _numbered(self, groups: Sequence[int] | Tensor, space: Space) -> tuple[Tensor, tuple[int]]:
        """`[d]` feature of each column, numbered from 0 without gaps, and how many; worked out once
        for all batches of this width.
        """
        key, features = f"groups of {space.points.shape[1]}", space.shown.shape[1]
        if key not in self.learned:
            given = torch.as_tensor(groups).flatten().long().cpu()
            if len(given) != features or not len(given):
                remedy = "Pass the feature that each input belongs to."
                reject(
                    "groups", f"one number for each of {features} inputs", str(len(given)), remedy
                )
            names, dense = torch.unique(given, return_inverse=True)
            dense = moved(dense, space.points.device)
            self.learned[key] = (
                dense if space.groups is None else dense[space.groups],
                (len(names),),
            )
        numbered: tuple[Tensor, tuple[int]] = self.learned[key]
        return numbered

    def _space(self, inputs: Any) -> Space:
        return space_of(self.model, inputs, gradient=self.gradient, parts=self.parts)


def _points_at_once(output: Output, point: Tensor) -> int:
    """Points whose saved activations fit the cache of a CPU core, or half of what is free on a
    GPU.
    """
    kept = [0]

    def count(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    sizes = []
    for times in (1, 2):
        kept[0] = 0
        points = point.repeat(times, 1).requires_grad_()
        counted = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with torch.enable_grad(), counted:
            output(points, torch.zeros(times, dtype=torch.int64, device=point.device))
        sizes.append(kept[0])
    # Weights are saved too, but once: only the difference grows with the points.
    each = max(sizes[1] - sizes[0], 4 * point.shape[1], 1)
    free = torch.cuda.mem_get_info(point.device)[0] // 2 if point.is_cuda else _CACHE
    return max(1, min(free // each, _POINTS.get(point.device.type, 4096)))

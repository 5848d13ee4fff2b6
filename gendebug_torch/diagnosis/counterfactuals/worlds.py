"""Quality in the worlds between validation and production, in each of which some causes act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gendebug_torch.diagnosis.counterfactuals.changes import InputChange, one_after_another
from gendebug_torch.diagnosis.counterfactuals.metrics import RowMetric
from gendebug_torch.diagnosis.counterfactuals.tilts import Tilts
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.progress import progress_bar

# Values of one matrix of weights in memory.
_AT_ONCE = 2**23
# Mechanisms that act, those whose region is taken from production, and whether rows of validation
# get what production's outputs have besides those of the network.
_World: TypeAlias = tuple[frozenset[int], frozenset[int], bool]


@dataclass(frozen=True, eq=False)
class Mechanism:
    """A cause, and what it does to validation on the way to production.

    Args:
        cause: name of the cause.
        subject: where it sits.
        change: what it does to inputs.
        units: columns by which rows are weighted, `[n, q]` and `[m, q]`.
        region: rows whose labels given the inputs it may change, `[n]` and `[m]` bool.
        leaked: rows of validation that it flatters, `[n]` bool.
    """

    cause: str
    subject: str
    change: InputChange | None = None
    units: tuple[Tensor, Tensor] | None = None
    region: tuple[Tensor, Tensor] | None = None
    leaked: Tensor | None = None

    @property
    def undoable(self) -> bool:
        """Whether it can be taken out of rows of production."""
        return self.leaked is None and (self.change is None or self.change.undo is not None)


@dataclass(frozen=True, eq=False)
class Side:
    """Rows of validation or of production.

    Args:
        inputs: inputs of the network, or None.
        logits: its outputs, `[n]` or `[n, k]`.
        targets: labels.
        weights: weights of the rows as they are and resampled, `[n, 1 + r]`.
    """

    inputs: Any
    logits: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(eq=False)
class Worlds:
    """Quality of the network where some of the mechanisms act.

    A row of validation stands for the labels given the inputs as they were, a row of production for
    those that are; each is weighted and its inputs are changed, or changed back, as the mechanisms
    that act say. What cannot be undone in production is taken to add the same to the quality there
    as in validation.

    Args:
        mechanisms: all of them; the regions do not overlap and cover all rows.
        validation: rows of validation.
        production: rows of production.
        metric: of the quality.
        network: inputs -> outputs; None where no change is among the mechanisms.
        tilts: factors of the mechanisms that have units, by their number among these.
        residual: outputs of production less those of the network, where they differ; a change that
            is undone leaves it.
        deadline: when to stop.
    """

    mechanisms: Sequence[Mechanism]
    validation: Side
    production: Side
    metric: RowMetric
    network: Callable[[Any], Tensor] | None
    tilts: Tilts | None
    residual: Tensor | None = None
    deadline: Deadline = NO_DEADLINE
    _outputs: dict[tuple[str, frozenset[int]], Tensor] = field(default_factory=dict)
    _qualities: dict[frozenset[int], Tensor] = field(init=False, default_factory=dict)

    def qualities(self, worlds: Sequence[frozenset[int]]) -> Tensor:
        """Points of each world, as it is and resampled, `[w, 1 + r]` float64.

        Args:
            worlds: mechanisms that act.
        """
        unknown = [world for world in dict.fromkeys(worlds) if world not in self._qualities]
        if unknown:
            self._qualities |= zip(unknown, self._evaluated(unknown), strict=True)
        return torch.stack([self._qualities[world] for world in worlds])

    def _evaluated(self, worlds: Sequence[frozenset[int]]) -> Tensor:
        """Points of each world, as many columns of weights at once as fit into memory."""
        count = self.validation.weights.shape[1]
        rows = len(self.validation.logits) + len(self.production.logits)
        step = max(1, _AT_ONCE // rows)
        starts = range(0, count, step)
        total, show = len(starts) * len(worlds), self.deadline.progress
        parts = []
        with progress_bar(total, "counterfactuals", show=show) as finished:
            for start in starts:
                columns = slice(start, min(count, start + step))
                parts.append(self._points(worlds, columns, finished))
        return torch.cat(parts, 1)

    def _points(
        self, worlds: Sequence[frozenset[int]], columns: slice, finished: Callable[[int], object]
    ) -> Tensor:
        """Points of each world for some columns of the weights."""
        ratios = self._ratios(columns)
        known: dict[_World, Tensor] = {}
        points = []
        for world in worlds:
            points.append(self._extrapolated(world, columns, ratios, known))
            finished(1)
        return torch.stack(points)

    def _ratios(self, columns: slice) -> dict[int, tuple[Tensor, Tensor]]:
        """Logarithms of the factors of the mechanisms that have one."""
        tilted = [i for i, mechanism in enumerate(self.mechanisms) if mechanism.units is not None]
        if self.tilts is None:
            return {}
        return {i: self.tilts.log_ratio(at, columns) for at, i in enumerate(tilted)}

    def _extrapolated(
        self,
        world: frozenset[int],
        columns: slice,
        ratios: dict[int, tuple[Tensor, Tensor]],
        known: dict[_World, Tensor],
    ) -> Tensor:
        """Quality of a world; by differences in validation for what cannot be undone."""

        def value(acting: frozenset[int], regions: frozenset[int], served: bool = False) -> Tensor:
            key = acting, regions, served
            if key not in known:
                self.deadline.check()
                known[key] = self._quality(key, columns, ratios)
            return known[key]

        regions = frozenset(i for i in world if self.mechanisms[i].region is not None)
        fixed = frozenset(i for i, one in enumerate(self.mechanisms) if not one.undoable)
        if not regions or fixed <= world:
            return value(world, regions)
        none: frozenset[int] = frozenset()
        changed = value(world, none, True) - value(world | fixed, none, True)
        return value(world | fixed, regions) + changed

    def _quality(
        self, world: _World, columns: slice, ratios: dict[int, tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Quality of rows of validation, and of production in the regions."""
        acting, regions, served = world
        n, m = len(self.validation.logits), len(self.production.logits)
        absent = frozenset(range(len(self.mechanisms))) - acting
        weights = self.validation.weights[:, columns]
        for i in acting:
            leaked = self.mechanisms[i].leaked
            weights = weights if leaked is None else weights * ~leaked[:, None]
        weights = _weighted(weights, [ratios[i][0] for i in acting if i in ratios])
        logits = self._logits("apply", acting)
        logits = self._as_served(logits) if served else logits
        if not regions:
            return self.metric.points(logits, self.validation.targets, weights)
        live = self.production.weights[:, columns]
        live = _weighted(live, [-ratios[i][1] for i in absent if i in ratios])
        old, new = self._rows(regions)
        # Both sides count alike, however many rows they have.
        joined = torch.cat([weights[old] * (m / n), live[new]])
        targets = torch.cat([self.validation.targets[old], self.production.targets[new]])
        both = torch.cat([logits[old], self._logits("undo", absent)[new]])
        return self.metric.points(both, targets, joined)

    def _as_served(self, logits: Tensor) -> Tensor:
        """Outputs for validation with what production's have besides, of rows drawn at random."""
        if self.residual is None:
            return logits
        generator = torch.Generator().manual_seed(0)
        return (
            logits
            + self.residual[torch.randint(len(self.residual), (len(logits),), generator=generator)]
        )

    def _rows(self, regions: frozenset[int]) -> tuple[Tensor, Tensor]:
        """Rows of validation outside of the regions, and of production in them."""
        masks = [torch.zeros(len(s.logits), dtype=torch.bool) for s in self._sides]
        for i in regions:
            own = self.mechanisms[i].region
            assert own is not None
            masks = [mask | part for mask, part in zip(masks, own, strict=True)]
        return (~masks[0]).nonzero()[:, 0], masks[1].nonzero()[:, 0]

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.validation, self.production

    def _logits(self, way: str, mechanisms: frozenset[int]) -> Tensor:
        """Outputs for validation after changes (`apply`), or for production without (`undo`)."""
        side = self.validation if way == "apply" else self.production
        changed = [
            i
            for i in sorted(mechanisms)
            if (change := self.mechanisms[i].change) is not None
            and getattr(change, way) is not None
        ]
        if not changed or self.network is None:
            return side.logits
        key = way, frozenset(changed)
        if key not in self._outputs:
            changes = [change for i in changed if (change := self.mechanisms[i].change) is not None]
            outputs = self.network(one_after_another(changes, way, side.inputs))
            if way == "undo" and self.residual is not None:
                outputs = outputs + self.residual
            self._outputs[key] = outputs
        return self._outputs[key]


def _weighted(weights: Tensor, log_ratios: Sequence[Tensor]) -> Tensor:
    """Weights times ratios, with mean 1 in each column."""
    if log_ratios:
        total = torch.stack(list(log_ratios)).sum(0)
        weights = weights * (total - total.amax(0)).exp()
    return weights / weights.mean(0).clamp(min=1e-30)

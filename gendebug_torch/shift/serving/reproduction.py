"""A failure reproduced: named changes applied to validation rows, against what production shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.modality.modality import Change, Modality
from gendebug_torch.shift.serving.energy import energy_distance, energy_p_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Changes that come nearest in their properties, of which the network is asked.
_FINALISTS = 6
_BOOTSTRAPS = 200
# A fitted change is named before a simpler one only if that leaves this much more of the distance.
_TIE = 0.05


@dataclass(frozen=True, eq=False)
class Reproduction:
    """How near each change brings rows of validation to production.

    Args:
        changes: the changes that came nearest, the named one first; empty where none was tried.
        distance: energy distance between validation and production as they are.
        p_value: of the distance, by permutation.
        remaining: share of the distance that each change leaves, `[c]`.
        low: lower end of its 95 % interval, `[c]`.
        high: upper end, `[c]`.
        rivals: changes that cannot be told apart from the named one.
        logits: outputs for the changed rows of validation, `[c, n]` or `[c, n, k]`.
        rows: numbers of these rows in validation, `[n]`.
        tried: number of changes that were tried.
    """

    changes: tuple[Change, ...]
    distance: float
    p_value: float
    remaining: Tensor
    low: Tensor
    high: Tensor
    rivals: tuple[Change, ...]
    logits: Tensor
    rows: Tensor
    tried: int

    def table(self) -> pd.DataFrame:
        """One row per change: the share of the distance that it leaves, with its interval."""
        import pandas as pd

        shares = (self.remaining.tolist(), self.low.tolist(), self.high.tolist())
        texts = [change.text for change in self.changes]
        columns = ("change", "remaining distance", "low", "high")
        return pd.DataFrame(dict(zip(columns, (texts, *shares), strict=True)))

    def plot(self, ax: Axes | None = None) -> Axes:
        """What each change leaves of the distance between validation and production."""
        ax = axes(ax, size=(7.0, 0.8 + 0.45 * max(1, len(self.changes))))
        places = list(range(len(self.changes)))[::-1]
        remaining, low, high = (x.numpy() for x in (self.remaining, self.low, self.high))
        ax.barh(places, remaining, color=REFERENCE, height=0.6)
        ax.hlines(places, low, high, color="black", linewidth=1.0)
        ax.axvline(1.0, color=LIVE, linestyle="--", linewidth=1.0)
        ax.set_yticks(places, [change.text for change in self.changes])
        ax.set_xlabel("distance to production that remains (1: as without the change)")
        ax.set_title("Validation rows, changed as serving code might")
        return ax


@dataclass(frozen=True, eq=False)
class Side:
    """Inputs of one side, and what is known of them.

    Args:
        inputs: `[n, ...]`.
        labels: labels as columns of numbers, `[n, l]`, or None.
    """

    inputs: Tensor
    labels: Tensor | None = None

    def rows(self, index: Tensor) -> Side:
        """The rows at these positions."""
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        return Side(self.inputs[index.to(self.inputs.device)], labels)

    def changed(self, change: Change) -> Side:
        """The same rows with changed inputs."""
        return Side(change.apply(self.inputs), self.labels)


def reproduction(
    validation: Side,
    production: Side,
    modality: Modality,
    network: Callable[[Tensor], Tensor],
    *,
    seed: int = 0,
) -> Reproduction:
    """Which named change makes rows of validation look like production to the eye and the network.

    One half of the rows fits the parameters of the changes and finds those whose properties come
    nearest; on the other half these are compared, in properties, outputs of the network and labels
    (where both sides have them), by energy distance. Cost: `8 n` evaluations of the network at
    most.

    Args:
        validation: rows of validation.
        production: rows of the same shape from production.
        modality: what the inputs are.
        network: inputs -> logits `[n]` or `[n, k]`.
        seed: of the halves and the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for side in (validation, production):
        order = torch.randperm(len(side.inputs), generator=generator)
        halves.append(order.tensor_split([len(order) // 2]))
    (fit, rows), (live_fit, live) = halves
    before, after = validation.rows(fit), production.rows(live_fit)
    changes = modality.changes(before.inputs, after.inputs)
    near = _nearest(before, after, modality, changes)
    before, after = validation.rows(rows), production.rows(live)
    sides = [before, after, *(before.changed(change) for change in near)]
    outputs = [network(side.inputs) for side in sides]
    base, target, *changed = _described(sides, modality, outputs)
    distance = float(energy_distance(base, target))
    samples = _bootstrap(base, target, changed, generator)
    shares = torch.tensor([float(energy_distance(one, target)) for one in changed]).double()
    shares = (shares / max(distance, 1e-12)).clamp(min=0)
    limits = (samples[1:] / samples[0].clamp(min=1e-12)).clamp(min=0)
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = limits.quantile(edges, dim=1) if near else (shares, shares)
    ranks = _ranked(near, shares)
    return Reproduction(
        tuple(near[i] for i in ranks),
        distance,
        energy_p_value(base, target, seed=seed),
        shares[ranks],
        low[ranks],
        high[ranks],
        _rivals(near, limits, ranks),
        torch.stack([outputs[2 + i].cpu() for i in ranks]) if ranks else torch.empty(0),
        rows,
        len(changes),
    )


def _nearest(
    before: Side, after: Side, modality: Modality, changes: Sequence[Change]
) -> list[Change]:
    """The changes whose properties come nearest to those of production."""
    sides = [before, after, *(before.changed(change) for change in changes)]
    _, target, *changed = _described(sides, modality)
    distances = [float(energy_distance(rows, target)) for rows in changed]
    order = sorted(range(len(changes)), key=lambda i: distances[i])
    return [changes[i] for i in order[:_FINALISTS]]


def _described(
    sides: Sequence[Side], modality: Modality, outputs: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Properties, outputs and labels of each side, `[n, p + k + l]`, standardized by the first.

    The three have the same weight, however many columns each has.
    """
    labeled = all(side.labels is not None for side in sides)
    blocks = []
    for at, side in enumerate(sides):
        found = [torch.stack(list(modality.properties(side.inputs).values()), 1)]
        found += [outputs[at].reshape(len(outputs[at]), -1)] if outputs else []
        found += [side.labels] if labeled and side.labels is not None else []
        blocks.append([block.cpu().float() for block in found])
    centers = [block.mean(0) for block in blocks[0]]
    scales = [_scale(block) * block.shape[1] ** 0.5 for block in blocks[0]]
    return [
        torch.cat([(x - c) / s for x, c, s in zip(found, centers, scales, strict=True)], 1)
        for found in blocks
    ]


def _scale(rows: Tensor) -> Tensor:
    """Standard deviation of each column, `[p]`; of a constant one the size of its value."""
    spread = rows.std(0, correction=0)
    return torch.where(spread > 1e-6, spread, rows.abs().mean(0).clamp(min=1e-3))


def _bootstrap(
    before: Tensor, after: Tensor, changed: Sequence[Tensor], generator: torch.Generator
) -> Tensor:
    """Distances to production without and with each change, `[1 + c, r]`, over resampled rows."""
    sizes = (len(before), len(after))
    weights = []
    for size in sizes:
        drawn = torch.randint(size, (_BOOTSTRAPS, size), generator=generator)
        counts = torch.zeros(_BOOTSTRAPS, size, dtype=torch.float64)
        weights.append(counts.scatter_add_(1, drawn, torch.ones(drawn.shape).double()) / size)
    pair = (weights[0], weights[1])
    return torch.stack([energy_distance(one, after, weights=pair) for one in (before, *changed)])


def _ranked(changes: Sequence[Change], shares: Tensor) -> list[int]:
    """Numbers of the changes, nearest first; among equally near ones the simplest first."""
    if not len(shares):
        return []
    best = float(shares.min())
    tied = [i for i, share in enumerate(shares.tolist()) if share <= best + _TIE]
    first = min(tied, key=lambda i: (changes[i].complexity, float(shares[i])))
    others = sorted(set(range(len(changes))) - {first}, key=lambda i: float(shares[i]))
    return [first, *others]


def _rivals(changes: Sequence[Change], samples: Tensor, ranks: Sequence[int]) -> tuple[Change, ...]:
    """Changes that are as near as the named one in more than 5 % of the resampled rows."""
    if not ranks:
        return ()
    named = ranks[0]
    return tuple(
        changes[i]
        for i in ranks[1:]
        if float((samples[i] <= samples[named]).double().mean()) > 0.05
        and changes[i].complexity <= changes[named].complexity
    )

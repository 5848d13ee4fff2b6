"""A failure reproduced: named changes applied to validation rows, against what production shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.modality.modality import Change, Modality
from gendebug_torch.modality.parts import Composite
from gendebug_torch.modality.pictures.drawing import draw_rows, draw_texts
from gendebug_torch.modality.strings import STRINGS, string_properties
from gendebug_torch.shift.serving.energy import energy_distance, energy_distances, energy_p_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Changes that come nearest in their properties, of which the network is asked.
_FINALISTS = 6
_BOOTSTRAPS = 200
# Texts that are compared, and the chance from which they differ.
_COMPARED, _DIFFERENT = 400, 0.002
# Rows that are drawn of each side.
_DRAWN = 8
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
        pictures: a few rows of validation, the same after the named change, and of production.
        of_texts: whether the named change is one of texts, not of the network's inputs.
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
    pictures: Mapping[str, Any] = field(default_factory=dict)
    of_texts: bool = False

    def table(self) -> pd.DataFrame:
        """One row per change: the share of the distance that it leaves, with its interval."""
        import pandas as pd

        shares = (self.remaining.tolist(), self.low.tolist(), self.high.tolist())
        texts = [change.text for change in self.changes]
        columns = ("change", "remaining distance", "low", "high")
        return pd.DataFrame(dict(zip(columns, (texts, *shares), strict=True)))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rows of validation, the same after the change that comes nearest, and of production."""
        ax = axes(ax, size=(7.5, 3.4))
        if isinstance(self.pictures["validation"], Tensor):
            draw_rows(ax, self.pictures)
        else:
            draw_texts(ax, self.pictures)
        ax.set_title(self.changes[0].text if self.changes else "Rows of both sides")
        if not ax.get_xlabel():
            ax.set_xlabel(
                f"the change leaves {float(self.remaining[0]):.0%} of the distance"
                if self.changes
                else "no change was tried"
            )
        return ax


@dataclass(frozen=True, eq=False)
class Side:
    """Inputs of one side, and what is known of them.

    Args:
        inputs: `[n, ...]`, n rows of several parts, or n texts.
        labels: labels as columns of numbers, `[n, l]`, or None.
        texts: the n texts that the inputs were made of, or None.
    """

    inputs: Any
    labels: Tensor | None = None
    texts: Sequence[str] | None = None

    def rows(self, index: Tensor) -> Side:
        """The rows at these positions."""
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        texts = None if self.texts is None else _taken(self.texts, index)
        return Side(_taken(self.inputs, index), labels, texts)


@dataclass(frozen=True)
class _Candidate:
    """A change, and how it is applied to a side: to its inputs, or to the texts behind them.

    Args:
        change: the change.
        encode: texts -> inputs, of a change of the texts; None of one of the inputs.
    """

    change: Change
    encode: Callable[[Sequence[str]], Tensor] | None = None

    def __call__(self, side: Side) -> Side:
        if self.encode is None:
            return replace(side, inputs=self.change.apply(side.inputs))
        texts = self.change.apply(side.texts)
        return replace(side, inputs=self.encode(texts), texts=texts)


def reproduction(
    validation: Side,
    production: Side,
    modality: Modality,
    network: Callable[[Any], Tensor] | None,
    *,
    encode: Callable[[Sequence[str]], Tensor] | None = None,
    alpha: float = 1.0,
    among: Collection[str] | None = None,
    seed: int = 0,
) -> Reproduction:
    """Which named change makes rows of validation look like production to the eye and the network.

    One half of the rows fits the parameters of the changes and finds those whose properties come
    nearest; on the other half these are compared, in properties, outputs of the network and labels
    (where both sides have them), by energy distance. Cost: `8 n` evaluations of the network at
    most, `2 n` where the sides do not differ.

    Args:
        validation: rows of validation.
        production: rows of the same shape from production.
        modality: what the inputs are.
        network: inputs -> logits `[n]` or `[n, k]`; None compares properties and labels alone.
        encode: texts -> inputs; changes of the texts of validation are tried with it, too.
        alpha: p-value of the distance above which no change is tried.
        among: names of the changes that are tried; all by default.
        seed: of the halves and the resampling.
    """
    if encode is None or not _texts_differ(validation, production):
        # The texts of production are not what the network read: a change came behind them.
        production = replace(production, texts=None)
    generator = torch.Generator().manual_seed(seed)
    (fit, rows), (live_fit, live) = (_halves(side, generator) for side in (validation, production))
    fitted = (validation.rows(fit), production.rows(live_fit), modality)
    candidates = _candidates(*fitted, encode)
    chosen = [one for one in candidates if among is None or one.change.name in among]
    before, after = validation.rows(rows), production.rows(live)
    outputs = [] if network is None else [network(side.inputs) for side in (before, after)]
    base, target = _described([before, after], modality, outputs)
    distance, p_value = (
        float(energy_distance(base, target)),
        energy_p_value(base, target, seed=seed),
    )
    near = _nearest(*fitted, chosen) if p_value <= alpha else []
    sides = [before, after, *(candidate(before) for candidate in near)]
    if network is not None:
        outputs += [network(side.inputs) for side in sides[2:]]
    _, _, *changed = _described(sides, modality, outputs)
    shares = energy_distances(changed, target) / max(distance, 1e-12)
    samples = _bootstrap(base, target, changed, generator)
    found = _compared([one.change for one in near], shares, samples)
    logits = [outputs[2 + at].cpu() for at in found.ranks] if outputs else []
    named = near[found.ranks[0]] if near else None
    drawn = _pictures(before, sides[2 + found.ranks[0]] if near else None, after)
    texts = named is not None and (named.encode is not None or modality is STRINGS)
    made = found.reproduction(distance, p_value, logits, rows, len(candidates))
    return replace(made, pictures=drawn, of_texts=texts)


def _pictures(before: Side, changed: Side | None, after: Side) -> dict[str, Any]:
    """A few rows of each side, in their inputs."""
    sides = {"validation": before, "changed": changed, "production": after}
    given = {name: side for name, side in sides.items() if side is not None}
    # Texts are shown where it is they that changed.
    rewritten = changed is not None and changed.texts is not before.texts
    if rewritten and all(side.texts is not None for side in given.values()):
        return {name: list(side.texts or ())[:_DRAWN] for name, side in given.items()}
    shown = {name: side.inputs[:_DRAWN] for name, side in given.items()}
    groups = {n: rows.main if isinstance(rows, Composite) else rows for n, rows in shown.items()}
    return {n: rows.cpu() if isinstance(rows, Tensor) else rows for n, rows in groups.items()}


def _texts_differ(validation: Side, production: Side) -> bool:
    """Whether the texts behind the inputs differ between the sides by more than chance."""
    if validation.texts is None or production.texts is None:
        return False
    parts = []
    for side in (validation, production):
        found = string_properties(side.texts[:_COMPARED])  # type: ignore[index]
        parts.append(torch.stack(list(found.values()), 1))
    scale = _scale(*parts)
    return energy_p_value(parts[0] / scale, parts[1] / scale) < _DIFFERENT


def _taken(values: Any, index: Tensor) -> Any:
    """Rows of inputs or of a list at these positions."""
    if isinstance(values, Tensor):
        return values[index.to(values.device)]
    if isinstance(values, Composite):
        return values[index.to(values.main.device)]
    return [values[at] for at in index.tolist()]


def _halves(side: Side, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(side.inputs), generator=generator)
    first, second = order.tensor_split([len(order) // 2])
    return first, second


def _candidates(
    before: Side,
    after: Side,
    modality: Modality,
    encode: Callable[[Sequence[str]], Tensor] | None,
) -> list[_Candidate]:
    """Changes of the inputs, and of the texts that they are made of."""
    found = [_Candidate(change) for change in modality.changes(before.inputs, after.inputs)]
    if encode is not None and before.texts is not None:
        texts = STRINGS.changes(before.texts, before.texts if after.texts is None else after.texts)
        found += [_Candidate(change, encode) for change in texts]
    return found


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Changes that came near, with what each leaves of the distance.

    Args:
        changes: c changes.
        shares: what each leaves, `[c]`.
        limits: the same over resampled rows, `[c, r]`.
        ranks: numbers of the changes, the named one first.
    """

    changes: Sequence[Change]
    shares: Tensor
    limits: Tensor
    ranks: list[int]

    def reproduction(
        self, distance: float, p_value: float, logits: list[Tensor], rows: Tensor, tried: int
    ) -> Reproduction:
        """The result, the named change first."""
        edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
        empty = (self.shares, self.shares)
        low, high = self.limits.quantile(edges, dim=1) if self.ranks else empty
        return Reproduction(
            tuple(self.changes[i] for i in self.ranks),
            distance,
            p_value,
            self.shares[self.ranks],
            low[self.ranks],
            high[self.ranks],
            _rivals(self.changes, self.limits, self.ranks),
            torch.stack(logits) if logits else torch.empty(0),
            rows,
            tried,
        )


def _compared(changes: Sequence[Change], shares: Tensor, samples: Tensor) -> _Comparison:
    """Changes by what they leave of the distance, and the same over resampled rows."""
    shares, limits = shares.clamp(min=0), (samples[1:] / samples[0].clamp(min=1e-12)).clamp(min=0)
    return _Comparison(changes, shares, limits, _ranked(changes, shares, limits))


def _nearest(
    before: Side, after: Side, modality: Modality, changes: Sequence[_Candidate]
) -> list[_Candidate]:
    """The changes whose properties come nearest to those of production."""
    sides = [before, after, *(change(before) for change in changes)]
    _, target, *changed = _described(sides, modality)
    distances = energy_distances(changed, target).tolist()
    order = sorted(range(len(changes)), key=lambda i: distances[i])
    return [changes[i] for i in order[:_FINALISTS]]


def _described(
    sides: Sequence[Side], modality: Modality, outputs: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Properties, contents, outputs, labels, texts of each side, `[n, d]`, scaled by the first.

    These have the same weight, however many columns each has.
    """
    labeled = all(side.labels is not None for side in sides)
    written = all(side.texts is not None for side in sides)
    blocks = []
    for at, side in enumerate(sides):
        found = [torch.stack(list(modality.properties(side.inputs).values()), 1)]
        found += [modality.contents(side.inputs)] if modality.contents is not None else []
        found += [outputs[at].reshape(len(outputs[at]), -1)] if outputs else []
        found += [side.labels] if labeled and side.labels is not None else []
        if written and side.texts is not None:
            found.append(torch.stack(list(string_properties(side.texts).values()), 1))
        blocks.append([block.cpu().float() for block in found])
    centers = [block.mean(0) for block in blocks[0]]
    scales = [
        _scale(before, after) * before.shape[1] ** 0.5
        for before, after in zip(blocks[0], blocks[1], strict=True)
    ]
    return [
        torch.cat([(x - c) / s for x, c, s in zip(found, centers, scales, strict=True)], 1)
        for found in blocks
    ]


def _scale(rows: Tensor, others: Tensor) -> Tensor:
    """Standard deviation of each column, `[p]`; of a constant one its size or its change.

    One that is 0 on both sides is taken as it is: a single row that a change moves is no mountain.
    """
    spread = rows.std(0, correction=0)
    mean, other = rows.mean(0), others.mean(0)
    size = torch.maximum(mean.abs(), (other - mean).abs())
    return torch.where(spread > 1e-6, spread, torch.where(size > 1e-3, size, 1.0))


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
    return energy_distances([before, *changed], after, weights=(weights[0], weights[1]))


def _ranked(changes: Sequence[Change], shares: Tensor, samples: Tensor) -> list[int]:
    """Numbers of the changes, nearest first; among equally near ones the simplest first.

    One that a single fitted number brings nearer beyond chance is not equally near.
    """
    if not len(shares):
        return []
    best = float(shares.min())
    tied = [i for i, share in enumerate(shares.tolist()) if share <= best + _TIE]
    fitted = [i for i in tied if changes[i].complexity == 1]
    nearer = {i for j in fitted for i in tied if _is_nearer(samples[j], samples[i])}
    left = [i for i in tied if i not in nearer]
    first = min(left, key=lambda i: (changes[i].complexity, float(shares[i])))
    others = sorted(set(range(len(changes))) - {first}, key=lambda i: float(shares[i]))
    return [first, *others]


def _is_nearer(one: Tensor, other: Tensor) -> bool:
    """Whether a change leaves less than another in all but one in 200 of the resampled rows."""
    return float((one >= other).double().mean()) <= 0.005


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

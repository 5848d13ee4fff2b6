"""Distributions of contributions in two groups of rows, beside those of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import stdtr
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_BARS = 15
_MIN_ROWS, _MAX_ROWS = 20, 2000
# Features up to which their products enter the classifier, and permutations that it is fitted to.
_PRODUCTS, _CLASSIFIERS = 30, 200
# Ranks that are counted at once, over features and permutations.
_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class DistributionComparison:
    """Distributions of contributions in two groups of rows, beside those of the inputs.

    Args:
        names: names of the features.
        distance: `[2, f]` float64 Kolmogorov-Smirnov distance of the contributions, and of the
            inputs (NaN without inputs).
        adjusted: `[2, f]` float64 permutation p-value after Benjamini and Hochberg.
        shift: `[f]` float64 change of the mean contribution, in pooled standard deviations.
        auc: `[2]` float64 area under the curve of a classifier of the groups, by contributions and
            by inputs.
        auc_p: `[2]` float64 permutation p-value of the areas.
        labels: names of the groups.
    """

    names: tuple[str, ...]
    distance: Tensor
    adjusted: Tensor
    shift: Tensor
    auc: Tensor
    auc_p: Tensor
    labels: tuple[str, str]

    def changed_features(
        self, *, alpha: float = 0.01, min_distance: float = 0.05
    ) -> tuple[str, ...]:
        """Features whose contributions have another distribution, largest distance first."""
        changed = (self.adjusted[0] < alpha) & (self.distance[0] >= min_distance)
        order = self.distance[0].argsort(descending=True, stable=True).tolist()
        return tuple(self.names[i] for i in order if bool(changed[i]))

    def changes_beyond_inputs(
        self, *, alpha: float = 0.01, min_distance: float = 0.05
    ) -> tuple[str, ...]:
        """Changed features whose own inputs did not change, or less by `min_distance`.

        The network uses these features differently.
        """
        beyond = ~(self.adjusted[1] < alpha)
        beyond |= self.distance[0] >= self.distance[1] + min_distance
        features = {name for name, use in zip(self.names, beyond.tolist(), strict=True) if use}
        changed = self.changed_features(alpha=alpha, min_distance=min_distance)
        return tuple(name for name in changed if name in features)

    def summary(self, *, alpha: float = 0.01, min_distance: float = 0.05) -> str:
        """One sentence: which features changed, and how far the inputs explain it."""
        changed = self.changed_features(alpha=alpha, min_distance=min_distance)
        beyond = self.changes_beyond_inputs(alpha=alpha, min_distance=min_distance)
        by_contributions, by_inputs = self.auc.tolist()
        areas = f"AUC {by_contributions:.2f} by contributions, {by_inputs:.2f} by inputs"
        if not changed:
            return f"The contributions of {self.labels[0]} and {self.labels[1]} agree ({areas})."
        single = (
            f"; beyond the change of their own inputs: {', '.join(beyond[:5])}"
            if beyond
            else "; their own inputs changed as much"
        )
        if by_contributions < by_inputs + min_distance:
            areas += ": the inputs together separate the groups as well"
        return (
            f"{len(changed)} of {len(self.names)} features contribute differently: "
            f"{', '.join(changed[:5])}{single} ({areas})."
        )

    def table(self) -> pd.DataFrame:
        """One row per feature, largest distance of contributions first."""
        import pandas as pd

        columns = {
            "distance": self.distance[0],
            "p": self.adjusted[0],
            "shift": self.shift,
            "input_distance": self.distance[1],
            "input_p": self.adjusted[1],
        }
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {name: value.numpy() for name, value in columns.items()}
        )
        return frame.sort_values("distance", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distance of contributions beside distance of inputs, for the largest distances."""
        top = self.table().head(_BARS).iloc[::-1]
        ax = axes(ax, size=(6.4, 1.6 + 0.4 * max(1, len(top))))
        position = np.arange(len(top))
        inputs = top["input_distance"].fillna(0.0)
        ax.barh(position + 0.2, top["distance"], 0.38, color=LIVE, label="contributions")
        ax.barh(position - 0.2, inputs, 0.38, color=REFERENCE, label="inputs")
        ax.set_yticks(position, top["feature"].astype(str).tolist())
        widest = float(top[["distance", "input_distance"]].max().max()) if len(top) else 0.0
        ax.set_xlim(0, min(1.0, max(0.2, 1.2 * widest)))
        title = f"{self.labels[0]} against {self.labels[1]}"
        ax.set(xlabel="Kolmogorov-Smirnov distance", title=title)
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small", loc="lower right")
        return ax


def compare_distributions(
    reference: Attributions,
    other: Attributions,
    permutations: int,
    paired: bool,
    ensemble: Sequence[Attributions],
    seed: int,
    labels: tuple[str, str],
) -> DistributionComparison:
    """The comparison of distributions of `compare_attributions`, with the same arguments."""
    _check_groups(reference, other, permutations, paired, ensemble)
    generator = torch.Generator().manual_seed(seed)
    sides = _row_samples(reference, other, paired, generator)
    n = len(sides[0])
    assignments = _assignments(n, len(sides[1]), paired, permutations, generator)
    contributions = torch.cat([side.flat for side in sides])
    distance, p, auc, auc_p = _separation(contributions, assignments)
    if ensemble:
        p = torch.maximum(p, _beyond_seeds(reference, other, distance, ensemble))
    nothing = torch.full_like(distance, torch.nan), torch.full_like(auc, torch.nan)
    by_inputs = nothing[0], nothing[0], nothing[1], nothing[1]
    inputs = [side.inputs.flatten(1).double() for side in sides if side.inputs is not None]
    if len(inputs) == len(sides):
        input_distance, input_p, *areas = _separation(torch.cat(inputs), assignments)
        by_inputs = input_distance, benjamini_hochberg_adjusted(input_p), areas[0], areas[1]
    change = contributions[n:].mean(0) - contributions[:n].mean(0)
    return DistributionComparison(
        names=reference.names,
        distance=torch.stack([distance, by_inputs[0]]),
        adjusted=torch.stack([benjamini_hochberg_adjusted(p), by_inputs[1]]),
        shift=change / contributions.std(0).clamp(min=1e-300),
        auc=torch.stack([auc, by_inputs[2]]),
        auc_p=torch.stack([auc_p, by_inputs[3]]),
        labels=labels,
    )


def _separation(values: Tensor, assignments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`[f]` distances and their p-values, and the area of a classifier and its p-value."""
    distances = ks_distances(values, assignments)
    areas = classifier_auc(values, assignments[: 1 + _CLASSIFIERS])
    area_p = (1 + (areas[1:] >= areas[0]).sum()).double() / len(areas)
    return distances[0], _pooled_p(distances), areas[0], area_p


def ks_distances(values: Tensor, assignments: Tensor) -> Tensor:
    """`[b, f]` Kolmogorov-Smirnov distances between two groups under each of b assignments.

    Counted in integers, so that equal distances are equal.

    Args:
        values: `[n, f]` float values.
        assignments: `[b, n]` bool, true in the second group, whose size is always the same.
    """
    ranked, order = values.T.sort(1)
    last = torch.cat(
        [ranked[:, 1:] != ranked[:, :-1], torch.ones(len(ranked), 1, dtype=torch.bool)], 1
    )
    total, second = values.shape[0], int(assignments[0].sum())
    expected = second * torch.arange(1, total + 1, dtype=torch.int32)
    largest = []
    for part in torch.split(assignments, max(1, _CELLS // max(1, order.numel()))):
        gap = part[:, order].cumsum(2, dtype=torch.int32).mul_(total).sub_(expected).abs_()
        largest.append(gap.mul_(last).amax(2))
    return torch.cat(largest).double() / (second * (total - second))


def classifier_auc(values: Tensor, assignments: Tensor) -> Tensor:
    """`[b]` out-of-fold area under the ROC curve of a quadratic ridge classifier of the groups.

    Its terms are the columns, their squares and, up to 30 columns, their products; two folds. The
    fit is linear in the labels, so that all assignments are fitted at once.

    Args:
        values: `[n, f]` float values.
        assignments: `[b, n]` bool, true in the second group.
    """
    centered = (values - values.mean(0)) / values.std(0).clamp(min=1e-12)
    terms = [centered, centered.square()]
    if values.shape[1] <= _PRODUCTS:
        first, second = torch.triu_indices(values.shape[1], values.shape[1], 1)
        terms.append(centered[:, first] * centered[:, second])
    design = torch.cat([torch.ones(len(values), 1, dtype=torch.float64), *terms], 1).clamp(-30, 30)
    labels = assignments.double().T
    fold = torch.arange(len(values)) % 2 == 0
    areas = []
    for train in (fold, ~fold):
        inside, target = design[train], labels[train]
        ridge = torch.eye(design.shape[1], dtype=torch.float64) * 1e-2 * len(inside)
        weights = torch.linalg.solve(inside.T @ inside + ridge, inside.T @ target)
        areas.append(area_under_curve(design[~train] @ weights, labels[~train]))
    return torch.stack(areas).mean(0)


def area_under_curve(scores: Tensor, labels: Tensor) -> Tensor:
    """`[b]` area under the ROC curve of `[n, b]` scores without ties, from rank sums.

    Source: Mann and Whitney (1947), Ann. Math. Statist. 18:50.
    """
    ranks = scores.argsort(0).argsort(0).double() + 1
    positive = labels.sum(0)
    pairs = (positive * (len(labels) - positive)).clamp(min=1)
    return ((ranks * labels).sum(0) - positive * (positive + 1) / 2) / pairs


def _pooled_p(distances: Tensor) -> Tensor:
    """`[f]` permutation p-value of the first of `[1 + b, f]` distances, the nulls pooled.

    The distance is distribution-free except for ties and pairs, which scaling by the own null takes
    out; pooled, b permutations of f columns resolve p down to 1 / (b f).
    """
    scaled = distances / distances[1:].mean(0).clamp(min=1e-12)
    null = scaled[1:].flatten().sort().values
    above = len(null) - torch.searchsorted(null, scaled[0] - 1e-12)
    return (1 + above).double() / (len(null) + 1)


def _assignments(
    n: int, m: int, paired: bool, permutations: int, generator: torch.Generator
) -> Tensor:
    """`[1 + permutations, n + m]` bool, true in the second group; the first row as observed."""
    observed = torch.cat([torch.zeros(n, dtype=torch.bool), torch.ones(m, dtype=torch.bool)])
    if paired:
        swapped = torch.rand(permutations, n, generator=generator) < 0.5
        return torch.cat([observed[None], torch.cat([swapped, ~swapped], 1)])
    shuffled = torch.rand(permutations, n + m, generator=generator).argsort(1) >= n
    return torch.cat([observed[None], shuffled])


def _beyond_seeds(
    reference: Attributions, other: Attributions, distance: Tensor, ensemble: Sequence[Attributions]
) -> Tensor:
    """`[f]` p-value that the distance and the share of a feature are those of another seed.

    A distance hardly reflects the size of a contribution, which a share does; the smaller p-value
    counts, twice.
    """
    members = [reference.flat, *(member.flat for member in ensemble)]
    distances = []
    for member in members[1:]:
        groups = torch.arange(len(members[0]) + len(member)) >= len(members[0])
        distances.append(ks_distances(torch.cat([members[0], member]), groups[None])[0])
    sizes = torch.stack([flat.abs().mean(0) for flat in [*members, other.flat]])
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-300)
    by_distance = _prediction_p(distance, torch.stack(distances))
    above, below = (_prediction_p(sign * shares[-1], sign * shares[:-1]) for sign in (1, -1))
    by_share = 2 * torch.minimum(above, below)
    return (2 * torch.minimum(by_distance, by_share)).clamp(max=1.0)


def _prediction_p(value: Tensor, sample: Tensor) -> Tensor:
    """`[f]` one-sided p-value that a value is one more of `[m, f]` values, by Student's interval.

    A small sample says little about the spread of each feature, so that the spread is at least that
    of all features together.
    """
    spread = torch.maximum(sample.std(0), sample.var(0).mean().sqrt()).clamp(min=1e-6)
    score = (value - sample.mean(0)) / (spread * (1 + 1 / len(sample)) ** 0.5)
    return torch.from_numpy(stdtr(len(sample) - 1, -score.numpy()))


def _row_samples(
    reference: Attributions, other: Attributions, paired: bool, generator: torch.Generator
) -> list[Attributions]:
    """A sample of the usable rows of both groups; the same rows where they are pairs."""

    def sample(usable: Tensor) -> Tensor:
        rows = usable.nonzero()[:, 0]
        return rows[torch.randperm(len(rows), generator=generator)[:_MAX_ROWS]]

    if paired:
        rows = sample(reference.usable & other.usable)
        return [reference.select(rows), other.select(rows)]
    return [side.select(sample(side.usable)) for side in (reference, other)]


def _check_groups(
    reference: Attributions,
    other: Attributions,
    permutations: int,
    paired: bool,
    ensemble: Sequence[Attributions],
) -> None:
    if permutations < 1:
        reject("permutations", "at least 1", str(permutations), "500 is the usual number.")
    for name, side in (("reference", reference), ("other", other)):
        if (rows := int(side.usable.sum())) < _MIN_ROWS:
            expected = f"at least {_MIN_ROWS} rows without NaN"
            reject(name, expected, str(rows), "Attribute more rows.")
    if paired and len(reference) != len(other):
        got = f"{len(reference)} and {len(other)} rows"
        reject("paired", "groups of the same rows", got, "Leave it out for different rows.")
    if len(ensemble) in (1, 2):
        expected, remedy = "none, or at least 3 members", "Retrain with three seeds or more."
        reject("ensemble", expected, str(len(ensemble)), remedy)

"""What behaves differently between two cohorts: distributions of contributions beside those of the
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 15
# Rows of each cohort that are compared, and features up to which their products enter the
# classifier.
_ROWS, _PRODUCTS = 2000, 30
# Ranks that are counted at once, over features and permutations.
_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class CohortComparison:
    """Two cohorts compared by their contributions, beside the same on their inputs.

    Args:
        names: of the features.
        distance: `[2, f]` float64 Kolmogorov-Smirnov distance of the contributions, and of the
            inputs (NaN if not known).
        adjusted: `[2, f]` float64 permutation p-value after Benjamini and Hochberg.
        shift: `[f]` float64 change of the mean contribution, in pooled standard deviations.
        auc: `[2]` float64 of a classifier that tells the cohorts apart by contributions, and by
            inputs.
        auc_p: `[2]` float64 permutation p-value.
        labels: of the cohorts.
        paired: whether row i of both is the same row.
    """

    names: tuple[str, ...]
    distance: Tensor
    adjusted: Tensor
    shift: Tensor
    auc: Tensor
    auc_p: Tensor
    labels: tuple[str, str]
    paired: bool

    def changed(self, *, alpha: float = 0.01, min_distance: float = 0.05) -> tuple[str, ...]:
        """Features whose contributions are distributed otherwise, most different first."""
        found = (
            ((self.adjusted[0] < alpha) & (self.distance[0] >= min_distance))
            .nonzero()[:, 0]
            .tolist()
        )
        return tuple(
            self.names[at] for at in sorted(found, key=lambda at: -float(self.distance[0, at]))
        )

    def excess(self, *, alpha: float = 0.01, min_distance: float = 0.05) -> tuple[str, ...]:
        """Those of `changed` whose own inputs did not move, or moved less by `min_distance`: the
        network uses them otherwise.
        """
        known = dict(
            zip(
                self.names,
                zip(*self.distance.tolist(), *self.adjusted.tolist(), strict=True),
                strict=True,
            )
        )
        kept = []
        for name in self.changed(alpha=alpha, min_distance=min_distance):
            own, inputs, _, p = known[name]
            if not p < alpha or own >= inputs + min_distance:
                kept.append(name)
        return tuple(kept)

    def summary(self, *, alpha: float = 0.01, min_distance: float = 0.05) -> str:
        """One sentence: what changed, and how much of it the inputs do not explain, each alone and
        all together.
        """
        changed, excess = (
            f(alpha=alpha, min_distance=min_distance) for f in (self.changed, self.excess)
        )
        told = f"AUC {float(self.auc[0]):.2f} by contributions, {float(self.auc[1]):.2f} by inputs"
        if not changed:
            return f"{self.labels[0]} and {self.labels[1]} are explained alike ({told})."
        alone = (
            f"; beyond their own inputs: {', '.join(excess[:5])}"
            if excess
            else "; their own inputs moved as much"
        )
        joint = (
            ": the inputs together tell as much"
            if float(self.auc[0]) < float(self.auc[1]) + min_distance
            else ""
        )
        return (
            f"{len(changed)} of {len(self.names)} features contribute otherwise: "
            f"{', '.join(changed[:5])}{alone} ({told}{joint})."
        )

    def table(self) -> pd.DataFrame:
        """One row per feature, most different contributions first."""
        import pandas as pd

        columns = {"distance": self.distance[0], "p": self.adjusted[0], "shift": self.shift}
        columns |= {"input_distance": self.distance[1], "input_p": self.adjusted[1]}
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        return frame.sort_values("distance", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distance of contributions beside distance of inputs, where contributions differ most."""
        top = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(6.4, 1.6 + 0.4 * max(1, len(top))))
        place = np.arange(len(top))
        ax.barh(place + 0.2, top["distance"], 0.38, color=LIVE, label="contributions")
        ax.barh(
            place - 0.2, top["input_distance"].fillna(0.0), 0.38, color=REFERENCE, label="inputs"
        )
        ax.set_yticks(place, top["feature"].astype(str).tolist())
        widest = float(top[["distance", "input_distance"]].max().max()) if len(top) else 0.0
        ax.set_xlim(0, min(1.0, max(0.2, 1.2 * widest)))
        ax.set(
            xlabel="Kolmogorov-Smirnov distance", title=f"{self.labels[0]} against {self.labels[1]}"
        )
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small", loc="lower right")
        return ax


def compare_cohorts(
    reference: Attributions,
    other: Attributions,
    *,
    paired: bool = False,
    ensemble: Sequence[Attributions] = (),
    permutations: int = 500,
    seed: int = 0,
    labels: tuple[str, str] = ("reference", "other"),
) -> CohortComparison:
    """How two cohorts differ in what carries their outputs: training and production, hits and false
    alarms, two models.

    Under the null the cohort of a row is arbitrary: labels are permuted, within pairs where rows
    are the same. Two trainings of one network differ by their seeds alone; with an `ensemble` of
    retrained ones, a feature must leave what Student's prediction interval of theirs allows.

    Source: Smirnov (1939); Lopez-Paz and Oquab (2017), arXiv:1610.06545, for the classifier;
    Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        reference: attributions of one cohort.
        other: of the other, by the same method and baseline.
        paired: whether row i of both is the same row, under two models.
        ensemble: attributions of the rows of `reference` by models that differ in nothing but their
            seed; at least 3.
        permutations: of the labels.
        seed: of the permutations, and of the sample if there are more than 2,000 rows.
        labels: of the cohorts.

    Raises:
        InputError: different features, fewer than 20 rows, pairs of different length, or an
            ensemble of one or two.

    Cost: `permutations` passes over `min(n, 4000)` rows and 2 f columns.
    """
    _check(reference, other, paired, ensemble)
    generator = torch.Generator().manual_seed(seed)
    sides = _picked(reference, other, paired, generator)
    parts = [torch.cat([side.flat for side in sides])]
    if all(side.inputs is not None for side in sides):
        parts.append(
            torch.cat(
                [side.inputs.flatten(1).double() for side in sides if side.inputs is not None]
            )
        )
    n = len(sides[0])
    assignments = _assignments(n, len(sides[1]), paired, permutations, generator)
    distances, p_values, aucs = [], [], []
    for part in parts:
        drawn = ks_distances(part, assignments)
        distances.append(drawn[0])
        p_values.append(_pooled_p(drawn))
        aucs.append(classifier_auc(part, assignments[: 1 + min(permutations, 200)]))
    p = (
        p_values[0]
        if not ensemble
        else torch.maximum(p_values[0], _beyond_seeds(reference, other, distances[0], ensemble))
    )
    nothing = torch.full_like(distances[0], torch.nan)
    adjusted = [
        benjamini_hochberg_adjusted(p),
        benjamini_hochberg_adjusted(p_values[1]) if len(parts) > 1 else nothing,
    ]
    pooled = parts[0].std(0).clamp(min=1e-300)
    auc = torch.stack(
        [*(found[0] for found in aucs), *([torch.tensor(torch.nan)] if len(parts) == 1 else [])]
    ).double()
    auc_p = [(1 + (found[1:] >= found[0]).sum()).double() / len(found) for found in aucs]
    return CohortComparison(
        reference.names,
        torch.stack([distances[0], distances[1] if len(parts) > 1 else nothing]),
        torch.stack(adjusted),
        (parts[0][n:].mean(0) - parts[0][:n].mean(0)) / pooled,
        auc,
        torch.stack(
            [*auc_p, *([torch.tensor(torch.nan, dtype=torch.float64)] if len(parts) == 1 else [])]
        ),
        labels,
        paired,
    )


def ks_distances(values: Tensor, assignments: Tensor) -> Tensor:
    """`[b, f]` Kolmogorov-Smirnov distances of the columns of `[n, f]` values under each of
    `[b, n]` bool assignments to the second cohort.

    Counted in whole numbers, so that equal distances are equal; every assignment has as many rows
    in the second cohort.
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
    """`[b]` area under the ROC curve, out of fold, of a quadratic ridge classifier under each
    assignment of `[b, n]`.

    Columns, their squares and, up to 30 columns, their products; two folds. The fit is linear in
    the labels, so all assignments are fitted at once.
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
        areas.append(_area(design[~train] @ weights, labels[~train]))
    return torch.stack(areas).mean(0)


def _area(scores: Tensor, labels: Tensor) -> Tensor:
    """`[b]` area under the ROC curve of `[n, b]` scores: the rank sum of the positives (Mann and
    Whitney, 1947).
    """
    ranks = scores.argsort(0).argsort(0).double() + 1
    positive = labels.sum(0)
    return ((ranks * labels).sum(0) - positive * (positive + 1) / 2) / (
        positive * (len(labels) - positive)
    ).clamp(min=1)


def _pooled_p(drawn: Tensor) -> Tensor:
    """`[f]` permutation p-value of the first of `[1 + b, f]` distances, each scaled by its own
    null, the nulls of all pooled.

    The distance is distribution-free but for ties and pairs, which the scale takes out; pooled, b
    permutations of f columns resolve p down to 1 / (b f), as many comparisons need.
    """
    scaled = drawn / drawn[1:].mean(0).clamp(min=1e-12)
    null = scaled[1:].flatten().sort().values
    above = len(null) - torch.searchsorted(null, scaled[0] - 1e-12)
    return (1 + above).double() / (len(null) + 1)


def _assignments(
    n: int, m: int, paired: bool, permutations: int, generator: torch.Generator
) -> Tensor:
    """`[1 + permutations, n + m]` bool, true in the second cohort; the first row is as it was."""
    observed = torch.cat([torch.zeros(n, dtype=torch.bool), torch.ones(m, dtype=torch.bool)])
    if paired:
        swapped = torch.rand(permutations, n, generator=generator) < 0.5
        return torch.cat([observed[None], torch.cat([swapped, ~swapped], 1)])
    drawn = torch.rand(permutations, n + m, generator=generator).argsort(1) >= n
    return torch.cat([observed[None], drawn])


def _beyond_seeds(
    reference: Attributions, other: Attributions, distance: Tensor, ensemble: Sequence[Attributions]
) -> Tensor:
    """`[f]` p-value that a feature's distance, and its share of all contributions, are another draw
    of those of the seeds.

    A distance hardly sees the size of a contribution, which a share does; the smaller p counts,
    twice.
    """
    members = [reference.flat, *(member.flat for member in ensemble)]
    seen = []
    for member in members[1:]:
        observed = torch.cat(
            [
                torch.zeros(len(members[0]), dtype=torch.bool),
                torch.ones(len(member), dtype=torch.bool),
            ]
        )[None]
        seen.append(ks_distances(torch.cat([members[0], member]), observed)[0])
    sizes = torch.stack([flat.abs().mean(0) for flat in [*members, other.flat]])
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-300)
    by_distance = _another_draw(distance, torch.stack(seen))
    by_share = (
        torch.minimum(
            _another_draw(shares[-1], shares[:-1]), _another_draw(-shares[-1], -shares[:-1])
        )
        * 2
    )
    return (2 * torch.minimum(by_distance, by_share)).clamp(max=1.0)


def _another_draw(value: Tensor, drawn: Tensor) -> Tensor:
    """`[f]` one-sided p-value of a value against `[m, f]` draws: Student's prediction interval.

    A handful of draws says little about the spread of each feature, so it is at least that of all
    features together.
    """
    spread = torch.maximum(drawn.std(0), drawn.var(0).mean().sqrt()).clamp(min=1e-6)
    score = (value - drawn.mean(0)) / (spread * (1 + 1 / len(drawn)) ** 0.5)
    return torch.from_numpy(student.sf(score.numpy(), df=len(drawn) - 1))


def _picked(
    reference: Attributions, other: Attributions, paired: bool, generator: torch.Generator
) -> list[Attributions]:
    """Usable rows of both, at most so many; the same ones where they are pairs."""
    if paired:
        rows = (reference.usable & other.usable).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)[:_ROWS]]
        return [reference.select(rows), other.select(rows)]
    picked = []
    for side in (reference, other):
        rows = side.usable.nonzero()[:, 0]
        picked.append(side.select(rows[torch.randperm(len(rows), generator=generator)[:_ROWS]]))
    return picked


def _check(
    reference: Attributions, other: Attributions, paired: bool, ensemble: Sequence[Attributions]
) -> None:
    if reference.names != other.names:
        got = f"{len(reference.names)} and {len(other.names)} features, or other names"
        reject("other", "the features of the reference", got, "Attribute both cohorts alike.")
    for name, side in (("reference", reference), ("other", other)):
        if int(side.usable.sum()) < 20:
            reject(
                name,
                "at least 20 rows without NaN",
                str(int(side.usable.sum())),
                "Attribute more rows.",
            )
    if paired and len(reference) != len(other):
        reject(
            "paired",
            "cohorts of the same rows",
            f"{len(reference)} and {len(other)} rows",
            "Leave it out for different rows.",
        )
    if len(ensemble) in (1, 2):
        reject(
            "ensemble",
            "none, or at least 3 members",
            str(len(ensemble)),
            "Retrain with three seeds or more.",
        )

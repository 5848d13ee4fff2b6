"""Calibration of rows that are not independent, such as the pixels of an image: evidence counts by
group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.reliability_bins import bin_edges, rounding, top_label
from gendebug_torch.calibration.model_outputs import chunks, refuse_broken, validated
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile

# Draws times groups held at once.
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class GroupSums:
    """Sums of each of g groups of rows; independent are the groups, not the rows in them.

    Args:
        mass: `[g]` float64 rows, or their weights.
        gap: `[g, b]` float64 confidence less correctness, summed by bin of confidence.
        scores: `[g, 2]` float64 sums of log loss and Brier score.
    """

    mass: Tensor
    gap: Tensor
    scores: Tensor

    def measures(
        self, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
    ) -> tuple[Measure, Measure, Measure]:
        """`nll`, `brier` and `ece` with intervals over groups; what their own probabilities promise
        is not told for scores.

        The gaps of a calibrated model change sign from group to group by chance: flipping them at
        random gives the null value and the p-value of the calibration error, and Poisson numbers of
        each group its interval.

        Source: Liang and Zeger (1986), Biometrika 73:13, for the scores; Cameron, Gelbach and
        Miller (2008), Rev. Econ. Stat. 90:414, for signs by group; Field and Welsh (2007), JRSS B
        69:369, for groups resampled whole.
        """
        nll, brier = (self._score(column, level) for column in (0, 1))
        return Measure("nll", *nll), Measure("brier", *brier), self._ece(level, replicates, seed)

    def _score(self, column: int, level: float) -> tuple[float, float, float, float, float]:
        value = float(self.scores[:, column].sum() / self.mass.sum())
        half = normal_quantile(0.5 + level / 2) * grouped_error(
            self.scores[:, column] - value * self.mass, float(self.mass.sum())
        )
        return value, value - half, value + half, math.nan, math.nan

    def _ece(self, level: float, replicates: int, seed: int) -> Measure:
        gap, mass = self.gap.numpy(), self.mass.numpy()
        total, groups = float(mass.sum()), len(mass)
        seen = float(np.abs(gap.sum(0)).sum()) / total
        generator = np.random.default_rng(seed)
        # Noise is in the gaps already; without taking it off, the draws would count it twice.
        noise = (gap - mass[:, None] * gap.sum(0) / total).__pow__(2).sum(0)
        real = np.sign(gap.sum(0)) * np.sqrt(np.maximum(gap.sum(0) ** 2 - noise, 0.0))
        centered = gap + mass[:, None] * (real - gap.sum(0)) / total
        null, again = [], []
        for size in _blocks(replicates, groups):
            flipped = (2.0 * generator.integers(0, 2, (size, groups)) - 1) @ gap
            null.append(np.abs(flipped).sum(1) / total)
            counts = generator.poisson(1.0, (size, groups)).astype(np.float64)
            again.append(np.abs(counts @ centered).sum(1) / np.maximum(counts @ mass, 1e-300))
        chance, drawn = np.concatenate(null), np.concatenate(again)
        half = normal_quantile(0.5 + level / 2) * float(drawn.std())
        p = (1 + int((chance >= seen * (1 - 1e-12)).sum())) / (1 + replicates)
        bias = max(0.0, float(drawn.mean()) - float(np.abs(real).sum()) / total)
        low = 0.0 if p > (1 - level) / 2 else max(0.0, seen - bias - half)
        return Measure("ece", seen, low, seen + half, float(chance.mean()), p)


def group_sums(
    logits: Tensor,
    targets: Tensor,
    groups: Tensor | None = None,
    *,
    bins: int = 15,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> GroupSums:
    """One pass over labeled logits, summed by group of rows that belong together.

    Args:
        logits: `[n, k]` float, `[n]` binary, or dense `[n, k, ...]`.
        targets: `[n]` (dense `[n, ...]`) int64 class ids.
        groups: shaped like targets, int64 ids 0..g-1; default: every sample is one, with all its
            positions.
        bins: equal bins of confidence.
        weights: shaped like targets.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes or dtypes do not fit, no row counts, NaN or +inf.

    Cost: that of `calibration_sums`; the state is `[g, bins]`.
    """
    validated(logits, targets, weights, ignore_index)
    if groups is None:
        groups = (
            torch.arange(len(targets), device=targets.device)
            .view(-1, *([1] * (targets.ndim - 1)))
            .expand_as(targets)
        )
    if (
        groups.shape != targets.shape
        or groups.is_floating_point()
        or (groups.numel() and int(groups.min()) < 0)
    ):
        reject(
            "groups",
            f"{list(targets.shape)} ids from 0",
            f"{groups.dtype} {list(groups.shape)}",
            "Number the groups of rows.",
        )
    size = int(groups.max()) + 1 if groups.numel() else 0
    upper = (bin_edges(bins)[1:] * (1 + rounding(logits))).to(logits.device)
    gap = torch.zeros(size * bins, dtype=torch.float64, device=logits.device)
    sums = torch.zeros(3, size, dtype=torch.float64, device=logits.device)
    # Dense groups are flattened as `chunks` flattens the positions of a sample: the same rows in
    # the same order.
    places = groups.reshape(-1)
    at = 0
    for chunk in chunks(logits, targets, weights, ignore_index):
        log_probs = chunk.log_probs()
        confidence, correct = top_label(chunk, log_probs)
        refuse_broken(int(confidence.isnan().sum()))
        place = places[at : at + len(confidence)]
        at += len(confidence)
        mass = torch.ones_like(confidence) if chunk.weights is None else chunk.weights
        own = log_probs.gather(1, chunk.targets[:, None])[:, 0].double()
        brier = 1 + log_probs.exp().square().sum(1).double() - 2 * own.exp()
        slot = place * bins + torch.bucketize(confidence, upper).clamp(max=bins - 1)
        gap.index_add_(0, slot, mass * (confidence - correct.double()))
        for total, row in zip(sums, (torch.ones_like(own), -own, brier), strict=True):
            total.index_add_(0, place, torch.where(mass > 0, mass * row, 0.0))
    held = (sums[0] > 0).cpu()
    if not bool(held.any()):
        reject(
            "targets",
            "at least one row that counts",
            "none",
            "Pass rows with positive weight, not all ignored.",
        )
    mass, nll, brier = sums.cpu()[:, held]
    return GroupSums(mass, gap.view(size, bins).cpu()[held], torch.stack([nll, brier], 1))


def temperature_error(
    logits: Tensor,
    targets: Tensor,
    groups: Tensor,
    temperature: float,
    *,
    weights: Tensor | None = None,
) -> float:
    """Standard error of a fitted temperature over groups of rows (see `group_sums` for the
    arguments).
    """
    pull = torch.zeros(int(groups.max()) + 1, dtype=torch.float64, device=logits.device)
    curvature, at = 0.0, 0
    for chunk in chunks(logits, targets, weights):
        z = chunk.logits.double()
        probs = (z / temperature).softmax(1)
        known = z.masked_fill(z.isneginf(), 0.0)
        mean = (probs * known).sum(1)
        mass = torch.ones_like(mean) if chunk.weights is None else chunk.weights
        pull.index_add_(
            0,
            groups[at : at + len(mean)],
            mass * (mean - z.gather(1, chunk.targets[:, None])[:, 0]),
        )
        curvature += float(mass @ ((probs * known.square()).sum(1) - mean.square()))
        at += len(mean)
    return temperature**2 * grouped_error(pull, curvature) if curvature > 0 else math.nan


def grouped_error(apart: Tensor, mass: float) -> float:
    """Standard error of a mean from `[g]` sums of its deviations by independent group, over rows of
    this total weight.
    """
    groups = len(apart)
    return (
        math.sqrt(float(apart.square().sum()) * groups / (groups - 1)) / mass
        if groups > 1
        else math.inf
    )


def _blocks(replicates: int, groups: int) -> Iterator[int]:
    step = max(1, _BLOCK // max(groups, 1))
    for start in range(0, replicates, step):
        yield min(step, replicates - start)

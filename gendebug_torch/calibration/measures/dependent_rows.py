"""Calibration of rows that are independent only between groups, such as the pixels of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.reliability_bins import bin_edges, rounding, top_label
from gendebug_torch.calibration.rows.model_outputs import (
    Chunk,
    LabeledOutputs,
    labeled_outputs,
    reject_nonfinite,
)
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile

# Draws times groups held at once.
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class GroupSums:
    """Sums of each of g groups of rows; the groups are independent, the rows in them are not.

    Args:
        mass: rows, or their weights, `[g]` float64.
        gap: confidence less correctness, summed by bin of confidence, `[g, b]` float64.
        scores: sums of log loss and Brier score `[g, 2]` float64.
    """

    mass: Tensor
    gap: Tensor
    scores: Tensor

    def measures(
        self, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
    ) -> tuple[Measure, Measure, Measure]:
        """`nll`, `brier` and `ece` with intervals over groups; the scores have no null value.

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
        total = float(self.mass.sum())
        value = float(self.scores[:, column].sum()) / total
        deviations = self.scores[:, column] - value * self.mass
        half = normal_quantile(0.5 + level / 2) * grouped_error(deviations, total)
        return value, value - half, value + half, math.nan, math.nan

    def _ece(self, level: float, replicates: int, seed: int) -> Measure:
        gap, mass = self.gap.numpy(), self.mass.numpy()
        total, sums = float(mass.sum()), self.gap.numpy().sum(0)
        observed = float(np.abs(sums).sum()) / total
        # Noise is in the gaps already; without taking it off, the draws would count it twice.
        noise = np.square(gap - mass[:, None] * sums / total).sum(0)
        shrunken = np.sign(sums) * np.sqrt(np.maximum(sums**2 - noise, 0.0))
        centered = gap + mass[:, None] * (shrunken - sums) / total
        generator = np.random.default_rng(seed)
        null, bootstrap = _resampled_errors(gap, centered, mass, replicates, generator)
        half = normal_quantile(0.5 + level / 2) * float(bootstrap.std())
        p = (1 + int((null >= observed * (1 - 1e-12)).sum())) / (1 + replicates)
        bias = max(0.0, float(bootstrap.mean()) - float(np.abs(shrunken).sum()) / total)
        low = 0.0 if p > (1 - level) / 2 else max(0.0, observed - bias - half)
        return Measure("ece", observed, low, observed + half, float(null.mean()), p)


def group_sums(
    logits: Tensor,
    targets: Tensor,
    groups: Tensor | None = None,
    *,
    bins: int = 15,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> GroupSums:
    """Sums over labeled logits by group of rows that are not independent, in one pass.

    Args:
        logits: float `[n, k]`, `[n]` binary, or dense `[n, k, ...]`.
        targets: class ids `[n]` (dense `[n, ...]`) int64.
        groups: ids 0..g-1 shaped like the targets, int64; default: every sample with all its
            positions is a group.
        bins: number of equal bins of confidence.
        weights: weights shaped like the targets.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes or dtypes do not fit, no row counts, NaN or +inf.

    Cost: that of `calibration_sums`; the state is `[g, bins]`.
    """
    rows = labeled_outputs(logits, targets, weights, ignore_index)
    targets = rows.targets
    if groups is None:
        sample = torch.arange(len(targets), device=targets.device)
        groups = sample.view(-1, *([1] * (targets.ndim - 1))).expand_as(targets)
    invalid = groups.shape != targets.shape or groups.is_floating_point()
    if invalid or (groups.numel() and int(groups.min()) < 0):
        reject(
            "groups",
            f"{list(targets.shape)} ids from 0",
            f"{groups.dtype} {list(groups.shape)}",
            "Number the groups of rows.",
        )
    sums = _summed_by_group(rows, groups, bins)
    nonempty = sums.mass > 0
    if not bool(nonempty.any()):
        reject(
            "targets",
            "at least one row that counts",
            "none",
            "Pass rows with positive weight, not all ignored.",
        )
    return GroupSums(sums.mass[nonempty], sums.gap[nonempty], sums.scores[nonempty])


def temperature_error(
    logits: Tensor,
    targets: Tensor,
    groups: Tensor,
    temperature: float,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> float:
    """Standard error of a fitted temperature over groups of rows.

    Args:
        logits: float `[n, k]` or `[n]`.
        targets: class ids `[n]` int64.
        groups: ids `[n]` int64 from 0.
        temperature: T as `fit_temperature` found it on these rows.
        weights: row weights `[n]`.
        ignore_index: target of rows that do not count.
    """
    score = torch.zeros(int(groups.max()) + 1, dtype=torch.float64, device=logits.device)
    curvature = 0.0
    for start, chunk in _numbered(labeled_outputs(logits, targets, weights, ignore_index)):
        z = chunk.logits.double()
        probs = (z / temperature).softmax(1)
        unmasked = z.masked_fill(z.isneginf(), 0.0)
        mean = (probs * unmasked).sum(1)
        mass = torch.ones_like(mean) if chunk.weights is None else chunk.weights
        group = groups[start : start + len(mean)]
        score.index_add_(0, group, mass * (mean - chunk.at_target(z)))
        curvature += float(mass @ ((probs * unmasked.square()).sum(1) - mean.square()))
    return temperature**2 * grouped_error(score, curvature) if curvature > 0 else math.nan


def grouped_error(deviations: Tensor, mass: float) -> float:
    """Standard error of a mean over rows that are independent only between groups.

    Args:
        deviations: deviations from the mean, summed by group, `[g]`.
        mass: total weight of the rows.
    """
    groups = len(deviations)
    if groups < 2:
        return math.inf
    return math.sqrt(float(deviations.square().sum()) * groups / (groups - 1)) / mass


def _summed_by_group(rows: LabeledOutputs, groups: Tensor, bins: int) -> GroupSums:
    """The sums of all groups, empty ones included, on the host."""
    size, device = int(groups.max()) + 1 if groups.numel() else 0, rows.logits.device
    upper = (bin_edges(bins)[1:] * (1 + rounding(rows.logits))).to(device)
    gap = torch.zeros(size * bins, dtype=torch.float64, device=device)
    sums = torch.zeros(3, size, dtype=torch.float64, device=device)
    # Dense groups are flattened as `chunks` flattens the positions of a sample: the same rows in
    # the same order.
    flat_groups = groups.reshape(-1)
    for start, chunk in _numbered(rows):
        log_probs = chunk.log_probs()
        confidence, correct = top_label(chunk, log_probs)
        reject_nonfinite(int(confidence.isnan().sum()))
        group = flat_groups[start : start + len(confidence)]
        slot = group * bins + torch.bucketize(confidence, upper).clamp(max=bins - 1)
        gap.index_add_(0, slot, chunk.weighted(confidence - correct.double()))
        sums.index_add_(1, group, chunk.weighted(_row_scores(chunk, log_probs)))
    mass, nll, brier = sums.cpu()
    return GroupSums(mass, gap.view(size, bins).cpu(), torch.stack([nll, brier], 1))


def _row_scores(chunk: Chunk, log_probs: Tensor) -> Tensor:
    """`[3, m]` one, log loss and Brier score of each row."""
    own = chunk.at_target(log_probs).double()
    brier = 1 + log_probs.exp().square().sum(1).double() - 2 * own.exp()
    return torch.stack([torch.ones_like(own), -own, brier])


def _numbered(rows: LabeledOutputs) -> Iterator[tuple[int, Chunk]]:
    """Every chunk with the number of its first row."""
    start = 0
    for chunk in rows.chunks():
        yield start, chunk
        start += len(chunk.targets)


def _resampled_errors(
    gap: NDArray[np.float64],
    centered: NDArray[np.float64],
    mass: NDArray[np.float64],
    replicates: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`[replicates]` calibration errors with random signs by group, and of Poisson groups."""
    groups, total = len(mass), float(mass.sum())
    step = max(1, _BLOCK // max(groups, 1))
    null, bootstrap = [], []
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        flipped = (2.0 * generator.integers(0, 2, (size, groups)) - 1) @ gap
        null.append(np.abs(flipped).sum(1) / total)
        counts = generator.poisson(1.0, (size, groups)).astype(np.float64)
        bootstrap.append(np.abs(counts @ centered).sum(1) / np.maximum(counts @ mass, 1e-300))
    return np.concatenate(null), np.concatenate(bootstrap)

"""Label shift: class priors of unlabeled rows by maximum likelihood, and a test of the fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CHUNK = 2**20
_MAX_ROUNDS = 500
# Gain of mean log likelihood, in nats, that the last round leaves at most; a certificate, not the
# size of a step.
_TOLERANCE = 1e-9
# Part of a prior that an extrapolation leaves at least; and its greatest length, in rounds.
_MIN_PART = 1e-3
_MAX_LENGTH = 1e6
_MIN_EXPECTED = 5.0
_MAX_CELLS = 200
_ROWS_PER_CELL = 60


@dataclass(frozen=True, eq=False)
class LabelShift:
    """Class priors of unlabeled rows, beside those that the model was calibrated on.

    Args:
        reference: priors `[k]` float64 that the probabilities assume.
        prior: estimated priors `[k]` float64.
        low: lower bounds `[k]` of `prior`.
        high: upper bounds `[k]`.
        statistic: Wald statistic of no change in any prior, chi-squared with k - 1 degrees of
            freedom if there is none.
        p_value: p-value of no change in any prior, NaN where it cannot be computed.
        converged: whether no other priors are likelier by more than 1e-9 nats a row.
        rows: number of unlabeled rows.
        level: coverage of the bounds.
    """

    reference: Tensor
    prior: Tensor
    low: Tensor
    high: Tensor
    statistic: float
    p_value: float
    converged: bool
    rows: int
    level: float = 0.95

    @property
    def shrunken(self) -> Tensor:
        """Priors `[k]` float64 shrunken towards the reference by the noise of their distance.

        `reference + max(0, 1 - (k - 1) / statistic) (prior - reference)`: of many classes each
        prior is imprecise, and logits fitted to the noise in all of them lose more than they gain.

        Source: James and Stein (1961), positive part after Baranchik (1970), Ann. Math. Statist.
        41:642.
        """
        noise = min(1.0, (len(self.prior) - 1) / self.statistic) if self.statistic > 0 else 1.0
        return self.prior + noise * (self.reference - self.prior)

    def table(self) -> pd.DataFrame:
        """One row per class: assumed prior, estimated prior with interval, ratio."""
        import pandas as pd

        names = ("reference", "prior", "low", "high")
        frame = pd.DataFrame({name: getattr(self, name).numpy() for name in names})
        frame.insert(0, "class", range(len(frame)))
        return frame.assign(ratio=frame["prior"] / frame["reference"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Assumed and estimated priors with intervals, the 20 largest changes first."""
        ax = axes(ax, size=(6.0, 3.6))
        order = (self.prior - self.reference).abs().argsort(descending=True, stable=True)[:20]
        before, after, low, high = (
            part[order].numpy() for part in (self.reference, self.prior, self.low, self.high)
        )
        positions = range(len(order))
        ax.bar(positions, before, 0.8, color=NEUTRAL, alpha=0.4, label="assumed")
        ax.errorbar(
            positions,
            after,
            yerr=[after - low, high - after],
            fmt="o",
            color=LIVE,
            capsize=3,
            label=f"estimated ({self.level:.0%} interval)",
        )
        ax.set_xticks(list(positions), [str(int(label)) for label in order])
        ax.set(
            xlabel="class",
            ylabel="share of rows",
            title=f"Class priors of {self.rows:,} unlabeled rows",
        )
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize="small")
        return ax


def label_shift(
    logits: Tensor, reference: Tensor, *, reference_rows: int | None = None, level: float = 0.95
) -> LabelShift:
    """The class priors under which the calibrated predictions of unlabeled rows are likeliest.

    Maximises `mean_i log sum_j p_ij q_j / r_j` over priors q by the EM steps
    `q_j <- q_j mean_i (p_ij / r_j) / m_i` with squared extrapolation. Valid only under label shift
    (p(x | y) as before) and if p is calibrated on rows with priors r: calibrate with a class bias
    first, and test the fit with `label_shift_misfit`.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Alexandari, Kundaje
    and Shrikumar (2020), arXiv:1901.06852; Varadhan and Roland (2008), Scand. J. Statist. 35:335,
    for the extrapolation.

    Args:
        logits: calibrated float logits `[n, k]` of the unlabeled rows, or `[n]` binary.
        reference: class priors (or counts) `[k]` that the probabilities assume, all positive.
        reference_rows: number of rows of the calibration, whose noise widens the bounds; None takes
            it as exact.
        level: coverage of the bounds, from the curvature of the likelihood.

    Raises:
        InputError: no rows, shapes that do not fit, or a class without reference prior.

    Cost: two products `[n, k] x [k]` a round, some tens of rounds; memory of one chunk beside the
    input.
    """
    z = two_class_logits(logits)
    if z.ndim != 2 or not len(z) or not z.is_floating_point():
        reject(
            "logits",
            "float [n, k] or [n] with n > 0",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass calibrated logits, one row each.",
        )
    if reference.shape != z.shape[1:] or bool((reference <= 0).any()):
        smallest = float(reference.min()) if reference.numel() else None
        reject(
            "reference",
            f"[{z.shape[1]}] positive priors",
            f"shape {list(reference.shape)}, smallest {smallest}",
            "Leave out classes that are absent from the reference.",
        )
    assumed = reference.double().cpu() / reference.double().sum().cpu()
    prior, slope, converged = _maximised(z, assumed)
    low, high, statistic, p_value = _bounds(z, assumed, prior, slope, reference_rows, level)
    return LabelShift(assumed, prior, low, high, statistic, p_value, converged, len(z), level)


def label_shift_misfit(
    logits: Tensor, targets: Tensor, production: Tensor, priors: Tensor | None = None
) -> tuple[float, float]:
    """p-value and distance of the hypothesis that only the class priors changed.

    Rows are counted in cells of the model's output (predicted class by confidence). Under label
    shift the frequencies of the cells in production are a mixture of those in each class; the test
    is whether given priors, or else the best ones, leave more than noise. A small p-value means
    that the rows of a class look different (covariate shift or drift), or that given priors are
    wrong, e.g. because `label_shift` estimated them from bad probabilities.

    Source: Hansen (1982), Econometrica 50:1029, the test of over-identifying moments, on the
    moments of Lipton, Wang and Smola (2018), ICML, arXiv:1802.03916.

    Args:
        logits: logits `[n, k]` (or `[n]`) of labeled rows.
        targets: class ids `[n]` int64.
        production: logits `[m, k]` (or `[m]`) of unlabeled rows.
        priors: priors `[c]` of the c classes among the labeled rows; default: the best ones.

    Returns:
        p-value (NaN if there are too few rows or cells for so many classes) and the total variation
        left, in [0, 1].
    """
    from scipy.special import chdtrc

    classes = 2 if logits.ndim == 1 else logits.shape[1]
    cells, production_cells, count = _cells(logits, production)
    if not len(cells) or not len(production_cells):
        return math.nan, math.nan
    per_class = torch.bincount(cells * classes + targets.cpu(), minlength=count * classes)
    per_class = per_class.view(count, classes).double()
    present = per_class.sum(0) > (0 if priors is not None else 1)
    n_class, m = per_class.sum(0)[present], len(production_cells)
    frequency = torch.bincount(production_cells, minlength=count).double() / m
    rates = per_class[:, present] / n_class
    fitted = 0 if priors is not None else int(present.sum()) - 1
    free = count - 1 - fitted
    # With hardly more cells than priors to fit, their covariance is too imprecise to be inverted.
    if free < max(1, fitted) or not bool(present.any()):
        return math.nan, math.nan
    if priors is None:
        mixture = _best_mixture(frequency, rates, n_class, m)
    else:
        mixture = priors.double().cpu()
    inverse = _inverse_covariance(rates, mixture, n_class, m)
    residual = frequency - rates @ mixture
    statistic = float(residual @ inverse @ residual)
    return float(chdtrc(free, statistic)), float(residual.abs().sum() / 2)


def _best_mixture(frequency: Tensor, rates: Tensor, n_class: Tensor, m: int) -> Tensor:
    """`[k]` priors that fit the cell frequencies best, by iterated weighted least squares."""
    mixture = n_class / n_class.sum()
    contrast = rates[:, 1:] - rates[:, :1]
    for _ in range(3):
        weighted = contrast.T @ _inverse_covariance(rates, mixture, n_class, m)
        normal = torch.linalg.pinv(weighted @ contrast, hermitian=True)
        rest = normal @ weighted @ (frequency - rates[:, 0])
        mixture = torch.cat([1 - rest.sum()[None], rest]).clamp(min=0)
        mixture = mixture / mixture.sum()
    return mixture


def _inverse_covariance(rates: Tensor, mixture: Tensor, n_class: Tensor, m: int) -> Tensor:
    """Inverse covariance `[c, c]` of the frequencies of c cells in m rows less their mixture.

    Args:
        rates: frequencies `[c, k]` of the cells in each class.
        mixture: priors `[k]` of the classes.
        n_class: number `[k]` of labeled rows of each class.
        m: number of unlabeled rows.
    """
    mixed = rates @ mixture
    noise = (mixed.diag() - torch.outer(mixed, mixed)) / m
    weight = mixture.square() / n_class
    noise += (rates @ weight).diag() - (rates * weight) @ rates.T
    inverse: Tensor = torch.linalg.pinv(noise, hermitian=True, rtol=1e-10)
    return inverse


def _cells(logits: Tensor, production: Tensor) -> tuple[Tensor, Tensor, int]:
    """Cell of each labeled and of each unlabeled row, and the number of cells.

    Sparse cells are pooled into one: they are uninformative and break the normal approximation.
    """
    n, m = len(logits), len(production)
    (score, predicted), (live_score, live_predicted) = (
        _score_and_class(z) for z in (logits, production)
    )
    score, predicted = torch.cat([score, live_score]), torch.cat([predicted, live_predicted])
    classes = int(predicted.max()) + 1 if n + m else 1
    parts = max(2, min(10, int(min(n, m) / (_ROWS_PER_CELL * classes)), _MAX_CELLS // classes))
    cell = predicted * parts + _quantile_groups(score, predicted, parts)
    rows = torch.bincount(cell, minlength=classes * parts)
    dense = rows * min(n, m) >= 2 * _MIN_EXPECTED * (n + m)
    numbers = torch.where(dense, dense.long().cumsum(0) - 1 + int((~dense).any()), 0)
    cell = numbers[cell]
    return cell[:n], cell[n:], int(numbers.max()) + 1


def _quantile_groups(score: Tensor, predicted: Tensor, parts: int) -> Tensor:
    """`[n]` which of `parts` equal groups by score each row is in, among those of its class."""
    order = torch.argsort(score, stable=True)
    order = order[torch.argsort(predicted[order], stable=True)]
    count = torch.bincount(predicted)
    rank = torch.arange(len(score)) - (count.cumsum(0) - count)[predicted[order]]
    group = torch.empty_like(predicted)
    group[order] = rank * parts // count[predicted[order]]
    return group


def _score_and_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A score and a predicted class per row; two classes are one class, scored by their logit."""
    z = logits.double().cpu()
    if z.ndim == 1 or z.shape[1] == 2:
        score = z if z.ndim == 1 else z[:, 1] - z[:, 0]
        return score, torch.zeros(len(z), dtype=torch.int64)
    top, predicted = z.max(1)
    return -torch.logsumexp(z - top[:, None], 1), predicted


def _ratios(z: Tensor, assumed: Tensor) -> Iterator[Tensor]:
    """`p_ij / r_j` in chunks of rows, float64."""
    rows = max(1, _CHUNK // z.shape[1])
    scale = assumed.to(z.device).reciprocal()
    for start in range(0, len(z), rows):
        yield z[start : start + rows].double().softmax(1) * scale


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """Mean log likelihood of class priors for unlabeled rows.

    Args:
        z: calibrated logits `[n, k]`.
        assumed: priors `[k]` that the probabilities assume.
        ratios: `p_ij / r_j` of all rows, where they fit into memory.
    """

    z: Tensor
    assumed: Tensor
    ratios: list[Tensor] | None

    def slope(self, priors: Tensor) -> tuple[Tensor, float]:
        """Its derivatives `[k]` in the priors, and its value."""
        z, q = self.z, priors.to(self.z.device)
        total = torch.zeros(z.shape[1] + 1, dtype=torch.float64, device=z.device)
        for ratios in self.ratios or _ratios(z, self.assumed):
            mixed = ratios @ q
            total[:-1] += mixed.reciprocal() @ ratios
            total[-1] += mixed.log().sum()
        total = (total / len(z)).cpu()
        return total[:-1], float(total[-1])


def _maximised(z: Tensor, assumed: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Likeliest priors, slope of the mean log likelihood there, and whether it converged."""
    ratios = [torch.cat(list(_ratios(z, assumed)))] if z.numel() <= 2**26 else None
    slope = _Likelihood(z, assumed, ratios).slope
    at = assumed
    gradient, _ = slope(at)
    for _ in range(_MAX_ROUNDS):
        # The likelihood is concave: it can rise by the largest slope less 1 at most.
        if float(gradient.max()) - 1 <= _TOLERANCE:
            return at, gradient, True
        first = at * gradient
        second_gradient, value = slope(first)
        second = first * second_gradient
        step, bend = first - at, second - 2 * first + at
        length = min(max(1.0, float(step.norm() / bend.norm().clamp(min=1e-300))), _MAX_LENGTH)
        # A prior of exactly zero could never grow again, though an extrapolation may overshoot.
        trial = (at + 2 * length * step + length**2 * bend).maximum(second * _MIN_PART)
        trial = trial / trial.sum()
        gradient, likelihood = slope(trial)
        if likelihood < value:
            trial = second
            gradient, _ = slope(second)
        at = trial
    return at, gradient, False


def _bounds(
    z: Tensor,
    assumed: Tensor,
    prior: Tensor,
    slope: Tensor,
    reference_rows: int | None,
    level: float,
) -> tuple[Tensor, Tensor, float, float]:
    """Bounds by the curvature on the simplex; statistic and p-value of no change.

    Bounds of vanished classes follow from the slope.
    """
    from scipy.special import chdtrc

    n, k = len(z), len(prior)
    at_prior, at_assumed = _informations(z, assumed, (prior, assumed))
    # The reference is a sample too: its noise adds in proportion to the rows.
    per_row = 1 / n + (1 / reference_rows if reference_rows else 0.0)
    noise = per_row * _constrained_inverse(at_prior, prior > 1e-6)
    z_value = normal_quantile(0.5 + level / 2)
    half = z_value * noise.diagonal().clamp(min=0).sqrt()
    # The log likelihood falls by n (1 - slope) per unit of a vanished prior; it may fall by half a
    # chi-squared quantile.
    reach = z_value**2 / 2 / (n * (1 - slope).clamp(min=1e-9))
    gone = prior <= 1e-6
    low = torch.where(gone, torch.zeros_like(prior), (prior - half).clamp(min=0))
    high = torch.where(gone, reach.clamp(max=1), (prior + half).clamp(max=1))
    variance = per_row * _constrained_inverse(at_assumed, assumed > 0)
    change = prior - assumed
    wald = float(change @ torch.linalg.pinv(variance, hermitian=True, rtol=1e-10) @ change)
    p_value = float(chdtrc(k - 1, wald)) if k > 1 and math.isfinite(wald) else math.nan
    return low, high, wald, p_value


def _informations(z: Tensor, assumed: Tensor, points: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Observed information `[k, k]` per row at each of some priors."""
    k = len(assumed)
    totals = [torch.zeros(k, k, dtype=torch.float64, device=z.device) for _ in points]
    for ratios in _ratios(z, assumed):
        for total, priors in zip(totals, points, strict=True):
            part = ratios / (ratios @ priors.to(z.device))[:, None]
            total += part.T @ part / len(z)
    return tuple(total.cpu() for total in totals)


def _constrained_inverse(information: Tensor, free: Tensor) -> Tensor:
    """Inverse of the information on the free priors, which sum to a constant; 0 elsewhere."""
    inside = information[free][:, free]
    size = len(inside)
    plane = torch.eye(size, dtype=torch.float64) - 1 / size
    inverse = torch.zeros_like(information)
    index = free.nonzero()[:, 0]
    inverse[index[:, None], index] = torch.linalg.pinv(
        plane @ inside @ plane, hermitian=True, rtol=1e-12
    )
    return inverse

"""Class shares of unlabeled rows by maximum likelihood, and whether a change of shares explains the
rows at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CHUNK = 2**20
_MOST_ROUNDS = 500
# Gain of mean log likelihood, in nats, that the last round leaves at most; a certificate, not the
# size of a step.
_TOLERANCE = 1e-9
# Of a share, what a jump leaves at least; and the longest jump, in rounds.
_LEAST = 1e-3
_LONGEST = 1e6
_FEWEST_EXPECTED = 5.0
_MOST_CELLS = 200
_ROWS_PER_CELL = 60


@dataclass(frozen=True, eq=False)
class LabelShift:
    """Class shares of unlabeled rows, beside those that the model was calibrated on.

    Args:
        reference: `[k]` float64 shares that the probabilities assume.
        prior: `[k]` float64 estimated shares.
        low: `[k]` lower bounds of `prior`.
        high: `[k]` upper bounds.
        statistic: Wald statistic of no change in any share, chi-squared with k - 1 degrees of
            freedom if there is none.
        p_value: of no change in any share, NaN where nothing can be said.
        converged: whether no other shares are likelier by more than 1e-9 nats a row.
        rows: unlabeled rows.
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
    def distance(self) -> float:
        """Total variation between the shares, in [0, 1]: the least part of the rows that changed
        class.
        """
        return float((self.prior - self.reference).abs().sum() / 2)

    @property
    def shrunken(self) -> Tensor:
        """`[k]` float64 shares moved back towards the reference by that part of their distance
        which noise alone gives.

        `reference + max(0, 1 - (k - 1) / statistic) (prior - reference)`: of many classes each
        share is poorly known, and logits fitted to the noise in all of them lose more than they
        gain.

        Source: James and Stein (1961), positive part after Baranchik (1970), Ann. Math. Statist.
        41:642.
        """
        noise = min(1.0, (len(self.prior) - 1) / self.statistic) if self.statistic > 0 else 1.0
        return self.prior + noise * (self.reference - self.prior)

    @property
    def bias(self) -> Tensor:
        """`[k]` float64 log(prior / reference), to be added to calibrated logits; a vanished class
        is floored at 1e-12.
        """
        return (self.prior.clamp(min=1e-12) / self.reference).log()

    def adapted(self, logits: Tensor) -> Tensor:
        """Calibrated logits `[n, k]` (or `[n]`) for the estimated shares, same dtype."""
        bias = self.bias[1] - self.bias[0] if logits.ndim == 1 else self.bias
        return logits + bias.to(logits)

    def threshold(self, threshold: float = 0.5) -> float:
        """Where on the old probability of class 1 a threshold on the adapted one lies (two
        classes).
        """
        shift = float(self.bias[1] - self.bias[0])
        return 1 / (1 + math.exp(shift - math.log(threshold / (1 - threshold))))

    def table(self) -> pd.DataFrame:
        """One row per class: assumed share, estimated share with interval, ratio."""
        import pandas as pd

        columns = {
            "reference": self.reference,
            "prior": self.prior,
            "low": self.low,
            "high": self.high,
        }
        frame = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        frame.insert(0, "class", range(len(frame)))
        return frame.assign(ratio=frame["prior"] / frame["reference"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Assumed and estimated shares with intervals, the largest changes first (at most 20)."""
        ax = axes(ax, size=(6.0, 3.6))
        order = (self.prior - self.reference).abs().argsort(descending=True, stable=True)[:20]
        before, after, low, high = (
            part[order].numpy() for part in (self.reference, self.prior, self.low, self.high)
        )
        places = range(len(order))
        ax.bar(places, before, 0.8, color=NEUTRAL, alpha=0.4, label="assumed")
        ax.errorbar(
            places,
            after,
            yerr=[after - low, high - after],
            fmt="o",
            color=LIVE,
            capsize=3,
            label=f"estimated ({self.level:.0%} interval)",
        )
        ax.set_xticks(list(places), [str(int(label)) for label in order])
        ax.set(
            xlabel="class",
            ylabel="share of rows",
            title=f"Class shares of {self.rows:,} unlabeled rows",
        )
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize="small")
        return ax


def label_shift(
    logits: Tensor, reference: Tensor, *, reference_rows: int | None = None, level: float = 0.95
) -> LabelShift:
    """The class shares under which the calibrated predictions of unlabeled rows are likeliest.

    Maximises `mean_i log sum_j p_ij q_j / r_j` over shares q by the EM steps
    `q_j <- q_j mean_i (p_ij / r_j) / m_i` with squared extrapolation. True only under label shift
    (p(x | y) as before) and if p is calibrated on rows with shares r: ask `label_shift_misfit`, and
    calibrate with a class bias first.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Alexandari, Kundaje
    and Shrikumar (2020), arXiv:1901.06852; Varadhan and Roland (2008), Scand. J. Statist. 35:335,
    for the extrapolation.

    Args:
        logits: `[n, k]` calibrated float logits of the unlabeled rows, or `[n]` binary.
        reference: `[k]` class shares (or counts) that the probabilities assume, all positive.
        reference_rows: rows behind the calibration, so that its own noise widens the bounds; None
            takes it as exact.
        level: coverage of the bounds, from the curvature of the likelihood.

    Raises:
        InputError: no rows, shapes that do not fit, or a class without reference share.

    Cost: two products `[n, k] x [k]` a round, some tens of rounds; memory of one chunk beside the
    input.
    """
    z = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    if z.ndim != 2 or not len(z) or not z.is_floating_point():
        reject(
            "logits",
            "float [n, k] or [n] with n > 0",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass calibrated logits, one row each.",
        )
    if reference.shape != z.shape[1:] or bool((reference <= 0).any()):
        got = (
            f"shape {list(reference.shape)}, smallest "
            f"{float(reference.min()) if reference.numel() else None}"
        )
        reject(
            "reference",
            f"[{z.shape[1]}] positive shares",
            got,
            "Leave out classes that the reference does not hold.",
        )
    assumed = reference.double().cpu() / reference.double().sum().cpu()
    prior, slope, converged = _maximised(z, assumed)
    low, high, statistic, p_value = _bounds(z, assumed, prior, slope, reference_rows, level)
    return LabelShift(assumed, prior, low, high, statistic, p_value, converged, len(z), level)


def label_shift_misfit(
    logits: Tensor, targets: Tensor, production: Tensor, shares: Tensor | None = None
) -> tuple[float, float]:
    """Whether a change of class shares turns the labeled rows into the unlabeled ones: (p-value,
    distance).

    Rows are counted in cells of what the model says (predicted class by confidence). Under label
    shift the shares of the cells in production are a mixture of those in each class; the test asks
    whether given shares, or else the best ones, leave more than noise. A small p-value means that
    the rows of a class look different (covariate shift or drift), or of given shares that they are
    wrong, as those are that `label_shift` tells from bad probabilities.

    Source: Hansen (1982), Econometrica 50:1029, the test of over-identifying moments, on the
    moments of Lipton, Wang and Smola (2018), ICML, arXiv:1802.03916.

    Args:
        logits: `[n, k]` (or `[n]`) of labeled rows.
        targets: `[n]` int64 class ids.
        production: `[m, k]` (or `[m]`) logits of unlabeled rows.
        shares: `[c]` shares of the c classes that the labeled rows hold; default: those that fit
            best.

    Returns:
        p-value (NaN if there are too few rows or cells for so many classes) and the total variation
        left, in [0, 1].
    """
    from scipy.stats import chi2

    classes = 2 if logits.ndim == 1 else logits.shape[1]
    cells, live_cells, count = _cells(logits, production)
    if not len(cells) or not len(live_cells):
        return math.nan, math.nan
    per_class = torch.zeros(count, classes, dtype=torch.float64)
    per_class.index_put_(
        (cells, targets.cpu()), torch.ones(len(cells), dtype=torch.float64), accumulate=True
    )
    held = per_class.sum(0) > (0 if shares is not None else 1)
    per_class = per_class[:, held]
    n_class, m = per_class.sum(0), len(live_cells)
    seen = torch.bincount(live_cells, minlength=count).double() / m
    rates = per_class / n_class
    fitted = 0 if shares is not None else int(held.sum()) - 1
    free = count - 1 - fitted
    # With hardly more cells than shares to fit, their covariance is too poorly known to be
    # inverted.
    if free < max(1, fitted) or not bool(held.any()):
        return math.nan, math.nan
    mixture = n_class / n_class.sum() if shares is None else shares.double().cpu()
    inverse = _weight(rates, mixture, n_class, m)
    for _ in range(3 if shares is None else 0):
        contrast = rates[:, 1:] - rates[:, :1]
        rest = (
            torch.linalg.pinv(contrast.T @ inverse @ contrast, hermitian=True)
            @ contrast.T
            @ inverse
            @ (seen - rates[:, 0])
        )
        mixture = torch.cat([1 - rest.sum()[None], rest]).clamp(min=0)
        mixture = mixture / mixture.sum()
        inverse = _weight(rates, mixture, n_class, m)
    left = seen - rates @ mixture
    return float(chi2.sf(float(left @ inverse @ left), free)), float(left.abs().sum() / 2)


def _weight(rates: Tensor, mixture: Tensor, n_class: Tensor, m: int) -> Tensor:
    """Inverse covariance `[c, c]` of the shares of cells in m rows less their mixture of the
    `[c, k]` rates of the classes.
    """
    mixed = rates @ mixture
    noise = (mixed.diag() - torch.outer(mixed, mixed)) / m
    weight = mixture.square() / n_class
    noise += (rates @ weight).diag() - (rates * weight) @ rates.T
    inverse: Tensor = torch.linalg.pinv(noise, hermitian=True, rtol=1e-10)
    return inverse


def _cells(logits: Tensor, production: Tensor) -> tuple[Tensor, Tensor, int]:
    """Cell of each labeled and of each unlabeled row, and their number; sparse cells are pooled
    into one.
    """
    n, m = len(logits), len(production)
    (score, said), (live_score, live_said) = _said(logits), _said(production)
    score, said = torch.cat([score, live_score]), torch.cat([said, live_said])
    classes = int(said.max()) + 1 if n + m else 1
    parts = max(2, min(10, int(min(n, m) / (_ROWS_PER_CELL * classes)), _MOST_CELLS // classes))
    # Rank of each row among the rows with the same prediction, by score.
    order = torch.argsort(score, stable=True)
    order = order[torch.argsort(said[order], stable=True)]
    count = torch.bincount(said, minlength=classes)
    first = count.cumsum(0) - count
    cell = torch.empty_like(said)
    cell[order] = (torch.arange(n + m) - first[said[order]]) * parts // count[said[order]]
    cell += said * parts
    # A cell that few rows of either side would fill tells little and breaks the normal
    # approximation.
    sparse = torch.bincount(cell, minlength=classes * parts) * min(n, m) < 2 * _FEWEST_EXPECTED * (
        n + m
    )
    names = torch.where(
        sparse, 0, (~sparse).long().cumsum(0) - (~sparse).long() + int(sparse.any())
    )
    cell = names[cell]
    return cell[:n], cell[n:], int(names.max()) + 1


def _said(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A score and a predicted class per row; the one binary logit is its own score."""
    z = logits.double().cpu()
    if z.ndim == 1 or z.shape[1] == 2:
        return (z if z.ndim == 1 else z[:, 1] - z[:, 0]), torch.zeros(len(z), dtype=torch.int64)
    top, said = z.max(1)
    return -torch.logsumexp(z - top[:, None], 1), said


def _ratios(z: Tensor, assumed: Tensor) -> Iterator[Tensor]:
    """`p_ij / r_j` in chunks of rows, float64."""
    rows = max(1, _CHUNK // z.shape[1])
    scale = assumed.to(z.device).reciprocal()
    for start in range(0, len(z), rows):
        yield z[start : start + rows].double().softmax(1) * scale


def _maximised(z: Tensor, assumed: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Likeliest shares, the slope of the mean log likelihood there, and whether it is certainly the
    maximum.
    """
    whole = z.numel() <= 2**26
    kept = [torch.cat(list(_ratios(z, assumed)))] if whole else None

    def slope(shares: Tensor) -> tuple[Tensor, float]:
        total = torch.zeros(z.shape[1] + 1, dtype=torch.float64, device=z.device)
        q = shares.to(z.device)
        for ratios in kept or _ratios(z, assumed):
            mixed = ratios @ q
            total[:-1] += mixed.reciprocal() @ ratios
            total[-1] += mixed.log().sum()
        total = (total / len(z)).cpu()
        return total[:-1], float(total[-1])

    at = assumed
    gradient, _ = slope(at)
    for _ in range(_MOST_ROUNDS):
        # The likelihood is concave: it can rise by the largest slope less 1 at most.
        if float(gradient.max()) - 1 <= _TOLERANCE:
            return at, gradient, True
        first = at * gradient
        second_gradient, value = slope(first)
        second = first * second_gradient
        step, bend = first - at, second - 2 * first + at
        length = min(max(1.0, float(step.norm() / bend.norm().clamp(min=1e-300))), _LONGEST)
        # A share of exactly zero could never grow again, though a jump may have overshot.
        jumped = (at + 2 * length * step + length**2 * bend).maximum(second * _LEAST)
        jumped = jumped / jumped.sum()
        gradient, reached = slope(jumped)
        if reached < value:
            jumped = second
            gradient, _ = slope(second)
        at = jumped
    return at, gradient, False


def _bounds(
    z: Tensor,
    assumed: Tensor,
    prior: Tensor,
    slope: Tensor,
    reference_rows: int | None,
    level: float,
) -> tuple[Tensor, Tensor, float, float]:
    """Bounds by the curvature on the simplex, for vanished classes by the slope; statistic and
    p-value of no change.
    """
    from scipy.stats import chi2

    n, k = len(z), len(prior)
    at_prior, at_assumed = (
        torch.zeros(k, k, dtype=torch.float64, device=z.device) for _ in range(2)
    )
    for ratios in _ratios(z, assumed):
        for total, shares in ((at_prior, prior), (at_assumed, assumed)):
            part = ratios / (ratios @ shares.to(z.device))[:, None]
            total += part.T @ part / n
    # The reference is a sample too: its noise adds in proportion to the rows.
    noise = (1 / n + (1 / reference_rows if reference_rows else 0.0)) * _constrained_inverse(
        at_prior.cpu(), prior > 1e-6
    )
    z_value = normal_quantile(0.5 + level / 2)
    half = z_value * noise.diagonal().clamp(min=0).sqrt()
    # The log likelihood falls by n (1 - slope) a unit of a vanished share; it may fall by half a
    # chi-squared quantile.
    reach = z_value**2 / 2 / (n * (1 - slope).clamp(min=1e-9))
    gone = prior <= 1e-6
    low = torch.where(gone, torch.zeros_like(prior), (prior - half).clamp(min=0))
    high = torch.where(gone, reach.clamp(max=1), (prior + half).clamp(max=1))
    variance = (1 / n + (1 / reference_rows if reference_rows else 0.0)) * _constrained_inverse(
        at_assumed.cpu(), assumed > 0
    )
    moved = prior - assumed
    wald = float(moved @ torch.linalg.pinv(variance, hermitian=True, rtol=1e-10) @ moved)
    return (
        low,
        high,
        wald,
        float(chi2.sf(wald, k - 1)) if k > 1 and math.isfinite(wald) else math.nan,
    )


def _constrained_inverse(information: Tensor, free: Tensor) -> Tensor:
    """Inverse of the information on the shares that are free, which sum to a constant; 0
    elsewhere.
    """
    inside = information[free][:, free]
    size = len(inside)
    plane = torch.eye(size, dtype=torch.float64) - 1 / size
    inverse = torch.zeros_like(information)
    index = free.nonzero()[:, 0]
    inverse[index[:, None], index] = torch.linalg.pinv(
        plane @ inside @ plane, hermitian=True, rtol=1e-12
    )
    return inverse

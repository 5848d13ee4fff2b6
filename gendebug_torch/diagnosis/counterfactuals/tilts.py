"""Density ratios of production to validation as a product of factors, one for each mechanism."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.stats.probe_network import fold_ids

_FOLDS = 4
_PENALTIES = (1e-3, 1e-2, 1e-1)
_ROUNDS = 30
_TOLERANCE = 1e-8
# Longest step of the logarithm of a ratio, in its standard deviations.
_LONGEST = 2.0
# Rows of each side that a fit looks at.
_FITTED = 20_000
# Weighted rows say something where they are worth this many, and this share of the rows.
_LEAST_ROWS, _LEAST_SHARE = 50, 0.03
# Standard deviations by which weighted rows of validation may miss those of production.
MOST_MISSED = 0.25


@dataclass(frozen=True, eq=False)
class Tilts:
    """Factors `exp(u_j b_j)` of the ratio p_production / p_validation, fitted together.

    Each row's factors come from a fit to the other folds.

    Args:
        units: columns of both sides, validation first, `[n + m, q]`.
        owner: mechanism of each column, `[q]`.
        coefficients: of the rows as they are and of each resampling, `[f, q, 1 + r]`.
        folds: fold of each row, `[n + m]`.
        n: rows of validation.
    """

    units: Tensor
    owner: Tensor
    coefficients: Tensor
    folds: Tensor
    n: int

    def log_ratio(self, mechanism: int, columns: slice) -> tuple[Tensor, Tensor]:
        """Logarithm of one factor, `[n, c]` and `[m, c]`; its mean is 1 in validation.

        Args:
            mechanism: which factor.
            columns: replicates.
        """
        own = self.owner == mechanism
        ratio = torch.zeros(len(self.units), len(range(self.coefficients.shape[2])[columns]))
        for fold in range(len(self.coefficients)):
            rows = self.folds == fold
            values = self.units[rows][:, own] @ self.coefficients[fold][own][:, columns]
            before = values[: int(rows[: self.n].sum())]
            ratio[rows] = values - before.logsumexp(0) + torch.tensor(float(len(before))).log()
        return ratio[: self.n], ratio[self.n :]


def fit_tilts(
    blocks: Sequence[tuple[Tensor, Tensor]], weights: tuple[Tensor, Tensor], *, seed: int = 0
) -> Tilts:
    """Factors that make the weighted means of all units in validation those of production.

    Maximises `mean_P(u b) - log mean_V(exp(u b)) - penalty |b|^2 / 2` over all blocks together, so
    that a mechanism has a factor only where the others do not explain it. The penalty is chosen on
    held-out rows. Resampled coefficients are one Newton step away from the fitted ones.

    Source: Sugiyama et al. (2008), Ann. Inst. Stat. Math. 60:699 (KLIEP); Hainmueller (2012),
    Polit. Anal. 20:25, and Zhao and Percival (2017), J. Causal Inference 5(1), for its balance.

    Args:
        blocks: units of each mechanism on both sides, `[n, q_j]` and `[m, q_j]`.
        weights: weights of the rows of both sides, `[n, 1 + r]` and `[m, 1 + r]`, the first column
            without resampling.
        seed: of the folds.

    Cost: some ten products `n q^2` for each fold and penalty.
    """
    before, after = (torch.cat([block[side] for block in blocks], 1).float() for side in (0, 1))
    n, m = len(before), len(after)
    owner = torch.cat([torch.full((b[0].shape[1],), j) for j, b in enumerate(blocks)])
    units = torch.cat([before, after])
    units = (units - units.mean(0)) / units.std(0).clamp(min=1e-6)
    folds = torch.cat([fold_ids(n, _FOLDS, seed), fold_ids(m, _FOLDS, seed + 1)])
    sides = units[:n], units[n:]
    best, chosen = -torch.inf, torch.empty(0)
    for penalty in _PENALTIES:
        fits, held = [], 0.0
        for fold in range(_FOLDS):
            parts = [_part(sides, weights, folds, fold, n, inside=inside) for inside in (0, 1)]
            fit = _fitted(*parts[0], penalty)
            held += _objective(*parts[1], fit[:, 0])
            fits.append(fit)
        if held > best:
            best, chosen = held, torch.stack(fits)
    return Tilts(units, owner, chosen.float(), folds, n)


def _part(
    sides: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    folds: Tensor,
    fold: int,
    n: int,
    *,
    inside: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Units and weights of both sides inside or outside of a fold, some thousand rows at most."""
    rows = [(part == fold) == bool(inside) for part in (folds[:n], folds[n:])]
    index = [mask.nonzero()[:, 0][:_FITTED] for mask in rows]
    return (
        sides[0][index[0]].double(),
        sides[1][index[1]].double(),
        weights[0][index[0]].double(),
        weights[1][index[1]].double(),
    )


def _objective(
    before: Tensor, after: Tensor, weight: Tensor, live_weight: Tensor, beta: Tensor
) -> float:
    mean = (after @ beta * live_weight[:, 0]).sum() / live_weight[:, 0].sum()
    mass = weight[:, 0]
    return float(mean - (before @ beta + mass.log()).logsumexp(0) + mass.sum().log())


def _fitted(
    before: Tensor, after: Tensor, weight: Tensor, live_weight: Tensor, penalty: float
) -> Tensor:
    """Coefficients of the rows as they are and of each resampling, `[q, 1 + r]`."""
    wanted = after.T @ live_weight / live_weight.sum(0)
    beta = torch.zeros(before.shape[1], dtype=torch.float64)
    eye = penalty * torch.eye(len(beta), dtype=torch.float64)
    for _ in range(_ROUNDS):
        ratio = ((before @ beta) + weight[:, 0].log()).softmax(0)
        mean = ratio @ before
        hessian = (before * ratio[:, None]).T @ before - torch.outer(mean, mean) + eye
        step = torch.linalg.solve(hessian, wanted[:, 0] - mean - penalty * beta)
        size = float((before @ step).std())
        beta = beta + step * min(1.0, _LONGEST / max(size, 1e-12))
        if size < _TOLERANCE:
            break
    ratio = (before @ beta).sub((before @ beta).max()).exp()[:, None] * weight
    mean = before.T @ ratio / ratio.sum(0)
    moved = torch.linalg.solve(hessian, (wanted - mean) - (wanted - mean)[:, :1])
    moved[:, 0] = 0.0
    fitted: Tensor = beta[:, None] + moved
    return fitted


def uneven_factor(tilts: Tilts, units: Sequence[tuple[Tensor, Tensor]]) -> tuple[int, str] | None:
    """The factor whose weights are most uneven, or miss production, with the reason; else None.

    Args:
        tilts: factors that were fitted.
        units: columns of both sides that each factor rests on, `[n, q]` and `[m, q]`.
    """
    ratios = [tilts.log_ratio(j, slice(0, 1)) for j in range(len(units))]
    together = [torch.stack([pair[side] for pair in ratios]).sum(0)[:, 0] for side in (0, 1)]
    worth = [_effective_share(pair[0][:, 0]) for pair in ratios]
    least = max(_LEAST_SHARE, _LEAST_ROWS / len(together[0]))
    if min(_effective_share(together[0]), _effective_share(-together[1])) < least:
        worst = min(range(len(worth)), key=worth.__getitem__)
        share = _effective_share(together[0])
        text = f"rows of validation that look like production are worth {share:.1%} of all"
        return worst, f"{text} (needs {least:.1%})"
    weight = together[0].softmax(0)[:, None]
    for j, (before, after) in enumerate(units):
        spread = torch.cat([before, after]).std(0).clamp(min=1e-9)
        missed = float(((weight * before).sum(0) - after.mean(0)).div(spread).abs().max())
        if missed > MOST_MISSED:
            return j, f"validation has no such rows (weighted means miss by {missed:.2f} sd)"
    return None


def _effective_share(log_weights: Tensor) -> float:
    """Effective sample size of weights over their number (Kish, 1965, Survey Sampling)."""
    weights = (log_weights - log_weights.max()).double().exp()
    return float(weights.sum() ** 2 / weights.square().sum() / len(weights))

"""Measures of association on counts of levels by classes, batched over columns."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def level_counts(codes: Tensor, levels: int, classes: Tensor, k: int) -> Tensor:
    """`[c, levels, k]` int64 number of rows of each level and class.

    Args:
        codes: level codes, `[c, n]` int64.
        levels: number of levels.
        classes: class ids, `[n]` int64.
        k: number of classes.
    """
    c = len(codes)
    offset = torch.arange(c, device=codes.device)[:, None] * levels
    cell = (codes + offset) * k + classes
    return torch.bincount(cell.flatten(), minlength=c * levels * k).reshape(c, levels, k)


def level_sums(codes: Tensor, levels: int, values: Tensor) -> Tensor:
    """`[c, levels]` float64 sums of `[n]` values over each level of each column."""
    sums = torch.zeros(len(codes), levels, dtype=torch.float64, device=codes.device)
    return sums.scatter_add_(1, codes, values.double().expand(len(codes), -1))


def explained_share(counts: Tensor) -> Tensor:
    """`[c]` share of the Gini variance of the classes that the levels explain, adjusted.

    `tau = (sum n_bc^2 / n_b - sum n_c^2 / n) / (n - sum n_c^2 / n)`, adjusted for the number of
    levels; for two classes it is the correlation ratio.

    Source: Goodman and Kruskal (1954), JASA 49:732, section 9; adjusted as R² is (Ezekiel, 1930).
    """
    n_b, n_c, n = counts.sum(2), counts.sum(1), counts.sum((1, 2))
    within = (counts * counts).sum(2) / n_b.clamp(min=1e-12)
    chance = (n_c * n_c).sum(1) / n.clamp(min=1e-12)
    return adjusted_share(_ratio(within.sum(1) - chance, n - chance), n_b, n)


def explained_by_class(counts: Tensor) -> Tensor:
    """`[c, k]` explained share of each class against the rest."""
    n_b, n_c, n = counts.sum(2), counts.sum(1), counts.sum((1, 2))
    within = (counts * counts / n_b.clamp(min=1e-12)[:, :, None]).sum(1)
    chance = n_c * n_c / n.clamp(min=1e-12)[:, None]
    return adjusted_share(_ratio(within - chance, n_c - chance), n_b[:, :, None], n[:, None])


def explained_values(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """`[c]` adjusted share of the variance of real values that the level means explain.

    Source: Pearson (1905), Drapers' Co. Res. Mem. 2.

    Args:
        counts: number of rows, `[c, levels]`.
        sums: sums of the centred values, `[c, levels]`.
        squares: sum of the squares of the centred values, `[c]`.
    """
    n = counts.sum(1)
    between = (sums.square() / counts.clamp(min=1)).sum(1) - sums.sum(1).square() / n.clamp(min=1)
    return adjusted_share(_ratio(between, squares), counts, n)


def adjusted_share(raw: Tensor, level_rows: Tensor, n: Tensor) -> Tensor:
    """`1 - (1 - raw) (n - 1) / (n - levels)`; NaN where there are as many levels as rows."""
    rows = n.detach().double()
    freedom = rows - (level_rows.detach() > 0).sum(1)
    factor = torch.where(freedom > 0, (rows - 1) / freedom.clamp(min=1), math.nan)
    return 1 - (1 - raw) * factor


def mutual_information(counts: Tensor) -> Tensor:
    """`[c]` mutual information of levels and classes in nats, corrected for its bias.

    The bias is `(levels - 1)(k - 1) / 2n` (Miller, 1955).
    """
    n = counts.sum((1, 2)).clamp(min=1e-12)
    n_b, n_c = counts.sum(2), counts.sum(1)
    raw = (_xlogx(counts).sum((1, 2)) - _xlogx(n_b).sum(1) - _xlogx(n_c).sum(1) + _xlogx(n)) / n
    levels, classes = (n_b.detach() > 0).sum(1), (n_c.detach() > 0).sum(1)
    return raw - (levels - 1) * (classes - 1) / (2 * n.detach())


def binned_auc(counts: Tensor) -> Tensor:
    """`[c]` chance that a row of class 1 is in a higher level than one of class 0.

    Half of it for the same level.

    Source: Mann and Whitney (1947), Ann. Math. Stat. 18:50, for grouped data.

    Args:
        counts: number of rows, `[c, levels, 2]`, levels ascending, without the missing one.
    """
    negatives, positives = counts[:, :, 0], counts[:, :, 1]
    below = negatives.cumsum(1) - negatives / 2
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def delta_method(statistic: Callable[[Tensor], Tensor], counts: Tensor) -> tuple[Tensor, Tensor]:
    """A statistic of counts and its standard error for multinomial rows, `[c]` each.

    `Var = sum n_cell g^2 - (sum n_cell g)^2 / n` with the gradient g of the statistic with respect
    to the counts; for the AUC that is DeLong's variance to first order.

    Source: Goodman and Kruskal (1972), JASA 67:415.

    Args:
        statistic: function of `[c, levels, k]` float64 counts that returns `[c]`.
        counts: number of rows, `[c, levels, k]`.
    """
    cells = counts.double().requires_grad_()
    with torch.enable_grad():
        value = statistic(cells)
        (slope,) = torch.autograd.grad(value.nansum(), cells)
    slope = slope.nan_to_num(0.0)
    n = counts.sum((1, 2)).clamp(min=1)
    variance = (counts * slope * slope).sum((1, 2)) - (counts * slope).sum((1, 2)).square() / n
    return value.detach(), variance.clamp(min=0.0).sqrt()


def pearson_correlation(values: Tensor, targets: Tensor, k: int) -> Tensor:
    """`[c]` Pearson's r with a real target, or with the class indicator of the largest |r|.

    Args:
        values: columns, `[c, n]`; values that are not finite are left out per column.
        targets: class ids `[n]` int64, or centred float values.
        k: number of classes.
    """
    finite = values.isfinite()
    m = finite.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(finite, values, 0.0).sum(1, keepdim=True) / m
    x = torch.where(finite, values - mean, 0.0)
    x = x / x.abs().amax(1, keepdim=True).clamp(min=1e-300)
    y = (
        targets.double()[:, None]
        if targets.is_floating_point() or k <= 2
        else torch.nn.functional.one_hot(targets, k).double()
    )
    mask = finite.double()
    y_sum, y_square = mask @ y, mask @ y.square()
    covariance = x @ y - x.sum(1, keepdim=True) * y_sum / m
    variance = x.square().sum(1, keepdim=True) * (y_square - y_sum.square() / m)
    deviation = variance.clamp(min=0.0).sqrt()
    r = torch.where(deviation > 1e-12 * m, covariance / deviation.clamp(min=1e-300), math.nan)
    best = r.abs().nan_to_num(-1.0).argmax(1, keepdim=True)
    return r.gather(1, best)[:, 0].clamp(-1.0, 1.0)


def _xlogx(x: Tensor) -> Tensor:
    return x * x.clamp(min=1e-12).log()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient, NaN where the denominator is zero, without a NaN in the gradient."""
    positive = below.detach() > 1e-9
    return torch.where(positive, above / torch.where(positive, below, 1.0), math.nan)

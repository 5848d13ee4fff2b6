"""Whether training rows reach high scores more often than held-out rows with the same labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Largest share of all rows that is looked at, how often it is halved, and fewest held-out rows that
# are expected in it.
_SHARE, _HALVINGS, _FEWEST = 0.05, 5, 4


@dataclass(frozen=True)
class Exceedance:
    """High scores among training rows, compared with held-out rows.

    Args:
        p_value: chance of so few held-out rows among the highest scores if both kinds of rows came
            from one source; corrected for the number of limits tried.
        excess: training rows of high scores beyond what held-out rows promise.
        observed: training rows above the limit.
    """

    p_value: float
    excess: float
    observed: int


def exceedance(
    scores: Tensor, strata: Tensor, reference: Tensor, reference_strata: Tensor
) -> Exceedance:
    """Test of training rows against held-out rows of the same labels, above a few limits.

    Where both come from one source, the rows above a limit are a random draw within each label, so
    the held-out ones among them follow a sum of hypergeometric distributions, which is computed
    exactly. A shift of production does not matter: neither side is from production.

    Source: Cochran (1954), Biometrics 10:417, tables of one question over strata; Bonferroni over
    the limits. The largest limits follow conformal outlier detection (Bates et al., 2023, Ann.
    Statist. 51:149).

    Args:
        scores: scores of training rows, `[n]`.
        strata: groups of their labels, `[n]` int64.
        reference: scores of held-out rows, `[m]`.
        reference_strata: groups of their labels, `[m]` int64.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> train, held_out = (torch.randn(n, generator=draw) for n in (2000, 1000))
        >>> train[:40] += 5
        >>> groups = torch.zeros(2000, dtype=torch.int64)
        >>> found = exceedance(train, groups, held_out, groups[:1000])
        >>> found.p_value < 1e-4, found.excess > 20
        (True, True)
    """
    m = len(reference)
    shares = [_SHARE / 2**i for i in range(_HALVINGS) if _SHARE / 2**i * m >= _FEWEST]
    if not shares or not len(scores):
        return Exceedance(1.0, 0.0, 0)
    pooled = torch.cat([scores, reference]).double().sort().values
    best = Exceedance(1.0, 0.0, 0)
    for share in shares:
        limit = pooled[int((1 - share) * (len(pooled) - 1))]
        found = _above(scores > limit, strata, reference > limit, reference_strata)
        if found.p_value <= best.p_value:
            best = found
    return Exceedance(min(1.0, best.p_value * len(shares)), best.excess, best.observed)


def _above(high: Tensor, strata: Tensor, held_out: Tensor, reference_strata: Tensor) -> Exceedance:
    """The test at one limit."""
    groups = int(torch.cat([strata, reference_strata]).max()) + 1
    n, m, a, b = (
        torch.bincount(part, minlength=groups).cpu().numpy()
        for part in (strata, reference_strata, strata[high], reference_strata[held_out])
    )
    from scipy.stats import hypergeom

    chances = np.ones(1)
    excess = 0.0
    for rows, others, train_above, held_out_above in zip(n, m, a, b, strict=True):
        above = train_above + held_out_above
        if above and others:
            support = np.arange(min(above, others) + 1)
            chances = np.convolve(chances, hypergeom.pmf(support, rows + others, others, above))
            excess += float(train_above - held_out_above * rows / others)
    p = float(chances[: int(b[m > 0].sum()) + 1].sum())
    return Exceedance(min(1.0, p), max(0.0, excess), int(a.sum()))

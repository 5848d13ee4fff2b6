"""Upper tails of counts of independent events of unequal probabilities, and of Student's t."""

from __future__ import annotations

import torch
from scipy.special import betainc, stdtr, xlogy
from torch import Tensor

# Below this a double is denormal or zero, and only a bound of the tail can rank.
_MIN_TAIL = 1e-290


def log_upper_tail(hits: Tensor, rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """`[s]` float64 `log P(X >= hits)` of Poisson binomial counts; 0 up to the mean.

    Binomial with the same mean, variance and greatest value, shifted: exact for equal
    probabilities, else a close upper bound, since it is more skewed (compare Hoeffding, 1956, and
    Röllin, 2007). Counts of draws without replacement are such sums too (Vatutin and Mikhailov,
    1982).

    Args:
        hits: observed counts, `[s]`.
        rows: greatest possible counts, `[s]`.
        mean: expected counts, `[s]`.
        variance: variances, `[s]`, at most those of independent events.
    """
    k, n, mu = (value.double().cpu() for value in (hits, rows, mean))
    free = (n - mu).clamp(min=0.0)
    spread = torch.minimum(variance.double().cpu(), mu * free / n.clamp(min=1.0))
    excess = (k > mu) & (spread > 0) & (free > 0)
    p = torch.where(excess, spread / free.clamp(min=1e-300), torch.full_like(k, 0.5))
    trials = free / (1 - p)
    successes = torch.where(excess, k - (n - trials), torch.ones_like(k))
    failures = (n - k).clamp(min=0.0)
    tail = torch.from_numpy(betainc(successes.numpy(), failures.numpy() + 1.0, p.numpy()))
    bound = _log_chernoff(successes, trials, p)
    log_p = torch.where(tail > _MIN_TAIL, tail.clamp(min=_MIN_TAIL).log(), bound)
    return torch.where(excess, log_p, torch.zeros_like(log_p)).clamp(max=0.0)


def _log_chernoff(successes: Tensor, trials: Tensor, p: Tensor) -> Tensor:
    """Chernoff bound of a binomial tail: never below it, and finite where it underflows."""
    share = (successes / trials.clamp(min=1e-300)).clamp(0.0, 1.0).numpy()
    q = p.numpy()
    divergence = xlogy(share, share / q) + xlogy(1 - share, (1 - share) / (1 - q))
    return torch.from_numpy(-trials.numpy() * divergence)


def log_t_tail(t: Tensor, degrees: Tensor) -> Tensor:
    """`[s]` float64 log of the upper tail of Student's t.

    Args:
        t: statistics, `[s]` float64.
        degrees: degrees of freedom, `[s]`; at least 1.
    """
    tail = stdtr(degrees.double().clamp(min=1.0).cpu().numpy(), -t.double().cpu().numpy())
    log_p = torch.from_numpy(tail).clamp(min=_MIN_TAIL).log()
    # Where a double underflows, the normal tail ranks.
    return torch.where(torch.from_numpy(tail > _MIN_TAIL), log_p, torch.special.log_ndtr(-t))

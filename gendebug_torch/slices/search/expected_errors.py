"""What a model's own confidence promises, so that a slice that is hard is told from one that
fails.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from scipy.special import betainc, xlogy
from torch import Tensor

from gendebug_torch.errors import reject

# Below this a double is denormal or zero, and only a bound of the tail can rank.
_SMALLEST = 1e-290


def promised_rate(score: Tensor, happened: Tensor) -> Tensor:
    """Share of rows with the event among rows of the same score, as a function that never falls
    with the score.

    Isotonic regression by pooling adjacent violators (Ayer et al., 1955; for classifiers Zadrozny
    and Elkan, 2002). Any monotone distortion of the score, a temperature among them, is thereby
    taken out; rows that are surer than all others cannot promise more than their neighbours keep.

    Args:
        score: `[n]` float, higher where the event is likelier, e.g. a logit; only its order counts.
        happened: `[n]` bool.

    Returns:
        `[n]` float64 in [0, 1], with the sum of `happened`.

    Raises:
        InputError: lengths differ, or a score is NaN.

    Cost: one sort.
    """
    if score.ndim != 1 or score.shape != happened.shape:
        reject(
            "score",
            f"[{len(happened)}] one per row",
            f"shape {list(score.shape)}",
            "Pass one score per row.",
        )
    if bool(score.isnan().any()):
        reject(
            "score",
            "numbers",
            f"NaN in {int(score.isnan().sum())} rows",
            "Find the rows that break the model, or drop them.",
        )
    if not len(score):
        return torch.zeros(0, dtype=torch.float64)
    events = happened.cpu().numpy().astype(np.float64)
    # Within equal scores the events come first: such a descent is always pooled, so that a tie gets
    # one value.
    order = np.lexsort((-events, score.detach().cpu().double().numpy()))
    fitted = np.empty(len(events))
    fitted[order] = isotonic_regression(events[order]).x
    return torch.from_numpy(fitted).clamp(0.0, 1.0)


def log_upper_tail(hits: Tensor, rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """`log P(X >= hits)` for a count of independent events of unequal probabilities (Poisson
    binomial).

    Binomial with the same mean, variance and greatest value, shifted: exact for equal
    probabilities, else an upper bound to good accuracy, since it is the more skewed (compare
    Hoeffding, 1956, and Röllin, 2007). Counts of draws without replacement are such sums too
    (Vatutin and Mikhailov, 1982).

    Args:
        hits: `[s]` counts.
        rows: `[s]` greatest possible counts.
        mean: `[s]` expected counts.
        variance: `[s]` variances, at most those of independent events.

    Returns:
        `[s]` float64, at most 0; 0 where hits do not exceed the mean.
    """
    k, n, mu = (value.double().cpu() for value in (hits, rows, mean))
    free = (n - mu).clamp(min=0.0)
    spread = torch.minimum(variance.double().cpu(), mu * free / n.clamp(min=1.0))
    excess = (k > mu) & (spread > 0) & (free > 0)
    p = torch.where(excess, spread / free.clamp(min=1e-300), torch.full_like(k, 0.5))
    trials = free / (1 - p)
    at = torch.where(excess, k - (n - trials), torch.ones_like(k))
    left = (n - k).clamp(min=0.0)
    tail = torch.from_numpy(betainc(at.numpy(), left.numpy() + 1.0, p.numpy()))
    share = (at / trials.clamp(min=1e-300)).clamp(0.0, 1.0).numpy()
    # Chernoff: never below the tail, and finite where the tail is not.
    bound = torch.from_numpy(
        -trials.numpy()
        * (xlogy(share, share / p.numpy()) + xlogy(1 - share, (1 - share) / (1 - p.numpy())))
    )
    log_p = torch.where(tail > _SMALLEST, tail.clamp(min=_SMALLEST).log(), bound)
    return torch.where(excess, log_p, torch.zeros_like(log_p)).clamp(max=0.0)

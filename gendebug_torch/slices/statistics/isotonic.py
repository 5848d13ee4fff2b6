"""The event rate that a model's own score implies, by isotonic regression."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject


def isotonic_rate(score: Tensor, events: Tensor) -> Tensor:
    """`[n]` float64 event rate among rows of the same score, nondecreasing in the score.

    Isotonic regression by pooling adjacent violators. Any monotone distortion of the score, such as
    a temperature, changes nothing. The sum of the rates is the number of events.

    Source: Ayer et al. (1955), Ann. Math. Stat. 26:641; for classifiers Zadrozny and Elkan (2002).
    Cost: one sort.

    Args:
        score: score of each row, higher where the event is likelier, e.g. a logit, `[n]` float.
        events: whether the event occurred, `[n]` bool.

    Raises:
        InputError: lengths differ, or a score is NaN.

    Example:
        >>> score = torch.tensor([-2.0, -1.0, 0.0, 1.0])
        >>> isotonic_rate(score, torch.tensor([False, True, False, True])).tolist()
        [0.0, 0.5, 0.5, 1.0]
    """
    if score.ndim != 1 or score.shape != events.shape:
        reject(
            "score",
            f"[{len(events)}] one per row",
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
    values = events.cpu().numpy().astype(np.float64)
    # Within equal scores events come first: such a descent is always pooled, so ties get one value.
    order = np.lexsort((-values, score.detach().cpu().double().numpy()))
    rate = np.empty(len(values))
    from scipy.optimize import isotonic_regression

    rate[order] = isotonic_regression(values[order]).x
    return torch.from_numpy(rate).clamp(0.0, 1.0)

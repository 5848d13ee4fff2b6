"""Which version of production's columns do the labels follow? A small network fitted before
deployment is the judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.stats.probe_network import cross_fit, design

# One-hot columns of targets; classes beyond share the last.
_MOST_CLASSES = 20


def losses(
    reference: pd.DataFrame,
    targets: Tensor,
    versions: Sequence[pd.DataFrame],
    live_targets: Tensor,
    *,
    categorical: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """Squared errors of a network fitted on the reference: of each version of production, and out
    of fold on the reference.

    All versions are asked in one pass: they are rows of one fold, the reference is the other.

    Args:
        reference: `[n, d]` columns.
        targets: `[n]` int64 class ids.
        versions: v tables `[m, d]` of the same production rows.
        live_targets: `[m]` int64 class ids.
        categorical: numeric columns that hold codes.

    Returns:
        `[v, m]` and `[n]` float64, sums over the classes.
    """
    n, m = len(targets), len(live_targets)
    k = int(max(targets.max(), live_targets.max())) + 1
    told = torch.cat([targets, live_targets.repeat(len(versions))])
    wanted = one_hot(told, k)
    built = design(reference, *versions, categorical=categorical).values
    sides = (torch.arange(len(told)) < n).long()
    answer = cross_fit(built, wanted, folds=sides)
    own = cross_fit(built[:n], wanted[:n])
    errors = (answer.scores - wanted).square().sum(1)[n:].reshape(len(versions), m)
    return errors, (own.scores - wanted[:n]).square().sum(1)


def one_hot(targets: Tensor, classes: int) -> Tensor:
    """`[n, k]` marks of the classes, `[n, 1]` for two; of more than 20 classes the rest shares the
    last column.
    """
    marks = torch.nn.functional.one_hot(
        targets.clamp(max=_MOST_CLASSES - 1), min(max(classes, 2), _MOST_CLASSES)
    ).double()
    return marks[:, 1:] if marks.shape[1] == 2 else marks


def gain(before: Tensor, after: Tensor) -> float:
    """By how many standard errors the mean of paired losses fell from `before` to `after`, both
    `[m]`.
    """
    saved = before - after
    return (
        float(saved.mean() / (saved.std() / len(saved) ** 0.5).clamp(min=1e-12))
        if len(saved) > 1
        else 0.0
    )

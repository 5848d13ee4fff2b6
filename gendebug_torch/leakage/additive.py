"""How far a set of columns reaches without any one of them: a ridge on levels, fitted on half of the rows, judged on the other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.leakage.columns import coded_blocks
from gendebug_torch.stats import rank_auc

MOST_ROWS = 20_000
MOST_COLUMNS = 40
_BINS = 8


@dataclass(frozen=True)
class Skill:
    """How well a target is foretold on rows that were not used for fitting.

    Args:
        explained: share of the variance of the target (Brier skill for classes); NaN where it has none.
        auc: for class 1 of 2; NaN otherwise.
        rows: that were judged.
    """

    explained: float
    auc: float
    rows: int


def additive_skill(
    features: pd.DataFrame | Tensor, targets: Tensor, *, without: Collection[str] = (), categorical: Sequence[str] = (), seed: int = 0
) -> Skill:
    """What all columns but some explain together, as the sum of one step function per column.

    Each column becomes indicators of its levels (quantile bins, names, missing), the target an indicator per class; a
    ridge joins them. A lower bound of what a network reaches with the same columns, for a fraction of its cost.

    Source: Hastie and Tibshirani (1986), Stat. Sci. 1:297, for additive models; Hoerl and Kennard (1970) for the ridge.

    Args:
        features: `[n, d]` table or `[n, ...]` tensor.
        targets: `[n]` int64 class ids or float values.
        without: columns to leave out.
        categorical: columns that hold codes although they are numbers.
        seed: of the halves.

    Cost: `rows * (18 columns)^2` with at most 20,000 rows and the 40 first columns.
    """
    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:MOST_ROWS]
    y = targets.cpu()[rows]
    truth = y.double()[:, None] if y.is_floating_point() else torch.nn.functional.one_hot(y).double()
    chosen = _columns_of(features, rows, without)
    half = len(rows) // 2
    if not half or chosen is None:
        return Skill(0.0 if half else math.nan, 0.5, len(rows) - half)
    blocks = coded_blocks(chosen, categorical=categorical, bins=_BINS, most_levels=32)
    indicators = torch.cat([_indicators(block.codes, block.levels) for block in blocks], 1)
    mean = truth[:half].mean(0)
    fitted = indicators[:half]
    gram = fitted.T @ fitted
    gram.diagonal().add_(1.0)
    weights = torch.linalg.solve(gram, fitted.T @ (truth[:half] - mean))
    said, asked = mean + indicators[half:] @ weights, truth[half:]
    spread = float((asked - asked.mean(0)).square().sum())
    explained = 1 - float((asked - said).square().sum()) / spread if spread > 0 else math.nan
    two = truth.shape[1] == 2
    auc = float(rank_auc(said[:, 1], asked[:, 1] == 1).auc[0]) if two else math.nan
    return Skill(max(explained, 0.0), auc, len(asked))


def _columns_of(features: pd.DataFrame | Tensor, rows: Tensor, without: Collection[str]) -> pd.DataFrame | None:
    """The first columns that stay, as a table of the chosen rows."""
    if isinstance(features, Tensor):
        flat = features.detach().reshape(len(features), -1)
        names = [f"feature_{i}" for i in range(flat.shape[1])]
        kept = [i for i, name in enumerate(names) if name not in without][:MOST_COLUMNS]
        table = pd.DataFrame(flat[rows.to(flat.device)][:, kept].double().cpu().numpy(), columns=[names[i] for i in kept])
    else:
        columns = [column for column in features.columns if str(column) not in without][:MOST_COLUMNS]
        table = features[columns].iloc[rows.numpy()]
    return table if table.shape[1] else None


def _indicators(codes: Tensor, levels: int) -> Tensor:
    """`[n, c * levels]` float64."""
    return torch.nn.functional.one_hot(codes.T, levels).reshape(codes.shape[1], -1).double()

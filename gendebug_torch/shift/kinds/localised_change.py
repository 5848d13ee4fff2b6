"""Does a change keep to some columns? Whether the others, the labels given them, and all columns
together are as before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.shift.kinds.label_model import gain, one_hot
from gendebug_torch.shift.kinds.score_relation import relation_change
from gendebug_torch.shift.two_sample.categories import CategoryShift
from gendebug_torch.shift.two_sample.joint import joint_shift
from gendebug_torch.stats.probe_network import cross_fit, design, fold_ids

# The classifier test needs so many rows a side, and is not asked of more columns.
_FEWEST = 40
MOST_COLUMNS = 300
# Standard errors of what a network fitted on residuals explains of others, and its share of the
# variance, that count.
CLEAR = 2.0
UNEXPLAINED = 0.005
_MEANING = 0.03


def apart(
    reference: pd.DataFrame, live: pd.DataFrame, *, categorical: Sequence[str] = (), block: int = 1
) -> tuple[float, tuple[str, ...]]:
    """P-value of no difference of all columns together, and the columns that give it away, most
    first.

    NaN without columns, with more than 300 of them, or with fewer than 40 rows on a side.

    Args:
        reference: `[n, d]`.
        live: `[m, d]` with the same columns.
        categorical: columns that hold codes.
        block: rows in time that are permuted together.
    """
    names = list(reference.columns)
    if not 0 < len(names) <= MOST_COLUMNS or min(len(reference), len(live)) < _FEWEST:
        return math.nan, ()
    coded = [name for name in categorical if name in names]
    found = joint_shift(reference, live, categorical=coded, block=block)
    paired = float(found.pairs["p_holm"].iloc[0]) if len(found.pairs) else 1.0
    named = [name for name, lost in found.importance.items() if lost > 0]
    if paired < found.p_value:
        named = list(dict.fromkeys([*found.pairs[["one", "other"]].iloc[0].tolist(), *named]))
    return min(1.0, 2 * min(found.p_value, paired)), tuple(named)


def labels_moved(
    reference: pd.DataFrame,
    targets: Tensor,
    live: pd.DataFrame,
    live_targets: Tensor,
    *,
    categorical: Sequence[str] = (),
    alpha: float = 0.0001,
) -> bool:
    """Whether labels given these columns are others than before, by a network fitted on both sides
    together.

    Either its score means another chance on the two sides (`relation_change`), or a second network,
    fitted to what the first leaves of production's labels, explains some of it. Both are asked out
    of fold, so that neither side is known better.

    Args:
        reference: `[n, d]`.
        targets: `[n]` int64 class ids.
        live: `[m, d]`.
        live_targets: `[m]` int64 class ids.
        categorical: columns that hold codes.
        alpha: level of the first question.
    """
    n, told = len(targets), torch.cat([targets, live_targets])
    if not reference.shape[1]:
        before, after = (
            side.bincount(minlength=int(told.max()) + 1) for side in (targets, live_targets)
        )
        return CategoryShift("class", (), before, after).p_value < alpha
    wanted = one_hot(told, int(told.max()) + 1)
    values = design(
        reference, live, categorical=[name for name in categorical if name in reference.columns]
    ).values
    folds = fold_ids(len(values), 5)
    scores = cross_fit(values, wanted, folds=folds).scores
    logits, classes = (
        (scores[:, 0], told)
        if scores.shape[1] == 1
        else (scores, told.clamp(max=scores.shape[1] - 1))
    )
    relation = relation_change(logits[:n], classes[:n], logits[n:], classes[n:])
    if relation.p_value < alpha and relation.effect >= _MEANING:
        return True
    left = (wanted - scores)[n:]
    refitted = left - cross_fit(values[n:], left, folds=folds[n:]).scores
    explained = 1 - float(refitted.square().sum() / left.square().sum().clamp(min=1e-12))
    return explained >= UNEXPLAINED and gain(left.square().sum(1), refitted.square().sum(1)) > CLEAR

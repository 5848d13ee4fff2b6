"""Performance with and without candidate columns: of small networks and of the user's model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._candidates import LeakCandidate
from gendebug_torch.leakage.columns.association import Association
from gendebug_torch.leakage.columns.column_ablation import (
    ColumnAblation,
    Performance,
    ablated_performance,
    performance,
    permutation_ablation,
    refit_ablation,
    target_columns,
)
from gendebug_torch.leakage.columns.column_codes import Features
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import collect

_MIN_ROWS = 20


@dataclass(frozen=True)
class Context:
    """What the performance of a candidate is compared with.

    Args:
        equivalent: names of the columns that predict as well as the candidate, itself included.
        others: performance of small networks without these columns.
        everything: performance of small networks with all columns.
        model: performance of the user's model, if its logits are there.
    """

    equivalent: tuple[str, ...]
    others: Performance
    everything: Performance
    model: Performance | None

    @property
    def whole(self) -> float:
        """Explained share of the best model with all columns; 0 at least."""
        shares = [self.everything.explained] + ([self.model.explained] if self.model else [])
        return max([0.0, *(share for share in shares if math.isfinite(share))])


def column_contexts(
    train: Records, validation: Records | None, found: Association, candidates: list[LeakCandidate]
) -> list[Context]:
    """Performance of the other columns, of all and of the model, for each candidate and for none.

    Columns that leave at most twice as much unexplained as the candidate count as the same leak.
    """
    assert train.features is not None
    assert train.targets is not None
    equivalent = [
        {c.column}
        | {
            o.column
            for o in candidates
            if 1 - o.explained <= 2 * (1 - c.explained) or (o.combination and c.combination)
        }
        for c in candidates
    ]
    everything, *others = ablated_performance(
        train.features,
        train.targets,
        [(), *equivalent],
        order=found.order,
        categorical=train.schema.categorical,
    )
    model = _model_performance(validation) or _model_performance(train)
    contexts = [
        Context(tuple(sorted(columns)), rest, everything, model)
        for columns, rest in zip(equivalent, others, strict=True)
    ]
    return [*contexts, Context((), everything, everything, model)]


def _model_performance(records: Records | None) -> Performance | None:
    if records is None or records.targets is None or records.logits is None or len(records) < 2:
        return None
    if records.targets.ndim != 1:
        return None
    scores = _estimates(records)
    return performance(scores, target_columns(records.targets.cpu(), max(scores.shape[1], 2)))


def _estimates(records: Records) -> Tensor:
    """`[n, r]` predictions of the model for the columns of `target_columns`."""
    assert records.logits is not None
    if records.targets is not None and records.targets.is_floating_point():
        return records.logits.double().cpu().reshape(len(records), -1)[:, :1]
    probs = records.probs.cpu()
    if probs.ndim == 1:
        return probs[:, None]
    return probs[:, 1:] if probs.shape[1] == 2 else probs


def column_ablation(
    columns: tuple[str, ...],
    found: Association,
    train: Records,
    splits: Mapping[str, Records | None],
    model: Model | None,
) -> ColumnAblation:
    """Performance with and without the columns of one leak.

    Through the model, by small networks on the other splits, or out of fold on train.
    """
    labeled: dict[str, tuple[Features, Tensor]] = {
        name: (split.features, split.targets)
        for name, split in splits.items()
        if split is not None
        and split.features is not None
        and split.targets is not None
        and split.targets.ndim == 1
        and len(split) >= _MIN_ROWS
    }
    assert train.features is not None
    assert train.targets is not None
    if model is not None and labeled:

        def predict(features: Features) -> Tensor:
            return _estimates(collect(model, Records(features, schema=train.schema)))

        return permutation_ablation(columns, labeled, predict)
    fitted, codes = (train.features, train.targets), train.schema.categorical
    refit = refit_ablation(columns, fitted, labeled, order=found.order, categorical=codes)
    if refit.splits:
        return refit
    everything, without = ablated_performance(
        *fitted, [(), columns], order=found.order, categorical=codes
    )
    pairs = {"train": (everything, without)}
    return ColumnAblation(columns, "small networks, out of fold", pairs)

"""Performance with and without candidate columns: of small networks and of the user's model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.model.evaluation import Model

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
    scores = _estimates(records.logits, records.targets.is_floating_point())
    return performance(scores, target_columns(records.targets.cpu(), max(scores.shape[1], 2)))


@dataclass(frozen=True)
class Predictor:
    """The user's model, and which of its outputs answers for the target that is judged.

    Args:
        model: the model, or None.
        output: position of the output; None where the model answers one question.
    """

    model: Model | None
    output: int | None = None

    def estimates(self, features: Features, train: Records) -> Tensor:
        """`[n, r]` predictions of the model for the columns of `target_columns`.

        Args:
            features: table `[n, d]` or tensor `[n, ...]`.
            train: records that say what is predicted, with one target.
        """
        assert self.model is not None
        assert train.targets is not None
        logits = collect(self.model, Records(features, schema=train.schema)).logits
        assert logits is not None
        own = logits if self.output is None else logits[:, self.output]
        return _estimates(own, train.targets.is_floating_point())


def _estimates(logits: Tensor, quantity: bool) -> Tensor:
    """`[n, r]` float64 predictions for the columns of `target_columns`."""
    outputs = logits.double().cpu()
    if quantity:
        return outputs.reshape(len(outputs), -1)[:, :1]
    if outputs.ndim == 1:
        return outputs.sigmoid()[:, None]
    probs = outputs.softmax(-1)
    return probs[:, 1:] if probs.shape[1] == 2 else probs


def column_ablation(
    columns: tuple[str, ...],
    found: Association,
    train: Records,
    splits: Mapping[str, Records | None],
    predictor: Predictor,
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
    if predictor.model is not None and labeled:
        return permutation_ablation(
            columns, labeled, lambda features: predictor.estimates(features, train)
        )
    fitted, codes = (train.features, train.targets), train.schema.categorical
    refit = refit_ablation(columns, fitted, labeled, order=found.order, categorical=codes)
    if refit.splits:
        return refit
    everything, without = ablated_performance(
        *fitted, [(), columns], order=found.order, categorical=codes
    )
    pairs = {"train": (everything, without)}
    return ColumnAblation(columns, "small networks, out of fold", pairs)


def ablation_text(ablation: ColumnAblation, name: str) -> str:
    """A sentence about the performance on each split with and without the columns.

    Args:
        ablation: the performance.
        name: column that the finding is about.
    """
    equivalent = [column for column in ablation.columns if column != name]
    removed = f"Without it and {', '.join(equivalent)}" if equivalent else "Without it"
    changes = [
        f"from {a.value:.3f} to {b.value:.3f} on {split}"
        for split, (a, b) in ablation.splits.items()
    ]
    metric = next(iter(ablation.splits.values()))[0].metric
    return f"{removed}, {metric} changes {' and '.join(changes)}."


def ablation_numbers(ablation: ColumnAblation) -> dict[str, Any]:
    """How the columns were removed, and the metric of each split with and without them."""
    numbers: dict[str, Any] = {"method": ablation.method, "removed": list(ablation.columns)}
    for split, (a, b) in ablation.splits.items():
        numbers |= {
            f"{split}_with": a.value,
            f"{split}_without": b.value,
            f"{split}_difference": a.value - b.value,
            f"{split}_error": ablation.error(split),
        }
    return numbers


def candidate_numbers(
    found: Association, candidate: LeakCandidate, context: Context
) -> dict[str, Any]:
    """Measures of a candidate with their intervals, and what it is compared with.

    Args:
        found: association of the columns with the target.
        candidate: one of them.
        context: performance of the others.
    """
    i = candidate.index
    numbers: dict[str, Any] = {
        "n": found.n,
        "others_explained": context.others.explained,
        "others_auc": context.others.auc,
        "all_explained": context.everything.explained,
        "model_explained": context.model.explained if context.model else None,
    }
    for measure in ("explained", "pearson", "auc", "information"):
        value: Tensor = getattr(found, measure)
        for key, bound in zip(
            (measure, f"{measure}_low", f"{measure}_high"),
            (value, *found.interval(measure)),
            strict=True,
        ):
            numbers[key] = float(bound[i])
    if candidate.combination is not None:
        numbers |= {
            "combination": str(candidate.combination),
            "combination_error": candidate.combination.error,
        }
    return numbers

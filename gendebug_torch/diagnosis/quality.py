"""Quality of a model in validation and in production, and the trend of its loss in production."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch.checks.rows import independent_rows
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.stats.auc import rank_auc

# With fewer labeled rows a side has no quality worth comparing.
_MIN_ROWS = 30
# Half the width of a 99 % interval, in standard errors.
_Z_99 = 2.576


@dataclass(frozen=True)
class QualityChange:
    """Quality and loss on both sides of the deployment: AUC of a binary model, else accuracy.

    Args:
        metric: name of the quality, `AUC` or `accuracy`.
        quality: value and standard error per side, `validation` and `production`.
        loss: mean cross-entropy in nats and its standard error per side.
        trend: change of the loss over the production period by a straight line in time, as a share
            of its mean, with its standard error; None without time.
    """

    metric: str
    quality: dict[str, tuple[float, float]]
    loss: dict[str, tuple[float, float]]
    trend: tuple[float, float] | None = None

    @property
    def change(self) -> tuple[float, float]:
        """Relative change of the quality from validation to production, and its standard error."""
        before, before_error = self.quality["validation"]
        after, after_error = self.quality["production"]
        ratio = after / before
        relative_errors = (before_error / before, after_error / after if after else 0.0)
        return ratio - 1, ratio * math.hypot(*relative_errors)

    @property
    def fell(self) -> bool:
        """Whether the quality fell beyond the 99 % interval of its change."""
        change, error = self.change
        return change + _Z_99 * error < 0

    def table(self) -> pd.DataFrame:
        """One row per side: quality and loss with standard errors."""
        rows = [(side, *self.quality[side], *self.loss[side]) for side in self.quality]
        columns = ["side", self.metric, f"{self.metric}_error", "loss", "loss_error"]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        (before, _), (after, _) = self.quality["validation"], self.quality["production"]
        change, error = self.change
        text = (
            f"{self.metric} {before:.3f} in validation, {after:.3f} in production "
            f"({change:+.1%} ± {_Z_99 * error:.1%}, 99 % interval)"
        )
        if self.trend is None:
            return text
        slope, spread = self.trend
        return f"{text}; the loss changed by {slope:+.0%} ± {_Z_99 * spread:.0%} during production"


def quality_change(validation: Records | None, production: Records | None) -> QualityChange | None:
    """Quality and loss of a classifier on both sides.

    The AUC's standard error is DeLong's (1988), that of accuracy binomial; the trend is the
    least-squares slope of the row losses over `schema.time`, times the period, with its classical
    standard error. Cost: n log n.

    Returns:
        None where a side lacks labels, logits, rows or a second class.
    """
    if validation is None or production is None:
        return None
    validation, production = (independent_rows(side).labeled() for side in (validation, production))
    sides = {"validation": validation, "production": production}
    losses = {name: row_losses(records) for name, records in sides.items()}
    if any(loss is None or len(loss) < _MIN_ROWS for loss in losses.values()):
        return None
    quality = {name: _quality(records) for name, records in sides.items()}
    if not all(math.isfinite(value) and value > 0 for value, _ in quality.values()):
        return None
    binary = all(_positive_logit(records) is not None for records in sides.values())
    means = {
        name: (float(loss.mean()), float(loss.std() / len(loss) ** 0.5))
        for name, loss in losses.items()
        if loss is not None
    }
    trend = None if losses["production"] is None else _trend(production, losses["production"])
    return QualityChange("AUC" if binary else "accuracy", quality, means, trend)


def row_losses(records: Records) -> Tensor | None:
    """Cross-entropy of each row in nats, `[n]` float64; None without class targets or logits."""
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    if logits.ndim == 1:
        return binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none")
    return cross_entropy(logits.double(), targets, reduction="none")


def _positive_logit(records: Records) -> Tensor | None:
    """Logit of the positive class of a binary model, `[n]`; None of other models."""
    logits = records.logits
    if logits is None or (logits.ndim == 2 and logits.shape[1] != 2):
        return None
    return positive_logit(logits)


def _quality(records: Records) -> tuple[float, float]:
    logit = _positive_logit(records)
    if logit is None or records.targets is None:
        rate = float(records.correct.double().mean())
        return rate, (rate * (1 - rate) / len(records)) ** 0.5
    area = rank_auc(logit, records.targets == 1)
    return float(area.auc), float(area.variance) ** 0.5


def _trend(production: Records, loss: Tensor) -> tuple[float, float] | None:
    column = production.schema.time
    if column is None or production.metadata is None or column not in production.metadata:
        return None
    time = parse_times(production.metadata[column], column).values
    dated = time.isfinite()
    time, loss = time[dated], loss[dated]
    if len(loss) < _MIN_ROWS or float(loss.mean()) <= 0:
        return None
    span = float(time.max() - time.min())
    if span <= 0:
        return None
    x = (time - time.mean()) / span
    slope = (x * loss).sum() / (x * x).sum()
    residual = loss - loss.mean() - slope * x
    error = (residual.square().sum() / (len(loss) - 2) / (x * x).sum()).sqrt()
    return float(slope / loss.mean()), float(error / loss.mean())

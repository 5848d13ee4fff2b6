"""Where the model stands: how good it is in validation and in production, and how its loss moves
through production.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch.data.records import Records
from gendebug_torch.stats.auc import rank_auc
from gendebug_torch.stats.intervals import normal_quantile

_FEWEST = 30


@dataclass(frozen=True)
class Standing:
    """Quality and loss on both sides of the deployment; quality is the AUC of a binary model, else
    accuracy.

    Args:
        metric: `AUC` or `accuracy`.
        quality: per side, the value and its standard error.
        loss: per side, mean cross-entropy in nats and its standard error.
        drift: change of the loss over the whole production period by a straight line in time, as a
            share of its mean, and the standard error; None without time.
    """

    metric: str
    quality: dict[str, tuple[float, float]]
    loss: dict[str, tuple[float, float]]
    drift: tuple[float, float] | None = None

    @property
    def change(self) -> tuple[float, float]:
        """Relative change of the quality from validation to production, and its standard error."""
        (before, before_error), (after, after_error) = (
            self.quality["validation"],
            self.quality["production"],
        )
        ratio = after / before
        return ratio - 1, ratio * math.hypot(
            before_error / before, after_error / after if after else 0.0
        )

    def drifts(self, *, level: float = 0.95) -> bool:
        """Whether the loss moves through production beyond its own noise."""
        return (
            self.drift is not None
            and abs(self.drift[0]) > normal_quantile(0.5 + level / 2) * self.drift[1]
        )

    def table(self) -> pd.DataFrame:
        """One row per side: quality and loss with standard errors."""
        rows = [(side, *self.quality[side], *self.loss[side]) for side in self.quality]
        return pd.DataFrame(
            rows, columns=["side", self.metric, f"{self.metric}_error", "loss", "loss_error"]
        )

    def __str__(self) -> str:
        (before, _), (after, _) = self.quality["validation"], self.quality["production"]
        change, error = self.change
        said = (
            f"{self.metric} {before:.3f} in validation, {after:.3f} in production "
            f"({change:+.1%} ± {1.96 * error:.1%})"
        )
        if self.drift is None:
            return said
        slope, spread = self.drift
        return (
            f"{said}; over the production period the loss moved by {slope:+.0%} ± "
            f"{1.96 * spread:.0%}"
        )


def standing(validation: Records | None, production: Records | None) -> Standing | None:
    """Quality and loss of a classifier on both sides; None where a side lacks labels, logits, rows
    or a second class.

    The AUC's standard error is DeLong's (1988), that of accuracy binomial; the drift is the
    least-squares slope of the row losses over `schema.time`, times the period, with its classical
    standard error.

    Cost: n log n.
    """
    sides = {"validation": validation, "production": production}
    losses: dict[str, Tensor] = {}
    quality = {}
    for name, records in sides.items():
        if (
            records is None
            or len(records) < _FEWEST
            or (row_loss := row_losses(records)) is None
            or records.targets is None
        ):
            return None
        losses[name] = row_loss
        quality[name] = _quality(records)
    if not all(math.isfinite(value) and value > 0 for value, _ in quality.values()):
        return None
    binary = all(records is not None and _score(records) is not None for records in sides.values())
    loss = {
        name: (float(values.mean()), float(values.std() / len(values) ** 0.5))
        for name, values in losses.items()
    }
    assert production is not None
    return Standing(
        "AUC" if binary else "accuracy", quality, loss, _drift(production, losses["production"])
    )


def row_losses(records: Records) -> Tensor | None:
    """`[n]` float64 cross-entropy of each row in nats; None unless targets are classes and there
    are logits.
    """
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    if logits.ndim == 1:
        return binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none")
    return cross_entropy(logits.double(), targets, reduction="none")


def _score(records: Records) -> Tensor | None:
    """`[n]` score of the positive class of a binary model."""
    logits = records.logits
    if logits is None or logits.ndim == 1:
        return logits
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else None


def _quality(records: Records) -> tuple[float, float]:
    score = _score(records)
    assert records.targets is not None
    if score is None:
        rate = float(records.correct.double().mean())
        return rate, (rate * (1 - rate) / len(records)) ** 0.5
    found = rank_auc(score, records.targets == 1)
    return float(found.auc), float(found.variance) ** 0.5


def _drift(production: Records, loss: Tensor) -> tuple[float, float] | None:
    column = production.schema.time
    if column is None or production.metadata is None or column not in production.metadata:
        return None
    moments = production.metadata[column]
    values = (
        moments
        if moments.dtype.kind in "iuf"
        else pd.to_datetime(moments, errors="coerce", format="mixed")
    )
    numbers = values.astype("int64") if values.dtype.kind == "M" else values
    time = torch.tensor(numbers.to_numpy(dtype="float64"), dtype=torch.float64)
    span = float(time.max() - time.min())
    if not bool(time.isfinite().all()) or span <= 0 or float(loss.mean()) <= 0:
        return None
    x = (time - time.mean()) / span
    slope = (x * loss).sum() / (x * x).sum()
    residual = loss - loss.mean() - slope * x
    error = (residual.square().sum() / (len(loss) - 2) / (x * x).sum()).sqrt()
    return float(slope / loss.mean()), float(error / loss.mean())

"""Metrics of weighted rows, in points of which more is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task
from gendebug_torch.errors import reject
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.shift.quality.outcomes import decision_scores, row_losses

# Metrics of each task, the usual one first.
METRICS = {
    Task.BINARY: ("AUC", "accuracy", "log loss"),
    Task.MULTICLASS: ("accuracy", "log loss"),
    Task.MULTILABEL: ("AUC", "accuracy", "log loss"),
    Task.REGRESSION: ("RMSE",),
}


@dataclass(frozen=True, eq=False)
class RowMetric:
    """A metric of weighted rows.

    Args:
        name: `accuracy`, `AUC`, `log loss` or `RMSE`.
        unit: what one point is.
        scale: points of one unit of the metric; negative where less is better.
        values: outputs, targets and weights `[n, c]` -> value under each column of weights, `[c]`.
        losses: outputs and targets -> contribution of each row, `[n]`, by which dependence of rows
            is judged.
    """

    name: str
    unit: str
    scale: float
    values: Callable[[Tensor, Tensor, Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]

    def points(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Quality in points under each column of weights, `[c]`; more is better."""
        return self.scale * self.values(logits, targets, weights)


def row_metric(validation: Records, production: Records, name: str | None = None) -> RowMetric:
    """The metric of this name for the task of the records; the usual one without a name.

    Args:
        validation: labeled records with outputs.
        production: the same.
        name: `accuracy`, `AUC`, `log loss` or `RMSE`, in any case, with `_` for a space.

    Raises:
        InputError: a metric that the task does not have.
    """
    task = validation.task
    known = METRICS.get(task, ()) if task is not None else ()
    wanted = known[0] if name is None and known else str(name).replace("_", " ")
    found = next((metric for metric in known if metric.casefold() == wanted.casefold()), None)
    if found is None:
        reject("metric", f"one of {', '.join(known)} for {task}", wanted, "Choose one of them.")
    if found == "RMSE":
        return _squared_errors(validation)
    threshold = production.schema.threshold or validation.schema.threshold or 0.5
    rows = {"accuracy": _right(task, threshold), "log loss": row_losses, "AUC": row_losses}[found]
    if found == "AUC":
        return RowMetric(found, "hundredths of the AUC", 100.0, _areas, rows)
    unit, scale = ("nats", -1.0) if found == "log loss" else ("percent of the rows", 100.0)
    return RowMetric(found, unit, scale, lambda z, y, w: weighted_mean(rows(z, y), w), rows)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean under each column of weights `[n, c]`, `[c]` float64."""
    values = values.to(weights.dtype)
    return (values @ weights).double() / weights.sum(0).double()


def weighted_auc(scores: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """Area under the ROC curve under each column of weights; ties count half.

    Args:
        scores: `[n]`.
        positive: `[n]` bool.
        weights: `[n, c]`, not negative.

    Returns:
        `[c]` float64; NaN where a class has no weight.
    """
    ordered, order = scores.sort()
    _, ties = torch.unique_consecutive(ordered, return_counts=True)
    last, own = ties.cumsum(0) - 1, positive[order]
    # One column after the other, in the order of memory.
    sorted_weights = weights.T[:, order].double()
    curves = (torch.where(side, sorted_weights, 0.0).cumsum(1)[:, last] for side in (own, ~own))
    above, below = (nn.functional.pad(curve, (1, 0)) for curve in curves)
    area: Tensor = torch.trapezoid(below, above) / above[:, -1] / below[:, -1]
    return area


def _areas(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Area, the mean over labels that have both answers."""
    if logits.ndim == 2 and targets.ndim == 1:
        logits = positive_logit(logits)
    scores, answers = logits.reshape(len(logits), -1), targets.reshape(len(targets), -1)
    areas = []
    for z, y in zip(scores.T, answers.T, strict=True):
        known = y != IGNORED
        rows = slice(None) if bool(known.all()) else known
        positive = y[rows] == 1
        if 0 < int(positive.sum()) < len(positive):
            areas.append(weighted_auc(z[rows], positive, weights[rows]))
    if not areas:
        return torch.full((weights.shape[1],), torch.nan, dtype=torch.float64)
    return torch.stack(areas).mean(0)


def _right(task: Task | None, threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Score of each row whose mean is the accuracy."""

    def score(logits: Tensor, targets: Tensor) -> Tensor:
        if task is Task.MULTICLASS:
            return (logits.argmax(1) == targets).double()
        if task is Task.BINARY:
            logits = positive_logit(logits)
        return decision_scores(logits, targets, threshold).reshape(len(logits), -1).nanmean(1)

    return score


def _squared_errors(validation: Records) -> RowMetric:
    """Root mean squared error; several outputs in units of their spread in validation."""
    assert validation.targets is not None
    known = validation.targets.double().reshape(len(validation), -1)
    spread = (known - known.nanmean(0)).square().nanmean(0).sqrt().clamp(min=1e-12).cpu()
    unit = "units of the target" if known.shape[1] == 1 else "standard deviations of the targets"
    scale = torch.ones(1, dtype=torch.float64) if known.shape[1] == 1 else spread

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs.double() - targets.double()).reshape(len(targets), -1).cpu() / scale
        return errors.square().nanmean(1)

    def values(outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return weighted_mean(squares(outputs, targets), weights).clamp(min=0).sqrt()

    return RowMetric("RMSE", unit, -1.0, values, squares)

"""Wrong values of each target of a regression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.checks._estimate import (
    MIN_ROWS,
    NETWORKS_ON_BOTH,
    NETWORKS_ON_FEATURES,
    NO_PREDICTIONS,
    labeled_sample,
    usable_columns,
)
from gendebug_torch.labels.checks._outputs import (
    Judge,
    OutputEstimates,
    Result,
    estimates_of,
    network_results,
)
from gendebug_torch.labels.prediction.missed_signal import features_explain
from gendebug_torch.labels.prediction.small_networks import Truth
from gendebug_torch.labels.quantities.quantity_errors import (
    quantity_errors,
    scores_of,
)
from gendebug_torch.labels.review.ranking import IN_SAMPLE, OUT_OF_SAMPLE
from gendebug_torch.stats.auc import normal_scores
from gendebug_torch.stats.probe_network import cross_fit

# With more columns the scale of the residuals is predicted from the prediction alone.
_MAX_SCALE_COLUMNS = 150
# Residuals are clipped at this many times their median size where features are to explain them.
_CLIP = 4.0


def quantity_estimates(
    records: Records,
    *,
    out_of_sample: bool,
    stacked: bool,
    max_rows: int,
    seed: int,
    deadline: Deadline = NO_DEADLINE,
) -> OutputEstimates | str:
    """Wrong values of each target by the best predictions available, or why there are none.

    Args:
        records: records with quantities, `[n]` or `[n, k]`, and features or predictions; each
            target is judged on the rows that have it.
        out_of_sample: whether the predictions are out-of-sample.
        stacked: whether networks get the predictions as inputs beside the features.
        max_rows: most rows used, drawn at random.
        seed: seed of rows and networks.
        deadline: end of the time.
    """
    sample = labeled_sample(records, max_rows, seed)
    values = _by_column(sample.targets)
    enough = len(values) >= MIN_ROWS
    columns = usable_columns(sample.records, with_metadata=True) if enough else None
    predicted = _predicted(sample.records, values)
    scores, judge = _per_column(values, normal_scores), _judge(values, columns, seed)
    basis, source = OUT_OF_SAMPLE, NETWORKS_ON_FEATURES
    if predicted is not None and (columns is None or out_of_sample):
        basis = OUT_OF_SAMPLE if out_of_sample else IN_SAMPLE
        results, source = judge(predicted, scores), f"the {basis} predictions of the model"
        if columns is not None and stacked and _predictions_miss(predicted, scores, columns, seed):
            inputs, source = torch.cat([columns, predicted.to(columns)], 1), NETWORKS_ON_BOTH
            results = _by_networks(inputs, scores, judge, seed, deadline)
    elif columns is not None:
        results = _by_networks(columns, scores, judge, seed, deadline)
    else:
        return NO_PREDICTIONS
    return estimates_of(records, sample, results, values.isfinite(), basis, source)


def _by_networks(
    inputs: Tensor, scores: Tensor, judge: Judge, seed: int, deadline: Deadline
) -> list[Result | None]:
    truth = Truth(scores.float().to(inputs.device), "quantity", scores.shape[1])
    return network_results(inputs, truth, judge, seed, deadline)


def _by_column(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 1 else values


def _predicted(records: Records, values: Tensor) -> Tensor | None:
    """Predictions on the scale of the values' normal scores, `[n, k]`; None without one per target.

    A network that also gives a variance or quantiles has more outputs than there are targets.
    """
    if records.logits is None:
        return None
    outputs = _by_column(records.logits).to(values.device)
    if outputs.shape != values.shape or not bool(values.isfinite().any(0).all()):
        return None
    parts = [scores_of(p, v[v.isfinite()]) for p, v in zip(outputs.T, values.T, strict=True)]
    return torch.stack(parts, 1)


def _per_column(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`[n, k]` float64 function of the known values of each column; NaN where unknown."""
    found = torch.full_like(values, torch.nan, dtype=torch.float64)
    for i, column in enumerate(values.T):
        known = column.isfinite()
        found[known, i] = function(column[known])
    return found


def _judge(values: Tensor, columns: Tensor | None, seed: int) -> Judge:
    """Function of predicted scores `[n, k]` that judges the values of each target."""

    def judge(means: Tensor, scores: Tensor) -> list[Result | None]:
        results: list[Result | None] = []
        for mean, value in zip(means.T, values.T, strict=True):
            known = value.isfinite()
            own = value[known]
            if len(own) < MIN_ROWS or float(own.std()) == 0:
                results.append(None)
                continue
            mean = mean.to(own.device)[known].double()
            inputs = None if columns is None else columns[known.to(columns.device)].to(own.device)
            scale = _log_scale(mean, normal_scores(own), inputs, seed)
            results.append(quantity_errors(mean, own, scale))
        return results

    return judge


def _log_scale(mean: Tensor, scores: Tensor, columns: Tensor | None, seed: int) -> Tensor:
    """`[n]` out-of-fold prediction of the logarithm of the residual's size."""
    residual = (scores - mean).abs()
    size = (residual + 0.1 * residual.median().clamp(min=1e-6)).log()
    inputs = (mean - mean.mean())[:, None]
    if columns is not None and columns.shape[1] <= _MAX_SCALE_COLUMNS:
        inputs = torch.cat([inputs, columns.double()], 1)
    return cross_fit(inputs, size, seed=seed).scores[:, 0]


def _predictions_miss(means: Tensor, scores: Tensor, columns: Tensor, seed: int) -> bool:
    """Whether the features predict what is left of the scores beside a line in the predictions."""
    residual = torch.zeros_like(scores)
    for i, (mean, score) in enumerate(zip(means.T, scores.T, strict=True)):
        known = score.isfinite()
        x = torch.stack([torch.ones_like(mean[known]), mean[known]], 1)
        left = score[known] - x @ torch.linalg.lstsq(x, score[known][:, None]).solution[:, 0]
        most = _CLIP * left.abs().median() if len(left) else left.new_zeros(())
        residual[known, i] = left.clamp(-most, most)
    return features_explain(columns, residual.to(columns.device), seed=seed)

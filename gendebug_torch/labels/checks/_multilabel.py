"""Wrong labels of each label of a multilabel task."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED
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
    OutputEstimates,
    Result,
    estimates_of,
    network_results,
)
from gendebug_torch.labels.noise.noise_fit import label_probs
from gendebug_torch.labels.noise.noise_model import LabelNoise, label_noise
from gendebug_torch.labels.prediction.cross_fitting import standardized
from gendebug_torch.labels.prediction.missed_signal import features_explain
from gendebug_torch.labels.prediction.small_networks import Truth
from gendebug_torch.labels.review.ranking import IN_SAMPLE, OUT_OF_SAMPLE

# A label with fewer yes or no answers is not judged.
_MIN_ANSWERS = 20


def multilabel_estimates(
    records: Records,
    *,
    out_of_sample: bool,
    stacked: bool,
    max_rows: int,
    seed: int,
    deadline: Deadline = NO_DEADLINE,
) -> OutputEstimates | str:
    """Wrong labels of each label by the best predictions available, or why there are none.

    Args:
        records: records with answers of 0 and 1, `[n, k]`, and features or logits; each label is
            judged on the rows that have it.
        out_of_sample: whether the logits are out-of-sample.
        stacked: whether networks get the logits as inputs beside the features.
        max_rows: most rows used, drawn at random.
        seed: seed of rows and networks.
        deadline: end of the time.
    """
    sample = labeled_sample(records, max_rows, seed)
    known, logits = sample.targets != IGNORED, sample.records.logits
    answers = sample.targets.float().masked_fill(~known, torch.nan)
    columns = usable_columns(sample.records) if len(answers) >= MIN_ROWS else None
    basis, source = OUT_OF_SAMPLE, NETWORKS_ON_FEATURES
    results: list[Result | None]
    if logits is not None and (columns is None or out_of_sample):
        basis = OUT_OF_SAMPLE if out_of_sample else IN_SAMPLE
        results, source = _judged(logits, answers), f"the {basis} logits of the model"
        if columns is not None and stacked and _logits_miss(results, columns, answers, seed):
            inputs = torch.cat([columns, standardized(logits).to(columns)], 1)
            results = _better(results, _by_networks(inputs, answers, seed, deadline))
            source = f"{NETWORKS_ON_BOTH}, or the logits alone where these predict better"
    elif columns is not None:
        results = _by_networks(columns, answers, seed, deadline)
    else:
        return NO_PREDICTIONS
    return estimates_of(records, sample, results, known, basis, source)


def _judged(logits: Tensor, answers: Tensor) -> list[Result | None]:
    """Label noise of each label, None where too few rows have it or say yes or no."""
    results: list[Result | None] = []
    for z, column in zip(logits.T, answers.to(logits.device).T, strict=True):
        known = column.isfinite()
        labels = column[known].long()
        fewest = min(int(labels.sum()), int((1 - labels).sum()))
        enough = len(labels) >= MIN_ROWS and fewest >= _MIN_ANSWERS
        results.append(label_noise(z[known], labels) if enough else None)
    return results


def _logits_miss(results: list[Result | None], columns: Tensor, answers: Tensor, seed: int) -> bool:
    """Whether the features predict any label beyond its logit and its noise."""
    residual = torch.zeros_like(answers)
    for i, noise in enumerate(results):
        if isinstance(noise, LabelNoise):
            known = answers[:, i].isfinite()
            mean = label_probs(noise.probs, noise.transition)[:, 1].to(answers)
            residual[known, i] = answers[known, i] - mean
    return features_explain(columns, residual.to(columns.device), seed=seed)


def _better(model: list[Result | None], networks: list[Result | None]) -> list[Result | None]:
    """Of each label the result of the predictions that fit it better."""
    return [
        b
        if isinstance(a, LabelNoise) and isinstance(b, LabelNoise) and b.log_loss < a.log_loss
        else a
        for a, b in zip(model, networks, strict=True)
    ]


def _by_networks(
    inputs: Tensor, answers: Tensor, seed: int, deadline: Deadline
) -> list[Result | None]:
    truth = Truth(answers.to(inputs.device), "labels", answers.shape[1])
    return network_results(inputs, truth, _judged, seed, deadline)

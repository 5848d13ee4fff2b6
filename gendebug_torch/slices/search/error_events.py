"""Errors of a classifier, by what it predicted and by the true class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.slices.statistics.isotonic import isotonic_rate

# Errors that a class is thought to have made as expected, so that a class without rows stays put.
_PRIOR_ERRORS = 1.0


@dataclass(frozen=True, eq=False)
class ErrorEvent:
    """Errors among some of the predictions, with the model's own score of them.

    Args:
        name: `error`, `false omission` or `false discovery`.
        predictions: phrase for the predictions that can be in error.
        rows: row numbers of these predictions, `[m]` int64.
        errors: whether each is an error, `[m]` bool.
        score: score that is higher where the model is less confident, `[m]` float64.
        predicted: predicted class, `[m]` int64.
        is_binary: whether there are two classes, so that rates are fitted for each separately;
            those of more classes are scaled to the errors of each.
    """

    name: str
    predictions: str
    rows: Tensor
    errors: Tensor
    score: Tensor
    predicted: Tensor
    is_binary: bool = True

    def expected_rate(self, at: Tensor | None = None) -> Tensor:
        """`[h]` error rate that the model's confidence implies, by isotonic regression.

        Args:
            at: indices into `rows` on which to fit and evaluate, `[h]` int64; default all.
        """
        score, errors, predicted = (
            (part if at is None else part[at]) for part in (self.score, self.errors, self.predicted)
        )
        if not self.is_binary:
            return _scaled_to_classes(isotonic_rate(score, errors), errors, predicted)
        rate = torch.zeros(len(score), dtype=torch.float64)
        for side in (0, 1):
            part = predicted == side
            rate[part] = isotonic_rate(score[part], errors[part])
        return rate


def errors_by_prediction(
    logits: Tensor, targets: Tensor, *, threshold: float = 0.5
) -> tuple[ErrorEvent, ...]:
    """Errors of all predictions, and for two classes of negative and of positive predictions.

    Given the prediction, the score says how likely an error is; given the true class it does not,
    since the score decides the prediction. So these events can be compared with the confidence.

    Args:
        logits: `[n]` binary, or `[n, k]`.
        targets: class ids, `[n]` int64.
        threshold: threshold on the probability of the positive class, for two classes.
    """
    rows = torch.arange(len(targets))
    margin = _margin(logits)
    if margin is None:
        confidence = logits.double().log_softmax(1).amax(1).cpu()
        predicted = logits.argmax(1).cpu()
        errors = predicted != targets.cpu()
        return (
            ErrorEvent("error", "all predictions", rows, errors, -confidence, predicted, False),
        )
    positive, true = _positive(margin, threshold), (targets == 1).cpu()
    errors, score = positive != true, torch.where(positive, -margin, margin)
    return tuple(
        ErrorEvent(name, predictions, part, errors[part], score[part], positive[part].long())
        for name, predictions, part in (
            ("error", "all predictions", rows),
            ("false omission", "negative predictions", rows[~positive]),
            ("false discovery", "positive predictions", rows[positive]),
        )
    )


def errors_by_class(
    logits: Tensor, targets: Tensor, *, threshold: float = 0.5
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of each kind of error, `[n]` bool that may have it, and `[n]` bool that have it.

    `error`; for two classes also `false negative` among the positives (1 - recall) and
    `false positive` among the negatives.

    Args:
        logits: `[n]` binary, or `[n, k]`.
        targets: class ids, `[n]` int64.
        threshold: threshold on the probability of the positive class, for two classes.
    """
    everyone = torch.ones(len(targets), dtype=torch.bool)
    margin = _margin(logits)
    if margin is None:
        return {"error": (everyone, (logits.argmax(1) != targets).cpu())}
    positive, true = _positive(margin, threshold), (targets == 1).cpu()
    return {
        "error": (everyone, positive != true),
        "false negative": (true, ~positive & true),
        "false positive": (~true, positive & ~true),
    }


def _scaled_to_classes(rate: Tensor, errors: Tensor, predicted: Tensor) -> Tensor:
    """`[m]` rates whose sum over the predictions of a class is near its number of errors.

    Classes differ in calibration, which is no fault of a subgroup.
    """
    if not len(rate):
        return rate
    total, expected = (
        torch.bincount(predicted, values.double()) + _PRIOR_ERRORS for values in (errors, rate)
    )
    return (rate * (total / expected)[predicted]).clamp(max=1.0)


def _margin(logits: Tensor) -> Tensor | None:
    """`[n]` float64 log-odds of the positive class, or None for more classes than two."""
    if logits.ndim == 1:
        return logits.double().cpu()
    return (logits[:, 1].double() - logits[:, 0].double()).cpu() if logits.shape[1] == 2 else None


def _positive(margin: Tensor, threshold: float) -> Tensor:
    return margin > torch.logit(torch.tensor(threshold, dtype=torch.float64))

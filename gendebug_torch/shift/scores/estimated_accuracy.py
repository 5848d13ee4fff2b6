"""Accuracy on unlabeled rows: three estimates from the confidence, each with its assumption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.label_shift import label_shift
from gendebug_torch.stats.logit_scaling import affordable_family, fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Classes whose shares are estimated; more take long, and their shares are noise.
MAX_CLASSES = 300
ASSUMPTIONS = {
    "confidence": "the calibrated confidence stays calibrated: P(y | x) as in validation, and no "
    "inputs unlike those of validation",
    "classes": "only the class shares changed: the accuracy within each class is that of "
    "validation",
    "threshold": "the share of rows above the confidence threshold stays the accuracy: errors are "
    "the least confident rows",
}


@dataclass(frozen=True, eq=False)
class EstimatedAccuracy:
    """Accuracy on labeled rows, and estimates of it on unlabeled ones.

    Args:
        before: accuracy on the labeled rows, and its standard error.
        estimates: estimates and standard errors by method: `confidence`, `threshold` and, where
            validation has rows of every one of at most 300 classes, `classes`; see `ASSUMPTIONS`.
            Standard errors include the sampling error of validation.
        rows: numbers of labeled and unlabeled rows.
        counted: accuracy in production and its standard error, where its labels were given.
    """

    before: tuple[float, float]
    estimates: dict[str, tuple[float, float]]
    rows: tuple[int, int]
    counted: tuple[float, float] | None = None

    def interval(self, method: str, *, level: float = 0.95) -> tuple[float, float]:
        """Bounds of one estimate under its assumption."""
        value, error = self.estimates[method]
        half = normal_quantile(0.5 + level / 2) * error
        return max(0.0, value - half), min(1.0, value + half)

    def drop(self, method: str) -> tuple[float, float]:
        """Accuracy on labeled rows less an estimate, and its standard error."""
        value, error = self.estimates[method]
        return self.before[0] - value, (error**2 + self.before[1] ** 2) ** 0.5

    def table(self) -> DataFrame:
        """One row per number: accuracy before, estimates with assumptions, accuracy counted."""
        import pandas as pd

        rows = [("validation, counted", *self.before, "")]
        rows += [
            (f"production, {name}", *self.estimates[name], ASSUMPTIONS[name])
            for name in self.estimates
        ]
        rows += [("production, counted", *self.counted, "")] if self.counted is not None else []
        return pd.DataFrame(rows, columns=["what", "accuracy", "standard_error", "assumption"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The numbers of the table with 95 % intervals."""
        frame = self.table().iloc[::-1]
        ax = axes(ax, size=(6.0, 2.8))
        kinds = {
            "validation, counted": (REFERENCE, "counted before"),
            "production, counted": (NEUTRAL, "counted after"),
        }
        for i, what in enumerate(frame["what"]):
            colour, label = kinds.get(what, (LIVE, "estimated after"))
            value, error = (
                float(frame[column].iloc[i]) for column in ("accuracy", "standard_error")
            )
            shown = None if what.endswith(("threshold", "classes")) else label
            ax.errorbar(value, i, xerr=1.96 * error, fmt="o", color=colour, capsize=3, label=shown)
        ax.set_yticks(range(len(frame)), frame["what"].tolist())
        ax.set_ylim(-0.6, len(frame) - 0.4)
        ax.set_xlabel("accuracy with 95 % interval")
        ax.set_ylabel("sample, method")
        ax.set_title(f"Accuracy estimated without labels ({self.rows[1]:,} rows)")
        ax.legend(frameon=True)
        return ax


def estimated_accuracy(
    logits: Tensor, targets: Tensor, live_logits: Tensor, *, live_targets: Tensor | None = None
) -> EstimatedAccuracy:
    """Accuracy on unlabeled rows, estimated from the model's scores by three methods.

    `confidence` is the mean confidence in the predictions, calibrated on the labeled rows.
    `threshold` (ATC) is the share of rows whose confidence exceeds a threshold; on the labeled rows
    that share is the accuracy. `classes` is the accuracy within the classes, weighted by class
    shares estimated from the scores (`label_shift`).

    Source: Garg et al. (2022), ICLR, arXiv:2201.04234, for the threshold; Guillory et al. (2021),
    ICCV, arXiv:2107.03315, for confidences; Saerens, Latinne and Decaestecker (2002), Neural
    Computation 14:21, for the shares.

    Args:
        logits: logits of labeled rows, `[n]` binary or `[n, k]`.
        targets: class ids, `[n]` int64.
        live_logits: logits of unlabeled rows, `[m]` or `[m, k]`.
        live_targets: class ids of the unlabeled rows, `[m]` int64, where they are known after all.

    Returns:
        The estimates with standard errors and assumptions.

    Raises:
        InputError: no rows in a sample.

    Cost: one sort of n, and about eight passes over the labeled rows.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 3 * torch.randn(4000, generator=generator)
        >>> targets = (torch.rand(4000, generator=generator) < logits.sigmoid()).long()
        >>> accuracy = estimated_accuracy(logits, targets, logits / 3)
        >>> round(accuracy.before[0], 1), round(accuracy.estimates["confidence"][0], 1)
        (0.8, 0.7)
    """
    n, m = len(logits), len(live_logits)
    if not n or not m:
        reject("live_logits", "rows in both samples", f"{n} and {m}", "Pass the logits of both.")
    fit = fit_affine(logits, targets, family=affordable_family(logits))
    live = fit(live_logits.double())
    confidence = _confidence(fit(logits.double()), logits)
    live_confidence = _confidence(live, live_logits)
    correct = _correct(logits, targets)
    before = _share(correct)
    # The calibrated mean has the sampling error of the labeled rows, the live mean its own.
    variance = float(live_confidence.var(correction=0)) / m + before[1] ** 2
    estimates = {
        "confidence": (float(live_confidence.mean()), variance**0.5),
        "threshold": _by_threshold(confidence, correct, live_confidence),
    }
    if (by_class := _by_class(live, correct, targets.cpu())) is not None:
        estimates["classes"] = by_class
    counted = None if live_targets is None else _share(_correct(live_logits, live_targets))
    return EstimatedAccuracy(before, estimates, (n, m), counted)


def _by_threshold(
    confidence: Tensor, correct: Tensor, live_confidence: Tensor
) -> tuple[float, float]:
    """Share of live rows above the threshold that fits the labeled ones, and its standard error."""
    n, m = len(confidence), len(live_confidence)
    rank = min(n - 1, max(0, round(float(correct.mean()) * n)))
    threshold = float(confidence.sort(descending=True).values[rank])
    above = float((live_confidence > threshold).double().mean())
    # Correct rows and rows above the threshold are of one sample: only those that are one of both
    # add sampling error.
    discordant = float((correct != (confidence > threshold).double()).double().mean())
    return above, (above * (1 - above) / m + discordant / n) ** 0.5


def _by_class(live: Tensor, correct: Tensor, targets: Tensor) -> tuple[float, float] | None:
    """Accuracy within the classes weighted by estimated shares, and its standard error.

    None if a class has no labeled row, or with over 300 classes.
    """
    k = 2 if live.ndim == 1 else live.shape[1]
    if k > MAX_CLASSES:
        return None
    counts = targets.bincount(minlength=k).double()
    if len(counts) != k or bool((counts == 0).any()):
        return None
    within = torch.zeros(k, dtype=torch.float64).index_add_(0, targets, correct) / counts
    shares = label_shift(live, counts / len(targets), reference_rows=len(targets))
    error = (shares.high - shares.low) / (2 * normal_quantile(0.975))
    # Shares sum to 1: their errors matter only as far as the accuracies of the classes differ.
    share_variance = k / (k - 1) * float((error * (within - within.mean())).square().sum())
    variance = float((shares.prior.square() * within * (1 - within) / counts).sum())
    return float((shares.prior * within).sum()), (share_variance + variance) ** 0.5


def _share(correct: Tensor) -> tuple[float, float]:
    """Share of correct rows and its standard error."""
    share = float(correct.mean())
    return share, (share * (1 - share) / len(correct)) ** 0.5


def _confidence(calibrated: Tensor, logits: Tensor) -> Tensor:
    """Calibrated probability of the class that the logits predict, `[n]` float64 on the host."""
    predicted = two_class_logits(logits).argmax(1, keepdim=True)
    return two_class_logits(calibrated).softmax(1).gather(1, predicted)[:, 0].cpu()


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the prediction is the target, `[n]` float64 on the host."""
    return (two_class_logits(logits).argmax(1) == targets).double().cpu()

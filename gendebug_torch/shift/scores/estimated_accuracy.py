"""How right is the model where labels have not arrived? Three estimates from its confidence, each
with what it assumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.label_shift import label_shift
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

ASSUMPTIONS = {
    "confidence": "calibrated confidence stays calibrated: P(y | x) as in validation, and no "
    "inputs that the model has not met",
    "classes": "only the shares of the classes moved: rows of a class are right as often as in "
    "validation",
    "threshold": "as many rows lie above the confidence threshold as are right: errors stay the "
    "least confident rows",
}


@dataclass(frozen=True, eq=False)
class EstimatedAccuracy:
    """Accuracy before, and estimates of it after, each with a standard error that includes the
    noise of validation.

    Args:
        before: accuracy on the labeled rows, and its standard error.
        estimates: method -> estimate and its standard error; `confidence`, `threshold` and, where
            validation has rows of every class, `classes`; see `ASSUMPTIONS`.
        rows: labeled and unlabeled rows.
        counted: accuracy and standard error where production's labels were given as well.
    """

    before: tuple[float, float]
    estimates: dict[str, tuple[float, float]]
    rows: tuple[int, int]
    counted: tuple[float, float] | None = None

    def interval(self, method: str, *, level: float = 0.95) -> tuple[float, float]:
        """Bounds of one estimate, if its assumption holds."""
        value, error = self.estimates[method]
        half = normal_quantile(0.5 + level / 2) * error
        return max(0.0, value - half), min(1.0, value + half)

    def drop(self, method: str) -> tuple[float, float]:
        """Accuracy before less the estimate, and its standard error."""
        value, error = self.estimates[method]
        return self.before[0] - value, (error**2 + self.before[1] ** 2) ** 0.5

    def table(self) -> DataFrame:
        """One row per number: accuracy before, estimates after with their assumptions, and what was
        counted.
        """
        import pandas as pd

        rows = [("validation, counted", *self.before, "")]
        rows += [
            (f"production, {name}", *self.estimates[name], ASSUMPTIONS[name])
            for name in self.estimates
        ]
        rows += [("production, counted", *self.counted, "")] if self.counted is not None else []
        return pd.DataFrame(rows, columns=["what", "accuracy", "standard_error", "assumes"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The numbers of the table with 95 % intervals."""
        frame = self.table().iloc[::-1]
        ax = axes(ax, size=(6.0, 2.8))
        kinds = {
            "validation, counted": (REFERENCE, "counted before"),
            "production, counted": (NEUTRAL, "counted after"),
        }
        for place, what in enumerate(frame["what"]):
            colour, label = kinds.get(what, (LIVE, "estimated after"))
            value, error = (
                float(frame[column].iloc[place]) for column in ("accuracy", "standard_error")
            )
            shown = None if what.endswith(("threshold", "classes")) else label
            ax.errorbar(
                value, place, xerr=1.96 * error, fmt="o", color=colour, capsize=3, label=shown
            )
        ax.set_yticks(range(len(frame)), frame["what"].tolist())
        ax.set_ylim(-0.6, len(frame) - 0.4)
        ax.set_xlabel("accuracy with 95 % interval")
        ax.set_ylabel("side, source")
        ax.set_title(f"Accuracy without labels ({self.rows[1]:,} rows)")
        ax.legend(frameon=True)
        return ax


def estimated_accuracy(
    logits: Tensor, targets: Tensor, live_logits: Tensor, *, live_targets: Tensor | None = None
) -> EstimatedAccuracy:
    """Accuracy on unlabeled rows from what the model says of them.

    `confidence` is the mean confidence, calibrated on the labeled rows; `threshold` (ATC) is the
    share of rows whose confidence lies above the threshold that as many labeled rows exceed as are
    right; `classes` is the accuracy within the classes, weighted by the shares of the classes that
    the scores say (`label_shift`).

    Source: Garg et al. (2022), ICLR, arXiv:2201.04234, for the threshold; Guillory et al. (2021),
    ICCV, arXiv:2107.03315, for confidences; Saerens, Latinne and Decaestecker (2002), Neural
    Computation 14:21, for the shares.

    Args:
        logits: `[n]` binary or `[n, k]` of labeled rows.
        targets: `[n]` int64 class ids.
        live_logits: `[m]` or `[m, k]` of unlabeled rows.
        live_targets: `[m]` int64, where they are known after all.

    Raises:
        InputError: no rows on a side.

    Cost: one sort of n, and about eight passes over the labeled rows.
    """
    n, m = len(logits), len(live_logits)
    if not n or not m:
        reject("live_logits", "rows on both sides", f"{n} and {m}", "Pass the logits of both.")
    fit = fit_affine(logits, targets)
    right, sure = _judged(fit(logits.double()), targets)
    live_right, live_sure = _judged(fit(live_logits.double()), live_targets)
    assert right is not None
    accuracy = float(right.mean())
    noise = (accuracy * (1 - accuracy) / n) ** 0.5
    # Calibration in the large has the noise of the labeled rows; the mean confidence that of the
    # unlabeled ones.
    error = (float(live_sure.var(correction=0)) / m + noise**2) ** 0.5
    edge = float(sure.sort(descending=True).values[min(n - 1, max(0, round(accuracy * n)))])
    above = float((live_sure > edge).double().mean())
    # Which labeled rows are right and which lie above is one draw: only where the two disagree does
    # it bring noise.
    disagree = float((right != (sure > edge).double()).double().mean())
    threshold_error = (above * (1 - above) / m + disagree / n) ** 0.5
    counted = None
    if live_right is not None:
        rate = float(live_right.mean())
        counted = (rate, (rate * (1 - rate) / m) ** 0.5)
    estimates = {
        "confidence": (float(live_sure.mean()), error),
        "threshold": (above, threshold_error),
    }
    if (by_class := _by_class(fit(live_logits.double()), right, targets.cpu())) is not None:
        estimates["classes"] = by_class
    return EstimatedAccuracy((accuracy, noise), estimates, (n, m), counted)


def _by_class(live: Tensor, right: Tensor, targets: Tensor) -> tuple[float, float] | None:
    """Accuracy within each class weighted by the estimated shares, and its standard error; None if
    a class has no labeled row.
    """
    k = 2 if live.ndim == 1 else live.shape[1]
    counts = targets.bincount(minlength=k).double()
    if len(counts) != k or bool((counts == 0).any()):
        return None
    within = torch.zeros(k, dtype=torch.float64).index_add_(0, targets, right) / counts
    shares = label_shift(live, counts / len(targets), reference_rows=len(targets))
    error = (shares.high - shares.low) / (2 * normal_quantile(0.975))
    # Shares sum to 1, so that what counts is how far the classes' accuracies lie apart.
    spread = k / (k - 1) * float((error * (within - within.mean())).square().sum())
    noise = float((shares.prior.square() * within * (1 - within) / counts).sum())
    return float((shares.prior * within).sum()), (spread + noise) ** 0.5


def _judged(logits: Tensor, targets: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Whether each row is right (float64), and how sure the model is of it."""
    both = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    sure, said = both.softmax(1).max(1)
    return (None if targets is None else (said == targets).double().cpu()), sure.cpu()

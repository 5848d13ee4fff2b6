"""The decision threshold by cost, F-beta or a floor, with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import percentile_interval, wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Objective = Literal["cost", "f_beta", "precision", "recall"]

# Candidate thresholds: every distinct score up to this many, then quantiles.
_CANDIDATES = 1024


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of decisions against labels; expected counts where labels are probabilities.

    Args:
        true_positive: rows of class 1 decided 1.
        false_positive: rows of class 0 decided 1.
        false_negative: rows of class 1 decided 0.
        true_negative: rows of class 0 decided 0.
    """

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float

    @property
    def precision(self) -> float:
        """Share of the rows decided 1 that are of class 1; NaN without any."""
        decided = self.true_positive + self.false_positive
        return self.true_positive / decided if decided else math.nan

    @property
    def recall(self) -> float:
        """Share of the rows of class 1 that are decided 1; NaN without any."""
        positives = self.true_positive + self.false_negative
        return self.true_positive / positives if positives else math.nan

    @property
    def false_positive_rate(self) -> float:
        """Share of the rows of class 0 that are decided 1; NaN without any."""
        negatives = self.false_positive + self.true_negative
        return self.false_positive / negatives if negatives else math.nan


@dataclass(frozen=True, eq=False)
class ThresholdChoice:
    """A chosen threshold and its uncertainty.

    Args:
        objective: objective that the threshold optimises.
        threshold: threshold on the probability of class 1; decide 1 above it.
        low: lower end of the bootstrap interval of the threshold.
        high: upper end.
        value: objective at the threshold (cost per row, F, recall at the precision floor, precision
            at the recall floor).
        value_interval: bootstrap interval of `value`.
        feasible: whether any threshold reaches the floor.
        rows: number of rows on which it was chosen.
        candidates: thresholds `[c]` float64 that were tried.
        curve: objective `[c]` float64 of each; the worst value below the floor.
        confusion: counts of decisions at the threshold.
    """

    objective: Objective
    threshold: float
    low: float
    high: float
    value: float
    value_interval: tuple[float, float]
    feasible: bool
    rows: int
    candidates: Tensor
    curve: Tensor
    confusion: ConfusionMatrix

    def table(self) -> pd.DataFrame:
        """One row per candidate: threshold and value."""
        import pandas as pd

        return pd.DataFrame(
            {"threshold": self.candidates.numpy(), self.objective: self.curve.numpy()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The objective over the thresholds, with the chosen one and its interval."""
        ax = axes(ax, size=(6.0, 3.6))
        ax.plot(
            self.candidates.numpy(),
            self.curve.numpy(),
            color=REFERENCE,
            label=self.objective.replace("_", "-"),
        )
        ax.axvspan(
            self.low, self.high, color=NEUTRAL, alpha=0.25, label="95 % interval of the choice"
        )
        ax.axvline(self.threshold, color=LIVE, label=f"chosen: {self.threshold:.3g}")
        ax.set(
            xlabel="threshold",
            ylabel=self.objective.replace("_", "-"),
            title=f"Threshold by {self.objective.replace('_', '-')}, {self.rows:,} rows",
        )
        ax.legend(frameon=False, fontsize="small")
        return ax


def choose_threshold(
    probs: Tensor,
    targets: Tensor,
    *,
    objective: Objective = "cost",
    false_positive_cost: float = 1.0,
    false_negative_cost: float = 1.0,
    beta: float = 1.0,
    floor: float = 0.9,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> ThresholdChoice:
    """The threshold that is best on labeled rows, with bootstrap intervals.

    `cost` minimises `(fp c_fp + fn c_fn) / n`; `f_beta` maximises F; `precision` maximises recall
    among thresholds with a precision of `floor` or more, `recall` the precision among those with
    such a recall. Without labels pass calibrated probabilities as targets too: counts become
    expected counts, and the intervals contain no label noise.

    Source: Elkan (2001), IJCAI, for costs; van Rijsbergen (1979) for F-beta; Hanley and MacGibbon
    (2006), Comput. Methods Programs Biomed. 83:57, for the Poisson bootstrap, here of rows counted
    per candidate.

    Args:
        probs: probability of class 1 `[n]` float.
        targets: labels 0 and 1 `[n]`, or expected labels in [0, 1].
        objective: objective to optimise.
        false_positive_cost: cost of a false positive.
        false_negative_cost: cost of a false negative.
        beta: weight of recall in F-beta.
        floor: least precision or recall.
        replicates: number of bootstrap replicates.
        level: coverage of the intervals.
        seed: seed of a private generator.

    Raises:
        InputError: shapes, ranges or costs that do not fit, or no rows.

    Cost: one sort of the rows; the bootstrap works on at most 1024 candidates.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> probs = torch.rand(5000, generator=generator)
        >>> targets = torch.bernoulli(probs, generator=generator)
        >>> choice = choose_threshold(probs, targets, false_negative_cost=4.0)
        >>> print(f"{choice.threshold:.2f}")  # 1 / (1 + 4) in theory
        0.21
    """
    _validate(probs, targets, objective, false_positive_cost, false_negative_cost, beta, floor)
    candidates, positive, negative = _counts(probs, targets)
    weights = (false_positive_cost, false_negative_cost, beta, floor)
    curve = _curve(positive[None], negative[None], objective, weights)[0]
    best = int(curve.argmax())
    generator = torch.Generator().manual_seed(seed)
    more, others = (
        torch.poisson(part.expand(replicates, -1), generator=generator)
        for part in (positive, negative)
    )
    curves = _curve(more, others, objective, weights)
    low, high = _interval(candidates[curves.argmax(1)], level)
    sign = -1.0 if objective == "cost" else 1.0
    values, value = sign * curves[:, best], float(curve[best])
    return ThresholdChoice(
        objective,
        float(candidates[best]),
        low,
        high,
        sign * value if math.isfinite(value) else math.nan,
        _interval(values[values.isfinite()], level),
        math.isfinite(value),
        len(probs),
        candidates,
        sign * curve.nan_to_num(neginf=0.0),
        confusion_matrix(probs, targets, float(candidates[best])),
    )


def confusion_matrix(probs: Tensor, targets: Tensor, threshold: float = 0.5) -> ConfusionMatrix:
    """Counts of the decisions `probs > threshold` against labels.

    Args:
        probs: probability of class 1 `[n]`.
        targets: labels 0 and 1 `[n]`, or expected labels in [0, 1].
        threshold: threshold on the probability.

    Example:
        >>> probs, targets = torch.tensor([0.1, 0.6, 0.7, 0.9]), torch.tensor([0, 0, 1, 1])
        >>> matrix = confusion_matrix(probs, targets)
        >>> print(f"precision {matrix.precision:.2f}, recall {matrix.recall:.2f}")
        precision 0.67, recall 1.00
    """
    return decision_counts(probs.double() > threshold, targets.double())


def decision_counts(decisions: Tensor, targets: Tensor) -> ConfusionMatrix:
    """Counts of decisions `[n]` bool against labels `[n]` float64."""
    decided, positives = float(decisions.sum()), float(targets.sum())
    tp = float(targets[decisions].sum())
    return ConfusionMatrix(
        tp, decided - tp, positives - tp, len(targets) - decided - positives + tp
    )


def confusion_table(decisions: dict[str, ConfusionMatrix]) -> pd.DataFrame:
    """One row per name: counts, precision and recall with 95 % Wilson intervals, FPR."""
    import pandas as pd

    rows = []
    for name, matrix in decisions.items():
        tp, fp, fn, tn = astuple(matrix)
        row: dict[str, float | str] = {"decision": name, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
        for label, value, trials in (
            ("precision", matrix.precision, tp + fp),
            ("recall", matrix.recall, tp + fn),
        ):
            low, high = wilson_interval(torch.tensor(tp), torch.tensor(trials))
            row |= {label: value, f"{label}_low": float(low), f"{label}_high": float(high)}
        rows.append(row | {"false_positive_rate": matrix.false_positive_rate})
    return pd.DataFrame(rows)


def _interval(replicates: Tensor, level: float) -> tuple[float, float]:
    """Percentile interval of `[r]` replicates; NaN without any."""
    if not len(replicates):
        return math.nan, math.nan
    low, high = percentile_interval(replicates, level=level)
    return float(low), float(high)


def _counts(probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending candidate thresholds `[c]`, and the rows of class 1 and 0 above each."""
    score, labels = probs.double().cpu(), targets.double().cpu()
    distinct = torch.unique(score)
    if len(distinct) > _CANDIDATES:
        index = torch.linspace(0, len(distinct) - 1, _CANDIDATES).round().long()
        distinct = distinct[index]
    # All thresholds between neighbouring scores decide alike: the middle is furthest from both.
    inner = (distinct[1:] + distinct[:-1]) / 2
    candidates = torch.cat([(distinct[:1] - 1e-9).clamp(min=0.0), inner, distinct[-1:]])
    slot = (torch.bucketize(score, candidates) - 1).clamp(min=0)
    positive, negative = (
        torch.bincount(slot, mass, len(candidates)) for mass in (labels, 1 - labels)
    )
    return candidates, positive, negative


def _curve(
    positive: Tensor,
    negative: Tensor,
    objective: Objective,
    weights: tuple[float, float, float, float],
) -> Tensor:
    """Objective `[r, c]` to maximise at each candidate; -inf below a floor."""
    false_positive_cost, false_negative_cost, beta, floor = weights
    tp, fp = positive.flip(1).cumsum(1).flip(1), negative.flip(1).cumsum(1).flip(1)
    positives = positive.sum(1, keepdim=True)
    fn = positives - tp
    if objective == "cost":
        total = (positives + negative.sum(1, keepdim=True)).clamp(min=1e-300)
        return -(false_positive_cost * fp + false_negative_cost * fn) / total
    if objective == "f_beta":
        weighted = (1 + beta**2) * tp
        return weighted / (weighted + fp + beta**2 * fn).clamp(min=1e-300)
    precision, recall = tp / (tp + fp).clamp(min=1e-300), tp / positives.clamp(min=1e-300)
    bounded, maximised = (precision, recall) if objective == "precision" else (recall, precision)
    return torch.where((bounded >= floor) & (tp > 0), maximised, -math.inf)


def _validate(probs: Tensor, targets: Tensor, objective: str, *numbers: float) -> None:
    if probs.ndim != 1 or not len(probs) or bool((~((probs >= 0) & (probs <= 1))).any()):
        got = f"{probs.dtype} {list(probs.shape)}" + (
            f", {float(probs.min()):.3g} to {float(probs.max()):.3g}" if probs.numel() else ""
        )
        reject(
            "probs",
            "[n] probabilities of class 1 in [0, 1], n > 0",
            got,
            "Apply the sigmoid or softmax first.",
        )
    if targets.shape != probs.shape or bool((~((targets >= 0) & (targets <= 1))).any()):
        reject(
            "targets",
            "[n] labels 0 and 1, or expected labels in [0, 1]",
            f"{targets.dtype} {list(targets.shape)}",
            "Pass one label per row.",
        )
    if objective not in ("cost", "f_beta", "precision", "recall"):
        reject(
            "objective",
            "`cost`, `f_beta`, `precision` or `recall`",
            repr(objective),
            "Choose one of them.",
        )
    if min(numbers) < 0 or numbers[-1] > 1:
        reject(
            "floor, beta or costs",
            "non-negative numbers, and a floor up to 1",
            str(numbers),
            "Correct the value.",
        )

"""The decision threshold: chosen by cost, F-beta or a floor, with its uncertainty, and compared
before and after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
class Confusion:
    """Counts of decisions `score > threshold` against labels; expected counts where labels are
    probabilities.

    Args:
        true_positive: alarms that are right.
        false_positive: alarms that are wrong.
        false_negative: cases missed.
        true_negative: the rest.
    """

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float

    @property
    def precision(self) -> float:
        """Share of alarms that are right; NaN without alarms."""
        alarms = self.true_positive + self.false_positive
        return self.true_positive / alarms if alarms else math.nan

    @property
    def recall(self) -> float:
        """Share of cases that are found; NaN without cases."""
        cases = self.true_positive + self.false_negative
        return self.true_positive / cases if cases else math.nan

    @property
    def false_positive_rate(self) -> float:
        """Share of the others that raise an alarm; NaN without others."""
        others = self.false_positive + self.true_negative
        return self.false_positive / others if others else math.nan


@dataclass(frozen=True, eq=False)
class ThresholdChoice:
    """A chosen threshold and how sure that choice is.

    Args:
        objective: what it is best for.
        threshold: on the probability of class 1; decide 1 above it.
        low: lower end of the bootstrap interval of the choice.
        high: upper end.
        value: of the objective at the threshold (cost per row, F, recall at the precision floor,
            precision at the recall floor).
        value_interval: of that value.
        feasible: whether any threshold keeps the floor.
        rows: on which it was chosen.
        candidates: `[c]` float64 thresholds that were tried.
        curve: `[c]` float64 value of each; worst where the floor is broken.
        confusion: of the chosen threshold.
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
    confusion: Confusion

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
    """The threshold that is best on labeled rows, with bootstrap intervals of the choice and of its
    value.

    `cost` minimises `(fp c_fp + fn c_fn) / n`; `f_beta` maximises F; `precision` maximises recall
    among thresholds that keep the precision at `floor`, `recall` the precision among those that
    keep the recall. Without labels pass calibrated probabilities as targets too: counts become
    expected counts, and the intervals hold no label noise.

    Source: Elkan (2001), IJCAI, for costs; van Rijsbergen (1979) for F-beta; Hanley and MacGibbon
    (2006), Comput. Methods Programs Biomed. 83:57, for the Poisson bootstrap, here of rows counted
    per candidate.

    Args:
        probs: `[n]` float probability of class 1.
        targets: `[n]` 0 and 1, or expected labels in [0, 1].
        objective: what to optimise.
        false_positive_cost: of a false alarm.
        false_negative_cost: of a missed case.
        beta: weight of recall in F-beta.
        floor: of precision or recall.
        replicates: of the bootstrap.
        level: coverage of the intervals.
        seed: of a private generator.

    Raises:
        InputError: shapes, ranges or costs that do not fit, or no rows.

    Cost: one sort of the rows; the bootstrap works on at most 1024 candidates.
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
    chosen = candidates[curves.argmax(1)]
    low, high = (float(bound) for bound in percentile_interval(chosen, level=level))
    values = curves[:, best]
    finite = values[values.isfinite()]
    sign = -1.0 if objective == "cost" else 1.0
    bounds = (
        sorted(sign * float(b) for b in percentile_interval(finite, level=level))
        if len(finite)
        else [math.nan, math.nan]
    )
    value = float(curve[best])
    return ThresholdChoice(
        objective,
        float(candidates[best]),
        low,
        high,
        sign * value if math.isfinite(value) else math.nan,
        (bounds[0], bounds[1]),
        math.isfinite(value),
        len(probs),
        candidates,
        sign * curve.nan_to_num(neginf=0.0),
        confusion(probs, targets, float(candidates[best])),
    )


def confusion(probs: Tensor, targets: Tensor, threshold: float = 0.5) -> Confusion:
    """Counts of `probs > threshold` against labels 0 and 1, or expected labels in [0, 1], all
    `[n]`.
    """
    said, true = probs.double() > threshold, targets.double()
    found, alarms, cases = float(true[said].sum()), float(said.sum()), float(true.sum())
    return Confusion(found, alarms - found, cases - found, len(probs) - alarms - cases + found)


def confusion_table(decisions: dict[str, Confusion]) -> pd.DataFrame:
    """One row per name: the four counts, precision and recall with 95 % Wilson intervals,
    false-positive rate.
    """
    import pandas as pd

    rows = []
    for name, found in decisions.items():
        tp, fp, fn, tn = (
            found.true_positive,
            found.false_positive,
            found.false_negative,
            found.true_negative,
        )
        row: dict[str, float | str] = {"decision": name, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
        for label, value, trials in (
            ("precision", found.precision, tp + fp),
            ("recall", found.recall, tp + fn),
        ):
            low, high = wilson_interval(torch.tensor(tp), torch.tensor(trials))
            row |= {label: value, f"{label}_low": float(low), f"{label}_high": float(high)}
        rows.append(row | {"false_positive_rate": found.false_positive_rate})
    return pd.DataFrame(rows)


def _counts(probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate thresholds `[c]`, ascending, and mass of class 1 and 0 above each but not above the
    next.
    """
    score, true = probs.double().cpu(), targets.double().cpu()
    distinct = torch.unique(score)
    if len(distinct) > _CANDIDATES:
        places = torch.linspace(0, len(distinct) - 1, _CANDIDATES).round().long()
        distinct = distinct[places]
    # Between neighbouring scores every threshold decides alike: the middle is furthest from both.
    inner = (distinct[1:] + distinct[:-1]) / 2
    candidates = torch.cat([(distinct[:1] - 1e-9).clamp(min=0.0), inner, distinct[-1:]])
    place = torch.bucketize(score, candidates) - 1
    place = place.clamp(min=0)
    positive, negative = (torch.bincount(place, mass, len(candidates)) for mass in (true, 1 - true))
    return candidates, positive, negative


def _curve(
    positive: Tensor,
    negative: Tensor,
    objective: Objective,
    weights: tuple[float, float, float, float],
) -> Tensor:
    """`[r, c]` what to maximise at each candidate; -inf where a floor is broken."""
    false_positive_cost, false_negative_cost, beta, floor = weights
    tp, fp = positive.flip(1).cumsum(1).flip(1), negative.flip(1).cumsum(1).flip(1)
    cases, total = (
        positive.sum(1, keepdim=True),
        (positive + negative).sum(1, keepdim=True).clamp(min=1e-300),
    )
    if objective == "cost":
        return -(false_positive_cost * fp + false_negative_cost * (cases - tp)) / total
    if objective == "f_beta":
        return (
            (1 + beta**2)
            * tp
            / ((1 + beta**2) * tp + fp + beta**2 * (cases - tp)).clamp(min=1e-300)
        )
    precision, recall = tp / (tp + fp).clamp(min=1e-300), tp / cases.clamp(min=1e-300)
    kept, gained = (precision, recall) if objective == "precision" else (recall, precision)
    return torch.where((kept >= floor) & (tp > 0), gained, -math.inf)


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
            "[n] labels 0 and 1, or expected labels",
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

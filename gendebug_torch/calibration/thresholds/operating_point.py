"""A deployed threshold in validation and production: ranking, decisions, and the best threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.calibration.thresholds.threshold_choice import (
    ConfusionMatrix,
    choose_threshold,
    confusion_matrix,
    confusion_table,
    decision_counts,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.auc import rank_auc
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FOLDS = 5
# Standard errors on each side: an uninformative score looks reversed on both less than once in 1e8
# times.
_REVERSED = 4.0


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A threshold in validation and in production, and the saving by the best one there.

    Args:
        threshold: deployed threshold on the probability of class 1.
        best_threshold: threshold with the least cost in production.
        best_interval: bootstrap interval of the best threshold.
        validation: decisions in validation.
        production: decisions in production.
        after: decisions in production at thresholds chosen on other rows of production.
        cost: cost of a false positive; that of a false negative is 1 less it.
        saving: share of the cost in production that the best threshold saves on unseen rows.
        saving_interval: 95 % interval of `saving`.
        p_value: one-sided p-value of no saving.
        auc: area under the ROC curve in validation and in production.
        auc_error: standard errors of `auc`.
    """

    threshold: float
    best_threshold: float
    best_interval: tuple[float, float]
    validation: ConfusionMatrix
    production: ConfusionMatrix
    after: ConfusionMatrix
    cost: float
    saving: float
    saving_interval: tuple[float, float]
    p_value: float
    auc: tuple[float, float]
    auc_error: tuple[float, float]

    @property
    def ranking_unchanged(self) -> bool:
        """Whether the area under the ROC curve fell by less than 0.02 and two standard errors."""
        return self.auc[0] - self.auc[1] <= 0.02 + 2 * math.hypot(*self.auc_error)

    @property
    def ranking_reversed(self) -> bool:
        """Whether each area lies below 0.5 by four standard errors."""
        return all(
            auc < 0.5 - _REVERSED * error
            for auc, error in zip(self.auc, self.auc_error, strict=True)
        )

    def table(self) -> pd.DataFrame:
        """The decisions in validation, in production, and in production at the best threshold."""
        return confusion_table(
            {
                "validation": self.validation,
                "production": self.production,
                "production, best threshold": self.after,
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Precision, recall and false-positive rate of the three decisions."""
        ax = axes(ax, size=(6.0, 3.6))
        names = ("precision", "recall", "false-positive rate")
        sides = [
            ("validation", self.validation, NEUTRAL),
            ("production", self.production, LIVE),
            ("best threshold", self.after, REFERENCE),
        ]
        for side, (name, decisions, color) in enumerate(sides):
            values = [decisions.precision, decisions.recall, decisions.false_positive_rate]
            heights = [0.0 if math.isnan(value) else value for value in values]
            centers = [i + 0.27 * (side - 1) for i in range(3)]
            ax.bar(centers, heights, 0.25, color=color, label=name)
        ax.set_xticks(range(3), names)
        title = (
            f"Threshold {self.threshold:.3g} in production; {self.best_threshold:.3g} would save "
            f"{self.saving:.0%} of the cost"
        )
        ax.set(ylim=(0, 1), xlabel="of the decisions", ylabel="share", title=title)
        ax.legend(frameon=False, fontsize="small")
        return ax


def operating_point(
    logits: Tensor,
    targets: Tensor,
    production: Tensor,
    production_targets: Tensor,
    *,
    threshold: float = 0.5,
    cost: float | None = None,
    seed: int = 0,
) -> OperatingPoint:
    """The decisions of a threshold in validation and production, and the saving by the best one.

    Without a cost the threshold implies it: a threshold that was optimal in validation corresponds
    to the probability of class 1 at it there (by a logistic fit), so that a false positive costs
    that probability and a false negative the rest. The saving is measured out of fold: each fifth
    of production is decided at the threshold that is cheapest on the others.

    Source: Elkan (2001), IJCAI, for threshold and cost; Stone (1974), JRSS B 36:111, for folds;
    DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837, for the areas.

    Args:
        logits: binary logits `[n]` of validation.
        targets: labels 0 and 1 `[n]`, both present.
        production: binary logits `[m]` of production.
        production_targets: labels 0 and 1 `[m]`, both present.
        threshold: deployed threshold on the probability of class 1, in (0, 1).
        cost: cost of a false positive in (0, 1); that of a false negative is 1 less it.
        seed: seed of the folds.

    Raises:
        InputError: a threshold or cost outside (0, 1), or a class absent on a side.

    Cost: a sort of each side.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> targets = torch.arange(2000) % 2
        >>> logits = 4.0 * targets - 2 + torch.randn(2000, generator=generator)
        >>> point = operating_point(logits, targets, logits + 2, targets)  # production: all higher
        >>> print(f"{point.best_threshold:.2f} saves {point.saving:.0%}")
        0.90 saves 88%
    """
    _validate(threshold, cost, targets, production_targets)
    if cost is None:
        cost = _implied_cost(logits, targets, threshold)
    weights: dict[str, Any] = {
        "false_positive_cost": cost,
        "false_negative_cost": 1 - cost,
        "seed": seed,
    }
    probs, labels = production.double().sigmoid(), production_targets
    best = choose_threshold(probs, labels, **weights)
    decisions = _out_of_fold_decisions(probs, labels, weights, seed)
    saving, interval, p_value = _saving(probs > threshold, decisions, labels.double(), cost)
    areas = [rank_auc(z.double(), y == 1) for z, y in ((logits, targets), (production, labels))]
    return OperatingPoint(
        threshold,
        best.threshold,
        (best.low, best.high),
        confusion_matrix(logits.double().sigmoid(), targets, threshold),
        confusion_matrix(probs, labels, threshold),
        decision_counts(decisions, labels.double()),
        cost,
        saving,
        interval,
        p_value,
        (float(areas[0].auc), float(areas[1].auc)),
        (float(areas[0].variance.sqrt()), float(areas[1].variance.sqrt())),
    )


def _validate(
    threshold: float, cost: float | None, targets: Tensor, production_targets: Tensor
) -> None:
    for name, value in (("threshold", threshold), ("cost", cost)):
        if value is not None and not 0 < value < 1:
            reject(
                name,
                "a number in (0, 1)",
                str(value),
                "Give the threshold on the probability of class 1.",
            )
    for name, labels in (("targets", targets), ("production_targets", production_targets)):
        if not 0 < int(labels.sum()) < len(labels):
            reject(
                name,
                "both classes",
                f"{int(labels.sum())} of {len(labels)} rows in class 1",
                "Pass more labeled rows.",
            )


def _implied_cost(logits: Tensor, targets: Tensor, threshold: float) -> float:
    """Calibrated probability of class 1 at the threshold: the cost for which it is optimal."""
    fit = fit_affine(logits, targets)
    odds = math.log(threshold / (1 - threshold)) * float(fit.scale) + float(fit.bias)
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))


def _out_of_fold_decisions(
    probs: Tensor, targets: Tensor, weights: dict[str, Any], seed: int
) -> Tensor:
    """`[m]` bool decisions, each fold at the threshold that is cheapest on the others."""
    decisions = torch.zeros_like(targets, dtype=torch.bool)
    order = torch.randperm(len(probs), generator=torch.Generator().manual_seed(seed))
    folds = [order[fold::_FOLDS].to(probs.device) for fold in range(_FOLDS)]
    for fold, test in enumerate(folds):
        train = torch.cat([rows for other, rows in enumerate(folds) if other != fold])
        best = choose_threshold(probs[train], targets[train], replicates=1, **weights)
        decisions[test] = probs[test] > best.threshold
    return decisions


def _saving(
    before: Tensor, after: Tensor, targets: Tensor, cost: float
) -> tuple[float, tuple[float, float], float]:
    """Share of the cost that decisions `after` save, its 95 % interval and one-sided p-value."""
    # Only rows that are decided otherwise count.
    row_costs = cost * (1 - targets) - (1 - cost) * targets
    savings = (before.double() - after.double()) * row_costs
    total = float((before * cost * (1 - targets) + ~before * (1 - cost) * targets).sum())
    gain, error = float(savings.sum()), math.sqrt(float(savings.square().sum()))
    p_value = 0.5 * math.erfc(gain / error / math.sqrt(2)) if error > 0 else 1.0
    if not total > 0:
        return 0.0, (0.0, 0.0), p_value
    low, high = ((gain + side * 1.96 * error) / total for side in (-1, 1))
    return gain / total, (low, high), p_value

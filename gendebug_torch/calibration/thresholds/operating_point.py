"""Whether a deployed threshold still sits where it should: ranking, odds at the threshold, and what
moving it would save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.calibration.thresholds.threshold_choice import (
    Confusion,
    choose_threshold,
    confusion,
    confusion_table,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FOLDS = 5
# Standard errors on each side: a score that carries nothing looks reversed on both less than once
# in 1e8 times.
_REVERSED = 4.0


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A threshold in validation and in production, and what another one would save there.

    Args:
        threshold: on the probability of class 1.
        moved: the threshold that costs least in production.
        moved_interval: bootstrap interval of it.
        validation: decisions in validation.
        production: decisions in production.
        after: decisions in production at thresholds chosen on other rows of production.
        cost: of a false alarm, that of a missed case being 1 less it: what the threshold stood for
            in validation.
        saved: share of the cost in production that moving saves on rows the new threshold has not
            seen.
        saved_interval: 95 % interval of `saved`.
        p_value: of no saving, one-sided.
        areas: area under the ROC curve in validation and in production.
        area_errors: their standard errors.
    """

    threshold: float
    moved: float
    moved_interval: tuple[float, float]
    validation: Confusion
    production: Confusion
    after: Confusion
    cost: float
    saved: float
    saved_interval: tuple[float, float]
    p_value: float
    areas: tuple[float, float]
    area_errors: tuple[float, float]

    @property
    def ranking_held(self) -> bool:
        """Whether the area under the ROC curve fell by less than 0.02 and two standard errors."""
        return self.areas[0] - self.areas[1] <= 0.02 + 2 * math.hypot(*self.area_errors)

    @property
    def ranking_reversed(self) -> bool:
        """Whether class 1 scores lower than class 0 on both sides, each area below 0.5 by four
        standard errors.
        """
        return all(
            area < 0.5 - _REVERSED * error
            for area, error in zip(self.areas, self.area_errors, strict=True)
        )

    def table(self) -> pd.DataFrame:
        """The decisions in validation, in production, and in production after moving."""
        named = {
            "validation": self.validation,
            "production": self.production,
            "production, moved": self.after,
        }
        return confusion_table(named)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Precision, recall and false-positive rate of the three decisions."""
        ax = axes(ax, size=(6.0, 3.6))
        names = ("precision", "recall", "false-positive rate")
        sides = [
            ("validation", self.validation, NEUTRAL),
            ("production", self.production, LIVE),
            ("after moving", self.after, REFERENCE),
        ]
        for place, (name, found, color) in enumerate(sides):
            values = [found.precision, found.recall, found.false_positive_rate]
            heights = [0.0 if math.isnan(value) else value for value in values]
            ax.bar(
                [i + 0.27 * (place - 1) for i in range(3)], heights, 0.25, color=color, label=name
            )
        ax.set_xticks(range(3), names)
        title = (
            f"Threshold {self.threshold:.3g} in production; {self.moved:.3g} would save "
            f"{self.saved:.0%} of the cost"
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
    """What a threshold does in production beside validation, and what the best one there would
    save.

    Without a cost the threshold tells it: a threshold that was right in validation stands for the
    odds of class 1 at it there (by a logistic fit), so that a false alarm costs that probability
    and a missed case the rest. The saving is measured out of fold: each fifth of production is
    decided at the threshold that is cheapest on the others.

    Source: Elkan (2001), IJCAI, for threshold and cost; Stone (1974), JRSS B 36:111, for folds;
    DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837, for the areas.

    Args:
        logits: `[n]` binary logits of validation.
        targets: `[n]` 0 and 1, both present.
        production: `[m]` logits of production.
        production_targets: `[m]` 0 and 1, both present.
        threshold: deployed, on the probability of class 1, in (0, 1).
        cost: of a false alarm in (0, 1), that of a missed case being 1 less it.
        seed: of the folds.

    Raises:
        InputError: a threshold or cost outside (0, 1), or a class absent on a side.

    Cost: a sort of each side.
    """
    for name, value in (("threshold", threshold), ("cost", cost)):
        if value is not None and not 0 < value < 1:
            reject(
                name,
                "a number in (0, 1)",
                str(value),
                "Give the threshold on the probability of class 1.",
            )
    for name, true in (("targets", targets), ("production_targets", production_targets)):
        if not 0 < int(true.sum()) < len(true):
            reject(
                name,
                "both classes",
                f"{int(true.sum())} of {len(true)} rows in class 1",
                "Pass more labeled rows.",
            )
    odds = math.log(threshold / (1 - threshold))
    if cost is None:
        fit = fit_affine(logits, targets)
        cost = 1 / (1 + math.exp(-max(-30.0, min(30.0, odds * float(fit.scale) + float(fit.bias)))))
    weights: dict[str, Any] = {
        "false_positive_cost": cost,
        "false_negative_cost": 1 - cost,
        "seed": seed,
    }
    probs, true = production.double().sigmoid(), production_targets.double()
    best = choose_threshold(probs, production_targets, **weights)
    decided = torch.zeros(len(probs), dtype=torch.bool)
    order = torch.randperm(len(probs), generator=torch.Generator().manual_seed(seed))
    for fold in range(_FOLDS):
        held, kept = (
            order[fold::_FOLDS],
            torch.cat([order[other::_FOLDS] for other in range(_FOLDS) if other != fold]),
        )
        chosen = choose_threshold(probs[kept], production_targets[kept], replicates=1, **weights)
        decided[held] = probs[held] > chosen.threshold
    said = probs > threshold
    # Cost saved per row: only rows that are decided otherwise count.
    saving = (said.double() - decided.double()) * (cost * (1 - true) - (1 - cost) * true)
    total = float((said * cost * (1 - true) + ~said * (1 - cost) * true).sum())
    gain, error = float(saving.sum()), math.sqrt(float(saving.square().sum()))
    share = (gain - 1.96 * error, gain, gain + 1.96 * error)
    low, saved, high = (value / total if total > 0 else 0.0 for value in share)
    found = float((decided * true).sum()), float(decided.sum()), float(true.sum())
    after = Confusion(
        found[0],
        found[1] - found[0],
        found[2] - found[0],
        len(true) - found[1] - found[2] + found[0],
    )
    areas = [roc_area(z, y) for z, y in ((logits, targets), (production, production_targets))]
    return OperatingPoint(
        threshold,
        best.threshold,
        (best.low, best.high),
        confusion(logits.double().sigmoid(), targets, threshold),
        confusion(probs, production_targets, threshold),
        after,
        cost,
        saved,
        (low, high),
        0.5 * math.erfc(gain / error / math.sqrt(2)) if error > 0 else 1.0,
        (areas[0][0], areas[1][0]),
        (areas[0][1], areas[1][1]),
    )


def roc_area(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and its standard error, from ranks; ties count half.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.
    """
    positive, negative = (
        scores[targets == 1].double().sort().values,
        scores[targets == 0].double().sort().values,
    )
    n, m = len(positive), len(negative)

    def below(values: Tensor, among: Tensor) -> Tensor:
        left, right = (
            torch.searchsorted(among, values.contiguous(), right=side) for side in (False, True)
        )
        return (left + right).double() / 2 / len(among)

    placed, other = below(positive, negative), 1 - below(negative, positive)
    area = float(placed.mean())
    parts = [
        float((values - area).square().sum()) / max(len(values) - 1, 1) / len(values)
        for values in (placed, other)
    ]
    return area, math.sqrt(sum(parts)) if min(n, m) > 1 else math.nan

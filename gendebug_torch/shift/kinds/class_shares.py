"""Shares of the classes before and after: counted where production has labels, estimated from the
scores where not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.shared_columns import autocorrelation_times
from gendebug_torch.shift.two_sample.categories import CategoryShift
from gendebug_torch.stats.effective_sample_size import MAX_LEVELS, effective_counts
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.label_shift import label_shift, label_shift_misfit
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_FEWEST = 30


@dataclass(frozen=True, eq=False)
class ClassShares:
    """Shares of k classes, reference first and production second.

    Args:
        before: `[k]` float64.
        after: `[k]` float64.
        low: `[k]` lower 95 % bounds of `after`.
        high: `[k]` upper bounds.
        p_value: of no change.
        rows: reference and production rows.
        names: of the classes.
        observed: whether production's labels were counted, rather than estimated from scores.
        misfit: p-value and distance that a change of shares leaves unexplained in the scores; (NaN,
            NaN) if counted.
    """

    before: Tensor
    after: Tensor
    low: Tensor
    high: Tensor
    p_value: float
    rows: tuple[int, int]
    names: tuple[str, ...]
    observed: bool
    misfit: tuple[float, float] = (math.nan, math.nan)

    @property
    def distance(self) -> float:
        """Total variation in [0, 1]: the share of rows that changed class, net."""
        return float((self.after - self.before).abs().sum()) / 2

    @property
    def weights(self) -> Tensor:
        """`[k]` by which reference rows of each class are to be weighted to have production's
        shares; 0 for classes without rows.
        """
        return torch.where(
            self.before > 0, self.after / self.before.clamp(min=1e-12), torch.zeros_like(self.after)
        )

    def moved(self, alpha: float, *, min_distance: float = 0.05, min_ratio: float = 2.0) -> bool:
        """Whether shares moved: significantly, and by `min_distance`, or a class by the factor
        `min_ratio` (and 1 % of the rows).
        """
        ratio = torch.maximum(self.after, self.before) / torch.minimum(
            self.after, self.before
        ).clamp(min=1e-12)
        far = ((ratio >= min_ratio) & ((self.after - self.before).abs() >= 0.01)).any()
        return self.p_value < alpha and (self.distance >= min_distance or bool(far))

    def table(self) -> DataFrame:
        """One row per class: shares before and after with the 95 % interval, and their ratio."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "class": list(self.names),
                "reference": self.before.numpy(),
                "production": self.after.numpy(),
            }
        )
        return frame.assign(
            low=self.low.numpy(), high=self.high.numpy(), ratio=self.weights.numpy()
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Shares before and after as bars, the 20 largest changes."""
        ax = axes(ax, size=(6.0, 3.6))
        order = (self.after - self.before).abs().argsort(descending=True, stable=True)[:20]
        places = torch.arange(len(order)).numpy()
        before, after, low, high = (
            part[order].numpy() for part in (self.before, self.after, self.low, self.high)
        )
        told = "counted" if self.observed else "estimated"
        ax.bar(
            places - 0.2, before, 0.38, color=REFERENCE, label=f"reference (n = {self.rows[0]:,})"
        )
        whiskers = [(after - low).clip(0), (high - after).clip(0)]
        bars: dict[str, Any] = {"yerr": whiskers, "capsize": 3}
        ax.bar(
            places + 0.2,
            after,
            0.38,
            color=LIVE,
            label=f"production, {told} (n = {self.rows[1]:,})",
            **bars,
        )
        ax.set_xticks(places, [self.names[int(place)] for place in order])
        ax.set(
            xlabel="class",
            ylabel="share of rows",
            title=f"Class shares: distance {self.distance:.3f}",
        )
        ax.legend(frameon=True)
        return ax


def class_shares(reference: Records, production: Records) -> ClassShares | None:
    """Shares of the classes on both sides; None without classes before, or without labels and
    scores after.

    Estimated shares are the likeliest ones under label shift, from logits calibrated on the
    reference.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21, through
    `label_shift`.
    """
    targets = reference.targets
    if (
        targets is None
        or targets.dtype != torch.int64
        or targets.ndim != 1
        or min(len(reference), len(production)) < _FEWEST
    ):
        return None
    told = production.targets
    pair = (targets.cpu(), told.cpu() if told is not None else torch.zeros(0, dtype=torch.int64))
    if told is not None and (told.dtype != torch.int64 or told.ndim != 1):
        return None
    seen = 1 + max(int(side.max()) if len(side) else 0 for side in pair)
    logits = [
        records.logits
        for records in (reference, production)
        if records.logits is not None and records.logits.ndim <= 2
    ]
    k = max([seen, 2, *[2 if z.ndim == 1 else z.shape[1] for z in logits]])
    counts = [side.bincount(minlength=k) for side in pair]
    names = (
        tuple(str(name) for name in reference.schema.classes)
        if len(reference.schema.classes) == k
        else tuple(map(str, range(k)))
    )
    before = counts[0].double() / len(reference)
    sizes = (len(reference), len(production))
    if told is not None:
        shift = _in_time(
            CategoryShift("class", names, counts[0], counts[1]), reference, production, pair
        )
        low, high = wilson_interval(
            *effective_counts(
                counts[1], torch.full((k,), len(production)), torch.tensor(shift.times[1])
            )
        )
        return ClassShares(
            before,
            counts[1].double() / len(production),
            low,
            high,
            shift.p_value,
            sizes,
            names,
            True,
        )
    if len(logits) < 2 or bool((counts[0] == 0).any()):
        return None
    fit = fit_affine(logits[0].double(), targets)
    z, live = (fit(part.double()).cpu() for part in logits)
    estimate = label_shift(live, before, reference_rows=len(reference))
    misfit = label_shift_misfit(z, targets, live)
    return ClassShares(
        before,
        estimate.prior,
        estimate.low,
        estimate.high,
        estimate.p_value,
        sizes,
        names,
        False,
        misfit,
    )


def _in_time(
    shift: CategoryShift, reference: Records, production: Records, targets: tuple[Tensor, Tensor]
) -> CategoryShift:
    """Counted shares with rows in time counted as what they are worth, by the longest time of the
    commonest classes.
    """
    common = (shift.reference + shift.live).argsort(descending=True, stable=True)[:MAX_LEVELS]
    before, after = ((side[:, None] == common).double() for side in targets)
    times = autocorrelation_times(reference, production, before, after, torch.arange(len(common)))
    return replace(shift, times=(float(times[0].amax()), float(times[1].amax())))

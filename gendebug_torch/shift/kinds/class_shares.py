"""Shares of the classes before and after, counted from labels or estimated from scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.shared_columns import design_effects
from gendebug_torch.shift.scores.estimated_accuracy import MAX_CLASSES
from gendebug_torch.shift.two_sample.categories import CategoryShift
from gendebug_torch.stats.dependence.effective_sample_size import MAX_LEVELS, effective_counts
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.label_shift import label_shift, label_shift_misfit
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_MIN_ROWS = 30


@dataclass(frozen=True, eq=False)
class ClassShares:
    """Shares of k classes, reference first and production second.

    Args:
        before: shares in the reference, `[k]` float64.
        after: shares in production, `[k]` float64.
        low: lower 95 % bounds of `after`, `[k]`.
        high: upper 95 % bounds of `after`, `[k]`.
        p_value: p-value of equal shares.
        rows: numbers of reference and production rows.
        names: class names.
        observed: whether labels of production were counted; False if estimated from scores.
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
        """Importance weights of the classes, `[k]`: share after over before; 0 without rows."""
        return torch.where(
            self.before > 0, self.after / self.before.clamp(min=1e-12), torch.zeros_like(self.after)
        )

    def changed(self, alpha: float, *, min_distance: float = 0.05, min_ratio: float = 2.0) -> bool:
        """Whether shares changed significantly and enough to matter.

        Args:
            alpha: level of the test.
            min_distance: smallest total variation distance that matters.
            min_ratio: smallest ratio of one class that matters, if it changed by 1 % of the rows.
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
        positions = torch.arange(len(order)).numpy()
        before, after, low, high = (
            part[order].numpy() for part in (self.before, self.after, self.low, self.high)
        )
        how = "counted" if self.observed else "estimated"
        ax.bar(
            positions - 0.2,
            before,
            0.38,
            color=REFERENCE,
            label=f"reference (n = {self.rows[0]:,})",
        )
        whiskers = [(after - low).clip(0), (high - after).clip(0)]
        bars: dict[str, Any] = {"yerr": whiskers, "capsize": 3}
        ax.bar(
            positions + 0.2,
            after,
            0.38,
            color=LIVE,
            label=f"production, {how} (n = {self.rows[1]:,})",
            **bars,
        )
        ax.set_xticks(positions, [self.names[int(i)] for i in order])
        ax.set(
            xlabel="class",
            ylabel="share of rows",
            title=f"Class shares: total variation distance {self.distance:.3f}",
        )
        ax.legend(frameon=True)
        return ax


def class_shares(reference: Records, production: Records) -> ClassShares | None:
    """Shares of the classes on both sides; None if they can be neither counted nor estimated.

    That is without class ids in the reference, with fewer than 30 rows on a side, or without labels
    and logits of at most 300 classes in production. Estimated shares are the maximum likelihood
    ones under label shift, from logits calibrated on the reference.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21, through
    `label_shift`.

    Args:
        reference: records with class ids, and with logits where shares are to be estimated.
        production: records with class ids or logits.

    Example:
        >>> import torch
        >>> from gendebug_torch import Records
        >>> before, after = (Records(targets=(torch.arange(400) % k == 0).long()) for k in (2, 4))
        >>> found = class_shares(before, after)
        >>> found.after.tolist(), found.distance, found.changed(alpha=0.001)
        ([0.75, 0.25], 0.25, True)
    """
    if not _class_ids(reference) or min(len(reference), len(production)) < _MIN_ROWS:
        return None
    if production.targets is None:
        return _estimated_shares(reference, production)
    if not _class_ids(production):
        return None
    assert reference.targets is not None
    counts = [side.cpu().bincount() for side in (reference.targets, production.targets)]
    return counted_shares(reference, production, (counts[0], counts[1]))


def _class_ids(records: Records) -> bool:
    targets = records.targets
    return targets is not None and targets.dtype == torch.int64 and targets.ndim == 1


def _logits(records: Records) -> Tensor | None:
    return None if records.logits is None or records.logits.ndim > 2 else records.logits


def _class_names(reference: Records, production: Records) -> tuple[str, ...]:
    """Names of the classes that labels or logits of either side have, at least two."""
    k = 2
    for records in (reference, production):
        if records.targets is not None and len(records.targets):
            k = max(k, 1 + int(records.targets.max()))
        if (logits := _logits(records)) is not None and logits.ndim == 2:
            k = max(k, logits.shape[1])
    declared = reference.schema.classes
    return tuple(map(str, declared if len(declared) == k else range(k)))


def counted_shares(
    reference: Records, production: Records, counts: tuple[Tensor, Tensor]
) -> ClassShares:
    """Shares of classes that were counted, on these rows or on more.

    Args:
        reference: rows with class ids, or a sample of them, from which their dependence in time is
            known.
        production: the same.
        counts: numbers of rows by class id on both sides, `[k]` int64.
    """
    assert reference.targets is not None
    assert production.targets is not None
    names = _class_names(reference, production)
    k, pair = len(names), (reference.targets.cpu(), production.targets.cpu())
    before, after = (pad(side[:k], (0, k - len(side[:k]))) for side in counts)
    n, m = int(before.sum()), int(after.sum())
    shift = CategoryShift("class", names, before, after)
    shift = _dependent_in_time(shift, reference, production, pair)
    # Rows of a sample are further apart than those that were counted.
    spacing = n / len(reference), m / len(production)
    times = [t * s if t > 1 else t for t, s in zip(shift.times, spacing, strict=True)]
    shift = replace(shift, times=(times[0], times[1]))
    trials = torch.full((k,), m)
    low, high = wilson_interval(*effective_counts(after, trials, torch.tensor(times[1])))
    shares = before.double() / n, after.double() / m
    return ClassShares(*shares, low, high, shift.p_value, (n, m), names, observed=True)


def _estimated_shares(reference: Records, production: Records) -> ClassShares | None:
    before, after, targets = _logits(reference), _logits(production), reference.targets
    assert targets is not None
    names = _class_names(reference, production)
    if len(names) > MAX_CLASSES:
        return None
    shares = targets.cpu().bincount(minlength=len(names)).double() / len(reference)
    if before is None or after is None or bool((shares == 0).any()):
        return None
    fit = fit_affine(before.double(), targets)
    calibrated, live = (fit(side.double()).cpu() for side in (before, after))
    estimate = label_shift(live, shares, reference_rows=len(reference))
    return ClassShares(
        shares,
        estimate.prior,
        estimate.low,
        estimate.high,
        estimate.p_value,
        (len(reference), len(production)),
        names,
        observed=False,
        misfit=label_shift_misfit(calibrated, targets.cpu(), live),
    )


def _dependent_in_time(
    shift: CategoryShift, reference: Records, production: Records, targets: tuple[Tensor, Tensor]
) -> CategoryShift:
    """Counted shares with the effective sample size of rows in time, by the commonest classes."""
    common = (shift.reference + shift.live).argsort(descending=True, stable=True)[:MAX_LEVELS]
    before, after = ((side[:, None] == common).double() for side in targets)
    times = design_effects(reference, production, before, after, torch.arange(len(common)))
    return replace(shift, times=(float(times[0].amax()), float(times[1].amax())))

"""Labels given the score, before and after: is the event rate at the same score the same?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from scipy.stats import chi2
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Rows, and variance of the number of events, that either side needs in a bin before its normal
# approximation is trusted.
_MIN_ROWS = 10
_MIN_VARIANCE = 2.0
_MAX_BINS = 10
# Change of the event rate given the score from which it matters.
MIN_EFFECT = 0.03


@dataclass(frozen=True, eq=False)
class RelationChange:
    """Labels within bins of the calibrated score, reference first and production second.

    Args:
        edges: bin edges, probabilities `[b + 1]` float64.
        rows: row counts, `[2, b]` int64.
        observed: event counts, `[2, b]` float64.
        expected: sums of the calibrated probabilities, `[2, b]` float64.
        variance: variance of `observed` if the probabilities are right, `[2, b]` float64.
        event: name of what is counted.
    """

    edges: Tensor
    rows: Tensor
    observed: Tensor
    expected: Tensor
    variance: Tensor
    event: str

    @property
    def difference(self) -> Tensor:
        """Change of the event rate beyond the expected one, `[b]`; NaN in bins with few rows."""
        excess = (self.observed - self.expected) / self.rows.clamp(min=1)
        return (excess[1] - excess[0]).masked_fill(~self._judged, math.nan)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `difference`, `[b]`."""
        return (
            (self.variance / self.rows.clamp(min=1).square())
            .sum(0)
            .sqrt()
            .masked_fill(~self._judged, math.nan)
        )

    @cached_property
    def p_value(self) -> float:
        """P-value of an unchanged relation: a chi-square test over the bins; NaN with none."""
        judged = self._judged
        if not bool(judged.any()):
            return math.nan
        return float(
            chi2.sf(
                float((self.difference / self.standard_error)[judged].square().sum()),
                int(judged.sum()),
            )
        )

    @property
    def effect(self) -> float:
        """Mean absolute change of the event rate over production rows, less noise; in [0, 1]."""
        judged = self._judged
        if not bool(judged.any()):
            return 0.0
        weight = self.rows[1][judged].double()
        change = (
            self.difference[judged].abs() - math.sqrt(2 / math.pi) * self.standard_error[judged]
        )
        return max(0.0, float((weight * change).sum() / weight.sum()))

    @property
    def direction(self) -> float:
        """Mean signed change of the event rate over production rows."""
        judged = self._judged
        weight = self.rows[1][judged].double()
        return (
            float((weight * self.difference[judged]).sum() / weight.sum())
            if bool(judged.any())
            else 0.0
        )

    def table(self) -> DataFrame:
        """One row per bin: rows, observed and expected rates, change with its standard error."""
        import pandas as pd

        rate, expected = (part / self.rows.clamp(min=1) for part in (self.observed, self.expected))
        columns = {"low": self.edges[:-1], "high": self.edges[1:]}
        for i, side in enumerate(("reference", "production")):
            columns |= {
                f"{side}_rows": self.rows[i],
                f"{side}_rate": rate[i],
                f"{side}_expected": expected[i],
            }
        columns |= {"change": self.difference, "standard_error": self.standard_error}
        return pd.DataFrame({key: value.numpy() for key, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Observed over expected event rate on both sides, with 95 % intervals."""
        ax = axes(ax)
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1.0, label="as expected")
        for i, (colour, side) in enumerate(((REFERENCE, "reference"), (LIVE, "production"))):
            rows = self.rows[i]
            filled = rows > 0
            rate = self.observed[i][filled] / rows[filled]
            low, high = wilson_interval(self.observed[i][filled], rows[filled])
            whiskers = torch.stack([(rate - low).clamp(min=0), (high - rate).clamp(min=0)]).numpy()
            expected = (self.expected[i][filled] / rows[filled]).numpy()
            label = f"{side} (n = {int(rows.sum()):,})"
            ax.errorbar(
                expected,
                rate.numpy(),
                yerr=whiskers,
                fmt="o-",
                markersize=4,
                color=colour,
                capsize=2,
                linewidth=1.2,
                label=label,
            )
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="expected event rate (calibrated score)",
            ylabel=f"observed event rate ({self.event})",
        )
        ax.set_title(f"Event rate given the score: mean change {self.effect:.3f}")
        ax.legend(loc="upper left", frameon=True)
        return ax

    @property
    def _judged(self) -> Tensor:
        return (self.rows >= _MIN_ROWS).all(0) & (self.variance >= _MIN_VARIANCE).all(0)


def relation_change(
    logits: Tensor,
    targets: Tensor,
    live_logits: Tensor,
    live_targets: Tensor,
    *,
    bias: Tensor | None = None,
) -> RelationChange:
    """Change of the event rate given the score: of class 1, or of being right with more classes.

    The score is calibrated on the reference (`fit_affine`), and rows are compared in up to ten bins
    of it. Only residuals from the calibrated probability are compared, so that scores which shift
    within a bin do not count as a change.

    Source: Cochran (1954), Biometrics 10:417, for tests over strata; Platt (1999) for the
    calibration.

    Args:
        logits: logits of labeled reference rows, `[n]` binary or `[n, k]`.
        targets: class ids of the reference, `[n]` int64.
        live_logits: logits of labeled production rows, `[m]` or `[m, k]`.
        live_targets: class ids of production, `[m]` int64.
        bias: change of the logits that a change of class shares explains, `[k]` nats.

    Cost: about eight passes over the reference, one over production.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(4000, generator=generator)
        >>> y = (torch.rand(4000, generator=generator) < z.sigmoid()).long()
        >>> same = relation_change(z[:2000], y[:2000], z[2000:], y[2000:])
        >>> reverse = relation_change(z[:2000], y[:2000], z[2000:], 1 - y[2000:])
        >>> same.p_value > 0.01, reverse.p_value < 1e-9
        (True, True)
    """
    sides = _calibrated(logits, targets, live_logits, live_targets, bias)
    pooled = torch.cat([probability for probability, _ in sides]).sort().values
    bins = max(1, min(_MAX_BINS, min(len(logits), len(live_logits)) // (4 * _MIN_ROWS)))
    inner = pooled
    if len(pooled):
        inner = torch.unique(pooled[(torch.arange(1, bins) * len(pooled)) // bins])
    sums = [_sums_by_bin(*side, inner) for side in sides]
    rows, observed, expected, variance = (torch.stack(pair) for pair in zip(*sums, strict=True))
    edges = torch.cat([torch.zeros(1), inner, torch.ones(1)]).double()
    event = "class 1" if logits.ndim == 1 or logits.shape[1] == 2 else "correct prediction"
    return RelationChange(edges, rows.long(), observed, expected, variance, event)


def _calibrated(
    logits: Tensor, targets: Tensor, live_logits: Tensor, live_targets: Tensor, bias: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Calibrated probability of the event and the event, of the reference and of production."""
    fit = fit_affine(logits, targets)
    sides = []
    for i, (z, y) in enumerate(((logits, targets), (live_logits, live_targets))):
        mapped = fit(z.double())
        if i and bias is not None:
            mapped = mapped + (bias[1] - bias[0] if z.ndim == 1 else bias).to(mapped)
        both = torch.stack([torch.zeros_like(mapped), mapped], 1) if z.ndim == 1 else mapped
        probs = both.softmax(1)
        if probs.shape[1] == 2:
            probability, event = probs[:, 1], y == 1
        else:
            probability, event = probs.amax(1), probs.argmax(1) == y
        sides.append((probability.cpu().contiguous(), event.cpu()))
    return sides


def _sums_by_bin(probability: Tensor, event: Tensor, inner: Tensor) -> list[Tensor]:
    """Rows, events, expected events and their variance in each bin between the inner edges."""
    bins = torch.searchsorted(inner, probability, right=True)
    parts = (
        torch.ones_like(probability),
        event.double(),
        probability,
        probability * (1 - probability),
    )
    empty = torch.zeros(len(inner) + 1, dtype=torch.float64)
    return [empty.clone().index_add_(0, bins, part) for part in parts]

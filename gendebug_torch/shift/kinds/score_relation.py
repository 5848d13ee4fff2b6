"""Does the same score still mean the same chance? Observed against expected labels, score by score,
before and after.
"""

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
_FEWEST = 10
_LEAST_VARIANCE = 2.0
_MOST_BINS = 10


@dataclass(frozen=True, eq=False)
class RelationChange:
    """Labels within bins of the calibrated score, reference first and production second.

    Args:
        edges: `[b + 1]` float64 probabilities.
        rows: `[2, b]` int64.
        observed: `[2, b]` float64 events.
        expected: `[2, b]` float64 events that the calibrated score promises.
        variance: `[2, b]` float64 of `observed` if it keeps its promise.
        event: what is counted.
    """

    edges: Tensor
    rows: Tensor
    observed: Tensor
    expected: Tensor
    variance: Tensor
    event: str

    @property
    def difference(self) -> Tensor:
        """`[b]` excess of the event rate over its promise, production less reference; NaN in bins
        with few rows.
        """
        excess = (self.observed - self.expected) / self.rows.clamp(min=1)
        return (excess[1] - excess[0]).masked_fill(~self._judged, math.nan)

    @property
    def standard_error(self) -> Tensor:
        """`[b]` standard error of `difference`."""
        return (
            (self.variance / self.rows.clamp(min=1).square())
            .sum(0)
            .sqrt()
            .masked_fill(~self._judged, math.nan)
        )

    @cached_property
    def p_value(self) -> float:
        """P-value for an unchanged relation: the squared differences in standard errors summed
        (chi-square); NaN with no bin.
        """
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
        """Mean absolute change of the chance over production rows, less what noise alone gives; in
        [0, 1].
        """
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
        """Mean signed change of the chance over production rows."""
        judged = self._judged
        weight = self.rows[1][judged].double()
        return (
            float((weight * self.difference[judged]).sum() / weight.sum())
            if bool(judged.any())
            else 0.0
        )

    def table(self) -> DataFrame:
        """One row per bin: rows, observed and promised rate on both sides, change with its standard
        error.
        """
        import pandas as pd

        rate, promised = (part / self.rows.clamp(min=1) for part in (self.observed, self.expected))
        columns = {"low": self.edges[:-1], "high": self.edges[1:]}
        for place, side in enumerate(("reference", "production")):
            columns |= {
                f"{side}_rows": self.rows[place],
                f"{side}_rate": rate[place],
                f"{side}_promised": promised[place],
            }
        columns |= {"change": self.difference, "standard_error": self.standard_error}
        return pd.DataFrame({key: value.numpy() for key, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Observed rate over promised rate on both sides, with 95 % intervals."""
        ax = axes(ax)
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1.0, label="as promised")
        for place, (colour, side) in enumerate(((REFERENCE, "reference"), (LIVE, "production"))):
            rows = self.rows[place]
            held = rows > 0
            rate = self.observed[place][held] / rows[held]
            low, high = wilson_interval(self.observed[place][held], rows[held])
            whiskers = torch.stack([(rate - low).clamp(min=0), (high - rate).clamp(min=0)]).numpy()
            promised = (self.expected[place][held] / rows[held]).numpy()
            label = f"{side} (n = {int(rows.sum()):,})"
            ax.errorbar(
                promised,
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
            xlabel="chance that the calibrated score promises",
            ylabel=f"share of rows: {self.event}",
        )
        ax.set_title(f"The same score, another chance? Mean change {self.effect:.3f}")
        ax.legend(loc="upper left", frameon=True)
        return ax

    @property
    def _judged(self) -> Tensor:
        return (self.rows >= _FEWEST).all(0) & (self.variance >= _LEAST_VARIANCE).all(0)


def relation_change(
    logits: Tensor,
    targets: Tensor,
    live_logits: Tensor,
    live_targets: Tensor,
    *,
    bias: Tensor | None = None,
) -> RelationChange:
    """Whether the chance of an event given the score moved: that of class 1, or of being right with
    more classes.

    The score is calibrated on the reference (`fit_affine`), and rows are compared in up to ten bins
    of it. Only residuals from the calibrated chance are compared, so that scores which move within
    a bin are not taken for change.

    Source: Cochran (1954), Biometrics 10:417, for tests over strata; Platt (1999) for the
    calibration.

    Args:
        logits: `[n]` binary or `[n, k]` of labeled reference rows.
        targets: `[n]` int64 class ids.
        live_logits: `[m]` or `[m, k]` of labeled production rows.
        live_targets: `[m]` int64 class ids.
        bias: `[k]` nats by which a change of class shares moves the logits in production.

    Cost: about eight passes over the reference, one over production.
    """
    fit = fit_affine(logits, targets)
    sides = []
    for place, (z, y) in enumerate(((logits, targets), (live_logits, live_targets))):
        mapped = fit(z.double())
        if place and bias is not None:
            mapped = mapped + (bias[1] - bias[0] if z.ndim == 1 else bias).to(mapped)
        both = torch.stack([torch.zeros_like(mapped), mapped], 1) if z.ndim == 1 else mapped
        probs = both.softmax(1)
        chance, event = (
            (probs[:, 1], y == 1) if probs.shape[1] == 2 else (probs.amax(1), probs.argmax(1) == y)
        )
        sides.append((chance.cpu().contiguous(), event.cpu()))
    pooled = torch.cat([chance for chance, _ in sides]).sort().values
    bins = max(1, min(_MOST_BINS, min(len(logits), len(live_logits)) // (4 * _FEWEST)))
    inner = (
        torch.unique(pooled[(torch.arange(1, bins) * len(pooled)) // bins])
        if len(pooled)
        else pooled
    )
    counts = []
    for chance, event in sides:
        place_of = torch.searchsorted(inner, chance, right=True)
        parts = (torch.ones_like(chance), event.double(), chance, chance * (1 - chance))
        counts.append(
            [
                torch.zeros(len(inner) + 1, dtype=torch.float64).index_add_(0, place_of, part)
                for part in parts
            ]
        )
    rows, observed, expected, variance = (torch.stack(pair) for pair in zip(*counts, strict=True))
    edges = torch.cat([torch.zeros(1), inner, torch.ones(1)]).double()
    binary = logits.ndim == 1 or logits.shape[1] == 2
    return RelationChange(
        edges, rows.long(), observed, expected, variance, "class 1" if binary else "predicted right"
    )

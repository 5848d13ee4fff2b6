"""Error of a regression on unlabeled rows, from the size of the errors on labeled ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.probe_network import cross_fit, design, fitted_network, fold_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASSUMPTION = (
    "the size of the error at the same inputs is that of validation: no concept drift, and no "
    "inputs unlike those of validation"
)
# Rows that the network is fitted to, and to which it is applied.
MAX_ROWS = 5_000
_FOLDS = 5
_MIN_LABELED = 20
# Columns beyond which the size of the error is estimated from the predictions alone.
MAX_COLUMNS = 300


@dataclass(frozen=True, eq=False)
class EstimatedError:
    """Mean absolute errors of k outputs on labeled rows, and estimates of them on unlabeled ones.

    Args:
        before: mean absolute errors on the labeled rows, `[k]` float64.
        before_error: their standard errors, `[k]`.
        after: estimates for the unlabeled rows, `[k]`.
        after_error: standard errors of `after` less `before`, `[k]`.
        counted: errors of the unlabeled rows where labels were given after all, `[k]`, else NaN.
        names: names of the outputs, k of them.
        rows: numbers of labeled and of unlabeled rows that were looked at.
    """

    before: Tensor
    before_error: Tensor
    after: Tensor
    after_error: Tensor
    counted: Tensor
    names: tuple[str, ...]
    rows: tuple[int, int]

    def interval(self, which: int, *, level: float = 0.95) -> tuple[float, float]:
        """Bounds of one estimate under the assumption.

        Args:
            which: number of the output.
            level: coverage of the interval.
        """
        error = math.hypot(float(self.after_error[which]), float(self.before_error[which]))
        half = normal_quantile(0.5 + level / 2) * error
        value = float(self.after[which])
        return max(0.0, value - half), value + half

    def table(self) -> pd.DataFrame:
        """One row per output: error before, estimate with its interval, error counted."""
        bounds = [self.interval(i) for i in range(len(self.names))]
        return pd.DataFrame(
            {
                "output": list(self.names),
                "validation": self.before.numpy(),
                "estimated": self.after.numpy(),
                "low": [low for low, _ in bounds],
                "high": [high for _, high in bounds],
                "counted": self.counted.numpy(),
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Error in validation and estimated error in production of up to 20 outputs."""
        frame = self.table().head(20).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.4 * len(frame) + 1.4)))
        rows = range(len(frame))
        ax.plot(frame["validation"], rows, "o", color=REFERENCE, label="validation, counted")
        whiskers = [frame["estimated"] - frame["low"], frame["high"] - frame["estimated"]]
        ax.errorbar(
            frame["estimated"],
            rows,
            xerr=whiskers,
            fmt="o",
            capsize=3,
            color=LIVE,
            label="production, estimated",
        )
        if frame["counted"].notna().any():
            ax.plot(frame["counted"], rows, "x", color=NEUTRAL, label="production, counted")
        ax.set_yticks(list(rows), frame["output"].tolist())
        ax.set_xlabel("mean absolute error with 95 % interval")
        ax.set_ylabel("output")
        ax.set_title(f"Error estimated without labels ({self.rows[1]:,} rows)")
        ax.legend(frameon=True)
        return ax


def estimated_error(
    predictions: Tensor,
    targets: Tensor,
    live_predictions: Tensor,
    *,
    features: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    categorical: Sequence[str] = (),
    live_targets: Tensor | None = None,
    names: Sequence[str] = (),
) -> EstimatedError:
    """Mean absolute error on unlabeled rows, from a regression of its size on inputs and outputs.

    A network (`cross_fit`) is fitted to the absolute errors of the labeled rows. Its out-of-fold
    predictions d of labeled rows calibrate it by a straight line, `|error| = a + b d`, which is
    then averaged over the unlabeled rows: the regression estimator of survey sampling. Its standard
    error holds the noise of the line and of both samples, and that of the network (a jackknife over
    folds), not its bias where production leaves the range of the labeled rows.

    Source: Cochran (1977), Sampling Techniques, chapter 7, for the estimator and its error; the
    idea of estimating a loss by a second model is that of Direct Loss Estimation (NannyML).

    Args:
        predictions: outputs for the labeled rows, `[n, k]`.
        targets: their quantities, `[n, k]`; rows with a missing one (NaN) are left out.
        live_predictions: outputs for the unlabeled rows, `[m, k]`.
        features: inputs of both, with the same columns; None judges by the outputs alone.
        categorical: names of the columns that hold codes.
        live_targets: quantities of the unlabeled rows, where they are known after all, `[m, k]`.
        names: names of the outputs, k of them.

    Returns:
        The estimates with standard errors; NaN with fewer than 20 labeled rows.

    Cost: seven `cross_fit` of k targets.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 4000, 1, generator=generator, dtype=torch.float64)
        >>> target = x + noise * x.abs()
        >>> found = estimated_error(x[:2000], target[:2000], 2 * x[2000:])
        >>> round(float(found.after / found.before), 1)
        2.0
    """
    z, live_z = predictions.double(), live_predictions.double()
    sizes = (targets.double() - z).abs()
    tables = [pd.DataFrame(side.numpy()).add_prefix("output ") for side in (z, live_z)]
    if features is not None:
        tables = [
            pd.concat([side.reset_index(drop=True), outputs], axis=1)
            for side, outputs in zip(features, tables, strict=True)
        ]
    values = design(*tables, categorical=categorical).values
    before, before_error, after, after_error = _estimates(values, sizes, len(live_z))
    counted = torch.full_like(before, math.nan)
    if live_targets is not None:
        counted = (live_targets.double() - live_z).abs().nanmean(0)
    labels = tuple(names) or tuple(f"output {j}" for j in range(z.shape[1]))
    return EstimatedError(
        before, before_error, after, after_error, counted, labels, (len(z), len(live_z))
    )


def _estimates(
    values: Tensor, sizes: Tensor, live_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean sizes of labeled errors, their standard errors, estimates, errors of the difference.

    Args:
        values: columns of all rows, the labeled ones first, `[n + m, p]`.
        sizes: sizes of the errors of the first n rows, `[n, k]`; NaN where a label is missing.
        live_rows: m.
    """
    present = ~sizes.isnan().any(1)
    error, n = sizes[present], int(present.sum())
    if n < _MIN_LABELED:
        blank = torch.full((sizes.shape[1],), math.nan, dtype=torch.float64)
        return blank, blank, blank, blank
    known, live = values[: len(sizes)][present], values[len(sizes) :]
    folds = fold_ids(n, _FOLDS)
    within = cross_fit(known, error, folds=folds).scores.clamp(min=0.0).minimum(error.amax(0))
    outside = _live_sizes(known, error, live)
    # The network's own error: how much its mean changes where a fold is left out (jackknife).
    left_out = torch.stack(
        [_live_sizes(known[folds != j], error[folds != j], live).mean(0) for j in range(_FOLDS)]
    )
    jackknife = (left_out - left_out.mean(0)).square().sum(0) * (_FOLDS - 1) / _FOLDS
    mean, centred = error.mean(0), within - within.mean(0)
    square = centred.square().sum(0).clamp(min=1e-300)
    # A negative slope is noise; one above 1 would extrapolate beyond the network.
    slope = ((centred * (error - mean)).sum(0) / square).clamp(0.0, 1.0)
    distance = outside.mean(0) - within.mean(0)
    residual = error - mean - slope * centred
    variance = distance.square() * (residual * centred).square().sum(0) / square.square()
    spread = outside.var(0, correction=0) / live_rows + within.var(0, correction=0) / n
    variance += slope.square() * (spread + jackknife)
    return mean, error.std(0) / n**0.5, mean + slope * distance, variance.sqrt()


def _live_sizes(known: Tensor, error: Tensor, live: Tensor) -> Tensor:
    """Sizes of the errors of the unlabeled rows by a network fitted to the labeled ones, `[m, k]`.

    Neither negative nor beyond what has been seen.
    """
    sizes_of = fitted_network(torch.cat([known, live]), error)
    return sizes_of(live).clamp(min=0.0).minimum(error.amax(0))

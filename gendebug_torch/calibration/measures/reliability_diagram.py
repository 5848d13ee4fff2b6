"""The reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins

# Height of the strip of row counts below accuracy 0.
_STRIP = 0.18


def reliability_diagram(bins: ReliabilityBins, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence per bin with Clopper-Pearson bars, row counts underneath.

    The band around the diagonal is where 95 % of the bins of a calibrated model would lie.
    """
    ax = axes(ax, size=(5.0, 5.2))
    table = bins.table()
    _draw_accuracy(table[table["rows"] > 0], ax)
    _draw_counts(table, bins.total, ax)
    ax.set(
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(-_STRIP, 1.02),
        yticks=np.linspace(0, 1, 6),
    )
    ax.set_title(f"Reliability: ECE {bins.ece:.1%}, {bins.total:,} rows")
    ax.legend(
        facecolor="white", edgecolor="none", framealpha=0.9, fontsize="small", loc="upper left"
    )
    return ax


def _draw_accuracy(full: pd.DataFrame, ax: Axes) -> None:
    """The bins that hold rows: accuracy with its interval, the gap, and chance at the diagonal."""
    from scipy.stats import binom

    x, y, rows = full["confidence"], full["accuracy"], np.ceil(full["rows"])
    ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1)
    chance = [binom.ppf(tail, rows, x.clip(0, 1)) / rows for tail in (0.025, 0.975)]
    ax.vlines(
        x, *chance, color=NEUTRAL, alpha=0.35, linewidth=9, label="calibrated, by chance (95 %)"
    )
    ax.vlines(x, x.combine(y, min), x.combine(y, max), color=LIVE, label="gap")
    spread = [(y - full["low"]).clip(lower=0), (full["high"] - y).clip(lower=0)]
    ax.errorbar(
        x,
        y,
        yerr=spread,
        fmt="o",
        color=REFERENCE,
        markersize=4,
        capsize=2,
        label="accuracy (95 % interval)",
    )


def _draw_counts(table: pd.DataFrame, total: int, ax: Axes) -> None:
    """The share of rows in each bin, as a strip below accuracy 0."""
    share = table["rows"] / max(total, 1)
    height = share / max(float(share.max()), 1e-300) * (_STRIP - 0.03)
    ax.bar(
        (table["from"] + table["to"]) / 2,
        height,
        0.9 / len(table),
        bottom=-_STRIP,
        color=NEUTRAL,
        label=f"rows (up to {share.max():.0%})",
    )

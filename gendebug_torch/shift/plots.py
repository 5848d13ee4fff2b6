"""What the plots of this topic share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axis_label(name: str, limit: int = 28) -> str:
    """A name short enough for an axis, its middle left out, with `$` made literal."""
    half = limit // 2
    text = name if len(name) <= limit else f"{name[: limit - half - 1]}…{name[-half:]}"
    return text.replace("$", r"\$")


def paired_bars(
    ax: Axes | None, names: Sequence[str], reference: Any, live: Any, n: int, m: int
) -> Axes:
    """Two horizontal bars for each name: of the reference and of production."""
    ax = axes(ax, size=(6.0, max(2.5, 0.36 * len(names) + 1.2)))
    rows = np.arange(len(names))
    ax.barh(rows + 0.2, reference, 0.4, color=REFERENCE, label=f"reference (n = {n:,})")
    ax.barh(rows - 0.2, live, 0.4, color=LIVE, label=f"production (n = {m:,})")
    ax.set_yticks(rows, [axis_label(str(name)) for name in names])
    ax.set_xlim(left=0.0)
    ax.legend(loc="lower right", frameon=True)
    return ax

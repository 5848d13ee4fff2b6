"""The one place that imports matplotlib: axes without global state, a palette, a figure as
bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart under every common colour blindness, and in grey by lightness.
REFERENCE = "#0072B2"
LIVE = "#D55E00"
GOOD = "#009E73"
NEUTRAL = "#7F7F7F"
ACCENT = "#CC79A7"
CYCLE = (REFERENCE, LIVE, GOOD, ACCENT, "#E69F00", "#56B4E9", NEUTRAL)


class Plottable(Protocol):
    """Evidence that can be drawn on an axis."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw on `ax`, or on a new figure, and return the axis."""


def axes(ax: Axes | None = None, *, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """The given axis, or one on a new figure outside pyplot, so that no window and no global state
    is made.
    """
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.grid(visible=True, color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def png(evidence: Plottable, *, dpi: int = 110) -> bytes:
    """`evidence.plot()` as the bytes of a PNG picture."""
    figure: Any = evidence.plot().get_figure()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()

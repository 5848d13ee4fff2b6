"""Evidence: what can be drawn and read as a table. The one place that imports matplotlib."""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart under every common colour blindness, and in grey by lightness.
REFERENCE = "#0072B2"
LIVE = "#D55E00"
GOOD = "#009E73"
NEUTRAL = "#7F7F7F"
ACCENT = "#CC79A7"
# Rows of a table that a notebook shows.
_ROWS = 15
CYCLE = (REFERENCE, LIVE, GOOD, ACCENT, "#E69F00", "#56B4E9", NEUTRAL)


class Plottable(Protocol):
    """Evidence that can be drawn on an axis."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw on `ax`, or on a new figure, and return the axis."""


def axes(ax: Axes | None = None, *, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """The given axis, or one on a new figure outside pyplot: no window, no global state."""
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.grid(visible=True, color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)
    # A heading longer than the axis goes on below instead of out of the picture.
    for text in (ax.title, ax.xaxis.label):
        text.set_wrap(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


@dataclass(frozen=True, eq=False)
class BarEvidence:
    """A table drawn as horizontal bars: evidence that needs no class of its own.

    Args:
        frame: one row per bar, in the order in which they are to be read, from the top.
        label: column that names the bars.
        value: column that holds their lengths.
        title: heading of the picture.
        xlabel: what the lengths are, with their unit.
        interval: columns of the lower and upper bound of each length, if there are any.
        marker: a length to compare with, drawn as a dashed line, e.g. a limit.
        limit: most bars drawn; the table holds all.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"feature": ["age", "income"], "points": [3.0, 1.0]})
        >>> evidence = BarEvidence(frame, "feature", "points", title="Lost", xlabel="points")
        >>> [float(bar.get_width()) for bar in evidence.plot().patches]
        [1.0, 3.0]
    """

    frame: pd.DataFrame
    label: str
    value: str
    title: str
    xlabel: str
    interval: tuple[str, str] | None = None
    marker: float | None = None
    limit: int = 20

    def table(self) -> pd.DataFrame:
        """One row per bar."""
        return self.frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """The bars, the first row on top, with their intervals and the marker."""
        shown = self.frame.head(self.limit).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.0, 0.6 + 0.32 * len(shown))))
        ends = range(len(shown))
        ax.barh(ends, shown[self.value].to_numpy(dtype=float), color=REFERENCE, height=0.7)
        if self.interval is not None:
            low, high = (shown[column].to_numpy(dtype=float) for column in self.interval)
            ax.hlines(ends, low, high, color="black", linewidth=1.0)
        if self.marker is not None:
            ax.axvline(self.marker, color=LIVE, linestyle="--", linewidth=1.0)
        ax.set_yticks(ends, [str(name) for name in shown[self.label]])
        ax.set_title(self.title)
        ax.set_xlabel(self.xlabel)
        return ax


def png(evidence: Plottable, *, dpi: int = 110) -> bytes:
    """`evidence.plot()` as the bytes of a PNG picture."""
    figure: Any = evidence.plot().get_figure()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name may hold a letter that the font lacks; the picture shows a box, the table the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def notebook_html(evidence: Any) -> str:
    """The picture of a value, where it has one, and the first rows of its table, for a notebook.

    Args:
        evidence: anything with `table()`.
    """
    table: str = evidence.table().head(_ROWS).to_html(index=False, float_format="{:.3g}".format)
    if not hasattr(evidence, "plot"):
        return table
    picture = b64encode(png(evidence)).decode()
    return f'<img alt="" src="data:image/png;base64,{picture}">{table}'

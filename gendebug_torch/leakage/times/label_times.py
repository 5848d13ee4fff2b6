"""Feature values that are dated later than the time at which the label became available."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.times import Times, parse_times
from gendebug_torch.errors import InputError
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
# Numbers this large may be times: seconds since 1970 of any year after that.
_MIN_TIME = 1e6


@dataclass(frozen=True, eq=False)
class LabelDelay:
    """Times of one column relative to the time of the label.

    Args:
        column: column name.
        rows: number of rows that have both times.
        late: number of them with a time after that of the label.
        first_rows: positions of the first late rows.
        hours: edges of the hours after the label, `[b + 1]` float64.
        counts: number of rows per bin, `[b]` int64.
    """

    column: str
    rows: int
    late: int
    first_rows: tuple[int, ...]
    hours: Tensor
    counts: Tensor

    @property
    def share(self) -> float:
        """Share of rows with a time after that of the label."""
        return self.late / max(self.rows, 1)

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's lower and upper bound of `share`."""
        late, rows = torch.tensor(self.late), torch.tensor(self.rows)
        low, high = wilson_interval(late, rows, level=level)
        return float(low), float(high)

    def table(self) -> pd.DataFrame:
        """One row per bin: hours from the label to the value, number of rows."""
        low, high = self.hours[:-1].numpy(), self.hours[1:].numpy()
        return pd.DataFrame({"from": low, "to": high, "rows": self.counts.numpy()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the hours from the label to the value; right of zero is too late."""
        ax = axes(ax)
        ax.stairs(self.counts.numpy(), self.hours.numpy(), color=LIVE, fill=True, alpha=0.4)
        ax.axvline(0.0, color=NEUTRAL, linestyle="--", linewidth=1.0, label="time of the label")
        ax.set_xlabel(f"hours from the label to {self.column[:40]}")
        ax.set_ylabel("rows")
        ax.set_title(f"{self.column[:40]}: {self.share:.1%} of rows after the label")
        ax.legend(frameon=True)
        return ax


def label_delays(
    features: pd.DataFrame, label_time: pd.Series[Any], *, bins: int = 40
) -> list[LabelDelay]:
    """Times of every column that holds times, relative to that of the label, the latest first.

    Columns of dates, and of text that reads as dates, count; a column of numbers does if the label
    time is a number too and the two ranges overlap.

    Args:
        features: table `[n, d]`.
        label_time: times at which the labels became available, `[n]`.
        bins: number of bins of the histogram.

    Raises:
        InputError: label times that cannot be read.

    Example:
        >>> import pandas as pd
        >>> label_time = pd.Series(pd.date_range("2026-01-01", periods=100))
        >>> refunded = label_time + pd.Timedelta(days=3)
        >>> (delay,) = label_delays(pd.DataFrame({"refunded": refunded}), label_time)
        >>> delay.column, delay.share
        ('refunded', 1.0)
    """
    reference = parse_times(label_time, "schema.label_time")
    found = []
    for column in features.columns:
        times = _column_times(features[column], reference)
        if times is None:
            continue
        hours = (times - reference.values) / (3600.0 if reference.calendar else 1.0)
        finite = hours[hours.isfinite()]
        late = (hours > 0).nonzero()[:, 0]
        if len(finite):
            low, high = float(finite.min()), float(finite.max())
            top = high if high > low else low + 1.0
            edges = torch.linspace(low, top, bins + 1, dtype=torch.float64)
            counts = torch.histogram(finite, edges).hist.long()
            first = tuple(late[:20].tolist())
            found.append(LabelDelay(str(column), len(finite), len(late), first, edges, counts))
    return sorted(found, key=lambda delay: -delay.share)


def _column_times(values: pd.Series[Any], reference: Times) -> Tensor | None:
    """Times of a column in the unit of the label time, or None if it does not hold any."""
    number = values.dtype.kind in "iuf"
    text = values.dtype.kind != "M" and not number
    if number == reference.calendar:
        return None
    if text and (values.dropna().empty or not _DATE.match(str(values.dropna().iloc[0]))):
        return None
    try:
        times = parse_times(values, str(values.name))
    except InputError:
        return None
    if times.calendar != reference.calendar:
        return None
    return times.values if times.calendar or _in_range(times.values, reference.values) else None


def _in_range(values: Tensor, reference: Tensor) -> bool:
    """Whether numbers may be times: most are in the range of the label times, which are large."""
    finite = reference[reference.isfinite()]
    if not len(finite) or not float(finite.max()) > _MIN_TIME:
        return False
    return bool(((values >= finite.min()) & (values <= finite.max())).double().mean() > 0.5)

"""Columns that number rows, times that lie after the outcome, names that read like an outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import InputError
from gendebug_torch.leakage.splits.time_overlap import moments
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Fewer rows cannot tell an id from a quantity that happens to differ everywhere.
FEWEST_ROWS = 50
_DISTINCT = 0.99
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_OUTCOME = re.compile(
    r"(^|[_\W])(target|label|outcome|y_true|ground_?truth|response|result|resolution|verdict)s?($|[_\W])",
    re.IGNORECASE,
)


def row_numbers(features: pd.DataFrame) -> dict[str, str]:
    """Columns with another value in nearly every row that are no measurements: name -> what they
    look like.

    Whole numbers count where they run without gaps, or fill their range as evenly as a hash or a
    counter does: the distance of their distribution from a uniform one is within what chance
    allows. Amounts in cents may all differ, but pile up at the small end. Text counts where it is
    one short word per row.

    Source: Kolmogorov (1933), G. Ist. Ital. Attuari 4:83, for the distance and its limit
    `1.95 / sqrt(n)`.

    Args:
        features: `[n, d]`.
    """
    return {str(column): kind for column in features.columns if (kind := _kind(features[column]))}


def _kind(values: pd.Series[Any]) -> str:
    present = values.dropna()
    n = len(present)
    if n < FEWEST_ROWS or (
        values.dtype.kind not in "iuOTM" and str(values.dtype) not in ("str", "string")
    ):
        return ""
    if values.dtype.kind in "iu":
        return _kind_of_whole(np.sort(present.to_numpy()))
    if present.nunique() < _DISTINCT * n:
        return ""
    if values.dtype.kind == "M":
        return "a raw time"
    text = present.astype(str)
    words = text.str.count(r"\s").mean()
    return "an id" if words < 0.2 and text.str.len().mean() <= 64 else "free text"


def _kind_of_whole(ordered: np.ndarray[Any, Any]) -> str:
    n = len(ordered)
    distinct = 1 + int((ordered[1:] != ordered[:-1]).sum())
    low, high = int(ordered[0]), int(ordered[-1])
    if distinct < _DISTINCT * n or high == low:
        return ""
    if high - low < 1.05 * n:
        return "a row number"
    place = (ordered[:: max(n // 20_000, 1)].astype(np.float64) - low) / (high - low)
    even = np.abs(place - np.linspace(0, 1, len(place))).max() < 1.95 / np.sqrt(len(place))
    if even or high - low > 2**40:
        return "a wide whole number, such as an id, a hash or a counter of time"
    return ""


def target_like_names(features: pd.DataFrame, target: str | None) -> tuple[str, ...]:
    """Columns whose name contains that of the target, or a word for outcomes."""
    wanted = (
        None
        if not target or len(target) < 3
        else re.compile(rf"(^|[_\W]){re.escape(target)}($|[_\W])", re.IGNORECASE)
    )
    names = map(str, features.columns)
    return tuple(
        name
        for name in names
        if _OUTCOME.search(name) or (wanted is not None and wanted.search(name))
    )


@dataclass(frozen=True, eq=False)
class AfterLabel:
    """One column of times against the time of the label.

    Args:
        column: its name.
        rows: rows that have both times.
        late: of them with a time after that of the label.
        first_rows: positions of the first late rows.
        hours: `[b + 1]` float64 edges of hours after the label.
        counts: `[b]` int64 rows.
    """

    column: str
    rows: int
    late: int
    first_rows: tuple[int, ...]
    hours: torch.Tensor
    counts: torch.Tensor

    @property
    def share(self) -> float:
        """Share of rows with a time after that of the label."""
        return self.late / max(self.rows, 1)

    @property
    def low(self) -> float:
        """Lower bound of the share by Wilson (1927), 95 %."""
        return float(wilson_interval(torch.tensor(self.late), torch.tensor(self.rows))[0])

    @property
    def high(self) -> float:
        """Upper bound of the share."""
        return float(wilson_interval(torch.tensor(self.late), torch.tensor(self.rows))[1])

    def table(self) -> pd.DataFrame:
        """One row per bin: hours from the label to the value, rows."""
        return pd.DataFrame(
            {
                "from": self.hours[:-1].numpy(),
                "to": self.hours[1:].numpy(),
                "rows": self.counts.numpy(),
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the hours from the label to the value; what lies right of zero was not
        known.
        """
        ax = axes(ax)
        ax.stairs(self.counts.numpy(), self.hours.numpy(), color=LIVE, fill=True, alpha=0.4)
        ax.axvline(0.0, color=NEUTRAL, linestyle="--", linewidth=1.0, label="the label is known")
        ax.set_xlabel(f"hours from the label to {self.column[:40]}")
        ax.set_ylabel("rows")
        ax.set_title(f"{self.column[:40]}: {self.share:.1%} of rows after the label")
        ax.legend(frameon=True)
        return ax


def after_label(
    features: pd.DataFrame, label_time: pd.Series[Any], *, bins: int = 40
) -> list[AfterLabel]:
    """Every column of times against the time of the label, the latest first.

    Columns of dates, and of text that reads as dates, count; a column of numbers does where the
    label time is a number too and the two ranges overlap.

    Args:
        features: `[n, d]`.
        label_time: `[n]` when the label became known.
        bins: of the picture.
    """
    known, calendar = moments(label_time, "schema.label_time")
    found = []
    for column in features.columns:
        times = _times(features[column], known, calendar)
        if times is None:
            continue
        hours = (times - known) / (3600.0 if calendar else 1.0)
        both = hours[hours.isfinite()]
        late = (hours > 0).nonzero()[:, 0]
        if len(both):
            low, high = float(both.min()), float(both.max())
            edges = torch.linspace(
                low, high if high > low else low + 1.0, bins + 1, dtype=torch.float64
            )
            counts = torch.histogram(both, edges).hist.long()
            found.append(
                AfterLabel(
                    str(column), len(both), len(late), tuple(late[:20].tolist()), edges, counts
                )
            )
    return sorted(found, key=lambda entry: -entry.share)


def _times(values: pd.Series[Any], known: torch.Tensor, calendar: bool) -> torch.Tensor | None:
    """Times of a column in the unit of the label time, or None where it does not hold any."""
    if values.dtype.kind == "M":
        return moments(values, str(values.name))[0] if calendar else None
    if values.dtype.kind in "iuf":
        numbers = moments(values, str(values.name))[0]
        span = known[known.isfinite()]
        inside = len(span) > 0 and bool(
            ((numbers >= span.min()) & (numbers <= span.max())).double().mean() > 0.5
        )
        return numbers if not calendar and inside and float(span.max()) > 1e6 else None
    if not calendar or values.dropna().empty or not _DATE.match(str(values.dropna().iloc[0])):
        return None
    try:
        return moments(values, str(values.name))[0]
    except InputError:
        return None

"""`Bill`: the quality lost from validation to production as a sum over its causes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.diagnosis.apportioning.remedies import Regained
from gendebug_torch.errors import reading

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

UNEXPLAINED = "unexplained"
COLUMNS = (
    *("cause", "subject", "points", "low", "high"),
    *("remedy", "regained", "regained_low", "regained_high", "cost"),
)
_NUMBERS = (*COLUMNS[2:5], *COLUMNS[6:9])
_LONGEST, _ROUNDING = 34, 1e-12


@dataclass(frozen=True)
class BillLine:
    """One cause, what it carries, and its best remedy.

    Args:
        cause: value of `Cause`, or `unexplained`.
        subject: where it sits.
        points: quality lost to it; NaN where it cannot be apportioned.
        low: lower bound of the 95 % interval.
        high: upper bound.
        remedy: the preferred remedy (`preferred`), on rows that it was not fitted to.
        reason: why it cannot be apportioned.
    """

    cause: str
    subject: str
    points: float
    low: float
    high: float
    remedy: Regained | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Cause and subject in words."""
        words = self.cause.replace("_", " ").replace("train serve", "train/serve")
        return f"{words}: {self.subject}" if self.subject else words


@dataclass(frozen=True, eq=False)
class Bill:
    """Quality lost from validation to production, and what each cause carries of it.

    Points are hundredths of the accuracy or the AUC, nats of the log loss, or units of the RMSE;
    positive where production is worse. They add up to `total`.

    Args:
        metric: `accuracy`, `AUC`, `log loss` or `RMSE`.
        unit: what a point is.
        validation: quality in validation in points; errors are negative.
        total: points lost.
        low: lower bound of the 95 % interval of `total`.
        high: upper bound.
        lines: causes that findings name, the dearest first; the last one is what they leave.
        expected: whether production has no labels, and those given the inputs are taken to be as in
            validation.
    """

    metric: str
    unit: str
    validation: float
    total: float
    low: float
    high: float
    lines: tuple[BillLine, ...]
    expected: bool = False

    @property
    def fell(self) -> bool:
        """Whether the quality fell beyond its interval."""
        return self.low > 0

    @property
    def billed(self) -> tuple[BillLine, ...]:
        """Causes that carry something beyond their interval."""
        return tuple(line for line in self.lines[:-1] if line.low > 0)

    @property
    def best(self) -> Regained | None:
        """The remedy that wins back most, or the most sure and simple one of those that do."""
        tried = (line.remedy for line in self.lines if line.remedy is not None)
        return next((trial for trial in tried if trial.best), None)

    def table(self) -> pd.DataFrame:
        """One row per cause, the last one `unexplained`; the points sum to `total`."""
        import pandas as pd

        rows = []
        for line in self.lines:
            trial = line.remedy
            won: tuple[Any, ...] = ("", math.nan, math.nan, math.nan, "")
            if trial is not None:
                won = (trial.remedy, trial.points, trial.low, trial.high, trial.cost)
            rows.append((line.cause, line.subject, line.points, line.low, line.high, *won))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def plot(self, ax: Axes | None = None) -> Axes:
        """A waterfall from validation over the causes to production, with 95 % intervals."""
        shown = [line for line in self.lines if not math.isnan(line.points)]
        ax = axes(ax, size=(7.5, 1.5 + 0.45 * (len(shown) + 2)))
        ends, level = [self.validation], self.validation
        for at, line in enumerate(shown, 1):
            ends += _step(ax, at, level, line)
            level -= line.points
        low, high = min(ends), max(ends)
        margin = 0.25 * max(high - low, 1e-9)
        # A quality that is never negative has bars from 0, or from nearer by where all lie far off.
        foot = max(low - margin, 0.0) if self.validation >= 0 else low - margin
        for at, value in ((0, self.validation), (len(shown) + 1, self.validation - self.total)):
            ax.barh(at, value - foot, left=foot, color=REFERENCE, height=0.6)
            ax.text(value, at, f" {abs(value):.4g}", va="center", ha="left", fontsize="small")
        ax.set_xlim(min(low, foot), high + margin)
        names = ["validation", *(_short(line.name) for line in shown), "production"]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        start = f"; the axis starts at {foot:.3g}" if foot > 0 else ""
        minus = "minus " if self.validation < 0 else ""
        ax.set_xlabel(f"{minus}{self.metric} ({self.unit}{start})")
        size = f"Where {self.total:.3g} " if self.total > 0 else "Where "
        ax.set_title(f"{size}{'expected ' * self.expected}points went")
        return ax

    def sentences(self) -> list[str]:
        """The bill in words: the total, each cause with its remedy, and what is left."""
        interval = f"95 % interval {self.low:.3g} to {self.high:.3g}"
        if not self.fell and not self.billed:
            return [f"Nothing fell beyond its interval: {self.total:.3g} points ({interval})."]
        sure = "" if self.fell else ", no fall beyond chance"
        if self.expected:
            sure += ", expected without labels of production if those of such inputs are as before"
        lost = "lost" if self.total > 0 else "gained"
        size = f"{abs(self.total):.3g} points of {self.metric} {lost}"
        if self.total <= 0:
            # An interval of what was gained, whatever its causes took and gave.
            interval = f"95 % interval {-self.high:.3g} to {-self.low:.3g}"
        texts = [f"{size}{sure} ({interval}; {self.unit})."]
        return texts + [_sentence(line) for line in self.lines]

    def to_json(self) -> str:
        """The bill as a JSON object: metric, unit, total with interval, and its lines."""
        lines = [
            {key: None if value != value else value for key, value in row.items()}
            for row in self.table().to_dict("records")
        ]
        for line, entry in zip(self.lines, lines, strict=True):
            entry["reason"] = line.reason
            entry["best"] = line.remedy is not None and line.remedy.best
        whole = {"metric": self.metric, "unit": self.unit, "validation": self.validation}
        whole |= {
            "expected": self.expected,
            "total": self.total,
            "low": self.low,
            "high": self.high,
        }
        return json.dumps(whole | {"lines": lines}, indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return "\n".join(self.sentences())


def read_bill(path: Path) -> Bill:
    """The bill that `Bill.to_json` wrote to a file.

    Args:
        path: path of the `bill.json`.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    remedy = "Pass the folder of a report as written."
    with reading(path, "the bill of a diagnosis as JSON", "path", remedy):
        entry = json.loads(path.read_text("utf-8"))
        # JSON can hold half of a surrogate pair, which is no text for a table.
        json.dumps(entry, ensure_ascii=False).encode()
        metric, unit = str(entry["metric"]), str(entry["unit"])
        keys = ("validation", "total", "low", "high")
        before, total, low, high = (float(entry[key]) for key in keys)
        lines = tuple(_line(line) for line in entry["lines"])
        guessed = bool(entry.get("expected", False))
        return Bill(metric, unit, before, total, low, high, lines, guessed)


def ordered_lines(lines: Sequence[BillLine], rest: BillLine, total: float) -> tuple[BillLine, ...]:
    """Causes by what they carry, those without a number behind, then the exact rest."""
    known = sorted(
        (line for line in lines if not math.isnan(line.points)), key=lambda line: -line.points
    )
    unknown = [line for line in lines if math.isnan(line.points)]
    points = total - math.fsum(line.points for line in known)
    if known and abs(points) <= _ROUNDING * abs(total):
        # What rounding leaves is no cause.
        known[0], points = replace(known[0], points=known[0].points + points), 0.0
    moved = points - rest.points
    last = BillLine(UNEXPLAINED, "", points, rest.low + moved, rest.high + moved, rest.remedy)
    return (*known, *unknown, last)


def _line(entry: dict[str, Any]) -> BillLine:
    """One line of a `bill.json`."""
    numbers = {key: math.nan if entry[key] is None else float(entry[key]) for key in _NUMBERS}
    points, low, high, won, won_low, won_high = numbers.values()
    name, cost = str(entry["remedy"]), str(entry["cost"])
    best = bool(entry.get("best", False))
    trial = Regained(name, won, won_low, won_high, cost, best) if name else None
    cause, subject, reason = (str(entry[key]) for key in ("cause", "subject", "reason"))
    return BillLine(cause, subject, points, low, high, trial, reason)


def _step(ax: Axes, at: int, level: float, line: BillLine) -> list[float]:
    """One step of the waterfall from a level; the ends of what was drawn."""
    after, left, right = level - line.points, level - line.high, level - line.low
    ax.barh(at, -line.points, left=level, color=_color(line), height=0.6)
    ax.hlines(at, left, right, color="black", linewidth=1.0)
    ax.vlines(after, at - 0.3, at + 1.3, color=NEUTRAL, linewidth=0.7)
    edge = max(level, after, right)
    ax.text(edge, at, f" {0 - line.points:+.3g} ", va="center", ha="left", fontsize="small")
    return [left, after, edge]


def _sentence(line: BillLine) -> str:
    if line.reason:
        return f"{line.name}: cannot be apportioned, {line.reason}."
    text = f"{line.name}: {line.points:.3g} ({line.low:.3g} to {line.high:.3g})"
    trial = line.remedy
    if trial is None:
        return f"{text}."
    if math.isnan(trial.points):
        return f"{text}; {trial.remedy}."
    won = f"{trial.points:.3g} ({trial.low:.3g} to {trial.high:.3g})"
    if trial.helps:
        how = f"to {trial.action} would win" if trial.expected else f"{trial.action} wins"
        return f"{text}; {how} back {won}."
    fails = "wins it back" if line.points > 0 else "helps"
    return f"{text}; no remedy that was tried {fails}, {trial.remedy} {won}."


def _short(name: str) -> str:
    return (name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…").replace("$", r"\$")


def _color(line: BillLine) -> str:
    if line.cause == UNEXPLAINED:
        return NEUTRAL
    return LIVE if line.points > 0 else GOOD

"""Quality of a model in validation and in production: what changed, where, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.shift.quality.change import MetricChange, metric_changes
from gendebug_torch.shift.quality.dependence import design_effects
from gendebug_torch.shift.quality.metrics import Metric
from gendebug_torch.shift.quality.outcomes import outcomes
from gendebug_torch.shift.quality.remedies import RemedyTrial, remedy_trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With fewer labeled rows a side has no quality worth comparing.
MIN_ROWS = 30
# Quality in production this close to validation, as a share of it, counts as held.
HELD = 0.05
# Half the width of a 99 % interval, in standard errors.
_Z_99 = 2.576
_DRAWN_PARTS = 15


@dataclass(frozen=True, eq=False)
class QualityChange:
    """Quality on both sides of the deployment.

    Args:
        metrics: changes of the metrics of the task, the principal one first.
        part: what the parts are: `class`, `label` or `output`.
        parts: change within each class (recall), label (AUC) or output (RMSE).
        loss: mean loss of a row and its standard error per side: cross-entropy in nats, or the
            squared error.
        trend: change of the loss over the production period by a straight line in time, as a share
            of its mean, with its standard error; None without time.
        remedies: remedies that were tried on held-out production rows.
    """

    metrics: tuple[MetricChange, ...]
    part: str = "class"
    parts: tuple[MetricChange, ...] = ()
    loss: tuple[tuple[float, float], ...] = ()
    trend: tuple[float, float] | None = None
    remedies: tuple[RemedyTrial, ...] = ()

    @property
    def principal(self) -> MetricChange:
        """The first metric that fell, or the first of all."""
        return (*self.fallen, *self.metrics)[0]

    @property
    def fallen(self) -> tuple[MetricChange, ...]:
        """Metrics that fell beyond their interval."""
        return tuple(change for change in self.metrics if change.fell)

    @property
    def fell(self) -> bool:
        """Whether a metric fell beyond its interval."""
        return bool(self.fallen)

    @property
    def worst_part(self) -> MetricChange | None:
        """The class, label or output that fell most among those that fell beyond doubt."""
        fallen = [part for part in self.parts if part.p_value < (1 - part.level) / 2]
        return max(fallen, key=lambda part: part.relative_fall, default=None)

    @property
    def ranking_held(self) -> bool:
        """Whether the rows are ranked as before within 5 %, by the principal metric.

        Of quantities: whether a line through the outputs wins back what fell of their error.
        """
        first = self.metrics[0]
        if first.lower_is_better and first.fell:
            return self.restored_by("recalibrate")
        return first.relative_fall <= HELD

    def restored_by(self, name: str) -> bool:
        """Whether a remedy, tried on held-out rows, wins back all that fell."""
        trial = self.remedy(name)
        return trial is not None and trial.restores and self.fallen == self.metrics[-1:]

    def remedy(self, name: str) -> RemedyTrial | None:
        """The trial of a remedy, `recalibrate` or `move_threshold`; None where it was not tried."""
        return next((trial for trial in self.remedies if trial.name == name), None)

    def table(self) -> pd.DataFrame:
        """One row per metric, class, label or output."""
        rows = [
            (
                *(kind, change.name, change.before, change.after, change.low, change.high),
                *(change.p_value, *change.rows),
            )
            for kind, changes in (("all", self.metrics), (self.part, self.parts))
            for change in changes
        ]
        columns = ["part", "metric", "validation", "production", "change_low", "change_high"]
        return pd.DataFrame(rows, columns=[*columns, "p_value", "n", "m"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Both sides of each metric, and of the parts that changed most."""
        parts = sorted(self.parts, key=lambda part: part.p_value)[:_DRAWN_PARTS]
        shown = [*self.metrics, *(parts if len(self.parts) > 1 else [])][::-1]
        ax = axes(ax, size=(6.0, max(2.0, 0.8 + 0.4 * len(shown))))
        for i, change in enumerate(shown):
            ax.plot([change.before, change.after], [i, i], color=LIVE, linewidth=1.5, zorder=1)
        for color, label in ((REFERENCE, "validation"), (LIVE, "production")):
            values = [c.before if label == "validation" else c.after for c in shown]
            ax.scatter(values, range(len(shown)), color=color, label=label, zorder=2)
        ax.set_yticks(range(len(shown)), [change.name for change in shown])
        ax.set(
            xlabel="value",
            ylabel="metric",
            title=f"Quality in validation and production by {self.part}",
        )
        ax.legend(frameon=False)
        return ax

    def __str__(self) -> str:
        shown = self.fallen or self.metrics
        text = "; ".join(map(str, shown))
        slope, spread = self.trend or (0.0, 0.0)
        if abs(slope) <= _Z_99 * spread or not slope:
            return text
        return f"{text}; the loss changed by {slope:+.0%} ± {_Z_99 * spread:.0%} during production"


def quality_change(
    validation: Records | None, production: Records | None, *, level: float = 0.99
) -> QualityChange | None:
    """Quality on both sides: metrics by task, what fell most, and the remedies that were tried.

    Two classes: AUC and accuracy; more: accuracy; several labels: their mean AUC and accuracy;
    quantities: RMSE. Only labeled rows count. Rows that depend on each other, by `schema.group` or
    `schema.time`, count as the independent rows that they are worth.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837; Agresti and Caffo (2000),
    Am. Stat. 54:280; Holm (1979), Scand. J. Statist. 6:65, for the classes, labels or outputs.

    Args:
        validation: labeled records with the outputs of the model.
        production: the same.
        level: coverage of the intervals of all metrics together, in (0, 1).

    Returns:
        None where a side lacks labels, outputs or rows, or where the tasks differ.

    Cost: two sorts, and some fits of a calibration map to 40,000 rows at most.
    """
    if validation is None or production is None:
        return None
    validation, production = validation.labeled(partly=True), production.labeled(partly=True)
    if min(len(validation), len(production)) < MIN_ROWS:
        return None
    found = outcomes(validation, production)
    if found is None:
        return None
    before, after = found.metrics[0][0].influence, found.metrics[0][1].influence
    effects = design_effects(before, after, validation, production)
    n, m = len(validation), len(production)
    changes = metric_changes(found.metrics, effects, level, [(n, m)] * len(found.metrics))
    parts = metric_changes(found.parts, effects, level, [_rows(pair) for pair in found.parts])
    loss = tuple((float(x.mean()), float(x.std() / len(x) ** 0.5)) for x in found.losses)
    trials = remedy_trials(found, production, changes, effects, level)
    trend = _trend(production, found.losses[1])
    return QualityChange(tuple(changes), found.part, tuple(parts), loss, trend, trials)


def _rows(pair: tuple[Metric, Metric]) -> tuple[int, int]:
    return len(pair[0].influence), len(pair[1].influence)


def _trend(production: Records, loss: Tensor) -> tuple[float, float] | None:
    """Least-squares slope of the loss over time, times the period, and its standard error."""
    column = production.schema.time
    if column is None or production.metadata is None or column not in production.metadata:
        return None
    time = parse_times(production.metadata[column], column).values
    dated = time.isfinite()
    time, loss = time[dated], loss[dated]
    if len(loss) < MIN_ROWS or float(loss.mean()) <= 0:
        return None
    span = float(time.max() - time.min())
    if span <= 0:
        return None
    x = (time - time.mean()) / span
    slope = (x * loss).sum() / (x * x).sum()
    residual = loss - loss.mean() - slope * x
    error = (residual.square().sum() / (len(loss) - 2) / (x * x).sum()).sqrt()
    return float(slope / loss.mean()), float(error / loss.mean())

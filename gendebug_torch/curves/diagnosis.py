"""What learning curves say: the regime of a training, from which epoch it overfits, and how sure
that is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, axes
from gendebug_torch.curves.fit.curve_statistics import FEWEST, LOOK, Measured, measure
from gendebug_torch.curves.fit.forecast import Forecast, extend
from gendebug_torch.curves.generalization_gap import Gap, generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves, moving_average
from gendebug_torch.curves.notes import remarks
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Regime = Literal[
    "overfit",
    "underfit",
    "converged",
    "still_improving",
    "diverged",
    "oscillating",
    "too_noisy",
    "too_short",
]
Told = tuple[Regime, str]

# A rise must stand out of the scatter of single epochs, not only be significant: correlated noise
# wanders.
_RISE_IN_SD = 1.5
# A training loss that rises by this much itself, and loses this share of what was learned, is not
# overfit: the optimisation fails.
_TRAINING_RISES, _UNLEARNED = 0.1, 0.25
# An epoch this many times above the untrained network, and an end that is hardly below it: the best
# constant among classes of unequal size has about 0.8 of it.
_EXPLODED, _NOT_RECOVERED = 1.5, 0.7
# At this share of the loss of knowing nothing, hardly anything was learned.
_NOTHING_LEARNED = 0.95
# Loss of an even guess among the usual numbers of balanced classes, and how near to it counts as at
# it.
_EVEN_GUESS, _NEAR = {k: math.log(k) for k in (2, 3, 4, 5, 10)}, 0.02


@dataclass(frozen=True, eq=False)
class CurveDiagnosis:
    """What the curves show.

    Args:
        regime: `overfit`, `underfit`, `converged`, `still_improving`, `diverged`, `oscillating`,
            `too_noisy` or `too_short`.
        inflection_epoch: epoch after which the validation loss rises beyond its noise; None where
            it does not.
        interval: epochs that hold it in 95 %; None without it.
        confidence: that the validation loss rises towards its end at all, 1 - p, in [0, 1].
        best_epoch: lowest point of the smooth validation loss: the checkpoint to keep.
        rise: relative rise of the validation loss from its lowest point to its end.
        slope: relative change of the validation loss between the halves of its last third, negative
            while improving.
        gap: distance of the validation above the training loss at the end.
        noise: standard deviation of a single epoch of the validation loss, relative to the loss.
        learned: share of the loss of knowing nothing that the training removed; NaN where that is
            unknown.
        summary: one sentence.
        remarks: further sentences: steps, humps, holes of the record, what the training loss
            measures.
        forecast: the validation loss after as many epochs more as the last stretch has; None where
            it is not falling.
        curves: what was diagnosed.
        course: `[t]` smooth validation loss at each epoch of `curves`; NaN where there is none.
    """

    regime: Regime
    inflection_epoch: int | None
    interval: tuple[int, int] | None
    confidence: float
    best_epoch: int | None
    rise: float
    slope: float
    gap: Gap
    noise: float
    learned: float
    summary: str
    remarks: tuple[str, ...]
    forecast: Forecast | None
    curves: LearningCurves
    course: torch.Tensor

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"- {remark}" for remark in self.remarks)])

    def table(self) -> pd.DataFrame:
        """The epochs, with the smooth course of the validation loss and the gap."""
        frame = self.curves.table()
        frame["val_loss_smooth"] = self.course.numpy()
        frame["gap"] = (self.curves.val_loss - self.curves.fitted_loss).numpy()
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curves with the noise band, the best epoch, and the inflection with its interval; on
        a new figure the gap below.
        """
        below = ax is None
        ax = self.curves.plot(axes(ax, size=(6.0, 5.0) if below else (6.0, 4.0)))
        x, course = self.curves.epoch.numpy(), self.course.numpy()
        band = self.noise * float(np.nanmin(np.abs(course))) if np.isfinite(course).any() else 0.0
        ax.fill_between(
            x, course - 2 * band, course + 2 * band, color=LIVE, alpha=0.12, linewidth=0
        )
        if self.inflection_epoch is not None and self.interval is not None:
            ax.axvspan(*self.interval, color=ACCENT, alpha=0.2, linewidth=0)
            ax.axvline(
                self.inflection_epoch,
                color=ACCENT,
                label=f"rises after {self.curves.unit} {self.inflection_epoch}",
            )
        elif self.best_epoch is not None:
            ax.axvline(
                self.best_epoch,
                color=ACCENT,
                linestyle=":",
                label=f"best {self.curves.unit} {self.best_epoch}",
            )
        ax.legend(frameon=False, fontsize="small")
        ax.set_title(f"Learning curves: {self.regime.replace('_', ' ')}")
        if below:
            figure: Any = ax.get_figure()
            grid = figure.add_gridspec(3, 1)
            ax.set_subplotspec(grid[:2, 0])
            self.plot_gap(figure.add_subplot(grid[2, 0], sharex=ax))
            ax.tick_params(labelbottom=False)
            ax.set_xlabel("")
        return ax

    def plot_gap(self, ax: Axes | None = None) -> Axes:
        """The validation loss minus the training loss at the end of each epoch."""
        ax = axes(ax)
        apart = self.curves.val_loss - self.curves.fitted_loss
        known = apart.isfinite()
        ax.axhline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.plot(
            self.curves.epoch[known].numpy(), moving_average(apart[known]).numpy(), color=ACCENT
        )
        ax.set(xlabel=self.curves.unit, ylabel="gap")
        return ax


def diagnose_curves(
    curves: LearningCurves,
    *,
    window: int = 5,
    tolerance: float = 0.025,
    alpha: float = 0.02,
    baseline_loss: float | None = None,
    target_loss: float | None = None,
    seed: int = 0,
) -> CurveDiagnosis:
    """The regime of a training from its curves, each verdict beyond the curve's own noise.

    - `diverged`: a loss ends as NaN or infinite, or the training loss itself rises by more than a
      tenth, or ends above that of the untrained network.
    - `overfit`: the validation loss rises towards its end (`rising_tail`, `turn`), by more than 1.5
      standard deviations of an epoch and more than `tolerance`. A rise that came down again is a
      remark, not this.
    - `oscillating`: one period stands out of the noise, and swings by more than `tolerance` to
      either side.
    - `underfit`: at the end the training loss is at 95 % or more of the loss of knowing nothing, or
      both losses are above `target_loss` and near each other.
    - `still_improving`: between the halves of the last third the validation loss fell by more than
      `tolerance`.
    - `too_noisy`: the standard error of that change is more than `tolerance`.
    - `converged`: none of these: the validation loss stays within `tolerance`.

    Source: Prechelt (1998), Early Stopping - But When?, for the question; the tests are those of
    `rising_tail` and `turn`.

    Args:
        curves: at least 6 epochs with a validation loss for a verdict.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change that counts as none, 0.02 to 0.03.
        alpha: chance of finding an inflection in a curve that only falls, at most 0.2.
        baseline_loss: loss of the best constant prediction, e.g. the entropy of the class shares;
            by default `curves.untrained_loss`.
        target_loss: what a sufficient model would reach.
        seed: of the simulated curves.

    Raises:
        InputError: an even window, a tolerance that is not positive, or an alpha outside (0, 0.2].
    """
    if not 0 < alpha <= LOOK:
        reject("alpha", f"a chance above 0 and up to {LOOK}", str(alpha), "Choose 0.01 or 0.02.")
    if not tolerance > 0:
        reject(
            "tolerance", "a positive share such as 0.025", str(tolerance), "Choose 0.02 to 0.03."
        )
    val, train = (
        measure(curves.epoch, loss, window=window, seed=seed)
        for loss in (curves.val_loss, curves.train_loss)
    )
    gap = generalization_gap(curves, window=window, baseline_loss=baseline_loss)
    baseline = baseline_loss if baseline_loss is not None else curves.untrained_loss
    learned = 1 - gap.train / baseline if baseline is not None and baseline > 0 else math.nan
    risen = val is not None and _risen(val, alpha, tolerance)
    told = (
        _broken_off(curves)
        or _worse_than_untrained(curves, gap)
        or _training_rises(train, alpha, curves.unit)
        or _too_short(val, curves.unit)
        or (_overfit(val, risen, tolerance, curves.unit) if val else None)
        or (_oscillating(val, tolerance, curves.unit) if val else None)
        or _underfit(curves, gap, learned, baseline, target_loss)
        or (_settled(val, tolerance, curves.unit) if val else None)
    )
    assert told is not None
    return _assembled(curves, told, val, risen, gap, learned, tolerance)


def _assembled(
    curves: LearningCurves,
    told: Told,
    val: Measured | None,
    risen: bool,
    gap: Gap,
    learned: float,
    tolerance: float,
) -> CurveDiagnosis:
    course = torch.full((len(curves),), torch.nan, dtype=torch.float64)
    further = remarks(curves, val, gap, learned, tolerance)
    if val is None:
        nan = math.nan
        return CurveDiagnosis(
            told[0],
            None,
            None,
            0.0,
            None,
            nan,
            nan,
            gap,
            nan,
            learned,
            told[1],
            further,
            None,
            curves,
            course,
        )
    course[curves.val_loss.isfinite()] = torch.from_numpy(val.fit)
    turn, low, high = (int(val.epoch[index]) for index in (val.lowest, *val.interval))
    forecast = (
        _forecast(val) if told[0] in ("still_improving", "underfit") and val.slope < 0 else None
    )
    if forecast is not None:
        further = (*further, _heading(forecast, val, curves.unit))
    return CurveDiagnosis(
        regime=told[0],
        inflection_epoch=turn if risen else None,
        interval=(low, high) if risen else None,
        confidence=1 - val.p_value,
        best_epoch=turn if risen else int(val.epoch[val.best]),
        rise=max(val.rise, 0.0) / val.level,
        slope=val.slope,
        gap=gap,
        noise=val.noise.sd / val.level,
        learned=learned,
        summary=told[1],
        remarks=further,
        forecast=forecast,
        curves=curves,
        course=course,
    )


def _broken_off(curves: LearningCurves) -> Told | None:
    """A loss that is infinite or NaN at the end; a hole in the middle is an epoch that was not
    recorded.
    """
    silent = curves.train_loss.isnan() & curves.val_loss.isnan()
    if len(curves) and bool(silent.all()):
        return (
            "diverged",
            f"Diverged: both losses are NaN from {curves.unit} {int(curves.epoch[0])} on.",
        )
    for name, loss, patience in (
        ("training", curves.train_loss, 1),
        ("validation", curves.val_loss, 3),
    ):
        known = loss.isfinite().nonzero()[:, 0]
        lost = loss[int(known[-1]) + 1 :] if len(known) else loss
        # A validation that was left out looks like one that was NaN, so that only several in a row
        # count, and none while the training goes on: curves of different length are no divergence.
        goes_on = name == "validation" and bool(curves.train_loss[-1:].isfinite().all())
        ended = len(known) > 0 and len(lost) >= patience and not _sparse(loss) and not goes_on
        if ended or bool(lost.isinf().any()):
            at = int(curves.epoch[len(loss) - len(lost)])
            return (
                "diverged",
                f"Diverged: the {name} loss is NaN or infinite from {curves.unit} {at} on.",
            )
    return None


def _sparse(loss: torch.Tensor) -> bool:
    """Whether the loss is recorded only now and then, as with a validation every few epochs."""
    known = loss.isfinite().nonzero()[:, 0]
    return len(known) > 1 and int(known.diff().max()) > 1


def _worse_than_untrained(curves: LearningCurves, gap: Gap) -> Told | None:
    start = curves.untrained_loss
    known = curves.train_loss[curves.train_loss.isfinite()]
    if start is None or start <= 0 or not len(known):
        return None
    highest = float(known.max())
    if gap.train > (1 + _TRAINING_RISES) * start:
        return (
            "diverged",
            f"Diverged: the training loss ends at {gap.train:.4g}, above the {start:.4g} of the "
            "untrained network.",
        )
    if highest > _EXPLODED * start and gap.train > _NOT_RECOVERED * start:
        told = (
            f"the training loss rose to {highest:.4g} and ended at {gap.train:.4g}; the "
            f"untrained network had {start:.4g}"
        )
        return "diverged", f"Diverged: {told}."
    return None


def _training_rises(train: Measured | None, alpha: float, unit: str) -> Told | None:
    if train is None or train.p_value >= alpha:
        return None
    learned = float(train.fit.max() - train.fit.min())
    if train.rise <= max(
        _RISE_IN_SD * train.noise.sd, _TRAINING_RISES * train.level, _UNLEARNED * learned
    ):
        return None
    at = int(train.epoch[train.lowest])
    return (
        "diverged",
        f"Diverges: the training loss itself rises after {unit} {at}, by "
        f"{train.rise / train.level:.0%} of its lowest value.",
    )


def _too_short(val: Measured | None, unit: str) -> Told | None:
    return (
        None
        if val is not None
        else (
            "too_short",
            f"Too short to judge: fewer than {FEWEST} {unit}s have a validation loss.",
        )
    )


def _risen(val: Measured, alpha: float, tolerance: float) -> bool:
    """A rise beyond chance, beyond the scatter of single epochs, and beyond what a swing rises from
    trough to top.
    """
    swings = 2 * val.swing.amplitude * val.level if val.swing.stands_out else 0.0
    return val.p_value < alpha and val.rise > max(
        _RISE_IN_SD * val.noise.sd, 0.25 * tolerance * val.level, swings
    )


def _overfit(val: Measured, risen: bool, tolerance: float, unit: str) -> Told | None:
    if not risen or val.rise <= tolerance * val.level:
        return None
    at, low, high = (int(val.epoch[index]) for index in (val.lowest, *val.interval))
    beyond = (
        f"{val.rise / max(val.noise.sd, 1e-12):.3g} times the scatter of single {unit}s (p = "
        f"{val.p_value:.2g})"
    )
    where = f"after {unit} {at} (95 % interval {low} to {high})"
    return (
        "overfit",
        f"Overfits {where}: the validation loss then rises by {val.rise / val.level:.1%}, "
        f"{beyond}.",
    )


def _oscillating(val: Measured, tolerance: float, unit: str) -> Told | None:
    if not val.swing.stands_out or val.swing.amplitude <= tolerance:
        return None
    told = (
        f"the validation loss swings by {val.swing.amplitude:.1%} to either side, about every "
        f"{val.swing.period:.3g} {unit}s"
    )
    return "oscillating", f"Oscillates: {told} (p = {val.swing.p_value:.2g})."


def _underfit(
    curves: LearningCurves, gap: Gap, learned: float, baseline: float | None, target: float | None
) -> Told | None:
    if learned <= 1 - _NOTHING_LEARNED:
        told = (
            f"the training loss ends at {gap.train:.4g}, {1 - learned:.0%} of {baseline:.4g}, "
            "the loss of knowing nothing"
        )
        return "underfit", f"Underfits: {told}."
    if (
        target is not None
        and gap.validation > target
        and gap.train > target
        and not gap.relative > 0.1
    ):
        told = (
            f"training and validation loss end at {gap.train:.4g} and {gap.validation:.4g}, "
            "both above the target"
        )
        return "underfit", f"Underfits: {told} {target:.4g}."
    if baseline is None:
        first = curves.train_loss[curves.train_loss.isfinite()][:1].tolist()
        for k, loss in _EVEN_GUESS.items():
            if first and all(
                abs(value / loss - 1) < _NEAR for value in (first[0], gap.train, gap.validation)
            ):
                told = (
                    f"both losses stay at {gap.train:.4g}, which is ln {k}, the loss of an "
                    f"even guess among {k} classes"
                )
                return "underfit", f"Underfits: {told}."
    return None


def _settled(val: Measured, tolerance: float, unit: str) -> Told:
    halves = f"between the halves of the last {val.stretch} {unit}s"
    if val.slope < -tolerance and val.slope < -3 * val.slope_error:
        return (
            "still_improving",
            f"Still improving: the validation loss fell by {-val.slope:.1%} {halves}.",
        )
    if val.slope_error > tolerance:
        scatter = f"single {unit}s scatter by {val.noise.sd / val.level:.1%} of the validation loss"
        return (
            "too_noisy",
            f"Too noisy to tell: {scatter}; its change {halves} is known to within "
            f"{2 * val.slope_error:.1%} only.",
        )
    best = int(val.epoch[val.best])
    return (
        "converged",
        f"Converged: the validation loss changes by {val.slope:+.1%} {halves}; best at {unit} "
        f"{best}.",
    )


def _forecast(val: Measured) -> Forecast:
    """The validation loss after another stretch, from the later half of the curve."""
    t = len(val.fit)
    half = slice(t // 3, t)
    x = np.arange(1, t + 1, dtype=np.float64)
    return extend(x[half], val.values[half], float(t + val.stretch), val.noise)


def _heading(forecast: Forecast, val: Measured, unit: str) -> str:
    if forecast.value is None or forecast.interval is None:
        return f"What more {unit}s would bring cannot be told: {forecast.refused}."
    low, high = forecast.interval
    brought = (
        f"from {val.end:.4g} to about {forecast.value:.4g} (90 % interval {low:.4g} to {high:.4g})"
    )
    return f"Another {val.stretch} {unit}s would bring the validation loss {brought}."

"""What learning curves say: overfit and from when, underfit, converged, still learning, diverged, or too noisy to tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gendebug_torch._plotting import ACCENT, axes
from gendebug_torch.curves.curves import LearningCurves, moving_average
from gendebug_torch.curves.unimodal import Turn, turning_point
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Regime = Literal["overfit", "underfit", "converged", "still_learning", "diverged", "too_noisy"]

_FEWEST = 8
# A rise must stand out of the scatter of single epochs, not only be significant: correlated noise wanders.
_RISE_IN_SD = 2.5


@dataclass(frozen=True, eq=False)
class CurveDiagnosis:
    """What the curves show.

    Args:
        regime: `overfit`, `underfit`, `converged`, `still_learning`, `diverged` or `too_noisy`.
        inflection_epoch: epoch after which the validation loss rises; None where it does not.
        interval: epochs that hold it in 90 % of bootstrap replicates; None without it.
        confidence: that the validation loss turns upward at all, 1 - p, in [0, 1].
        best_epoch: epoch of the lowest smoothed validation loss.
        rise: relative rise of the smoothed validation loss from its minimum to the end.
        slope: relative change of the validation loss over the last window, negative while learning.
        gap: relative distance of validation above training loss over the last window.
        noise: standard deviation of a single epoch, relative to the loss.
        summary: one sentence.
        curves: what was diagnosed.
    """

    regime: Regime
    inflection_epoch: int | None
    interval: tuple[int, int] | None
    confidence: float
    best_epoch: int | None
    rise: float
    slope: float
    gap: float
    noise: float
    summary: str
    curves: LearningCurves

    def table(self) -> pd.DataFrame:
        """The epochs, with smoothed losses."""
        frame = self.curves.table()
        for name in ("train_loss", "val_loss"):
            known = frame[name].notna()
            frame.loc[known, f"{name}_smoothed"] = moving_average(torch.tensor(frame.loc[known, name].to_numpy().copy())).numpy()
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curves, with the inflection and its interval."""
        ax = self.curves.plot(axes(ax))
        if self.inflection_epoch is not None and self.interval is not None:
            ax.axvspan(*self.interval, color=ACCENT, alpha=0.2, linewidth=0)
            ax.axvline(self.inflection_epoch, color=ACCENT, label=f"overfits after epoch {self.inflection_epoch}")
            ax.legend(frameon=False, fontsize="small")
        ax.set_title(f"Learning curves: {self.regime.replace('_', ' ')}")
        return ax


def diagnose_curves(
    curves: LearningCurves,
    *,
    window: int = 5,
    tolerance: float = 0.025,
    alpha: float = 0.05,
    baseline_loss: float | None = None,
    seed: int = 0,
) -> CurveDiagnosis:
    """The regime of a training from its curves, each verdict beyond the curve's own noise.

    - `diverged`: a loss became NaN or infinite.
    - `overfit`: the validation loss falls and then rises: `turning_point` is significant, and the rise is
      more than 2.5 standard deviations of an epoch and more than 1 % of the loss.
    - `still_learning`: over the last two windows the validation loss fell by more than `tolerance`, beyond noise.
    - `too_noisy`: the mean of a window is known less precisely than `tolerance`.
    - `underfit`: learning has stopped with the training loss above 90 % of `baseline_loss`, by default that of
      the first epoch, so that hardly anything was learned.
    - `converged`: none of these; the validation loss stays within `tolerance`.

    Source: Prechelt (1998), Early Stopping - But When?, for the question; the tests are described in
    `turning_point`. Of 100 plateaus with AR(1) noise of sd .02 and correlation .3 at most 5 alarm; of 100
    curves with a slow rise of .004 per epoch over 35 epochs all are found.

    Args:
        curves: at least 8 epochs with both losses for a verdict.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change that counts as none, 0.02 to 0.03.
        alpha: chance of calling a falling curve overfit.
        baseline_loss: loss of knowing nothing, e.g. the entropy of the class shares.
        seed: of the bootstrap.

    Raises:
        InputError: an even window, or a tolerance that is not positive.

    Cost: 400 order-restricted fits of at most 200 points, about 40 ms.
    """
    if not tolerance > 0:
        reject("tolerance", "a positive share such as 0.025", str(tolerance), "Choose 0.02 to 0.03.")
    broken = _diverged(curves)
    known = ~curves.val_loss.isnan()
    epoch, val = curves.epoch[known], curves.val_loss[known]
    if broken is not None:
        return _unjudged(curves, "diverged", f"The {broken[0]} became NaN or infinite at epoch {broken[1]}.")
    if len(val) < _FEWEST:
        return _unjudged(curves, "too_noisy", f"{len(val)} epochs with a validation loss are too few to judge; train {_FEWEST} or more.")
    smooth = moving_average(val, window)
    turn = turning_point(val.numpy(), seed=seed)
    level = max(float(smooth.abs().min()), 1e-12)
    best = int(smooth.argmin())
    last, before = _means(val, window)
    noise = turn.noise / level
    error = noise * math.sqrt(2 * (1 + turn.correlation) / (1 - turn.correlation) / window)
    slope = (last - before) / level
    rise = max(0.0, (last - float(smooth.min())) / level)
    gap = (last - _means(curves.train_loss[~curves.train_loss.isnan()], window)[0]) / level
    overfits = turn.p_value < alpha and turn.rise > max(_RISE_IN_SD * turn.noise, 0.01 * level)
    regime = _regime(curves, overfits, slope, error, tolerance, window, baseline_loss)
    at, interval = _located(epoch, turn) if overfits else (None, None)
    summary = _summary(regime, at, interval, turn, rise, slope, noise, int(epoch[best]))
    return CurveDiagnosis(regime, at, interval, 1 - turn.p_value, int(epoch[best]), rise, slope, gap, noise, summary, curves)


def _diverged(curves: LearningCurves) -> tuple[str, int] | None:
    """The first loss that became infinite, or NaN for good; a hole is an epoch that was not recorded."""
    for name, values in (("training loss", curves.train_loss), ("validation loss", curves.val_loss)):
        infinite = values.isinf().nonzero()[:, 0]
        if len(infinite):
            return name, int(curves.epoch[infinite[0]])
    known = (~curves.train_loss.isnan()).nonzero()[:, 0]
    if len(known) and len(curves) - int(known[-1]) > 2:
        return "training loss", int(curves.epoch[int(known[-1]) + 1])
    return None


def _unjudged(curves: LearningCurves, regime: Regime, summary: str) -> CurveDiagnosis:
    return CurveDiagnosis(regime, None, None, 0.0, None, 0.0, 0.0, 0.0, 0.0, summary, curves)


def _means(values: Tensor, window: int) -> tuple[float, float]:
    """Means of the last window and of the one before."""
    size = max(1, min(window, len(values) // 2))
    if not len(values):
        return math.nan, math.nan
    return float(values[-size:].mean()), float(values[-2 * size : -size].mean()) if len(values) > size else float(values[0])


def _regime(
    curves: LearningCurves, overfits: bool, slope: float, error: float, tolerance: float, window: int, baseline_loss: float | None
) -> Regime:
    if overfits:
        return "overfit"
    if slope < -tolerance and slope < -2 * error:
        return "still_learning"
    if 2 * error > 2 * tolerance:
        return "too_noisy"
    train = curves.train_loss[~curves.train_loss.isnan()]
    if len(train):
        start = float(train[0]) if baseline_loss is None else baseline_loss
        if _means(train, window)[0] > 0.9 * start:
            return "underfit"
    return "converged"


def _located(epoch: Tensor, turn: Turn) -> tuple[int, tuple[int, int]]:
    last = len(epoch) - 1
    low, high = (int(epoch[min(index, last)]) for index in turn.interval)
    at = int(epoch[min(turn.at, last)])
    return at, (min(low, at), max(high, at))


def _summary(
    regime: Regime, at: int | None, interval: tuple[int, int] | None, turn: Turn, rise: float, slope: float, noise: float, best: int
) -> str:
    if at is not None and interval is not None:
        where = f"after epoch {at} (90 % interval {interval[0]} to {interval[1]})"
        beyond = f"beyond its noise of {noise:.1%} per epoch (p = {turn.p_value:.2g})"
        return f"Overfits {where}: the validation loss then rises by {rise:.1%}, {beyond}."
    told = {
        "still_learning": f"Still learning: the validation loss fell by {-slope:.1%} over the last epochs.",
        "too_noisy": f"Too noisy to tell: single epochs scatter by {noise:.1%} of the validation loss.",
        "underfit": "Underfits: learning has stopped, and the training loss is hardly below that of knowing nothing.",
        "converged": f"Converged: the validation loss changes by {slope:+.1%} over the last epochs; best at epoch {best}.",
    }
    return told[regime]

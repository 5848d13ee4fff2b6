"""`CurveDiagnosis`: the regime of a training and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, axes, notebook_html
from gendebug_torch.curves.diagnosis.accuracy import AccuracyChange
from gendebug_torch.curves.diagnosis.regimes import Regime
from gendebug_torch.curves.fit.forecast import Forecast
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.curves.generalization_gap import Gap
from gendebug_torch.curves.learning_curves import LearningCurves

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class CurveDiagnosis:
    """What the curves show.

    Args:
        regime: `overfit`, `underfit`, `converged`, `still_improving`, `diverged`, `oscillating`,
            `too_noisy` or `too_short`.
        inflection_epoch: epoch after which the validation loss rises beyond its noise; None where
            it does not.
        interval: 95 % interval of that epoch; None without it.
        confidence: 1 - p of the test that the validation loss rises at its end, in [0, 1].
        best_epoch: epoch of the minimum of the smooth validation loss: the checkpoint to keep.
        rise: relative rise of the validation loss from its minimum to its end.
        change: relative change of the validation loss between the halves of its last third,
            negative while it improves.
        gap: distance of the validation above the training loss at the end.
        noise: standard deviation of a single epoch of the validation loss, relative to the loss.
        learned: share of the loss of a constant prediction that the training removed; NaN where
            that loss is unknown.
        summary: one or two sentences.
        notes: further sentences: level shifts, transient rises, the record, what the training loss
            measures.
        accuracy: change of the validation accuracy since the inflection; None where there is no
            inflection or no accuracy on record.
        forecast: validation loss after as many epochs more as the last stretch has; None where it
            is not falling.
        curves: curves that were diagnosed.
        val_loss_smooth: smooth validation loss at each epoch of `curves`, `[t]`; NaN where there is
            none.
    """

    regime: Regime
    inflection_epoch: int | None
    interval: tuple[int, int] | None
    confidence: float
    best_epoch: int | None
    rise: float
    change: float
    gap: Gap
    noise: float
    learned: float
    summary: str
    notes: tuple[str, ...]
    accuracy: AccuracyChange | None
    forecast: Forecast | None
    curves: LearningCurves
    val_loss_smooth: Tensor

    _repr_html_ = notebook_html

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"- {note}" for note in self.notes)])

    def table(self) -> pd.DataFrame:
        """The epochs, with the smooth validation loss and the gap."""
        frame = self.curves.table()
        frame["val_loss_smooth"] = self.val_loss_smooth.numpy()
        frame["gap"] = (self.curves.val_loss - self.curves.fitted_loss).numpy()
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curves with noise band, best epoch and inflection; on a new figure the gap below."""
        with_gap = ax is None
        ax = self.curves.plot(axes(ax, size=(6.0, 5.0) if with_gap else (6.0, 4.0)))
        x, smooth = self.curves.epoch.numpy(), self.val_loss_smooth.numpy()
        band = self.noise * float(np.nanmin(np.abs(smooth))) if np.isfinite(smooth).any() else 0.0
        ax.fill_between(
            x, smooth - 2 * band, smooth + 2 * band, color=LIVE, alpha=0.12, linewidth=0
        )
        unit = self.curves.unit
        if self.inflection_epoch is not None and self.interval is not None:
            ax.axvspan(*self.interval, color=ACCENT, alpha=0.2, linewidth=0)
            label = f"rises after {unit} {self.inflection_epoch}"
            ax.axvline(self.inflection_epoch, color=ACCENT, label=label)
        elif self.best_epoch is not None:
            label = f"best {unit} {self.best_epoch}"
            ax.axvline(self.best_epoch, color=ACCENT, linestyle=":", label=label)
        ax.legend(frameon=False, fontsize="small")
        ax.set_title(f"Learning curves: {self.regime.replace('_', ' ')}")
        if with_gap:
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
        gap = self.curves.val_loss - self.curves.fitted_loss
        finite = gap.isfinite()
        ax.axhline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.plot(
            self.curves.epoch[finite].numpy(), moving_average(gap[finite]).numpy(), color=ACCENT
        )
        ax.set(xlabel=self.curves.unit, ylabel="gap")
        return ax

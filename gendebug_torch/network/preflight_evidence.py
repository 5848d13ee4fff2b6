"""`PreflightEvidence`: answers of the probes of a network before its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PreflightEvidence:
    """What probes on a copy of a network found; changes are in standard deviations of the outputs.

    Args:
        losses: losses of one batch while a copy was fitted to it.
        again: mean change of the outputs between two calls in evaluation mode.
        mode_gap: mean change of the outputs from training to evaluation mode, with Dropout off and
            BatchNorm settled on the batch.
        norm_losses: losses of the batch in evaluation mode with its own statistics in BatchNorm,
            and with the running ones; None without them, or for a network that was not trained.
        mixing: largest change of an output of the first rows when the other rows are exchanged.
        mixing_module: dotted name of the first module whose outputs changed.
        input_mean: mean of the inputs; None where they are ids.
        input_deviation: their standard deviation.
        input_missing: share of the inputs that is NaN or infinite.
        target_mean: mean of quantities to predict; None for classes.
        target_deviation: their standard deviation.
        class_shares: shares of the classes among the targets.
        class_weights: weights of the loss by class; empty where it has none.
        rows: rows of the batch.
        softmax: whether outputs that a cross-entropy of logits reads are probabilities already.
    """

    losses: tuple[float, ...] = ()
    again: float = 0.0
    mode_gap: float = 0.0
    norm_losses: tuple[float, float] | None = None
    mixing: float = 0.0
    mixing_module: str = ""
    input_mean: float | None = None
    input_deviation: float | None = None
    input_missing: float = 0.0
    target_mean: float | None = None
    target_deviation: float | None = None
    class_shares: tuple[float, ...] = ()
    class_weights: tuple[float, ...] = ()
    rows: int = 0
    softmax: bool = False

    def table(self) -> pd.DataFrame:
        """One row per step of the fit to one batch."""
        import pandas as pd

        return pd.DataFrame({"step": range(len(self.losses)), "loss": self.losses})

    def plot(self, ax: Axes | None = None) -> Axes:
        """The losses of the fit to one batch."""
        ax = axes(ax)
        ax.plot(range(len(self.losses)), self.losses, color=REFERENCE, linewidth=1.6)
        ax.axhline(0.0, color=LIVE, linestyle="--", linewidth=0.8)
        ax.set(xlabel="step", ylabel="loss", title="Fit to one batch")
        return ax

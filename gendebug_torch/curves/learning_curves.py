"""`LearningCurves`: what training and validation loss did, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import CYCLE, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.curves.files.run_files import per_epoch, read_csv, read_run
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Beyond so many epochs single values are a cloud: they are drawn thinner, as dots would only hide
# the average.
_MANY = 150
# Of fewer epochs an average of five would be drawn away from most of its points.
_FEW = 10


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """Losses and metrics per epoch.

    Args:
        epoch: `[t]` int64, ascending.
        train_loss: `[t]` float64, averaged over the epoch while the weights move; NaN where not
            recorded.
        val_loss: `[t]` float64; NaN where there was no validation.
        metrics: further `[t]` float64 by name.
        train_eval_loss: `[t]` float64 of a fixed sample of the training rows in evaluation mode at
            the end of the epoch, which is what the validation loss may be compared with; None where
            that was not recorded.
        untrained_loss: of the first batch, before any update; None where unknown.
        unit: what `epoch` counts: `epoch` or `step`.
        notes: remarks on the record itself: gaps, repeated rows, NaN batches.
    """

    epoch: Tensor
    train_loss: Tensor
    val_loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    train_eval_loss: Tensor | None = None
    untrained_loss: float | None = None
    unit: str = "epoch"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {
            name: len(values) for name, values in self._columns().items() if name != self.unit
        }
        if wrong := {name: length for name, length in lengths.items() if length != len(self.epoch)}:
            reject(
                "curves",
                f"{len(self.epoch)} values of each",
                str(wrong),
                "Pass one value per epoch; NaN where none was recorded.",
            )
        if len(self.epoch) > 1 and bool((self.epoch.diff() <= 0).any()):
            at = int((self.epoch.diff() <= 0).nonzero()[0, 0])
            got = f"{int(self.epoch[at])} followed by {int(self.epoch[at + 1])}"
            reject(
                "epoch",
                "epochs that rise",
                got,
                "A resumed run repeats epochs: keep the last row of each.",
            )

    def __len__(self) -> int:
        return len(self.epoch)

    def __add__(self, later: LearningCurves) -> LearningCurves:
        """These epochs followed by later ones; where both have an epoch the later recording
        counts.
        """
        keep = ~torch.isin(self.epoch, later.epoch)
        epoch = torch.cat([self.epoch[keep], later.epoch])
        order = epoch.argsort(stable=True)
        first, second = self._columns(), later._columns()

        def join(name: str) -> Tensor:
            a, b = (
                side.get(name, torch.full((len(whole),), torch.nan))
                for side, whole in ((first, self), (second, later))
            )
            return torch.cat([a.double()[keep], b.double()])[order]

        names = [name for name in dict.fromkeys([*first, *second]) if name != self.unit]
        columns = {name: join(name) for name in names}
        train, val, evaluated = (
            columns.pop(name, None) for name in ("train_loss", "val_loss", "train_eval_loss")
        )
        assert train is not None
        assert val is not None
        untrained = later.untrained_loss if self.untrained_loss is None else self.untrained_loss
        notes = tuple(dict.fromkeys([*self.notes, *later.notes]))
        return LearningCurves(
            epoch[order], train, val, columns, evaluated, untrained, self.unit, notes
        )

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Curves from a table with an epoch or a step column, both losses and any metrics.

        Several rows of one epoch, as loggers write them, are merged: the training loss of an epoch
        is the mean over its steps, every other column its last value. What is missing, repeated or
        out of order is named in `notes`. Usual names of the columns are known (`train_loss_epoch`,
        `loss`, `eval_loss`, `Loss/validation`).

        Args:
            frame: one row per epoch, step or log line.
            train: column of the training loss, where its name is not a usual one.
            val: column of the validation loss, likewise.

        Raises:
            InputError: a column is absent or not numeric, or there are no rows.
        """
        return cls._read(frame, train, val)

    @classmethod
    def from_csv(
        cls, path: str | Path, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Read a CSV as `from_frame` takes it, e.g. Lightning's metrics.csv; a last line that was
        cut is left out.

        Raises:
            InputError: the file cannot be read, or as `from_frame`.
        """
        try:
            frame, notes = read_csv(Path(path))
        except OSError as error:
            reject(
                "path",
                "a readable CSV file",
                f"{path}: {error.strerror or error}",
                "Check that the path is right.",
            )
        return cls._read(frame, train, val, notes)

    @classmethod
    def from_run(
        cls, path: str | Path, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Read what a past run left: a CSV, a TensorBoard event file, `trainer_state.json`, or a
        folder with one.

        Raises:
            InputError: nothing of the kind is there, it cannot be read, or as `from_frame`.
        """
        frame, notes = read_run(path)
        return cls._read(frame, train, val, notes)

    @classmethod
    def _read(
        cls, frame: pd.DataFrame, train: str | None, val: str | None, notes: list[str] | None = None
    ) -> LearningCurves:
        table, unit, remarks = per_epoch(frame, train=train, val=val)
        columns: dict[str, Tensor] = {
            name: torch.tensor(table[name].to_numpy(copy=True)) for name in table.columns
        }
        epoch, trained, validated = (
            columns.pop(name) for name in ("epoch", "train_loss", "val_loss")
        )
        evaluated = columns.pop("train_eval_loss", None)
        return cls(
            epoch.long(),
            trained,
            validated,
            columns,
            evaluated,
            None,
            unit,
            (*(notes or []), *remarks),
        )

    @property
    def fitted_loss(self) -> Tensor:
        """`[t]` training loss at the end of each epoch: `train_eval_loss`, else the mean of this
        epoch's and the next's.

        The running training loss of an epoch is averaged while the weights move, half an epoch
        before its end on average, so that the mean of two neighbours estimates the loss between
        them; the last epoch keeps its own.
        """
        if self.train_eval_loss is not None:
            return self.train_eval_loss
        middle = (self.train_loss[:-1] + self.train_loss[1:]) / 2
        return torch.cat(
            [torch.where(middle.isnan(), self.train_loss[:-1], middle), self.train_loss[-1:]]
        )

    def _columns(self) -> dict[str, Tensor]:
        evaluated = (
            {} if self.train_eval_loss is None else {"train_eval_loss": self.train_eval_loss}
        )
        return {
            self.unit: self.epoch,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            **evaluated,
            **self.metrics,
        }

    def table(self) -> pd.DataFrame:
        """One row per epoch."""
        import pandas as pd

        columns: dict[str, Any] = {
            name: values.cpu().numpy() for name, values in self._columns().items()
        }
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The losses, faint as recorded and bold as 5-epoch centred averages from 10 epochs on;
        infinite values are left out.
        """
        ax = axes(ax)
        drawn = [("train_loss", "training loss", REFERENCE), ("val_loss", "validation loss", LIVE)]
        if self.train_eval_loss is not None:
            drawn.insert(1, ("train_eval_loss", "training rows, evaluated", NEUTRAL))
        few = len(self) <= _MANY
        for name, label, color in drawn:
            values = getattr(self, name)
            known = values.isfinite()
            x = self.epoch[known].numpy()
            ax.plot(
                x,
                values[known],
                color=color,
                alpha=0.35,
                linewidth=0 if few else 0.4,
                marker="." if few else "",
                markersize=5,
            )
            smooth = moving_average(values[known], 5 if len(x) >= _FEW else 1)
            ax.plot(x, smooth.numpy(), color=color, linewidth=1.8, label=label)
        if broken := _broken(self.epoch, self.train_loss):
            ax.axvspan(*broken, color=NEUTRAL, alpha=0.2, linewidth=0, label="NaN or infinite")
        ax.set(xlabel=self.unit, ylabel="loss", title="Learning curves")
        ax.locator_params(axis="x", integer=True)
        ax.legend(frameon=False, fontsize="small")
        return ax


def moving_average(values: Tensor, window: int = 5) -> Tensor:
    """Centred moving average `[t]`; towards the ends the window shrinks evenly on both sides, so
    nothing lags.

    Args:
        values: `[t]` float, without NaN.
        window: odd number of epochs.
    """
    if window < 1 or window % 2 == 0:
        reject("window", "an odd number of epochs", str(window), "5 is the usual number.")
    t = len(values)
    position = torch.arange(t)
    half = torch.minimum(torch.minimum(position, t - 1 - position), torch.tensor(window // 2))
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    return (sums[position + half + 1] - sums[position - half]) / (2 * half + 1)


def _broken(epoch: Tensor, loss: Tensor) -> tuple[int, int] | None:
    """First and last epoch of a loss that ends as no number."""
    known = loss.isfinite().nonzero()[:, 0]
    first = int(known[-1]) + 1 if len(known) else 0
    return (int(epoch[first]), int(epoch[-1])) if first < len(loss) else None


def overlay(runs: Mapping[str, LearningCurves], ax: Axes | None = None) -> Axes:
    """The validation losses of several runs on one axis, smoothed, each ending in a dot at its best
    epoch.
    """
    ax = axes(ax)
    for i, (name, curves) in enumerate(runs.items()):
        known = curves.val_loss.isfinite()
        if not bool(known.any()):
            continue
        smooth, x, color = (
            moving_average(curves.val_loss[known]),
            curves.epoch[known],
            CYCLE[i % len(CYCLE)],
        )
        best = int(smooth.argmin())
        ax.plot(
            x.numpy(),
            smooth.numpy(),
            color=color,
            linewidth=1.8,
            linestyle=("-", "--", ":")[i // len(CYCLE) % 3],
            label=name,
        )
        ax.plot([int(x[best])], [float(smooth[best])], color=color, marker="o")
    units = sorted({curves.unit for curves in runs.values()})
    ax.set(
        xlabel=" or ".join(units) or "epoch",
        ylabel="validation loss",
        title="Validation losses; a dot marks the best epoch of each",
    )
    if runs:
        ax.legend(frameon=False, fontsize="small")
    return ax

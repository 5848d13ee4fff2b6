"""`LearningCurves`: training loss, validation loss and metrics, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes, notebook_html
from gendebug_torch.curves.files.epoch_table import epoch_table
from gendebug_torch.curves.files.run_files import log_rows, read_csv, read_run
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.errors import reading, reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Beyond so many epochs single values are drawn as a thin line, as dots would hide the average.
_MAX_DOTS = 150
# With fewer epochs an average of five would be drawn away from most of its points.
_MIN_SMOOTHED = 10


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """Losses and metrics per epoch.

    Args:
        epoch: epochs or steps, `[t]` int64, ascending.
        train_loss: training loss, `[t]` float64, averaged over the epoch while the weights move;
            NaN where not recorded.
        val_loss: validation loss, `[t]` float64; NaN where there was no validation.
        metrics: further curves by name, each `[t]` float64.
        train_eval_loss: loss `[t]` float64 of a fixed sample of the training rows in evaluation
            mode at the end of the epoch, which is comparable with the validation loss; None where
            not recorded.
        untrained_loss: loss of the first batch, before any update; None where unknown.
        unit: unit of `epoch`: `epoch` or `step`.
        notes: sentences on the record itself: missing epochs, repeated rows, NaN batches.

    Raises:
        InputError: lengths that differ, or epochs that are not finite or do not ascend.

    Example:
        >>> import torch
        >>> epoch = torch.arange(30)
        >>> curves = LearningCurves(epoch, 1 / (1 + epoch), 0.2 + 1 / (1 + epoch))
        >>> round(float(curves.val_loss[-1] - curves.train_loss[-1]), 2)
        0.2
    """

    epoch: Tensor
    train_loss: Tensor
    val_loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    train_eval_loss: Tensor | None = None
    untrained_loss: float | None = None
    unit: str = "epoch"
    notes: tuple[str, ...] = ()

    _repr_html_ = notebook_html

    def __post_init__(self) -> None:
        # A few numbers, which are read one by one.
        for name in ("epoch", "train_loss", "val_loss", "train_eval_loss"):
            if isinstance(values := getattr(self, name), Tensor):
                object.__setattr__(self, name, values.detach().cpu())
        metrics = {name: values.detach().cpu() for name, values in self.metrics.items()}
        object.__setattr__(self, "metrics", metrics)
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
        if not bool(self.epoch.isfinite().all()):
            reject(
                "epoch",
                "finite epochs",
                str(self.epoch[~self.epoch.isfinite()][:3].tolist()),
                "Leave these rows out.",
            )
        if len(self.epoch) > 1 and bool((self.epoch.diff() <= 0).any()):
            at = int((self.epoch.diff() <= 0).nonzero()[0, 0])
            got = f"{int(self.epoch[at])} followed by {int(self.epoch[at + 1])}"
            reject(
                "epoch",
                "epochs in ascending order",
                got,
                "A resumed run repeats epochs: keep the last row of each.",
            )

    def __len__(self) -> int:
        return len(self.epoch)

    def __add__(self, later: LearningCurves) -> LearningCurves:
        """These epochs followed by later ones; of an epoch that both have the later one counts."""
        keep = ~torch.isin(self.epoch, later.epoch)
        epoch = torch.cat([self.epoch[keep], later.epoch])
        order = epoch.argsort(stable=True)
        first, second = self._columns(), later._columns()

        def joined(name: str) -> Tensor:
            a = first.get(name, torch.full((len(self),), torch.nan))
            b = second.get(name, torch.full((len(later),), torch.nan))
            return torch.cat([a.double()[keep], b.double()])[order]

        columns = {name: joined(name) for name in {**first, **second} if name != self.unit}
        return LearningCurves(
            epoch=epoch[order],
            train_loss=columns.pop("train_loss"),
            val_loss=columns.pop("val_loss"),
            train_eval_loss=columns.pop("train_eval_loss", None),
            metrics=columns,
            untrained_loss=(
                later.untrained_loss if self.untrained_loss is None else self.untrained_loss
            ),
            unit=self.unit,
            notes=tuple(dict.fromkeys([*self.notes, *later.notes])),
        )

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Curves from a table with an epoch or a step column, both losses and any metrics.

        Several rows of one epoch, as loggers write them, are merged: the training loss of an epoch
        is the mean over its steps, every other column its last value. Missing, repeated and
        unordered rows are named in `notes`. Usual names of the columns are recognised
        (`train_loss_epoch`, `loss`, `eval_loss`, `Loss/validation`).

        Args:
            frame: table with one row per epoch, step or log line.
            train: column of the training loss, where its name is not a usual one.
            val: column of the validation loss, where its name is not a usual one.

        Raises:
            InputError: a column is absent or not numeric, or there are no rows.
        """
        return cls._read(frame, [], train, val)

    @classmethod
    def from_log(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        train: str | None = None,
        val: str | None = None,
    ) -> LearningCurves:
        """Curves from the log of a trainer: `net.history` of skorch, `log_history` of transformers.

        Args:
            rows: one mapping per epoch, step or log line; values that are no numbers are left out.
            train: name of the training loss, where it is not a usual one.
            val: name of the validation loss, where it is not a usual one.

        Raises:
            InputError: as `from_frame`.

        Example:
            >>> log = [{"epoch": i, "train_loss": 1 / i, "valid_loss": 1.0} for i in range(1, 9)]
            >>> LearningCurves.from_log(log).train_loss[:2].tolist()
            [1.0, 0.5]
        """
        import pandas as pd

        return cls.from_frame(pd.DataFrame(log_rows(rows)), train=train, val=val)

    @classmethod
    def from_csv(
        cls, path: str | Path, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Curves from a CSV such as Lightning's metrics.csv; a truncated last line is left out.

        Args:
            path: CSV with the columns of `from_frame`.
            train: column of the training loss, where its name is not a usual one.
            val: column of the validation loss, where its name is not a usual one.

        Raises:
            InputError: the file cannot be read, or as `from_frame`.
        """
        with reading(path, "a readable CSV file"):
            return cls._read(*read_csv(Path(path)), train, val)

    @classmethod
    def from_run(
        cls, path: str | Path, *, train: str | None = None, val: str | None = None
    ) -> LearningCurves:
        """Curves from the files of a past run.

        Args:
            path: CSV, TensorBoard event file, `trainer_state.json` of a Hugging Face trainer,
                history of skorch as JSON, or a folder with one of them.
            train: column of the training loss, where its name is not a usual one.
            val: column of the validation loss, where its name is not a usual one.

        Raises:
            InputError: there is no such file, it cannot be read, or as `from_frame`.
        """
        with reading(path, "the log of a run"):
            return cls._read(*read_run(path), train, val)

    @classmethod
    def _read(
        cls, frame: pd.DataFrame, notes: list[str], train: str | None, val: str | None
    ) -> LearningCurves:
        table, unit, table_notes = epoch_table(frame, train=train, val=val)
        columns = {name: torch.tensor(table[name].to_numpy(copy=True)) for name in table.columns}
        return cls(
            epoch=columns.pop("epoch").long(),
            train_loss=columns.pop("train_loss"),
            val_loss=columns.pop("val_loss"),
            train_eval_loss=columns.pop("train_eval_loss", None),
            metrics=columns,
            unit=unit,
            notes=(*notes, *table_notes),
        )

    @property
    def fitted_loss(self) -> Tensor:
        """Training loss at the end of each epoch, `[t]`, comparable with the validation loss.

        That is `train_eval_loss` where it was recorded. Otherwise, as the running training loss is
        averaged while the weights move, half an epoch before the end on average, it is the mean of
        two neighbouring epochs; the last epoch keeps its own.
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
        """The losses as recorded, and from 10 epochs on their 5-epoch centred averages.

        Infinite values are left out.
        """
        ax = axes(ax)
        lines = [("train_loss", "training loss", REFERENCE), ("val_loss", "validation loss", LIVE)]
        if self.train_eval_loss is not None:
            lines.insert(1, ("train_eval_loss", "training rows, evaluated", NEUTRAL))
        for name, label, color in lines:
            _draw_loss(ax, self.epoch, getattr(self, name), label, color)
        if nonfinite := _nonfinite_end(self.epoch, self.train_loss):
            ax.axvspan(*nonfinite, color=NEUTRAL, alpha=0.2, linewidth=0, label="NaN or infinite")
        ax.set(xlabel=self.unit, ylabel="loss", title="Learning curves")
        ax.locator_params(axis="x", integer=True)
        ax.legend(frameon=False, fontsize="small")
        return ax


def _draw_loss(ax: Axes, epoch: Tensor, loss: Tensor, label: str, color: str) -> None:
    """One loss, faint as recorded and bold as averaged."""
    finite = loss.isfinite()
    x, y = epoch[finite].numpy(), loss[finite]
    dots = len(epoch) <= _MAX_DOTS
    style = {"linewidth": 0, "marker": ".", "markersize": 5} if dots else {"linewidth": 0.4}
    ax.plot(x, y, color=color, alpha=0.35, **style)
    smooth = moving_average(y, 5 if len(x) >= _MIN_SMOOTHED else 1)
    ax.plot(x, smooth.numpy(), color=color, linewidth=1.8, label=label)


def _nonfinite_end(epoch: Tensor, loss: Tensor) -> tuple[int, int] | None:
    """First and last epoch of the final stretch without a finite loss."""
    finite = loss.isfinite().nonzero()[:, 0]
    first = int(finite[-1]) + 1 if len(finite) else 0
    return (int(epoch[first]), int(epoch[-1])) if first < len(loss) else None

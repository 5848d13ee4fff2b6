"""`LearningCurves`: what training and validation loss did, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch._plotting import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """Losses and metrics per epoch.

    Args:
        epoch: `[t]` int64, ascending.
        train_loss: `[t]` float64; NaN where it was not recorded.
        val_loss: `[t]` float64; NaN where there was no validation.
        metrics: further `[t]` float64 by name.
    """

    epoch: Tensor
    train_loss: Tensor
    val_loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"train_loss": len(self.train_loss), "val_loss": len(self.val_loss)}
        lengths |= {name: len(values) for name, values in self.metrics.items()}
        if wrong := {name: length for name, length in lengths.items() if length != len(self.epoch)}:
            reject("curves", f"{len(self.epoch)} values of each", str(wrong), "Pass one value per epoch; NaN where none was recorded.")
        if len(self.epoch) > 1 and bool((self.epoch.diff() <= 0).any()):
            at = int((self.epoch.diff() <= 0).nonzero()[0, 0])
            got = f"{int(self.epoch[at])} followed by {int(self.epoch[at + 1])}"
            reject("epoch", "epochs that rise", got, "A resumed run repeats epochs: keep the last row of each.")

    def __len__(self) -> int:
        return len(self.epoch)

    def __add__(self, later: LearningCurves) -> LearningCurves:
        """These epochs followed by later ones; where both have an epoch the later recording counts."""
        keep = ~torch.isin(self.epoch, later.epoch)
        epoch = torch.cat([self.epoch[keep], later.epoch])
        order = epoch.argsort(stable=True)

        def join(first: Tensor | None, second: Tensor | None) -> Tensor:
            hole = [torch.full((len(side),), torch.nan, dtype=torch.float64) for side in (self, later)]
            a, b = (hole[0] if first is None else first), (hole[1] if second is None else second)
            return torch.cat([a[keep], b])[order]

        names = dict.fromkeys([*self.metrics, *later.metrics])
        metrics = {name: join(self.metrics.get(name), later.metrics.get(name)) for name in names}
        train_loss, val_loss = join(self.train_loss, later.train_loss), join(self.val_loss, later.val_loss)
        return LearningCurves(epoch[order], train_loss, val_loss, metrics)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> LearningCurves:
        """Curves from columns `epoch`, `train_loss`, `val_loss` and any metrics, numeric.

        Several rows of one epoch, as Lightning's CSVLogger writes them, are merged: the last value of each
        column counts. `train_loss_epoch` is taken where `train_loss` is absent.

        Raises:
            InputError: a column is absent or not numeric, or there are no rows.
        """
        table = frame.rename(columns={"train_loss_epoch": "train_loss", "val_loss_epoch": "val_loss"})
        table = table.loc[:, ~table.columns.duplicated()]
        if missing := [name for name in ("epoch", "train_loss", "val_loss") if name not in table]:
            known = ", ".join(map(str, frame.columns))
            reject("curves", "columns epoch, train_loss and val_loss", f"no {', '.join(missing)} among {known}", "Rename the columns.")
        if text := [str(name) for name in ("epoch", "train_loss", "val_loss") if table[name].dtype.kind not in "fiu"]:
            reject("curves", "numeric columns", f"text in {', '.join(text)}", "Convert them to numbers.")
        if table["epoch"].isna().any():
            reject("epoch", "a number in every row", f"{int(table['epoch'].isna().sum())} empty", "Drop the rows without an epoch.")
        if not len(table):
            reject("curves", "at least one epoch", "no rows", "Train for an epoch first.")
        merged = table.groupby("epoch", sort=False).last() if table["epoch"].duplicated().any() else table.set_index("epoch")
        columns: dict[str, Tensor] = {
            str(name): torch.tensor(merged[name].to_numpy(dtype="float64", na_value=float("nan")).copy())
            for name in merged.columns
            if merged[name].dtype.kind in "fiu" and name != "step"
        }
        train, val = columns.pop("train_loss"), columns.pop("val_loss")
        return cls(torch.tensor(merged.index.to_numpy(dtype="int64").copy()), train, val, columns)

    @classmethod
    def from_csv(cls, path: str | Path) -> LearningCurves:
        """Read a CSV as `from_frame` takes it, e.g. Lightning's metrics.csv.

        Raises:
            InputError: the file cannot be read, or as `from_frame`.
        """
        import pandas as pd

        try:
            frame = pd.read_csv(path)
        except (OSError, ValueError) as error:
            reject("path", "a readable CSV file", f"{path}: {error}", "Check that the path is right and the file is whole.")
        return cls.from_frame(frame)

    def table(self) -> pd.DataFrame:
        """One row per epoch."""
        import pandas as pd

        columns: dict[str, Any] = {"epoch": self.epoch, "train_loss": self.train_loss, "val_loss": self.val_loss, **self.metrics}
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Both losses, faint as recorded and bold as 5-epoch centred averages."""
        ax = axes(ax)
        for name, color in (("train_loss", REFERENCE), ("val_loss", LIVE)):
            values = getattr(self, name)
            known = ~values.isnan()
            x = self.epoch[known].numpy()
            ax.plot(x, values[known].numpy(), color=color, alpha=0.3, linewidth=1)
            ax.plot(x, moving_average(values[known]).numpy(), color=color, linewidth=2, label=name.replace("_", " "))
        ax.set(xlabel="epoch", ylabel="loss", title="Learning curves")
        ax.legend(frameon=False, fontsize="small")
        return ax


def moving_average(values: Tensor, window: int = 5) -> Tensor:
    """Centred moving average `[t]`; towards the ends the window shrinks evenly on both sides, so nothing lags.

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

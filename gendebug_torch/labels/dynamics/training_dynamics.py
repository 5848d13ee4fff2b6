"""Training dynamics of each row: margin, confidence and correctness over the epochs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from gendebug_torch.data.records import Records

COLUMN = "dynamics_"
_MAX_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class TrainingDynamics:
    """Sums per training row over the epochs that saw it. Adds over runs of the same rows.

    Args:
        epochs: number of epochs that saw the row, `[n]` int64.
        margin: sum of given logit minus largest other logit, `[n]` float64.
        confidence: sum of the probability of the given label, `[n]` float64.
        squares: sum of the squares of this probability, `[n]` float64.
        loss: sum of the cross-entropy in nats, `[n]` float64.
        correct: number of epochs in which the given label was predicted, `[n]` int64.
        forgetting: number of times it was predicted and in the next epoch not, `[n]` int64.
    """

    epochs: Tensor
    margin: Tensor
    confidence: Tensor
    squares: Tensor
    loss: Tensor
    correct: Tensor
    forgetting: Tensor

    def __add__(self, other: TrainingDynamics) -> TrainingDynamics:
        if len(self.epochs) != len(other.epochs):
            reject(
                "other",
                f"dynamics of {len(self.epochs)} rows",
                str(len(other.epochs)),
                "Add runs over the same training rows.",
            )
        return replace(
            self, **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    @property
    def aum(self) -> Tensor:
        """`[n]` area under the margin: its mean over the epochs, low for wrong labels.

        Source: Pleiss et al. (2020), arXiv:2001.10528.
        """
        return self._mean(self.margin)

    @property
    def mean_confidence(self) -> Tensor:
        """`[n]` mean probability of the given label.

        Source: Swayamdipta et al. (2020), arXiv:2009.10795, data maps.
        """
        return self._mean(self.confidence)

    @property
    def variability(self) -> Tensor:
        """`[n]` standard deviation over the epochs of the probability of the given label."""
        return (self._mean(self.squares) - self.mean_confidence.square()).clamp(min=0.0).sqrt()

    @property
    def correctness(self) -> Tensor:
        """`[n]` share of the epochs in which the given label was predicted (data maps)."""
        return self._mean(self.correct.double())

    def table(self) -> DataFrame:
        """One row per training row, in their order; NaN for a row that was never seen."""
        import pandas as pd

        columns = {
            "aum": self.aum,
            "mean_confidence": self.mean_confidence,
            "variability": self.variability,
        }
        columns |= {"correctness": self.correctness, "mean_loss": self._mean(self.loss)}
        columns |= {"forgetting": self.forgetting, "epochs": self.epochs}
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})

    def attach(self, records: Records) -> Records:
        """The training records with these columns added to their metadata, as `dynamics_aum` etc.

        The label checks read them there. They stay aligned through `select`, `save` and tables.

        Args:
            records: training records, row i being the sample of id i.

        Raises:
            InputError: another number of rows.
        """
        import pandas as pd

        if len(records) != len(self.epochs):
            reject(
                "records",
                f"{len(self.epochs)} rows, as trained on",
                f"{len(records)} rows",
                "Pass them in the order of their ids.",
            )
        columns = self.table().add_prefix(COLUMN)
        if records.metadata is not None:
            others = records.metadata.drop(columns=list(columns), errors="ignore")
            columns = pd.concat([others, columns], axis=1)
        return replace(records, metadata=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Data map of up to 20,000 rows: confidence against variability, colored by correctness.

        Wrong labels lie at the lower left.
        """
        ax = axes(ax)
        seen = (self.epochs > 0).nonzero()[:, 0]
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
        rows = seen[order[:_MAX_POINTS].to(seen.device)]
        x, y, color = (
            value[rows].cpu().numpy()
            for value in (self.variability, self.mean_confidence, self.correctness)
        )
        points = ax.scatter(
            x, y, c=color, cmap="viridis", s=6, alpha=0.6, linewidths=0, vmin=0.0, vmax=1.0
        )
        ax.figure.colorbar(points, ax=ax, label="share of epochs predicted as labeled")
        ax.set_xlabel("variability of the confidence over the epochs")
        ax.set_ylabel("mean confidence in the given label")
        ax.set_ylim(-0.02, 1.02)
        ax.set_title("Data map: easy above, ambiguous right, suspicious below")
        return ax

    def _mean(self, sums: Tensor) -> Tensor:
        return torch.where(self.epochs > 0, sums / self.epochs.clamp(min=1), torch.nan)

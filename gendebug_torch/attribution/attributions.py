"""`Attributions`: how much each input of each row contributed to one output."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch._plotting import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 15


@dataclass(frozen=True, eq=False)
class Attributions:
    """Contributions of the inputs to one output per row; adds up over batches.

    Args:
        values: `[n, ...]` float32, shaped like the inputs (or like the layer, for layer methods).
        targets: `[n]` int64, the explained class; -1 for a single output.
        convergence_delta: `[n]` float32, sum of contributions minus what they should sum to; None if the method has none.
        method: that made them.
        feature_names: one per input of a row, or empty.
    """

    values: Tensor
    targets: Tensor
    convergence_delta: Tensor | None
    method: str
    feature_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Attributions) -> Attributions:
        deltas = [side.convergence_delta for side in (self, other)]
        joined = torch.cat([delta for delta in deltas if delta is not None]) if None not in deltas else None
        return replace(
            self, values=torch.cat([self.values, other.values]), targets=torch.cat([self.targets, other.targets]), convergence_delta=joined
        )

    def select(self, rows: Tensor) -> Attributions:
        """The rows where a bool mask is true, or at the given positions."""
        delta = None if self.convergence_delta is None else self.convergence_delta[rows]
        return replace(self, values=self.values[rows], targets=self.targets[rows], convergence_delta=delta)

    @property
    def flat(self) -> Tensor:
        """`[n, d]` float64, one column per input of a row."""
        return self.values.reshape(len(self.values), -1).double()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `flat`."""
        width = self.values[0].numel() if len(self.values) else len(self.feature_names)
        return self.feature_names if len(self.feature_names) == width else tuple(f"input_{i}" for i in range(width))

    def table(self) -> pd.DataFrame:
        """One row per input: mean absolute and mean signed contribution with standard errors, share; largest first."""
        import pandas as pd

        flat = self.flat
        n = max(len(flat), 1)
        size = flat.abs().mean(0) if len(flat) else torch.zeros(len(self.names), dtype=torch.float64)
        signed = flat.mean(0) if len(flat) else size
        spread = [side.std(0) / n**0.5 if len(flat) > 1 else torch.zeros_like(size) for side in (flat.abs(), flat)]
        columns = {"mean_abs": size, "standard_error": spread[0], "share": size / size.sum().clamp(min=1e-300)}
        columns |= {"mean": signed, "mean_standard_error": spread[1]}
        frame = pd.DataFrame({"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()})
        return frame.sort_values("mean_abs", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean absolute contribution of the strongest inputs; orange where more of it lowers the output on average."""
        top = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(6.0, 1.2 + 0.28 * max(1, len(top))))
        colors = np.where(top["mean"] < 0, LIVE, REFERENCE).tolist()
        labels = top["feature"].astype(str).tolist()
        ax.barh(labels, top["mean_abs"], color=colors, xerr=top["standard_error"], error_kw={"elinewidth": 0.8})
        ax.set(xlabel="mean |contribution| to the output (blue raises it, orange lowers it)", title=f"{self.method}, {len(self):,} rows")
        ax.grid(visible=False, axis="y")
        return ax

    def to_frame(self) -> pd.DataFrame:
        """One row per row of the data: contributions by input, `target`, and `convergence_delta` where there is one."""
        import pandas as pd

        frame = pd.DataFrame(self.flat.float().numpy(), columns=list(self.names))
        extra: dict[str, Any] = {"target": self.targets.numpy()}
        if self.convergence_delta is not None:
            extra["convergence_delta"] = self.convergence_delta.numpy()
        return frame.assign(**extra)

    def save(self, path: str | Path) -> Path:
        """Write `to_frame` as Parquet, whole or not at all.

        Raises:
            InputError: the place cannot be written.
        """
        target = Path(path)
        scratch = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.to_frame().to_parquet(scratch)
            os.replace(scratch, target)
        except OSError as error:
            reject("path", "a place that can be written", f"{target}: {error.strerror}", "Choose another path.")
        return target

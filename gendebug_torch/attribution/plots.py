"""The beeswarm plot of attributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions, short_name, title_of
from gendebug_torch.checks.evidence import NEUTRAL, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Rows drawn as dots; more would only overlap.
_DOTS = 2000


@dataclass(frozen=True, eq=False)
class Beeswarm:
    """Attributions drawn row by row, as evidence for a report.

    Args:
        attributions: attributions to draw.
    """

    attributions: Attributions

    def table(self) -> pd.DataFrame:
        """One row per input."""
        return self.attributions.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """The beeswarm; bars where there are no inputs or no usable rows."""
        if self.attributions.inputs is None or not bool(self.attributions.usable.any()):
            return self.attributions.plot(ax)
        return beeswarm(self.attributions, ax)


def beeswarm(attributions: Attributions, ax: Axes | None = None, *, top: int = 15) -> Axes:
    """One dot per row and feature at its contribution, coloured by the rank of its value.

    Args:
        attributions: attributions with their inputs.
        ax: axis to draw on; None for a new figure.
        top: largest number of features, by mean absolute contribution.

    Raises:
        InputError: attributions without inputs, such as those of a layer.

    Example:
        >>> import torch
        >>> from gendebug_torch.attribution import attribute
        >>> x = torch.linspace(-1, 1, 12).reshape(6, 2)
        >>> ax = beeswarm(attribute(torch.nn.Flatten(), x, target=1))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['feature_0', 'feature_1']
    """
    if attributions.inputs is None:
        got = f"those of {attributions.method}"
        reject("attributions", "attributions with their inputs", got, "Use `plot()` of them.")
    usable = attributions.select(attributions.usable)
    assert usable.inputs is not None
    rows = torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))[:_DOTS]
    flat, inputs = (
        part[rows.to(part.device)].cpu()
        for part in (usable.flat, usable.inputs.flatten(1).double())
    )
    size = usable.flat.abs().mean(0).nan_to_num(0.0)
    # From the bottom of the plot to its top.
    order = size.argsort(descending=True, stable=True)[: top if len(usable) else 0].tolist()[::-1]
    ax = axes(ax, size=(7.2, 1.4 + 0.34 * max(1, len(order))))
    dots = [_dots(ax, height, flat[:, i], inputs[:, i]) for height, i in enumerate(order)]
    names = [short_name(attributions.names[feature]) for feature in order]
    ax.set_yticks(range(len(order)), names)
    ax.axvline(0, color=NEUTRAL, linewidth=0.8)
    ax.set(xlabel="contribution to the output", title=title_of(attributions))
    if dots:
        _color_bar(ax, dots[-1])
    return ax


def _dots(ax: Axes, height: int, x: Tensor, values: Tensor) -> Any:
    """The dots of one feature, coloured by the ranks of its values."""
    style: dict[str, Any] = {"cmap": "cividis", "vmin": 0, "vmax": 1, "s": 7, "linewidths": 0}
    return ax.scatter(x.numpy(), height + _spread(x), c=_rank(values).numpy(), **style)


def _color_bar(ax: Axes, dots: Any) -> None:
    """The scale of colours beside a beeswarm."""
    assert ax.figure is not None
    bar = ax.figure.colorbar(dots, ax=ax, ticks=[0, 1], aspect=30, pad=0.02)
    bar.ax.set_yticklabels(["low", "high"])
    bar.set_label("value of the feature", labelpad=-16)
    bar.outline.set_visible(False)


def _rank(values: Tensor) -> Tensor:
    """`[n]` rank of each value among all, from 0 to 1, equal values alike."""
    values = values.contiguous()
    ordered = values.sort().values
    low, high = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (low + high).double() / (2 * max(len(values), 1))


def _spread(values: Tensor, bins: int = 60, height: float = 0.38) -> np.ndarray:
    """`[n]` offsets that stack dots of about the same value around the middle."""
    x = values.double()
    low, high = float(x.min()), float(x.max())
    bin_number = ((x - low) / max(high - low, 1e-12) * (bins - 1)).round().long()
    counts = torch.bincount(bin_number, minlength=bins)
    order = bin_number.argsort(stable=True)
    within = torch.empty(len(x), dtype=torch.int64)
    within[order] = torch.arange(len(x)) - (counts.cumsum(0) - counts)[bin_number[order]]
    side = torch.where(within % 2 == 0, 1, -1) * ((within + 1) // 2)
    offsets: np.ndarray = (side.double() / max(float(counts.max()) / 2, 8.0) * height).numpy()
    return offsets

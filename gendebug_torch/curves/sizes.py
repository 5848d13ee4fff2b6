"""Losses over the number of training rows: whether more data would help, or another model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.curves.fit.forecast import Forecast, extend
from gendebug_torch.curves.fit.trend import Noise
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# A gap of this share of the validation loss, and a gain of this share by twice the rows, are worth
# naming; a gain that may be as large as the last cannot be ruled out.
_GAP, _GAIN, _LARGE = 0.1, 0.02, 0.05


@dataclass(frozen=True, eq=False)
class SizeCurves:
    """Losses of trainings on subsets of the rows.

    Args:
        sizes: `[s]` int64 numbers of training rows, ascending.
        train_loss: `[s, r]` float64 of r seeds at the best epoch of each.
        val_loss: `[s, r]` float64, likewise.
    """

    sizes: Tensor
    train_loss: Tensor
    val_loss: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.val_loss.shape)
        if tuple(self.train_loss.shape) != shape or len(shape) != 2 or shape[0] != len(self.sizes):
            got = (
                f"sizes {tuple(self.sizes.shape)}, train_loss {tuple(self.train_loss.shape)}, "
                f"val_loss {shape}"
            )
            reject(
                "sizes",
                "losses `[s, r]` of each size and seed",
                got,
                "Train every size with every seed.",
            )
        if len(self.sizes) > 1 and bool((self.sizes.diff() <= 0).any()):
            reject(
                "sizes",
                "numbers of rows that rise",
                str(self.sizes.tolist()),
                "Sort them and drop repeated ones.",
            )

    @cached_property
    def doubled(self) -> Forecast:
        """The mean validation loss at twice the largest size, by a power law over all sizes and
        seeds.
        """
        seeds = self.val_loss.shape[1]
        x = self.sizes.double().repeat_interleave(seeds).numpy()
        y = self.val_loss.double().reshape(-1).numpy()
        sd, shrinks = self._scatter()
        noise = Noise(sd, 0.0, 0.0, float(max(len(y) - 3, 2)))
        return extend(x, y, 2 * float(self.sizes[-1]), noise, relative=(x / x[-1]) ** -shrinks)

    def _scatter(self) -> tuple[float, float]:
        """Standard deviation between seeds at the largest size, and the power of the size with
        which it falls.

        The law `sd * (n / largest) ** -power` with a power in [0, 1] under which the variances of
        the sizes, each chi-square over its seeds, are likeliest; a single seed shows no scatter: 2
        % of the loss at every size.
        """
        if self.val_loss.shape[1] < 2:
            return 0.02 * float(self.val_loss.double().abs().mean()), 0.0
        variance = self.val_loss.double().var(1).numpy()
        size = (self.sizes.double() / self.sizes[-1]).numpy()
        # The likeliest variance at the largest size for each power, then the power that leaves the
        # least deviance.
        powers = np.linspace(0.0, 1.0, 41)
        largest = (variance * size ** (2 * powers[:, None])).mean(1)
        deviance = np.log(largest.clip(1e-300)) - 2 * powers * np.log(size).mean()
        best = int(deviance.argmin())
        return float(largest[best]) ** 0.5, float(powers[best])

    @property
    def regime(self) -> Literal["variance", "bias", "both", "settled", "unclear"]:
        """`variance`: more rows would help. `bias`: both losses are near and flat, so only another
        model would.

        `both`: the losses are apart, yet more rows bring nothing; `settled`: near, and more rows
        still help a little; `unclear`: the law over the sizes is refused, or its interval holds
        both a gain and none.
        """
        if self.doubled.interval is None or self.doubled.value is None:
            return "unclear"
        now = float(self.val_loss[-1].mean())
        least, most = ((now - end) / abs(now) for end in reversed(self.doubled.interval))
        gain = (now - self.doubled.value) / abs(now)
        helps = gain >= _GAIN and least > 0
        if not helps and (gain >= _GAIN or most >= _LARGE):
            return "unclear"
        apart = float((self.val_loss[-1] - self.train_loss[-1]).mean()) / abs(now) > _GAP
        return (
            "variance" if apart and helps else "both" if apart else "settled" if helps else "bias"
        )

    @property
    def summary(self) -> str:
        """What the sizes say, in one sentence."""
        n, now, train = (
            int(self.sizes[-1]),
            float(self.val_loss[-1].mean()),
            float(self.train_loss[-1].mean()),
        )
        told = f"With {n:,} rows the validation loss is {now:.4g} and the training loss {train:.4g}"
        if self.doubled.value is None or self.doubled.interval is None:
            return f"{told}; what more rows would bring cannot be told: {self.doubled.refused}."
        low, high = self.doubled.interval
        advice = {
            "variance": "more rows would help",
            "bias": "more rows would not help: take a larger model, better features, or less "
            "regularisation",
            "both": "more rows would not close the gap: the validation rows differ, or the model "
            "needs regularisation",
            "settled": "more rows would still help a little",
            "unclear": "whether more rows help is not clear: add seeds or sizes",
        }[self.regime]
        return (
            f"{told}; twice the rows would bring {self.doubled.value:.4g} (90 % interval "
            f"{low:.4g} to {high:.4g}): {advice}."
        )

    def table(self) -> pd.DataFrame:
        """One row per size and seed."""
        import pandas as pd

        seeds = self.val_loss.shape[1]
        columns = {
            "rows": self.sizes.repeat_interleave(seeds),
            "seed": torch.arange(seeds).repeat(len(self.sizes)),
        }
        columns |= {
            "train_loss": self.train_loss.reshape(-1),
            "val_loss": self.val_loss.reshape(-1),
        }
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Both losses over the rows, each seed a dot, and the forecast with its interval."""
        ax = axes(ax)
        for name, values, color in (
            ("training loss", self.train_loss, REFERENCE),
            ("validation loss", self.val_loss, LIVE),
        ):
            for seed in values.T:
                ax.plot(self.sizes.numpy(), seed.numpy(), ".", color=color, alpha=0.4)
            ax.plot(self.sizes.numpy(), values.mean(1).numpy(), color=color, label=name)
        if self.doubled.value is not None and self.doubled.interval is not None:
            low, high = self.doubled.interval
            reach = [[self.doubled.value - low], [high - self.doubled.value]]
            label = "twice the rows, expected"
            ax.errorbar(
                [self.doubled.at],
                [self.doubled.value],
                yerr=reach,
                fmt="o",
                color=LIVE,
                capsize=3,
                label=label,
            )
        ax.set(
            xscale="log",
            xlabel="training rows",
            ylabel="loss",
            title=f"Losses over the training rows: {self.regime}",
        )
        ax.legend(frameon=False, fontsize="small")
        return ax

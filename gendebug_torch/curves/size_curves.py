"""Losses over the number of training rows: whether more rows would help, or another model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.curves.fit.forecast import Forecast, power_law_forecast
from gendebug_torch.curves.fit.trend import Noise
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Shares of the validation loss: a gap that matters, a gain by twice the rows that matters, and a
# gain that must be ruled out before more rows are said not to help.
_MIN_GAP, _MIN_GAIN, _LARGE_GAIN = 0.1, 0.02, 0.05
# Noise assumed, as a share of the loss, where a single seed shows none.
_ASSUMED_NOISE = 0.02


@dataclass(frozen=True, eq=False)
class SizeCurves:
    """Losses of trainings on subsets of the rows.

    Args:
        sizes: numbers of training rows, `[s]` int64, ascending.
        train_loss: training losses at the best epoch of r seeds, `[s, r]` float64.
        val_loss: validation losses at the same epochs, `[s, r]` float64.

    Raises:
        InputError: shapes that differ, or sizes that do not ascend.

    Example:
        >>> import torch
        >>> sizes = torch.tensor([100, 200, 400, 800])
        >>> noise = torch.tensor([[-0.002, 0.0, 0.002]])
        >>> val = 0.3 + 4 / sizes.double()[:, None] ** 0.7 + noise
        >>> SizeCurves(sizes, 0.5 * val, val).regime
        'variance'
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
                "numbers of rows in ascending order",
                str(self.sizes.tolist()),
                "Sort them and drop repeated ones.",
            )

    @cached_property
    def forecast(self) -> Forecast:
        """The validation loss at twice the largest size, by a power law over sizes and seeds."""
        seeds = self.val_loss.shape[1]
        x = self.sizes.double().repeat_interleave(seeds).numpy()
        y = self.val_loss.double().reshape(-1).numpy()
        sd, power = self._seed_noise()
        noise = Noise(sd, 0.0, 0.0, float(max(len(y) - 3, 2)))
        at = 2 * float(self.sizes[-1])
        return power_law_forecast(x, y, at, noise, relative_sd=(x / x[-1]) ** -power)

    def _seed_noise(self) -> tuple[float, float]:
        """Standard deviation between seeds at the largest size, and the power by which it falls.

        The law `sd * (n / largest) ** -power` with a power in [0, 1] under which the variances of
        the sizes, each chi-square over its seeds, are likeliest.
        """
        if self.val_loss.shape[1] < 2:
            return _ASSUMED_NOISE * float(self.val_loss.double().abs().mean()), 0.0
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
        """What limits the model: variance (more rows help) or bias (only another model helps).

        `variance`: the losses are apart, and more rows bring them together. `bias`: they are near
        and flat. `both`: they are apart, yet more rows bring nothing. `settled`: they are near, and
        more rows still help a little. `unclear`: the law over the sizes is refused, or its interval
        holds both a gain and none.
        """
        if self.forecast.interval is None or self.forecast.value is None:
            return "unclear"
        now = float(self.val_loss[-1].mean())
        least, most = ((now - end) / abs(now) for end in reversed(self.forecast.interval))
        gain = (now - self.forecast.value) / abs(now)
        helps = gain >= _MIN_GAIN and least > 0
        if not helps and (gain >= _MIN_GAIN or most >= _LARGE_GAIN):
            return "unclear"
        apart = float((self.val_loss[-1] - self.train_loss[-1]).mean()) / abs(now) > _MIN_GAP
        if apart:
            return "variance" if helps else "both"
        return "settled" if helps else "bias"

    @property
    def summary(self) -> str:
        """What the sizes show and what to do, in two sentences."""
        n, now = int(self.sizes[-1]), float(self.val_loss[-1].mean())
        train = float(self.train_loss[-1].mean())
        losses = (
            f"With {n:,} rows the validation loss is {now:.4g} and the training loss {train:.4g}"
        )
        if self.forecast.value is None or self.forecast.interval is None:
            return f"{losses}. There is no forecast for more rows: {self.forecast.refusal}."
        low, high = self.forecast.interval
        advice = {
            "variance": "More rows would help.",
            "bias": "More rows would not help: use a larger model, better features, or less "
            "regularization.",
            "both": "More rows would not close the gap: the validation rows differ, or the model "
            "needs regularization.",
            "settled": "More rows would still help a little.",
            "unclear": "Whether more rows help is unclear: add seeds or sizes.",
        }[self.regime]
        return (
            f"{losses}; twice the rows would give a validation loss of {self.forecast.value:.4g} "
            f"(90 % interval {low:.4g} to {high:.4g}). {advice}"
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
        """Both losses over the rows, a dot for each seed, and the forecast with its interval."""
        ax = axes(ax)
        for name, values, color in (
            ("training loss", self.train_loss, REFERENCE),
            ("validation loss", self.val_loss, LIVE),
        ):
            ax.plot(self.sizes.numpy(), values.numpy(), ".", color=color, alpha=0.4)
            ax.plot(self.sizes.numpy(), values.mean(1).numpy(), color=color, label=name)
        if self.forecast.value is not None and self.forecast.interval is not None:
            low, high = self.forecast.interval
            ax.errorbar(
                [self.forecast.at],
                [self.forecast.value],
                yerr=[[self.forecast.value - low], [high - self.forecast.value]],
                fmt="o",
                color=LIVE,
                capsize=3,
                label="forecast for twice the rows",
            )
        title = f"Losses over the training rows: {self.regime}"
        ax.set(xscale="log", xlabel="training rows", ylabel="loss", title=title)
        ax.legend(frameon=False, fontsize="small")
        return ax

"""How often quantities fall below the quantiles that a network predicts for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import bdtr, bdtrc
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import clopper_pearson_interval, normal_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Levels at which a predicted normal distribution is compared with the targets.
NORMAL_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class QuantileCoverage:
    """Targets at or below each predicted quantile, and within the outermost two; adds up.

    Args:
        levels: `[q]` levels of the quantiles, increasing.
        below: `[q]` rows whose target is at or below the quantile.
        equal: `[q]` rows whose target is the quantile, as happens with counts.
        inside: rows whose target is between the outermost quantiles, or one of them.
        edge: rows whose target is one of the outermost quantiles.
        rows: number of rows.
    """

    levels: tuple[float, ...]
    below: Tensor
    equal: Tensor
    inside: int
    edge: int
    rows: int

    def __add__(self, other: QuantileCoverage) -> QuantileCoverage:
        return QuantileCoverage(
            self.levels,
            self.below + other.below,
            self.equal + other.equal,
            self.inside + other.inside,
            self.edge + other.edge,
            self.rows + other.rows,
        )

    @property
    def nominal(self) -> float:
        """The share of targets that the outermost quantiles promise to hold."""
        return self.levels[-1] - self.levels[0]

    @property
    def share(self) -> float:
        """The share of targets between the outermost quantiles."""
        return self.inside / max(self.rows, 1)

    @property
    def deviations(self) -> Tensor:
        """`[q + 1]` share minus level, of each quantile and of the outermost two.

        A level is met where it lies between the share below the quantile and that at or below it.
        """
        least, most, levels = self._shares()
        return (least - levels).clamp(min=0) + (most - levels).clamp(max=0)

    def interval(self, independent: int) -> tuple[float, float]:
        """The 95 % interval of `share`, where so many rows are independent."""
        return _interval(self.share, independent)

    def p_values(self, independent: int) -> Tensor:
        """`[q + 1]` two-sided binomial p-values: of each quantile, and of the outermost two.

        Args:
            independent: number of independent rows.
        """
        least, most, levels = (part.numpy() for part in self._shares())
        lower = bdtr(np.round(most * independent), independent, levels)
        upper = bdtrc(np.round(least * independent) - 1, independent, levels)
        return torch.from_numpy(np.minimum(1.0, 2 * np.minimum(lower, upper)))

    def _shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shares without and with the targets that are a quantile, and the levels, `[q + 1]`."""
        most = torch.cat([self.below, torch.tensor([self.inside])]).double()
        ties = torch.cat([self.equal, torch.tensor([self.edge])])
        levels = torch.tensor([*self.levels, self.nominal], dtype=torch.float64)
        rows = max(self.rows, 1)
        return (most - ties) / rows, most / rows, levels

    def table(self) -> pd.DataFrame:
        """One row per quantile: its level, and the share of targets at or below it."""
        import pandas as pd

        share = (self.below / max(self.rows, 1)).tolist()
        bounds = [_interval(value, self.rows) for value in share]
        low, high = zip(*bounds, strict=True)
        return pd.DataFrame({"level": self.levels, "share": share, "low": low, "high": high})

    def plot(self, ax: Axes | None = None) -> Axes:
        """The share of targets at or below each quantile against its level."""
        ax, table = axes(ax), self.table()
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1.0)
        ax.vlines(table["level"], table["low"], table["high"], color="black", linewidth=1.0)
        ax.plot(table["level"], table["share"], marker="o", color=LIVE)
        ax.set_xlabel("level of the predicted quantile")
        ax.set_ylabel("share of targets at or below it")
        ax.set_title("Coverage")
        return ax


def normal_quantiles(outputs: Tensor, spread: str) -> Tensor:
    """Quantiles `[n, 5]` at `NORMAL_LEVELS` of predicted normal distributions.

    Args:
        outputs: mean and spread `[n, 2]`.
        spread: what the second is: `variance`, `log_variance` or `standard_deviation`.

    Raises:
        InputError: a negative variance or standard deviation.
    """
    mean, second = outputs.double().unbind(1)
    if spread == "log_variance":
        deviation = (second / 2).exp()
    else:
        if negative := int((second < 0).sum()):
            got = f"{negative} negative values of {len(second)}"
            remedy = "Declare `spread: log_variance` if the network returns its logarithm."
            reject("logits", f"a {spread.replace('_', ' ')} as second output", got, remedy)
        deviation = second if spread == "standard_deviation" else second.sqrt()
    steps = torch.tensor([normal_quantile(level) for level in NORMAL_LEVELS]).to(mean)
    return mean[:, None] + deviation[:, None] * steps


def quantile_coverage(
    quantiles: Tensor, targets: Tensor, levels: tuple[float, ...]
) -> QuantileCoverage:
    """Targets at or below each predicted quantile.

    Source: Gneiting, Balabdaoui and Raftery (2007), J. R. Stat. Soc. B 69:243, section 3.1;
    Kuleshov, Fenner and Ermon (2018), ICML, arXiv:1807.00263.

    Args:
        quantiles: predicted quantiles `[n, q]`.
        targets: quantities `[n]`.
        levels: `[q]` levels of the quantiles, increasing.
    """
    y = targets.to(quantiles).unsqueeze(1)
    outer = quantiles[:, [0, -1]]
    inside = (y[:, 0] >= outer[:, 0]) & (y[:, 0] <= outer[:, 1])
    return QuantileCoverage(
        levels,
        (y <= quantiles).sum(0).cpu(),
        (y == quantiles).sum(0).cpu(),
        int(inside.sum()),
        int((y == outer).any(1).sum()),
        len(y),
    )


def conformal_widening(quantiles: Tensor, targets: Tensor, nominal: float) -> float:
    """What to add on both sides of the outermost quantiles so that they hold their share.

    Source: Romano, Patterson and Candès (2019), NeurIPS, arXiv:1905.03222, section 4.

    Args:
        quantiles: predicted quantiles `[n, q]`.
        targets: quantities `[n]`.
        nominal: share of targets that the outermost two promise to hold.
    """
    y = targets.to(quantiles)
    outside = torch.maximum(quantiles[:, 0] - y, y - quantiles[:, -1]).sort().values
    at = math.ceil(nominal * (len(outside) + 1)) - 1
    return float(outside[min(max(at, 0), len(outside) - 1)])


def _interval(share: float, rows: int) -> tuple[float, float]:
    low, high = clopper_pearson_interval(
        torch.tensor([round(share * rows)]), torch.tensor([max(rows, 1)])
    )
    return float(low), float(high)

"""Which features explain one group of rows more than another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 12


@dataclass(frozen=True, eq=False)
class AttributionComparison:
    """Mean contribution per feature in two groups of rows.

    Args:
        names: of the features.
        reference: `[d]` float64 mean signed contribution.
        other: `[d]` float64 mean signed contribution.
        standard_error: `[d]` float64 of the difference.
        share: `[2, d]` float64 share of each feature in the mean absolute contribution, reference
            and other.
        labels: of the two groups.
    """

    names: tuple[str, ...]
    reference: Tensor
    other: Tensor
    standard_error: Tensor
    share: Tensor
    labels: tuple[str, str]

    @property
    def difference(self) -> Tensor:
        """`[d]` other minus reference, in units of the explained output."""
        return self.other - self.reference

    @property
    def adjusted(self) -> Tensor:
        """`[d]` two-sided p-value of Welch's normal test after Holm's correction over features."""
        z = self.difference.abs() / self.standard_error.clamp(min=1e-300)
        p = torch.where(
            self.difference == 0, torch.ones_like(z), torch.from_numpy(2 * norm.sf(z.numpy()))
        )
        return holm_adjusted(p)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Normal interval of the difference."""
        half = normal_quantile(0.5 + level / 2) * self.standard_error
        return self.difference - half, self.difference + half

    def table(self) -> pd.DataFrame:
        """One row per feature, largest difference first."""
        import pandas as pd

        low, high = self.interval()
        columns = {
            "reference": self.reference,
            "other": self.other,
            "difference": self.difference,
            "low": low,
            "high": high,
        }
        columns |= {
            "adjusted": self.adjusted,
            "reference_share": self.share[0],
            "other_share": self.share[1],
        }
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        return frame.sort_values(
            "difference", key=lambda change: -change.abs(), ignore_index=True, kind="stable"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean contributions of both groups, side by side, where they differ most."""
        top = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(6.4, 1.4 + 0.4 * max(1, len(top))))
        position = np.arange(len(top))
        ax.barh(position + 0.2, top["reference"], 0.4, color=REFERENCE, label=self.labels[0])
        ax.barh(position - 0.2, top["other"], 0.4, color=LIVE, label=self.labels[1])
        ax.set_yticks(position, top["feature"].astype(str).tolist())
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(
            xlabel="mean contribution to the output", title="What carries the output in each group"
        )
        ax.legend(frameon=False, fontsize="small")
        return ax


def compare_attributions(
    reference: Attributions,
    other: Attributions,
    *,
    labels: tuple[str, str] = ("reference", "other"),
) -> AttributionComparison:
    """Mean contribution per feature in two groups of rows, with the error of their difference.

    Source: Welch (1947), Biometrika 34:28; Holm (1979), Scand. J. Statist. 6:65.

    Args:
        reference: attributions of one group.
        other: of the other, by the same method and baseline.
        labels: of the groups, for the plot.

    Raises:
        InputError: different features, or a group of fewer than two rows.

    Cost: two passes over the contributions.
    """
    if reference.names != other.names:
        got = f"{len(reference.names)} and {len(other.names)} features, or other names"
        reject("other", "the features of the reference", got, "Attribute both groups alike.")
    for name, side in (("reference", reference), ("other", other)):
        if len(side) < 2:
            reject(name, "at least two rows", str(len(side)), "A mean of one row has no error.")
    flats = reference.flat, other.flat
    variance = torch.stack([flat.var(0) / len(flat) for flat in flats]).sum(0)
    size = torch.stack([flat.abs().mean(0) for flat in flats])
    share = size / size.sum(1, keepdim=True).clamp(min=1e-300)
    return AttributionComparison(
        reference.names, flats[0].mean(0), flats[1].mean(0), variance.sqrt(), share, labels
    )

"""Comparison of the attributions of two groups of rows, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.distributions import (
    DistributionComparison,
    compare_distributions,
)
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import brief, reject
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_BARS = 12


@dataclass(frozen=True, eq=False)
class AttributionComparison:
    """The contributions of each feature in two groups of rows.

    Args:
        names: names of the features.
        reference: `[d]` float64 mean signed contribution in the reference group.
        other: `[d]` float64 mean signed contribution in the other group.
        standard_error: `[d]` float64 standard error of the difference.
        share: `[2, d]` float64 share of each feature in the mean absolute contribution, reference
            and other.
        labels: names of the two groups.
        distributions: comparison of the distributions by permutations; None where none were asked
            for.
    """

    names: tuple[str, ...]
    reference: Tensor
    other: Tensor
    standard_error: Tensor
    share: Tensor
    labels: tuple[str, str]
    distributions: DistributionComparison | None = None

    @property
    def difference(self) -> Tensor:
        """`[d]` other minus reference, in units of the explained output."""
        return self.other - self.reference

    @property
    def adjusted(self) -> Tensor:
        """`[d]` two-sided p-value of Welch's normal test after Holm's correction over features."""
        z = self.difference.abs() / self.standard_error.clamp(min=1e-300)
        p = torch.from_numpy(2 * ndtr(-z.cpu().numpy())).to(z.device)
        return holm_adjusted(torch.where(self.difference == 0, torch.ones_like(z), p))

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
            "adjusted": self.adjusted,
            "reference_share": self.share[0],
            "other_share": self.share[1],
        }
        frame = pd.DataFrame(
            {"feature": list(self.names)}
            | {name: value.cpu().numpy() for name, value in columns.items()}
        )
        return frame.sort_values(
            "difference", key=lambda change: -change.abs(), ignore_index=True, kind="stable"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean contributions of both groups side by side, for the largest differences."""
        top = self.table().head(_BARS).iloc[::-1]
        ax = axes(ax, size=(6.4, 1.4 + 0.4 * max(1, len(top))))
        position = np.arange(len(top))
        ax.barh(position + 0.2, top["reference"], 0.4, color=REFERENCE, label=self.labels[0])
        ax.barh(position - 0.2, top["other"], 0.4, color=LIVE, label=self.labels[1])
        ax.set_yticks(position, top["feature"].astype(str).tolist())
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(xlabel="mean contribution to the output", title="Contributions in each group")
        ax.legend(frameon=False, fontsize="small")
        return ax


def compare_attributions(
    reference: Attributions,
    other: Attributions,
    *,
    labels: tuple[str, str] = ("reference", "other"),
    permutations: int = 0,
    paired: bool = False,
    ensemble: Sequence[Attributions] = (),
    seed: int = 0,
) -> AttributionComparison:
    """How the contributions differ between two groups: training and production, or two models.

    Mean contributions are compared by Welch's test. With `permutations`, the distributions are
    compared too, beside those of the inputs, by permuting the group of each row: within pairs
    where the rows are the same. Two trainings of one network differ by their seeds; with an
    `ensemble` of retrained networks a feature must leave Student's prediction interval of theirs.

    Source: Welch (1947), Biometrika 34:28; Holm (1979), Scand. J. Statist. 6:65; Smirnov (1939);
    Benjamini and Hochberg (1995), JRSS B 57:289; Lopez-Paz and Oquab (2017), arXiv:1610.06545, for
    the classifier.

    Args:
        reference: attributions of one group.
        other: attributions of the other group, by the same method and baseline.
        labels: names of the two groups.
        permutations: number of permutations for the comparison of distributions; 0 for none.
        paired: whether row i of both groups is the same row, under two models.
        ensemble: attributions of the rows of `reference` by networks that differ only in their
            seed; at least 3.
        seed: seed of the permutations, and of the sample if there are more than 2,000 rows.

    Raises:
        InputError: something else than attributions, different features, a group of fewer than 2
            rows, or of 20 with permutations, pairs of different length, or an ensemble of one or
            two.

    Cost: two passes over the contributions, and `permutations` passes over `min(n, 4000)` rows and
    2 d columns.

    Example:
        >>> import torch
        >>> from gendebug_torch.attribution import attribute
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.fill_(1.0)
        >>> x = torch.randn(100, 2, generator=torch.manual_seed(0))
        >>> before, after = attribute(model, x), attribute(model, x + torch.tensor([0.0, 3.0]))
        >>> compare_attributions(before, after).table()["feature"].iloc[0]
        'feature_1'
    """
    _check(reference, other)
    distributions = None
    if permutations or paired or ensemble:
        distributions = compare_distributions(
            reference, other, permutations, paired, ensemble, seed, labels
        )
    flats = reference.flat, other.flat
    variance = torch.stack([flat.var(0) / len(flat) for flat in flats]).sum(0)
    size = torch.stack([flat.abs().mean(0) for flat in flats])
    return AttributionComparison(
        names=reference.names,
        reference=flats[0].mean(0),
        other=flats[1].mean(0),
        standard_error=variance.sqrt(),
        share=size / size.sum(1, keepdim=True).clamp(min=1e-300),
        labels=labels,
        distributions=distributions,
    )


def _check(reference: Attributions, other: Attributions) -> None:
    """Refuse what cannot be compared."""
    for name, side in (("reference", reference), ("other", other)):
        if not isinstance(side, Attributions):
            remedy = "Pass `found.select(rows)` of what `attribute` found."
            reject(name, "attributions of a group of rows", brief(side), remedy)
        if len(side) < 2:
            reject(name, "at least two rows", str(len(side)), "A mean of one row has no error.")
    if reference.names != other.names:
        got = f"{len(reference.names)} and {len(other.names)} features, or other names"
        reject("other", "the features of the reference", got, "Attribute both groups alike.")

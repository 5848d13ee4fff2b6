"""Shift of an embedding: a classifier two-sample test, and the rows that give it away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.shift.two_sample.joint import MAX_ROWS, joint_shift
from gendebug_torch.stats.embeddings.projection import principal_components
from gendebug_torch.stats.probe_network import cross_fit, design

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COMPONENTS = 32
_TOLD_ROWS = 20


@dataclass(frozen=True, eq=False)
class EmbeddingShift:
    """Classifier two-sample test of an embedding.

    Args:
        auc: out-of-fold AUC of a network that classifies rows by sample.
        low: lower 95 % bound of the AUC.
        high: upper 95 % bound of the AUC.
        p_value: p-value of no difference, by permuted labels with refits.
        width: width of the embedding.
        components: directions that were compared.
        scores: how much each compared row looks like production, `[n + m]` float64.
        in_production: whether the row is one of production, `[n + m]` bool.
        rows: number of the row on its side, `[n + m]` int64.
    """

    auc: float
    low: float
    high: float
    p_value: float
    width: int
    components: int
    scores: Tensor
    in_production: Tensor
    rows: Tensor

    def telling_rows(self, *, production: bool = True) -> list[int]:
        """Numbers of the rows of one side that are least like the other, the clearest first."""
        sign = 1.0 if production else -1.0
        side = self.in_production == production
        order = (sign * self.scores[side]).argsort(descending=True, stable=True)
        return [int(row) for row in self.rows[side][order][:_TOLD_ROWS]]

    def table(self) -> pd.DataFrame:
        """The most telling rows of both sides."""
        sides = {True: "production", False: "reference"}
        parts = [
            pd.DataFrame({"side": name, "row": self.telling_rows(production=side)})
            for side, name in sides.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distribution of the scores on both sides."""
        ax = axes(ax)
        for side, name, color in ((False, "reference", REFERENCE), (True, "production", LIVE)):
            values = self.scores[self.in_production == side].numpy()
            ax.hist(values, 30, density=True, alpha=0.5, color=color, label=name)
        ax.set_xlabel("score of a classifier that tells production from the reference")
        ax.set_ylabel("density")
        ax.set_title(f"Embedding: AUC {self.auc:.3f} ({self.low:.3f} to {self.high:.3f})")
        ax.legend(frameon=False)
        return ax


def embedding_shift(
    reference: Tensor,
    live: Tensor,
    *,
    classes: tuple[Tensor, Tensor] | None = None,
    block: int = 1,
    seed: int = 0,
) -> EmbeddingShift:
    """Classifier two-sample test of the principal components of an embedding of any width.

    Where the classes of both sides are given, rows of the reference are drawn with the class shares
    of production, so that other shares of the same classes are no shift.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545; Rabanser, Guennemann and Lipton
    (2019), NeurIPS 32, for reduced dimensions.

    Args:
        reference: embedding `[n, e]`.
        live: embedding `[m, e]`.
        classes: class ids of both sides, `[n]` and `[m]` int64.
        block: rows that stay together when labels are permuted, for rows in time.
        seed: seed of drawing and permuting.

    Raises:
        InputError: fewer than 40 rows on a side.

    Cost: `joint_shift` of 32 columns and at most 2,500 rows a side, and the projection.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> before, after = torch.randn(2, 300, 700, generator=generator)
        >>> after[:, :9] += 2.0
        >>> found = embedding_shift(before, after)
        >>> found.auc > 0.9, found.p_value < 0.001
        (True, True)
    """
    generator = torch.Generator().manual_seed(seed)
    picked = [_drawn(len(live), block, generator)]
    if classes is not None and block == 1:
        picked.insert(0, _drawn_as(classes[0], classes[1], generator))
    else:
        picked.insert(0, _drawn(len(reference), block, generator))
    sides = [part.cpu()[rows] for part, rows in zip((reference, live), picked, strict=True)]
    before, after = principal_components(sides, _COMPONENTS, seed=seed)
    shift = joint_shift(before, after, block=block, seed=seed)
    in_production = torch.arange(len(before) + len(after)) >= len(before)
    scores = cross_fit(design(before, after).values, in_production.double(), seed=seed).scores
    return EmbeddingShift(
        shift.auc,
        shift.low,
        shift.high,
        shift.p_value,
        reference.shape[1],
        before.shape[1],
        scores[:, 0].cpu(),
        in_production,
        torch.cat(picked),
    )


def _drawn(n: int, block: int, generator: torch.Generator) -> Tensor:
    """At most 2,500 rows, evenly spaced where they are in time."""
    if n <= MAX_ROWS:
        return torch.arange(n)
    if block > 1:
        return torch.linspace(0, n - 1, MAX_ROWS, dtype=torch.float64).long()
    return torch.randperm(n, generator=generator)[:MAX_ROWS].sort().values


def _drawn_as(own: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows as possible, at most 2,500, whose classes have the shares of the other side."""
    own, other = own.cpu(), other.cpu()
    k = int(torch.cat([own, other]).amax()) + 1
    have, shares = own.bincount(minlength=k), other.bincount(minlength=k) / len(other)
    limits = (have / shares)[(shares > 0) & (have > 0)]
    total = min(float(limits.amin()) if len(limits) else 0.0, float(MAX_ROWS))
    order = torch.randperm(len(own), generator=generator)
    kept = []
    for class_id, share in enumerate(shares.tolist()):
        rows = order[own[order] == class_id]
        kept.append(rows[: round(share * total)])
    return torch.cat(kept).sort().values

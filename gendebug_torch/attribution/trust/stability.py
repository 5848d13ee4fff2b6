"""How much an explanation moves when nothing that matters does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.stats.auc import midranks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Contributions below this part of a row's largest are ties: they rank nothing.
_TIE = 1e-6


def top_k_jaccard(first: Tensor, second: Tensor, k: int = 5) -> Tensor:
    """`[n]` overlap of the k largest absolute contributions of each row: common ones over all; ties
    at zero are left out.

    Zeros are not counted, because a method that sets most coefficients to zero would look stable by
    its zeros. Two rows without any contribution agree.

    Args:
        first: `[n, d]` float.
        second: `[n, d]` float.
        k: how many count.
    """
    chosen = []
    for side in (first.abs(), second.abs()):
        top = torch.zeros_like(side, dtype=torch.bool).scatter_(
            1, side.topk(min(k, side.shape[1]), dim=1).indices, True
        )
        chosen.append(top & (side > _TIE * side.amax(1, keepdim=True).clamp(min=1e-300)))
    union = (chosen[0] | chosen[1]).sum(1)
    return torch.where(
        union > 0,
        (chosen[0] & chosen[1]).sum(1).double() / union.clamp(min=1),
        torch.ones_like(union, dtype=torch.float64),
    )


def row_spearman(first: Tensor, second: Tensor) -> Tensor:
    """`[n]` rank correlation of absolute contributions within each row; NaN where a row is constant
    or has one feature.
    """
    return spearman(first.abs(), second.abs())


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """`[n]` rank correlation of the rows of two `[n, d]`, equal values at their mean rank; NaN
    where a row is constant.

    Source: Spearman (1904), Am. J. Psychol. 15:72.
    """
    ranks = [midranks(side.contiguous(), side) for side in (first, second)]
    centered = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    correlation: Tensor = (centered[0] * centered[1]).sum(1) / (
        centered[0].norm(dim=1) * centered[1].norm(dim=1)
    )
    return correlation


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Change of explanations under a change of the inputs that is too small to matter.

    Args:
        attribution: `[n]` float64 relative change of a row's contributions, |a' - a| / |a|.
        output: `[n]` float64 change of the output, in standard deviations of the outputs.
        noise: standard deviation of the change of the inputs, in those of each input.
    """

    attribution: Tensor
    output: Tensor
    noise: float

    def table(self) -> pd.DataFrame:
        """Quantiles of both changes over rows."""
        import pandas as pd

        levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
        columns = {"attribution": self.attribution, "output": self.output}
        return pd.DataFrame(
            {"quantile": levels.numpy()}
            | {key: torch.quantile(value, levels).numpy() for key, value in columns.items()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the relative changes of the contributions, beside those of the output."""
        ax = axes(ax)
        edges = np.logspace(-3, 1, 41).tolist()
        for values, color, label in (
            (self.attribution, LIVE, "contributions"),
            (self.output, REFERENCE, "output"),
        ):
            ax.hist(
                values.clamp(1e-3, 10.0).numpy(), bins=edges, color=color, alpha=0.6, label=label
            )
        ax.axvline(self.noise, color=NEUTRAL, linewidth=0.8, label="inputs")
        ax.set(
            xscale="log",
            xlabel="relative change",
            ylabel="rows",
            title=f"Inputs moved by {self.noise:.0%} of their spread",
        )
        ax.legend(frameon=False, fontsize="small")
        return ax


def jitter(inputs: Tensor, noise: float, seed: int) -> Tensor:
    """`[n, ...]` inputs plus Gaussian noise of this many standard deviations of each input;
    constant inputs stay.
    """
    drawn = torch.randn(
        inputs.shape, generator=torch.Generator().manual_seed(seed), dtype=inputs.dtype
    )
    spread = inputs.std(0) if len(inputs) > 1 else torch.zeros_like(inputs[0])
    return inputs + noise * spread * drawn.to(inputs.device)


def sensitivity(before: Attributions, after: Attributions, noise: float) -> Sensitivity:
    """Changes between explanations of rows and of the same rows, jittered; rows with NaN are left
    out.

    Source: Alvarez-Melis and Jaakkola (2018), arXiv:1806.08049; Yeh et al. (2019),
    arXiv:1901.09392.
    """
    assert before.outputs is not None
    assert after.outputs is not None
    both = before.usable & after.usable
    a, b = before.flat[both], after.flat[both]
    scale = a.norm(dim=1)
    relative = (b - a).norm(dim=1) / torch.maximum(
        scale, 1e-3 * scale.median() if len(scale) else scale
    ).clamp(min=1e-12)
    outputs = [side.outputs[both].double() for side in (before, after) if side.outputs is not None]
    spread: Any = outputs[0].std().clamp(min=1e-12) if len(outputs[0]) > 1 else 1.0
    return Sensitivity(relative, (outputs[1] - outputs[0]).abs() / spread, noise)

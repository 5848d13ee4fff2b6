"""Sensitivity of attributions to noise of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Change of the attributions under noise of the inputs that is too small to matter.

    Args:
        attribution: `[n]` float64 relative change of the contributions of a row, |a' - a| / |a|.
        output: `[n]` float64 change of the output, in standard deviations of the outputs.
        noise: standard deviation of the noise, in standard deviations of each input.
    """

    attribution: Tensor
    output: Tensor
    noise: float

    def table(self) -> pd.DataFrame:
        """Quantiles of both changes over rows."""
        import pandas as pd

        levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
        columns = {"attribution": self.attribution, "output": self.output}
        quantiles = {name: torch.quantile(value, levels) for name, value in columns.items()}
        return pd.DataFrame(
            {"quantile": levels.numpy()}
            | {name: value.numpy() for name, value in quantiles.items()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the relative changes of the contributions, beside those of the output."""
        ax = axes(ax)
        edges = np.logspace(-3, 1, 41).tolist()
        for values, color, label in (
            (self.attribution, LIVE, "contributions"),
            (self.output, REFERENCE, "output"),
        ):
            limited = values.clamp(1e-3, 10.0).numpy()
            ax.hist(limited, bins=edges, color=color, alpha=0.6, label=label)
        ax.axvline(self.noise, color=NEUTRAL, linewidth=0.8, label="inputs")
        ax.set(
            xscale="log",
            xlabel="relative change",
            ylabel="rows",
            title=f"Noise of {self.noise:.0%} of the spread of each input",
        )
        ax.legend(frameon=False, fontsize="small")
        return ax


def jitter(inputs: Tensor, noise: float, seed: int) -> Tensor:
    """`[n, ...]` inputs plus Gaussian noise; constant inputs are unchanged.

    Args:
        inputs: `[n, ...]` float inputs.
        noise: standard deviation of the noise, in standard deviations of each input.
        seed: seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    spread = inputs.std(0) if len(inputs) > 1 else torch.zeros_like(inputs[0])
    return inputs + noise * spread * sample.to(inputs.device)


def sensitivity(before: Attributions, after: Attributions, noise: float) -> Sensitivity:
    """Changes between attributions of rows and of the same rows with noise; NaN rows left out.

    Source: Alvarez-Melis and Jaakkola (2018), arXiv:1806.08049; Yeh et al. (2019),
    arXiv:1901.09392.

    Args:
        before: attributions of the rows.
        after: attributions of the same rows with noise.
        noise: standard deviation of the noise, in standard deviations of each input.
    """
    assert before.outputs is not None
    assert after.outputs is not None
    both = before.usable & after.usable
    a, b = before.flat[both], after.flat[both]
    scale = a.norm(dim=1)
    floor = 1e-3 * scale.median() if len(scale) else scale
    relative = (b - a).norm(dim=1) / torch.maximum(scale, floor).clamp(min=1e-12)
    first, second = (outputs[both].double() for outputs in (before.outputs, after.outputs))
    spread: Any = first.std().clamp(min=1e-12) if len(first) > 1 else 1.0
    return Sensitivity(relative, (second - first).abs() / spread, noise)

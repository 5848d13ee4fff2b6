"""What a model leaves to be learned: whether its features tell more about its residuals than its
own output does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.probe_network import cross_fit, design, fold_ids

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_BINS = 10


@dataclass(frozen=True, eq=False)
class ResidualStructure:
    """Mean squared residuals of a model, and how much of them a probe of its features explains out
    of fold.

    Args:
        rows: how many were judged.
        model: mean squared residual of the model, summed over classes (the Brier score).
        recalibrated: the same once a probe of the model's output alone has corrected it.
        explained: the same once a probe of output and features has.
        error: standard error of `recalibrated - explained`.
        predicted: `[b]` mean residual that the probe foretells, in bins of equally many rows.
        observed: `[b]` mean residual of these rows.
        observed_error: `[b]` its standard error.
    """

    rows: int
    model: float
    recalibrated: float
    explained: float
    error: float
    predicted: Tensor
    observed: Tensor
    observed_error: Tensor

    @property
    def gain(self) -> float:
        """Share of the recalibrated model's mean squared residual that the features explain;
        negative where they add only noise.
        """
        return 1 - self.explained / self.recalibrated if self.recalibrated > 0 else 0.0

    @property
    def gain_error(self) -> float:
        """Standard error of `gain`."""
        return self.error / self.recalibrated if self.recalibrated > 0 else 0.0

    def table(self) -> pd.DataFrame:
        """One row per bin."""
        import pandas as pd

        columns = {
            "predicted": self.predicted,
            "observed": self.observed,
            "standard_error": self.observed_error,
        }
        return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Observed against foretold mean residuals: on the flat line nothing is left, on the
        diagonal all of it was foretold.
        """
        ax = axes(ax)
        x, y, error = (
            values.cpu().numpy() for values in (self.predicted, self.observed, self.observed_error)
        )
        ax.axhline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.plot(x, x, color=NEUTRAL, linestyle=":", label="as foretold")
        ax.errorbar(
            x,
            y,
            yerr=1.96 * error,
            color=LIVE,
            marker="o",
            linestyle="",
            label="observed, 95 % interval",
        )
        ax.set(xlabel="residual that the features foretell", ylabel="mean residual")
        ax.set_title(f"{self.gain:.0%} of the squared residual is foretold")
        ax.legend(frameon=False, fontsize="small")
        return ax


def residual_structure(
    features: pd.DataFrame | Tensor,
    outputs: Tensor,
    residuals: Tensor,
    *,
    categorical: tuple[str, ...] = (),
    seed: int = 0,
) -> ResidualStructure:
    """How much of the residuals of a model its features explain beyond what its outputs do.

    Two cross-fitted probes foretell `residuals`: one of `outputs` alone, which is recalibration,
    and one of outputs and features. What the second takes off the mean squared residual beyond the
    first, on rows it has not seen, could have been learned: a bound from below, as the probe is
    small.

    Source: Ramsey (1969), J. R. Stat. Soc. B 31:350, for asking residuals what a fit missed; here
    by a probe, out of fold, and beyond recalibration.

    Args:
        features: `[n, ...]` what the model was fed.
        outputs: `[n, k]` float, what it said: logits or values.
        residuals: `[n, k]` float, target minus prediction; for classes the indicator minus the
            probability.
        categorical: feature columns that hold codes.
        seed: of the folds and the probes.

    Raises:
        InputError: lengths that differ, or fewer than 50 rows.

    Cost: twice that of `cross_fit`.
    """
    n = len(residuals)
    if not len(features) == len(outputs) == n or n < 5 * _BINS:
        reject(
            "residuals",
            f"at least {5 * _BINS} rows, as many as features and outputs",
            str(n),
            "Pass more rows.",
        )
    folds = fold_ids(n, 5, seed)
    told = design(outputs.cpu()).values
    known = design(features, categorical=categorical).values.cpu()
    wanted = residuals.double().cpu()
    alone = cross_fit(told, wanted, folds=folds, seed=seed)
    both = cross_fit(torch.cat([told, known], 1), wanted, folds=folds, seed=seed)
    before, after = ((wanted - probe.scores).square().sum(1) for probe in (alone, both))
    apart = before - after
    # The class that the probe foretells most of is drawn.
    drawn = int(both.scores.var(0).argmax())
    order = both.scores[:, drawn].argsort(stable=True)
    parts = [(both.scores[rows, drawn], wanted[rows, drawn]) for rows in order.tensor_split(_BINS)]
    return ResidualStructure(
        rows=n,
        model=float(wanted.square().sum(1).mean()),
        recalibrated=float(before.mean()),
        explained=float(after.mean()),
        error=float(apart.std()) / n**0.5,
        predicted=torch.stack([score.mean() for score, _ in parts]),
        observed=torch.stack([seen.mean() for _, seen in parts]),
        observed_error=torch.stack([seen.std() / len(seen) ** 0.5 for _, seen in parts]),
    )

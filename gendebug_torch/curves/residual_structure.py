"""Structure in the residuals of a model: whether its features still predict them."""

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
    """Mean squared residuals of a model, and the share that a probe network predicts.

    Args:
        rows: number of rows inspected.
        model: mean squared residual of the model, summed over classes (the Brier score).
        recalibrated: the same after a probe of the model's outputs alone has corrected it.
        explained: the same after a probe of outputs and features has.
        error: standard error of `recalibrated - explained`.
        predicted: mean residual that the probe predicts, `[b]`, in bins of equally many rows.
        observed: mean residual of these rows, `[b]`.
        observed_error: standard error of `observed`, `[b]`.
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
        """Share of the recalibrated model's mean squared residual that the features explain.

        It is negative where they add only noise.
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
        """Observed over predicted mean residuals.

        On the flat line the features predict nothing, on the diagonal what they predict is true.
        """
        ax = axes(ax)
        x, y, error = (
            values.cpu().numpy() for values in (self.predicted, self.observed, self.observed_error)
        )
        ax.axhline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.plot(x, x, color=NEUTRAL, linestyle=":", label="as predicted")
        ax.errorbar(
            x,
            y,
            yerr=1.96 * error,
            color=LIVE,
            marker="o",
            linestyle="",
            label="observed, 95 % interval",
        )
        ax.set(xlabel="residual predicted from the features", ylabel="mean residual")
        ax.set_title(f"{self.gain:.0%} of the squared residual is predictable")
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

    Two cross-fitted probe networks predict `residuals`: one from `outputs` alone, which is
    recalibration, and one from outputs and features. What the second takes off the mean squared
    residual beyond the first, on rows it has not seen, could have been learned: a lower bound, as
    the probe is small.

    Source: Ramsey (1969), J. R. Stat. Soc. B 31:350, for testing residuals for what a fit missed;
    here by a probe, out of fold, and beyond recalibration.

    Args:
        features: model inputs, `[n, ...]`.
        outputs: logits or predicted values, `[n, k]` float.
        residuals: target minus prediction, `[n, k]` float; for classes the indicator minus the
            probability.
        categorical: names of feature columns that hold codes.
        seed: seed of the folds and the probes.

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
    output_columns = design(outputs.cpu()).values
    feature_columns = design(features, categorical=categorical).values.cpu()
    residuals = residuals.double().cpu()
    alone = cross_fit(output_columns, residuals, folds=folds, seed=seed)
    both = cross_fit(
        torch.cat([output_columns, feature_columns], 1), residuals, folds=folds, seed=seed
    )
    before, after = ((residuals - probe.scores).square().sum(1) for probe in (alone, both))
    # The class whose residual the probe predicts best is drawn.
    column = int(both.scores.var(0).argmax())
    predicted, observed = both.scores[:, column], residuals[:, column]
    bins = predicted.argsort(stable=True).tensor_split(_BINS)
    return ResidualStructure(
        rows=n,
        model=float(residuals.square().sum(1).mean()),
        recalibrated=float(before.mean()),
        explained=float(after.mean()),
        error=float((before - after).std()) / n**0.5,
        predicted=torch.stack([predicted[rows].mean() for rows in bins]),
        observed=torch.stack([observed[rows].mean() for rows in bins]),
        observed_error=torch.stack([observed[rows].std() / len(rows) ** 0.5 for rows in bins]),
    )

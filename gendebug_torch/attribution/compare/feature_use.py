"""How a network uses its features: shares of attribution, direction, and change of importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtr
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.column_shuffling import Metric
from gendebug_torch.attribution.compare.permutation import (
    PermutationImportance,
    decrease_p_values,
    permutation_importance,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import map_rows
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NEWTON_STEPS = 25


def contribution_slope(contributions: Tensor, feature: int, targets: Tensor) -> tuple[float, float]:
    """Slope of the log odds of the labels on the contribution of a feature, and its standard error.

    Logistic regression of the labels on the contribution of the feature and on the sum of all
    others, by Newton's method. The slope is 1 where the labels follow the contribution as the
    network says, 0 where they do not follow it, and negative where the relation is reversed.

    Args:
        contributions: `[n, d]` float contributions, in units of the logit.
        feature: column of the feature.
        targets: `[n]` labels, 0 or 1.

    Returns:
        The slope and its standard error; the error is infinite where the rows do not determine it.
    """
    own, targets = contributions[:, feature].double(), targets.to(contributions.device)
    design = torch.stack([torch.ones_like(own), contributions.double().sum(1) - own, own], 1)
    weights = torch.zeros(3, dtype=torch.float64)
    covariance = torch.full((3, 3), torch.inf, dtype=torch.float64)
    ridge = 1e-6 * torch.eye(3, dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        probs = (design @ weights).sigmoid()
        information = design.T @ (design * (probs * (1 - probs))[:, None]) + ridge
        covariance = torch.linalg.inv(information)
        weights = weights + (covariance @ (design.T @ (targets.double() - probs))).clamp(-1.0, 1.0)
    return float(weights[2]), float(covariance[2, 2]) ** 0.5


def quantity_slope(contributions: Tensor, feature: int, targets: Tensor) -> tuple[float, float]:
    """Slope of a quantity on the contribution of a feature, and its standard error.

    Least squares on the contribution of the feature and on the sum of all others; the slope reads
    as that of `contribution_slope`.

    Args:
        contributions: `[n, d]` float contributions, in units of the quantity.
        feature: column of the feature.
        targets: `[n]` true values.
    """
    own, y = contributions[:, feature].double(), targets.to(contributions.device).double()
    design = torch.stack([torch.ones_like(own), contributions.double().sum(1) - own, own], 1)
    ridge = 1e-9 * design.square().sum(0).mean() * torch.eye(3, dtype=torch.float64)
    inverse = torch.linalg.inv(design.T @ design + ridge.to(design))
    weights = inverse @ (design.T @ y)
    variance = (y - design @ weights).square().sum() / max(len(y) - 3, 1)
    return float(weights[2]), float((variance * inverse[2, 2]).sqrt())


def attribution_shares(attributions: Attributions) -> tuple[Tensor, Tensor]:
    """`[d]` share of each feature in the mean absolute contribution, and its standard error.

    The standard error is that of a ratio of means (delta method).
    """
    size = attributions.flat[attributions.usable].abs()
    if not len(size):
        nothing = torch.zeros(len(attributions.names), dtype=torch.float64)
        return nothing, nothing
    total = size.sum(1, keepdim=True)
    mean = total.mean().clamp(min=1e-300)
    share = size.mean(0) / mean
    residual = (size - share * total) / mean
    error = residual.std(0) / len(size) ** 0.5 if len(size) > 1 else torch.ones_like(share)
    return share, error


@dataclass(frozen=True, eq=False)
class Directions:
    """Change of the output when a feature goes from its lower to its upper quartile.

    Args:
        names: names of the features.
        change: `[f]` float64 mean change of the output, all other features unchanged.
        standard_error: `[f]` float64 standard error over rows.
        expected: `[f]` float64, 1 where the output should rise and -1 where it should fall.
        against: `[f]` float64 share of rows that change the other way.
        scale: standard deviation of the output.
    """

    names: tuple[str, ...]
    change: Tensor
    standard_error: Tensor
    expected: Tensor
    against: Tensor
    scale: float

    @property
    def adjusted(self) -> Tensor:
        """`[f]` one-sided p-value that the change has the expected sign, after Holm."""
        z = -self.change * self.expected / self.standard_error.clamp(min=1e-12)
        return holm_adjusted(torch.from_numpy(ndtr(-z.numpy())))

    def table(self) -> pd.DataFrame:
        """One row per feature: the change with its interval, and the expected direction."""
        half = normal_quantile(0.975) * self.standard_error
        columns = {
            "change": self.change,
            "low": self.change - half,
            "high": self.change + half,
            "against": self.against,
        }
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {name: value.numpy() for name, value in columns.items()}
        )
        return frame.assign(
            expected=np.where(self.expected.numpy() > 0, "increasing", "decreasing")
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean change per feature; orange where it has the wrong sign."""
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(6.2, 1.4 + 0.34 * max(1, len(rows))))
        wrong = (rows["change"] * np.where(rows["expected"] == "increasing", 1, -1)) < 0
        arrow = {"increasing": "↑", "decreasing": "↓"}
        labels = [
            f"{name} ({arrow[direction]} expected)"
            for name, direction in zip(rows["feature"], rows["expected"], strict=True)
        ]
        spread = [rows["change"] - rows["low"], rows["high"] - rows["change"]]
        colors = np.where(wrong, LIVE, REFERENCE).tolist()
        ax.barh(labels, rows["change"], color=colors, xerr=spread, error_kw={"elinewidth": 0.8})
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(
            xlabel="change of the output from the lower to the upper quartile",
            title="Direction of the features",
        )
        ax.grid(visible=False, axis="y")
        return ax


def feature_directions(
    model: Model,
    records: Records,
    expected: Mapping[str, str],
    *,
    device: str | torch.device = "auto",
) -> Directions:
    """The direction of the effect of features: partial dependence between their quartiles.

    Source: Friedman (2001), Ann. Statist. 29:1189, section 8.2.

    Args:
        model: network from inputs `[n, d]` to one logit `[n]`.
        records: rows with features `[n, d]` in named columns.
        expected: feature -> `increasing` or `decreasing`.
        device: device of the model.

    Cost: two forwards per row and feature.
    """
    inputs, features = model_inputs(records), records.features
    columns = list(map(str, features.columns)) if isinstance(features, pd.DataFrame) else []
    names = tuple(name for name in expected if name in columns)
    positions = [columns.index(name) for name in names]
    bounds = _quartiles(inputs[:, positions])

    def output(part: Tensor, position: int, value: Tensor) -> Tensor:
        block = part.clone()
        block[:, position] = value.to(part.device)
        return model(block).float()  # type: ignore[no-any-return]

    def step(part: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        changes = [
            output(part, position, high) - output(part, position, low)
            for position, low, high in zip(positions, *bounds, strict=True)
        ]
        return {"change": torch.stack(changes, 1), "output": model(part.clone()).float()}

    rows = map_rows(step, inputs, model=model, device=device)
    signs = [1.0 if expected[name] == "increasing" else -1.0 for name in names]
    return _directions(names, rows["change"].double(), rows["output"].double(), signs)


def _directions(
    names: tuple[str, ...], change: Tensor, output: Tensor, signs: Sequence[float]
) -> Directions:
    """Directions from `[n, f]` changes of the output and `[n]` outputs."""
    n, sign = len(change), torch.tensor(signs, dtype=torch.float64)
    return Directions(
        names=names,
        change=change.mean(0),
        standard_error=change.std(0) / n**0.5 if n > 1 else torch.ones_like(sign),
        expected=sign,
        against=(change * sign < 0).double().mean(0),
        scale=float(output.std()),
    )


def _quartiles(columns: Tensor) -> Tensor:
    """`[2, f]` quartiles of `[n, f]` columns; extremes where the quartiles agree (a rare flag)."""
    levels = torch.tensor([0.25, 0.75], dtype=torch.float64)
    bounds = torch.quantile(columns.double(), levels, dim=0).to(columns)
    extremes = torch.stack([columns.amin(0), columns.amax(0)])
    return torch.where(bounds[0] == bounds[1], extremes, bounds)


@dataclass(frozen=True, eq=False)
class ImportanceChange:
    """Permutation importance of the same features on two data sets.

    Args:
        before: importance on the first data set.
        after: importance of the same features on the second.
        no_skill: loss on the first data set of a model that knows only the frequencies of classes
            or labels, or the mean of the quantities.
        labels: names of the two data sets.
    """

    before: PermutationImportance
    after: PermutationImportance
    no_skill: float
    labels: tuple[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.before.names

    @property
    def importance(self) -> Tensor:
        """`[2, f]` float64 importance, before and after."""
        return torch.stack([self.before.importance, self.after.importance])

    @property
    def standard_error(self) -> Tensor:
        """`[2, f]` float64 standard error, before and after."""
        return torch.stack([self.before.standard_error, self.after.standard_error])

    @property
    def base(self) -> tuple[float, float]:
        """Loss without shuffling, before and after."""
        return self.before.base, self.after.base

    @property
    def skill(self) -> Tensor:
        """`[2, f]` importance as a share of the gain of the network over no skill, before."""
        return self.importance / max(self.no_skill - self.before.base, 1e-12)

    @property
    def adjusted(self) -> Tensor:
        """`[f]` one-sided p-value that the importance did not decrease, after Holm."""
        return decrease_p_values(self.before, self.after)

    def table(self) -> pd.DataFrame:
        """One row per feature: importance before and after, with standard errors."""
        columns = {
            "before": self.importance[0],
            "after": self.importance[1],
            "before_error": self.standard_error[0],
            "after_error": self.standard_error[1],
            "p_holm": self.adjusted,
        }
        return pd.DataFrame(
            {"feature": list(self.names)} | {name: value.numpy() for name, value in columns.items()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Importance before and after, side by side."""
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(6.2, 1.6 + 0.5 * max(1, len(rows))))
        position = np.arange(len(rows))
        for offset, side, color, label in (
            (0.2, "before", REFERENCE, self.labels[0]),
            (-0.2, "after", LIVE, self.labels[1]),
        ):
            ax.barh(
                position + offset,
                rows[side],
                0.38,
                color=color,
                label=label,
                xerr=1.96 * rows[f"{side}_error"],
                error_kw={"elinewidth": 0.8},
            )
        ax.set_yticks(position, rows["feature"].astype(str).tolist())
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set(
            xlabel=f"rise of the {self.before.metric} when shuffled",
            title="Permutation importance",
        )
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small")
        return ax


def importance_change(
    model: Model,
    before: Records,
    after: Records,
    columns: Sequence[str],
    *,
    repeats: int = 3,
    seed: int = 0,
) -> ImportanceChange:
    """Permutation importance of the same columns on two labeled data sets.

    Source: Breiman (2001), Machine Learning 45:5.

    Args:
        model: network from inputs `[n, d]` to logits.
        before: labeled rows.
        after: labeled rows of a later time.
        columns: names of the columns, as in `permutation_importance`.
        repeats: number of shuffles per column.
        seed: seed of the shuffles.

    Cost: `repeats` forwards per row and column of both.
    """
    metric, no_skill = _loss_of(before)
    first, second = (
        permutation_importance(
            model, side, metric=metric, columns=columns, repeats=repeats, seed=seed
        )
        for side in (before, after)
    )
    return ImportanceChange(first, second, no_skill, (before.name, after.name))


def _loss_of(records: Records) -> tuple[str | Metric, float]:
    """Metric of the task, and its value for a model that knows only frequencies or means.

    Of several quantities each counts in units of the variance of its targets here.
    """
    targets = records.targets
    assert targets is not None
    if records.task is Task.REGRESSION:
        variance = targets.double().var(0, correction=0)
        if targets.ndim < 2:
            return "squared_error", float(variance)
        scale = variance.clamp(min=1e-12)

        def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs - targets).square() / scale.to(outputs)).mean(1)

        return squared_error, 1.0
    rate = torch.bincount(targets).double() / max(len(targets), 1) if targets.ndim == 1 else None
    if rate is not None:
        return "nll", float(torch.special.entr(rate).sum())
    shares = targets.double().mean(0)
    entropies = torch.special.entr(shares) + torch.special.entr(1 - shares)
    return "nll", float(entropies.mean())

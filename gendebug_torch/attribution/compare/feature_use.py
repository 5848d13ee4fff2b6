"""What a network leans on: shares of attribution, the way a feature pushes, and whether its worth
lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.permutation import (
    PermutationImportance,
    fallen,
    permutation_importance,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.records import Records, model_inputs
from gendebug_torch.model.runner import Model, map_rows
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NEWTON = 25


def kept_slope(contributions: Tensor, at: int, targets: Tensor) -> tuple[float, float]:
    """How much of a feature's contribution the labels still follow: 1 as the network says, 0 not at
    all, negative turned round.

    Logistic regression of the labels on the feature's contribution and on the sum of all others, by
    Newton's method.

    Args:
        contributions: `[n, d]` float, in units of the logit.
        at: column of the feature.
        targets: `[n]` 0 or 1.

    Returns:
        The slope of the feature's contribution, and its standard error; infinite where the rows
        cannot tell.
    """
    own = contributions[:, at].double()
    design = torch.stack([torch.ones_like(own), contributions.double().sum(1) - own, own], 1)
    weights, covariance = (
        torch.zeros(3, dtype=torch.float64),
        torch.full((3, 3), torch.inf, dtype=torch.float64),
    )
    for _ in range(_NEWTON):
        probs = (design @ weights).sigmoid()
        information = design.T @ (design * (probs * (1 - probs))[:, None]) + 1e-6 * torch.eye(
            3, dtype=torch.float64
        )
        covariance = torch.linalg.inv(information)
        weights = weights + (covariance @ (design.T @ (targets.double() - probs))).clamp(-1.0, 1.0)
    return float(weights[2]), float(covariance[2, 2]) ** 0.5


def attribution_shares(found: Attributions) -> tuple[Tensor, Tensor]:
    """`[d]` share of each feature in the mean absolute contribution, and its standard error (delta
    method).
    """
    size = found.flat[found.usable].abs()
    if not len(size):
        return torch.zeros(len(found.names), dtype=torch.float64), torch.zeros(
            len(found.names), dtype=torch.float64
        )
    total = size.sum(1, keepdim=True)
    share = size.mean(0) / total.mean().clamp(min=1e-300)
    off = (size - share * total) / total.mean().clamp(min=1e-300)
    return share, off.std(0) / len(size) ** 0.5 if len(size) > 1 else torch.ones_like(share)


@dataclass(frozen=True, eq=False)
class Directions:
    """How the output changes when a feature goes from its lower to its upper quartile, everything
    else as it is.

    Args:
        names: of the features.
        change: `[f]` float64 mean change of the output.
        standard_error: `[f]` float64 over rows.
        expected: `[f]` float64, 1 where it should rise and -1 where it should fall.
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
        """`[f]` one-sided p-value that the mean change goes the expected way, after Holm's
        correction.
        """
        wrong = -self.change * self.expected / self.standard_error.clamp(min=1e-12)
        return holm_adjusted(torch.from_numpy(norm.sf(wrong.numpy())))

    def table(self) -> pd.DataFrame:
        """One row per feature: the change with its interval, and what was expected."""
        half = normal_quantile(0.975) * self.standard_error
        columns = {
            "change": self.change,
            "low": self.change - half,
            "high": self.change + half,
            "against": self.against,
        }
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        return frame.assign(
            expected=np.where(self.expected.numpy() > 0, "increasing", "decreasing")
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean change per feature; orange where it goes against what was expected."""
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(6.2, 1.4 + 0.34 * max(1, len(rows))))
        wrong = (rows["change"] * np.where(rows["expected"] == "increasing", 1, -1)) < 0
        arrow = {"increasing": "↑", "decreasing": "↓"}
        labels = [
            f"{name} ({arrow[way]} expected)"
            for name, way in zip(rows["feature"], rows["expected"], strict=True)
        ]
        spread = [rows["change"] - rows["low"], rows["high"] - rows["change"]]
        ax.barh(
            labels,
            rows["change"],
            color=np.where(wrong, LIVE, REFERENCE).tolist(),
            xerr=spread,
            error_kw={"elinewidth": 0.8},
        )
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(
            xlabel="change of the output from the lower to the upper quartile",
            title="Which way features push",
        )
        ax.grid(visible=False, axis="y")
        return ax


def directions(
    model: Model, records: Records, expected: dict[str, str], *, device: str | torch.device = "auto"
) -> Directions:
    """The way in which each named feature pushes the only output of a model: partial dependence
    between its quartiles.

    Source: Friedman (2001), Ann. Statist. 29:1189, section 8.2.

    Args:
        model: inputs `[n, d]` to one logit `[n]`.
        records: rows with features `[n, d]` in named columns.
        expected: feature -> `increasing` or `decreasing`.
        device: where the model runs.

    Cost: two forwards per row and feature.
    """
    inputs = model_inputs(records)
    known = (
        list(map(str, records.features.columns))
        if isinstance(records.features, pd.DataFrame)
        else []
    )
    names = tuple(name for name in expected if name in known)
    places = [known.index(name) for name in names]
    bounds = torch.quantile(
        inputs[:, places].double(), torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0
    ).to(inputs)
    # A column whose quartiles agree (a rare flag) is moved between its extremes.
    flat = bounds[0] == bounds[1]
    bounds[0, flat], bounds[1, flat] = (
        inputs[:, places].amin(0)[flat],
        inputs[:, places].amax(0)[flat],
    )

    def step(part: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        moved = []
        for at, place in enumerate(places):
            ends = []
            for bound in bounds:
                block = part.clone()
                block[:, place] = bound[at].to(part.device)
                ends.append(model(block).float())
            moved.append(ends[1] - ends[0])
        return {"change": torch.stack(moved, 1), "output": model(part.clone()).float()}

    rows = map_rows(step, inputs, model=model, device=device)
    change, n = rows["change"].double(), len(inputs)
    sign = torch.tensor(
        [1.0 if expected[name] == "increasing" else -1.0 for name in names], dtype=torch.float64
    )
    error = change.std(0) / n**0.5 if n > 1 else torch.ones(len(names), dtype=torch.float64)
    return Directions(
        names,
        change.mean(0),
        error,
        sign,
        (change * sign < 0).double().mean(0),
        float(rows["output"].double().std()),
    )


@dataclass(frozen=True, eq=False)
class Worth:
    """What features are worth to a network, before and after: the rise of its loss when they are
    shuffled.

    Args:
        before: importance of the features.
        after: of the same features later.
        no_skill: loss before of a model that only knows how frequent the classes are.
        labels: of the two data sets.
    """

    before: PermutationImportance
    after: PermutationImportance
    no_skill: float
    labels: tuple[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features."""
        return self.before.names

    @property
    def importance(self) -> Tensor:
        """`[2, f]` float64, before and after."""
        return torch.stack([self.before.importance, self.after.importance])

    @property
    def standard_error(self) -> Tensor:
        """`[2, f]` float64."""
        return torch.stack([self.before.standard_error, self.after.standard_error])

    @property
    def base(self) -> tuple[float, float]:
        """Loss as it is, before and after."""
        return self.before.base, self.after.base

    @property
    def skill(self) -> Tensor:
        """`[2, f]` importance as a share of what the network gains over no skill before."""
        return self.importance / max(self.no_skill - self.before.base, 1e-12)

    @property
    def adjusted(self) -> Tensor:
        """`[f]` one-sided p-value that the importance did not fall, after Holm's correction."""
        return fallen(self.before, self.after)

    def table(self) -> pd.DataFrame:
        """One row per feature: importance before and after, with standard errors."""
        columns = {"before": self.importance[0], "after": self.importance[1]}
        columns |= {
            "before_error": self.standard_error[0],
            "after_error": self.standard_error[1],
            "p_holm": self.adjusted,
        }
        return pd.DataFrame(
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Importance before and after, side by side."""
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(6.2, 1.6 + 0.5 * max(1, len(rows))))
        place = np.arange(len(rows))
        for shift, side, color, label in (
            (0.2, "before", REFERENCE, self.labels[0]),
            (-0.2, "after", LIVE, self.labels[1]),
        ):
            spread = 1.96 * rows[f"{side}_error"]
            ax.barh(
                place + shift,
                rows[side],
                0.38,
                color=color,
                label=label,
                xerr=spread,
                error_kw={"elinewidth": 0.8},
            )
        ax.set_yticks(place, rows["feature"].astype(str).tolist())
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set(
            xlabel="rise of the nll when shuffled", title="What a feature is worth to the network"
        )
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small")
        return ax


def worth(
    model: Model,
    before: Records,
    after: Records,
    columns: Sequence[str],
    *,
    repeats: int = 3,
    seed: int = 0,
) -> Worth:
    """Permutation importance of the same columns on two labeled data sets.

    Source: Breiman (2001), Machine Learning 45:5.

    Args:
        model: inputs `[n, d]` to logits.
        before: labeled rows.
        after: labeled rows, later.
        columns: names, as `permutation_importance` has them.
        repeats: shuffles per column.
        seed: of the shuffles.

    Cost: `repeats` forwards per row and column of both.
    """
    sides = [
        permutation_importance(model, side, columns=columns, repeats=repeats, seed=seed)
        for side in (before, after)
    ]
    assert before.targets is not None
    rate = torch.bincount(before.targets).double() / max(len(before), 1)
    entropy = -float((rate[rate > 0] * rate[rate > 0].log()).sum())
    return Worth(sides[0], sides[1], entropy, (before.name, after.name))

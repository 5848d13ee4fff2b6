"""Performance of a model, or of small networks, with and without some columns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.data.times import parse_times
from gendebug_torch.leakage.columns.column_codes import Features, feature_table, numeric_values
from gendebug_torch.stats.auc import rank_auc
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.probe_network import MAX_LEVELS, Design, cross_fit, design

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows and columns that a small network is fitted on.
_MAX_ROWS, MAX_COLUMNS = 10_000, 60
_MIN_ROWS = 20
# The start of a date text, year first or last.
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(\b|T)")


@dataclass(frozen=True)
class Performance:
    """How well a target is predicted on rows that were not used for fitting.

    Args:
        explained: share of the variance of the target (Brier skill score for classes); NaN if the
            target is constant.
        auc: AUC for class 1 of 2; NaN otherwise.
        error: standard error of `auc`, or of `explained` where there is no AUC.
        rows: number of rows evaluated.
    """

    explained: float
    auc: float
    error: float
    rows: int

    @property
    def metric(self) -> str:
        """`AUC` for two classes, else `R²`."""
        return "AUC" if math.isfinite(self.auc) else "R²"

    @property
    def value(self) -> float:
        """The AUC for two classes, else the explained share."""
        return self.auc if math.isfinite(self.auc) else self.explained


@dataclass(frozen=True)
class ColumnAblation:
    """Performance on each split of the data with and without some columns.

    Args:
        columns: names of the columns, which carry the same information.
        method: how they were removed, e.g. `permuted through the model`.
        splits: name of the split -> performance with the columns and without them.
    """

    columns: tuple[str, ...]
    method: str
    splits: Mapping[str, tuple[Performance, Performance]]

    def error(self, split: str) -> float:
        """Standard error of the difference on one split, at most: as if both were independent."""
        a, b = self.splits[split]
        return math.hypot(a.error, b.error)

    def table(self) -> pd.DataFrame:
        """One row per split: the metric with and without the columns, and their difference."""
        rows = [
            [split, a.metric, a.value, b.value, a.value - b.value, self.error(split), a.rows]
            for split, (a, b) in self.splits.items()
        ]
        names = ["split", "metric", "with", "without", "difference", "standard_error", "rows"]
        return pd.DataFrame(rows, columns=names)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The metric of each split with and without the columns, with 95 % intervals."""
        z = normal_quantile(0.975)
        bars = [
            (f"{split}, {state}", p.value, p.value - z * p.error, p.value + z * p.error)
            for split, pair in self.splits.items()
            for state, p in zip(("with", "without"), pair, strict=True)
        ]
        frame = pd.DataFrame(bars, columns=["split", "value", "low", "high"])
        metric = next((pair[0].metric for pair in self.splits.values()), "")
        title = f"Performance with and without {', '.join(self.columns)[:40]}"
        interval = ("low", "high")
        return BarEvidence(frame, "split", "value", title, metric, interval=interval).plot(ax)


@dataclass(frozen=True)
class OutcomeCovariance:
    """How some columns go together with all others, beside a record of the outcome and a cause.

    Args:
        covariance: covariance of what the columns and what the others say of the target.
        error: its standard error.
        of_record: the covariance if the columns depended on the others through the target alone.
        of_mediator: the covariance if the target depended on the others through the columns alone.
    """

    covariance: float
    error: float
    of_record: float
    of_mediator: float

    @property
    def follows(self) -> bool:
        """Whether the columns are rather a record of the outcome than a cause of it."""
        related = self.covariance - 2 * self.error > self.of_record / 2 > 0
        return related and self.covariance**2 < self.of_record * self.of_mediator


def performance(scores: Tensor, targets: Tensor) -> Performance:
    """Performance of scores for the indicators of `target_columns`, or for one real target.

    The standard error is DeLong's (1988) for an AUC and Olkin and Finn's (1995) for R².

    Args:
        scores: estimates of the columns of `targets`, `[n, r]` float64.
        targets: indicators or a real target, `[n, r]` float64.
    """
    n = len(targets)
    variation = float((targets - targets.mean(0)).square().sum()) if n else 0.0
    if n < 2 or variation <= 0:
        return Performance(math.nan, math.nan, math.nan, n)
    explained = 1 - float((targets - scores).square().sum()) / variation
    if targets.shape[1] == 1 and bool(((targets == 0) | (targets == 1)).all()):
        area = rank_auc(scores[:, 0], targets[:, 0] > 0.5)
        return Performance(explained, float(area.auc[0]), float(area.variance[0]) ** 0.5, n)
    r = min(max(explained, 0.0), 1.0)
    return Performance(explained, math.nan, 2 * math.sqrt(r / n) * (1 - r), n)


def target_columns(targets: Tensor, k: int) -> Tensor:
    """`[n, r]` float64: one column for a real target or two classes, else one indicator a class."""
    if targets.is_floating_point() or k <= 2:
        return targets.double()[:, None]
    return torch.nn.functional.one_hot(targets, k).double()


def ablated_performance(
    features: Features,
    targets: Tensor,
    removed: Sequence[Collection[str]],
    *,
    order: Sequence[str],
    categorical: Sequence[str] = (),
    seed: int = 0,
) -> list[Performance]:
    """Out-of-fold performance of small networks without each of several sets of columns.

    Args:
        features: table `[n, d]` or tensor `[n, ...]`; at most 10,000 rows, drawn at random, are
            used.
        targets: class ids `[n]` int64, or real values.
        removed: sets of columns to leave out, one after the other.
        order: columns by falling association with the target; the first 60 are used.
        categorical: numeric columns that hold codes.
        seed: seed of the rows and the networks.

    Cost: one decomposition of the columns for each set, see `probe_network.cross_fit`.
    """
    rows = random_rows(len(targets), seed)
    y = targets.cpu()[rows]
    indicators = target_columns(y, _class_count(y))
    whole = design(numeric_table(features, rows, order[:MAX_COLUMNS]), categorical=categorical)
    return [
        performance(_fold_scores(whole.without(list(columns)), indicators, seed), indicators)
        for columns in removed
    ]


def outcome_covariance(
    columns: Collection[str],
    features: Features,
    targets: Tensor,
    *,
    order: Sequence[str],
    categorical: Sequence[str] = (),
    seed: int = 0,
) -> OutcomeCovariance:
    """How what some columns say of the target goes together with what the others say of it.

    With predictions f of the target Y from the columns and g from the others, a record of the
    outcome, which depends on the others through Y alone, has
    `cov(f, g) = cov(f, Y) cov(Y)^-1 cov(Y, g)`; a cause of Y that is independent of the others
    has 0, and a cause through which alone the others act has `cov(Y, g)`. The first holds of a
    quantity where f and g follow it linearly, of classes always.

    Source: Pearl (2009), Causality, section 1.2.3, on conditional independence in graphs.

    Args:
        columns: the columns in question.
        features: table `[n, d]` or tensor `[n, ...]`; at most 10,000 rows, drawn at random, are
            used.
        targets: class ids `[n]` int64, or real values.
        order: columns by falling association with the target; the first 60 are used.
        categorical: numeric columns that hold codes.
        seed: seed of the rows and the networks.

    Cost: that of `ablated_performance` without two sets of columns.
    """
    rows = random_rows(len(targets), seed)
    y = targets.cpu()[rows]
    indicators = target_columns(y, _class_count(y))
    used = list(dict.fromkeys([*columns, *order]))[:MAX_COLUMNS]
    whole = design(numeric_table(features, rows, used), categorical=categorical)
    rest = [name for name in used if name not in columns]
    f, g = (_fold_scores(whole.without(part), indicators, seed) for part in (rest, list(columns)))
    f, g, centred = (part - part.mean(0) for part in (f, g, indicators))
    products, n = (f * g).sum(1), len(y)
    inverse = torch.linalg.pinv(centred.T @ centred / n, hermitian=True)
    of_record = (f.T @ centred / n @ inverse @ (centred.T @ g / n)).trace()
    error = products.std(correction=0) / n**0.5
    of_mediator = (centred * g).sum(1).mean()
    return OutcomeCovariance(*map(float, (products.mean(), error, of_record, of_mediator)))


def _fold_scores(part: Design, indicators: Tensor, seed: int) -> Tensor:
    """Out-of-fold predictions `[n, r]` of a small network; their mean where nothing is to fit."""
    if not part.values.shape[1] or len(indicators) < 10:
        return indicators.mean(0).expand_as(indicators)
    return cross_fit(part.values, indicators, seed=seed).scores


def refit_ablation(
    columns: Collection[str],
    train: tuple[Features, Tensor],
    splits: Mapping[str, tuple[Features, Tensor]],
    *,
    order: Sequence[str],
    categorical: Sequence[str] = (),
) -> ColumnAblation:
    """Small networks fitted on training rows with and without some columns.

    Args:
        columns: columns to leave out.
        train: features and targets to fit on.
        splits: name -> features and targets to evaluate on; a split that lacks one of the columns
            is left out.
        order: columns by falling association with the target; the first 60 are used.
        categorical: numeric columns that hold codes.
    """
    used = list(dict.fromkeys([*columns, *order]))[:MAX_COLUMNS]
    fitted, labels = _drawn(train, used)
    pairs = {}
    for name, split in splits.items():
        table, targets = _drawn(split, used)
        shared = [c for c in fitted.columns if c in table.columns]
        if not set(columns) <= set(shared) or min(len(labels), len(targets)) < _MIN_ROWS:
            continue
        whole = design(fitted[shared], table[shared], categorical=categorical)
        y = torch.cat([labels, targets])
        indicators = target_columns(y, _class_count(y))
        outside = torch.arange(len(y)) >= len(labels)
        with_columns, without = (
            performance(
                cross_fit(part.values, indicators, folds=(~outside).long()).scores[outside],
                indicators[outside],
            )
            for part in (whole, whole.without(list(columns)))
        )
        pairs[name] = (with_columns, without)
    return ColumnAblation(tuple(columns), "small networks fitted on train", pairs)


def permutation_ablation(
    columns: Collection[str],
    splits: Mapping[str, tuple[Features, Tensor]],
    predict: Callable[[Features], Tensor],
    *,
    seed: int = 0,
) -> ColumnAblation:
    """Performance of a model with some columns as they are and with their values permuted.

    Source: Breiman (2001), Mach. Learn. 45:5, section 10.

    Args:
        columns: columns to permute, all in the same order.
        splits: name -> features and targets.
        predict: function from features to `[n, r]` estimates of the columns of `target_columns`.
        seed: seed of the permutation.
    """
    pairs = {}
    for name, (features, targets) in splits.items():
        scores = predict(features)
        indicators = target_columns(targets.cpu(), scores.shape[1] if scores.shape[1] > 1 else 2)
        order = torch.randperm(len(indicators), generator=torch.Generator().manual_seed(seed))
        changed = predict(permuted_columns(features, columns, order))
        pairs[name] = (performance(scores, indicators), performance(changed, indicators))
    return ColumnAblation(tuple(columns), "permuted through the model", pairs)


def permuted_columns(features: Features, columns: Collection[str], order: Tensor) -> Features:
    """The same features with the rows of some columns in another order."""
    if isinstance(features, Tensor):
        changed = features.detach().clone()
        flat = changed.view(len(changed), -1)
        positions = [int(column.removeprefix("feature_")) for column in columns]
        flat[:, positions] = flat[order.to(flat.device)][:, positions]
        return changed
    table = features.copy(deep=False)
    for name in [c for c in features.columns if str(c) in columns]:
        table[name] = features[name].iloc[order.numpy()].array
    return table


def _class_count(targets: Tensor) -> int:
    return 0 if targets.is_floating_point() or not len(targets) else int(targets.max()) + 1


def random_rows(n: int, seed: int = 0) -> Tensor:
    """Rows that are looked at: 10,000 at most, in a random order.

    Args:
        n: number of rows.
        seed: seed of the order.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_MAX_ROWS]


def _drawn(split: tuple[Features, Tensor], columns: Sequence[str]) -> tuple[pd.DataFrame, Tensor]:
    """Random rows of some columns, and their targets."""
    features, targets = split
    rows = random_rows(len(targets))
    return numeric_table(features, rows, columns), targets.cpu()[rows]


def numeric_table(features: Features, rows: Tensor, columns: Sequence[str]) -> pd.DataFrame:
    """Some rows and columns, in the order of the names, as numbers and names; times as numbers.

    Args:
        features: table `[n, d]` or tensor `[n, ...]`.
        rows: positions of rows.
        columns: names of columns; those that are not there are left out.
    """
    if isinstance(features, Tensor):
        table = feature_table(features[rows.to(features.device)].double(), columns)
    else:
        table = feature_table(features, columns).iloc[rows.numpy()].reset_index(drop=True)
    table = table[[name for name in columns if name in table.columns]].copy(deep=False)
    for name in table.columns:
        if table[name].dtype.kind in "mM":
            table[name] = numeric_values(table[name])
        elif (seconds := _date_texts(table[name])) is not None:
            table[name] = seconds
    return table


def _date_texts(values: pd.Series[Any]) -> pd.Series[Any] | None:
    """Texts that are dates of more days than levels are told apart, as seconds; None for others."""
    if values.dtype.kind in "iufbc":
        return None
    codes, levels = pd.factorize(values)
    texts = [str(level) for level in levels]
    if len(texts) <= MAX_LEVELS or not all(map(_DATE.match, texts)):
        return None
    times = parse_times(texts)
    if not times.calendar or times.unreadable:
        return None
    seconds = np.append(times.values.numpy(), np.nan)
    return pd.Series(seconds[codes], index=values.index)

"""The label noise of some records, from the best out-of-sample predictions that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.labels.dynamics.training_dynamics import COLUMN
from gendebug_torch.labels.noise.cross_fitting import cross_fitted_logits, standardized
from gendebug_torch.labels.noise.noise_model import LabelNoise, class_logits, label_noise
from gendebug_torch.labels.review.ranking import IN_SAMPLE, OUT_OF_SAMPLE
from gendebug_torch.stats.probe_network import design

_MIN_ROWS = 100
# With more columns, or fewer rows per class, small networks predict no labels: errors from lack of
# data then look like wrong labels.
_MAX_COLUMNS, _MIN_ROWS_PER_CLASS = 4096, 100
# Noise up to this p-value is estimated a second time.
_CONFIRMED_P_VALUE = 0.01
_NETWORKS, _WIDTH = 10, 48
_NETWORKS_ON_FEATURES = "small networks on the features, which did not see the row"
_NETWORKS_ON_BOTH = "small networks on features and logits, which did not see the row"
_MODEL = "the model's logits, which predict the labels better than small networks do"


@dataclass(frozen=True)
class NoiseEstimate:
    """Label noise of some rows of a set of records.

    Args:
        rows: row numbers, `[m]` int64.
        noise: label noise of these rows.
        basis: whether the predictions are in-sample or out-of-sample.
        source: model that predicts the labels, as a phrase.
    """

    rows: Tensor
    noise: LabelNoise
    basis: str
    source: str


def estimate_cost(name: str) -> Any:
    """Cost of an estimate for the records of this name."""

    def cost(given: Mapping[str, Any]) -> Cost:
        records = given[name]
        n, columns = len(records), 0
        if records.features is not None:
            is_table = isinstance(records.features, pd.DataFrame)
            columns = records.features[:1].size if is_table else 1
        binary = records.logits is None or records.logits.ndim == 1
        classes = 2 if binary else records.logits.shape[1]
        elements = 1000.0 * min(n, 20_000) * classes + n
        if columns:
            steps = min(max(10 * n // 256, 100), 1500)
            weights = _WIDTH * (columns + _WIDTH + classes)
            elements += 0.6 * _NETWORKS * steps * 256 * weights
        return Cost(elements=elements)

    return cost


def noise_estimate(
    records: Records, *, out_of_sample: bool, stacked: bool, max_rows: int, seed: int
) -> NoiseEstimate | str:
    """The label noise by the best predictions available, or the reason why there are none.

    Args:
        records: records with labels, and features or logits.
        out_of_sample: whether the logits are out-of-sample.
        stacked: whether networks get the logits as inputs beside the features.
        max_rows: most rows used, drawn at random.
        seed: seed of rows and networks.
    """
    targets = records.targets
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return "Label noise is estimated for class targets only."
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    rows = order[:max_rows].sort().values
    part = records if len(rows) == len(targets) else records.select(rows)
    labels = part.targets
    present = 0 if labels is None else len(torch.unique(labels))
    if labels is None or len(labels) < _MIN_ROWS or present < 2:
        return (
            f"Too few rows or classes to estimate label noise: {len(targets)} rows; at least "
            f"{_MIN_ROWS} rows and two classes are needed."
        )
    columns = _columns(part) if len(labels) >= _MIN_ROWS_PER_CLASS * present else None
    if part.logits is not None and (columns is None or (out_of_sample and not stacked)):
        basis = OUT_OF_SAMPLE if out_of_sample else IN_SAMPLE
        source = f"the {basis} logits of the model"
        return NoiseEstimate(rows, label_noise(part.logits, labels), basis, source)
    if columns is None:
        return (
            "Label noise cannot be estimated: there are no logits, and no features from which a "
            f"small network could learn (it needs {_MIN_ROWS_PER_CLASS} rows per class)."
        )
    noises = _noises(part, labels.to(columns.device), columns, stacked, seed)
    source = min(noises, key=lambda name: noises[name].log_loss)
    return NoiseEstimate(rows, noises[source], OUT_OF_SAMPLE, source)


def _noises(
    part: Records, labels: Tensor, columns: Tensor, stacked: bool, seed: int
) -> dict[str, LabelNoise]:
    """Label noise by the source of the predictions."""
    classes = max(int(labels.max()) + 1, len(part.schema.classes))
    if part.logits is None:
        return {_NETWORKS_ON_FEATURES: _network_noise(columns, labels, classes, seed)}
    z = class_logits(part.logits).to(columns.device)
    classes = max(classes, z.shape[1])
    if not stacked:
        return {_NETWORKS_ON_FEATURES: _network_noise(columns, labels, classes, seed)}
    inputs = torch.cat([columns, standardized(z).to(columns)], 1)
    return {
        _NETWORKS_ON_BOTH: _network_noise(inputs, labels, classes, seed),
        _MODEL: label_noise(z, labels),
    }


def _network_noise(inputs: Tensor, labels: Tensor, classes: int, seed: int) -> LabelNoise:
    """Label noise by cross-fitted networks; significant noise has to persist with other folds.

    Errors of networks in rows of rare levels depend on the folds, wrong labels do not. The second
    time both predictions are averaged, and the larger p-value counts.
    """
    logits = cross_fitted_logits(inputs, labels, classes=classes, scaled=True, seed=seed)
    noise = label_noise(logits, labels)
    if noise.p_value > _CONFIRMED_P_VALUE:
        return noise
    other = cross_fitted_logits(inputs, labels, classes=classes, scaled=True, seed=seed + 1)
    mean = torch.stack([logits, other]).double().softmax(2).mean(0)
    confirmed = label_noise(mean.clamp(min=1e-38).log(), labels)
    return replace(confirmed, p_value=max(noise.p_value, confirmed.p_value))


def _columns(records: Records) -> Tensor | None:
    """`[n, d]` inputs of a small network, or None without usable features."""
    if records.features is None:
        return None
    columns = design(records.features, categorical=records.schema.categorical).values
    return columns if 0 < columns.shape[1] <= _MAX_COLUMNS else None


def group_columns(records: Records, rows: Tensor) -> pd.DataFrame | None:
    """Metadata columns of these rows that may form groups, without ids and training dynamics."""
    if records.metadata is None:
        return None
    excluded = [
        name
        for name in records.metadata
        if name in records.schema.ids or str(name).startswith(COLUMN)
    ]
    columns = records.metadata.drop(columns=excluded)
    return columns.iloc[rows.cpu().numpy()].reset_index(drop=True) if columns.shape[1] else None


def class_name(records: Records, label: int) -> str:
    """Name of a class by the schema, else its id."""
    return str(records.schema.classes[label]) if label < len(records.schema.classes) else str(label)

"""The label noise of some records, from the best out-of-sample predictions that there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.inputs import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import missing_labels
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.dynamics.training_dynamics import COLUMN
from gendebug_torch.labels.noise.misfit import excess_p_value, right_labels
from gendebug_torch.labels.noise.noise_fit import label_probs
from gendebug_torch.labels.noise.noise_model import LabelNoise, class_logits, label_noise
from gendebug_torch.labels.prediction.cross_fitting import cross_fitted, standardized
from gendebug_torch.labels.prediction.missed_signal import features_explain
from gendebug_torch.labels.prediction.small_networks import Truth
from gendebug_torch.labels.review.ranking import IN_SAMPLE, OUT_OF_SAMPLE
from gendebug_torch.stats.embeddings.projection import principal_components
from gendebug_torch.stats.probe_network import design

MIN_ROWS = 100
# Principal components of an embedding that networks are fitted to.
_DIRECTIONS = 64
# With more columns, or fewer rows per class, small networks predict no labels: errors from lack of
# data then look like wrong labels.
_MAX_COLUMNS, _MIN_ROWS_PER_CLASS = 4096, 100
# Probabilities or columns held at once: of more classes or columns fewer rows are drawn.
_MAX_CELLS = 20_000_000
# Noise up to the first p-value is estimated again over other folds, up to four times in all, or
# twice below the second p-value.
CONFIRMED, CERTAIN, AVERAGED = 0.01, 1e-10, 4
# 99 % quantile of the normal distribution: the model predicts labels better than small networks.
_KNOWS_BETTER = 2.326
# Held-out rows on which they are compared.
_MAX_OTHERS = 5_000
# Networks that are trained, in whole trainings, and units of a hidden layer.
_NETWORKS, _WIDTH = 6.0, 32
NETWORKS_ON_FEATURES = "small networks on the features, which did not see the row"
NETWORKS_ON_BOTH = "small networks on features and logits, which did not see the row"
NO_PREDICTIONS = (
    "Wrong labels cannot be estimated: there are no predictions of the labels, and no features "
    f"from which a small network could learn (it needs {MIN_ROWS} rows)."
)


@dataclass(frozen=True)
class NoiseEstimate:
    """Label noise of some rows of a set of records.

    Args:
        noise: label noise of these rows.
        basis: whether the predictions are in-sample or out-of-sample.
        source: model that predicts the labels, as a phrase.
        labeled: number of rows that have a label.
    """

    noise: LabelNoise
    basis: str
    source: str
    labeled: int

    @property
    def rows(self) -> Tensor:
        """`[m]` int64 row numbers in the records."""
        return self.noise.row_numbers


def estimate_cost(name: str, *, networks: float = 1.0) -> Any:
    """Cost of an estimate.

    Args:
        name: name of the records, as the check takes them.
        networks: share of the runs in which networks are trained.
    """

    def cost(given: Mapping[str, Any]) -> Cost:
        records = given[name]
        n, columns = len(records), 0
        if records.features is not None:
            is_table = isinstance(records.features, pd.DataFrame)
            columns = records.features[:1].size if is_table else records.features[:1].numel()
        flat = records.logits is None or records.logits.ndim == 1
        classes = 2 if flat else records.logits.shape[1]
        elements = 1000.0 * min(min(n, 20_000) * classes, 4_000_000) + n
        if columns:
            steps = min(max(10 * n // 256, 100), 1500)
            weights = _WIDTH * (columns + _WIDTH + classes)
            elements += 0.6 * networks * _NETWORKS * steps * 256 * weights
        # Once where there is no noise, and up to four times where there is.
        return Cost(elements=2.0 * elements)

    return cost


@dataclass(frozen=True)
class Sample:
    """Labeled rows to be judged, in order; at random where there are too many.

    Args:
        rows: row numbers, `[m]` int64.
        records: these rows.
        targets: their labels.
        labeled: number of rows that have a label.
    """

    rows: Tensor
    records: Records
    targets: Tensor
    labeled: int


def labeled_sample(records: Records, max_rows: int, seed: int) -> Sample:
    """Rows that have a label, or one of their labels.

    Args:
        records: records with labels.
        max_rows: most rows; fewer of many classes or columns.
        seed: seed of the drawing.
    """
    targets = records.targets
    assert targets is not None
    labeled = (~missing_labels(targets, partly=True)).nonzero()[:, 0].cpu()
    parts = (part for part in (records.features, targets, records.logits) if part is not None)
    most = min(max_rows, _MAX_CELLS // max(math.prod(part.shape[1:]) for part in parts))
    order = torch.randperm(len(labeled), generator=torch.Generator().manual_seed(seed))
    rows = labeled[order[:most]].sort().values
    part = records if len(rows) == len(targets) else records.select(rows)
    return Sample(rows, part, targets[rows.to(targets.device)], len(labeled))


def noise_estimate(
    records: Records,
    *,
    out_of_sample: bool,
    stacked: bool,
    max_rows: int,
    seed: int,
    held_out: Records | None = None,
    deadline: Deadline = NO_DEADLINE,
) -> NoiseEstimate | str:
    """The label noise by the best predictions available, or the reason why there are none.

    Args:
        records: records with class labels, and features or logits; rows without a label are left
            out.
        out_of_sample: whether the logits are out-of-sample.
        stacked: whether networks get the logits as inputs beside the features.
        max_rows: most rows used, drawn at random.
        seed: seed of rows and networks.
        held_out: records of other rows with labels and out-of-sample logits, on which small
            networks are compared with the model.
        deadline: end of the time.
    """
    sample = labeled_sample(records, max_rows, seed)
    labels, logits = sample.targets, sample.records.logits
    present = len(torch.unique(labels))
    if len(labels) < MIN_ROWS or present < 2:
        return (
            f"Too few rows or classes to estimate label noise: {sample.labeled} labeled rows; at "
            f"least {MIN_ROWS} rows and two classes are needed."
        )
    enough = len(labels) >= _MIN_ROWS_PER_CLASS * present
    columns = usable_columns(sample.records) if enough else None
    if logits is not None and (columns is None or out_of_sample):
        basis = OUT_OF_SAMPLE if out_of_sample else IN_SAMPLE
        noise, source = label_noise(logits, labels), f"the {basis} logits of the model"
        if columns is not None and stacked and _logits_miss(noise, columns, seed):
            inputs = torch.cat([columns, standardized(class_logits(logits)).to(columns)], 1)
            by_networks = _network_noise(
                inputs, labels, noise.probs.shape[1], seed, deadline=deadline
            )
            if by_networks.log_loss < noise.log_loss:
                noise, source = by_networks, NETWORKS_ON_BOTH
        return NoiseEstimate(replace(noise, rows=sample.rows), basis, source, sample.labeled)
    if columns is None:
        return (
            "Label noise cannot be estimated: there are no logits, and no features from which a "
            f"small network could learn (it needs {_MIN_ROWS_PER_CLASS} rows per class)."
        )
    noise = _noise_by_features(sample, columns, held_out, seed, deadline)
    return NoiseEstimate(noise, OUT_OF_SAMPLE, NETWORKS_ON_FEATURES, sample.labeled)


def _noise_by_features(
    sample: Sample, columns: Tensor, held_out: Records | None, seed: int, deadline: Deadline
) -> LabelNoise:
    """Label noise by networks on the features, compared with the model on held-out rows."""
    labels, logits = sample.targets, sample.records.logits
    outputs = 2 if logits is None or logits.ndim == 1 else logits.shape[1]
    classes = max(int(labels.max()) + 1, len(sample.records.schema.classes), outputs)
    others = partial(_others, sample.records, held_out, classes)
    noise = _network_noise(columns, labels, classes, seed, others, deadline)
    return replace(noise, rows=sample.rows)


def _logits_miss(noise: LabelNoise, columns: Tensor, seed: int) -> bool:
    """Whether the features predict the labels beyond the logits and the noise."""
    residual = -label_probs(noise.probs, noise.transition)
    residual[torch.arange(len(residual), device=residual.device), noise.targets] += 1.0
    return features_explain(columns, residual.to(columns.device), seed=seed)


@dataclass(frozen=True)
class _Others:
    """Held-out rows, and what the model says of their labels.

    Args:
        columns: inputs of a small network, of the judged rows and of `m` others below them.
        noise: label noise of the others by the model's logits.
    """

    columns: Tensor
    noise: LabelNoise


def _others(judged: Records, held_out: Records | None, classes: int) -> _Others | None:
    """At most 5,000 held-out rows with the same columns and classes."""
    if held_out is None or held_out.logits is None or held_out.targets is None:
        return None
    if held_out.task != judged.task or held_out.features is None:
        return None
    sample = labeled_sample(held_out, _MAX_OTHERS, 0)
    part, logits = sample.records, sample.records.logits
    assert logits is not None
    if len(sample.rows) < MIN_ROWS or class_logits(logits).shape[1] != classes:
        return None
    own, other = judged.features, part.features
    if own is None or other is None or type(own) is not type(other):
        return None
    if isinstance(own, pd.DataFrame) and set(own) != set(other):
        return None
    built = design(own, other, categorical=judged.schema.categorical)
    return _Others(built.values, label_noise(logits, sample.targets))


def _network_noise(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
    others: Callable[[], _Others | None] = lambda: None,
    deadline: Deadline = NO_DEADLINE,
) -> LabelNoise:
    """Label noise by cross-fitted networks; significant noise has to persist with other folds.

    Errors of networks in rows of rare levels depend on the folds, wrong labels do not. Predictions
    over up to four partitions into folds are averaged, and the larger p-value of the first and of
    the average counts. So does that of more noise than they show on right labels of other rows.
    """
    labels, n = labels.to(inputs.device), len(labels)
    truth, probs, p_values = Truth(labels, "class", classes), list[Tensor](), list[float]()
    found: _Others | None = None
    for run in range(AVERAGED):
        if run == 1 and (found := others()) is not None:
            inputs = found.columns
        logits = cross_fitted(inputs.float(), truth, seed=seed + run, deadline=deadline)
        probs.append(logits.double().softmax(1))
        z = _mean_logits([part[:n] for part in probs])
        noise = label_noise(z, labels)
        p_values.append(noise.p_value)
        if noise.p_value > CONFIRMED or (run and noise.p_value < CERTAIN):
            break
    noise = replace(noise, p_value=max(p_values[0], p_values[-1]))
    if found is None or noise.p_value > CONFIRMED:
        return noise
    return _beyond_misfit(noise, z, _mean_logits([part[n:] for part in probs[1:]]), found.noise)


def _mean_logits(probs: list[Tensor]) -> Tensor:
    return torch.stack(probs).mean(0).clamp(min=1e-38).log()


def _beyond_misfit(noise: LabelNoise, z: Tensor, other: Tensor, model: LabelNoise) -> LabelNoise:
    """The noise beyond what small networks show on right labels, where the model knows better.

    Args:
        noise: noise by small networks.
        z: their logits for the judged rows.
        other: their logits for held-out rows.
        model: noise of the held-out rows by the model's logits.
    """
    losses = [part.losses() for part in (label_noise(other, model.targets), model)]
    worse = losses[0] - losses[1]
    if float(worse.mean()) * len(worse) ** 0.5 <= _KNOWS_BETTER * float(worse.std()):
        return noise
    right = right_labels(model.probs)
    p_value, misfit = excess_p_value(noise.transition, z, noise.targets, other, right)
    share = 1 - min(misfit, 1.0)
    rate, low = share * noise.rate, share * noise.low
    return replace(noise, rate=rate, low=low, p_value=max(noise.p_value, p_value))


def usable_columns(records: Records, *, with_metadata: bool = False) -> Tensor | None:
    """`[n, d]` inputs of a small network, or None without usable features.

    Where there is an embedding it is its principal components: properties of a picture or a text
    tell little of its class.

    Args:
        records: records with features.
        with_metadata: whether columns that say where a row belongs count among the features of a
            table, so that what a model does wrong in one place is not taken for wrong labels; those
            that say who labeled it, and when, do not.
    """
    if records.embedding is not None:
        (directions,) = principal_components([records.embedding], _DIRECTIONS)
        return design(directions).values
    if records.features is None:
        return None
    features, schema = records.features, records.schema
    if with_metadata and records.metadata is not None and isinstance(features, pd.DataFrame):
        left_out = {*schema.ids, schema.source, schema.group, schema.time, schema.label_time}
        names = [name for name in records.metadata if name not in {*left_out, *features}]
        features = pd.concat([features, records.metadata[names].set_axis(features.index)], axis=1)
    columns = design(features, categorical=schema.categorical).values
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

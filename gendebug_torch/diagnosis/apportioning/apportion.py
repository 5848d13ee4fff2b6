"""The bill of two sides, from the causes that findings name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause
from gendebug_torch.checks.rows import position_rows
from gendebug_torch.data.records import Records
from gendebug_torch.diagnosis.apportioning.bill import (
    UNEXPLAINED,
    Bill,
    BillLine,
    ordered_lines,
)
from gendebug_torch.diagnosis.apportioning.mechanisms import (
    Pair,
    Plan,
    elsewhere,
    planned,
    with_rest,
    without_units,
)
from gendebug_torch.diagnosis.apportioning.remedies import (
    Regained,
    Trials,
    best_remedies,
    expected_remedies,
)
from gendebug_torch.diagnosis.apportioning.shapley import shapley_values
from gendebug_torch.diagnosis.causes import LikelyCause
from gendebug_torch.diagnosis.counterfactuals.changes import named_columns
from gendebug_torch.diagnosis.counterfactuals.metrics import (
    METRICS,
    RowMetric,
    row_metric,
    weighted_mean,
)
from gendebug_torch.diagnosis.counterfactuals.resampling import (
    blocks_of,
    interval,
    resampling_weights,
)
from gendebug_torch.diagnosis.counterfactuals.tilts import (
    MOST_MISSED,
    Tilts,
    fit_tilts,
    uneven_factor,
)
from gendebug_torch.diagnosis.counterfactuals.worlds import Mechanism, Side, Worlds
from gendebug_torch.errors import NO_DEADLINE, Deadline, reject
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.shift.quality.remedies import random_folds

# Labeled rows of each side, and of a class, from which there is a bill.
MIN_ROWS, _MIN_CLASS = 100, 10
# Replicates, and their most values; of many rows, whose intervals are narrow, there are fewer.
_REPLICATES, _LEAST_REPLICATES, _MOST_VALUES = 120, 40, 24_000_000
# Rows of each side that remedies are tried on.
_TRIED = 20_000
# Causes whose cost is known without labels of production, and what to do where they are not all.
_WITHOUT_LABELS = (Cause.TRAIN_SERVE_SKEW, Cause.COVARIATE_SHIFT, Cause.SPLIT_LEAKAGE)
_LABEL = f"Label {MIN_ROWS} rows of production."
# Largest difference between given outputs and those of the network, in their standard deviations.
_SAME_OUTPUTS, _COMPARED = 0.01, 256


def apportioned(
    causes: Sequence[LikelyCause],
    model: Any,
    validation: Records,
    production: Records,
    *,
    metric: str | None = None,
    device: str | torch.device = "auto",
    deadline: Deadline = NO_DEADLINE,
) -> Bill:
    """What each likely cause carries of the quality that was lost.

    Args:
        causes: root causes of the findings.
        model: network of the records; None leaves causes out that must run it.
        validation: labeled records with outputs.
        production: the same.
        metric: `accuracy`, `AUC`, `log loss` or `RMSE`; the usual one of the task where it is None.
        device: of the network.
        deadline: when to stop.

    Raises:
        InputError: labels or outputs are missing, rows or classes are too few, or the task has no
            such metric.
        OutOfTime: the deadline passed.
    """
    sides = [_labeled(side) for side in (validation, production)]
    _check(*sides)
    quality = row_metric(sides[0], sides[1], metric)
    network, residual = _network(model, sides, device, deadline)
    pair = Pair(sides[0], sides[1], network is not None, len(sides[0]) == len(validation))
    blocks = [_blocks(side, quality) for side in sides]
    weights = _resampled(blocks)
    deadline.check()
    plan, tilts = _with_tilts(planned(causes, pair), (weights[0], weights[1]), deadline)
    deadline.check()
    plan = with_rest(plan, pair, served=residual is None)
    rows = [_side(side, weight) for side, weight in zip(sides, weights, strict=True)]
    mechanisms = _with_the_rest(plan, sides)
    worlds = Worlds(mechanisms, rows[0], rows[1], quality, network, tilts, residual, deadline)
    fewest = min(int(ids.max()) + 1 for ids in blocks)

    def remedies() -> list[Regained | None]:
        return best_remedies(worlds, _trials(sides, worlds, model, device, fewest), deadline)

    return _bill(plan, worlds, remedies, fewest)


def expected(
    causes: Sequence[LikelyCause],
    model: Any,
    validation: Records,
    production: Records,
    *,
    metric: str | None = None,
    device: str | torch.device = "auto",
    deadline: Deadline = NO_DEADLINE,
) -> Bill:
    """What causes are expected to carry without labels of production.

    Validation gets the changed inputs and the weights of production. The bill holds if labels given
    the inputs stayed the same. It is withdrawn where a cause needs labels or has no number, and
    where validation so changed does not have the outputs of production.

    Args:
        causes: root causes of the findings.
        model: network of the records.
        validation: labeled records with outputs.
        production: records with outputs.
        metric: as in `apportioned`.
        device: of the network.
        deadline: when to stop.

    Raises:
        InputError: validation lacks labels, rows or classes, or the bill is withdrawn.
        OutOfTime: the deadline passed.
    """
    sides = [_labeled(side) for side in (validation, production)]
    _check_labels("validation", sides[0])
    if sides[1].logits is None:
        reject("production", "outputs of the network", "none", "Pass the model or its logits.")
    quality = row_metric(sides[0], sides[1], metric)
    network, residual = _network(model, sides, device, deadline)
    pair = Pair(sides[0], sides[1], network is not None, len(sides[0]) == len(validation))
    outputs = sides[1].logits.double().reshape(len(sides[1]), -1)
    blocks = [_blocks(sides[0], quality), blocks_of(sides[1], outputs[:, 0])]
    weights = _resampled(blocks)
    seen = [likely for likely in causes if likely.cause in _WITHOUT_LABELS]
    plan, tilts = _with_tilts(planned(seen, pair), (weights[0], weights[1]), deadline)
    _withdraw(len(seen) < len(causes), residual is not None, plan)
    rest = [*plan.mechanisms, Mechanism(UNEXPLAINED, "")]
    live = Side(sides[1].features, sides[1].logits, outputs.new_empty(0), weights[1])
    rows = _side(sides[0], weights[0])
    worlds = Worlds(rest, rows, live, quality, network, tilts, deadline=deadline)
    if (missed := _missed_outputs(worlds, outputs)) > MOST_MISSED:
        got = f"outputs that the named causes miss by {missed:.2f} standard deviations"
        reject("production", "labels, or outputs that the causes explain", got, _LABEL)
    fewest = min(int(ids.max()) + 1 for ids in blocks)
    bill = _bill(plan, worlds, lambda: expected_remedies(worlds, fewest), fewest)
    return replace(bill, expected=True)


def _withdraw(unseen: bool, served: bool, plan: Plan) -> None:
    """Refuse what nothing is known of without labels."""
    got = plan.left[0][2] if plan.left else "none that can be judged without labels"
    if served:
        got = "outputs that are not those of the network"
    if unseen or served or plan.left or not plan.mechanisms:
        reject("production", "labels, or causes that act on the inputs alone", got, _LABEL)


def _missed_outputs(worlds: Worlds, live: Tensor) -> float:
    """Standard deviations by which outputs of changed validation miss those of production.

    Means and mean distances from the mean of each output are compared.
    """
    center, spread = live.mean(0), live.std(0).clamp(min=1e-9)

    def views(outputs: Tensor) -> Tensor:
        scaled = (outputs.double().reshape(len(outputs), -1) - center) / spread
        return torch.cat([scaled, scaled.abs()], 1)

    def distance(outputs: Tensor, _: Tensor, weights: Tensor) -> Tensor:
        means = torch.stack([weighted_mean(view, weights) for view in views(outputs).T])
        return (means - views(live).mean(0)[:, None]).abs().amax(0)

    metric = RowMetric("distance", "standard deviations", 1.0, distance, worlds.metric.losses)
    rows = replace(worlds.validation, weights=worlds.validation.weights[:, :1])
    everything = frozenset(range(len(worlds.mechanisms)))
    return float(replace(worlds, metric=metric, validation=rows).qualities([everything]))


def _with_the_rest(plan: Plan, sides: Sequence[Records]) -> list[Mechanism]:
    """All mechanisms, the last one what the others leave."""
    rest = elsewhere(plan.mechanisms, len(sides[0]), len(sides[1]))
    return [*plan.mechanisms, Mechanism(plan.rest, plan.where, region=rest)]


def _labeled(records: Records) -> Records:
    """Labeled rows with named columns, on the host."""
    rows: Records = position_rows(records)
    return named_columns(rows.labeled(partly=True)).to("cpu")


def _check(validation: Records, production: Records) -> None:
    for name, side in (("validation", validation), ("production", production)):
        _check_labels(name, side)
    if validation.task is not production.task or validation.task not in METRICS:
        tasks = f"{validation.task} and {production.task}"
        reject("production", "the task of validation", tasks, "Compare outputs of one model.")


def _check_labels(name: str, side: Records) -> None:
    if side.targets is None or side.logits is None:
        lacks = "labels" if side.targets is None else "outputs of the network"
        remedy = "Label some rows, and pass the model or its logits."
        reject(name, "records with labels and outputs", f"no {lacks}", remedy)
    if len(side) < MIN_ROWS:
        remedy = f"Label {MIN_ROWS - len(side)} more rows at least."
        reject(name, f"{MIN_ROWS} labeled rows", str(len(side)), remedy)
    if side.targets.ndim == 1 and not side.targets.is_floating_point():
        counts = side.targets.bincount().sort(descending=True).values
        if len(counts) < 2 or int(counts[1]) < _MIN_CLASS:
            remedy = "Label rows of another class."
            reject(name, f"two classes of {_MIN_CLASS} rows", str(counts.tolist()[:3]), remedy)


def _network(
    model: Any, sides: Sequence[Records], device: str | torch.device, deadline: Deadline
) -> tuple[Callable[[Any], Tensor] | None, Tensor | None]:
    """Inputs -> outputs, and what the outputs of production have besides, if anything.

    None where the network cannot run, or gives other outputs for validation than were given.
    """
    if model is None or any(side.features is None for side in sides):
        return None, None

    def outputs(features: Any) -> Tensor:
        deadline.check()
        rows = Records(features, schema=sides[0].schema)
        logits = collect(model, rows, device=device).logits
        assert logits is not None
        return logits.cpu()

    if not _same_outputs(outputs, sides[0]):
        return None, None
    if _same_outputs(outputs, sides[1]):
        return outputs, None
    assert sides[1].logits is not None
    return outputs, sides[1].logits - outputs(sides[1].features)


def _same_outputs(outputs: Callable[[Any], Tensor], side: Records) -> bool:
    """Whether the network gives some rows the outputs that are recorded for them."""
    few = side.select(range(min(_COMPARED, len(side))))
    assert few.logits is not None
    again = outputs(few.features)
    if again.shape != few.logits.shape:
        return False
    spread = float(few.logits.double().std()) or 1.0
    return float((again - few.logits).double().abs().max()) / spread <= _SAME_OUTPUTS


def _blocks(side: Records, metric: RowMetric) -> Tensor:
    assert side.logits is not None
    assert side.targets is not None
    return blocks_of(side, metric.losses(side.logits, side.targets))


def _resampled(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Weights of the rows of both sides as they are and resampled, by their blocks."""
    count = max(_LEAST_REPLICATES, _MOST_VALUES // max(map(len, blocks)))
    count = min(_REPLICATES, count)
    return [resampling_weights(ids, count, seed) for seed, ids in enumerate(blocks)]


def _side(side: Records, weights: Tensor) -> Side:
    assert side.logits is not None
    assert side.targets is not None
    return Side(side.features, side.logits, side.targets, weights)


def _with_tilts(
    plan: Plan, weights: tuple[Tensor, Tensor], deadline: Deadline
) -> tuple[Plan, Tilts | None]:
    """The plan without mechanisms whose weights say nothing, and the factors of the others."""
    base = weights[0].clone()
    for one in plan.mechanisms:
        if one.leaked is not None:
            base[one.leaked] = 0.0
    while True:
        tilted = [i for i, one in enumerate(plan.mechanisms) if one.units is not None]
        units = [part for i in tilted if (part := plan.mechanisms[i].units) is not None]
        if not units:
            return plan, None
        deadline.check()
        tilts = fit_tilts(units, (base, weights[1]))
        bad = uneven_factor(tilts, units)
        if bad is None:
            return plan, tilts
        plan = without_units(plan, tilted[bad[0]], bad[1])


def _trials(
    sides: Sequence[Records],
    worlds: Worlds,
    model: Any,
    device: str | torch.device,
    blocks: int,
) -> Trials:
    """Rows of production on which remedies are tried."""
    live, rows, network = sides[1], torch.arange(len(sides[1])), worlds.network
    if len(rows) > _TRIED:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(rows), generator=generator)[:_TRIED].sort().values
        live = live.select(rows)
    if network is not None and worlds.residual is not None:
        # What was served is not what the layers of the network give.
        network, model = partial(_served, network, worlds.residual[rows]), None
    folds = random_folds(torch.arange(len(live)), live)
    shares = sides[0].targets
    assert shares is not None
    # Few decisions turn on a remedy; the log loss, which hears every row, tells more of them apart.
    accuracy = worlds.metric.name == "accuracy"
    score = row_metric(sides[0], sides[1], "log loss") if accuracy else None
    how = (worlds.metric, shares, network, model, device, blocks, score)
    return Trials(live, live.features, worlds.production.weights[rows], folds, *how)


def _served(network: Callable[[Any], Tensor], besides: Tensor, inputs: Any) -> Tensor:
    return network(inputs) + besides


def _bill(
    plan: Plan, worlds: Worlds, tried: Callable[[], list[Regained | None]], blocks: int
) -> Bill:
    """The bill; remedies are tried where quality fell or a cause is named."""
    mechanisms, metric = worlds.mechanisms, worlds.metric
    ends = worlds.qualities([frozenset(), frozenset(range(len(mechanisms)))])
    total = ends[0] - ends[1]
    low, high = (float(bound) for bound in interval(total, blocks))
    carried = -shapley_values(len(mechanisms), worlds.qualities)
    bounds = torch.stack([carried[:, 0], *interval(carried, blocks)], 1).tolist()
    remedies: list[Regained | None] = [None] * len(mechanisms)
    if plan.mechanisms or low > 0:
        worlds.deadline.check()
        remedies = tried()
    lines = [
        BillLine(one.cause, one.subject, points, least, most, won)
        for one, (points, least, most), won in zip(mechanisms, bounds, remedies, strict=True)
    ]
    whole = float(total[0])
    ordered = ordered_lines(*_with_unknown(lines, plan), whole)
    return Bill(metric.name, metric.unit, float(ends[0, 0]), whole, low, high, ordered)


def _with_unknown(lines: list[BillLine], plan: Plan) -> tuple[list[BillLine], BillLine]:
    """Lines of the causes, those without a number too, and of what they leave."""
    *known, rest = lines
    unknown = [_without_number(cause, subject, reason) for cause, subject, reason in plan.left]
    if rest.cause != UNEXPLAINED and unknown:
        # What cannot be apportioned is in the rest too, which then belongs to no single cause.
        reason = "it is not told from the other causes without a number"
        unknown.append(_without_number(rest.cause, rest.subject, reason))
    elif rest.cause != UNEXPLAINED:
        return lines, BillLine(UNEXPLAINED, "", 0.0, 0.0, 0.0)
    return [*known, *unknown], replace(rest, cause=UNEXPLAINED, subject="")


def _without_number(cause: str, subject: str, reason: str) -> BillLine:
    return BillLine(cause, subject, math.nan, math.nan, math.nan, reason=reason)

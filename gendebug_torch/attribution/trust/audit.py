"""`trust_card()`: the trust card of a run, from a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.column_shuffling import loss_rises
from gendebug_torch.attribution.compare.permutation import importance_of, nll
from gendebug_torch.attribution.compare.rank_agreement import rank_agreement, row_spearman
from gendebug_torch.attribution.explain import explain
from gendebug_torch.attribution.explanation.row_sample import RowSample, select_rows
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.attribution.trust.card import GROUP_CORRELATION, Measure, TrustCard
from gendebug_torch.attribution.trust.dependence import OutputDependence, output_dependence
from gendebug_torch.attribution.trust.robustness_trials import (
    TOO_EXPENSIVE,
    Measures,
    TrialRows,
    mean_measure,
    run_trials,
    share_measure,
    total_evaluations,
)
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import as_model_takes, logits_of

# Model evaluations of a card as a share of those of its run, and the parts of them for shuffling
# and for repeated calls.
_BUDGET, _SHUFFLING, _DEPENDENCE = 0.2, 0.35, 0.2
# Relative error above which a row counts as incomplete.
_INCOMPLETE = 0.05
# Shuffles of each column, rows from which they are informative, and most evaluations without a
# budget.
_REPEATS, _MIN_ROWS, _MAX_EVALUATIONS = 3, 100, 2_000_000
# Rows for the distance from the baseline, and features up to which pairs are compared.
_DISTANCE_ROWS, _MAX_FEATURES = 256, 1000


def trust_card(
    task: AttributionTask,
    model: Model,
    attributions: Attributions,
    sample: RowSample,
    total: float,
    *,
    noise: Sequence[str] = (),
    full: bool = False,
    seed: int = 0,
) -> TrustCard:
    """How the attributions of a sample of rows respond to changes that should matter, or not.

    Each trial gets its part of a fifth of the model evaluations of the run, and as many rows as
    that pays for; a trial with too few rows is left out and named. Measures that need no model use
    the whole sample.

    Source: completeness: Sundararajan et al. (2017), arXiv:1703.01365; random weights, layer by
    layer: Adebayo et al. (2018), arXiv:1810.03292; noise: Alvarez-Melis and Jaakkola (2018),
    arXiv:1806.08049; baselines: Sturmfels, Lundberg and Lee (2020), Distill; random probe:
    Stoppiglia et al. (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        task: options of the run.
        model: network.
        attributions: attributions of the rows of the sample.
        sample: rows of the run.
        total: model evaluations of the run.
        noise: names of features that are declared as noise.
        full: whether to measure everything at any cost.
        seed: seed of noise, random weights and shuffles.
    """
    positions = sample.order[attributions.usable[sample.order]]
    inputs, labels = (
        select_rows(part, positions, len(sample)) for part in (sample.inputs, sample.targets)
    )
    first = attributions.select(positions)
    rows = _trial_rows(task, model, inputs, labels, first, seed)
    results = _run_all(task, rows, labels, math.inf if full else _BUDGET * total)
    measures = results.measures
    shares = sorted(name for name in measures if isinstance(name, float))
    codes = isinstance(inputs, Tensor) and not inputs.is_floating_point()
    return TrustCard(
        measures={name: one for name, one in measures.items() if isinstance(name, str)},
        missing=results.missing,
        reference=_reference(rows),
        cascade={share: measures[share] for share in shares},
        # The size of an id of a token or category means nothing.
        correlated_groups=() if codes or first.values.ndim != 2 else _correlated_groups(first),
        blind_inputs=results.blind_inputs,
        below_noise=_below_noise(first, noise),
        below_probe=results.below_probe,
        evaluations=results.evaluations / total if total else 0.0,
    )


@dataclass(frozen=True)
class _Results:
    """What the trials of a card give."""

    measures: Measures
    missing: dict[str, str]
    blind_inputs: tuple[str, ...]
    below_probe: tuple[str, ...] | None
    evaluations: float


def _run_all(task: AttributionTask, rows: TrialRows, labels: Any, budget: float) -> _Results:
    """All trials within a budget of model evaluations, undefined measures left out."""
    first = rows.first
    reason = _no_shuffling(rows, labels, _SHUFFLING * budget)
    trial_budget = (1 - _SHUFFLING) * budget if reason is None else budget
    dependence, failure = _dependence(task, rows, labels, _DEPENDENCE * trial_budget)
    evaluations = 0.0 if dependence is None else dependence.evaluations
    per_row = total_evaluations(first) / max(1, len(first))
    measures, missing, spent = run_trials(rows, trial_budget - evaluations, per_row)
    evaluations += spent
    below_probe = None
    if reason is None:
        agreement, below_probe, spent = _permutation(rows, labels, budget - evaluations - 1)
        measures, evaluations = measures | agreement, evaluations + spent
    elif reason:
        missing = missing | {"permutation": reason}
    measures = _repeat(dependence) | _completeness(first) | _fidelity(first, labels) | measures
    return _Results(
        measures={name: one for name, one in measures.items() if not math.isnan(one.value)},
        missing=missing | failure,
        blind_inputs=() if dependence is None else dependence.blind_inputs,
        below_probe=below_probe,
        evaluations=evaluations,
    )


def _trial_rows(
    task: AttributionTask,
    model: Model,
    inputs: Any,
    targets: Any,
    first: Attributions,
    seed: int,
) -> TrialRows:
    """The rows with what the trials need."""
    distance = _distance(task, inputs, first)
    if task.target == "predicted" and len(first) and int(first.targets.min()) >= 0:
        # The same class again, so that a changed prediction is not a changed explanation.
        task, targets = replace(task, target="target"), first.targets
    return TrialRows(task, model, inputs, targets, first, distance, inputs, seed)


def _distance(task: AttributionTask, inputs: Any, first: Attributions) -> Tensor | None:
    """`[n, d]` absolute distance of the inputs from the baseline: attributions of their sum."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not len(first):
        return None
    plain = replace(
        task,
        method="integrated_gradients",
        options={"steps": 1},
        target="predicted",
        feature_names=(),
        precision="32-true",
    )
    head = inputs[:_DISTANCE_ROWS]
    sums = explain(plain, lambda rows: rows.flatten(1).sum(1), head, alone=True)
    distance = sums.flat.abs()
    return distance if distance.shape[1] == first.flat.shape[1] else None


def _reference(rows: TrialRows) -> float | None:
    """Mean rank correlation of the contributions with the distance from the baseline."""
    if rows.distance is None:
        return None
    flat = rows.first.flat[: len(rows.distance)]
    correlation = mean_measure(row_spearman(flat, rows.distance)).value
    return None if math.isnan(correlation) else correlation


def _dependence(
    task: AttributionTask, rows: TrialRows, labels: Any, budget: float
) -> tuple[OutputDependence | None, dict[str, str]]:
    """Whether the network is random or blind, or why not measured: a run must not be lost by it."""
    try:
        return output_dependence(task, rows.model, rows.inputs, labels, rows.first, budget), {}
    except Exception as error:
        return None, {"repeat": f"{type(error).__name__}: {error}".partition("\n")[0]}


def _repeat(dependence: OutputDependence | None) -> Measures:
    """Largest change of the output between two identical calls."""
    if dependence is None:
        return {}
    change = dependence.repeat_change
    return {"repeat": Measure(change, change, change, dependence.rows)}


def _completeness(first: Attributions) -> Measures:
    """Share of rows whose contributions miss the change of their output."""
    if first.convergence_delta is None or not len(first):
        return {}
    return {"incomplete": share_measure(first.relative_delta > _INCOMPLETE)}


def _fidelity(first: Attributions, labels: Any) -> Measures:
    """Held-out R² of surrogates, on all rows and on misclassified ones."""
    if first.held_out is None or not len(first):
        return {}
    measures: Measures = {"held_out": _lower_quartile(first.held_out)}
    if _are_class_ids(labels) and first.outputs is not None:
        positive = (first.outputs > 0).long()
        predicted = torch.where(first.targets < 0, positive, first.targets)
        wrong = predicted != labels.to(predicted.device)
        if int(wrong.sum()) >= 5:
            measures["held_out_wrong"] = _lower_quartile(first.held_out[wrong])
    return measures


def _lower_quartile(values: Tensor) -> Measure:
    """Lower quartile with the interval of order statistics (Conover, 1999, 3.2)."""
    half = 1.96 * (0.25 * 0.75 / len(values)) ** 0.5
    levels = [0.25, max(0.0, 0.25 - half), min(1.0, 0.25 + half)]
    value, low, high = values.double().quantile(torch.tensor(levels, dtype=torch.float64)).tolist()
    return Measure(value, low, high, len(values))


def _no_shuffling(rows: TrialRows, labels: Any, budget: float) -> str | None:
    """Why columns are not shuffled: a reason to report, empty if it does not apply; else None."""
    inputs, first = rows.inputs, rows.first
    table = isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.is_floating_point()
    if not table or inputs.shape[1] != first.flat.shape[1] or not _are_class_ids(labels):
        return ""
    if not 1 < inputs.shape[1] <= _MAX_FEATURES:
        return ""
    if len(first) < _MIN_ROWS:
        return f"{len(first)} rows are too few to shuffle"
    if budget < _MIN_ROWS * (_REPEATS * inputs.shape[1] + 1):
        return TOO_EXPENSIVE
    return None if _are_outputs(rows.model, inputs[:1], labels) else ""


def _permutation(
    rows: TrialRows, labels: Tensor, budget: float
) -> tuple[Measures, tuple[str, ...], float]:
    """Agreement with permutation importance, features below the probe, and evaluations."""
    names = rows.first.names
    per_row = _REPEATS * len(names) + 1.0
    if math.isinf(budget):
        budget = max(_MAX_EVALUATIONS, _MIN_ROWS * per_row)
    count = min(len(rows.first), int(budget / per_row))
    columns = [[column] for column in range(len(names))]
    inputs, targets, device = rows.inputs[:count], labels[:count], rows.task.device
    rises, _ = loss_rises(rows.model, inputs, targets, nll, columns, _REPEATS, rows.seed, device)
    unimportant = importance_of(rises, names).unimportant
    if len(names) < 4:
        return {}, unimportant, count * per_row
    sizes = {"attribution": rows.first.flat[:count].abs(), "permutation": rises.mean(0).T}
    ranks = rank_agreement(sizes, names, seed=rows.seed)
    low, high = float(ranks.low), float(ranks.high)
    # Few rows alone make a correlation small, so that its upper end is compared with the limit.
    return {"permutation": Measure(high, low, high, count)}, unimportant, count * per_row


def _are_class_ids(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def _are_outputs(model: Model, row: Tensor, targets: Tensor) -> bool:
    """Whether the targets are ids of outputs of the model."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), row.device)
    with torch.no_grad(), evaluating(model):
        logits = logits_of(model, as_model_takes(row, model, device))
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    return int(targets.min()) >= 0 and int(targets.max()) < classes


def _correlated_groups(first: Attributions) -> tuple[tuple[str, ...], ...]:
    """Groups of features that are connected by correlations of at least 0.9."""
    if first.inputs is None or len(first) < 3 or not 2 <= first.flat.shape[1] <= _MAX_FEATURES:
        return ()
    inputs = first.inputs.flatten(1).double()
    varies = inputs.std(0) > 0
    linked = torch.corrcoef(inputs.T).nan_to_num(0.0).abs() >= GROUP_CORRELATION
    linked &= varies[:, None] & varies[None]
    label = torch.arange(len(linked))
    while True:
        lowest = torch.where(linked, label[None], len(linked)).amin(1).minimum(label)
        if torch.equal(lowest, label):
            break
        label = lowest
    groups = [(label == i).nonzero()[:, 0].tolist() for i in sorted(set(label.tolist()))]
    return tuple(tuple(first.names[i] for i in group) for group in groups if len(group) > 1)


def _below_noise(first: Attributions, noise: Sequence[str]) -> tuple[str, ...] | None:
    """Features that contribute no more than the strongest declared noise."""
    declared = [first.names.index(name) for name in noise if name in first.names]
    if not declared or not len(first):
        return None
    size = first.flat.abs().mean(0)
    strongest = float(size[declared].max())
    return tuple(
        name
        for i, name in enumerate(first.names)
        if i not in declared and float(size[i]) <= strongest
    )

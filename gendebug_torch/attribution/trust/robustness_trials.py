"""Trials of attributions: the same rows again under changes that should matter, or should not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.rank_agreement import (
    rank_agreement,
    row_spearman,
    top_k_jaccard,
)
from gendebug_torch.attribution.explain import explain, own_method, takes_seed
from gendebug_torch.attribution.explanation.input_space import unwrapped
from gendebug_torch.attribution.explanation.row_sample import select_rows
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.attribution.trust.card import Measure
from gendebug_torch.attribution.trust.randomization import (
    correlation_beyond_inputs,
    parameter_layers,
    randomized_copy,
)
from gendebug_torch.attribution.trust.stability import jitter
from gendebug_torch.model.evaluation import Model
from gendebug_torch.stats.intervals import wilson_interval

# Noise of the inputs, in standard deviations of each.
_NOISE = 0.02
# Rows of a trial, and evaluations by which a run measures its batch size.
_MIN_ROWS, _MAX_ROWS, _SETUP = 8, 256, 6
# Shares of the layers that get random weights in a cascade.
_STAGES = (0.25, 0.5, 0.75)
# Features in a ranking at most: the strongest.
_RANKED = 500

TOO_EXPENSIVE = "a fifth of the run pays for too few rows; trust='full' measures it anyway"

# Name in `LIMITS`, or share of the layers in a cascade -> measure.
Measures = dict[str | float, Measure]


@dataclass(frozen=True, eq=False)
class TrialRows:
    """Rows of a trial with their attributions in the run.

    Args:
        task: options of the run.
        model: network.
        inputs: inputs of the rows.
        targets: targets of the rows.
        first: attributions of the rows in the run.
        distance: `[n, d]` distance of the inputs from the baseline; None if unknown.
        background: inputs for another baseline.
        seed: seed of everything random.
    """

    task: AttributionTask
    model: Model
    inputs: Any
    targets: Any
    first: Attributions
    distance: Tensor | None
    background: Any
    seed: int

    def head(self, rows: int) -> TrialRows:
        """The first rows alone."""
        positions, n = torch.arange(rows), len(self.first)
        return replace(
            self,
            inputs=select_rows(self.inputs, positions, n),
            targets=select_rows(self.targets, positions, n),
            first=self.first.select(positions),
            distance=None if self.distance is None else self.distance[:rows],
        )

    def rerun(
        self, *, model: Model | None = None, inputs: Any = None, **changes: Any
    ) -> Attributions:
        """Attributions by another model, at other inputs, or with other options of the task."""
        batch = (self.inputs if inputs is None else inputs, self.targets)
        return explain(
            replace(self.task, **changes),
            self.model if model is None else model,
            [batch],
            unpack=lambda batch: batch,
            alone=True,
        )

    def rerun_randomized(self, count: int) -> Attributions:
        """Attributions with random weights in so many layers, output first."""
        module = unwrapped(self.model)
        assert isinstance(module, nn.Module)
        # Attributions of random weights need no accuracy.
        options = {key: value for key, value in self.task.options.items() if key != "max_steps"}
        layers = parameter_layers(module)[-count:]
        return self.rerun(model=randomized_copy(module, layers, self.seed), options=options)

    @property
    def depth(self) -> int:
        """Number of layers that can get random weights; 0 for a method bound to one network."""
        module = unwrapped(self.model)
        bound = not isinstance(self.task.method, str) or any(
            isinstance(value, nn.Module) for value in self.task.options.values()
        )
        return 0 if bound or not isinstance(module, nn.Module) else len(parameter_layers(module))


Trial = Callable[[TrialRows], tuple[Measures, float]]


def seed_trial(rows: TrialRows) -> tuple[Measures, float]:
    """Agreement under another seed, and evaluations."""
    seed = rows.task.options.get("seed", 0) + 1
    second = rows.rerun(options={**rows.task.options, "seed": seed})
    return _agreement(rows.first, second, "rerun"), total_evaluations(second)


def noise_trial(rows: TrialRows) -> tuple[Measures, float]:
    """Agreement under noise of the inputs, and evaluations."""
    second = rows.rerun(inputs=jitter(rows.inputs, _NOISE, rows.seed))
    return _agreement(rows.first, second, "jitter"), total_evaluations(second)


def randomization_trial(rows: TrialRows) -> tuple[Measures, float]:
    """Correlation with a network of random weights, and evaluations."""
    second = rows.rerun_randomized(rows.depth)
    beyond = correlation_beyond_inputs(rows.first.flat, second.flat, rows.distance)
    plain = row_spearman(rows.first.flat, second.flat)
    return {"randomized": mean_measure(beyond), 1.0: mean_measure(plain)}, total_evaluations(second)


def cascade_trial(rows: TrialRows) -> tuple[Measures, float]:
    """Correlation as more and more layers get random weights, and evaluations."""
    measures: Measures = {}
    evaluations = 0.0
    for count in _stages(rows.depth):
        second = rows.rerun_randomized(count)
        correlation = row_spearman(rows.first.flat, second.flat)
        measures[count / rows.depth] = mean_measure(correlation)
        evaluations += total_evaluations(second)
    return measures, evaluations


def _stages(depth: int) -> list[int]:
    """Numbers of layers with random weights in a cascade."""
    return sorted({math.ceil(share * depth) for share in _STAGES} - {depth})


def baseline_trial(rows: TrialRows) -> tuple[Measures, float]:
    """Agreement against another baseline, and evaluations.

    That is the mean, zero where a center is the baseline, or a blur for images.
    """
    own, image = str(rows.task.baseline), rows.first.values.ndim > 2
    other = "zero" if own in ("mean", "median") else "blur" if image and own != "blur" else "mean"
    second = rows.rerun(baseline=other, background=rows.background)
    overlap = _agreement(rows.first, second, "baseline")["baseline"]
    return {"baseline": overlap}, total_evaluations(second)


def applicable_trials(rows: TrialRows) -> dict[str, Trial]:
    """The trials that apply to this method, network and inputs, most informative first."""
    task, inputs = rows.task, rows.inputs
    floats = isinstance(inputs, Tensor) and inputs.is_floating_point()
    trials: dict[str, tuple[Trial, bool]] = {
        "rerun": (seed_trial, takes_seed(task)),
        "jitter": (noise_trial, floats),
        "randomized": (randomization_trial, rows.depth > 0),
        "baseline": (baseline_trial, own_method(task) is not None and task.method != "saliency"),
        "cascade": (cascade_trial, rows.depth > 1),
    }
    return {name: trial for name, (trial, applies) in trials.items() if applies}


def run_trials(
    rows: TrialRows, budget: float, evaluations_per_row: float
) -> tuple[Measures, dict[str, str], float]:
    """Measures of the trials that a budget pays for, reasons of missing ones, and evaluations.

    Args:
        rows: rows; every trial takes the first ones.
        budget: model evaluations of all trials together; infinite for no limit.
        evaluations_per_row: evaluations to explain one row.
    """
    applicable, n = applicable_trials(rows), len(rows.first)
    min_rows = 2 if math.isinf(budget) else _MIN_ROWS
    if n < min_rows:
        reason = f"{n} rows with finite contributions are too few"
        return {}, dict.fromkeys(applicable, reason), 0.0
    runs = {name: len(_stages(rows.depth)) if name == "cascade" else 1 for name in applicable}
    trials = dict(applicable)
    cost = min_rows * evaluations_per_row + _SETUP
    while trials and any(budget / len(trials) < runs[name] * cost for name in trials):
        trials.popitem()
    missing = {name: TOO_EXPENSIVE for name in applicable if name not in trials}
    measures: Measures = {}
    spent = 0.0
    for i, (name, trial) in enumerate(trials.items()):
        share = (budget - spent) / (len(trials) - i) / runs[name]
        affordable = _MAX_ROWS
        if not math.isinf(budget):
            affordable = int((share - _SETUP) / max(evaluations_per_row, 1.0))
        result, evaluations = _attempt(trial, rows.head(min(n, _MAX_ROWS, affordable)))
        spent += evaluations + runs[name] * _SETUP
        if isinstance(result, str):
            missing[name] = result
        else:
            measures |= result
    return measures, missing, spent


def _attempt(trial: Trial, rows: TrialRows) -> tuple[Measures | str, float]:
    """The result of a trial, or the error as text.

    A run must not be lost by a trial, e.g. where a network refuses to be copied.
    """
    try:
        return trial(rows)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0], 0.0


def total_evaluations(attributions: Attributions) -> float:
    """Model evaluations of all rows."""
    evaluations = attributions.evaluations
    return 0.0 if evaluations is None else float(evaluations.double().sum())


def mean_measure(values: Tensor) -> Measure:
    """Mean over rows of `[n]` values between -1 and 1, with Student's interval; NaN left out."""
    finite = values[values.isfinite()].double()
    if not len(finite):
        return Measure(math.nan, math.nan, math.nan, 0)
    mean, half = float(finite.mean()), 2.0
    if len(finite) > 1:
        quantile = float(stdtrit(len(finite) - 1, 0.975))
        half = float(finite.std()) / len(finite) ** 0.5 * quantile
    return Measure(mean, max(-1.0, mean - half), min(1.0, mean + half), len(finite))


def share_measure(values: Tensor) -> Measure:
    """Mean over rows of `[n]` values between 0 and 1, with Wilson's interval."""
    count, total = torch.tensor(float(len(values))), values.double().sum()
    low, high = wilson_interval(total, count)
    share = float(total / count)
    return Measure(share, min(share, float(low)), max(share, float(high)), len(values))


def _agreement(first: Attributions, second: Attributions, name: str) -> Measures:
    """Overlap of the top features per row, and rank correlation of the mean |contributions|."""
    both = first.usable & second.usable
    a, b = first.flat[both], second.flat[both]
    k = min(5, max(1, a.shape[1] // 2))
    measures: Measures = {name: share_measure(top_k_jaccard(a, b, k))}
    if len(a) < 2 or a.shape[1] < 2:
        return measures
    strongest = (a.abs().mean(0) + b.abs().mean(0)).topk(min(_RANKED, a.shape[1])).indices
    sizes = {"first": a[:, strongest].abs(), "second": b[:, strongest].abs()}
    ranks = rank_agreement(sizes, list(map(str, strongest.tolist())))
    correlation, low, high = (float(part) for part in (ranks.correlation, ranks.low, ranks.high))
    return measures | {f"{name}_ranking": Measure(correlation, low, high, len(a))}

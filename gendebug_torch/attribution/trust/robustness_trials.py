"""Trials of an explanation: the same rows explained again under changes that should not matter, and
under one that should.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.rank_agreement import rank_agreement
from gendebug_torch.attribution.explanation.explainer import Explainer
from gendebug_torch.attribution.explanation.input_space import unwrapped
from gendebug_torch.attribution.explanation.row_sample import picked
from gendebug_torch.attribution.trust.card import Measure
from gendebug_torch.attribution.trust.randomization import at_random, layers, unmoved
from gendebug_torch.attribution.trust.stability import jitter, row_spearman, top_k_jaccard
from gendebug_torch.model.runner import Model
from gendebug_torch.stats.intervals import wilson_interval

# Noise of the jitter, in standard deviations of each input.
_NOISE = 0.02
# Rows that a trial needs, and more of which would not change a verdict; evaluations that asking
# takes to find its batch size.
_FEWEST, _MOST, _SETUP = 8, 256, 6
# Parts of the layers that a cascade puts at random weights.
_STAGES = (0.25, 0.5, 0.75)
# Features that enter a ranking at most: the strongest.
_RANKED = 500

TOO_DEAR = "a fifth of the run pays for too few rows; trust='full' asks all the same"

# Name in `LIMITS`, or share of the layers in a cascade -> what was measured.
Measures = dict[str | float, Measure]


@dataclass(frozen=True, eq=False)
class Tried:
    """Rows, how they were explained, and by what.

    Args:
        asked: the method.
        model: network.
        inputs: of the rows.
        targets: that `asked` needs.
        first: their explanation in the run.
        distance: `[n, d]` of the inputs from the baseline; None if it is not known.
        known: inputs that another baseline can be taken from.
        seed: of whatever is drawn.
    """

    asked: Explainer
    model: Model
    inputs: Any
    targets: Any
    first: Attributions
    distance: Tensor | None
    known: Any
    seed: int

    def head(self, rows: int) -> Tried:
        """The first rows alone."""
        places, n = torch.arange(rows), len(self.first)
        inputs, targets = (picked(held, places, n) for held in (self.inputs, self.targets))
        distance = None if self.distance is None else self.distance[:rows]
        return replace(
            self, inputs=inputs, targets=targets, first=self.first.select(places), distance=distance
        )

    def again(self, **changes: Any) -> Attributions:
        """The rows explained again: by another `model`, at other `inputs`, or asked otherwise."""
        model, inputs = changes.pop("model", self.model), changes.pop("inputs", self.inputs)
        return replace(self.asked, **changes).explain(
            model, [(inputs, self.targets)], unpack=lambda batch: batch, alone=True
        )

    def at_random(self, count: int) -> Attributions:
        """The rows explained by a network of which so many layers, from the output down, are at
        random weights.
        """
        module = unwrapped(self.model)
        assert isinstance(module, nn.Module)
        # Nothing that random weights contribute has to be accurate.
        options = {key: value for key, value in self.asked.options.items() if key != "max_steps"}
        return self.again(
            model=at_random(module, layers(module)[-count:], self.seed), options=options
        )

    @property
    def depth(self) -> int:
        """Layers that can be put at random weights; none for what is bound to one network and
        cannot be asked about another.
        """
        module = unwrapped(self.model)
        bound = not isinstance(self.asked.method, str) or any(
            isinstance(value, nn.Module) for value in self.asked.options.values()
        )
        return 0 if bound or not isinstance(module, nn.Module) else len(layers(module))


def rerun(tried: Tried) -> tuple[Measures, float]:
    """Another seed."""
    second = tried.again(
        options={**tried.asked.options, "seed": tried.asked.options.get("seed", 0) + 1}
    )
    return _agreement(tried.first, second, "rerun"), cost_of(second)


def moved(tried: Tried) -> tuple[Measures, float]:
    """Inputs that move by little."""
    second = tried.again(inputs=jitter(tried.inputs, _NOISE, tried.seed))
    return _agreement(tried.first, second, "jitter"), cost_of(second)


def randomized(tried: Tried) -> tuple[Measures, float]:
    """A network that has learned nothing."""
    second = tried.at_random(tried.depth)
    judged = mean_of(unmoved(tried.first.flat, second.flat, tried.distance))
    return {
        "randomized": judged,
        1.0: mean_of(row_spearman(tried.first.flat, second.flat)),
    }, cost_of(second)


def cascade(tried: Tried) -> tuple[Measures, float]:
    """Networks that have forgotten more and more, from the output down."""
    stages = {count / tried.depth: tried.at_random(count) for count in _stages(tried.depth)}
    told: Measures = {
        share: mean_of(row_spearman(tried.first.flat, second.flat))
        for share, second in stages.items()
    }
    return told, sum(map(cost_of, stages.values()))


def _stages(depth: int) -> list[int]:
    """Numbers of layers at random weights in a cascade."""
    return sorted({math.ceil(share * depth) for share in _STAGES} - {depth})


def other_baseline(tried: Tried) -> tuple[Measures, float]:
    """Another idea of what no signal is: the mean, or zero where a center is the baseline; for
    images a blur.
    """
    own = str(tried.asked.baseline)
    other = (
        "zero"
        if own in ("mean", "median")
        else "blur"
        if tried.first.values.ndim > 2 and own != "blur"
        else "mean"
    )
    second = tried.again(baseline=other, known=tried.known)
    return {"baseline": _agreement(tried.first, second, "baseline")["baseline"]}, cost_of(second)


def trials_of(tried: Tried) -> dict[str, Callable[[Tried], tuple[Measures, float]]]:
    """What can be tried with this method, network and kind of inputs, the most telling first."""
    asked = tried.asked
    wanted = {
        "rerun": (rerun, asked.draws),
        "jitter": (moved, isinstance(tried.inputs, Tensor) and tried.inputs.is_floating_point()),
        "randomized": (randomized, tried.depth > 0),
        "baseline": (other_baseline, asked.own is not None and asked.method != "saliency"),
        "cascade": (cascade, tried.depth > 1),
    }
    return {name: trial for name, (trial, applies) in wanted.items() if applies}


def tried_within(
    tried: Tried, budget: float, each: float
) -> tuple[Measures, dict[str, str], float]:
    """Results of the trials that a budget of model evaluations pays for, why others have none, and
    what was spent.

    Args:
        tried: the rows; every trial takes the first ones.
        budget: of all trials together; infinite if they may cost what they cost.
        each: evaluations that explaining one row takes.
    """
    wanted, rows = trials_of(tried), len(tried.first)
    trials = dict(wanted)
    times = {name: len(_stages(tried.depth)) if name == "cascade" else 1 for name in trials}
    least = 2 if math.isinf(budget) else _FEWEST
    measures: Measures = {}
    missing: dict[str, str] = {}
    if rows < least:
        return (
            measures,
            dict.fromkeys(wanted, f"{rows} rows with finite contributions are too few"),
            0.0,
        )
    while trials and any(
        budget / len(trials) < times[name] * (least * each + _SETUP) for name in trials
    ):
        trials.popitem()
    missing |= {name: TOO_DEAR for name in wanted if name not in trials}
    spent = 0.0
    for at, (name, trial) in enumerate(trials.items()):
        share = (budget - spent) / (len(trials) - at) / times[name]
        affordable = _MOST if math.isinf(budget) else int((share - _SETUP) / max(each, 1.0))
        told, cost = _attempt(trial, tried.head(min(rows, _MOST, affordable)))
        spent += cost + times[name] * _SETUP
        if isinstance(told, str):
            missing[name] = told
        else:
            measures |= told
    return measures, missing, spent


def _attempt(
    trial: Callable[[Tried], tuple[Measures, float]], tried: Tried
) -> tuple[Measures | str, float]:
    """What a trial tells; or why it fails, since a run that went well must not be lost by a network
    that refuses a copy of itself.
    """
    try:
        return trial(tried)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0], 0.0


def cost_of(found: Attributions) -> float:
    """Model evaluations that it took."""
    return 0.0 if found.evaluations is None else float(found.evaluations.double().sum())


def mean_of(values: Tensor) -> Measure:
    """Mean over rows of what lies between -1 and 1, with Student's interval; rows with NaN are left
    out.
    """
    known = values[values.isfinite()].double()
    if not len(known):
        return Measure(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    half = (
        float(known.std()) / len(known) ** 0.5 * float(student.ppf(0.975, len(known) - 1))
        if len(known) > 1
        else 2.0
    )
    return Measure(mean, max(-1.0, mean - half), min(1.0, mean + half), len(known))


def share_of(values: Tensor) -> Measure:
    """Mean over rows of what lies between 0 and 1, with Wilson's interval, which no such rows make
    too narrow.
    """
    count, total = torch.tensor(float(len(values))), values.double().sum()
    low, high = wilson_interval(total, count)
    share = float(total / count)
    return Measure(share, min(share, float(low)), max(share, float(high)), len(values))


def _agreement(first: Attributions, second: Attributions, name: str) -> Measures:
    """Mean overlap of the strongest features per row, and rank correlation of the mean absolute
    contributions.
    """
    both = first.usable & second.usable
    a, b = first.flat[both], second.flat[both]
    told: Measures = {name: share_of(top_k_jaccard(a, b, min(5, max(1, a.shape[1] // 2))))}
    if len(a) < 2 or a.shape[1] < 2:
        return told
    strongest = (a.abs().mean(0) + b.abs().mean(0)).topk(min(_RANKED, a.shape[1])).indices
    sizes = {"first": a[:, strongest].abs(), "second": b[:, strongest].abs()}
    ranked = rank_agreement(sizes, list(map(str, strongest.tolist())))
    return told | {
        f"{name}_ranking": Measure(
            float(ranked.correlation), float(ranked.low), float(ranked.high), len(a)
        )
    }

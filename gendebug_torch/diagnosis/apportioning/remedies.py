"""Remedies of the causes, each tried on rows of production that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.diagnosis.apportioning.last_layer import refitted_logits
from gendebug_torch.diagnosis.counterfactuals.metrics import RowMetric
from gendebug_torch.diagnosis.counterfactuals.resampling import interval
from gendebug_torch.diagnosis.counterfactuals.worlds import Mechanism, Worlds
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.quality.remedies import at_other_thresholds, out_of_fold

REFIT = "refit last layer"
# Remedies that are tried of each cause besides mending what it did to the inputs.
OF_CAUSE = {
    "label_shift": ("adapt to class shares", "move threshold", "recalibrate"),
    "covariate_shift": ("recalibrate", REFIT),
    "concept_drift": ("recalibrate", "move threshold", REFIT),
    "subgroup_failure": (REFIT,),
    "shortcut_feature": (REFIT,),
    "target_leakage": (REFIT,),
    "train_serve_skew": ("recalibrate", REFIT),
    "unexplained": ("recalibrate", "move threshold", REFIT),
}
_COSTS = {
    "adapt to class shares": "one addition per output",
    "recalibrate": "one affine map per row",
    "move threshold": "none",
    REFIT: "none; recent labels",
}
_LEAST_ROWS = 100
_MOST_CLASSES = 100


@dataclass(frozen=True)
class Regained:
    """A remedy on rows of production that it was not fitted to, or on changed validation.

    Args:
        remedy: what was tried.
        points: quality that it wins back; NaN where nothing could be tried.
        low: lower bound of the 95 % interval.
        high: upper bound.
        cost: what it costs at run time.
    """

    remedy: str
    points: float
    low: float
    high: float
    cost: str

    @property
    def helps(self) -> bool:
        """Whether it wins something back beyond its interval."""
        return self.low > 0

    @property
    def expected(self) -> bool:
        """Whether it was tried on changed validation, since production's rows do not allow it."""
        return self.remedy.endswith(_EXPECTED)

    @property
    def action(self) -> str:
        """What was tried, without how."""
        return self.remedy.removesuffix(_EXPECTED)


_EXPECTED = ", expected"
_RE_ESTIMATE = Regained("drop the leaked rows and estimate again", 0.0, 0.0, 0.0, "none")
_UNTRIED = Regained("none is tried without labels of production", nan, nan, nan, "")


@dataclass(frozen=True, eq=False)
class Trials:
    """What remedies are tried on: rows of production, their folds and resamplings.

    Args:
        records: labeled rows of production with outputs.
        inputs: the same rows as the network takes them; None without a network.
        weights: of the rows as they are and resampled, `[m, 1 + r]`.
        folds: fold of each row, `[m]`.
        metric: of the quality.
        shares: classes of validation, `[n]`, or its answers `[n, k]`.
        network: inputs -> outputs; None without one.
        model: the module itself.
        device: where it runs.
        blocks: number of blocks of rows that vary together.
    """

    records: Records
    inputs: Any
    weights: Tensor
    folds: Tensor
    metric: RowMetric
    shares: Tensor
    network: Callable[[Any], Tensor] | None
    model: Any
    device: str | torch.device
    blocks: int

    def points(self, logits: Tensor) -> Tensor:
        """Quality that other outputs of the same rows win back, as it is and resampled."""
        assert self.records.logits is not None
        assert self.records.targets is not None
        before, targets = self.records.logits.cpu(), self.records.targets.cpu()
        points = self.metric.points(logits, targets, self.weights)
        return points - self.metric.points(before, targets, self.weights)

    def gain(self, remedy: str, logits: Tensor, cost: str) -> Regained:
        """A remedy by the outputs that it gives the same rows."""
        return _regained(remedy, self.points(logits), self.blocks, cost)


def _regained(remedy: str, points: Tensor, blocks: int, cost: str) -> Regained:
    low, high = interval(points, blocks)
    return Regained(remedy, float(points[0]), float(low), float(high), cost)


def best_remedies(
    worlds: Worlds, trials: Trials, deadline: Deadline = NO_DEADLINE
) -> list[Regained | None]:
    """The remedy of each mechanism that wins back most; None where none can be tried.

    What mends the cause itself goes before what only adapts to it, if it helps. A layer that is
    fitted again, which takes most labels, is named where it wins a standard error more than maps of
    the outputs.

    Source: Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, 3.4.3,
    for the rule of one standard error.

    Args:
        worlds: qualities in which the causes act.
        trials: rows of production that remedies are tried on.
        deadline: when to stop.
    """
    usual = {}
    for name in _COSTS:
        deadline.check()
        if (outputs := _usual_outputs(name, trials)) is not None:
            usual[name] = trials.points(outputs)
    best = []
    for at, one in enumerate(worlds.mechanisms):
        tried = _mended(at, worlds, trials)
        if one.leaked is None and not any(trial.helps for trial in tried):
            names = [name for name in OF_CAUSE.get(one.cause, ()) if name in usual]
            if chosen := simplest_remedy(names, usual):
                tried.append(_regained(chosen, usual[chosen], trials.blocks, _COSTS[chosen]))
        best.append(max(tried, key=lambda trial: trial.points, default=None))
    return best


def simplest_remedy(names: Sequence[str], usual: Mapping[str, Tensor]) -> str:
    """The remedy that wins most; a layer that is fitted again only beyond a standard error.

    Args:
        names: remedies of a cause.
        usual: points that each wins back, as they are and resampled, `[1 + r]`.

    Returns:
        Its name; empty where there is none.
    """
    mapped = [name for name in names if name != REFIT]
    best = max(mapped, key=lambda name: float(usual[name][0]), default="")
    if REFIT not in names or not best:
        return REFIT if REFIT in names else best
    more = usual[REFIT] - usual[best]
    return REFIT if float(more[0]) > float(more[1:].std()) else best


def expected_remedies(worlds: Worlds, blocks: int) -> list[Regained | None]:
    """What mending the inputs is expected to win back where production has no labels.

    Other remedies are fitted to labels of production, and nothing is known of what they would win.

    Args:
        worlds: qualities in which the causes act.
        blocks: number of blocks of rows that vary together.
    """
    found: list[Regained | None] = []
    for at, one in enumerate(worlds.mechanisms[:-1]):
        if one.leaked is not None:
            found.append(_RE_ESTIMATE)
        elif one.change is not None and (one.change.undo is not None or _is_computed(one)):
            found.append(_expected_mending(at, worlds, blocks))
        else:
            found.append(_UNTRIED)
    return [*found, None]


def _expected_mending(at: int, worlds: Worlds, blocks: int) -> Regained:
    """Quality without a change of the inputs beside all other causes, less that with it.

    What cannot be undone in production counts as in validation, weighted and served as production.
    """
    everything = frozenset(range(len(worlds.mechanisms)))
    mended, before = worlds.qualities([everything - {at}, everything])
    name = f"mend {worlds.mechanisms[at].subject}{_EXPECTED}"
    return _regained(name, mended - before, blocks, "none")


def _mended(at: int, worlds: Worlds, trials: Trials) -> list[Regained]:
    """What is won by undoing a change of the inputs, or by a usual value in its place."""
    one = worlds.mechanisms[at]
    if one.leaked is not None:
        return [_RE_ESTIMATE]
    change, network = one.change, trials.network
    if change is None or network is None:
        return []
    if change.undo is not None:
        return [trials.gain(f"mend {one.subject}", network(change.undo(trials.inputs)), "none")]
    tried = []
    if change.usual is not None:
        name = f"usual value for {one.subject}"
        tried.append(trials.gain(name, network(change.usual(trials.inputs)), "none"))
    if _is_computed(one):
        tried.append(_expected_mending(at, worlds, trials.blocks))
    return tried


def _is_computed(mechanism: Mechanism) -> bool:
    """Whether code of serving made the change, so that to mend this code is its remedy."""
    whole = mechanism.change is not None and mechanism.change.whole
    return whole or mechanism.cause == "train_serve_skew"


def usual_remedy(name: str, trials: Trials) -> Regained | None:
    """A remedy that needs recent labels; None where it cannot be tried.

    Args:
        name: one of the remedies of `OF_CAUSE`.
        trials: rows that it is tried on.
    """
    outputs = _usual_outputs(name, trials)
    return None if outputs is None else trials.gain(name, outputs, _COSTS[name])


def _usual_outputs(name: str, trials: Trials) -> Tensor | None:
    records = trials.records
    assert records.logits is not None
    assert records.targets is not None
    logits, targets = records.logits.cpu().double(), records.targets.cpu()
    quantities = records.task is Task.REGRESSION
    if bool(missing_labels(targets, partly=True).any()) or len(targets) < _LEAST_ROWS:
        return None
    single = logits.shape == targets.shape
    if not quantities and not single and logits.shape[1] > _MOST_CLASSES:
        return None
    makers: dict[str, Callable[[], Tensor | None]] = {
        REFIT: partial(_refitted, trials),
    }
    # Maps of the scores keep the order of the rows, and with it their AUC.
    mapped = trials.metric.name != "AUC"
    if mapped and (single or not quantities):
        makers["recalibrate"] = partial(out_of_fold, logits, targets, trials.folds)
    if mapped and not quantities:
        makers["adapt to class shares"] = partial(_adapted, logits, targets, trials)
    if mapped and single:
        deployed = records.schema.threshold or 0.5
        makers["move threshold"] = partial(
            at_other_thresholds, logits, targets, trials.folds, deployed
        )
    return makers[name]() if name in makers else None


def _refitted(trials: Trials) -> Tensor | None:
    if trials.network is None:
        return None
    rows = trials.records
    return refitted_logits(trials.model, rows, rows, trials.folds, trials.device)


def _adapted(logits: Tensor, targets: Tensor, trials: Trials) -> Tensor:
    """Logits with the logarithm of new over old odds, or shares, counted on the other folds."""
    adapted = logits.clone()
    for fold in range(int(trials.folds.max()) + 1):
        own = trials.folds == fold
        shift = _prior(targets[~own], logits) - _prior(trials.shares, logits)
        adapted[own] = logits[own] + shift
    return adapted


def _prior(targets: Tensor, logits: Tensor) -> Tensor:
    """Logarithm of the odds of each answer, or of the share of each class."""
    if targets.ndim == 1 and logits.ndim == 2:
        counts = targets.bincount(minlength=logits.shape[1]).double() + 1
        return (counts / counts.sum()).log()
    positive, negative = (targets == 1).double().sum(0) + 1, (targets == 0).double().sum(0) + 1
    return (positive / negative).log()

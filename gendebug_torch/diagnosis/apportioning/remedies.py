"""Remedies of the causes, each tried on rows of production that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    "train_serve_skew": (REFIT,),
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
    """A remedy on rows of production that it was not fitted to.

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

    def gain(self, remedy: str, logits: Tensor, cost: str) -> Regained:
        """Quality that other outputs of the same rows win back."""
        assert self.records.logits is not None
        assert self.records.targets is not None
        before, targets = self.records.logits.cpu(), self.records.targets.cpu()
        points = self.metric.points(logits, targets, self.weights)
        points = points - self.metric.points(before, targets, self.weights)
        low, high = interval(points, self.blocks)
        return Regained(remedy, float(points[0]), float(low), float(high), cost)


def best_remedies(
    mechanisms: Sequence[Mechanism], trials: Trials, deadline: Deadline = NO_DEADLINE
) -> list[Regained | None]:
    """The remedy of each mechanism that wins back most; None where none can be tried.

    What mends the cause itself goes before what only adapts to it, if it helps.
    """
    usual = {}
    for name in _COSTS:
        deadline.check()
        if (won := usual_remedy(name, trials)) is not None:
            usual[name] = won
    best = []
    for one in mechanisms:
        tried = _mended(one, trials)
        if one.leaked is None and not any(trial.helps for trial in tried):
            tried += [usual[name] for name in OF_CAUSE.get(one.cause, ()) if name in usual]
        best.append(max(tried, key=lambda trial: trial.points, default=None))
    return best


def expected_remedies(worlds: Worlds, blocks: int) -> list[Regained | None]:
    """What mending the inputs is expected to win back where production has no labels.

    It is the quality of changed validation without the change, less that with it. Other remedies
    are fitted to labels of production, and nothing is known of what they would win.

    Args:
        worlds: qualities in which the causes act.
        blocks: number of blocks of rows that vary together.
    """
    *causes, _ = worlds.mechanisms
    everything = frozenset(range(len(worlds.mechanisms)))
    found: list[Regained | None] = []
    for at, one in enumerate(causes):
        if one.leaked is not None:
            found.append(_RE_ESTIMATE)
        elif one.change is not None and one.change.undo is not None:
            mended, before = worlds.qualities([everything - {at}, everything])
            low, high = interval(mended - before, blocks)
            won = float((mended - before)[0]), float(low), float(high)
            found.append(Regained(f"mend {one.subject}, expected", *won, "none"))
        else:
            found.append(_UNTRIED)
    return [*found, None]


def _mended(one: Mechanism, trials: Trials) -> list[Regained]:
    """What is won by undoing a change of the inputs, or by a usual value in its place."""
    if one.leaked is not None:
        return [_RE_ESTIMATE]
    change, network = one.change, trials.network
    if change is None or network is None:
        return []
    if change.undo is not None:
        return [trials.gain(f"mend {one.subject}", network(change.undo(trials.inputs)), "none")]
    if change.usual is not None:
        name = f"usual value for {one.subject}"
        return [trials.gain(name, network(change.usual(trials.inputs)), "none")]
    return []


def usual_remedy(name: str, trials: Trials) -> Regained | None:
    """A remedy that needs recent labels; None where it cannot be tried.

    Args:
        name: one of the remedies of `OF_CAUSE`.
        trials: rows that it is tried on.
    """
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
    remedied = makers[name]() if name in makers else None
    return None if remedied is None else trials.gain(name, remedied, _COSTS[name])


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

"""Remedies of the causes, each tried on rows of production that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
# Simplest first.
_ORDER = {name: at for at, name in enumerate(_COSTS)}
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
        best: whether it is the best one of the bill.
    """

    remedy: str
    points: float
    low: float
    high: float
    cost: str
    best: bool = False

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
class Candidate:
    """A remedy that was tried on rows of production, and on their resamplings.

    Args:
        remedy: what was tried.
        points: quality that it wins back, as it is and resampled, `[1 + r]`.
        saved: cross-entropy that it saves on the same rows, in points of the log loss, `[1 + r]`;
            None where that does not stand for the metric, or is not known.
        cost: what it costs at run time.
    """

    remedy: str
    points: Tensor
    saved: Tensor | None
    cost: str

    def regained(self, blocks: int) -> Regained:
        """What it wins back, with its interval.

        Args:
            blocks: number of blocks of rows that vary together.
        """
        low, high = interval(self.points, blocks)
        return Regained(self.remedy, float(self.points[0]), float(low), float(high), self.cost)


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
        score: log loss, where it tells remedies apart that win as many points.
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
    score: RowMetric | None = None

    def candidate(self, remedy: str, logits: Tensor, cost: str) -> Candidate:
        """A remedy by the outputs that it gives the same rows."""
        saved = None if self.score is None else self._won(self.score, logits)
        return Candidate(remedy, self._won(self.metric, logits), saved, cost)

    def gain(self, remedy: str, logits: Tensor, cost: str) -> Regained:
        """What a remedy wins back by the outputs that it gives the same rows."""
        return Candidate(remedy, self._won(self.metric, logits), None, cost).regained(self.blocks)

    def _won(self, metric: RowMetric, logits: Tensor) -> Tensor:
        """Quality that other outputs of the same rows win back, as it is and resampled."""
        assert self.records.logits is not None
        assert self.records.targets is not None
        before, targets = self.records.logits.cpu(), self.records.targets.cpu()
        points = metric.points(logits, targets, self.weights)
        return points - metric.points(before, targets, self.weights)


def best_remedies(
    worlds: Worlds, trials: Trials, deadline: Deadline = NO_DEADLINE
) -> list[Regained | None]:
    """The remedy of each mechanism that is preferred; None where none can be tried.

    What mends the cause itself goes before what only adapts to it, if it helps. The one that is
    preferred to the others of the bill is marked.

    Args:
        worlds: qualities in which the causes act.
        trials: rows of production that remedies are tried on.
        deadline: when to stop.
    """
    usual = {}
    for name, cost in _COSTS.items():
        deadline.check()
        if (outputs := _usual_outputs(name, trials)) is not None:
            usual[name] = trials.candidate(name, outputs, cost)
    chosen: list[Candidate | None] = []
    for at, one in enumerate(worlds.mechanisms):
        tried = _mended(at, worlds, trials)
        if one.leaked is None and not any(own.regained(trials.blocks).helps for own in tried):
            tried += [usual[name] for name in OF_CAUSE.get(one.cause, ()) if name in usual]
        chosen.append(preferred(tried))
    best = preferred([one for one in chosen if one is not None])
    return [
        _RE_ESTIMATE if one.leaked is not None else _marked(own, best, trials.blocks)
        for one, own in zip(worlds.mechanisms, chosen, strict=True)
    ]


def _marked(own: Candidate | None, best: Candidate | None, blocks: int) -> Regained | None:
    if own is None or best is None:
        return None
    return replace(own.regained(blocks), best=own.remedy == best.remedy)


def preferred(candidates: Sequence[Candidate]) -> Candidate | None:
    """The remedy that wins back most; of those that do as well the one that saves most log loss.

    Remedies do as well as the first one where they fall short of it by no more than a standard
    error of the difference on the same rows. Decisions say little of small differences; the log
    loss, a proper score, hears every row. Where that does not tell them apart either, the simplest
    one is named: mending, then maps of the outputs, then a layer that is fitted again, which takes
    most labels.

    Source: Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, 3.4.3,
    for the rule of one standard error; Gneiting and Raftery (2007), JASA 102:359, for scores.

    Args:
        candidates: remedies, tried on the same rows.

    Returns:
        None where there is none.

    Example:
        >>> import torch
        >>> noise = torch.tensor([0.0, 0.3, -0.3])
        >>> map_ = Candidate("recalibrate", 5.1 + 0 * noise, 0.02 + 0 * noise, "one affine map")
        >>> layer = Candidate(REFIT, 5.0 + noise, 0.05 + 0 * noise, "none")
        >>> preferred([map_, layer]).remedy
        'refit last layer'
    """
    alike = _as_good_as_first([(one, one.points) for one in candidates])
    scored = [(one, one.saved) for one in alike if one.saved is not None]
    saving = {one.remedy for one in _as_good_as_first(scored)}
    alike = [one for one in alike if one.saved is None or one.remedy in saving]
    return min(alike, key=lambda one: _ORDER.get(one.remedy, -1), default=None)


def _as_good_as_first(candidates: Sequence[tuple[Candidate, Tensor]]) -> list[Candidate]:
    """Those whose values fall short of the largest by a standard error of this at most."""
    if not candidates:
        return []
    _, most = max(candidates, key=lambda pair: float(pair[1][0]))
    short = [(one, most - values) for one, values in candidates]
    return [one for one, less in short if float(less[0]) <= float(less[1:].std())]


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
            found.append(_expected_mending(at, worlds, None).regained(blocks))
        else:
            found.append(_UNTRIED)
    return [*found, None]


def _expected_mending(at: int, worlds: Worlds, score: RowMetric | None) -> Candidate:
    """Quality without a change of the inputs beside all other causes, less that with it.

    What cannot be undone in production counts as in validation, weighted and served as production.
    """
    everything = frozenset(range(len(worlds.mechanisms)))
    mended, before = worlds.qualities([everything - {at}, everything])
    name, saved = f"mend {worlds.mechanisms[at].subject}{_EXPECTED}", None
    if score is not None:
        losses = replace(worlds, metric=score).qualities([everything - {at}, everything])
        saved = losses[0] - losses[1]
    return Candidate(name, mended - before, saved, "none")


def _mended(at: int, worlds: Worlds, trials: Trials) -> list[Candidate]:
    """What is won by undoing a change of the inputs, or by a usual value in its place."""
    one = worlds.mechanisms[at]
    change, network = one.change, trials.network
    if one.leaked is not None or change is None or network is None:
        return []
    if change.undo is not None:
        outputs = network(change.undo(trials.inputs))
        return [trials.candidate(f"mend {one.subject}", outputs, "none")]
    tried = []
    if change.usual is not None:
        name = f"usual value for {one.subject}"
        tried.append(trials.candidate(name, network(change.usual(trials.inputs)), "none"))
    if _is_computed(one):
        tried.append(_expected_mending(at, worlds, trials.score))
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

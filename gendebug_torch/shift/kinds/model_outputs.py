"""The outputs of the model on both sides: did they shift, and do labels follow them as before?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.shared_tables import SharedTables
from gendebug_torch.shift.kinds.class_shares import ClassShares
from gendebug_torch.shift.scores.outputs import (
    has_outputs,
    labeled_outputs,
    output_columns,
    task_of_pair,
)
from gendebug_torch.shift.scores.score_relation import (
    RelationChange,
    error_change,
    most_changed,
    relation_change,
)
from gendebug_torch.shift.transforms.distances import weighted_ks_distance
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.stats.auc import normal_scores
from gendebug_torch.stats.probe_network import cross_fit, design, fitted_network

# Rows of either side on which outputs are told from inputs, and columns up to which they are.
_MOST_ROWS, _FEWEST_ROWS, _MOST_COLUMNS = 3000, 200, 300
# Outputs that are looked at, those that vary most.
_MOST_OUTPUTS = 10
# Parts of the reference in time, the least of which counts: rare rows may come at some time only.
_QUARTERS = 4
# Share of the outputs that inputs must tell in the reference, and loss of it that matters.
_MIN_TOLD, _MIN_LOST = 0.6, 0.25
# Level at which the scores do not fit a change of class shares.
_MISFIT = 0.01


def labels_given_scores(
    reference: Records, production: Records, classes: ClassShares | None = None
) -> RelationChange | None:
    """Labels given the score of the model, before and after; None where either side lacks one.

    Of several labels, or outputs of a regression, the one that changed most.

    Args:
        reference: records with logits and targets where known.
        production: the same.
        classes: shares of the classes to which the logits of production are adapted.
    """
    if has_outputs(reference, production):
        return _of_outputs(reference, production)
    z, y, live, live_targets = (
        reference.logits,
        reference.targets,
        production.logits,
        production.targets,
    )
    if z is None or y is None or live is None or live_targets is None:
        return None
    if y.ndim != 1 or live_targets.ndim != 1 or not min(len(reference), len(production)):
        return None
    bias = None if classes is None else classes.weights.clamp(min=1e-6).log()
    return relation_change(z, y, live, live_targets, bias=bias)


def _of_outputs(reference: Records, production: Records) -> RelationChange | None:
    changes = []
    for output in labeled_outputs(reference, production):
        parts = (
            output.predictions,
            output.targets,
            output.live_predictions,
            output.live_targets,
        )
        if output.targets.is_floating_point():
            change = error_change(*parts, name=output.name)
        elif min(len(output.targets), len(output.live_targets)):
            change = relation_change(*parts, event=output.name)
        else:
            change = None
        if change is not None:
            changes.append(change)
    return most_changed(changes)


def scores_follow(reference: Records, production: Records, classes: ClassShares) -> bool:
    """Whether the scores shifted as the class shares say: closer to the weighted reference."""
    if not classes.observed:
        return not classes.misfit[0] < _MISFIT
    if reference.logits is None or production.logits is None or reference.targets is None:
        return True
    largest = int((classes.after - classes.before).abs().argmax())
    z, live = (_class_log_odds(side, largest) for side in (reference.logits, production.logits))
    unweighted = float(ks_two_sample(z, live).statistic)
    return weighted_ks_distance(z, classes.weights[reference.targets.cpu()], live)[0] < unweighted


def scores_shifted(
    reference: Records, production: Records, alpha: float, min_effect: float
) -> bool:
    """Whether the distribution of any score shifted.

    Args:
        reference: records with logits where known.
        production: the same.
        alpha: chance of a false alarm over all scores (Holm, 1979).
        min_effect: smallest Kolmogorov-Smirnov distance that counts.
    """
    if reference.logits is None or production.logits is None:
        return False
    sides = (reference.logits, production.logits)
    if has_outputs(reference, production):
        before, after = (output_columns(side).double() for side in sides)
        if before.shape[1] != after.shape[1]:
            return False
    else:
        before, after = (_scores(side) for side in sides)
    test = ks_two_sample(before, after)
    return bool(((test.adjusted < alpha) & (test.statistic >= min_effect)).any())


@dataclass(frozen=True)
class OutputRelation:
    """How much of the outputs of a model can be told from its inputs, on both sides.

    Args:
        before: squared correlation of the outputs, by their ranks, with those of a small network
            that was fitted to other times of the reference; least of four quarters of it.
        after: the same in production, of the network that was fitted to the reference.
        rows: rows of either side.
    """

    before: float
    after: float
    rows: tuple[int, int]

    @property
    def changed(self) -> bool:
        """Whether outputs are not those that such inputs had before."""
        return self.before >= _MIN_TOLD and self.before - self.after >= _MIN_LOST


def outputs_given_inputs(
    reference: Records, production: Records, columns: SharedTables
) -> OutputRelation | None:
    """Whether the ranks of outputs follow the inputs as before.

    Where the inputs are as before, only another model, or inputs that are changed on the way to it,
    can change that. None without outputs, with fewer than 200 rows or more than 300 columns.

    Args:
        reference: records with logits where known.
        production: the same.
        columns: their inputs.

    Cost: a `cross_fit` and a fit to 3,000 rows.
    """
    sides = reference.logits, production.logits
    width = columns.reference.shape[1]
    few = min(len(reference), len(production)) < _FEWEST_ROWS
    if sides[0] is None or sides[1] is None or few or not 0 < width <= _MOST_COLUMNS:
        return None
    outputs = [_outputs(side) for side in (sides[0], sides[1])]
    if outputs[0].shape[1] != outputs[1].shape[1]:
        return None
    chosen = outputs[0].std(0).argsort(descending=True)[:_MOST_OUTPUTS]
    rows = [
        torch.arange(min(len(one), _MOST_ROWS)) * len(one) // min(len(one), _MOST_ROWS)
        for one in outputs
    ]
    first, second = (
        normal_scores(one[row][:, chosen].T).T for one, row in zip(outputs, rows, strict=True)
    )
    tables = (
        side.iloc[row.numpy()]
        for side, row in zip((columns.reference, columns.production), rows, strict=True)
    )
    values = design(*tables, categorical=columns.categorical).values
    n = len(first)
    quarters = _quarters(n, columns.orders[0], rows[0])
    usual = cross_fit(values[:n], first, folds=quarters).scores
    live = fitted_network(values, first)(values[n:])
    before = min(_told(usual[own], first[own]) for own in (quarters == i for i in range(_QUARTERS)))
    return OutputRelation(before, _told(live, second), (n, len(second)))


def _quarters(n: int, order: Tensor | None, rows: Tensor) -> Tensor:
    """Quarter of each of the drawn rows in the order of time, or as they come, `[n]` int64."""
    rank = rows if order is None else order.argsort().cpu()[rows]
    return rank.argsort().argsort() * _QUARTERS // n


def _outputs(logits: Tensor) -> Tensor:
    """Outputs as columns without what they have in common, `[n, k]` float64 on the host."""
    z = logits.double().cpu().reshape(len(logits), -1).clamp(-1e6, 1e6)
    return z if z.shape[1] == 1 else z - z.mean(1, keepdim=True)


def _told(scores: Tensor, outputs: Tensor) -> float:
    """Squared correlation, the mean over the outputs weighted by their variance."""
    scores, outputs = scores - scores.mean(0), outputs - outputs.mean(0)
    power = outputs.square().sum(0)
    squared = (scores * outputs).sum(0).square() / (scores.square().sum(0) * power).clamp(min=1e-30)
    return float((squared * power).sum() / power.sum().clamp(min=1e-30))


def gives_quantities(reference: Records, production: Records) -> bool:
    """Whether the model is a regression, whose outputs are no probabilities."""
    return task_of_pair(reference, production) == "regression"


def _scores(logits: Tensor) -> Tensor:
    """Binary log-odds, or the log confidence of more classes, `[n]` on the host."""
    z = logits.double().cpu()
    if z.ndim == 1:
        return z
    return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z.log_softmax(1).amax(1)


def _class_log_odds(logits: Tensor, which: int) -> Tensor:
    """Log-odds of one class, `[n]` on the host."""
    z = logits.double().cpu()
    if z.ndim == 1 or z.shape[1] == 2:
        return _scores(z)
    others = z.clone()
    others[:, which] = -float("inf")
    return z[:, which] - others.logsumexp(1)

"""The outputs of the model on both sides: did they shift, and do labels follow them as before?"""

from __future__ import annotations

from torch import Tensor

from gendebug_torch.data.records import Records
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

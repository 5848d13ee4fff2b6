"""`shift.label_shift`: shares of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS
from gendebug_torch.shift.checks._outputs import (
    column_numbers,
    distance_text,
    largest_shifts,
    target_columns,
    targets_test,
)
from gendebug_torch.shift.kinds.change_kinds import ALPHA, ChangeKinds
from gendebug_torch.shift.kinds.class_shares import ClassShares
from gendebug_torch.shift.scores.estimated_accuracy import MAX_CLASSES
from gendebug_torch.shift.scores.outputs import has_outputs, task_of_pair
from gendebug_torch.stats.intervals import p_value_text

_OTHER_REASONS = {
    "train_serve_skew": "an input is computed differently, or the model is another one",
    "covariate_shift": "the inputs shifted too",
    "concept_drift": "labels given the inputs changed (shift.concept_drift)",
    "threshold": "the scores shifted although no compared input did",
}


@check(
    "shift.label_shift",
    cause=Cause.LABEL_SHIFT,
    needs=("validation.targets", "production"),
    cost=lambda given: Cost(elements=100.0),
    derived=(CHANGE_KINDS,),
    partial_labels=True,
)
def classes_keep_their_shares(
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None = None,
    *,
    fail_distance: float = 0.2,
    min_effect: float = 0.1,
) -> Iterator[Finding]:
    """The classes have the same shares as in validation, unless inputs shifted for another reason.

    Shares are counted where production has labels and estimated from the scores where not. A change
    of them is called label shift only where the columns and the scores that shifted are as before
    within the classes. Shares of several labels, and the distribution of quantities, are counted
    one by one (Holm); they warn where nothing else that was compared says why they changed.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Lipton, Wang and
    Smola (2018), ICML, arXiv:1802.03916 for the assumption; Pearson (1900) for counted shares.

    Args:
        validation: records with targets, and with logits and features where known.
        production: records with targets, or with logits.
        change_kinds: kinds of change, derived.
        fail_distance: total variation distance of the shares from which it is a failure.
        min_effect: smallest Kolmogorov-Smirnov distance of one of several targets that matters.
    """
    this = classes_keep_their_shares
    if has_outputs(validation, production):
        yield _targets_finding(validation, production, change_kinds, min_effect)
        return
    classes = None if change_kinds is None else change_kinds.classes
    if change_kinds is None or classes is None:
        yield this.finding(
            Severity.NOTE,
            "Not judged: class shares need 30 rows a side, and labels, or scores of at most "
            f"{MAX_CLASSES} classes, in production.",
        )
        return
    text, numbers = _text(classes), _numbers(classes)
    if not classes.changed(ALPHA):
        text = f"The class shares are unchanged: {text}."
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=classes)
    elif "label_shift" not in change_kinds.kinds:
        reason = (
            "the inputs shifted too, by more than the shares explain"
            if change_kinds.features
            else "the scores do not follow, so labels given the inputs changed"
        )
        severity = Severity.NOTE if classes.observed else Severity.OK
        text = f"Not a label shift by itself, since {reason}: {text}."
        yield this.finding(severity, text, numbers=numbers, evidence=classes)
    else:
        yield _shift_finding(classes, change_kinds, fail_distance)


def _targets_finding(
    validation: Records, production: Records, change_kinds: ChangeKinds | None, min_effect: float
) -> Finding:
    """Several labels, or quantities: each counted target against that of validation."""
    this = classes_keep_their_shares
    kind = "label" if task_of_pair(validation, production) is Task.MULTILABEL else "quantity"
    sides, test = (
        target_columns(validation, production),
        targets_test(validation, production, ALPHA),
    )
    if sides is None or test is None or not bool(test.statistic.isfinite().any()):
        text = f"Not judged: the distribution of a {kind} needs labels of production."
        return this.finding(Severity.NOTE, text)
    shifted = largest_shifts(test, ALPHA, min_effect)
    which = shifted[0] if shifted else int(test.statistic.nan_to_num(-1.0).argmax())
    numbers = column_numbers(test, *sides, which) | {"targets": len(test.statistic)}
    before, after = numbers["mean_reference"], numbers["mean_production"]
    change = distance_text(numbers)
    if kind == "label":
        p_value = p_value_text(numbers["p_holm"])
        change = f"share {before:.1%} → {after:.1%}, counted (Holm {p_value})"
    if not shifted:
        text = f"No {kind} changed its distribution; that of {test.labels[which]} most: {change}."
        return this.finding(Severity.OK, text, numbers=numbers, evidence=test)
    found = () if change_kinds is None else change_kinds.kinds
    reason = (
        _OTHER_REASONS.get(found[0], "the class shares changed")
        if found
        else "nothing else that was compared changed"
    )
    text = f"The {kind} {test.labels[which]} changed its distribution: {change}; {reason}."
    return this.finding(
        Severity.NOTE if found else Severity.WARN,
        text,
        numbers=numbers | {"shifted": len(shifted)},
        remedy="Look at the rows that are new (slices, shift.joint), and retrain on recent ones.",
        evidence=test,
    )


def _shift_finding(
    classes: ClassShares, change_kinds: ChangeKinds, fail_distance: float
) -> Finding:
    follow = [f.name for f in change_kinds.features if f.kind == "label_shift"]
    summary = f"Label shift: {_text(classes)}."
    if follow:
        summary = f"{summary[:-1]}. It explains the shift of {len(follow)} features."
    if not classes.observed:
        summary += " Without labels, an input shift that looks the same cannot be ruled out."
    severity = Severity.FAIL if classes.distance >= fail_distance else Severity.WARN
    if not classes.observed and not follow:
        # Only the scores say so: a shift of the inputs could look the same.
        severity = Severity.NOTE
    return classes_keep_their_shares.finding(
        severity,
        summary,
        numbers=_numbers(classes) | {"features_that_follow": len(follow)},
        remedy=(
            "Adapt the scores to the new shares (add log(new share / old share) to each logit) and "
            "tune the threshold again; the model need not be retrained."
        ),
        evidence=classes,
    )


def _text(classes: ClassShares) -> str:
    source = "counted" if classes.observed else "estimated from the scores"
    i = _largest(classes)
    return (
        f"the share of class {classes.names[i]} went from {classes.before[i]:.1%} to "
        f"{classes.after[i]:.1%} ({source}, 95 % interval {classes.low[i]:.1%} to "
        f"{classes.high[i]:.1%}), total variation distance {classes.distance:.1%}, "
        f"{p_value_text(classes.p_value)}"
    )


def _numbers(classes: ClassShares) -> dict[str, Any]:
    i = _largest(classes)
    return {
        "class": classes.names[i],
        "reference": float(classes.before[i]),
        "production": float(classes.after[i]),
        "low": float(classes.low[i]),
        "high": float(classes.high[i]),
        "distance": classes.distance,
        "p_value": classes.p_value,
        "observed": classes.observed,
        "misfit_p_value": classes.misfit[0],
    }


def _largest(classes: ClassShares) -> int:
    """The class whose share changed most."""
    return int((classes.after - classes.before).abs().argmax())

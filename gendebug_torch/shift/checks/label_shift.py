"""`shift.label_shift`: shares of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS
from gendebug_torch.shift.kinds.change_kinds import ALPHA, ChangeKinds
from gendebug_torch.shift.kinds.class_shares import ClassShares
from gendebug_torch.stats.intervals import p_value_text


@check(
    "shift.label_shift",
    cause=Cause.LABEL_SHIFT,
    needs=("validation.targets", "production"),
    cost=lambda given: Cost(elements=100.0),
    derived=(CHANGE_KINDS,),
)
def classes_keep_their_shares(
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None = None,
    *,
    fail_distance: float = 0.2,
) -> Iterator[Finding]:
    """The classes have the same shares as in validation, unless inputs shifted for another reason.

    Shares are counted where production has labels and estimated from the scores where not. A change
    of them is called label shift only where the columns and the scores that shifted are as before
    within the classes.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Lipton, Wang and
    Smola (2018), ICML, arXiv:1802.03916 for the assumption; Pearson (1900) for counted shares.

    Args:
        validation: records with targets, and with logits and features where known.
        production: records with targets, or with logits.
        change_kinds: kinds of change, derived.
        fail_distance: total variation distance of the shares from which it is a failure.
    """
    this = classes_keep_their_shares
    classes = None if change_kinds is None else change_kinds.classes
    if change_kinds is None or classes is None:
        yield this.finding(
            Severity.NOTE,
            "Not judged: class shares need 30 rows a side, and labels or scores in production.",
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

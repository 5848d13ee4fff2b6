"""Checks that tell the kinds of change apart: class shares, what inputs mean, how inputs are
computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import _cost, p_text
from gendebug_torch.shift.kinds.change_kinds import ALPHA, change_kinds
from gendebug_torch.shift.kinds.class_shares import ClassShares


@check(
    "shift.label_shift",
    cause=Cause.LABEL_SHIFT,
    needs=("validation.targets", "production"),
    cost=_cost,
)
def classes_keep_their_shares(
    validation: Records, production: Records, *, fail_distance: float = 0.2
) -> Iterator[Finding]:
    """The classes have the shares in production that they had in validation, or inputs moved for
    another reason.

    Shares are counted where production has labels and estimated from the scores where not. A change
    of them is called label shift only where the columns and the scores that moved look as before
    within the classes.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Lipton, Wang and
    Smola (2018), ICML, arXiv:1802.03916 for the assumption; Pearson (1900) for counted shares.

    Args:
        validation: records with targets; with logits and features where known.
        production: records with targets, or with logits.
        fail_distance: share of the rows that changed class from which it is a failure.
    """
    this = classes_keep_their_shares
    kinds = change_kinds(production, validation)
    classes = kinds.classes
    if classes is None:
        yield this.finding(
            Severity.NOTE,
            "Class shares cannot be known: too few rows, or neither labels nor scores in "
            "production.",
        )
        return
    told = "counted" if classes.observed else "estimated from the scores"
    place = int((classes.after - classes.before).abs().argmax())
    numbers = _class_numbers(classes, place)
    change = (
        f"{classes.before[place]:.1%} → {classes.after[place]:.1%} ({told}, "
        f"{classes.low[place]:.1%} to {classes.high[place]:.1%})"
    )
    moved = f"{classes.distance:.1%} of the rows changed class, {p_text(classes.p_value)}"
    text = f"the share of class {classes.names[place]} went {change}; {moved}"
    if not classes.moved(ALPHA):
        yield this.finding(
            Severity.OK, f"Class shares held: {text}.", numbers=numbers, evidence=classes
        )
        return
    if "classes" not in kinds.kinds:
        why = (
            "what moved the inputs moved them too"
            if kinds.features
            else "the scores do not follow, so the labels changed their meaning"
        )
        severity = Severity.NOTE if classes.observed else Severity.OK
        yield this.finding(
            severity,
            f"Not a label shift by itself ({why}): {text}.",
            numbers=numbers,
            evidence=classes,
        )
        return
    follow = [feature.name for feature in kinds.features if feature.kind == "classes"]
    numbers |= {"features_that_follow": len(follow)}
    explained = f"; {len(follow)} features moved no more than that explains" if follow else ""
    certain = (
        ""
        if classes.observed
        else " Without labels an input shift that looks the same cannot be ruled out."
    )
    remedy = (
        "Adapt the scores to the new shares (add log(new share / old share) to each logit) and "
        "set the threshold anew; "
        "the model itself need not be retrained."
    )
    severity = Severity.FAIL if classes.distance >= fail_distance else Severity.WARN
    # Only scores say so, and nothing else does: a change of inputs could look the same.
    severity = Severity.NOTE if not classes.observed and not follow else severity
    summary = f"Label shift: {text}{explained}.{certain}"
    yield this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=classes)


def _class_numbers(classes: ClassShares, place: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {"class": classes.names[place]}
    numbers |= {
        "reference": float(classes.before[place]),
        "production": float(classes.after[place]),
    }
    numbers |= {
        "low": float(classes.low[place]),
        "high": float(classes.high[place]),
        "distance": classes.distance,
    }
    return numbers | {
        "p_value": classes.p_value,
        "observed": classes.observed,
        "misfit_p_value": classes.misfit[0],
    }

"""Checks that tell the kinds of change apart: class shares, what inputs mean, how inputs are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check
from gendebug_torch.shift.classes import ClassShares
from gendebug_torch.shift.columns import width
from gendebug_torch.shift.kinds import ALPHA, ChangeKinds, change_kinds
from gendebug_torch.shift.moves import FeatureChange
from gendebug_torch.shift.relation import RelationChange
from gendebug_torch.shift.undo import Undo

CAUSES = {
    "skew": Cause.TRAIN_SERVE_SKEW,
    "classes": Cause.LABEL_SHIFT,
    "inputs": Cause.COVARIATE_SHIFT,
    "meaning": Cause.CONCEPT_DRIFT,
    # Scores that move although no input does: the same ranking, perhaps, but no longer the same operating point.
    "scores": Cause.THRESHOLD,
}
FAIL_EFFECT = 0.3


def p_text(value: float) -> str:
    """A p-value as a sentence shows it."""
    return "p < 1e-16" if value < 1e-16 else f"p = {value:.2g}"


def kinds_between(production: Records, validation: Records | None, train: Records | None = None) -> ChangeKinds | None:
    """The decision table against validation, or against training without its scores, which are too good to compare."""
    reference = validation if validation is not None else train
    if reference is None:
        return None
    return change_kinds(production, reference, scores=validation is not None)


def cause_of_symptom(production: Records, validation: Records | None) -> Cause:
    """The root behind a change of what the model says: the first kind of change, or the inputs where none is seen."""
    kinds = kinds_between(production, validation)
    return CAUSES[kinds.kinds[0]] if kinds is not None and kinds.kinds else Cause.COVARIATE_SHIFT


def _cost(given: Mapping[str, Any]) -> Cost:
    sizes = []
    for records in map(given.get, ("validation", "train", "production")):
        cells = 0.0 if records is None else float(min(len(records), 20_000))
        sizes.append(cells * (1 if records is None or records.features is None else records.features.shape[-1]))
    # Three comparisons of all columns together at most, as `shift.joint` makes one.
    return Cost(elements=60.0 * sum(sizes) + 3 * 5000.0 * (96.0 + width(given.get("production"))) ** 2 + 1e7)


@check("shift.label_shift", cause=Cause.LABEL_SHIFT, needs=("validation.targets", "production"), cost=_cost)
def classes_keep_their_shares(validation: Records, production: Records, *, fail_distance: float = 0.2) -> Iterator[Finding]:
    """The classes have the shares in production that they had in validation, or inputs moved for another reason.

    Shares are counted where production has labels and estimated from the scores where not. A change of them is called
    label shift only where the columns and the scores that moved look as before within the classes.

    Source: Saerens, Latinne and Decaestecker (2002), Neural Computation 14:21; Lipton, Wang and Smola (2018), ICML,
    arXiv:1802.03916 for the assumption; Pearson (1900) for counted shares.

    Args:
        validation: records with targets; with logits and features where known.
        production: records with targets, or with logits.
        fail_distance: share of the rows that changed class from which it is a failure.
    """
    this = classes_keep_their_shares
    kinds = change_kinds(production, validation)
    classes = kinds.classes
    if classes is None:
        yield this.finding(Severity.NOTE, "Class shares cannot be known: too few rows, or neither labels nor scores in production.")
        return
    told = "counted" if classes.observed else "estimated from the scores"
    place = int((classes.after - classes.before).abs().argmax())
    numbers = _class_numbers(classes, place)
    change = f"{classes.before[place]:.1%} → {classes.after[place]:.1%} ({told}, {classes.low[place]:.1%} to {classes.high[place]:.1%})"
    moved = f"{classes.distance:.1%} of the rows changed class, {p_text(classes.p_value)}"
    text = f"the share of class {classes.names[place]} went {change}; {moved}"
    if not classes.moved(ALPHA):
        yield this.finding(Severity.OK, f"Class shares held: {text}.", numbers=numbers, evidence=classes)
        return
    if "classes" not in kinds.kinds:
        why = "what moved the inputs moved them too" if kinds.features else "the scores do not follow, so the labels changed their meaning"
        severity = Severity.NOTE if classes.observed else Severity.OK
        yield this.finding(severity, f"Not a label shift by itself ({why}): {text}.", numbers=numbers, evidence=classes)
        return
    follow = [feature.name for feature in kinds.features if feature.kind == "classes"]
    numbers |= {"features_that_follow": len(follow)}
    explained = f"; {len(follow)} features moved no more than that explains" if follow else ""
    certain = "" if classes.observed else " Without labels an input shift that looks the same cannot be ruled out."
    remedy = (
        "Adapt the scores to the new shares (add log(new share / old share) to each logit) and set the threshold anew; "
        "the model itself need not be retrained."
    )
    severity = Severity.FAIL if classes.distance >= fail_distance else Severity.WARN
    # Only scores say so, and nothing else does: a change of inputs could look the same.
    severity = Severity.NOTE if not classes.observed and not follow else severity
    summary = f"Label shift: {text}{explained}.{certain}"
    yield this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=classes)


def _class_numbers(classes: ClassShares, place: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {"class": classes.names[place]}
    numbers |= {"reference": float(classes.before[place]), "production": float(classes.after[place])}
    numbers |= {"low": float(classes.low[place]), "high": float(classes.high[place]), "distance": classes.distance}
    return numbers | {"p_value": classes.p_value, "observed": classes.observed, "misfit_p_value": classes.misfit[0]}


@check(
    "shift.concept_drift",
    cause=Cause.CONCEPT_DRIFT,
    needs=("validation.targets", "validation.logits", "production.targets", "production.logits"),
    cost=_cost,
)
def scores_keep_their_meaning(validation: Records, production: Records, *, fail_effect: float = 0.1) -> Iterator[Finding]:
    """The same score means the same chance in production as in validation, unless inputs or classes moved.

    Concept drift is a change of P(y | x) at inputs that stay. Where inputs moved too, the network may as well be
    extrapolating, which labels given the score alone cannot tell apart: then this is a note.

    Source: Gama et al. (2014), ACM Comput. Surv. 46(4):44, for the kinds; Cochran (1954), Biometrics 10:417 for the test.

    Args:
        validation: records with targets and logits; with features where known.
        production: the same.
        fail_effect: mean change of the chance from which it is a failure.
    """
    this = scores_keep_their_meaning
    kinds = change_kinds(production, validation)
    relation = kinds.relation
    if relation is None or not relation.p_value >= 0:
        yield this.finding(Severity.NOTE, "Not judged: no classes, or too few rows in every bin of the score.")
        return
    numbers = _relation_numbers(relation)
    text = (
        f"the chance of {relation.event!r} given the score moved by {relation.effect:.3f} on average beyond noise "
        f"({relation.direction:+.3f} net, {p_text(relation.p_value)})"
    )
    if "meaning" in kinds.kinds:
        remedy = (
            "Retrain on recent labeled rows: recalibration mends the probabilities, not the ranking. Find where it turned: "
            "`slices`, and the attributions of production errors."
        )
        severity = Severity.FAIL if relation.effect >= fail_effect else Severity.WARN
        inputs = "and no input moved" if kinds.judged else "; inputs were not given"
        yield this.finding(severity, f"Concept drift: {text} {inputs}.", numbers=numbers, remedy=remedy, evidence=relation)
        return
    if relation.p_value < ALPHA and kinds.kinds:
        why = {"skew": "an input is computed differently", "inputs": "inputs moved", "scores": "the scores moved although no input did"}
        reason = why.get(kinds.kinds[0], "class shares moved")
        yield this.finding(Severity.NOTE, f"No concept drift by itself, since {reason}: {text}.", numbers=numbers, evidence=relation)
        return
    yield this.finding(Severity.OK, f"Scores kept their meaning: {text}.", numbers=numbers, evidence=relation)


def _relation_numbers(relation: RelationChange) -> dict[str, Any]:
    numbers: dict[str, Any] = {"effect": relation.effect, "direction": relation.direction, "p_value": relation.p_value}
    return numbers | {"n": int(relation.rows[0].sum()), "m": int(relation.rows[1].sum())}


@check("shift.serving_skew", cause=Cause.TRAIN_SERVE_SKEW, needs=("production.features",), cost=_cost)
def inputs_are_computed_as_before(
    production: Records, validation: Records | None = None, train: Records | None = None, *, limit: int = 20
) -> Iterator[Finding]:
    """No feature is computed differently in production: another unit, standardised, stuck at a default, exchanged.

    A move that a map explains is skew if the map is telling (a turned sign, a logarithm, a unit far off, new names for old
    levels), or if the labels follow the old value; without a map, if the change keeps to the column and labels do not follow it.

    Source: Sculley et al. (2015), NeurIPS 28, and Breck et al. (2017), IEEE Big Data, on training/serving skew; the
    test is ours: Kolmogorov-Smirnov distances that a map leaves, and paired losses of a network fitted before.

    Args:
        production: records with features; with targets where known.
        validation: the reference.
        train: the reference without validation.
        limit: most features reported one by one.
    """
    this = inputs_are_computed_as_before
    kinds = kinds_between(production, validation, train)
    if kinds is None or not kinds.judged:
        lacking = ["validation.features"]
        yield this.finding(Severity.SKIPPED, "Skipped: needs validation.features or train.features.", numbers={"lacks": lacking})
        return
    skewed = [feature for feature in kinds.features if feature.kind == "skew"]
    for feature in skewed[:limit]:
        yield _skew_finding(feature, kinds)
    if not skewed:
        unsure = [feature for feature in kinds.features if not feature.certain]
        numbers = {"features": kinds.judged, "moved": len(kinds.features), "unsure": len(unsure)}
        if unsure:
            labels = "the labels do not depend on it enough" if kinds.labeled else "that cannot be told without labels"
            text = f"{unsure[0].name} may be computed differently ({unsure[0].how}), or its world moved: {labels}."
            yield this.finding(Severity.NOTE, text, subject=unsure[0].name, numbers=numbers, evidence=kinds)
        else:
            text = f"None of {kinds.judged} features looks computed differently ({len(kinds.features)} moved)."
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=kinds)


def _skew_finding(feature: FeatureChange, kinds: ChangeKinds) -> Finding:
    name = feature.name
    numbers: dict[str, Any] = {"statistic": feature.statistic}
    remedy = f"Compare how serving computes {name} with how training did, on the same rows, and mend serving; do not retrain on it."
    if feature.undone is not None:
        numbers |= {"map": feature.undone.kind, "left": feature.undone.statistic}
        if isinstance(feature.undone, Undo) and feature.undone.kind != "logarithm":
            numbers |= {"factor": feature.undone.factor, "offset": feature.undone.offset}
    summary = f"{name} is computed differently in production: {feature.how} (distance {feature.statistic:.2f})."
    return inputs_are_computed_as_before.finding(Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=kinds)

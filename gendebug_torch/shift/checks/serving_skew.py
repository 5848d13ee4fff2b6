"""`shift.serving_skew`: features that serving computes in another way than training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import MISPLACED, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, not_compared
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.moved_columns import FeatureChange
from gendebug_torch.shift.transforms.alignment import OtherRows
from gendebug_torch.shift.transforms.quantities import FeatureTransform
from gendebug_torch.shift.transforms.roles import OtherColumn


@check(
    "shift.serving_skew",
    cause=Cause.TRAIN_SERVE_SKEW,
    needs=("production.features",),
    cost=lambda given: Cost(elements=100.0),
    derived=(CHANGE_KINDS,),
)
def inputs_are_computed_as_before(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    change_kinds: ChangeKinds | None = None,
    *,
    limit: int = 20,
) -> Iterator[Finding]:
    """No feature is computed differently in production: unit, scale, default value, exchange.

    A shift that a transform explains is skew if drift is unlikely to do the same (a reversed sign,
    a logarithm, a large factor, renamed levels), or if the labels follow the original value;
    without a transform, if nothing else changed and labels do not follow the column. So is a column
    that relates to the others as another one did, with other codes, in reverse, or not at all.
    Where no input changed, outputs that no longer follow the inputs as before are those of another
    model, or of other inputs.

    Source: Sculley et al. (2015), NeurIPS 28, and Breck et al. (2017), IEEE Big Data, on
    training/serving skew; the test is ours: Kolmogorov-Smirnov distances after a transform, and
    paired losses of a network fitted on the reference.

    Args:
        production: records with features, and with targets where known.
        validation: reference.
        train: reference without validation.
        change_kinds: kinds of change, derived.
        limit: most features reported one by one.
    """
    this = inputs_are_computed_as_before
    if change_kinds is not None and change_kinds.excluded and not change_kinds.judged:
        text = f"Not judged: no column can be compared.{not_compared(change_kinds)}"
        yield this.finding(Severity.NOTE, text, numbers={"features": 0})
        return
    if change_kinds is None or not change_kinds.judged:
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs validation.features or train.features.",
            numbers={"lacks": ["validation.features"]},
        )
        return
    skewed = _one_of_each(
        feature for feature in change_kinds.features if feature.kind == "train_serve_skew"
    )
    for feature in skewed[:limit]:
        yield _skew_finding(feature, change_kinds)
    if change_kinds.other_model:
        yield _output_finding(change_kinds)
    if not skewed and not change_kinds.other_model:
        yield _no_skew_finding(change_kinds)
    reference = validation if validation is not None else train
    if (orders := _column_orders(production, reference)) is not None:
        yield _order_finding(orders, change_kinds)


def _column_orders(
    production: Records, reference: Records | None
) -> tuple[list[str], list[str]] | None:
    """Shared columns in the order of the reference and of production, if the two differ."""
    sides = [() if side is None else side.features for side in (reference, production)]
    if not all(isinstance(side, pd.DataFrame) for side in sides):
        return None
    first, second = (list(map(str, getattr(side, "columns", ()))) for side in sides)
    before, after = ([n for n in first if n in second], [n for n in second if n in first])
    return None if before == after else (before, after)


def _order_finding(orders: tuple[list[str], list[str]], change_kinds: ChangeKinds) -> Finding:
    """Another order of columns: a warning where scores or labels changed although no input did."""
    start = next(i for i, (one, other) in enumerate(zip(*orders, strict=True)) if one != other)
    before, after = (", ".join(order[start : start + 4]) for order in orders)
    text = f"Production holds the columns in another order ({after} instead of {before})"
    severity, remedy = Severity.NOTE, "Feed the model by column name, in the order of training."
    of_scores = change_kinds.kinds and change_kinds.kinds[0] in ("threshold", "concept_drift")
    if of_scores or change_kinds.other_model:
        severity = Severity.WARN
        text += ", and the scores or the labels given them changed although no compared input did"
        remedy = (
            "Feed the model by column name, in the order of training, and run it again on these "
            "rows before anything else is changed."
        )
    return inputs_are_computed_as_before.finding(
        severity, f"{text}.", numbers={"first": start}, remedy=remedy, evidence=change_kinds
    )


def _output_finding(change_kinds: ChangeKinds) -> Finding:
    """Outputs that are not those of the model on such inputs, although no input changed."""
    outputs = change_kinds.outputs
    assert outputs is not None
    return inputs_are_computed_as_before.finding(
        Severity.FAIL,
        "The outputs of production are not those that such inputs had in validation: a small "
        f"network tells {outputs.before:.0%} of them from the inputs there, and "
        f"{outputs.after:.0%} in production, although no input changed.",
        subject="the output of the model",
        numbers={"told_before": outputs.before, "told_after": outputs.after}
        | {"rows": list(outputs.rows)},
        remedy=(
            "Run the validated model on some production rows and compare the outputs (pass the "
            "model too: shift.served_outputs does it). Look for other weights or another version, "
            "outputs that are stored beside other rows, and inputs that change on their way to the "
            "model."
        ),
        evidence=change_kinds,
    )


def _no_skew_finding(change_kinds: ChangeKinds) -> Finding:
    unsure = [feature for feature in change_kinds.features if not feature.certain]
    shifted, judged = len(change_kinds.features), change_kinds.judged
    numbers = {"features": judged, "moved": shifted, "unsure": len(unsure)}
    severity, subject = Severity.OK, ""
    text = (
        f"None of {judged} features looks computed differently ({shifted} shifted)."
        f"{not_compared(change_kinds)}"
    )
    if unsure:
        severity, subject = Severity.NOTE, unsure[0].name
        reason = (
            "the labels do not depend on it enough to decide"
            if change_kinds.labeled
            else "without labels this cannot be decided"
        )
        text = (
            f"{subject} may be computed differently ({unsure[0].description}), or what it measures "
            f"may have changed: {reason}."
        )
    return inputs_are_computed_as_before.finding(
        severity, text, subject=subject, numbers=numbers, evidence=change_kinds
    )


def _one_of_each(features: Iterable[FeatureChange]) -> list[FeatureChange]:
    """The features, one of those that changed together; both of two that were exchanged."""
    chosen: list[FeatureChange] = []
    for feature in features:
        whole = feature.transform
        together = (isinstance(whole, OtherColumn) and len(whole.sources) > 2) or isinstance(
            whole, OtherRows
        )
        if not together or all(one.transform != whole for one in chosen):
            chosen.append(feature)
    return chosen


def _sentence(feature: FeatureChange) -> tuple[str, str]:
    """What is wrong with a column, and what to do."""
    name, transform = feature.name, feature.transform
    if isinstance(transform, OtherRows):
        more = len(transform.columns) - 1
        others = "1 more column" if more == 1 else f"{more} more columns"
        who = f"{name} and {others}" if more else name
        return (
            f"In production the values of {name} stand beside other rows: {who} {transform}.",
            f"Check the key, and the order of the rows, by which serving joins {name}; do not "
            "retrain on it.",
        )
    remedy = (
        f"Compute {name} in serving and in training on the same rows, and correct serving where "
        "they differ; do not retrain on it."
    )
    if isinstance(transform, OtherColumn) and len(transform.sources) > 2:
        pairs = [f"{one} those of {other}" for one, other in transform.sources.items()]
        rest = f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""
        text = f"In production {len(pairs)} columns hold the values of others: "
        return f"{text}{', '.join(pairs[:4])}{rest}.", remedy
    distance = f" (distance {feature.statistic:.2f})" if feature.statistic else ""
    text = f"{name} is computed differently in production: {feature.description}{distance}."
    return text, remedy


def _skew_finding(feature: FeatureChange, change_kinds: ChangeKinds) -> Finding:
    numbers: dict[str, Any] = {"statistic": feature.statistic}
    transform = feature.transform
    if transform is not None:
        numbers |= {"map": transform.kind, "left": transform.statistic}
        if isinstance(transform, FeatureTransform) and transform.kind != "logarithm":
            numbers |= {"factor": transform.factor, "offset": transform.offset}
    if isinstance(transform, OtherRows):
        numbers["columns"] = numbers[MISPLACED] = list(transform.columns)
    if isinstance(transform, OtherColumn):
        numbers["sources"] = dict(transform.sources)
        numbers[MISPLACED] = list(transform.sources)
    text, remedy = _sentence(feature)
    return inputs_are_computed_as_before.finding(
        Severity.FAIL,
        text,
        subject=feature.name,
        numbers=numbers,
        remedy=remedy,
        evidence=change_kinds,
    )

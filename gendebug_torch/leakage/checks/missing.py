"""The check for missing values that predict the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._candidates import MISSING
from gendebug_torch.leakage.checks._costs import column_cost
from gendebug_torch.leakage.checks._targets import by_target
from gendebug_torch.leakage.columns.association import TARGET_BINS, unsuitable_targets
from gendebug_torch.leakage.columns.missing_values import (
    MissingValueAssociation,
    missing_value_association,
)

_FAIL_CORRELATION = 0.8


@check(
    "leakage.missing",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=column_cost,
    deferred=(MISSING,),
    partial_labels=True,
)
def missing_values_do_not_predict_the_target(
    train: Records,
    missing_association: Deferred[MissingValueAssociation | None] = NOTHING,
    *,
    min_share: float = 0.95,
    max_pearson: float = 0.8,
    alpha: float = 1e-6,
    limit: int = 10,
) -> Iterator[Finding]:
    """Whether a value is missing does not predict the target.

    A field that is filled in only after the outcome is missing, or present, for one class alone. Of
    several labels or quantities each is judged by itself.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209
    for the interval; Chernoff's bound of binomial tails with Holm's correction (1979).

    Args:
        train: records with features and targets.
        missing_association: missing values against one target of them, derived.
        min_share: share of one class among the missing (or the present) values from which its lower
            bound counts as nearly all.
        max_pearson: correlation of being missing with the target from which a column is reported,
            whatever the shares.
        alpha: chance of any false finding, over all columns.
        limit: largest number of columns reported one by one.
    """

    def judged(parts: Sequence[Records | None], output: int | None) -> Iterator[Finding]:
        (labeled,) = parts
        assert labeled is not None
        shared = missing_association if output is None else None
        return _target_findings(labeled, shared, min_share, max_pearson, alpha, limit)

    yield from by_target(judged, train)


def _target_findings(
    train: Records,
    shared: Deferred[MissingValueAssociation | None] | None,
    min_share: float,
    max_pearson: float,
    alpha: float,
    limit: int,
) -> Iterator[Finding]:
    """Findings on one target of labeled records."""
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    known = None if shared is None else shared()
    if known is None and (reason := unsuitable_targets(targets)):
        yield missing_values_do_not_predict_the_target.finding(
            Severity.NOTE, f"Not judged: {reason}.", numbers={"n": len(targets)}
        )
        return
    found = missing_value_association(features, targets) if known is None else known
    columns = [
        i
        for i in found.associated(min_share, max_pearson, alpha)
        if found.names[i] not in train.schema.causal
    ]
    for i in columns[:limit]:
        yield _missing_finding(train, found, i)
    if not columns:
        yield _harmless_finding(found)


def _harmless_finding(found: MissingValueAssociation) -> Finding:
    count = int((found.missing > 0).sum())
    largest = float(found.correlation.abs().nan_to_num(0.0).max()) if found.names else 0.0
    numbers = {"columns": len(found.names), "with_missing": count, "largest_correlation": largest}
    text = f"None of {len(found.names)} columns has missing values."
    if count:
        text = (
            f"Missing values do not predict the target: {count} of {len(found.names)} columns have "
            f"some, and the largest correlation with the target is {largest:.2f}."
        )
    return missing_values_do_not_predict_the_target.finding(
        Severity.OK, text, numbers=numbers, evidence=found if count else None
    )


def _missing_finding(train: Records, found: MissingValueAssociation, i: int) -> Finding:
    name, state = found.names[i], "missing" if found.where_missing[i] else "present"
    share, overall, r = (float(v[i]) for v in (found.share, found.overall, found.correlation))
    low, high = (float(bound[i]) for bound in found.interval())
    label, rows = int(found.classes[i]), int(found.rows[i])
    numbers = {
        "missing": int(found.missing[i]),
        "n": found.n,
        "state": state,
        "share": share,
        "low": low,
        "high": high,
        "rows": rows,
        "class": label,
        "overall": overall,
        "correlation": r,
        "p_holm": float(found.p_adjusted[i]),
    }
    text = (
        f"Where {name} is {state} ({rows:,} of {found.n:,} rows), the target is "
        f"{_class_text(train, label)} in {share:.1%} of them (95% interval {low:.1%} to "
        f"{high:.1%}), against {overall:.1%} overall. The correlation of missing values with the "
        f"target is {r:+.2f}."
    )
    remedy = (
        f"Find out who fills in {name}, and when. If it is recorded after the outcome, drop it "
        "together with any indicator of missing values, and retrain."
    )
    return missing_values_do_not_predict_the_target.finding(
        Severity.FAIL if abs(r) >= _FAIL_CORRELATION else Severity.WARN,
        text,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=found,
    )


def _class_text(train: Records, label: int) -> str:
    assert train.targets is not None
    if train.targets.is_floating_point():
        return f"in quantile range {label + 1} of {TARGET_BINS}"
    classes = train.schema.classes
    return f"class {classes[label] if label < len(classes) else label}"

"""The check for columns that predict the target in training and no longer in production."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._availability import (
    COMPARED,
    OWN_LOSS,
    fate,
    is_property,
    kept_by_others,
)
from gendebug_torch.leakage.checks._candidates import (
    SCREEN,
    ColumnScreen,
    LeakCandidate,
    leak_candidates,
    screened,
)
from gendebug_torch.leakage.checks._costs import screen_cost
from gendebug_torch.leakage.checks._targets import by_target
from gendebug_torch.leakage.columns.association import Association, association, unsuitable_targets
from gendebug_torch.leakage.columns.column_codes import feature_table

_NEEDS = ("train.features", "train.targets", "production.features", "production.targets")
_UNAVAILABLE = ": it seems not to be available at prediction time"
# A column that keeps less of its explained share than this is a failure.
_FAIL_SHARE = 0.25


@check(
    "leakage.vanishing",
    cause=Cause.TARGET_LEAKAGE,
    needs=_NEEDS,
    cost=screen_cost,
    deferred=(SCREEN,),
    partial_labels=True,
)
def strong_columns_predict_in_production(
    train: Records,
    production: Records,
    column_screen: Deferred[ColumnScreen | None] = NOTHING,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    min_remaining: float = 0.5,
    limit: int = 10,
) -> Iterator[Finding]:
    """A column that predicts the target alone in training predicts it in production as well.

    What is recorded with the outcome is not available at prediction time: the column is empty, zero
    or a default, and no longer predicts. That separates a leak from a strong cause. Of several
    labels or quantities each is judged by itself.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 3; Pearson (1905)
    and Goodman and Kruskal (1954), JASA 49:732, for the explained share.

    Args:
        train: records with features and targets.
        production: records with features and targets.
        column_screen: what single columns tell of the target, derived.
        max_pearson: correlation in training from which a column is compared.
        max_auc: AUC in training from which a column is compared.
        min_remaining: part of its explained share that a column must keep in production.
        limit: largest number of columns reported one by one.
    """
    limits = max_pearson, max_auc, min_remaining, limit

    def judged(parts: Sequence[Records | None], output: int | None) -> Iterator[Finding]:
        before, after = parts
        assert before is not None
        assert after is not None
        return _target_findings(before, after, column_screen if output is None else None, limits)

    yield from by_target(judged, train, production)


def _target_findings(
    train: Records,
    production: Records,
    shared: Deferred[ColumnScreen | None] | None,
    limits: tuple[float, float, float, int],
) -> Iterator[Finding]:
    """Findings on one target of labeled records."""
    this = strong_columns_predict_in_production
    max_pearson, max_auc, min_remaining, limit = limits
    assert train.features is not None
    assert train.targets is not None
    assert production.features is not None
    if production.targets is None:
        text = f"Not judged: {production.name} has other targets than {train.name}."
        yield this.finding(Severity.NOTE, text, numbers={"n": len(train)})
        return
    if reason := unsuitable_targets(train.targets) or unsuitable_targets(production.targets):
        numbers = {"n": len(train), "m": len(production)}
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers=numbers)
        return
    screen = screened(train, shared)
    before = screen.found
    candidates = {c.column: c for c in leak_candidates(train, screen, max_pearson, max_auc)}
    known = feature_table(production.features, candidates).columns
    if not len(known):
        text = f"None of {len(before.names)} columns predicts the target alone in {train.name}."
        numbers = {"columns": len(before.names)}
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=before)
        return
    compared = [*candidates, *before.order[: len(candidates) + COMPARED]]
    table = feature_table(production.features, list(dict.fromkeys(compared)))
    after = association(table, production.targets, categorical=train.schema.categorical)
    lost = {
        i: candidates[name]
        for i, name in enumerate(after.names)
        if name in candidates
        and _upper_bound(after, i) < min_remaining * candidates[name].explained
        and (fate(name, train, production) or _is_its_own(name, before, after))
    }
    for i, candidate in list(lost.items())[:limit]:
        finding = _lost_finding((train.name, production.name), before, after, i, candidate)
        yield _of_property(finding) if is_property(candidate.column, train) else finding
    if not lost:
        text = (
            f"All columns that predict the target alone in {train.name} "
            f"({', '.join(map(str, known[:limit]))}) predict it in {production.name} as well, or "
            "as much less as the other columns do."
        )
        numbers = {"columns": len(known)}
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=after)


def _is_its_own(name: str, before: Association, after: Association) -> bool:
    """Whether a column lost more than the others did."""
    left = float(after.strength[after.names.index(name)])
    kept = kept_by_others(name, before, after)
    return left < OWN_LOSS * kept * float(before.strength[before.names.index(name)])


def _upper_bound(found: Association, i: int) -> float:
    """The largest share that a column may explain: its strength and two standard errors."""
    return float((found.strength + 2 * found.explained_error.nan_to_num(0.0))[i])


def _lost_finding(
    splits: tuple[str, str],
    before: Association,
    after: Association,
    i: int,
    candidate: LeakCandidate,
) -> Finding:
    name, j = candidate.column, candidate.index
    share, low, high = (float(v[j]) for v in (before.explained, *before.interval("explained")))
    rest, rest_low, rest_high = (
        float(torch.nan_to_num(v[i])) for v in (after.explained, *after.interval("explained"))
    )
    text = (
        f"{name} explains {share:.0%} of the target in {splits[0]} (95% interval {low:.0%} to "
        f"{high:.0%}) but {rest:.0%} in {splits[1]} ({rest_low:.0%} to {rest_high:.0%})"
    )
    return strong_columns_predict_in_production.finding(
        Severity.FAIL
        if _upper_bound(after, i) < _FAIL_SHARE * candidate.explained
        else Severity.WARN,
        f"{text}{_UNAVAILABLE}.",
        subject=name,
        numbers={
            "explained": share,
            "low": low,
            "high": high,
            "n": before.n,
            "explained_production": rest,
            "low_production": rest_low,
            "high_production": rest_high,
            "m": after.n,
        },
        remedy=f"Drop {name} and retrain, or provide it in production as it was in training.",
        evidence=after,
    )


def _of_property(finding: Finding) -> Finding:
    """The same about a property of the inputs, which is there and follows the target no longer."""
    text = finding.summary.removesuffix(f"{_UNAVAILABLE}.")
    return replace(
        finding,
        cause=Cause.SHORTCUT_FEATURE,
        severity=Severity.WARN,
        summary=f"{text}: a network that relies on it fails there.",
        remedy=f"Train on rows in which {finding.subject} does not follow the class, and find out "
        "what changed it in production.",
    )

"""Checks of the columns, one by one: quantities, categories, missing values. Those of the model are in `checks_model`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check
from gendebug_torch.shift import checks_joint as checks_joint
from gendebug_torch.shift import checks_model as checks_model
from gendebug_torch.shift import checks_time as checks_time
from gendebug_torch.shift.categories import CategoryShift, category_shift, missing_shift, unseen_excess
from gendebug_torch.shift.checks_kinds import CAUSES, FAIL_EFFECT, kinds_between, p_text
from gendebug_torch.shift.columns import (
    SharedColumns,
    codes,
    every_column,
    gaps,
    is_identifier,
    level_values,
    paired_values,
    quantities,
    shared_columns,
    time_order,
)
from gendebug_torch.shift.dependence import for_dependent_rows
from gendebug_torch.shift.effects import effect_sizes
from gendebug_torch.shift.feature import Atom, default_value, feature_shift
from gendebug_torch.shift.gallery import MostShifted, most_shifted
from gendebug_torch.shift.kinds import ChangeKinds
from gendebug_torch.shift.ks import KSTest, PreparedReference, ks_two_sample, prepare_reference
from gendebug_torch.stats import holm_adjusted


def _cost(given: Mapping[str, Any]) -> Cost:
    sizes = [_cells(given.get(name)) for name in ("validation", "train")]
    return Cost(elements=20.0 * ((sizes[0] or sizes[1]) + _cells(given.get("production"))))


def _cells(records: Records | None) -> float:
    if records is None or records.features is None:
        return 0.0
    shape = records.features.shape
    return float(math.prod(shape))


def _nothing_to_compare(self_check: Any) -> Finding:
    remedy = "Pass validation or train with features."
    found: Finding = self_check.finding(
        Severity.SKIPPED, "Skipped: needs validation.features or train.features.", numbers={"lacks": ["validation.features"]}, remedy=remedy
    )
    return found


def _lost(self_check: Any, pair: SharedColumns, textual: tuple[str, ...] = ()) -> Iterator[Finding]:
    for name, problem in [(n, "absent") for n in pair.absent] + [(n, "no longer numeric") for n in textual]:
        yield self_check.finding(
            Severity.FAIL,
            f"The column {name} of {pair.reference.name} is {problem} in {pair.production.name}.",
            cause=Cause.TRAIN_SERVE_SKEW,
            subject=name,
            numbers={"absent": problem == "absent"},
            remedy=f"Deliver {name} in production as it was in training, or retrain without it.",
        )


@check("shift.ks", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=_cost)
def features_keep_their_distribution(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_atom: float = 0.1,
    fewest: int = 10,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each numeric feature is distributed in production as it was in validation (or in training, without validation).

    Two-sample Kolmogorov-Smirnov tests with Holm's correction over the features. Rows are taken as independent, but
    where the schema names a time column each feature's rows count as the independent ones that they are worth.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Holm (1979), Scand. J. Statist. 6:65; Sokal (1997) for rows that
    depend on each other; for corrected univariate tests Rabanser, Günnemann and Lipton (2019), arXiv:1810.11953.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all features.
        min_effect: smallest distance of the distribution functions that matters.
        min_atom: growth of the share of one single value that matters whatever the distance.
        fewest: independent rows of a slow feature under which a reference is too short to hold its swings.
        limit: most features reported one by one, largest distance first.
    """
    this = features_keep_their_distribution
    if (pair := shared_columns(production, validation, train, quantities)) is None:
        yield _nothing_to_compare(this)
        return
    names, textual, before, after = paired_values(pair)
    yield from _lost(this, pair, textual)
    prepared = prepare_reference(before, names=names)
    alone = ks_two_sample(prepared, after)
    test = _in_time(alone, pair, before, after, alpha)
    found = _shifted(test, prepared, after, alpha, min_effect, min_atom)
    kinds = kinds_between(production, validation, train) if found else None
    for column, atom in found[:limit]:
        if is_identifier(before[:, column], after[:, column]):
            yield _identifier_finding(test, column)
            continue
        yield _by_kind(_feature_finding(pair, test, prepared, before, after, column, atom), kinds)
    wandered = ((alone.adjusted < alpha) & (alone.statistic >= min_effect) & ~(test.adjusted < alpha)).nonzero().flatten().tolist()
    for column in sorted(wandered, key=lambda column: -float(test.statistic[column]))[:limit]:
        yield _wandered(_feature_finding(pair, test, prepared, before, after, column, None), pair.reference.name, fewest)
    evidence = most_shifted(test, before, after) if found or wandered else test
    yield _summary(pair, test, len(found), len(wandered), alpha, min_effect, evidence)


def _in_time(test: KSTest, pair: SharedColumns, before: Tensor, after: Tensor, alpha: float) -> KSTest:
    """The test with dependent rows counted as what they are worth, in the columns where it matters: those that would be significant."""
    orders = [time_order(records) for records in (pair.reference, pair.production)]
    sides = [None if order is None else values[order] for order, values in zip(orders, (before, after), strict=True)]
    return for_dependent_rows(test, sides[0], sides[1], (test.adjusted < alpha).nonzero().flatten())


def _shifted(
    test: KSTest, prepared: PreparedReference, after: Tensor, alpha: float, min_effect: float, min_atom: float
) -> list[tuple[int, Atom | None]]:
    """Columns that count as shifted, largest distance first, each with the value that piles up in it, if any.

    An atom that grew by g moves the distribution function by g / 2 at least, so smaller distances need no look.
    """
    found = []
    candidates = (test.adjusted < alpha) & (test.statistic >= min(min_effect, min_atom / 2))
    for column in sorted(candidates.nonzero().flatten().tolist(), key=lambda column: -float(test.statistic[column])):
        default = default_value(prepared, after, column, min_growth=min_atom)
        if default is not None or float(test.statistic[column]) >= min_effect:
            found.append((column, default))
    return found


def _wandered(finding: Finding, reference: str, fewest: int) -> Finding:
    """The finding about a distance that is large, but no larger than slow swings make it: a warning where the reference holds too few."""
    text, name = finding.summary[:-1], finding.subject
    if finding.numbers["independent_n"] < fewest:
        text += f": too few to tell a lasting shift from a slow swing, and too few to have judged the model on what {name} does"
        remedy = f"Judge the model on a record that is long enough to hold several swings of {name}; {reference} is not."
        return replace(finding, severity=Severity.WARN, summary=f"{text}.", remedy=remedy)
    text += ": no further than its own slow swings take it"
    return replace(finding, severity=Severity.NOTE, summary=f"{text}.", remedy=f"Keep watching {name}; nothing has to be done yet.")


def _identifier_finding(test: KSTest, column: int) -> Finding:
    name = test.labels[column]
    distance = float(test.statistic[column])
    text = f"{name} numbers its rows (every value is whole and occurs once), so its distance {distance:.2f} says nothing."
    remedy = f"Declare {name} in `ids`, and do not feed it to the model."
    numbers = {"statistic": distance}
    return features_keep_their_distribution.finding(Severity.NOTE, text, subject=name, numbers=numbers, remedy=remedy, evidence=test)


def _by_kind(finding: Finding, kinds: ChangeKinds | None) -> Finding:
    """The finding about one column under the cause that its move is taken for; one that follows the classes is a note."""
    change = None if kinds is None else kinds.of(finding.subject)
    if change is None:
        return finding
    if change.kind == "classes":
        summary = f"{finding.summary[:-1]}; within the classes it kept its distribution."
        return replace(finding, severity=Severity.NOTE, cause=Cause.LABEL_SHIFT, summary=summary)
    return replace(finding, cause=CAUSES[change.kind])


def _feature_finding(
    pair: SharedColumns, test: KSTest, prepared: PreparedReference, before: Tensor, after: Tensor, column: int, atom: Atom | None
) -> Finding:
    name = test.labels[column]
    distance, location = float(test.statistic[column]), float(test.location[column])
    low, high = (float(bound[column]) for bound in test.interval())
    live = after[:, column]
    medians = (float(prepared.columns[column, int(prepared.n[column]) // 2]), float(live.nanmedian()))
    p = float(test.adjusted[column])
    effects = effect_sizes(before[:, column], live)
    numbers = {
        "smd": float(effects.mean_difference),
        "smd_standard_error": float(effects.standard_error),
        "psi": float(effects.stability),
        "statistic": distance,
        "low": low,
        "high": high,
        "signed": float(test.signed[column]),
        "location": location,
        "p_value": float(test.p_value[column]),
        "p_holm": p,
        "n": int(prepared.n[column]),
        "m": int((~live.isnan()).sum()),
        "independent_n": int(test.n[column]),
        "independent_m": int(test.m[column]),
        "median_reference": medians[0],
        "median_production": medians[1],
    }
    text = (
        f"{name} moved between {pair.reference.name} and {pair.production.name}: distance {distance:.2f} "
        f"(95 % interval {low:.2f} to {high:.2f}, Holm {p_text(p)}), median {medians[0]:.4g} → {medians[1]:.4g}"
    )
    if numbers["independent_m"] < numbers["m"]:
        text += f"; in time its rows are worth {numbers['independent_n']:,} and {numbers['independent_m']:,} independent ones"
    remedy = f"Compare how {name} is computed in production and in training; if the change is real and lasting, retrain on recent rows."
    if atom is not None:
        numbers |= {"atom_value": atom.value, "atom_share_reference": atom.reference_share, "atom_share_production": atom.live_share}
        text += f"; the value {atom.value:.4g} grew from {atom.reference_share:.1%} to {atom.live_share:.1%} of the rows"
        remedy = (
            f"{name} is constant at {atom.value:.4g} for {atom.live_share:.0%} of production rows: "
            "a default or a missing history; rebuild it or drop it."
        )
    evidence = feature_shift(before[:, column], live, name=name, location=location, statistic=distance)
    severity = Severity.FAIL if distance >= FAIL_EFFECT else Severity.WARN
    return features_keep_their_distribution.finding(
        severity, f"{text}.", subject=name, numbers=numbers, remedy=remedy, evidence=evidence
    )


def _summary(
    pair: SharedColumns, test: KSTest, shifted: int, wandered: int, alpha: float, min_effect: float, evidence: KSTest | MostShifted
) -> Finding:
    this, d = features_keep_their_distribution, len(test.statistic)
    n, m = len(pair.reference), len(pair.production)
    judged = int(test.statistic.isfinite().sum())
    numbers: dict[str, Any] = {"features": d, "judged": judged, "shifted": shifted, "n": n, "m": m, "alpha": alpha}
    if not judged:
        return this.finding(Severity.NOTE, f"No numeric feature could be compared: {d} columns, {n} against {m} rows.", numbers=numbers)
    largest = int(test.statistic.nan_to_num(-1.0).argmax())
    seen = float(test.detectable(alpha=alpha).min())
    distance, p = float(test.statistic[largest]), float(test.adjusted[largest])
    significant = int((test.adjusted < alpha).sum())
    numbers |= {"largest": test.labels[largest], "statistic": distance, "p_holm": p, "significant": significant, "detectable": seen}
    numbers |= {"wandered": wandered}
    slow = f" {wandered} moved further, but no further than their own slow swings take them." if wandered else ""
    sizes = f"{n:,} against {m:,} rows"
    if seen >= 1.0 and not shifted:
        return this.finding(Severity.NOTE, f"Too few rows to see any shift: {sizes}.", numbers=numbers, evidence=evidence)
    if shifted:
        where = f"the largest distance is {distance:.2f} in {test.labels[largest]}"
        text = f"{shifted} of {judged} numeric features moved ({sizes}); {where}.{slow}"
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=evidence)
    small = f"{significant} moved by less than {min_effect:g}; " if significant else ""
    text = (
        f"None of {judged} numeric features moved by {min_effect:g} or more ({sizes}): {small}largest distance {distance:.3f} in "
        f"{test.labels[largest]} (Holm {p_text(p)}); from {seen:.3f} on a shift would have been seen.{slow}"
    )
    return this.finding(Severity.NOTE if wandered else Severity.OK, text, numbers=numbers, evidence=evidence)


@check("shift.missing", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=_cost)
def values_are_missing_as_often(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.05,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each feature misses as many values in production as in validation (or in training, without validation).

    Source: Fisher (1922), J. R. Stat. Soc. 85:87 and the pooled z-test; Newcombe (1998), Stat. Med. 17:873 for the
    interval; Holm (1979) over the columns.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest change of the share of missing values that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = values_are_missing_as_often
    if (pair := shared_columns(production, validation, train, every_column)) is None:
        yield _nothing_to_compare(this)
        return
    test = missing_shift(gaps(pair.reference, pair.names), gaps(pair.production, pair.names), names=pair.names)
    low, high = test.interval()
    before, after = test.rates
    found = ((test.adjusted < alpha) & (test.difference.abs() >= min_effect)).nonzero().flatten().tolist()
    for i in sorted(found, key=lambda i: -abs(float(test.difference[i])))[:limit]:
        name, change = test.names[i], float(test.difference[i])
        numbers = {"reference": float(before[i]), "production": float(after[i]), "difference": change, "p_holm": float(test.adjusted[i])}
        numbers |= {"low": float(low[i]), "high": float(high[i]), "effect_h": float(test.effect[i]), "n": test.n, "m": test.m}
        bounds = f"95 % interval {float(low[i]):+.1%} to {float(high[i]):+.1%}"
        summary = f"Missing values of {name} went from {float(before[i]):.1%} to {float(after[i]):.1%} ({change:+.1%}, {bounds})."
        gone = "Find the source that stopped delivering it" if change > 0 else "Find what fills it in production but did not in training"
        severity = Severity.FAIL if abs(change) >= FAIL_EFFECT else Severity.WARN
        remedy = f"{gone}; impute {name} in training as in production."
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=test)
    if not found:
        d = len(test.names)
        largest = float(test.difference.abs().max()) if d else 0.0
        numbers = {"features": d, "largest": largest, "n": test.n, "m": test.m}
        text = f"None of {d} columns changed its share of missing values by {min_effect:.0%} or more; the largest change is {largest:.1%}."
        if not test.n or not test.m:
            yield this.finding(Severity.NOTE, f"No rows to compare: {test.n} against {test.m}.", numbers=numbers)
        else:
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=test)


@check("shift.categories", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=_cost)
def categories_keep_their_shares(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_unseen: float = 0.01,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each categorical feature has the levels, in the shares, that validation (or training) has.

    Unseen levels count beyond what a fresh sample of the same source would bring.

    Source: Pearson (1900), Philos. Mag. 50:157 with rare levels pooled (Cochran, 1954); Bergsma (2013), J. Korean
    Stat. Soc. 42:323 for V; Good (1953), Biometrika 40:237 for unseen levels; Holm (1979) over the columns.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest total variation distance, less what sampling alone gives, that matters.
        min_unseen: smallest share of rows with unseen levels that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = categories_keep_their_shares
    if (pair := shared_columns(production, validation, train, codes)) is None:
        yield _nothing_to_compare(this)
        return
    yield from _lost(this, pair)
    tests = [category_shift(level_values(pair.reference, n), level_values(pair.production, n), name=n) for n in pair.names]
    adjusted = holm_adjusted(torch.tensor([test.p_value for test in tests], dtype=torch.float64)).tolist()
    level = 1.0 - alpha / max(len(tests), 1)
    found = []
    for test, p in zip(tests, adjusted, strict=True):
        new = test.unseen[1] >= min_unseen and unseen_excess(test, level=level) > 0.0
        if new or (p < alpha and test.effect >= min_effect):
            found.append((test, p, new))
    kinds = kinds_between(production, validation, train) if found else None
    for test, p, new in sorted(found, key=lambda entry: -entry[0].effect)[:limit]:
        yield _category_finding(test, p, new) if new else _by_kind(_category_finding(test, p, new), kinds)
    if not found:
        numbers = {"columns": len(tests), "n": len(pair.reference), "m": len(production)}
        empty = not tests or not min(numbers["n"], numbers["m"])
        text = "No categorical features to compare." if empty else f"None of {len(tests)} categorical features changed its levels."
        yield this.finding(Severity.NOTE if empty else Severity.OK, text, numbers=numbers)


def _category_finding(test: CategoryShift, p: float, new: bool) -> Finding:
    count, share = test.unseen
    numbers = {"distance": test.distance, "effect": test.effect, "cramers_v": test.cramers_v, "p_holm": p, "n": test.n, "m": test.m}
    numbers |= {"unseen_rows": count, "unseen_share": share, "expected_unseen": test.expected_unseen, "levels": len(test.levels)}
    text = f"{test.name} changed its levels: distance {test.distance:.2f}, Cramér's V {test.cramers_v:.2f} (Holm {p_text(p)})"
    remedy = f"Compare how {test.name} is filled in production and in training; if the change is lasting, retrain on recent rows."
    if new:
        text += f"; {share:.1%} of production rows have levels never seen before ({test.expected_unseen:.1%} expected)"
        remedy = f"Decide what unseen levels of {test.name} become: a level `other` trained on rare ones, or a model without {test.name}."
    severity = Severity.FAIL if max(test.effect, share if new else 0.0) >= FAIL_EFFECT else Severity.WARN
    return categories_keep_their_shares.finding(
        severity, f"{text}.", subject=test.name, numbers=numbers, remedy=remedy, evidence=test
    )

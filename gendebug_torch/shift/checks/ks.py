"""`shift.ks`: the distribution of each numeric feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import OUTSIDE, TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, kinds_in_time, with_cause
from gendebug_torch.shift.checks._columns import (
    COLUMN_PAIR,
    ColumnPair,
    excluded_finding,
    lost_columns,
    no_reference,
    severity_of,
)
from gendebug_torch.shift.checks._costs import columns_cost
from gendebug_torch.shift.columns.default_values import Atom, default_value
from gendebug_torch.shift.columns.exclusions import COUNTER, IDENTIFIER, number_reason
from gendebug_torch.shift.columns.shared_columns import QuantityComparison
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.model_outputs import scores_shifted
from gendebug_torch.shift.kinds.moved_columns import MIN_OUTSIDE
from gendebug_torch.shift.two_sample.effect_sizes import effect_sizes
from gendebug_torch.shift.two_sample.feature_shift import feature_shift, most_shifted
from gendebug_torch.stats.intervals import p_value_text


@check(
    "shift.ks",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.features",),
    cost=columns_cost,
    derived=(COLUMN_PAIR,),
    deferred=(CHANGE_KINDS,),
)
def features_keep_their_distribution(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    column_pair: ColumnPair | None = None,
    change_kinds: Deferred[ChangeKinds | None] = NOTHING,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_atom: float = 0.1,
    min_independent_rows: int = 10,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each numeric feature has the same distribution in production as in validation.

    Training is the reference without validation. Two-sample Kolmogorov-Smirnov tests with Holm's
    correction over the features. Rows are independent, but where the schema names a time or a group
    column each feature's test uses its effective sample size. Dates, counters, versions and
    identifiers change by themselves; they are noted and not compared.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Holm (1979), Scand. J. Statist. 6:65; Sokal
    (1997) for rows that depend on each other; for corrected univariate tests Rabanser, Günnemann
    and Lipton (2019), arXiv:1810.11953.

    Args:
        production: records with features.
        validation: reference, if it has features.
        train: reference otherwise.
        column_pair: columns of both, derived.
        change_kinds: kinds of change, derived; used where a column shifted.
        alpha: chance of any false alarm over all features.
        min_effect: smallest Kolmogorov-Smirnov distance that matters.
        min_atom: growth of the share of one single value that matters whatever the distance.
        min_independent_rows: effective sample size of an autocorrelated feature below which its
            reference is too short to judge.
        limit: most features reported one by one, largest distance first.
    """
    this = features_keep_their_distribution
    if column_pair is None:
        yield no_reference(this)
        return
    columns = column_pair.quantities(alpha)
    sides = columns.sides
    yield from lost_columns(this, sides.names, columns.absent, columns.textual)
    if columns.excluded:
        yield _not_compared_finding(columns.excluded)
    too_short = (sides.test.n < min_independent_rows) & (sides.test.n < sides.independent.n)
    shifted = _shifted(sides, ~too_short, alpha, min_effect, min_atom)
    slow = _autocorrelated(sides, too_short, alpha, min_effect)
    excluded = _excluded(sides, [*(column for column, _ in shifted), *slow])
    shifted = [(column, atom) for column, atom in shifted if column not in excluded]
    slow = [column for column in slow if column not in excluded]
    unexplained = (
        not (shifted or slow)
        and validation is not None
        and scores_shifted(validation, production, alpha, min_effect)
    )
    for column in list(excluded)[:limit]:
        yield _excluded_finding(sides, column, excluded[column], unexplained)
    kinds = kinds_in_time(change_kinds) if shifted else None
    for column, atom in shifted[:limit]:
        yield with_cause(_feature_finding(sides, column, atom), kinds)
    for column in slow[:limit]:
        finding = _feature_finding(sides, column, None)
        outside = _share_outside(sides, column)
        if outside >= MIN_OUTSIDE:
            yield _extrapolation_finding(finding, sides.names[0], outside)
        else:
            yield _dependence_note(finding, sides.names[0], min_independent_rows)
    compared = sides.test.statistic.isfinite()
    compared[list(excluded)] = False
    yield _summary(sides, compared, len(shifted), len(slow), alpha, min_effect)


def _excluded(sides: QuantityComparison, columns: list[int]) -> dict[int, str]:
    """Those of the columns that change by themselves, each with the reason."""
    excluded = {}
    for column in columns:
        name = sides.test.labels[column]
        values = (
            side.values(column).double().cpu().numpy() for side in (sides.before, sides.after)
        )
        reason = IDENTIFIER if name in sides.identifiers else number_reason(name, *values)
        if reason is not None:
            excluded[column] = reason
    return excluded


def _shifted(
    sides: QuantityComparison, judged: Tensor, alpha: float, min_effect: float, min_atom: float
) -> list[tuple[int, Atom | None]]:
    """Judged columns that shifted, largest distance first, with the value that piles up in each.

    An atom that grew by g moves the distribution function by g / 2 at least, so smaller distances
    need no look.
    """
    test, found = sides.test, []
    candidates = judged & (test.adjusted < alpha)
    candidates &= test.statistic >= min(min_effect, min_atom / 2)
    for column in _largest_first(candidates, test.statistic):
        atom = default_value(sides.before, sides.after, column, min_growth=min_atom)
        if atom is not None or float(test.statistic[column]) >= min_effect:
            found.append((column, atom))
    return found


def _autocorrelated(
    sides: QuantityComparison, too_short: Tensor, alpha: float, min_effect: float
) -> list[int]:
    """Columns whose distance would matter if rows were independent, largest distance first."""
    alone = (sides.independent.adjusted < alpha) & (sides.independent.statistic >= min_effect)
    return _largest_first(
        alone & (too_short | ~(sides.test.adjusted < alpha)), sides.test.statistic
    )


def _largest_first(chosen: Tensor, statistic: Tensor) -> list[int]:
    columns = chosen.nonzero().flatten().tolist()
    return sorted(columns, key=lambda column: -float(statistic[column]))


def _share_outside(sides: QuantityComparison, column: int) -> float:
    """Share of the production values that lie outside the whole range of the reference."""
    before, after = sides.before.values(column), sides.after.values(column)
    if not len(before) or not len(after):
        return 0.0
    return float(((after < before[0]) | (after > before[-1])).double().mean())


def _excluded_finding(
    sides: QuantityComparison, column: int, reason: str, unexplained: bool
) -> Finding:
    """The note that a column changes by itself; a failure where that may be why scores shifted.

    Args:
        sides: both sides.
        column: number of the column.
        reason: why it is not compared.
        unexplained: whether scores shifted although no compared column did.
    """
    name, outside = sides.test.labels[column], _share_outside(sides, column)
    finding = excluded_finding(features_keep_their_distribution, name, reason)
    if not unexplained or reason != COUNTER or outside < MIN_OUTSIDE:
        return finding
    text = (
        f"{name} counts on beyond {sides.names[0]}: {outside:.0%} of the production values lie "
        "outside its whole range, and the scores shifted although no other number did. If the "
        "model reads it, it extrapolates"
    )
    remedy = (
        f"Retrain without {name}, or with what repeats in it (season, hour, time since an event); "
        "take it out of the features of the schema if the model does not read it."
    )
    numbers = {**finding.numbers, OUTSIDE: outside}
    return replace(
        finding, severity=Severity.FAIL, summary=f"{text}.", numbers=numbers, remedy=remedy
    )


def _extrapolation_finding(finding: Finding, reference: str, outside: float) -> Finding:
    """The warning about values that the model has never seen, however slowly they came about."""
    text = (
        f"{finding.summary[:-1]}: {outside:.0%} of the production values lie outside the whole "
        f"range of {reference}, where the model extrapolates"
    )
    remedy = (
        f"Retrain on rows that cover the new range of {finding.subject}, or clip it to the range "
        "of training; do not trust the predictions until then."
    )
    numbers = {**finding.numbers, OUTSIDE: outside}
    return replace(
        finding, severity=Severity.WARN, summary=f"{text}.", remedy=remedy, numbers=numbers
    )


def _dependence_note(finding: Finding, reference: str, min_independent_rows: int) -> Finding:
    """The note about a distance that rows which depend on each other may explain."""
    text, name = finding.summary[:-1], finding.subject
    if finding.numbers["independent_n"] < min_independent_rows:
        text += (
            f": {reference} is too short to tell a shift of this feature from its slow "
            "fluctuations, or from those of its groups"
        )
        remedy = (
            f"Compare {name} with a reference that is long enough to hold several of its "
            "fluctuations, and ten groups or more."
        )
    else:
        text += ": no more than its slow fluctuations, or the likeness of rows in groups, explain"
        remedy = f"Keep watching {name}; nothing has to be done yet."
    return replace(finding, severity=Severity.NOTE, summary=f"{text}.", remedy=remedy)


def _not_compared_finding(excluded: Mapping[str, str]) -> Finding:
    columns = [f"{name} ({reason})" for name, reason in excluded.items()]
    text = f"Not compared: {', '.join(columns[:10])}{', …' if len(columns) > 10 else ''}."
    remedy = "Declare them in `ids` or `metadata`, or turn them into numbers or categories."
    return features_keep_their_distribution.finding(
        Severity.NOTE, text, numbers={"columns": len(columns)}, remedy=remedy
    )


def _feature_finding(sides: QuantityComparison, column: int, atom: Atom | None) -> Finding:
    name, numbers = sides.test.labels[column], _numbers(sides, column)
    text = (
        f"The distribution of {name} shifted between {sides.names[0]} and {sides.names[1]}: "
        f"Kolmogorov-Smirnov distance {numbers['statistic']:.2f} (95 % interval "
        f"{numbers['low']:.2f} to {numbers['high']:.2f}, Holm {p_value_text(numbers['p_holm'])}), "
        f"median {numbers['median_reference']:.4g} → {numbers['median_production']:.4g}"
    )
    if numbers["independent_n"] < numbers["n"] or numbers["independent_m"] < numbers["m"]:
        text += (
            f"; as rows depend on each other they count as {numbers['independent_n']:,} and "
            f"{numbers['independent_m']:,} independent ones"
        )
    remedy = (
        f"Compare how {name} is computed in production and in training; if the change is "
        "real and lasting, retrain on recent rows."
    )
    if atom is not None:
        numbers |= {
            TO_REPAIR: True,
            "atom_value": atom.value,
            "atom_share_reference": atom.reference_share,
            "atom_share_production": atom.live_share,
        }
        text += (
            f"; the value {atom.value:.4g} grew from {atom.reference_share:.1%} to "
            f"{atom.live_share:.1%} of the rows"
        )
        remedy = (
            f"{name} is constant at {atom.value:.4g} in {atom.live_share:.0%} of production rows, "
            "probably a default value. Restore its computation, or drop it."
        )
    before, after = (side.select([column]) for side in (sides.before, sides.after))
    evidence = feature_shift(
        before,
        after,
        name=name,
        location=numbers["location"],
        statistic=numbers["statistic"],
    )
    return features_keep_their_distribution.finding(
        severity_of(numbers["statistic"]),
        f"{text}.",
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=evidence,
    )


def _numbers(sides: QuantityComparison, column: int) -> dict[str, Any]:
    """What is known of one column."""
    test = sides.test
    low, high = (float(bound[column]) for bound in test.interval())
    before, after = (side.select([column]) for side in (sides.before, sides.after))
    medians = [float(values[len(values) // 2]) for values in (before.values(0), after.values(0))]
    effects = effect_sizes(before, after)
    return {
        "smd": float(effects.mean_difference),
        "smd_standard_error": float(effects.standard_error),
        "psi": float(effects.population_stability_index),
        "statistic": float(test.statistic[column]),
        "low": low,
        "high": high,
        "signed": float(test.signed[column]),
        "location": float(test.location[column]),
        "p_value": float(test.p_value[column]),
        "p_holm": float(test.adjusted[column]),
        "n": int(before.n),
        "m": int(after.n),
        "independent_n": int(test.n[column]),
        "independent_m": int(test.m[column]),
        "median_reference": medians[0],
        "median_production": medians[1],
    }


def _summary(
    sides: QuantityComparison,
    compared: Tensor,
    shifted: int,
    slow: int,
    alpha: float,
    min_effect: float,
) -> Finding:
    """One finding over all features that were compared."""
    this, test, (n, m) = features_keep_their_distribution, sides.test, sides.rows
    d, judged = len(test.statistic), int(compared.sum())
    numbers: dict[str, Any] = {"features": d, "judged": judged, "shifted": shifted}
    numbers |= {"n": n, "m": m, "alpha": alpha}
    if not judged:
        text = f"No numeric feature could be compared: {d} columns, {n} against {m} rows."
        return this.finding(Severity.NOTE, text, numbers=numbers)
    largest = int(test.statistic.masked_fill(~compared, -1.0).argmax())
    numbers |= {
        "largest": test.labels[largest],
        "statistic": float(test.statistic[largest]),
        "p_holm": float(test.adjusted[largest]),
        "significant": int(((test.adjusted < alpha) & compared).sum()),
        "detectable": float(test.detectable(alpha=alpha).min()),
        "autocorrelated": slow,
    }
    evidence = most_shifted(test, sides.before, sides.after) if shifted or slow else test
    severity = Severity.NOTE if shifted or slow else Severity.OK
    text = f"{_summary_text(numbers, min_effect)}{_slow_text(slow)}"
    if numbers["detectable"] >= 1.0 and not shifted:
        text, severity = f"Too few rows to detect any shift: {n} against {m}.", Severity.NOTE
    return this.finding(severity, text, numbers=numbers, evidence=evidence)


def _summary_text(numbers: dict[str, Any], min_effect: float) -> str:
    """How many features shifted, and how far the largest distance is."""
    judged, sizes = numbers["judged"], f"{numbers['n']:,} against {numbers['m']:,} rows"
    if numbers["shifted"]:
        return (
            f"{numbers['shifted']} of {judged} numeric features shifted ({sizes}); the largest "
            f"distance is {numbers['statistic']:.2f} in {numbers['largest']}."
        )
    significant = numbers["significant"]
    small = f"{significant} shifted by less than {min_effect:g}; " if significant else ""
    return (
        f"None of {judged} numeric features shifted by {min_effect:g} or more ({sizes}): {small}"
        f"largest distance {numbers['statistic']:.3f} in {numbers['largest']} (Holm "
        f"{p_value_text(numbers['p_holm'])}); a distance of {numbers['detectable']:.3f} or more "
        "would have been detected."
    )


def _slow_text(slow: int) -> str:
    return f" {slow} more differ no more than slow fluctuations or groups explain." if slow else ""

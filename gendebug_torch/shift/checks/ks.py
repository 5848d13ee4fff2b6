"""The check of the quantities, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import FAIL_EFFECT, kinds_between, p_text
from gendebug_torch.shift.checks._levels import by_kind, columns_cost, lost, nothing_to_compare
from gendebug_torch.shift.columns.default_values import Atom, default_value
from gendebug_torch.shift.columns.shared_columns import (
    QuantityComparison,
    quantity_comparison,
    quantity_names,
    shared_columns,
    wide_integer_names,
)
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.effect_sizes import effect_sizes
from gendebug_torch.shift.two_sample.feature_shift import MostShifted, feature_shift, most_shifted
from gendebug_torch.shift.two_sample.ks import KSTest


@check("shift.ks", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=columns_cost)
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
    """Each numeric feature is distributed in production as it was in validation (or in training,
    without validation).

    Two-sample Kolmogorov-Smirnov tests with Holm's correction over the features. Rows are taken as
    independent, but where the schema names a time column each feature's rows count as the
    independent ones that they are worth.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Holm (1979), Scand. J. Statist. 6:65; Sokal
    (1997) for rows that depend on each other; for corrected univariate tests Rabanser, Günnemann
    and Lipton (2019), arXiv:1810.11953.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all features.
        min_effect: smallest distance of the distribution functions that matters.
        min_atom: growth of the share of one single value that matters whatever the distance.
        fewest: independent rows of a slow feature under which its reference is one slow record,
            from which nothing can be told.
        limit: most features reported one by one, largest distance first.
    """
    this = features_keep_their_distribution
    if (pair := shared_columns(production, validation, train, quantity_names)) is None:
        yield nothing_to_compare(this)
        return
    sides, textual = quantity_comparison(pair, alpha)
    yield from lost(this, sides.names, pair.absent, textual)
    if wide := wide_integer_names(pair.reference):
        yield _wide_finding(wide)
    told = quantity_findings(
        sides,
        lambda: kinds_between(production, validation, train),
        alpha=alpha,
        min_effect=min_effect,
        min_atom=min_atom,
        fewest=fewest,
        limit=limit,
    )
    yield from told


def quantity_findings(
    sides: QuantityComparison,
    kinds: Callable[[], ChangeKinds | None],
    *,
    alpha: float,
    min_effect: float,
    min_atom: float,
    fewest: int,
    limit: int,
) -> Iterator[Finding]:
    """What two prepared sides say of their quantities, column by column and in sum; options as
    those of the check.

    `kinds` is asked only where a column moved.
    """
    alone, test = sides.independent, sides.test
    unknown = (test.n < fewest) & (test.n < alone.n)
    found = _shifted(sides, ~unknown, alpha, min_effect, min_atom)
    table = kinds() if found else None
    for column, atom in found[:limit]:
        if sides.test.labels[column] in sides.identifiers:
            yield _identifier_finding(sides, column)
        else:
            yield by_kind(_feature_finding(sides, column, atom), table)
    slow = unknown | ~(test.adjusted < alpha)
    wandered = (
        ((alone.adjusted < alpha) & (alone.statistic >= min_effect) & slow)
        .nonzero()
        .flatten()
        .tolist()
    )
    for column in sorted(wandered, key=lambda column: -float(test.statistic[column]))[:limit]:
        yield _wandered(_feature_finding(sides, column, None), sides.names[0], fewest)
    evidence = most_shifted(test, sides.before, sides.after) if found or wandered else test
    yield _summary(sides, len(found), len(wandered), alpha, min_effect, evidence)


def _shifted(
    sides: QuantityComparison, known: Tensor, alpha: float, min_effect: float, min_atom: float
) -> list[tuple[int, Atom | None]]:
    """Columns that count as shifted, of the known ones, largest distance first, each with the value
    that piles up in it, if any.

    An atom that grew by g moves the distribution function by g / 2 at least, so smaller distances
    need no look.
    """
    test, found = sides.test, []
    candidates = known & (test.adjusted < alpha) & (test.statistic >= min(min_effect, min_atom / 2))
    for column in sorted(
        candidates.nonzero().flatten().tolist(), key=lambda column: -float(test.statistic[column])
    ):
        default = default_value(sides.before, sides.after, column, min_growth=min_atom)
        if default is not None or float(test.statistic[column]) >= min_effect:
            found.append((column, default))
    return found


def _wandered(finding: Finding, reference: str, fewest: int) -> Finding:
    """The note about a distance that is large, but no larger than slow swings make it."""
    text, name = finding.summary[:-1], finding.subject
    if finding.numbers["independent_n"] < fewest:
        text += (
            ": that cannot be told from one slow record, whose swings take about as long as "
            f"{reference} lasts"
        )
        remedy = (
            f"Nothing is known of a lasting shift of {name}; compare with a record that is "
            "long enough to hold several of its swings."
        )
    else:
        text += ": no further than its own slow swings take it"
        remedy = f"Keep watching {name}; nothing has to be done yet."
    return replace(finding, severity=Severity.NOTE, summary=f"{text}.", remedy=remedy)


def _identifier_finding(sides: QuantityComparison, column: int) -> Finding:
    name, distance = sides.test.labels[column], float(sides.test.statistic[column])
    text = (
        f"{name} numbers its rows (every value is whole and occurs once), so its distance "
        f"{distance:.2f} says nothing."
    )
    remedy = f"Declare {name} in `ids`, and do not feed it to the model."
    numbers = {"statistic": distance}
    return features_keep_their_distribution.finding(
        Severity.NOTE, text, subject=name, numbers=numbers, remedy=remedy, evidence=sides.test
    )


def _wide_finding(names: tuple[str, ...]) -> Finding:
    text = (
        f"Not compared: {', '.join(names)} hold whole numbers beyond 2^53, which are ids or "
        "hashes rather than quantities."
    )
    remedy = "Declare them in `ids`, and do not feed them to the model as numbers."
    return features_keep_their_distribution.finding(
        Severity.NOTE, text, numbers={"columns": len(names)}, remedy=remedy
    )


def _feature_finding(sides: QuantityComparison, column: int, atom: Atom | None) -> Finding:
    test, name = sides.test, sides.test.labels[column]
    distance, location = float(test.statistic[column]), float(test.location[column])
    low, high = (float(bound[column]) for bound in test.interval())
    before, after = (side.select([column]) for side in (sides.before, sides.after))
    medians = [float(values[len(values) // 2]) for values in (before.values(0), after.values(0))]
    p = float(test.adjusted[column])
    effects = effect_sizes(before, after)
    numbers = {
        "smd": float(effects.mean_difference),
        "smd_standard_error": float(effects.standard_error),
        "psi": float(effects.population_stability_index),
        "statistic": distance,
        "low": low,
        "high": high,
        "signed": float(test.signed[column]),
        "location": location,
        "p_value": float(test.p_value[column]),
        "p_holm": p,
        "n": int(before.n),
        "m": int(after.n),
        "independent_n": int(test.n[column]),
        "independent_m": int(test.m[column]),
        "median_reference": medians[0],
        "median_production": medians[1],
    }
    text = (
        f"{name} moved between {sides.names[0]} and {sides.names[1]}: distance {distance:.2f} "
        f"(95 % interval {low:.2f} to {high:.2f}, Holm {p_text(p)}), median {medians[0]:.4g} → "
        f"{medians[1]:.4g}"
    )
    if numbers["independent_n"] < numbers["n"] or numbers["independent_m"] < numbers["m"]:
        text += (
            f"; in time its rows are worth {numbers['independent_n']:,} and "
            f"{numbers['independent_m']:,} independent ones"
        )
    remedy = (
        f"Compare how {name} is computed in production and in training; if the change is "
        "real and lasting, retrain on recent rows."
    )
    if atom is not None:
        numbers |= {
            "atom_value": atom.value,
            "atom_share_reference": atom.reference_share,
            "atom_share_production": atom.live_share,
        }
        text += (
            f"; the value {atom.value:.4g} grew from {atom.reference_share:.1%} to "
            f"{atom.live_share:.1%} of the rows"
        )
        remedy = (
            f"{name} is constant at {atom.value:.4g} for {atom.live_share:.0%} of production rows: "
            "a default or a missing history; rebuild it or drop it."
        )
    evidence = feature_shift(before, after, name=name, location=location, statistic=distance)
    severity = Severity.FAIL if distance >= FAIL_EFFECT else Severity.WARN
    return features_keep_their_distribution.finding(
        severity, f"{text}.", subject=name, numbers=numbers, remedy=remedy, evidence=evidence
    )


def _summary(
    sides: QuantityComparison,
    shifted: int,
    wandered: int,
    alpha: float,
    min_effect: float,
    evidence: KSTest | MostShifted,
) -> Finding:
    this, test, d = features_keep_their_distribution, sides.test, len(sides.test.statistic)
    n, m = sides.rows
    judged = int(test.statistic.isfinite().sum())
    numbers: dict[str, Any] = {
        "features": d,
        "judged": judged,
        "shifted": shifted,
        "n": n,
        "m": m,
        "alpha": alpha,
    }
    if not judged:
        return this.finding(
            Severity.NOTE,
            f"No numeric feature could be compared: {d} columns, {n} against {m} rows.",
            numbers=numbers,
        )
    largest = int(test.statistic.nan_to_num(-1.0).argmax())
    seen = float(test.detectable(alpha=alpha).min())
    distance, p = float(test.statistic[largest]), float(test.adjusted[largest])
    significant = int((test.adjusted < alpha).sum())
    numbers |= {
        "largest": test.labels[largest],
        "statistic": distance,
        "p_holm": p,
        "significant": significant,
        "detectable": seen,
    }
    numbers |= {"wandered": wandered}
    slow = (
        f" {wandered} moved further, but no further than their own slow swings may have taken them."
        if wandered
        else ""
    )
    sizes = f"{n:,} against {m:,} rows"
    if seen >= 1.0 and not shifted:
        return this.finding(
            Severity.NOTE,
            f"Too few rows to see any shift: {sizes}.",
            numbers=numbers,
            evidence=evidence,
        )
    if shifted:
        where = f"the largest distance is {distance:.2f} in {test.labels[largest]}"
        text = f"{shifted} of {judged} numeric features moved ({sizes}); {where}.{slow}"
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=evidence)
    small = f"{significant} moved by less than {min_effect:g}; " if significant else ""
    text = (
        f"None of {judged} numeric features moved by {min_effect:g} or more ({sizes}): "
        f"{small}largest distance {distance:.3f} in "
        f"{test.labels[largest]} (Holm {p_text(p)}); from {seen:.3f} on a shift would have been "
        f"seen.{slow}"
    )
    return this.finding(
        Severity.NOTE if wandered else Severity.OK, text, numbers=numbers, evidence=evidence
    )

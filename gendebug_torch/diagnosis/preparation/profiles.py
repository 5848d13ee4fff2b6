"""Profiles in a diagnosis: a sample stands for the rows, sums answer for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from gendebug_torch.calibration.checks._confidence import BINARY_ROWS, BINS
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Deferred
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._candidates import MISSING, SCREEN
from gendebug_torch.profiles.answers import (
    WholeQuality,
    bin_counter,
    binary_reader,
    confidence_counter,
    prepared_tables,
    slice_counts,
    slice_scores,
    with_counted_classes,
)
from gendebug_torch.profiles.associations import (
    counted_columns,
    counted_missing,
    with_counted_columns,
)
from gendebug_torch.profiles.build import profile
from gendebug_torch.profiles.profile import Profile, check_comparable
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS
from gendebug_torch.shift.checks._columns import COLUMN_PAIR, PreparedPair
from gendebug_torch.shift.checks._outputs import CONFIDENCE, TIME_SUMS
from gendebug_torch.shift.checks.quality import QUALITY
from gendebug_torch.shift.columns.prepared_table import table_comparison
from gendebug_torch.slices.checks._rounds import SCORE_COUNTS, SLICE_COUNTS

_SPLITS = ("train", "validation", "production")


def profiles_of(given: Mapping[str, Any]) -> dict[str, Profile]:
    """The profiles among the inputs of a diagnosis, each under the name of its split.

    Args:
        given: inputs by name.

    Raises:
        InputError: profiles by schemas that read the same columns in another way.
    """
    found = {name: given[name] for name in _SPLITS if isinstance(given[name], Profile)}
    named = {
        name: replace(side, name=name if side.name == "profile" else side.name)
        for name, side in found.items()
    }
    for before, after in pairwise(named.values()):
        check_comparable(before, after)
    return named


def sampled_rows(profiles: Mapping[str, Profile]) -> dict[str, Records]:
    """The row samples of profiles, by split."""
    return {name: side.records for name, side in profiles.items()}


def row_counts(profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Numbers of the rows that the profiles stand for, by split, in words."""
    return {name: f"{side.rows:,} rows" for name, side in profiles.items()}


def whole_row_answers(
    given: Mapping[str, Any], profiles: Mapping[str, Profile]
) -> dict[str, Deferred[Any]]:
    """Derived inputs of checks that sums over all rows answer, by name; none without profiles.

    Columns are compared on all rows of both sides, and so are the shares of the classes, confidence
    and quality.

    Args:
        given: inputs of the diagnosis, with samples in place of profiles.
        profiles: the profiles by split.
    """
    if not profiles:
        return {}
    named = {side.name: side for side in profiles.values()}
    answers: dict[str, Deferred[Any]] = {
        BINS.name: Deferred(lambda: bin_counter(named)),
        BINARY_ROWS.name: Deferred(lambda: binary_reader(named)),
    }
    answers |= _answers_of_one(given, profiles)
    reference = next((name for name in _SPLITS[1::-1] if given[name] is not None), None)
    if reference is None or not {reference, "production"} & profiles.keys():
        return answers
    if given["production"] is None:
        return answers
    splits = (reference, "production")
    sides = Deferred(lambda: [_as_profile(name, given, profiles) for name in splits])
    kinds = CHANGE_KINDS.of(given)
    answers[CHANGE_KINDS.name] = Deferred(lambda: with_counted_classes(kinds(), *sides()))
    if given[reference].features is not None and given["production"].features is not None:
        answers[COLUMN_PAIR.name] = Deferred(
            lambda: PreparedPair(table_comparison(*prepared_tables(*sides())))
        )
    if reference == "validation":
        answers[QUALITY.name] = Deferred(lambda: WholeQuality(*sides()))
        answers[CONFIDENCE.name] = Deferred(lambda: confidence_counter(*sides()))
        answers[SLICE_COUNTS.name] = Deferred(lambda: slice_counts(*sides()))
    return answers


def _answers_of_one(
    given: Mapping[str, Any], profiles: Mapping[str, Profile]
) -> dict[str, Deferred[Any]]:
    """What one side answers by itself."""
    answers: dict[str, Deferred[Any]] = {}
    if "train" in profiles and profiles["train"].sampled:
        train, screen = profiles["train"], SCREEN.of(given)
        answers[SCREEN.name] = Deferred(lambda: with_counted_columns(screen(), train))
        answers[MISSING.name] = Deferred(lambda: counted_missing(train))
    if "validation" in profiles:
        answers[SCORE_COUNTS.name] = Deferred(lambda: slice_scores(profiles["validation"]))
    if "production" in profiles and profiles["production"].sampled:
        answers[TIME_SUMS.name] = Deferred(profiles["production"].windows.time_sums)
    return answers


def profile_finding(profiles: Mapping[str, Profile]) -> list[Finding]:
    """What was judged on all rows and what on a sample of them; empty where all rows are there."""
    sides = {name: side for name, side in profiles.items() if side.sampled}
    if not sides:
        return []
    sizes = [
        f"{name} is a profile of {side.rows:,} rows with a random sample of {len(side.records):,}"
        for name, side in sides.items()
    ]
    text = (
        f"{'; '.join(sizes)}. On all rows were judged: {', '.join(_counted(profiles))}. Whatever "
        "else, networks that checks fit among it, on the sample."
    )
    errors = {f"{name} error": side.error for name, side in sides.items()}
    numbers = {f"{name} rows": side.rows for name, side in sides.items()} | errors
    known = Finding("diagnose.profiles", Cause.UNKNOWN, Severity.OK, text, numbers=numbers)
    return [replace(known, inputs=tuple(sides))]


def _as_profile(name: str, given: Mapping[str, Any], profiles: Mapping[str, Profile]) -> Profile:
    """The profile of a split, made of its records where these are all there is."""
    if name in profiles:
        return profiles[name]
    records: Records = given[name]
    return profile(records, name=records.name)


def _counted(profiles: Mapping[str, Profile]) -> list[str]:
    """What the sums of these profiles answer, in words."""
    found = ["columns, class shares, confidence, thresholds, quality"]
    compared = [side for name, side in profiles.items() if name != "train"]
    if len(compared) == 2 and all(side.cells is not None for side in compared):
        found.append("rises of errors in slices")
    validation, train = (profiles.get(name) for name in ("validation", "train"))
    production = profiles.get("production")
    if production is not None and production.windows.time_sums() is not None:
        found.append("answers over time")
    if validation is not None and slice_scores(validation) is not None:
        found.append("slices against what their scores imply")
    if train is not None and counted_columns(train):
        found.append("what single columns and their missing values tell of the target")
    return found

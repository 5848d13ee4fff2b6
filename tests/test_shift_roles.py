"""Columns that hold what others held, or stand beside other rows: told by their relations."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.diagnosis.counterfactuals.changes import column_change
from gendebug_torch.shift.checks.serving_skew import inputs_are_computed_as_before
from gendebug_torch.shift.kinds.change_kinds import change_kinds
from gendebug_torch.shift.transforms.alignment import columns_beside_other_rows
from gendebug_torch.shift.transforms.relations import Relations
from gendebug_torch.shift.transforms.roles import role_changes

DATA = Path(__file__).parents[2] / "shared/data"
MONTHS = [f"pay_{i}" for i in range(6)]
PERSON = ["age", "school", "married"]


def customers(seed, rows=3000):
    """Six months of payments that follow each other, a limit, three columns about the person."""
    rng = np.random.default_rng(seed)
    wealth = rng.normal(size=rows)
    age = 40 + 8 * wealth + 9 * rng.normal(size=rows)
    school = np.digitize(wealth + rng.normal(size=rows), [-0.7, 0.9]).astype(float)
    married = (age + 12 * rng.normal(size=rows) > 38).astype(float)
    table = {"limit": np.exp(wealth + 0.5 * rng.normal(size=rows))}
    state = 0.8 * wealth + rng.normal(size=rows)
    for i, month in enumerate(MONTHS):
        table[month] = state + 0.3 * i * rng.normal(size=rows)
        state = 0.7 * state + 0.6 * rng.normal(size=rows) + 0.1 * wealth
    return pd.DataFrame({**table, "age": age, "school": school, "married": married})


def shuffled(table, names, seed=0):
    rows = np.random.default_rng(seed).permutation(len(table))
    return table.assign(**{name: table[name].to_numpy()[rows] for name in names})


def held(table, sources):
    return table.assign(**{name: table[other].to_numpy() for name, other in sources.items()})


LAG = dict(itertools.pairwise(MONTHS))
CHANGES = {
    "two exchanged": (
        lambda t: held(t, {"pay_0": "pay_3", "pay_3": "pay_0"}),
        {"pay_0": "exchanged with pay_3", "pay_3": "exchanged with pay_0"},
    ),
    "months moved by one": (
        lambda t: held(t, LAG),
        {month: f"it holds the values of {other}" for month, other in LAG.items()},
    ),
    "one copied": (
        lambda t: held(t, {"pay_1": "pay_4"}),
        {"pay_1": "it holds the values of pay_4"},
    ),
    "reversed sign": (lambda t: t.assign(pay_2=-t["pay_2"]), {"pay_2": "with the sign reversed"}),
    "a scale turned round": (
        lambda t: t.assign(school=2 - t["school"]),
        {"school": "reversed, 2 minus the value"},
    ),
    "two codes exchanged": (
        lambda t: t.assign(school=t["school"].map({0.0: 1.0, 1.0: 0.0, 2.0: 2.0})),
        {"school": "levels recoded (0 → 1, 1 → 0)"},
    ),
    "yes and no exchanged": (
        lambda t: t.assign(married=1 - t["married"]),
        {"married": "levels recoded (0 → 1, 1 → 0)"},
    ),
    "the limit of others": (
        lambda t: shuffled(t, ["limit"]),
        {"limit": "its values stand beside other rows"},
    ),
    "another person": (
        lambda t: shuffled(t, PERSON),
        dict.fromkeys(PERSON, "its values stand beside other rows"),
    ),
    "nothing": (lambda t: t, {}),
    "richer customers": (lambda t: t[t["limit"] > 1].reset_index(drop=True), None),
    "older customers": (lambda t: t[t["age"] > 45].reset_index(drop=True), None),
    "more noise": (
        lambda t: t.assign(pay_2=t["pay_2"] + np.random.default_rng(5).normal(size=len(t))),
        None,
    ),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_happened_to_columns_is_told_without_labels(name):
    change, expected = CHANGES[name]
    for seed in (11, 12, 13):
        kinds = change_kinds(Records(change(customers(seed + 50))), Records(customers(seed)))
        skewed = {f.name: f.description for f in kinds.features if f.kind == "train_serve_skew"}
        assert skewed == (expected or {}), seed


def test_texts_as_codes_that_changed_places_are_told():
    names = {0.0: "basic", 1.0: "higher", 2.0: "degree"}
    before, after = (customers(seed) for seed in (1, 2))
    before["school"] = before["school"].map(names)
    after["school"] = after["school"].map({0.0: "higher", 1.0: "basic", 2.0: "degree"})
    kinds = change_kinds(Records(after), Records(before))
    assert kinds.verdict == "train_serve_skew"
    assert kinds.feature("school").description == "levels recoded (basic → higher, higher → basic)"


def test_exchanges_are_those_of_an_exhaustive_search():
    """All orders of five columns; the best is that whose correlations are most like before."""
    names = ["limit", "pay_0", "pay_1", "pay_5", "age"]
    agreed = 0
    for seed, wrong in enumerate(list(itertools.combinations(range(5), 2))):
        before, after = customers(seed)[names], customers(seed + 70)[names]
        # On one scale, so that distributions say nothing.
        before, after = (side.rank() / len(side) for side in (before, after))
        order = list(range(5))
        order[wrong[0]], order[wrong[1]] = wrong[::-1]
        after = after.iloc[:, order].set_axis(names, axis=1)
        usual = before.corr("spearman").to_numpy()
        best = min(
            itertools.permutations(names),
            key=lambda order: np.abs(after[list(order)].corr("spearman") - usual).sum().sum(),
        )
        found = {}
        for feature in change_kinds(Records(after), Records(before)).features:
            if feature.kind == "train_serve_skew":
                found |= {source: name for name, source in feature.transform.sources.items()}
        exhaustive = {n: holder for n, holder in zip(names, best, strict=True) if n != holder}
        assert not found or found == exhaustive
        agreed += found == exhaustive
    # Exchanges of columns that relate to others alike change too little to be certain.
    assert agreed >= 8


def test_of_two_exchanges_that_explain_as_much_none_is_claimed():
    """Two pairs of like columns: exchanging either one of each gives the same correlations."""
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        first, second = rng.normal(size=(2, 3000, 1))
        values = np.concatenate([first, first, second, second], 1) + rng.normal(size=(3000, 4))
        sides.append(pd.DataFrame(values, columns=[*"abcd"]))
    kinds = change_kinds(Records(held(sides[1], {"a": "c", "c": "a"})), Records(sides[0]))
    assert [f.name for f in kinds.features if f.kind == "train_serve_skew"] == []
    assert kinds.kinds == ("covariate_shift",)


def test_findings_say_it_once():
    before, after = Records(customers(3)), customers(4)
    (lag,) = inputs_are_computed_as_before(Records(held(after, LAG)), before)
    assert lag.severity is Severity.FAIL
    assert lag.summary == (
        "In production 5 columns hold the values of others: pay_0 those of pay_1, pay_1 those of "
        "pay_2, pay_2 those of pay_3, pay_3 those of pay_4 and 1 more."
    )
    (person,) = inputs_are_computed_as_before(Records(shuffled(after, PERSON)), before)
    assert (
        "age and 2 more columns relate to each other as before, and to no other" in person.summary
    )
    assert "the key" in person.remedy
    exchanged = list(
        inputs_are_computed_as_before(
            Records(held(after, {"pay_0": "pay_3", "pay_3": "pay_0"})), before
        )
    )
    assert [finding.subject for finding in exchanged] == ["pay_0", "pay_3"]


@pytest.mark.parametrize("name", ["two exchanged", "two codes exchanged", "a scale turned round"])
def test_what_can_be_undone_is_undone(name):
    before, own = customers(5), customers(6)
    after = CHANGES[name][0](own)
    kinds = change_kinds(Records(after), Records(before))
    feature = kinds.features[0]
    change = column_change(feature.name, feature, (before, after))
    pd.testing.assert_frame_equal(change.undo(after), own, check_dtype=False)
    pd.testing.assert_frame_equal(change.apply(own), after, check_dtype=False)


def test_a_copy_loses_what_it_covers_and_a_wrong_join_is_made_for_all_its_columns():
    before, own = customers(5), customers(6)
    after = held(own, LAG)
    feature = change_kinds(Records(after), Records(before)).feature("pay_0")
    change = column_change("pay_0", feature, (before, after))
    assert change.undo is None
    pd.testing.assert_frame_equal(change.apply(own), after)
    after = shuffled(own, PERSON)
    feature = change_kinds(Records(after), Records(before)).feature("age")
    made = column_change("age", feature, (before, after)).apply(own)
    assert abs(made["age"].corr(made["limit"])) < 0.1 < made["age"].corr(made["married"])


def departures(months, seed, per_day=120):
    """Rows of days: how late a plane is, what it flies, and the calendar."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("2015-01-01", "2015-12-31")
    days = days[days.month.isin(months)].repeat(per_day)
    hour, distance = rng.integers(5, 24, len(days)), rng.lognormal(6.5, 0.6, len(days))
    table = {"month": days.month, "day": days.day, "weekday": days.day_of_week + 1, "hour": hour}
    table |= {"distance": distance, "minutes": distance / 8 + 5 * rng.normal(size=len(days))}
    return pd.DataFrame(table).astype(float).assign(date=days)


@pytest.mark.parametrize(("before", "after"), [((7, 8), (9, 11, 12)), ((1, 2, 3), (4, 5))])
def test_the_weekday_that_a_day_of_the_month_is_changes_by_itself(before, after):
    sides = [departures(months, seed) for seed, months in enumerate((before, after))]
    mixed = sides[0].sample(frac=1, random_state=0)
    for reference in (sides[0], mixed):
        records = [
            Records.from_frame(side, Schema(time="date", target="late"))
            for side in (sides[1].assign(late=0), reference.assign(late=0))
        ]
        kinds = change_kinds(*records)
        assert [f.name for f in kinds.features if f.kind == "train_serve_skew"] == []
    # What a calendar does not do is named all the same.
    served = held(sides[1], {"distance": "minutes", "minutes": "distance"})
    kinds = change_kinds(
        Records(served.drop(columns="date")), Records(sides[0].drop(columns="date"))
    )
    assert {"distance", "minutes"} <= {
        f.name for f in kinds.features if f.kind == "train_serve_skew"
    }


def test_few_rows_or_many_columns_are_not_judged():
    assert Relations.of(customers(0, 100), customers(1)) is None
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 301)))
    assert Relations.of(wide, wide) is None
    constant = customers(1).assign(limit=1.0)
    assert columns_beside_other_rows(Relations.of(constant, constant)) == []


@pytest.mark.skipif(not DATA.exists(), reason="the real tables of ../shared/data are not here")
def test_halves_and_parts_of_real_tables_are_quiet():
    loans = pd.read_parquet(DATA / "credit_default_taiwan/UCI_Credit_Card.parquet")
    loans = loans.drop(columns=["ID", "default.payment.next.month"])
    homes = pd.read_parquet(next((DATA / "kc_house").glob("*.parquet")))
    homes = homes.select_dtypes("number").drop(columns=["id"], errors="ignore")
    for table, part in ((loans, "LIMIT_BAL"), (homes, "sqft_living")):
        large = table[part] > table[part].median()
        rows = np.random.default_rng(0).permutation(len(table))
        halves = table.iloc[rows[::2]], table.iloc[rows[1::2]]
        for before, after in (halves, (table[~large], table[large])):
            kinds = change_kinds(Records(after), Records(before))
            assert [f for f in kinds.features if f.kind == "train_serve_skew"] == []


def test_a_family_of_numbered_columns_is_told_by_its_distributions():
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 6.0, 2.0, 9.0, 3.0, 12.0, 0.5, 5.0, 1.5])
    tables = [
        pd.DataFrame(rng.normal(size=(900, 9)) * scales, columns=[f"v{i}" for i in range(9)])
        for _ in range(2)
    ]
    after = held(tables[1], {f"v{i}": f"v{i + 1}" for i in range(8)})
    kinds = change_kinds(Records(after), Records(tables[0]))
    moved = {f.name for f in kinds.features if "it holds the values of" in f.description}
    assert moved == {f"v{i}" for i in range(8)}
    (finding,) = inputs_are_computed_as_before(Records(after), Records(tables[0]))
    assert "In production 8 columns hold the values of others: v0 those of v1" in finding.summary
    # A common growth is no such move.
    grown = change_kinds(Records(tables[1] * 2.0), Records(tables[0]))
    assert not any("holds the values" in f.description for f in grown.features)


def test_a_column_that_hardly_varied_is_claimed_to_hold_no_other():
    """All texts have different words until three rows repeat one."""
    rng = np.random.default_rng(0)
    tables = [pd.DataFrame(rng.normal(size=(436, 4)), columns=list("abcd")) for _ in range(2)]
    for table in tables:
        table["e"], table["f"] = 1.0, 1.0
    tables[1].loc[[3, 40, 200], "e"] = [0.83, 0.86, 0.9]
    tables[1].loc[[3, 41], "f"] = [0.8, 0.9]
    values = {c: tuple(side[c].to_numpy() for side in tables) for c in "abcdef"}
    assert role_changes(Relations.of(*tables), values) == {}


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "quantity"])
@pytest.mark.parametrize("seed", range(3))
def test_what_related_to_others_through_the_target_alone_is_left_to_shortcuts(seed, classes):
    """A mark that went with the answer where the data was collected ends as a wrong join would."""
    rng = np.random.default_rng(seed)
    sides = []
    for name in ("validation", "production"):
        x = rng.normal(size=(2000, 4)) + rng.normal(size=(2000, 1))
        y = x.sum(1) + rng.normal(size=2000)
        y = (y > 0).astype(float) if classes else y
        table = pd.DataFrame(x, columns=list("abcd"))
        table["mark"] = (y - y.mean()) / y.std() + 0.35 * rng.normal(size=2000)
        targets = torch.from_numpy(y.astype(np.int64) if classes else y)
        sides.append(Records(table, targets, name=name))
    reference, live = sides
    for column, expected in (("mark", set()), ("a", {"a"})):
        joined = live.features.assign(**{column: rng.permutation(live.features[column])})
        kinds = change_kinds(replace(live, features=joined), reference)
        assert {f.name for f in kinds.features if f.kind == "train_serve_skew"} == expected
    unlabeled = replace(reference, targets=None)
    joined = live.features.assign(mark=rng.permutation(live.features["mark"]))
    kinds = change_kinds(replace(live, features=joined, targets=None), unlabeled)
    assert {f.name for f in kinds.features if f.kind == "train_serve_skew"} == {"mark"}

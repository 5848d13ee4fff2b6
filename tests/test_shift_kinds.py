"""`shift`: the kinds of change, with labels and without, and the parts that they rest on."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.checks.evidence import png
from gendebug_torch.shift import change_kinds
from gendebug_torch.shift.checks.concept_drift import labels_follow_the_score_as_before
from gendebug_torch.shift.checks.confidence import confidence_keeps_its_distribution
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.label_shift import classes_keep_their_shares
from gendebug_torch.shift.checks.serving_skew import inputs_are_computed_as_before
from gendebug_torch.shift.kinds.class_shares import class_shares
from gendebug_torch.shift.scores.score_relation import relation_change
from gendebug_torch.shift.transforms.distances import weighted_ks_distance
from gendebug_torch.shift.transforms.quantities import fit_feature_transform
from tests.reference import shift as literal


def drawn(
    seed, n=1500, name="validation", *, moved=0.0, prior=None, turned=0.0, serve=None, offset=0.0
):
    """Labels follow `a`, `b` and `amount`; the model knows the rule and sees what serving
    computes."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(4 * n, 3)), columns=["a", "b", "noise"])
    table["amount"] = rng.lognormal(3.0, 0.8, 4 * n)
    table["age"] = rng.normal(40.0, 12.0, 4 * n)
    table["channel"] = rng.choice(
        ["web", "shop", "phone", "post"], 4 * n, p=[0.5, 0.28, 0.15, 0.07]
    )
    table["b"] += moved
    y = rng.random(4 * n) < 1 / (1 + np.exp(-(score(table) - turned * table["a"]).to_numpy()))
    rows = np.arange(n)
    if prior is not None:
        rows = np.concatenate(
            [np.flatnonzero(y)[: int(prior * n)], np.flatnonzero(~y)[: n - int(prior * n)]]
        )
    seen = table.iloc[rows].reset_index(drop=True)
    seen = seen if serve is None else serve(seen)
    logits = torch.from_numpy(score(seen).to_numpy(copy=True)) + offset
    return Records(seen, torch.from_numpy(y[rows].astype(np.int64)), logits, name=name)


def score(table):
    return (
        1.8 * table["a"] - 1.3 * table["b"] + 0.7 * (np.log(table["amount"].clip(lower=1e-9)) - 3.0)
    )


SKEWS = {
    "unit": lambda t: t.assign(amount=t["amount"] * 100),
    "offset": lambda t: t.assign(a=t["a"] + 1.0),
    "standardised": lambda t: t.assign(age=(t["age"] - 40.0) / 12.0),
    "exchanged": lambda t: t.assign(amount=t["age"], age=t["amount"]),
    "exchanged alike": lambda t: t.assign(a=t["b"], b=t["a"]),
    "sign": lambda t: t.assign(amount=-t["amount"]),
    "logarithm": lambda t: t.assign(amount=np.log1p(t["amount"])),
    "renamed": lambda t: t.assign(channel=t["channel"].str.upper()),
    "recoded": lambda t: t.assign(
        channel=t["channel"].map({"web": "shop", "shop": "phone", "phone": "post", "post": "web"})
    ),
    "stuck": lambda t: t.assign(a=t["a"].where(np.arange(len(t)) % 3 > 0, 0.0)),
}
CHANGES = {
    "none": ({}, ()),
    "inputs": ({"moved": 1.2}, ("covariate_shift",)),
    "classes": ({"prior": 0.2}, ("label_shift",)),
    "meaning": ({"turned": 2.5}, ("concept_drift",)),
    "scores": ({"offset": 1.5}, ("threshold",)),
} | {name: ({"serve": serve}, ("train_serve_skew",)) for name, serve in SKEWS.items()}


@pytest.mark.parametrize("change", CHANGES)
def test_labels_tell_the_kinds_apart(change):
    changes, expected = CHANGES[change]
    for seed in range(4):
        kinds = change_kinds(drawn(seed + 100, 1300, "production", **changes), drawn(seed))
        assert kinds.kinds == expected, kinds.table()
        assert len(kinds.table()) >= len(kinds.features)
    png(kinds)


@pytest.mark.parametrize(
    "change",
    [
        "none",
        "inputs",
        "classes",
        "unit",
        "standardised",
        "exchanged",
        "sign",
        "logarithm",
        "renamed",
        "recoded",
        "stuck",
    ],
)
def test_without_labels_what_shows_is_told(change):
    changes, expected = CHANGES[change]
    for seed in range(4):
        production = replace(drawn(seed + 100, 1300, "production", **changes), targets=None)
        assert change_kinds(production, drawn(seed)).kinds == expected


def test_without_labels_a_meaning_is_not_known_and_an_offset_is_unsure():
    production = replace(drawn(100, 1300, "production", turned=2.5), targets=None)
    kinds = change_kinds(production, drawn(0))
    assert kinds.kinds == ()
    assert kinds.relation is None
    moved = change_kinds(
        replace(drawn(100, 1300, "production", serve=SKEWS["offset"]), targets=None), drawn(0)
    )
    assert moved.kinds == ("covariate_shift",)
    assert not moved.feature("a").certain
    assert moved.feature("a").transform.kind == "offset"
    (finding,) = inputs_are_computed_as_before(
        replace(drawn(100, 1300, "production", serve=SKEWS["offset"]), targets=None), drawn(0)
    )
    assert finding.severity is Severity.NOTE
    assert "without labels" in finding.summary


def related(seed, *, turned=1.0, twist=lambda t: t):
    """Labels follow `a`, which goes with `b` and `c`; production may see `a` twisted, or follow it
    in another way."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, 2000, 1))
    tables = [
        pd.DataFrame(z + 0.7 * rng.normal(size=(2000, 3)), columns=["a", "b", "c"]) for z in hidden
    ]
    labels = [
        rng.random(2000) < 1 / (1 + np.exp(-(slope * 1.5 * t["a"] - t["b"]).to_numpy(copy=True)))
        for t, slope in zip(tables, (1.0, turned), strict=True)
    ]
    pairs = zip((tables[0], twist(tables[1])), labels, strict=True)
    before, after = (
        Records(
            t,
            torch.from_numpy(y.astype(np.int64)),
            torch.from_numpy((1.5 * t["a"] - t["b"]).to_numpy(copy=True)),
        )
        for t, y in pairs
    )
    return after, before


@pytest.mark.parametrize(
    ("change", "labeled", "unlabeled"),
    [
        ({"twist": lambda t: t.assign(a=-t["a"])}, "train_serve_skew", "train_serve_skew"),
        (
            {"twist": lambda t: t.assign(a=t["a"].sample(frac=1.0, random_state=0).to_numpy())},
            "train_serve_skew",
            "train_serve_skew",
        ),
        ({"turned": -0.5}, "concept_drift", "none"),
        ({"twist": lambda t: t.assign(a=t["a"] + 1.0)}, "train_serve_skew", "unknown"),
        ({}, "none", "none"),
    ],
    ids=["sign", "rows of others", "meaning", "offset", "nothing"],
)
def test_a_column_that_looks_as_before_is_told_by_its_company_and_the_labels(
    change, labeled, unlabeled
):
    for seed in range(2):
        after, before = related(seed, **change)
        assert change_kinds(after, before).verdict == labeled
        assert change_kinds(replace(after, targets=None), before).verdict == unlabeled


def test_counts_that_spread_are_not_stuck_at_their_mode():
    rng = np.random.default_rng(0)
    before, after = (
        Records(pd.DataFrame({"n": np.floor(np.exp(1.5 + s * rng.normal(size=3000)))}))
        for s in (0.7, 1.5)
    )
    assert change_kinds(after, before).feature("n").kind == "covariate_shift"


def test_one_root_is_told_under_one_cause():
    reference = drawn(0, 2000)
    everything = (features_keep_their_distribution, confidence_keeps_its_distribution)
    for changes, cause in (
        ({"moved": 1.2}, Cause.COVARIATE_SHIFT),
        ({"prior": 0.15}, Cause.LABEL_SHIFT),
        ({"serve": SKEWS["unit"]}, Cause.TRAIN_SERVE_SKEW),
        ({"offset": 1.5}, Cause.THRESHOLD),
    ):
        given = {"production": drawn(100, 1800, "production", **changes), "validation": reference}
        alarms = [
            f
            for check in everything
            for f in check.run(given)
            if f.severity.level >= Severity.WARN.level
        ]
        assert {f.cause for f in alarms} == {cause}
    followed = features_keep_their_distribution(
        drawn(100, 1800, "production", prior=0.15), reference
    )
    assert {f.severity for f in followed} == {Severity.NOTE}
    assert "within the classes" in followed[0].summary


def test_each_check_names_its_kind_and_leaves_the_others():
    reference = drawn(0, 2000)
    checks = {
        "label_shift": classes_keep_their_shares,
        "concept_drift": labels_follow_the_score_as_before,
        "train_serve_skew": inputs_are_computed_as_before,
    }
    for change in ("none", "inputs", "classes", "meaning", "unit", "scores"):
        changes, expected = CHANGES[change]
        given = {"production": drawn(100, 1800, "production", **changes), "validation": reference}
        for kind, check in checks.items():
            findings = check.run(given)
            alarmed = any(f.severity.level >= Severity.WARN.level for f in findings)
            assert alarmed == (kind in expected), (change, kind, findings)
            assert all(f.severity is not Severity.ERRORED for f in findings)
            png(findings[0].evidence)


def test_an_estimated_class_share_comes_with_its_truth_inside():
    covered = 0
    for seed in range(20):
        reference = drawn(seed, 1000)
        found = class_shares(
            reference, replace(drawn(seed + 100, 1000, "production", prior=0.2), targets=None)
        )
        assert not found.observed
        covered += float(found.low[1]) < 0.2 < float(found.high[1])
        assert found.misfit[0] > 1e-4
    assert covered >= 16, "P(fewer than 16 of 20 at 95 %) is under 0.3 %"
    counted = class_shares(reference, drawn(100, 2000, "production", prior=0.2))
    assert counted.observed
    assert float(counted.after[1]) == pytest.approx(0.2)
    assert counted.weights.tolist() == pytest.approx((counted.after / counted.before).tolist())
    assert class_shares(reference, Records(torch.zeros(100, 1))) is None
    assert class_shares(reference.select(range(10)), reference) is None


def test_rare_classes_move_by_ratio():
    before, after = (
        Records(targets=(torch.arange(20_000) % every == 0).long()) for every in (100, 33)
    )
    (finding,) = classes_keep_their_shares(before, after)
    assert finding.severity is Severity.WARN
    assert finding.cause is Cause.LABEL_SHIFT


def test_the_relation_is_level_without_a_change_and_moves_with_one():
    found = [relation(seed, 0.0).p_value for seed in range(200)]
    assert sum(p < 0.05 for p in found) <= 20, "P(more than 20 of 200 at 5 %) is under 1 %"
    moved = relation(0, 1.0)
    assert moved.p_value < 1e-2
    assert 0.05 < moved.effect < 0.25
    assert moved.direction > 0
    assert int(moved.rows.sum()) == 1100
    png(moved)


def relation(seed, turned):
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(1100, generator=generator, dtype=torch.float64)
    chance = torch.cat([z[:600], z[600:] + turned]).sigmoid()
    y = (torch.rand(1100, generator=generator, dtype=torch.float64) < chance).long()
    return relation_change(z[:600], y[:600], z[600:], y[600:])


def test_many_classes_have_a_relation_too():
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(3000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    held = relation_change(z[:1500], y[:1500], z[1500:], y[1500:])
    assert held.p_value > 0.001
    assert held.event == "correct prediction"
    broken = relation_change(z[:1500], y[:1500], z[1500:], y[1500:].roll(1))
    assert broken.p_value < 1e-9


@pytest.mark.parametrize(
    ("change", "kind", "factor", "offset"),
    [
        (lambda x: 1000 * x, "unit", 1000.0, 0.0),
        (lambda x: x / 60, "unit", 1 / 60, 0.0),
        (lambda x: 5.5 * x, "scale", 5.5, 0.0),
        (lambda x: x + 30, "offset", 1.0, 30.0),
        (lambda x: x / 10.764, "unit", 1 / 10.764, 0.0),
        (lambda x: 1.8 * x + 32, "temperature", 1.8, 32.0),
        (lambda x: (x - 32) / 1.8, "temperature", 1 / 1.8, -160 / 9),
        (lambda x: x + 273.15, "temperature", 1.0, 273.15),
        (lambda x: 0.3 * x + 32, "affine", 0.3, 32.0),
        (lambda x: (x - x.mean()) / x.std(), "standardised", None, None),
    ],
)
def test_maps_are_found(change, kind, factor, offset):
    rng = np.random.default_rng(0)
    before, after = rng.gamma(4.0, 5.0, 3000) + 10, change(rng.gamma(4.0, 5.0, 2500) + 10)
    found = fit_feature_transform(before, after, scipy.stats.ks_2samp(before, after).statistic)
    assert found.kind == kind
    if factor is not None:
        assert found.factor == pytest.approx(factor, rel=0.05)
        assert found.offset == pytest.approx(offset, abs=2.0)


def test_another_shape_has_no_map():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=3000), rng.exponential(size=3000) * 3
    assert fit_feature_transform(before, after, 0.6) is None
    assert fit_feature_transform(np.ones(50), rng.normal(size=50), 0.9) is None


def test_weighted_distance_equals_the_literal_one():
    rng = np.random.default_rng(0)
    for seed in range(10):
        a, b = np.round(rng.normal(size=30), seed % 2), np.round(rng.normal(size=20), seed % 2)
        w = rng.random(30)
        left, rows = weighted_ks_distance(
            torch.from_numpy(a), torch.from_numpy(w), torch.from_numpy(b)
        )
        assert left == pytest.approx(literal.weighted_ks(a, w, b))
        assert rows == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert math.isnan(weighted_ks_distance(torch.zeros(3), torch.ones(3), torch.zeros(0))[0])


def test_the_answer_follows_the_values_of_the_records():
    """Records are values: a table that was edited in place has no answer from before."""
    production, reference = drawn(100, 400, "production"), drawn(0, 400)
    assert change_kinds(production, reference).verdict == "none"
    production.features["noise"] += 2.0
    edited = change_kinds(production, reference)
    fresh = change_kinds(replace(production, features=production.features.copy()), reference)
    assert [f.name for f in edited.features] == ["noise"]
    pd.testing.assert_frame_equal(edited.table(), fresh.table())


def test_columns_in_another_order_are_said_and_blamed_where_only_the_scores_changed():
    """A model that is fed by position reads other columns; one that is fed by name does not."""

    def fed(records, names):
        inputs = torch.from_numpy(records.features[names].to_numpy(copy=True))
        return replace(records, logits=inputs @ torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64))

    def side(seed, name):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame(rng.normal(size=(1500, 3)), columns=["a", "b", "c"])
        chance = 1 / (1 + np.exp(-(2 * table["a"] - table["b"]).to_numpy()))
        targets = torch.from_numpy((rng.random(1500) < chance).astype(np.int64))
        return Records(table, targets, name=name)

    order = ["b", "c", "a"]
    before, after = fed(side(0, "validation"), list("abc")), side(1, "production")
    moved = replace(after, features=after.features[order])
    by_position, by_name = fed(moved, order), fed(moved, list("abc"))
    for production, severity in ((by_position, Severity.WARN), (by_name, Severity.NOTE)):
        found = inputs_are_computed_as_before(production, before)
        (finding,) = [f for f in found if "another order" in f.summary]
        assert "(b, c, a instead of a, b, c)" in finding.summary
        assert (finding.severity, finding.cause) == (severity, Cause.TRAIN_SERVE_SKEW)
    same = inputs_are_computed_as_before(fed(after, list("abc")), before)
    assert not [f for f in same if "another order" in f.summary]


@pytest.mark.parametrize("form", ["float32", "[n, 1]", "bool"])
def test_label_checks_judge_labels_of_any_form(form):
    """Labels that are floats, a column or booleans are the same labels."""
    given = {"validation": drawn(0), "production": drawn(100, 1300, "production", prior=0.2)}
    forms = {
        "float32": torch.Tensor.float,
        "[n, 1]": lambda t: t[:, None],
        "bool": torch.Tensor.bool,
    }
    other = {name: replace(part, targets=forms[form](part.targets)) for name, part in given.items()}
    for check in (classes_keep_their_shares, labels_follow_the_score_as_before):
        expected = [finding.to_dict() for finding in check.run(given)]
        assert [finding.to_dict() for finding in check.run(other)] == expected
    assert classes_keep_their_shares.run(other)[0].severity is Severity.FAIL


@pytest.mark.parametrize("twist", ["hours", "sign", "exchanged", "nothing"])
def test_labels_tell_of_a_column_that_looks_as_before_wherever_it_stands(twist):
    """Labels follow `hour`, `a` and `b`; ten columns that say nothing stand before them."""
    rng = np.random.default_rng(5)
    sides = []
    for name in ("validation", "production"):
        table = pd.DataFrame(rng.normal(size=(4000, 12)), columns=[*map(str, range(10)), "a", "b"])
        table["hour"] = rng.integers(0, 24, size=4000)
        z = 2.5 * np.sin(table["hour"] * np.pi / 12) + 1.5 * table["a"] - 0.5 * table["b"]
        event = rng.random(4000) < 1 / (1 + np.exp(-z.to_numpy()))
        labels = torch.from_numpy(event.astype(np.int64))
        if name == "production":
            table = {
                "hours": lambda t: t.assign(hour=(t["hour"] + 7) % 24),
                "sign": lambda t: t.assign(a=-t["a"]),
                "exchanged": lambda t: t.assign(a=t["b"], b=t["a"]),
                "nothing": lambda t: t,
            }[twist](table)
        sides.append(Records(table, labels, name=name))
    kinds = change_kinds(sides[1], sides[0])
    found = {f.name: f.description for f in kinds.features}
    assert (
        found
        == {
            "hours": {
                "hour": "the labels follow it as if it were shifted by +7 hours, as in another "
                "time zone"
            },
            "sign": {"a": "the labels follow it with the sign reversed"},
            "exchanged": {
                "a": "the labels follow it as if it were exchanged with b",
                "b": "the labels follow it as if it were exchanged with a",
            },
            "nothing": {},
        }[twist]
    )


def slow(seed, n=3000, pull=0.003):
    """A sensor that fluctuates slowly, read to one digit, with a night on its floor."""
    rng = np.random.default_rng(seed)
    level, values = 0.0, np.empty(n)
    for i, step in enumerate(rng.normal(0, 1, n)):
        level += step - pull * level
        values[i] = level
    values = np.round(20 + values / 10, 2)
    return np.where(np.arange(n) % 1000 < 200, 5.0, np.maximum(values, 5.0))


def sensors(seed, **changed):
    table = pd.DataFrame({"time": np.arange(3000.0) + 3000 * (seed % 7), "a": slow(seed)})
    table["b"], table["y"] = slow(seed + 50), np.random.default_rng(seed).integers(0, 2, 3000)
    return Records.from_frame(table.assign(**changed), Schema(time="time", target="y"))


def test_a_stuck_sensor_and_another_thermometer_are_told_in_time():
    for seed in (1, 2, 3):
        before = sensors(seed)
        live = slow(seed + 90)
        half = np.where(np.arange(3000) < 1300, live, live[1300])
        (stuck,) = [
            f for f in change_kinds(sensors(seed + 1, a=half), before).features if f.name == "a"
        ]
        assert stuck.kind == "train_serve_skew"
        assert "stuck on" in stuck.description
        warm = change_kinds(sensors(seed + 1, a=live * 1.8 + 32), before).features
        (warm,) = [f for f in warm if f.name == "a"]
        assert warm.kind == "train_serve_skew"
        assert "Fahrenheit" in warm.description
        # Longer nights are no fault.
        nights = np.where(np.arange(3000) % 1000 < 500, 5.0, live)
        kinds = change_kinds(sensors(seed + 1, a=nights), before)
        assert all("stuck" not in f.description for f in kinds.features)

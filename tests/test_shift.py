"""`shift`: features, categories, missing values and confidence, on odd input and on real tables."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.checks.evidence import axes, png
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.errors import InputError
from gendebug_torch.shift import (
    category_shift,
    confidence_shift,
    ks_two_sample,
    missing_shift,
    prepare_reference,
)
from gendebug_torch.shift.checks.bimodality import predicted_classes_hold_one_population
from gendebug_torch.shift.checks.categories import categories_keep_their_shares
from gendebug_torch.shift.checks.confidence import confidence_keeps_its_distribution
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.missing import values_are_missing_as_often
from gendebug_torch.shift.columns.default_values import default_value, largest_atom
from gendebug_torch.shift.two_sample.categories import unseen_excess
from gendebug_torch.shift.two_sample.feature_shift import feature_shift
from gendebug_torch.stats.intervals import difference_interval, two_share_p_value
from tests.contract.plants_shift import CLEAN, PLANTS
from tests.reference import shift as literal
from tests.shift_samples import sample


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: ks_two_sample([1.0], torch.ones(3)), "reference"),
        (lambda: ks_two_sample(torch.ones(3), np.ones(3)), "live"),
        (lambda: ks_two_sample(torch.ones(3, 2), torch.ones(3, 3)), "live"),
        (lambda: ks_two_sample(torch.ones(3, 2, 2), torch.ones(3, 2)), "reference"),
        (lambda: ks_two_sample(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.complex64)), "live"),
        (lambda: ks_two_sample(torch.ones(3, 2), torch.ones(3, 2), names=["a"]), "names"),
        (lambda: prepare_reference(torch.ones(3, 2), names=["a"]), "names"),
        (lambda: ks_two_sample(torch.ones(3, 2), torch.ones(3, 2, device="meta")), "live"),
        (lambda: confidence_shift(torch.tensor([2.0]), torch.tensor([0.5])), "reference_probs"),
        (lambda: confidence_shift(torch.tensor([0.5]), torch.tensor([math.nan])), "live_probs"),
        (lambda: confidence_shift(torch.tensor([1]), torch.tensor([0.5])), "reference_probs"),
        (lambda: confidence_shift(torch.ones(4, 3) / 3, torch.ones(4)), "live_probs"),
        (lambda: confidence_shift(torch.ones(4, 3) / 3, torch.ones(4, 4) / 4), "live_probs"),
        (lambda: confidence_shift(torch.ones(4), torch.ones(4), threshold=1.5), "threshold"),
        (lambda: confidence_shift(torch.ones(4), torch.ones(4), half_width=0.0), "half_width"),
        (lambda: confidence_shift(torch.ones(4), torch.ones(4), bins=0), "bins"),
        (lambda: feature_shift(torch.ones(4), torch.ones(4), bins=0), "bins"),
        (lambda: missing_shift(torch.ones(4), torch.ones(4, 1)), "reference"),
        (lambda: missing_shift(torch.ones(4, 2), torch.ones(4, 1)), "live"),
        (lambda: missing_shift(torch.ones(4, 2), torch.ones(4, 2), names=["a"]), "names"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


def test_atoms_equal_the_literal_count():
    for seed in range(10):
        reference, live = (side[:, 0] for side in sample(seed, 60, 40, 1, ties=True))
        atom = largest_atom(reference, live)
        assert (atom.value, atom.reference_share, atom.live_share) == literal.largest_growth(
            reference.tolist(), live.tolist()
        )
        assert atom.reference_distinct == len(set(reference.tolist()))
    assert largest_atom(torch.tensor([math.nan]), torch.ones(3)) is None


def test_feature_shift_counts_every_value_and_adds():
    reference, live = (side[:, 0] for side in sample(1, 500, 300, missing=True, infinite=True))
    whole = feature_shift(reference, live, name="x")
    assert int(whole.reference.sum()) + whole.reference_missing == 500
    assert int(whole.live.sum()) + whole.live_missing == 300
    parts = feature_shift(reference[:100], live[:40], edges=whole.edges) + feature_shift(
        reference[100:], live[40:], edges=whole.edges
    )
    assert torch.equal(parts.reference, whole.reference)
    assert torch.equal(parts.live, whole.live)
    assert float(whole.ecdf[0][-1]) == pytest.approx(1.0)
    with pytest.raises(InputError, match="other"):
        whole + feature_shift(reference, live, bins=3)
    for odd in (
        torch.zeros(0),
        torch.full((3,), 7.0),
        torch.full((3,), math.inf),
        torch.full((3,), math.nan),
    ):
        png(feature_shift(odd, odd))


def test_confidence_equals_direct_counts_and_adds():
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.beta(1, 6, 4000)), torch.from_numpy(rng.beta(2, 5, 3000))
    shift = confidence_shift(a, b, threshold=0.3)
    exact = scipy.stats.ks_2samp(a.numpy(), b.numpy(), method="asymp")
    assert exact.statistic - 2e-3 <= shift.statistic <= exact.statistic
    assert shift.p_value >= exact.pvalue
    assert shift.rates().tolist() == [float((p >= 0.3).double().mean()) for p in (a, b)]
    assert shift.rates("near").tolist() == [
        float(((p - 0.3).abs() < 0.05).double().mean()) for p in (a, b)
    ]
    gap, low, high = shift.mean_difference()
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert gap == pytest.approx(float(b.mean() - a.mean()), abs=1e-12)
    assert (low, high) == pytest.approx((welch.low, welch.high), abs=1e-5)
    parts = confidence_shift(a[:100], b[:10], threshold=0.3) + confidence_shift(
        a[100:], b[10:], threshold=0.3
    )
    assert torch.equal(parts.counts, shift.counts)
    assert torch.allclose(parts.mean, shift.mean, atol=1e-15)
    assert parts.statistic == shift.statistic
    with pytest.raises(InputError, match="threshold"):
        shift + confidence_shift(a, b)
    with pytest.raises(InputError, match="what"):
        shift.rates("sure")


def test_confidence_of_classes_and_saturated_probabilities():
    logits = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    two, one = logits.softmax(1), (logits[:, 1] - logits[:, 0]).sigmoid()
    assert torch.allclose(confidence_shift(two, two).mean, confidence_shift(one, one).mean)
    many = torch.randn(500, 5).softmax(1)
    assert confidence_shift(many, many).quantity == "top confidence"
    sure = torch.full((100,), 1 - 1e-5, dtype=torch.float64)
    assert confidence_shift(sure, 1 - (1 - sure) / 100).statistic == 1.0
    ends = confidence_shift(torch.tensor([0.0, 1.0]), torch.tensor([1.0]))
    assert ends.n.tolist() == [2, 1]
    assert ends.statistic == 0.5


def test_empty_confidence():
    shift = confidence_shift(torch.zeros(0), torch.zeros(0))
    assert math.isnan(shift.statistic)
    assert math.isnan(shift.p_value)
    assert len(shift.table()) == 4
    png(shift)


def test_shares():
    x, n = torch.tensor([3, 0, 400, 0]), torch.tensor([100, 50, 1000, 0])
    y, m = torch.tensor([12, 0, 300, 3]), torch.tensor([90, 40, 1000, 10])
    p = two_share_p_value(x, n, y, m)
    assert p[1:3].tolist() == pytest.approx(
        [1.0, scipy.stats.chi2_contingency([[400, 600], [300, 700]], correction=False).pvalue]
    )
    assert p[3].isnan()
    rare = two_share_p_value(
        torch.tensor([0]), torch.tensor([1000]), torch.tensor([3]), torch.tensor([100])
    )
    assert float(rare) == pytest.approx(scipy.stats.fisher_exact([[0, 1000], [3, 97]]).pvalue)
    # Newcombe (1998), table II, example (a): 56/70 against 48/80 gives 0.0524 to 0.3339 by method
    # 10.
    low, high = difference_interval(
        torch.tensor(48), torch.tensor(80), torch.tensor(56), torch.tensor(70)
    )
    assert (float(low), float(high)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_missing_shift():
    before = torch.tensor([[1.0, math.nan], [math.nan, 2.0]] * 50)
    after = torch.tensor([[1.0, math.nan], [1.0, math.nan]] * 40)
    test = missing_shift(before, after, names=["a", "b"])
    assert test.difference.tolist() == [-0.5, 0.5]
    assert (test.adjusted < 1e-9).all()
    assert float(test.effect[1]) == pytest.approx(math.pi / 2)
    parts = missing_shift(before[:30], after[:7], names=["a", "b"]) + missing_shift(
        before[30:], after[7:], names=["a", "b"]
    )
    assert torch.equal(parts.difference, test.difference)
    assert torch.equal(missing_shift(before.isnan(), after.isnan()).difference, test.difference)
    with pytest.raises(InputError, match="other"):
        test + missing_shift(before, after)


def test_category_shift():
    rng = np.random.default_rng(0)
    a, b = rng.choice(list("xyz"), 300), rng.choice(list("xyw"), 200)
    test = category_shift(a, b)
    assert test.distance == pytest.approx(literal.total_variation(a.tolist(), b.tolist()))
    table = torch.stack([test.reference, test.live]).numpy()
    expected = scipy.stats.chi2_contingency(table, correction=False)
    assert test.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert test.unseen[0] == int((b == "w").sum())
    parts = category_shift(a[:50], b[:20]) + category_shift(a[50:], b[20:])
    assert parts.levels == test.levels
    assert torch.equal(parts.live, test.live)
    assert category_shift(["x"] * 50, ["y"] * 50).cramers_v == pytest.approx(1.0)
    assert category_shift(["x"], ["x"]).p_value == 1.0
    assert math.isnan(category_shift([], ["x"]).p_value)
    assert category_shift([None, np.nan], []).levels == ()


def test_levels_agree_across_types():
    assert category_shift([1, 2], torch.tensor([2.0, 1.0])).levels == ("1", "2")
    assert category_shift([True, False], [1.0, 0.0]).levels == ("0", "1")
    assert category_shift(pd.Series(["a", None]), pd.Categorical(["a"])).levels == ("a",)


def test_identifiers_do_not_count_as_unseen():
    rng = np.random.default_rng(0)
    many = category_shift(
        rng.integers(0, 100_000, 2000).astype(str), rng.integers(0, 100_000, 1000).astype(str)
    )
    assert many.unseen[1] > 0.9
    assert unseen_excess(many) < 0.0
    assert many.effect < 0.1
    assert many.p_value > 0.01


@pytest.mark.parametrize("make", list(PLANTS))
def test_pictures_are_labeled(make):
    check = {c.name: c for c in all_checks()}[make]
    for finding in check.run(PLANTS[make](0)):
        ax = finding.evidence.plot(axes())
        assert ax.get_title()
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_legend() is not None
        assert len(finding.evidence.table())


CHECKS = (
    features_keep_their_distribution,
    values_are_missing_as_often,
    categories_keep_their_shares,
    confidence_keeps_its_distribution,
    predicted_classes_hold_one_population,
)


def severities(findings):
    return [finding.severity for finding in findings]


def test_a_default_value_is_named():
    first, summary = features_keep_their_distribution.run(PLANTS["shift.ks"](1))
    assert first.subject == "percentile"
    assert first.cause is Cause.TRAIN_SERVE_SKEW
    assert first.numbers["atom_value"] == 0.5
    assert first.numbers["atom_share_production"] == pytest.approx(0.4, abs=0.05)
    assert "constant at 0.5" in first.remedy
    assert summary.severity is Severity.NOTE


def test_a_value_that_grows_with_a_drift_is_not_called_a_default():
    before = torch.from_numpy(np.random.default_rng(0).normal(size=4000))
    counts = [(30 + 12 * before).round().clamp(min=1), (12 + 12 * before).round().clamp(min=1)]
    assert largest_atom(*counts).growth > 0.15
    assert default_value(*counts) is None


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_counter_beyond_its_range_is_named_where_scores_shifted_with_it(weight):
    rng = np.random.default_rng(0)
    before, after = (
        pd.DataFrame({"month": rng.integers(*months, 3000), "load": rng.normal(size=3000)})
        for months in ((1, 6), (7, 13))
    )
    sides = [
        Records(side, logits=torch.tensor(weight * side["month"] + side["load"]))
        for side in (before, after)
    ]
    first = features_keep_their_distribution(sides[1], sides[0])[0]
    assert first.subject == "month"
    assert first.severity is (Severity.FAIL if weight else Severity.NOTE)
    assert ("extrapolates" in first.summary) == bool(weight)


def test_a_moved_code_is_not_called_a_default():
    rng = np.random.default_rng(0)
    before, after = (
        Records(pd.DataFrame({"flag": (rng.random(2000) < p).astype(float)})) for p in (0.1, 0.5)
    )
    first, _ = features_keep_their_distribution(after, before)
    assert first.severity is Severity.FAIL
    assert "atom_value" not in first.numbers


def test_tiny_effects_at_large_n_are_no_alarm():
    rng = np.random.default_rng(0)
    before, after = (
        Records(torch.from_numpy(rng.normal(mu, 1.0, (50_000, 1)))) for mu in (0.0, 0.05)
    )
    (finding,) = features_keep_their_distribution(after, before)
    assert finding.severity is Severity.OK
    assert finding.numbers["significant"] == 1
    assert (
        features_keep_their_distribution(after, before, min_effect=0.01)[0].severity
        is Severity.WARN
    )


def test_train_stands_in_for_validation():
    given = CLEAN["shift.ks"](0)
    (finding,) = features_keep_their_distribution(
        given["production"], None, replace(given["validation"], name="train")
    )
    assert finding.severity is Severity.OK
    for check in CHECKS[:3]:
        assert severities(check.run({"production": given["production"]})) == [Severity.SKIPPED]


def test_absent_and_textual_columns():
    given = CLEAN["shift.ks"](0)
    features = given["production"].features
    changed = features.drop(columns=["hour", "channel"]).assign(
        amount=features["amount"].map("{:.2f} EUR".format)
    )
    given["production"] = Records(changed[changed.columns[::-1]], name="production")
    lost = [f for f in features_keep_their_distribution.run(given) if f.severity is Severity.FAIL]
    assert [(f.subject, f.cause) for f in lost] == [
        ("hour", Cause.TRAIN_SERVE_SKEW),
        ("amount", Cause.TRAIN_SERVE_SKEW),
    ]
    assert [
        f.subject for f in categories_keep_their_shares.run(given) if f.severity is Severity.FAIL
    ] == ["channel"]
    assert severities(values_are_missing_as_often.run(given)) == [Severity.OK]


def test_precision_of_one_file_is_no_shift():
    values = np.round(np.random.default_rng(0).random(3000), 1)
    before, after = (
        Records(pd.DataFrame({"x": values})),
        Records(pd.DataFrame({"x": values.astype("float32")})),
    )
    (finding,) = features_keep_their_distribution(after, before)
    assert finding.numbers["statistic"] == 0.0


def test_features_of_another_kind_are_refused():
    given = CLEAN["shift.ks"](0)
    for features in (torch.zeros(5, 3), given["production"].features):
        other = Records(torch.zeros(5, 4))
        with pytest.raises(InputError, match=r"production\.features"):
            features_keep_their_distribution(Records(features), other)


def test_codes_of_the_schema_are_categories():
    rng = np.random.default_rng(0)
    schema = Schema(categorical=("code",))
    before, after = (
        Records(pd.DataFrame({"code": rng.integers(0, k, 1000)}), schema=schema) for k in (3, 4)
    )
    assert [f.subject for f in categories_keep_their_shares(after, before)] == ["code"]
    assert severities(features_keep_their_distribution(after, before)) == [Severity.NOTE]


def test_row_numbers_are_no_shift():
    before, after = (
        Records(pd.DataFrame({"id": range(start, start + 500), "x": 1.0})) for start in (0, 500)
    )
    first, _ = features_keep_their_distribution(after, before)
    assert first.severity is Severity.NOTE
    assert "identifies rows" in first.summary
    ids = Records(pd.DataFrame({"id": np.arange(300) + 2**60, "x": 1.0}))
    told, summary = features_keep_their_distribution(ids, ids)
    assert (told.severity, summary.severity) == (Severity.NOTE, Severity.OK)
    assert "hashes rather than quantities" in told.summary


def test_one_row_is_a_note():
    one = Records(torch.zeros(1, 3))
    assert severities(features_keep_their_distribution(one, one)) == [Severity.NOTE]


def test_a_rare_positive_rate_that_doubles_is_seen():
    rng = np.random.default_rng(0)
    before, after = (
        Records(logits=torch.from_numpy(np.where(rng.random(50_000) < p, 3.0, -3.0)))
        for p in (0.01, 0.03)
    )
    (finding,) = confidence_keeps_its_distribution(before, after)
    assert finding.severity is Severity.WARN
    assert finding.numbers["positive_rate_production"] > 0.025


def occupancy(shared_data, name):
    frame = pd.read_parquet(shared_data / "occupancy" / f"{name}.parquet")
    return Records(
        frame.select_dtypes("number").drop(columns=["Occupancy"], errors="ignore"), name=name
    )


def test_occupancy_shifts_like_scipy_says(shared_data):
    before, after = (occupancy(shared_data, name) for name in ("datatraining", "datatest2"))
    findings = features_keep_their_distribution(after, None, before)
    told = {f.subject: f for f in findings if f.severity.level >= Severity.WARN.level}
    assert told
    for name, finding in told.items():
        expected = scipy.stats.ks_2samp(before.features[name], after.features[name], method="asymp")
        assert finding.numbers["statistic"] == expected.statistic
        assert finding.numbers["p_value"] == pytest.approx(expected.pvalue, abs=1e-6)


def test_occupancy_split_at_random_is_quiet(shared_data):
    whole = occupancy(shared_data, "datatraining")
    for seed in range(5):
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        (finding,) = features_keep_their_distribution(
            whole.select(order[:4000]), whole.select(order[4000:])
        )
        assert finding.severity is Severity.OK

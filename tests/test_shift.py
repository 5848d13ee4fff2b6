"""`shift`: against scipy, against literal versions, on odd input, on real tables, over seeds."""

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
from gendebug_torch.shift.columns import prepared as prepared_module
from gendebug_torch.shift.columns.default_values import largest_atom
from gendebug_torch.shift.two_sample import ks as ks_module
from gendebug_torch.shift.two_sample import ks_p_values as p_values_module
from gendebug_torch.shift.two_sample.categories import unseen_excess
from gendebug_torch.shift.two_sample.feature_shift import feature_shift
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value
from gendebug_torch.stats.intervals import difference_interval, two_share_p_value
from tests.contract.plants_shift import CLEAN, PLANTS
from tests.reference import shift as literal


def sample(seed, n=80, m=50, d=6, *, ties=False, missing=False, infinite=False):
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.3]
    if ties:
        sides = [side.round() for side in sides]
    for side in sides:
        if missing:
            side[rng.random(side.shape) < 0.2] = np.nan
        if infinite:
            side[rng.random(side.shape) < 0.1] = np.inf
            side[rng.random(side.shape) < 0.1] = -np.inf
    return [torch.from_numpy(side) for side in sides]


KINDS = [{}, {"ties": True}, {"missing": True}, {"ties": True, "missing": True, "infinite": True}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("sizes", [(80, 50), (50, 80), (7, 200), (2, 3)])
def test_ks_equals_scipy(kind, sizes):
    for seed in range(5):
        reference, live = sample(seed, *sizes, **kind)
        test = ks_two_sample(reference, live)
        for column in range(reference.shape[1]):
            a, b = (side[:, column][~side[:, column].isnan()].numpy() for side in (reference, live))
            if not len(a) or not len(b):
                assert test.statistic[column].isnan()
                continue
            exact = scipy.stats.ks_2samp(a, b, method="exact")
            assert float(test.p_value[column]) == pytest.approx(exact.pvalue, rel=1e-9)
            with np.errstate(all="ignore"):
                expected = scipy.stats.ks_2samp(a, b, method="asymp")
            assert float(test.statistic[column]) == expected.statistic
            assert float(test.direction[column]) == expected.statistic_sign
            x = float(test.location[column])
            assert (a <= x).mean() - (b <= x).mean() == pytest.approx(
                float(test.signed[column]), abs=1e-15
            )
            assert (int(test.n[column]), int(test.m[column])) == (len(a), len(b))


@pytest.mark.parametrize(
    "sizes", [(1, 1), (1, 5), (7, 3), (40, 60), (100, 100), (200, 200), (1, 399)]
)
def test_few_rows_have_exact_p_values(sizes):
    reference, live = sample(1, *sizes, 4)
    test = ks_two_sample(reference, live)
    for column in range(4):
        expected = scipy.stats.ks_2samp(
            reference[:, column].numpy(), live[:, column].numpy(), method="exact"
        )
        assert float(test.p_value[column]) == pytest.approx(expected.pvalue, rel=1e-9)
    extreme = ks_two_sample(reference[:, 0], live[:, 0] + 100.0)
    assert float(extreme.p_value) == pytest.approx(2 / math.comb(sum(sizes), sizes[0]), rel=1e-9)


@pytest.mark.parametrize("sizes", [(300, 200), (5000, 3000), (20_000, 700)])
def test_many_rows_have_asymptotic_p_values(sizes):
    reference, live = sample(1, *sizes, 4)
    test = ks_two_sample(reference, live - 0.27)
    for column in range(4):
        expected = scipy.stats.ks_2samp(
            reference[:, column].numpy(), live[:, column].numpy() - 0.27, method="asymp"
        )
        assert float(test.p_value[column]) == pytest.approx(expected.pvalue, abs=1e-12)


def test_the_tail_of_many_rows_equals_scipy_and_takes_few_terms():
    for size in (141, 700, 9091, 60_000):
        distance = np.sqrt(np.array([2.3, 4.0, 12.0, 60.0, 200.0]) / size)
        distance = distance[distance < 0.9]
        expected = scipy.stats.kstwo.sf(distance, size)
        # Of two samples of 2 N rows each, whose harmonic size is N.
        rows = torch.full((len(distance),), 2 * size)
        found = ks_p_value(torch.from_numpy(distance), rows, rows).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ties_are_counted_alike_on_devices(kind):
    for seed, sizes in enumerate([(300, 200), (5, 90), (2, 3), (4, 0)]):
        reference, live = sample(seed, *sizes, **kind)
        live[:, 0], reference[:, 0] = live[:, 0].round(), reference[:, 0].round()
        (a, n), (b, m) = map(prepared_module.sorted_columns, (reference, live))
        on_host, on_device = (
            f(a, n, b, m)
            for f in (p_values_module.tie_counts, p_values_module._tie_counts_on_device)
        )
        assert torch.equal(on_host, on_device)


def test_ties_have_the_exact_conditional_p_value():
    rng = np.random.default_rng(0)
    for seed in range(6):
        a, b = rng.integers(0, 3, 6).astype(float), rng.integers(0, 3 + seed % 2, 5).astype(float)
        test = ks_two_sample(torch.from_numpy(a), torch.from_numpy(b))
        assert float(test.conditional_p_value) == pytest.approx(
            literal.tied_ks(a.tolist(), b.tolist())
        )


def test_ties_of_many_rows_agree_with_permutations_and_keep_their_level():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 500), np.minimum(rng.integers(0, 4, 400) + (rng.random(400) < 0.1), 4)
    pooled = torch.from_numpy(np.concatenate([a, b]).astype(float))
    test = ks_two_sample(pooled[:500], pooled[500:])
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack(
        [pooled[torch.randperm(900, generator=generator)] for _ in range(3000)], 1
    )
    null = ks_two_sample(shuffled[:500], shuffled[500:]).statistic
    share = float((null >= test.statistic - 1e-12).double().mean())
    assert float(test.conditional_p_value) == pytest.approx(
        share, abs=4 * (share * (1 - share) / 3000) ** 0.5
    )
    assert float(test.conditional_p_value) < float(test.p_value)
    binary = [(torch.rand(700, 300, generator=generator) < 0.3).double() for _ in range(2)]
    level = float((ks_two_sample(*binary).conditional_p_value < 0.05).double().mean())
    assert 0.01 < level < 0.09


def test_one_far_row_against_many_is_possible_by_chance():
    assert float(ks_two_sample(torch.rand(1500), torch.tensor([2.0])).p_value) == pytest.approx(
        2 / 1501
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ks_equals_the_literal_definition(kind):
    reference, live = sample(3, 40, 30, **kind)
    expected = [
        literal.ks_distance(a, b)
        for a, b in zip(reference.T.tolist(), live.T.tolist(), strict=True)
    ]
    assert ks_two_sample(reference, live).statistic.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_path_for_devices_says_the_same(kind):
    reference, live = sample(4, 300, 200, **kind)
    (a, n), (b, m) = prepared_module.sorted_columns(reference), prepared_module.sorted_columns(live)
    on_host, on_device = (
        f(a, n, b, m) for f in (ks_module._distances, ks_module._distances_on_device)
    )
    assert torch.equal(on_host.nan_to_num(-9.0), on_device.nan_to_num(-9.0))


def same(one, other):
    for name in ("statistic", "location", "direction", "n", "m", "p_value"):
        a, b = getattr(one, name).double(), getattr(other, name).double()
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(0.0, 1e300, -1e300), b.nan_to_num(0.0, 1e300, -1e300)), name


def test_ks_properties(monkeypatch):
    reference, live = sample(5, 400, 300, ties=True, missing=True)
    whole = ks_two_sample(reference, live)
    same(whole, ks_two_sample(prepare_reference(reference), live))
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    same(whole, ks_two_sample(reference[shuffled], live.flip(0)))
    same(whole, ks_two_sample(reference.float(), live.float()))
    same(whole, ks_two_sample(prepare_reference(reference), live.float()))
    monkeypatch.setattr(prepared_module, "BLOCK_ELEMENTS", 1)
    same(whole, ks_two_sample(reference, live))
    same(whole, ks_two_sample(prepare_reference(reference), live))
    mirrored = ks_two_sample(live, reference)
    assert torch.equal(mirrored.statistic, whole.statistic)
    assert torch.equal(mirrored.p_value, whole.p_value)
    monotone = ks_two_sample(2 * reference + 1, 2 * live + 1)
    assert torch.equal(monotone.statistic, whole.statistic)


def test_precision_is_shared():
    values = torch.rand(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(ks_two_sample(values, values.float()).statistic) == 0.0
    assert float(ks_two_sample(values.float(), values).statistic) == 0.0
    assert float(ks_two_sample(values.half(), values.half().float()).statistic) == 0.0


def test_inputs_are_unchanged_and_kinds_of_numbers_are_taken():
    reference, live = sample(6)
    kept = reference.clone(), live.clone()
    ks_two_sample(reference, live)
    assert torch.equal(reference, kept[0])
    assert torch.equal(live, kept[1])
    single = reference[:, 0].clone()
    ks_two_sample(single, single)
    prepare_reference(single)
    assert torch.equal(single, reference[:, 0])
    assert float(ks_two_sample(torch.arange(10), torch.arange(5, 15)).statistic) == 0.5
    assert (
        float(ks_two_sample(torch.tensor([True, False]), torch.tensor([True, True])).statistic)
        == 0.5
    )
    assert (
        float(ks_two_sample(torch.arange(10.0, requires_grad=True), torch.arange(10.0)).statistic)
        == 0.0
    )


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0), (1, 1), (1, 5)])
def test_tiny_samples(n, m):
    test = ks_two_sample(torch.zeros(n, 2), torch.ones(m, 2))
    assert test.statistic.isnan().all() if 0 in (n, m) else (test.statistic == 1.0).all()
    assert test.p_value.isnan().all() if 0 in (n, m) else (test.p_value > 0.1).all()
    assert len(test.table()) == 2
    png(test)


def test_no_columns():
    test = ks_two_sample(torch.zeros(5, 0), torch.zeros(4, 0))
    assert test.p_value.shape == test.adjusted.shape == (0,)
    png(test)


def test_constant_columns():
    test = ks_two_sample(torch.full((20, 2), 3.0), torch.tensor([[3.0, 4.0]] * 10))
    assert test.statistic.tolist() == [0.0, 1.0]
    assert test.signed.tolist() == [0.0, 1.0]
    assert float(test.p_value[0]) == 1.0


def test_interval_covers_the_true_distance():
    truth = 2 * scipy.stats.norm.cdf(0.25) - 1
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        test = ks_two_sample(
            torch.from_numpy(rng.normal(size=300)), torch.from_numpy(rng.normal(0.5, 1.0, 200))
        )
        low, high = test.interval()
        covered += float(low) <= truth <= float(high)
    assert covered >= 95


def test_false_alarms_and_power():
    alarms = found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        reference, live = rng.normal(size=(1000, 50)), rng.normal(size=(1000, 50))
        prepared = prepare_reference(torch.from_numpy(reference))
        alarms += bool((ks_two_sample(prepared, torch.from_numpy(live)).adjusted < 0.05).any())
        live[:, 7] += 0.5
        significant = ks_two_sample(prepared, torch.from_numpy(live)).adjusted < 0.05
        found += bool(significant[7])
    assert found == 40
    assert alarms <= 6, "P(more than 6 of 40 at 5 %) is under 1 %"


def test_detectable_is_where_significance_begins():
    reference, live = sample(0, 5000, 4000, 3)
    test = ks_two_sample(reference, live)
    edge = test.detectable(alpha=0.01)
    assert (replace(test, statistic=edge * 1.03).adjusted < 0.01).all()
    assert (replace(test, statistic=edge * 0.97).adjusted > 0.01).all()


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
        amount=features["amount"].astype(str)
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


@pytest.mark.slow
def test_any_alarm_over_200_features_is_rare_and_a_tenth_of_a_deviation_is_found():
    """Ten columns with heavy tails and ten discrete ones among 200; 5000 rows a side."""
    alarms = found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sides = []
        for _ in range(2):
            rows = rng.normal(size=(5000, 200))
            rows[:, :10], rows[:, 10:20] = (
                rng.standard_t(2, size=(5000, 10)),
                rng.integers(0, 5, size=(5000, 10)),
            )
            sides.append(torch.from_numpy(rows))
        prepared = prepare_reference(sides[0])
        alarms += bool((ks_two_sample(prepared, sides[1]).adjusted < 0.05).any())
        sides[1][:, 50] += 0.2
        found += bool(ks_two_sample(prepared, sides[1]).adjusted[50] < 0.05)
    assert alarms <= 8, "P(more than 8 of 60 at 5 %) is under 0.4 %"
    assert found == 60


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


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=gpu, id=str(kind)) for kind in KINDS])
def test_cuda_says_the_same_without_waiting(kind):
    reference, live = sample(9, 5000, 3000, 20, **kind)
    expected = ks_two_sample(reference, live)
    moved = reference.cuda(), live.cuda()
    ks_two_sample(*moved)
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole = ks_two_sample(*moved)
        prepared = ks_two_sample(prepare_reference(moved[0]), moved[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for test in (whole, prepared):
        assert torch.equal(
            test.statistic.cpu().nan_to_num(-9.0), expected.statistic.nan_to_num(-9.0)
        )
        assert torch.equal(test.location.cpu().nan_to_num(-9.0), expected.location.nan_to_num(-9.0))
        for name in ("p_value", "conditional_p_value", "adjusted"):
            found, known = (getattr(side, name).cpu() for side in (test, expected))
            assert torch.allclose(found, known, atol=1e-12, equal_nan=True), name

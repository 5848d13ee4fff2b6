"""Kolmogorov-Smirnov tests: against scipy, against literal versions, on odd input, over seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from gendebug_torch.checks.evidence import png
from gendebug_torch.shift import (
    ks_two_sample,
    prepare_reference,
)
from gendebug_torch.shift.columns import prepared as prepared_module
from gendebug_torch.shift.two_sample import ks as ks_module
from gendebug_torch.shift.two_sample import ks_p_values as p_values_module
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value
from tests.reference import shift as literal
from tests.shift_samples import KINDS, sample


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


def test_small_distances_of_many_rows_equal_scipy_and_the_exact_probability_nearly():
    effect = np.array([0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.45])
    for size, exact in ((141, 3e-6), (700, 2e-8), (60_000, 1e-12)):
        distance = effect / np.sqrt(size)
        expected = scipy.stats.kstwo.sf(distance, size)
        rows = torch.full((len(distance),), 2 * size)
        found = ks_p_value(torch.from_numpy(distance), rows, rows).numpy()
        np.testing.assert_allclose(found, expected, atol=exact)
        # From here on scipy evaluates the same expansion.
        np.testing.assert_allclose(found[4:], expected[4:], rtol=1e-12)


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


@pytest.mark.slow
def test_any_alarm_over_200_features_is_rare_and_a_tenth_of_a_deviation_is_found():
    """Ten columns with heavy tails and ten discrete ones among 200; 5000 rows a side.

    Of one column there is a copy that moved: Holm corrects the others for what is left of it.
    """
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
            sides.append(torch.from_numpy(np.c_[rows, rows[:, 50]]))
        sides[1][:, 200] += 0.2
        significant = ks_two_sample(prepare_reference(sides[0]), sides[1]).adjusted < 0.05
        alarms += bool(significant[:200].any())
        found += bool(significant[200])
    assert alarms <= 8, "P(more than 8 of 60 at 5 %) is under 0.4 %"
    assert found == 60


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
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


def test_effective_rows_count_as_whole_ones():
    distance = torch.tensor([0.16, 0.6, 0.3, 0.1])
    n, m = torch.tensor([2.9, 3.4, 40.7, 900.5]), torch.tensor([2.8, 3.9, 50.2, 800.9])
    found, whole = ks_p_value(distance, n, m), ks_p_value(distance, n.floor(), m.floor())
    assert torch.equal(found, whole)
    assert found[0] == 1.0
    assert found[1] > 0.5

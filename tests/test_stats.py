import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from gendebug_torch.stats import intervals, multiple_testing
from gendebug_torch.stats.auc import rank_auc


@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.8, 0.995])
def test_normal_quantile(probability):
    assert intervals.normal_quantile(probability) == pytest.approx(
        scipy_stats.norm.ppf(probability), rel=1e-9, abs=1e-12
    )


def test_wilson_interval_equals_scipy():
    successes, trials = torch.tensor([0, 3, 10, 50]), torch.tensor([10, 10, 10, 1000])
    low, high = intervals.wilson_interval(successes, trials)
    for k, n, a, b in zip(
        successes.tolist(), trials.tolist(), low.tolist(), high.tolist(), strict=True
    ):
        expected = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
        assert (a, b) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_interval_without_trials_says_nothing():
    low, high = intervals.wilson_interval(torch.tensor([0]), torch.tensor([0]))
    assert (float(low), float(high)) == (0.0, 1.0)


def test_adjusted_p_values():
    p = torch.tensor([0.01, 0.04, 0.03, math.nan, 0.005])
    assert multiple_testing.holm_adjusted(p)[[0, 1, 2, 4]].tolist() == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert multiple_testing.holm_adjusted(p)[3].isnan()
    asked = p[~p.isnan()].double().numpy()
    expected = scipy_stats.false_discovery_control(asked)
    assert np.allclose(
        multiple_testing.benjamini_hochberg_adjusted(p)[[0, 1, 2, 4]].numpy(), expected
    )


def test_adjusted_p_values_of_nothing():
    assert multiple_testing.holm_adjusted(torch.tensor([math.nan])).isnan().all()
    assert multiple_testing.benjamini_hochberg_adjusted(torch.empty(0)).shape == (0,)


def test_holm_keeps_the_family_wise_error():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2000, 20, generator=generator)
    alarms = (
        torch.stack([multiple_testing.holm_adjusted(row).min() < 0.05 for row in p]).double().mean()
    )
    assert float(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_bootstrap_interval_of_a_mean_covers():
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for seed in range(100):
        x = torch.randn(200, generator=generator, dtype=torch.float64)
        replicates = intervals.bootstrap_replicates(
            lambda w, x=x: w @ x / w.sum(1), 200, replicates=300, seed=seed
        )
        low, high = intervals.percentile_interval(replicates)
        hits += int(low <= 0 <= high)
    assert hits >= 87


def test_bootstrap_leaves_the_global_random_state():
    before = torch.get_rng_state()
    intervals.bootstrap_replicates(lambda w: w.sum(1), 10)
    assert torch.equal(before, torch.get_rng_state())


def literal_auc(scores, positive):
    """Every pair compared; the variance from the placements of DeLong et al. (1988), equation by
    equation."""
    high, low = scores[positive], scores[~positive]
    wins = (high[:, None] > low[None]).astype(float) + 0.5 * (high[:, None] == low[None])
    return wins.mean(), wins.mean(1).var(ddof=1) / len(high) + wins.mean(0).var(ddof=1) / len(low)


@pytest.mark.parametrize("levels", [4, 1000])
def test_rank_auc_equals_the_literal_one_for_many_scores(levels):
    rng = np.random.default_rng(levels)
    positive = rng.random(300) < 0.3
    scores = rng.integers(0, levels, (300, 3)) + positive[:, None] * np.array(
        [0, levels // 4, levels]
    )
    found = rank_auc(torch.from_numpy(scores).double(), torch.from_numpy(positive))
    for column in range(3):
        auc, variance = literal_auc(scores[:, column], positive)
        assert float(found.auc[column]) == pytest.approx(auc, abs=1e-12)
        assert float(found.variance[column]) == pytest.approx(variance, rel=1e-9, abs=1e-15)


def test_the_interval_of_rank_auc_covers():
    rng = np.random.default_rng(0)
    truth = scipy_stats.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for _ in range(300):
        positive = np.arange(120) < 40
        found = rank_auc(
            torch.from_numpy(rng.normal(size=120) + positive), torch.from_numpy(positive)
        )
        low, high = found.interval()
        covered += float(low) <= truth <= float(high)
    assert 0.91 <= covered / 300 <= 0.985


def test_rank_auc_of_one_class_is_unknown():
    assert rank_auc(torch.rand(5), torch.zeros(5, dtype=torch.bool)).auc.isnan().all()

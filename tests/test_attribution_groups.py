"""Seven pairs of groups with a known change: nothing, inputs, their correlation, the network, its
outputs."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from gendebug_torch import attribute
from gendebug_torch.attribution import compare_attributions
from gendebug_torch.attribution.compare.distributions import (
    area_under_curve,
    classifier_auc,
    ks_distances,
)
from gendebug_torch.errors import InputError
from tests.attribution_cases import network, rows
from tests.reference import attribution as literal
from tests.sequential import assert_rate

D = 20


def draw(n, seed, mean=0.0, correlation=0.0):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    x[:, 1] = correlation * x[:, 0] + (1 - correlation**2) ** 0.5 * x[:, 1]
    x[:, 2] += mean
    return x


def label(x, seed):
    score = 1.5 * x[:, 0] + x[:, 1] - x[:, 2] + x[:, 0] * x[:, 1] + 0.7 * x[:, 3] ** 2 - 0.7
    return (
        torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) < score.sigmoid()
    ).float()


@functools.cache
def trained(seed, leak=False):
    x = draw(2000, 11)
    y = label(x, 12)
    if leak:
        x[:, 19] = 2 * y - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3, weight_decay=1e-3, fused=True)
        for _ in range(6):
            for part in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(
                    model(x[part])[:, 0], y[part]
                ).backward()
                optimizer.step()
    return model


@pytest.fixture(scope="module")
def model():
    return trained(0)


def explained(model, x):
    return attribute(model, x, steps=16, trust=False)


@pytest.fixture(scope="module")
def seeds():
    """Rows with a column that equals the label, explained by networks that differ in their seed
    alone, and by one trained on it."""
    x = draw(800, 1)
    x[:, 19] = 2 * label(x, 5) - 1
    return [explained(trained(seed), x) for seed in range(6)], explained(trained(6, leak=True), x)


def compare(reference, other, permutations=500, **options):
    """Two groups compared by their distributions."""
    found = compare_attributions(reference, other, permutations=permutations, **options)
    return found.distributions


def test_two_draws_agree(model):
    found = compare(explained(model, draw(2000, 1)), explained(model, draw(2000, 2)))
    assert found.changed_features() == ()
    assert "agree" in found.summary()
    assert float(found.auc_p[0]) > 0.01


@pytest.mark.slow
def test_nothing_is_reported_of_nothing(model):
    """The default asks for a hundredth, with a smallest distance on top; even a twentieth without
    one is quiet enough."""
    made = explained(model, torch.cat([draw(500, 1000 + seed) for seed in range(30)]))
    chosen = torch.Generator().manual_seed(0)

    def outcome(seed):
        order = torch.randperm(len(made), generator=chosen)[:300]
        found = compare(made.select(order[:150]), made.select(order[150:]), seed=seed)
        changed = found.changed_features(alpha=0.05, min_distance=0.0)
        return not changed, changed

    assert_rate(outcome, itertools.count(), 0.97, 0.9, wrongly_passed=0.05)


def test_a_shift_of_one_input_is_explained_by_the_input(model):
    found = compare(explained(model, draw(2000, 1)), explained(model, draw(2000, 2, mean=0.8)))
    assert found.changed_features()[0] == "feature_2"
    assert "feature_2" not in found.changes_beyond_inputs()
    assert float(found.auc[0]) < float(found.auc[1]) + 0.05
    assert float(found.auc_p[1]) < 0.01
    assert "the inputs together separate the groups as well" in found.summary()


def test_a_shift_of_a_correlation_shows_in_contributions_and_in_no_single_input(model):
    found = compare(
        explained(model, draw(2000, 1)), explained(model, draw(2000, 2, correlation=0.9))
    )
    assert set(found.changed_features()) & {"feature_0", "feature_1"}
    assert set(found.changes_beyond_inputs()) == set(found.changed_features())
    assert float(found.adjusted[1].min()) > 0.01
    assert float(found.auc_p.max()) < 0.01


def test_a_retraining_with_another_seed_moves_contributions_as_seeds_do(seeds):
    made, _ = seeds
    bare = compare(made[0], made[5], paired=True)
    assert len(bare.changed_features()) > 0
    assert bare.distance[1].max() == 0.0
    assert compare(made[0], made[5], paired=True, ensemble=made[1:5]).changed_features() == ()


def test_a_retraining_on_a_leak_is_beyond_what_seeds_do(seeds):
    made, leaked = seeds
    found = compare(made[0], leaked, paired=True, ensemble=made[1:5])
    assert found.changed_features()[0] == "feature_19"
    assert "feature_19" in found.changes_beyond_inputs()
    assert "the inputs together separate the groups as well" not in found.summary()


@pytest.mark.slow
def test_no_seed_is_taken_for_more_than_a_seed():
    x = draw(800, 1)
    made = [explained(trained(seed), x) for seed in range(12)]

    def quiet(seed):
        chosen = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))[:5]
        first, *ensemble, last = (made[at] for at in chosen.tolist())
        found = compare(first, last, paired=True, ensemble=ensemble, permutations=50)
        changed = found.changed_features(min_distance=0.0)
        return not changed, changed

    assert_rate(quiet, itertools.count(), 0.995, 0.95, wrongly_passed=0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_halved_contributions_of_the_same_rows(model, paired):
    made = explained(model, draw(2000, 1))
    found = compare(made, replace(made, values=made.values / 2), paired=paired)
    assert {"feature_0", "feature_1", "feature_2"} <= set(found.changed_features())
    assert found.changes_beyond_inputs() == found.changed_features()
    assert float(found.auc[0]) > 0.9
    assert float(found.auc[1]) < 0.55


def test_hits_against_false_alarms(model):
    x = draw(3000, 1)
    made = explained(model, x)
    alarm, truth = made.outputs > 0, label(x, 3) > 0
    found = compare(
        made.select(alarm & truth), made.select(alarm & ~truth), labels=("hits", "false alarms")
    )
    assert set(found.changed_features(min_distance=0.05)) & {"feature_0", "feature_1", "feature_2"}
    assert "hits" in found.plot().get_title()


def test_distances_and_areas_are_those_of_the_books():
    from sklearn.metrics import roc_auc_score

    values = torch.randn(
        60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).round(decimals=1)
    second = torch.rand(3, 60, generator=torch.Generator().manual_seed(1)).argsort(1) < 24
    expected = [
        [literal.ks_statistic(column[~side], column[side]) for column in values.T]
        for side in second
    ]
    assert torch.allclose(ks_distances(values, second), torch.tensor(expected, dtype=torch.float64))
    scores = torch.randn(60, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    area = area_under_curve(scores, second.double().T)
    assert area.tolist() == pytest.approx(
        [roc_auc_score(side, scores[:, i]) for i, side in enumerate(second.numpy())]
    )
    half = classifier_auc(
        torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
        torch.rand(20, 400) < 0.5,
    )
    assert float(half.mean()) == pytest.approx(0.5, abs=0.02)


def test_it_is_deterministic_and_leaves_the_random_state(model):
    a, b = explained(model, draw(100, 1)), explained(model, draw(100, 2))
    state = torch.get_rng_state()
    first, second = compare(a, b), compare(a, b)
    assert torch.equal(first.adjusted, second.adjusted)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_input_is_named(model):
    made = explained(model, draw(50, 1))
    with pytest.raises(InputError, match="20 rows"):
        compare(made, made.select(torch.arange(5)))
    with pytest.raises(InputError, match="features"):
        compare(made, attribute(network(), rows(30)))
    with pytest.raises(InputError, match="same rows"):
        compare(made, made.select(torch.arange(30)), paired=True)
    with pytest.raises(InputError, match="at least 3"):
        compare(made, made, paired=True, ensemble=[made])
    with pytest.raises(InputError, match="features"):
        compare_attributions(made, attribute(network(), rows(30)))
    with pytest.raises(InputError, match=r"Pass `found\.select\(rows\)`"):
        compare_attributions(made, torch.ones(30, dtype=torch.bool))

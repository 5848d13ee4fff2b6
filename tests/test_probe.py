"""`probe_network`: out-of-fold predictions against a literal ridge regression, p-values under no
difference, what it learns, odd input."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch.errors import InputError
from gendebug_torch.stats import probe_network as probe_module
from gendebug_torch.stats.probe_network import cross_fit, design, fold_ids, group_folds


def samples(seed, n=200, d=4, moved=0.0):
    rng = np.random.default_rng(seed)
    sides = [pd.DataFrame(rng.normal(size=(n, d)), columns=list("abcd")[:d]) for _ in range(2)]
    sides[1]["a"] += moved
    return design(*sides).values, torch.arange(2 * n) >= n


def with_permutations(target, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack(
        [torch.arange(len(target))]
        + [torch.randperm(len(target), generator=generator) for _ in range(count)],
        1,
    )
    return target[orders].double()


def test_scores_are_those_of_a_ridge_fit_on_the_other_folds(monkeypatch):
    monkeypatch.setattr(probe_module, "_PENALTIES", (0.1,))
    values, target = samples(0, 60)
    wanted = with_permutations(target, 2)
    folds = fold_ids(120, 7)
    probe = cross_fit(values, wanted, folds=folds, width=12, seed=3)
    units = probe_module.hidden_units(values, 12, 3).numpy()
    for fold in range(7):
        out = (folds == fold).numpy()
        x, y = units[~out], wanted.numpy()[~out] - wanted.numpy().mean(0)
        weights = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.eye(x.shape[1]), x.T @ y)
        expected = units[out] @ weights + wanted.numpy().mean(0)
        np.testing.assert_allclose(probe.scores.numpy()[out], expected, atol=1e-9)


def test_p_values_hold_under_no_difference():
    found = []
    for seed in range(60):
        values, target = samples(seed, 100)
        found.append(cross_fit(values, with_permutations(target, 40, seed), width=24).p_value())
    assert sum(p < 0.1 for p in found) <= 13, "P(more than 13 of 60 at 10 %) is under 1 %"
    assert 0.35 < np.mean(found) < 0.65


def test_it_learns_what_a_line_does_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 3))
    product = torch.from_numpy((x[:, 0] * x[:, 1] > 0).astype(float))
    answer = cross_fit(design(torch.from_numpy(x)).values, product)
    assert float(answer.auc.auc) > 0.95
    curve = cross_fit(
        design(torch.from_numpy(x)).values, torch.from_numpy(np.sin(2 * x[:, 0]) + x[:, 1] ** 2)
    )
    assert float(curve.r_squared) > 0.8
    values, target = samples(1, 600, moved=0.5)
    moved = cross_fit(values, with_permutations(target, 30))
    low, high = moved.auc.interval()
    assert float(low) < 0.638 < float(high), "Phi(.5 / sqrt 2)"
    assert moved.p_value() < 1e-6


def test_a_design_takes_mixed_columns():
    a = pd.DataFrame(
        {
            "x": [1.0, np.nan, 3.0, np.inf],
            "c": ["u", "v", None, "u"],
            "b": [True, False, True, True],
            "k": [1, 2, 1, 2],
        }
    )
    built = design(a, a[["c", "x", "b", "k"]].iloc[:2], categorical=["k"])
    assert built.names == ("b", "c", "k", "x")
    assert built.owner.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert built.values.shape == (6, 9)
    assert torch.allclose(built.values.mean(0), torch.zeros(9, dtype=torch.float64), atol=1e-12)
    assert torch.equal(built.values[0], built.values[4])
    assert built.without(["c", "k"]).owner.tolist() == [0, 0, 3, 3]
    many = design(pd.DataFrame({"id": [str(i) for i in range(100)]}))
    assert many.values.shape[1] == probe_module.MAX_LEVELS + 1
    assert design(torch.zeros(4, 2, 3)).names[5] == "feature_5"


def test_scale_and_tails_do_not_matter():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=50)})
    assert torch.allclose(design(frame).values, design(np.exp(5 * frame)).values)


def test_groups_stay_together():
    groups = np.random.default_rng(0).choice([f"g{i}" for i in range(30)], 500)
    folds = group_folds(groups, 5)
    assert pd.Series(folds.numpy()).groupby(groups).nunique().max() == 1
    assert folds.unique().tolist() == [0, 1, 2, 3, 4]


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    values, target = samples(0, 50)
    first, second = (cross_fit(values, target.double()).scores for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: design(), "tables"),
        (lambda: design(pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]})), "tables"),
        (lambda: cross_fit(torch.zeros(5, 2), torch.zeros(4)), "targets"),
        (lambda: cross_fit(torch.full((5, 2), torch.nan), torch.zeros(5)), "values"),
        (lambda: cross_fit(torch.zeros(1, 2), torch.zeros(1)), "folds"),
        (lambda: cross_fit(torch.zeros(0, 2), torch.zeros(0)), "folds"),
        (
            lambda: cross_fit(
                torch.zeros(5, 2), torch.zeros(5), folds=torch.zeros(5, dtype=torch.int64)
            ),
            "folds",
        ),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


def test_constant_columns_say_nothing():
    answer = cross_fit(torch.zeros(40, 2), (torch.arange(40) % 2).double())
    assert answer.scores.isfinite().all()
    assert float(answer.auc.auc) == 0.5

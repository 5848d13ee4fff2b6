"""Maps of the top-label confidence and isotonic regression: no prediction changes, little is added
where a temperature suffices."""

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from gendebug_torch.calibration import (
    calibration_sums,
    fit_isotonic,
    fit_temperature,
    fit_top_label_map,
)
from gendebug_torch.errors import InputError, UnsupportedError
from tests.contract.plants_calibration import binary, drawn


def test_top_maps_change_no_prediction_and_correct_the_confidence():
    for k, scale in ((2, 2.5), (10, 3.0)):
        records = drawn(0, 4000, k, scale=scale)
        for family in ("platt", "beta"):
            for dtype in (torch.float64, torch.float32):
                z = records.logits.to(dtype)
                fitted = fit_top_label_map(z, records.targets, family=family)
                mapped = fitted(z)
                assert torch.equal(mapped.argmax(1), z.argmax(1))
                assert calibration_sums(mapped, records.targets).bins().measure().p_value > 0.01
                assert fitted.converged
                assert min(fitted.coefficients[:2]) >= 0
                assert all(error > 0 for error in fitted.standard_errors)


def test_a_top_map_adds_little_where_the_temperature_suffices():
    lost = []
    for seed in range(20):
        fit, test = drawn(seed, 1000, 10, scale=2.0), drawn(seed + 500, 4000, 10, scale=2.0)
        plain = calibration_sums(
            fit_temperature(fit.logits, fit.targets)(test.logits), test.targets
        ).nll
        lost.append(
            calibration_sums(
                fit_top_label_map(fit.logits, fit.targets)(test.logits), test.targets
            ).nll
            - plain
        )
    assert np.mean(lost) < 5e-4
    assert np.mean(np.abs(lost) < 1e-4) > 0.5


def test_a_top_map_keeps_the_order_of_the_other_classes():
    z = torch.randn(500, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fitted = fit_top_label_map(z, drawn(1, 500, 6).targets)
    before, after = (
        z.softmax(1),
        fit_top_label_map(z, torch.randint(6, (500,), generator=torch.Generator().manual_seed(4))),
    )
    assert fitted.unbounded or torch.equal(fitted(z).argsort(1), z.argsort(1))
    if not after.unbounded:
        shares = after(z).softmax(1)
        top = before.argmax(1, keepdim=True)
        others = torch.ones_like(before).scatter(1, top, 0.0)
        ratio = (shares / before * others).sum(1, keepdim=True) / others.sum(1, keepdim=True)
        assert torch.isfinite(ratio).all()


def test_a_top_map_of_one_logit_is_that_of_the_pair():
    records = binary(0, 2000, scale=2.5)
    pair = torch.stack([torch.zeros(2000, dtype=torch.float64), records.logits], 1)
    one, two = (
        fit_top_label_map(records.logits, records.targets),
        fit_top_label_map(pair, records.targets),
    )
    mapped = two(pair)
    assert torch.allclose(one(records.logits), mapped[:, 1] - mapped[:, 0])
    assert torch.equal(one(records.logits) > 0, records.logits > 0)


def test_a_top_map_of_perfect_rows_is_refused():
    fitted = fit_top_label_map(5 * torch.eye(4)[torch.arange(40) % 4], torch.arange(40) % 4)
    assert fitted.unbounded
    with pytest.raises(UnsupportedError, match="right"):
        fitted(torch.zeros(1, 4))


def test_isotonic_equals_scikit_learn_before_its_smoothing():
    records = binary(1, 3000, scale=2.0)
    fitted = fit_isotonic(records.logits, records.targets)
    expected = IsotonicRegression().fit_transform(records.logits.numpy(), records.targets.numpy())
    ours = fitted(records.logits).sigmoid().numpy()
    assert bool((fitted.levels.diff() >= 0).all())
    assert np.abs(ours - expected).max() < 0.5
    inner = (expected > 0.02) & (expected < 0.98)
    assert np.abs(ours - expected)[inner].mean() < 0.02
    assert calibration_sums(fitted(records.logits), records.targets).nll < math.inf
    pair = torch.stack([torch.zeros(3000, dtype=torch.float64), records.logits], 1)
    assert torch.allclose(fitted(pair)[:, 1], fitted(records.logits))
    with pytest.raises(InputError, match=r"^`logits`"):
        fit_isotonic(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))

"""Affine maps of logits: at the minimum, free of scale, weights as repetition, absent and masked
classes."""

import pytest
import torch
from scipy.optimize import minimize

from gendebug_torch.calibration import fit_temperature
from gendebug_torch.stats.logit_scaling import fit_affine


def sample(seed=0, n=1500, k=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(
        (0.5 * logits + torch.linspace(0, 1, k)).softmax(1), 1, generator=generator
    )[:, 0]
    return logits, targets


@pytest.mark.parametrize("family", ["temperature", "bias_corrected", "vector"])
def test_the_fit_is_the_minimum_of_loss_and_prior(family):
    logits, targets = sample()
    fit = fit_affine(logits, targets, family=family)
    assert fit.converged

    def penalised(scale, bias):
        loss = torch.nn.functional.cross_entropy(logits * scale + bias, targets, reduction="sum")
        common = 1 / fit_temperature(logits, targets).temperature
        spread = (
            ((scale - scale.mean()) / (0.25 * common)).square().sum() if family == "vector" else 0.0
        )
        return float(loss + bias.square().sum() / 2 + spread / 2)

    free = {"temperature": 1, "bias_corrected": 5, "vector": 8}[family]

    def objective(x):
        x = torch.from_numpy(x)
        scale = x[:4] if family == "vector" else x[:1].expand(4)
        return penalised(scale, x[-4:] if free > 1 else torch.zeros(4, dtype=torch.float64))

    best = minimize(
        objective, [0.5] * (free - 4 if free > 1 else 1) + [0.0] * (4 if free > 1 else 0), tol=1e-12
    ).fun
    assert penalised(fit.scale, fit.bias) == pytest.approx(best, abs=1e-6)
    assert fit.bias_error.shape == fit.scale_error.shape == (4,)


def test_bias_corrected_finds_the_truth_within_its_errors():
    inside = 0
    for seed in range(40):
        logits, targets = sample(seed)
        fit = fit_affine(logits, targets)
        inside += abs(float(fit.scale[0]) - 0.5) < 1.96 * float(fit.scale_error[0])
    assert inside >= 33, "P(fewer than 33 of 40 at 95 %) is under 1 %"


@pytest.mark.parametrize("factor", [1e4, 1e-3])
@pytest.mark.parametrize("family", ["temperature", "bias_corrected", "vector"])
def test_the_scale_of_the_logits_does_not_matter(family, factor):
    logits, targets = sample()
    plain, scaled = (
        fit_affine(logits, targets, family=family),
        fit_affine(logits * factor, targets, family=family),
    )
    assert torch.allclose(scaled.scale * factor, plain.scale, rtol=1e-6)
    assert torch.allclose(scaled.bias, plain.bias, atol=1e-6)


def test_weights_repeat_rows_and_zero_removes_them():
    logits, targets = sample(n=400)
    weights = torch.arange(400) % 3
    weighted = fit_affine(logits, targets, weights=weights)
    repeated = fit_affine(logits.repeat_interleave(weights, 0), targets.repeat_interleave(weights))
    for part in ("scale", "bias", "scale_error", "bias_error"):
        assert torch.allclose(
            getattr(weighted, part), getattr(repeated, part), rtol=1e-6, atol=1e-9
        )
    assert weighted.nll == pytest.approx(repeated.nll)


def test_a_class_without_rows_keeps_a_finite_bias():
    logits, targets = sample()
    fit = fit_affine(logits[targets > 0], targets[targets > 0], family="vector")
    assert fit.converged
    assert bool(fit.bias.isfinite().all())
    assert int(fit.bias.argmin()) == 0


def test_a_masked_class_is_as_if_it_were_not_there():
    logits, targets = sample(k=3)
    masked = torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], 1)
    plain, with_mask = fit_affine(logits, targets), fit_affine(masked, targets)
    assert torch.allclose(with_mask.scale[:3], plain.scale, rtol=1e-6)
    assert torch.allclose(with_mask.bias[:3], plain.bias, atol=1e-6)
    assert torch.equal(with_mask(masked)[:, 3], masked[:, 3])


def test_one_binary_logit_is_platt_scaling():
    logits, targets = sample(k=2)
    one = logits[:, 1] - logits[:, 0]
    fit = fit_affine(one, targets)

    def loss(x):
        return float(
            torch.nn.functional.binary_cross_entropy_with_logits(
                one * x[0] + x[1], targets.double(), reduction="sum"
            )
            + x[1] ** 2 / 2
        )

    best = minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert [float(fit.scale), float(fit.bias)] == pytest.approx(best, rel=1e-4)
    assert fit(one).shape == one.shape


FAMILIES = ["temperature", "bias_corrected", "vector"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", [1.0, 1e4, 1e-3, -1.0])
def test_rows_that_are_all_right_or_all_wrong_give_no_scale(family, factor):
    logits, _ = sample(n=300, k=3)
    fit = fit_affine(factor * logits, logits.argmax(1), family=family)
    assert fit.unbounded
    one = logits[:, 1] - logits[:, 0]
    assert fit_affine(factor * one, (one > 0).long(), family=family).unbounded
    masked = torch.cat([factor * logits, torch.full((len(logits), 1), -torch.inf)], 1)
    assert fit_affine(masked, logits.argmax(1), family=family).unbounded
    weights = torch.ones(len(logits))
    weights[0] = 0
    targets = logits.argmax(1)
    targets[0] = logits[0].argmin()
    assert fit_affine(factor * logits, targets, family=family, weights=weights).unbounded


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_that_have_nothing_to_do_with_the_logits_give_no_scale(family):
    flagged = 0
    for seed in range(20):
        logits, targets = sample(seed, n=600)
        flagged += fit_affine(logits, targets.roll(1), family=family).unbounded
        assert not fit_affine(logits, targets, family=family).unbounded
    assert flagged >= 19, "P(fewer than 19 of 20 at 99.7 %) is under 0.2 %"

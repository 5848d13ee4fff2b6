"""Class shares of unlabeled rows: equal to the printed iteration, covering the truth, honest about
a bad fit."""

import math

import pytest
import torch

from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import InputError
from gendebug_torch.stats.label_shift import label_shift, label_shift_misfit
from gendebug_torch.stats.logit_scaling import fit_affine
from tests.reference import calibration as literal


def drawn(n, shares, seed, *, moved=0.0):
    """Exact log likelihoods of normal classes, so that softmax of them is calibrated for equal
    shares."""
    k = len(shares)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(
        torch.tensor(shares, dtype=torch.float64), n, replacement=True, generator=generator
    )
    centers = 1.5 * torch.randn(
        k, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    x = centers[targets] + torch.randn(n, 4, generator=generator, dtype=torch.float64)
    x[:, 0] += moved
    return -0.5 * (x[:, None] - centers).square().sum(-1), targets


@pytest.mark.parametrize("shares", [[0.9, 0.1], [0.6, 0.3, 0.1], [0.7, 0.3, 0.0, 0.0]])
def test_shares_equal_the_printed_iteration(shares):
    logits, _ = drawn(150, shares, 1)
    reference = [1 / len(shares)] * len(shares)
    found = label_shift(logits, torch.tensor(reference))
    assert found.converged
    expected = literal.label_shares(logits.softmax(1).tolist(), reference)
    assert found.prior.tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("seed", range(20))
def test_no_class_that_would_gain_is_left_without_a_share(seed):
    """The likelihood is concave: its slope is 1 for every class with a share at the maximum, and
    less for one without."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.softmax(3 * torch.randn(6, generator=generator), 0)
    targets = torch.multinomial(shares, 300, replacement=True, generator=generator)
    logits = 0.7 * (
        torch.randn(300, 6, generator=generator, dtype=torch.float64) + 0.7 * torch.eye(6)[targets]
    )
    found = label_shift(logits, torch.full((6,), 1 / 6))
    ratios = 6 * logits.softmax(1)
    slope = (ratios / (ratios @ found.prior)[:, None]).mean(0)
    assert found.converged
    assert float(slope.max()) < 1 + 1e-8


def test_counts_and_one_binary_logit_agree():
    logits, _ = drawn(400, [0.8, 0.2], 2)
    two = label_shift(logits, torch.tensor([500, 500]))
    one = label_shift(logits[:, 1] - logits[:, 0], torch.tensor([0.5, 0.5]))
    assert torch.allclose(two.prior, one.prior, atol=1e-9)
    assert torch.allclose(two.shrunken, one.shrunken, atol=1e-6)


def test_intervals_cover_and_no_change_is_seldom_rejected():
    truth, covered, denied, blamed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), [], 0, 0
    for seed in range(60):
        logits, targets = drawn(1000, [1 / 3] * 3, seed)
        calibrated = fit_affine(logits, targets)
        counts = torch.bincount(targets, minlength=3)
        production, _ = drawn(600, truth.tolist(), seed + 1000)
        found = label_shift(calibrated(production), counts, reference_rows=1000)
        covered.append(((found.low <= truth) & (truth <= found.high)).double())
        same, _ = drawn(600, [1 / 3] * 3, seed + 2000)
        denied += label_shift(calibrated(same), counts, reference_rows=1000).p_value < 0.05
        blamed += label_shift_misfit(logits, targets, production)[0] < 0.02
    assert bool((torch.stack(covered).mean(0) >= 0.88).all())
    assert denied <= 8, "P(more than 8 of 60 at 5 %) is under 1 %"
    assert blamed <= 5


def test_moved_inputs_are_not_taken_for_moved_shares():
    logits, targets = drawn(2000, [1 / 3] * 3, 0)
    shares_moved, inputs_moved = (
        drawn(1500, [0.7, 0.2, 0.1], 1)[0],
        drawn(1500, [1 / 3] * 3, 1, moved=1.0)[0],
    )
    p, distance = label_shift_misfit(logits, targets, shares_moved)
    q, further = label_shift_misfit(logits, targets, inputs_moved)
    assert p > 0.001
    assert q < 1e-6
    assert further > 3 * distance


def test_given_shares_are_tested_and_too_many_classes_are_not():
    logits, targets = drawn(2000, [1 / 3] * 3, 0)
    production, _ = drawn(1500, [0.7, 0.2, 0.1], 1)
    right, wrong = (
        label_shift_misfit(logits, targets, production, torch.tensor(shares))[0]
        for shares in ([0.7, 0.2, 0.1], [1 / 3] * 3)
    )
    assert right > 0.001
    assert wrong < 1e-6
    generator = torch.Generator().manual_seed(2)
    many, live = (torch.randn(n, 60, generator=generator) for n in (1200, 800))
    assert math.isnan(label_shift_misfit(many, torch.arange(1200) % 60, live)[0])


def test_the_rows_may_come_in_any_order_and_as_float32():
    logits, _ = drawn(3000, [0.7, 0.2, 0.1], 3)
    whole = label_shift(logits, torch.ones(3))
    shuffled = label_shift(
        logits[torch.randperm(3000, generator=torch.Generator().manual_seed(0))].float(),
        torch.ones(3),
    )
    assert torch.allclose(whole.prior, shuffled.prior, atol=1e-5)
    assert whole.p_value < 1e-10
    assert whole.prior.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.05)


def test_evidence_reads_well():
    found = label_shift(drawn(300, [0.7, 0.2, 0.1], 4)[0], torch.ones(3))
    assert list(found.table().columns) == ["class", "reference", "prior", "low", "high", "ratio"]
    ax = axes()
    assert found.plot(ax) is ax


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: label_shift(torch.zeros(0, 2), torch.ones(2)), "logits"),
        (lambda: label_shift(torch.zeros(3, 2), torch.ones(3)), "reference"),
        (lambda: label_shift(torch.zeros(3, 2), torch.tensor([1.0, 0.0])), "reference"),
        (lambda: fit_affine(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "logits"),
        (lambda: fit_affine(torch.zeros(3, 2), torch.tensor([0, 1, 2])), "targets"),
        (lambda: fit_affine(torch.zeros(3, 2), torch.zeros(3)), "targets"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


def test_too_few_rows_for_the_question_give_no_p_value():
    assert all(
        map(
            math.isnan,
            label_shift_misfit(
                torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(5, 2)
            ),
        )
    )
    p, _ = label_shift_misfit(torch.randn(3, 2), torch.tensor([0, 1, 0]), torch.randn(4, 2))
    assert math.isnan(p) or 0 <= p <= 1

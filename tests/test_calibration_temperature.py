"""Temperature: exact for every head and scale, flagged where there is none, in few reads."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from gendebug_torch.calibration import fit_temperature, reliability_bins
from gendebug_torch.errors import InputError, UnsupportedError
from tests.reference import calibration as literal


def sample(seed=0, n=3000, k=4, temperature=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return temperature * logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def exact(logits, targets):
    """The root of the derivative of the log loss in 1 / T, in float64, in units of the logits."""
    z = logits.double()
    unit = float(z.std())

    def slope(b):
        moved = z / unit
        return float(
            ((moved * b).softmax(1) * moved).sum() - moved.gather(1, targets[:, None]).sum()
        )

    return unit / brentq(slope, 1e-4, 1e3, xtol=1e-15, rtol=1e-14)


CASES = {
    "plain": lambda z: z,
    "float32": lambda z: z.float(),
    "times 1e4": lambda z: z * 1e4,
    "times 1e-3": lambda z: z * 1e-3,
    "times 1e12": lambda z: z * 1e12,
    "float32 times 1e4": lambda z: z.float() * 1e4,
    "half": lambda z: z.half(),
    "bfloat16": lambda z: z.bfloat16(),
    "shifted": lambda z: z + 100.0,
}


@pytest.mark.parametrize("case", CASES)
def test_exact_to_a_millionth(case):
    logits, targets = sample()
    changed = CASES[case](logits)
    found = fit_temperature(changed, targets)
    assert found.converged
    assert not found.unbounded
    assert found.reads <= 4
    assert found.temperature == pytest.approx(exact(changed, targets), rel=1e-6)


@pytest.mark.parametrize("n", [500, 5000, 40_000, 100_000])
def test_exact_to_the_rounding_of_float64(n):
    """However many rows are sampled first; standard error and loss are those at the optimum."""
    logits, targets = sample(12, n)
    found, expected = fit_temperature(logits, targets), exact(logits, targets)
    assert found.temperature == pytest.approx(expected, rel=1e-11)
    assert found.nll == pytest.approx(float(cross_entropy(logits / expected, targets)), rel=1e-11)
    probs = (logits / expected).softmax(1)
    mean = (probs * logits).sum(1)
    curvature = ((probs * logits**2).sum(1) - mean**2).sum()
    squared = (mean - logits.gather(1, targets[:, None])[:, 0]).square().sum()
    error = float(squared.sqrt() / curvature) * expected**2
    assert found.standard_error == pytest.approx(error, rel=1e-8)


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if torch.is_tensor(made) and not function.is_view:
            self.most = max(self.most, made.numel())
        return made


@pytest.mark.parametrize("change", ["none", "masked", "half", "every row right"])
def test_logits_are_not_copied_but_for_a_block(change):
    logits, targets = sample(13, 150_000, k=20)
    if change == "masked":
        logits[:, -1], targets = -1e9, targets.clamp(max=18)
    if change == "half":
        logits = logits.half()
    if change == "every row right":
        targets = logits.argmax(1)
    with Largest() as largest:
        fit_temperature(logits, targets)
    assert largest.most <= 2**18, "the cache-full of model_outputs.py"


def test_exact_on_real_logits(shared_data):
    for name in (
        "netcal_lenet_5_cifar_10",
        "netcal_densenet_bc_100_cifar_100",
        "cleanlab_20news_test_set",
    ):
        with np.load(shared_data / "logits" / f"{name}.npz") as archive:
            logits, targets = (
                torch.from_numpy(archive["logits"]),
                torch.from_numpy(archive["labels"]).long(),
            )
        found = fit_temperature(logits, targets)
        assert found.temperature == pytest.approx(exact(logits, targets), rel=1e-6)
        assert found.reads <= 4


def test_it_minimises_the_literal_loss():
    logits, targets = sample(1, 100)
    found = fit_temperature(logits, targets)
    at, below, above = (
        literal.log_loss(logits.tolist(), targets.tolist(), found.temperature * factor)
        for factor in (1.0, 0.99, 1.01)
    )
    assert at < min(below, above)


def test_one_logit_masked_classes_and_dense_outputs():
    logits, targets = sample(2)
    expected = exact(logits, targets)
    masked = torch.cat([logits, torch.full((3000, 1), -math.inf)], 1)
    assert fit_temperature(masked, targets).temperature == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(masked.float(), targets).temperature == pytest.approx(expected, rel=1e-6)
    dense = logits.view(30, 10, 10, 4).movedim(-1, 1), targets.view(30, 10, 10).clone()
    assert fit_temperature(*dense).temperature == pytest.approx(expected, rel=1e-6)
    dense[1][:, :3] = -100
    kept = dense[1].reshape(-1) != -100
    found = fit_temperature(*dense, ignore_index=-100)
    assert found.temperature == pytest.approx(exact(logits[kept], targets[kept]), rel=1e-6)
    pair, labels = sample(3, k=2)
    one = pair[:, 1] - pair[:, 0]
    for factor in (1.0, 10.0, 100.0):
        assert fit_temperature(one * factor, labels).temperature == pytest.approx(
            factor * exact(pair, labels), rel=1e-6
        )


def test_integer_weights_repeat_rows_and_zero_removes_them():
    logits, targets = sample(4)
    weights = torch.arange(3000) % 3
    weighted = fit_temperature(logits, targets, weights=weights)
    repeated = fit_temperature(
        logits.repeat_interleave(weights, 0), targets.repeat_interleave(weights)
    )
    for part in ("temperature", "standard_error", "nll"):
        assert getattr(weighted, part) == pytest.approx(getattr(repeated, part), rel=1e-9)
    right = 5 * torch.eye(4, dtype=torch.float64)[targets]
    right[weights == 0] *= -1
    assert fit_temperature(right, targets, weights=weights).unbounded


def test_order_does_not_matter():
    logits, targets = sample(5, 20_000)
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    assert fit_temperature(logits[order], targets[order]).temperature == pytest.approx(
        fit_temperature(logits, targets).temperature, rel=1e-9
    )


def test_the_standard_error_covers():
    inside = 0
    for seed in range(100):
        found = fit_temperature(*sample(seed, 1000))
        inside += abs(found.temperature - 2.0) <= 1.96 * found.standard_error
    assert inside >= 89, "P(fewer than 89 of 100 at 95 %) is under 1 %"


def test_perfect_and_empty_logits_are_flagged():
    _, targets = sample(6)
    perfect = fit_temperature(7 * torch.eye(4)[targets], targets)
    assert perfect.unbounded
    assert perfect.temperature == 0.0
    assert perfect.bounded == 1.0
    with pytest.raises(UnsupportedError, match="finite temperature"):
        perfect(torch.zeros(1, 4))
    flagged = 0
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        found = fit_temperature(
            torch.randn(1000, 10, generator=generator),
            torch.randint(10, (1000,), generator=generator),
        )
        assert found.temperature > 0
        flagged += found.unbounded
    assert flagged >= 48
    wrong = fit_temperature(torch.nn.functional.one_hot((targets + 1) % 4, 4).double(), targets)
    assert wrong.unbounded
    assert wrong.temperature == math.inf
    assert fit_temperature(torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64)).unbounded


def test_label_smoothing_at_training_gives_a_temperature_below_one():
    logits, targets = sample(7, temperature=0.6)
    found = fit_temperature(logits, targets)
    assert found.temperature == pytest.approx(0.6, abs=4 * found.standard_error)
    assert reliability_bins(found(logits), targets).ece < reliability_bins(logits, targets).ece


def broken(value):
    logits, targets = sample(8, 30)
    logits[3, 1] = value
    return logits, targets


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "targets"),
        (lambda: fit_temperature(*broken(math.nan)), "logits"),
        (lambda: fit_temperature(*broken(math.inf)), "logits"),
        (
            lambda: fit_temperature(
                torch.tensor([[0.0, -math.inf], [1.0, 0.5]]), torch.tensor([1, 1])
            ),
            "targets",
        ),
        (lambda: fit_temperature(torch.zeros(3, 2), torch.tensor([0, 1, 5])), "targets"),
        (
            lambda: fit_temperature(
                torch.zeros(3, 2), torch.tensor([0, 1, 1]), weights=torch.zeros(3)
            ),
            "targets",
        ),
        (
            lambda: fit_temperature(
                torch.zeros(3, 2), torch.tensor([0, 1, 1]), weights=-torch.ones(3)
            ),
            "weights",
        ),
        (
            lambda: fit_temperature(torch.zeros(3, 2), torch.tensor([9, 9, 9]), ignore_index=9),
            "targets",
        ),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()

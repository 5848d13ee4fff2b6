"""CUDA paths: nothing waits in a loop, memory may run out, any device will do, TF32 is off."""

import pytest
import torch
from torch import nn

from gendebug_torch import Records, attribute, collect, diagnose
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.calibration import fit_temperature, reliability_bins
from gendebug_torch.calibration.recorder import CalibrationRecorder
from gendebug_torch.curves.loss_sums import LossSums
from gendebug_torch.errors import InputError
from gendebug_torch.labels import DynamicsRecorder
from gendebug_torch.model.devices import fitting, full_float32
from gendebug_torch.shift import ks_two_sample
from scripts.bench_device_counts import CASES, bytes_of
from tests.attribution_cases import OWN, network, rows, run
from tests.contract.test_devices import assert_same

pytestmark = pytest.mark.gpu


class ConvolutionalNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        )

    def forward(self, x):
        return self.body(x)


def images(n=20):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def home(model):
    return str(next(model.parameters()).device)


# Operations and waits of a call, a few more than counted: what doubles them is a change to look at.
CEILINGS = {
    "collect, three batches": (20, 1),
    "integrated gradients": (250, 1),
    "integrated gradients, trust card": (800, 35),
    "KernelSHAP": (650, 1),
    "permutation importance": (750, 3),
    "calibration sums": (100, 4),
    "reliability bins": (60, 2),
    "fit temperature": (170, 7),
    "fit temperature, 200,000 rows": (215, 8),
    "fit vector scaling": (450, 50),
    "recalibrate from a loader": (3800, 225),
    "KS, 10 columns": (160, 0),
    "KS, 10 columns, p-values": (190, 10),
    "effect sizes, 10 columns": (180, 0),
    "label issues, 100 classes": (130, 20),
    "slices, 4 columns": (20, 8),
}


def test_every_case_of_the_bench_has_a_ceiling():
    assert set(CEILINGS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_operations_and_waits_of_a_call(simulated, name):
    call = CASES[name]()
    with simulated.counts() as counted:
        call()
    operations, waits = counted.total()
    most_operations, most_waits = CEILINGS[name]
    assert operations <= most_operations, counted.operations.most_common(10)
    assert waits <= most_waits, counted.waits


# Bytes that the operations of a call read and write.
MOST_BYTES = {"fit temperature": 20e6, "fit temperature, 200,000 rows": 560e6}


@pytest.mark.parametrize("name", MOST_BYTES)
def test_bytes_of_a_call(simulated, name):
    assert bytes_of(CASES[name]()) <= MOST_BYTES[name]


def waits_of(simulated, call):
    with simulated.counts() as counted:
        call()
    return counted.waits


def more_waits(simulated, call):
    """Waits, by line, that seven batches more have added."""
    few, many = (waits_of(simulated, lambda n=n: call(list(rows(8 * n).split(8)))) for n in (2, 9))
    return many - few


def test_collect_does_not_wait_per_batch(simulated):
    model = network().cuda()
    assert not more_waits(simulated, lambda batches: collect(model, batches))


@pytest.mark.parametrize("method", OWN)
def test_no_method_waits_per_batch(simulated, method):
    """A baseline of the host is moved once."""
    model = network().cuda()
    baseline = {"baseline": torch.zeros(3, 5)} if method == "gradient_shap" else {}
    assert not more_waits(
        simulated, lambda batches: run(model, batches, method, trust=False, **baseline)
    )


def test_no_recorder_waits_per_step(simulated):
    logits, targets, ids = rows(16, 4).cuda(), torch.arange(16).cuda() % 4, torch.arange(16).cuda()
    calibration, losses, dynamics = CalibrationRecorder(), LossSums(), DynamicsRecorder(16)

    def step():
        calibration.add(logits, targets)
        losses.add(logits.sum(), 16)
        dynamics.record(ids, logits, targets)

    step()
    assert not waits_of(simulated, step)


IN_BATCHES = {
    "collect": lambda model, x: collect(model, x).logits,
    "integrated gradients": lambda model, x: attribute(model, x, trust=False).values,
    "KernelSHAP": lambda model, x: (
        attribute(model, x, "kernel_shap", samples=20, trust=False).values
    ),
    "permutation": lambda model, x: (
        permutation_importance(model, Records(x, (x[:, 0] > 0).long()), repeats=2).importance
    ),
}


@pytest.mark.parametrize("name", IN_BATCHES)
def test_less_memory_takes_longer_and_answers_the_same(simulated, name):
    call, model, x = IN_BATCHES[name], network().cuda(), rows(1000)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with simulated.counts() as ample:
        whole = call(model, x)
    needed = torch.cuda.max_memory_allocated() - before
    with simulated.memory(int(0.7 * needed)), simulated.counts() as short:
        assert torch.allclose(call(model, x), whole, atol=1e-6)
    assert short.operations.total() > ample.operations.total()
    assert home(model) == "cuda:0"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "cuBLAS", "cuDNN"],
)
def test_every_failed_allocation_is_tried_again_with_less(error):
    sizes = [2]

    def attempt():
        if sizes[-1] > 1:
            raise error
        return sizes[-1]

    def halve():
        sizes.append(sizes[-1] // 2)
        return True

    assert fitting(attempt, halve) == 1


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_any_device_will_do(device):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    model, x = network(), rows(200)
    y = (x[:, 0] > 0).long()
    known = collect(model, x, device="cpu").logits
    assert torch.allclose(collect(model, x, device=device).logits, known, atol=1e-4)
    expected = attribute(model, x, device="cpu", trust=False).values
    assert torch.allclose(attribute(model, x, device=device).values, expected, atol=1e-4)
    assert home(model) == "cpu"
    model.to(device)
    found = permutation_importance(model, Records(x, y).to(device)).importance
    model.cpu()
    assert torch.allclose(found, permutation_importance(model, Records(x, y)).importance, atol=1e-4)
    moved, labels = known.to(device), y.to(device)
    expected = fit_temperature(known, y).temperature
    assert fit_temperature(moved, labels).temperature == pytest.approx(expected, rel=1e-4)
    assert torch.equal(reliability_bins(moved, labels).count, reliability_bins(known, y).count)
    statistic = ks_two_sample(x.to(device), (x + 0.3).to(device)).statistic
    assert torch.equal(statistic.cpu(), ks_two_sample(x, x + 0.3).statistic)


def test_the_network_stays_on_the_device_through_the_trust_card(simulated):
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.moves = network(), 0

        def forward(self, x):
            return self.inner(x)

        def to(self, *args, **options):
            self.moves += 1
            return super().to(*args, **options)

    model = Counted()
    attribute(model, rows(300), device="cuda")
    assert model.moves == 2
    assert home(model) == "cpu"


def test_records_lie_on_one_device():
    x, y = rows(10), torch.arange(10) % 3
    with pytest.raises(InputError, match="one device"):
        Records(x.cuda(), y)
    found = collect(network(), Records(x, y).to("cuda"))
    assert found.logits.is_cuda
    assert len(found.select(found.correct)) == int(found.correct.sum())
    assert torch.equal(found.select(torch.tensor([3, 1]).cuda()).features.cpu(), x[[3, 1]])


@pytest.mark.parametrize("moved", ["network", "records", "both"])
def test_diagnose_says_the_same(moved):
    def records(shift, name):
        x = rows(600) + shift
        y = (x[:, 0] > 0).long()
        return Records(x, y, collect(network(), x, device="cpu").logits, name=name)

    sides = {"validation": records(0.0, "validation"), "production": records(0.7, "production")}
    only = ["shift.ks", "calibration.ece", "labels.noise", "attribution.convergence"]
    known = diagnose(network(), **sides, only=only).findings
    there = {key: side if moved == "network" else side.to("cuda") for key, side in sides.items()}
    model = network() if moved == "records" else network().cuda()
    found = diagnose(model, **there, only=only).findings
    assert_same(*([finding.to_dict() for finding in part] for part in (found, known)))


def settings():
    """What torch does to float32 products, in all its names for that."""
    backends = torch.backends
    found = [torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32]
    layers = [getattr(backends.cudnn, name, None) for name in ("conv", "rnn")]
    newer = [
        getattr(setting, "fp32_precision", None) for setting in (backends.cuda.matmul, *layers)
    ]
    found += newer
    return found


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_keep_their_digits_and_settings_are_put_back(precision):
    """TF32 would make convolutions differ from the host's by about 1e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        kept = settings()
        with full_float32():
            during = settings()
        model, x = ConvolutionalNetwork(), images()
        found = collect(model, x, device="cuda").logits
        values = attribute(model, x, device="cuda", trust=False).values
        assert settings() == kept
    finally:
        torch.set_float32_matmul_precision(before)
    assert during[:2] == ["highest", False]
    assert torch.allclose(found, collect(model, x, device="cpu").logits, atol=1e-5)
    expected = attribute(model, x, device="cpu", trust=False).values
    assert torch.allclose(values, expected, atol=1e-5)


def test_newer_settings_of_precision_are_put_back():
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("needs torch 2.9")
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with full_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before

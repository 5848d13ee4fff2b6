"""Bins and measures: golden values, the literal definitions, every head, noise, intervals and the
traps of the field."""

import math
import shutil

import numpy as np
import pytest
import torch

from gendebug_torch import Records, Severity
from gendebug_torch.calibration import (
    ReliabilityBins,
    calibration_sums,
    classwise_bins,
    expected_calibration_error,
    miscalibration_shape,
    reliability_bins,
    reliability_bins_of_confidence,
)
from gendebug_torch.calibration.checks.ece import confidence_equals_accuracy
from gendebug_torch.checks.evidence import axes, png
from gendebug_torch.errors import InputError
from tests.reference import calibration as literal

PUBLISHED = {
    "markus93_densenet40_c10": 5.500,
    "markus93_resnet110_c10": 4.750,
    "markus93_densenet40_c100": 21.156,
    "markus93_resnet110_c100": 18.480,
}


def sample(seed=0, n=2000, k=5, scale=1.0, dtype=torch.float64):
    """Labels drawn from the softmax of the logits; `scale` above 1 makes them overconfident."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return (scale * logits).to(dtype), targets


def same(a, b, tolerance=1e-12):
    for part in ("count", "confidence", "correct"):
        assert torch.allclose(
            getattr(a, part).double(), getattr(b, part).double(), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("network", PUBLISHED)
def test_published_errors_to_every_digit(network, shared_data):
    with np.load(shared_data / "logits" / "toplabel_confidences.npz") as archive:
        confidence, label, predicted = (
            torch.from_numpy(archive[f"{network}__{part}"]) for part in ("conf", "label", "pred")
        )
    found = reliability_bins_of_confidence(confidence.double(), label == predicted)
    assert round(100 * found.ece, 3) == PUBLISHED[network]


@pytest.mark.parametrize("bins", [1, 10, 15, 16, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_error_equals_the_literal_definition(bins, dtype):
    logits, targets = sample(1, 300, dtype=dtype)
    logits[:20] = logits[:20].round()
    pairs = literal.top_label(logits.tolist(), targets.tolist())
    expected = literal.expected_calibration_error(pairs, bins)
    assert reliability_bins(logits, targets, bins=bins).ece == pytest.approx(
        expected, abs=1e-7 if dtype == torch.float32 else 1e-12
    )
    assert float(expected_calibration_error(logits, targets, bins=bins)) == pytest.approx(
        expected, abs=1e-7
    )


def test_edges_belong_to_the_lower_bin_and_certainty_to_the_last():
    confidence = torch.arange(16, dtype=torch.float64) / 15
    found = reliability_bins_of_confidence(confidence, torch.ones(16, dtype=torch.bool))
    assert found.count.tolist() == [2] + [1] * 14
    two = reliability_bins_of_confidence(
        torch.tensor([0.95, 1.0]), torch.tensor([True, False]), bins=2
    )
    assert two.ece == pytest.approx(0.475)


def test_of_equal_logits_the_first_class_is_predicted():
    logits = torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, -9.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert reliability_bins(logits, torch.tensor([0, 1, 0, 2])).correct.sum() == 2
    assert reliability_bins(torch.zeros(2), torch.tensor([0, 1])).correct.sum() == 1


def test_twenty_million_rows_in_one_bin_are_counted_exactly():
    confidence = torch.tensor([0.97], dtype=torch.float32).expand(20_000_000)
    correct = torch.zeros(20_000_000, dtype=torch.bool)
    correct[:18_000_000] = True
    found = reliability_bins_of_confidence(confidence, correct)
    assert int(found.count.max()) == 20_000_000
    assert found.ece == pytest.approx(float(np.float32(0.97)) - 0.9, abs=1e-9)


def test_chunks_order_and_ranks_do_not_matter():
    logits, targets = sample(2, 70_000, 7)
    whole = calibration_sums(logits, targets)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    shuffled = calibration_sums(logits[order], targets[order])
    parts = calibration_sums(logits[:1], targets[:1]) + calibration_sums(
        logits[1:999], targets[1:999]
    )
    parts += calibration_sums(logits[999:], targets[999:])
    for other in (shuffled, parts):
        same(whole.cells, other.cells, 1e-10)
        assert torch.allclose(whole.scores, other.scores, rtol=1e-10)
    same(whole.bins(15), reliability_bins(logits, targets), 1e-10)
    state = [whole.cells.count, whole.cells.confidence, whole.cells.correct, whole.scores]
    assert sum(part.numel() * part.element_size() for part in state) <= 64 * 1024


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler",
)
def test_the_compiled_pass_says_the_same():
    for k in (2, 10, 100):
        logits, targets = sample(17, 5000, k, dtype=torch.float32)
        logits[:300] = logits[:300].round()
        logits[-1, 1] = -math.inf
        targets[-1] = 0
        plain, compiled = (reliability_bins(logits, targets, compiled=way) for way in (False, True))
        assert torch.equal(plain.count, compiled.count)
        assert torch.equal(plain.correct, compiled.correct)
        assert torch.allclose(plain.confidence, compiled.confidence, rtol=1e-6)
        one = reliability_bins(logits[:, 0], (targets == 0).long(), compiled=True)
        assert torch.equal(one.count, reliability_bins(logits[:, 0], (targets == 0).long()).count)
    logits[7, 2] = math.nan
    with pytest.raises(InputError, match=r"^`logits`.* 1 rows"):
        reliability_bins(logits, targets, compiled=True)


def test_scores_equal_the_literal_definitions():
    logits, targets = sample(3, 200)
    sums = calibration_sums(logits, targets)
    assert sums.nll == pytest.approx(literal.log_loss(logits.tolist(), targets.tolist()), abs=1e-12)
    assert sums.brier == pytest.approx(
        literal.brier_score(logits.tolist(), targets.tolist()), abs=1e-12
    )
    probs = logits.softmax(1)
    measures = {m.measure: m for m in sums.measures(replicates=20)}
    assert measures["nll"].null == pytest.approx(
        float(-(probs * probs.log()).sum(1).mean()), abs=1e-9
    )
    assert measures["brier"].null == pytest.approx(
        float((1 - probs.square().sum(1)).mean()), abs=1e-9
    )


def test_brier_of_the_prediction_splits_into_its_parts():
    logits, targets = sample(4, 5000, scale=2.0)
    sums = calibration_sums(logits, targets)
    measures = {m.measure: m.value for m in sums.measures(replicates=10)}
    bins = sums.bins()
    mean = bins.confidence / bins.count.clamp(min=1)
    binned = (
        float((bins.count * mean.square() - 2 * mean * bins.correct + bins.correct).sum())
        / bins.total
    )
    uncertainty = bins.accuracy * (1 - bins.accuracy)
    assert measures["reliability"] - measures["resolution"] + uncertainty == pytest.approx(
        binned, abs=1e-12
    )
    assert measures["rms"] ** 2 == pytest.approx(measures["reliability"])


def heads():
    logits, targets = sample(5, 1200, 4)
    dense = logits.view(12, 10, 10, 4).movedim(-1, 1), targets.view(12, 10, 10)
    ignored = (
        torch.cat([targets, torch.full((50,), 255)]),
        torch.cat([logits, torch.randn(50, 4, dtype=torch.float64)]),
    )
    masked = torch.cat([logits, torch.full((1200, 1), -math.inf)], 1)
    return {
        "dense": ({"logits": dense[0], "targets": dense[1]}, 1e-12),
        "ignored": ({"logits": ignored[1], "targets": ignored[0], "ignore_index": 255}, 1e-12),
        "weightless": (
            {
                "logits": ignored[1],
                "targets": ignored[0].clamp(max=3),
                "weights": (ignored[0] < 255).long(),
            },
            1e-12,
        ),
        "masked class": ({"logits": masked, "targets": targets}, 1e-12),
        "half": ({"logits": logits.half(), "targets": targets}, 2e-3),
        "bfloat16": ({"logits": logits.bfloat16(), "targets": targets}, 1e-2),
        "shifted": ({"logits": logits + 1000.0, "targets": targets}, 1e-9),
    }


@pytest.mark.parametrize("head", heads())
def test_heads_give_the_same_measures(head):
    logits, targets = sample(5, 1200, 4)
    call, tolerance = heads()[head]
    expected, found = calibration_sums(logits, targets), calibration_sums(**call)
    assert found.bins().ece == pytest.approx(expected.bins().ece, abs=tolerance)
    assert found.nll == pytest.approx(expected.nll, abs=tolerance)
    assert found.brier == pytest.approx(expected.brier, abs=tolerance)
    assert reliability_bins(**call).ece == pytest.approx(expected.bins().ece, abs=tolerance)


def test_one_binary_logit_is_the_pair_of_zero_and_itself():
    logits, targets = sample(6, 500, 2)
    one = logits[:, 1] - logits[:, 0]
    same(reliability_bins(one, targets), reliability_bins(logits, targets), 1e-9)
    far = torch.tensor([25.0, -25.0, 800.0, -800.0])
    assert reliability_bins(far, torch.tensor([1, 0, 1, 0])).ece < 1e-9
    of_one = classwise_bins(one, targets)
    assert float(of_one.probability.sum()) == pytest.approx(float(one.sigmoid().sum()))
    assert float(of_one.ece) == pytest.approx(
        float(classwise_bins(logits, targets).ece[1]), abs=1e-9
    )


def test_integer_weights_repeat_rows():
    logits, targets = sample(7, 400, scale=1.5)
    weights = torch.arange(400) % 4
    weighted = calibration_sums(logits, targets, weights=weights)
    repeated = calibration_sums(
        logits.repeat_interleave(weights, 0), targets.repeat_interleave(weights)
    )
    same(weighted.cells, repeated.cells)
    assert torch.allclose(weighted.scores, repeated.scores)
    for a, b in zip(
        weighted.measures(replicates=50), repeated.measures(replicates=50), strict=True
    ):
        assert [a.value, a.low, a.high, a.null] == pytest.approx(
            [b.value, b.low, b.high, b.null], nan_ok=True
        )


def test_multilabel_is_one_test_per_label():
    generator = torch.Generator().manual_seed(8)
    logits = 2 * torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    logits[:, 2] *= 3
    found = classwise_bins(logits, targets)
    for label in range(3):
        assert torch.equal(
            found.count[label], classwise_bins(logits[:, label], targets[:, label]).count[0]
        )
    table = found.table()
    assert int(table["class"][0]) == 2
    assert list(table["p_holm"] < 0.01) == [True, False, False]
    parts = classwise_bins(logits[:7], targets[:7]) + classwise_bins(logits[7:], targets[7:])
    assert torch.allclose(parts.ece, found.ece)
    same(
        found.of_class(2), ReliabilityBins(found.count[2], found.probability[2], found.positive[2])
    )
    png(found)


def test_classwise_equals_the_literal_count():
    logits, targets = sample(9, 300, 3)
    found = classwise_bins(logits, targets)
    probs = [literal.softmax(row) for row in logits.tolist()]
    for label in range(3):
        pairs = [(p[label], t == label) for p, t in zip(probs, targets.tolist(), strict=True)]
        assert float(found.ece[label]) == pytest.approx(
            literal.expected_calibration_error(pairs), abs=1e-12
        )


def test_adaptive_bins_keep_equal_confidences_together():
    logits = torch.zeros(900, 2)
    logits[:, 0] = torch.arange(3.0).repeat(300)
    sums = calibration_sums(logits, torch.zeros(900, dtype=torch.int64))
    measures = {m.measure: m.value for m in sums.measures(replicates=5)}
    assert measures["adaptive_ece"] == pytest.approx(measures["ece"])
    assert calibration_sums(torch.zeros(50, 2), torch.zeros(50, dtype=torch.int64)).measures(
        replicates=5
    )[3].value == pytest.approx(0.5)


def test_smooth_error_is_its_own_kernel_width():
    logits, targets = sample(10, 4000, scale=2.5)
    smooth = {m.measure: m.value for m in calibration_sums(logits, targets).measures(replicates=5)}[
        "smooth_ece"
    ]
    confidence, correct = logits.softmax(1).max(1).values, logits.argmax(1) == targets
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    residual = (confidence - correct.double()) / len(confidence)
    smoothed = torch.zeros_like(grid)
    for image in (confidence, -confidence, 2 - confidence):
        for part, mass in zip(image.split(2000), residual.split(2000), strict=True):
            smoothed += torch.exp(-0.5 * ((grid[:, None] - part) / smooth) ** 2) @ mass
    total = torch.trapezoid((smoothed / (smooth * math.sqrt(2 * math.pi))).abs(), grid)
    assert float(total) == pytest.approx(smooth, rel=0.01)


@pytest.mark.parametrize(("n", "k"), [(300, 2), (3000, 10)])
def test_calibrated_models_are_within_noise_and_covered(n, k):
    rejected, covered = np.zeros(9), np.zeros(9)
    for seed in range(40):
        measures = calibration_sums(*sample(seed, n, k)).measures(replicates=100)
        rejected += [m.p_value < 0.05 for m in measures]
        covered += [m.low <= 0 for m in measures]
    assert (rejected <= 7).all(), "P(more than 7 of 40 at 5 %) is under 1 %"
    assert (covered[:6] >= 36).all()


def test_the_interval_covers_a_real_error():
    truth = calibration_sums(*sample(999, 400_000, scale=1.3)).bins().ece
    inside = 0
    for seed in range(60):
        low, high = reliability_bins(*sample(seed, 3000, scale=1.3)).interval()
        inside += low <= truth <= high
    assert inside >= 50


SHAPES = {"overconfident": 1.6, "underconfident": 0.6, "calibrated within noise": 1.0}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes(kind):
    found = miscalibration_shape(reliability_bins(*sample(11, 6000, scale=SHAPES[kind])))
    assert found.kind == kind
    assert bool(found.worst) == (kind != "calibrated within noise")


def test_an_s_shape_is_reported_and_the_worst_bin_named_though_the_mean_is_fine():
    generator = torch.Generator().manual_seed(12)
    confidence = 0.5 + 0.5 * torch.rand(8000, generator=generator, dtype=torch.float64)
    accuracy = torch.where(confidence < 0.75, confidence - 0.08, confidence + 0.08).clamp(max=1)
    found = reliability_bins_of_confidence(
        confidence, torch.rand(8000, generator=generator, dtype=torch.float64) < accuracy
    )
    assert abs(found.mean_confidence - found.accuracy) < 0.02
    shape = miscalibration_shape(found)
    assert shape.kind == "S-shaped"
    assert shape.worst
    assert (
        miscalibration_shape(
            reliability_bins_of_confidence(torch.ones(1), torch.ones(1, dtype=torch.bool))
        ).kind
        == "too few rows"
    )


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows_give_numbers_and_pictures(n):
    logits, targets = sample(13, n)
    sums = calibration_sums(logits, targets)
    assert len(sums.table(replicates=5)) == 9
    assert 0 <= sums.bins().ece <= 1
    ax = axes()
    assert sums.plot(ax) is ax
    png(sums.bins())
    assert classwise_bins(logits, targets).macro >= 0


def nan_row():
    logits, targets = sample(14, 50)
    logits[7, 2] = math.nan
    return logits, targets


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: reliability_bins(*nan_row()), "logits"),
        (lambda: calibration_sums(*nan_row()), "logits"),
        (lambda: classwise_bins(*nan_row()), "logits"),
        (lambda: reliability_bins(torch.tensor([[math.inf, 0.0]]), torch.tensor([0])), "logits"),
        (lambda: reliability_bins(torch.full((1, 2), -math.inf), torch.tensor([0])), "logits"),
        (lambda: reliability_bins(torch.full((1, 2), 7e4).half(), torch.tensor([0])), "logits"),
        (
            lambda: reliability_bins(
                torch.ones(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
            ),
            "logits",
        ),
        (lambda: reliability_bins(torch.ones(3, 2), torch.zeros(3)), "targets"),
        (lambda: reliability_bins(torch.ones(3, 2), torch.tensor([0, 1, 2])), "targets"),
        (lambda: reliability_bins(torch.ones(3), torch.tensor([0, 1, 2])), "targets"),
        (lambda: reliability_bins(torch.ones(3, 2), torch.zeros(2, dtype=torch.int64)), "targets"),
        (
            lambda: reliability_bins(
                torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), weights=-torch.ones(3)
            ),
            "weights",
        ),
        (
            lambda: reliability_bins(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), bins=0),
            "bins",
        ),
        (
            lambda: calibration_sums(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)).bins(11),
            "bins",
        ),
        (
            lambda: reliability_bins_of_confidence(torch.tensor([1.2]), torch.tensor([True])),
            "confidence",
        ),
        (
            lambda: reliability_bins_of_confidence(torch.tensor([math.nan]), torch.tensor([True])),
            "confidence",
        ),
        (lambda: expected_calibration_error(torch.ones(3, 2)), "targets"),
        (lambda: classwise_bins(torch.ones(3, 2), torch.full((3, 2), 2)), "targets"),
        (lambda: classwise_bins(torch.ones(3, 2), torch.ones(3, 3).long()), "targets"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


def test_logits_that_look_like_probabilities_stay_logits():
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    expected = 1 - float(probs.softmax(1).amax(1).mean())
    assert reliability_bins(probs, torch.tensor([0, 1])).ece == pytest.approx(expected, abs=1e-7)


def test_the_checks_take_masked_classes():
    generator = torch.Generator().manual_seed(16)
    logits, _ = sample(16, 3000, 5)
    logits = logits.masked_fill(
        (torch.rand(3000, 5, generator=generator) < 0.3) & (torch.arange(5) > 0), -math.inf
    )
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    calm, bold = (Records(logits=scale * logits, targets=targets) for scale in (1.0, 2.0))
    assert confidence_equals_accuracy(calm)[0].severity is Severity.OK
    (finding,) = confidence_equals_accuracy(bold)
    assert finding.severity.level >= Severity.WARN.level
    assert finding.numbers["temperature"] == pytest.approx(2.0, abs=0.2)
    assert calm.confidence.tolist() == pytest.approx(logits.softmax(1).amax(1).tolist())


@pytest.mark.gpu
def test_cuda_counts_the_same():
    logits, targets = sample(15, 50_000, 10, dtype=torch.float32)
    on_host, on_device = (
        calibration_sums(logits, targets),
        calibration_sums(logits.cuda(), targets.cuda()),
    )
    assert on_device.bins().ece == pytest.approx(on_host.bins().ece, abs=1e-5)
    assert on_device.nll == pytest.approx(on_host.nll, rel=1e-5)

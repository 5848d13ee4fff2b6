"""The traps that other tools of calibration fall into, one test each; the numbers are those of a
survey of nine of them."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from gendebug_torch import Records
from gendebug_torch.calibration import (
    calibration_sums,
    classwise_bins,
    fit_affine,
    fit_temperature,
    recalibrate,
    reliability_bins,
    reliability_bins_of_confidence,
)
from gendebug_torch.callbacks import CalibrationError
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import binary, drawn, multilabel

ROWS = drawn(0, 3000, 4, scale=2.0)
Z, Y = ROWS.logits, ROWS.targets


def test_01_a_confidence_of_exactly_1_is_counted():
    found = reliability_bins_of_confidence(
        torch.tensor([0.95, 1.0]), torch.tensor([True, False]), bins=2
    )
    assert found.ece == pytest.approx(0.475)
    assert reliability_bins(torch.tensor([[900.0, 0.0]]), torch.tensor([1])).count[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_02_edges_belong_to_the_lower_bin_and_0_to_the_first(dtype):
    edges = torch.arange(16, dtype=torch.float64) / 15
    assert reliability_bins_of_confidence(edges, edges > 2).count.tolist() == [2] + [1] * 14
    for k in (2, 3, 5, 6, 10, 15, 30):
        equal = reliability_bins(
            torch.zeros(4, k, dtype=dtype), torch.zeros(4, dtype=torch.int64), bins=30
        )
        assert int(equal.count.nonzero()) == 30 // k - 1


def test_03_logits_in_0_to_1_are_not_taken_for_probabilities():
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert reliability_bins(logits, torch.tensor([0, 1])).mean_confidence == pytest.approx(
        float(logits.softmax(1).amax(1).mean())
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "take", [reliability_bins, calibration_sums, classwise_bins, fit_temperature, fit_affine]
)
def test_04_rows_that_are_not_finite_are_refused_with_their_number(take, value):
    broken = Z.clone()
    broken[[5, 9], 1] = value
    with pytest.raises(InputError, match="^`logits`" if take is fit_affine else r"^`logits`.* 2 "):
        take(broken, Y)


def test_05_a_masked_class_leaves_every_number_as_it_is():
    masked = torch.cat([Z, torch.full((3000, 1), -math.inf, dtype=Z.dtype)], 1)
    assert fit_temperature(masked, Y).temperature == pytest.approx(
        fit_temperature(Z, Y).temperature, rel=1e-9
    )
    assert torch.allclose(calibration_sums(masked, Y).scores, calibration_sums(Z, Y).scores)
    assert torch.allclose(
        fit_affine(masked, Y, family="temperature").scale,
        fit_affine(Z, Y, family="temperature").scale[0],
    )


def test_06_and_07_no_temperature_is_made_up_where_there_is_none():
    right = fit_temperature(Z, Z.argmax(1))
    assert (right.unbounded, right.temperature) == (True, 0.0)
    random = fit_temperature(
        Z, torch.randint(4, (3000,), generator=torch.Generator().manual_seed(0))
    )
    assert (random.unbounded, random.temperature) == (True, math.inf)
    worse = fit_temperature(Z, Z.argmin(1))
    assert worse.unbounded
    assert worse.temperature > 0


@pytest.mark.parametrize("scale", [1e4, 1e-3, 1e12])
def test_08_temperature_follows_the_scale_of_the_logits(scale):
    assert fit_temperature(scale * Z, Y).temperature == pytest.approx(
        scale * fit_temperature(Z, Y).temperature, rel=1e-6
    )


def test_09_half_logits_are_summed_in_full():
    half = Z.half()
    assert fit_temperature(half, Y).temperature == pytest.approx(
        fit_temperature(half.double(), Y).temperature, rel=1e-6
    )
    assert reliability_bins(half, Y).ece == pytest.approx(
        reliability_bins(half.double(), Y).ece, abs=1e-6
    )


def test_10_sums_do_not_stop_at_two_to_the_24():
    once = reliability_bins_of_confidence(torch.full((2**20,), 0.97), torch.arange(2**20) % 10 > 0)
    total = once
    for _ in range(5):
        total = total + total
    assert total.total == 2**25
    assert total.ece == pytest.approx(once.ece, abs=1e-12)


def test_11_one_logit_is_a_head_however_far_it_goes():
    one = binary(0, 3000, scale=2.0)
    expected = fit_temperature(one.logits, one.targets)
    for factor in (1.0, 20.0, 1e3):
        found = fit_temperature(factor * one.logits, one.targets)
        assert found.temperature == pytest.approx(factor * expected.temperature, rel=1e-6)
    bins = classwise_bins(one.logits, one.targets)
    assert float(bins.probability.sum()) == pytest.approx(float(one.logits.sigmoid().sum()))
    assert reliability_bins(one.logits, one.targets).mean_confidence >= 0.5


def test_12_every_label_of_a_multilabel_head_is_tested():
    labels = multilabel(0, 3000, scale=3.0)
    found = classwise_bins(labels.logits, labels.targets)
    assert int(found.ece.argmax()) == 3
    assert found.macro < 0.5 * float(found.ece[3])
    assert recalibrate(None, labels).chosen == "label_temperature"


def test_13_a_class_without_rows_keeps_a_finite_bias():
    kept = Y != 3
    for family in ("bias_corrected", "vector"):
        assert fit_affine(Z[kept], Y[kept], family=family).bias.isfinite().all()
    assert not fit_temperature(Z[Y == 1], Y[Y == 1]).temperature < 0
    assert (
        recalibrate(
            None, Records(logits=Z[kept], targets=Y[kept]), keep_predictions=False
        ).after.ece
        < 0.05
    )


def test_14_the_error_of_few_rows_stands_beside_what_chance_gives():
    few = [
        reliability_bins(*(lambda r: (r.logits, r.targets))(drawn(seed, 100, 10))).measure(
            replicates=200
        )
        for seed in range(30)
    ]
    assert np.mean([found.value for found in few]) > 0.07
    assert np.mean([found.null for found in few]) == pytest.approx(
        np.mean([found.value for found in few]), rel=0.1
    )
    assert sum(found.low == 0 for found in few) >= 27


def test_15_equal_confidences_share_a_bin_of_equal_mass():
    logits = torch.zeros(900, 2)
    logits[:, 0] = torch.arange(3.0).repeat(300)
    named = {
        m.measure: m.value
        for m in calibration_sums(logits, torch.zeros(900, dtype=torch.int64)).measures(
            replicates=5
        )
    }
    assert named["adaptive_ece"] == pytest.approx(named["ece"])


def test_16_a_weight_of_2_is_two_rows_and_of_0_none():
    weights = torch.arange(3000) % 3
    twice = Z.repeat_interleave(weights, 0), Y.repeat_interleave(weights)
    assert fit_temperature(Z, Y, weights=weights).standard_error == pytest.approx(
        fit_temperature(*twice).standard_error, rel=1e-9
    )
    one, two = reliability_bins(Z, Y, weights=weights).measure(), reliability_bins(*twice).measure()
    assert [one.value, one.low, one.high] == pytest.approx([two.value, two.low, two.high])


def test_17_ranks_add_and_rows_that_pad_a_batch_weigh_nothing():
    whole, state = CalibrationError(), CalibrationError()
    whole.update(Z, Y)
    for part in torch.arange(3000).split(700):
        state.update(Z[part], Y[part])
    assert float(state.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)
    padded = torch.cat([torch.arange(3000), torch.zeros(7, dtype=torch.int64)])
    once = (torch.arange(3007) < 3000).double()
    assert calibration_sums(Z[padded], Y[padded], weights=once).bins().ece == pytest.approx(
        calibration_sums(Z, Y).bins().ece, abs=1e-12
    )


@pytest.mark.parametrize(
    "take", [reliability_bins, calibration_sums, fit_temperature, classwise_bins]
)
def test_18_ignored_positions_are_as_if_dropped(take):
    dense, true = Z.view(30, 10, 10, 4).movedim(-1, 1), Y.view(30, 10, 10).clone()
    true[:, :3] = 255
    kept = true.reshape(-1) != 255
    found, expected = take(dense, true, ignore_index=255), take(Z[kept], Y[kept])
    for name in ("temperature", "ece", "nll"):
        if hasattr(expected, name):
            assert torch.allclose(
                torch.as_tensor(getattr(found, name)),
                torch.as_tensor(getattr(expected, name)),
                rtol=1e-7,
            )


def test_19_a_network_trained_with_smoothed_labels_gets_a_temperature_below_1():
    timid = drawn(1, 3000, 4, scale=0.5)
    found = recalibrate(None, timid)
    assert found.temperature.temperature == pytest.approx(
        0.5, abs=4 * found.temperature.standard_error
    )
    assert found.after.ece < 0.3 * found.before.ece


class Net(nn.Module):
    """Dropout and batch norm, in modes that the caller mixed, and logits three times too sharp."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)
        )

    def forward(self, x):
        return 3 * self.body(x)


@pytest.mark.filterwarnings("ignore:There is no finite temperature")
def test_20_modes_weights_and_random_states_are_left_as_they_were():
    model, x = Net().train(), torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    model.body[1].eval()
    kept, modes, state = (
        copy.deepcopy(model.state_dict()),
        [m.training for m in model.modules()],
        torch.get_rng_state(),
    )
    first = recalibrate(model, [(x, torch.arange(400) % 3)])
    assert recalibrate(model, [(x, torch.arange(400) % 3)]).before.ece == first.before.ece
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_21_training_rows_are_suspected():
    with pytest.warns(UserWarning, match="network trained on them"):
        recalibrate(None, ROWS, expected_accuracy=0.3)


def test_22_a_temperature_that_makes_it_worse_is_not_applied(shared_data):
    with np.load(shared_data / "logits" / "cleanlab_20news_test_set.npz") as archive:
        rows = Records(
            logits=torch.from_numpy(archive["logits"]),
            targets=torch.from_numpy(archive["labels"]).long(),
        )
    assert recalibrate(None, rows, candidates=["temperature"]).chosen == "none"


def test_23_no_rows_give_no_nan():
    assert reliability_bins(Z[:0], Y[:0]).ece == 0.0
    with pytest.raises(InputError, match=r"^`targets`"):
        fit_temperature(Z[:0], Y[:0])
    for empty in (
        Records(logits=Z[:0], targets=Y[:0]),
        Records(logits=Z[:0, 0], targets=Y[:0]),
        multilabel(0, 0),
    ):
        with pytest.raises(InputError, match=r"^`loader`"):
            recalibrate(None, empty)
    assert classwise_bins(Z[:0, 0], Y[:0]).macro == 0.0


def test_24_hard_zeros_are_no_logarithm_of_zero():
    probs = Z.softmax(1)
    probs = torch.where(probs < 0.01, 0.0, probs)
    right = probs.gather(1, Y[:, None])[:, 0] > 0
    logits = probs.log()[right]
    assert logits.isneginf().any()
    assert math.isfinite(calibration_sums(logits, Y[right]).nll)
    found = recalibrate(None, Records(logits=logits, targets=Y[right]))
    assert math.isfinite(found.after.ece)
    with pytest.raises(InputError, match=r"^`targets`.*-inf"):
        fit_temperature(probs.log(), Y)


def test_25_what_the_top_label_hides_the_other_measures_of_the_same_pass_show():
    z = Z / 2 + torch.tensor([2.0, 0.0, 0.0, -2.0])
    sums = calibration_sums(z, Y)
    assert {"adaptive_ece", "smooth_ece", "mce"} <= {m.measure for m in sums.measures(replicates=5)}
    classes = classwise_bins(z, Y)
    assert float(classes.ece.max()) > 1.5 * classes.macro

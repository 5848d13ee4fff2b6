"""Maps, the choice among them, and deployment: folded, exported, saved; the user's network is never
touched."""

import copy
import json
import math
import os

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import gendebug_torch as gd
from gendebug_torch.calibration import (
    calibration_sums,
    fit_affine,
    fit_temperature,
    load_calibration,
    recalibrate,
)
from gendebug_torch.calibration.map_choice import FITS, out_of_fold, predictions
from gendebug_torch.calibration.maps.folding import fold_affine
from gendebug_torch.calibration.maps.modules import CalibratedModel, as_module
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.model.formats import load_weights
from tests.contract.plants_calibration import drawn


class Net(nn.Module):
    """A small network with dropout and batch norm, whose logits are `scale` times too sharp."""

    def __init__(self, k=4, scale=3.0, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(32, k, bias=bias)
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, x):
        return self.head(self.body(x))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 5, 1, bias=False)

    def forward(self, x):
        return self.head(self.conv(x).relu())


def held_out(model, n=1200, sharpness=2.5, seed=0):
    """Inputs and labels drawn from what the network says, `sharpness` times less sure."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    with torch.no_grad():
        z = copy.deepcopy(model).eval()(x)
    if z.shape[1] == 1:
        return x, torch.bernoulli((z[:, 0] / sharpness).sigmoid(), generator=generator).long()
    return x, torch.multinomial((z / sharpness).softmax(1), 1, generator=generator)[:, 0]


def loader(model, **options):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*held_out(model, **options)), batch_size=256
    )


def test_out_of_fold_rows_are_mapped_by_fits_that_did_not_see_them():
    records = drawn(2, 200, 3, scale=2.0)
    mapped = out_of_fold(records.logits, records.targets, fit_temperature)
    held = torch.randperm(200, generator=torch.Generator().manual_seed(0))[0::5]
    rest = torch.ones(200, dtype=torch.bool)
    rest[held] = False
    expected = fit_temperature(records.logits[rest], records.targets[rest])(records.logits[held])
    assert torch.allclose(mapped[held], expected)


def test_an_overconfident_network_is_recalibrated_and_left_as_it_was():
    model = Net()
    model.train()
    kept = copy.deepcopy(model.state_dict())
    found = recalibrate(model, loader(model))
    assert model.training
    assert model.body[1].training
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key])
    assert found.chosen != "none"
    assert found.after.ece < 0.3 * found.before.ece
    assert found.temperature.temperature == pytest.approx(
        2.5, abs=4 * found.temperature.standard_error
    )
    x = torch.randn(7, 8)
    model.eval()
    assert torch.allclose(found.model(x), found(model(x)), atol=1e-4)
    assert torch.equal(found.model(x).argmax(1), model(x).argmax(1))
    assert list(found.table()["rows"]) == ["before", "after (out of fold)"]
    assert set(found.comparison()["map"]) == {"none", "temperature", "top_platt", "top_beta"}
    assert found.chosen in found.reason


def test_a_calibrated_network_stays_the_identity():
    kept = 0
    for seed in range(20):
        kept += gd.recalibrate(None, drawn(seed, 800, 5)).chosen == "none"
    assert kept >= 18


def test_what_temperature_makes_worse_is_not_taken(shared_data):
    with np.load(shared_data / "logits" / "cleanlab_20news_test_set.npz") as archive:
        z, y = torch.from_numpy(archive["logits"]), torch.from_numpy(archive["labels"]).long()
    found = recalibrate(None, gd.Records(logits=z, targets=y), candidates=["temperature"])
    assert found.chosen == "none"
    assert found.candidate("temperature").ece > found.before.ece
    better = recalibrate(None, gd.Records(logits=z, targets=y))
    assert better.after.ece < 0.02
    assert better.candidate(better.chosen).changed == 0


def test_maps_that_move_predictions_need_permission():
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    y = torch.multinomial((z + torch.tensor([0.0, 0.0, 1.5])).softmax(1), 1, generator=generator)[
        :, 0
    ]
    records = gd.Records(logits=z, targets=y)
    free = recalibrate(None, records, keep_predictions=False)
    assert free.chosen in ("bias_corrected", "vector")
    assert free.candidate(free.chosen).changed > 0
    strict = recalibrate(None, records, candidates=["bias_corrected", "temperature"])
    assert strict.chosen != "bias_corrected"


def test_a_masked_class_stays_masked():
    records = drawn(6, 2000, 5, scale=2.5)
    wrong = (records.targets + 1) % 5
    z = records.logits.scatter(1, wrong[:, None], -math.inf)
    found = recalibrate(None, gd.Records(logits=z, targets=records.targets))
    assert found.chosen != "none"
    assert torch.equal(found(z).isneginf(), z.isneginf())
    assert torch.equal(found(z).argmax(1), z.argmax(1))
    assert found.after.ece < found.before.ece


def test_rows_of_the_training_are_suspected():
    records = gd.Records(
        logits=9 * torch.eye(3)[torch.arange(1500) % 3], targets=torch.arange(1500) % 3
    )
    with pytest.warns(UserWarning, match="not trained on|finite temperature"):
        found = recalibrate(None, records)
    assert found.chosen == "none"
    assert len(found.warnings) == 2
    with pytest.warns(UserWarning, match="network trained on them"):
        recalibrate(None, drawn(0, 900, 4, scale=2.0), expected_accuracy=0.3)


def labeled_pixels(model, samples=40, size=8, sharpness=2.5, ignored=0.2):
    """Images with a label per pixel, drawn from what the network says `sharpness` times less sure;
    some are 255."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 3, size, size, generator=generator)
    with torch.no_grad():
        z = model(x).movedim(1, -1)
    y = torch.multinomial(
        (z / sharpness).softmax(-1).reshape(-1, z.shape[-1]), 1, generator=generator
    ).view(samples, size, size)
    return x, y.masked_fill(torch.rand(y.shape, generator=generator) < ignored, 255)


def test_a_dense_network_is_recalibrated_position_by_position_and_folded():
    model = Dense().eval()
    with torch.no_grad():
        model.head.weight.mul_(6)
    x, y = labeled_pixels(model)
    batches = [(x[:15], y[:15]), (x[15:], y[15:])]
    found = recalibrate(model, batches, ignore_index=255, candidates=["temperature"])
    kept = y != 255
    assert found.before.total == int(kept.sum())
    with torch.no_grad():
        z = model(x)
        exact = fit_temperature(z, y, ignore_index=255)
        assert found.temperature.temperature == pytest.approx(exact.temperature, rel=1e-5)
        assert found.chosen == "temperature"
        assert found.temperature.temperature == pytest.approx(
            2.5, abs=4 * found.temperature.standard_error
        )
        assert found.model(x).shape == z.shape
        assert torch.allclose(found.fold()(x), found.model(x), atol=1e-5)
        assert (
            calibration_sums(found.model(x), y, ignore_index=255).bins().ece
            < 0.5 * found.before.ece
        )
    free = recalibrate(nn.Identity(), [(z, y)], ignore_index=255, keep_predictions=False)
    assert {"vector", "top_beta"} <= set(free.comparison()["map"])
    with pytest.raises(InputError, match=r"^`targets`.*255"):
        recalibrate(model, batches)
    with pytest.raises(InputError, match="samples"):
        recalibrate(model, [(x[:5], y[:5])], ignore_index=255)


def test_positions_of_one_sample_are_no_independent_rows():
    generator = torch.Generator().manual_seed(7)
    z = 2 * torch.randn(30, 3, generator=generator)
    y = torch.multinomial((z / 1.5).softmax(1), 1, generator=generator)[:, 0]
    same_everywhere = (
        z[:, :, None, None].expand(-1, -1, 16, 16),
        y[:, None, None].expand(-1, 16, 16),
    )
    one, many = (
        recalibrate(nn.Identity(), [rows]).candidate("temperature")
        for rows in ((z, y), same_everywhere)
    )
    assert many.gain == pytest.approx(one.gain, abs=1e-6)
    assert many.gain_error == pytest.approx(one.gain_error, rel=1e-4)


def multilabel(seed=0, n=3000, scales=(1.0, 3.0, 0.5), biases=(0.0, 0.0, 0.0)):
    """Labels drawn one by one from logits that are `scales` times too sharp and `biases` off."""
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(n, len(scales), generator=generator, dtype=torch.float64)
    y = torch.bernoulli(z.sigmoid(), generator=generator).long()
    return z * torch.tensor(scales).double() + torch.tensor(biases).double(), y


def test_each_label_of_a_multilabel_head_gets_its_temperature(tmp_path):
    z, y = multilabel()
    found = recalibrate(None, gd.Records(logits=z, targets=y))
    assert set(found.comparison()["map"]) == {"none", "temperature", "label_temperature"}
    assert found.chosen == "label_temperature"
    assert found.before.total == y.numel()
    assert torch.allclose(1 / found.fitted.scale, torch.tensor([1.0, 3.0, 0.5]).double(), rtol=0.15)
    assert torch.equal(found(z) > 0, z > 0)
    assert found.after.ece < 0.4 * found.before.ece
    assert torch.allclose(
        load_calibration(found.save(tmp_path / "out"))(z.float()), found(z.float()), atol=1e-5
    )
    same = recalibrate(
        None, gd.Records(logits=z, targets=y.double()), candidates=["label_temperature"]
    )
    assert torch.equal(same.fitted.scale, found.fitted.scale)


def test_a_multilabel_network_is_folded_and_an_uninformative_label_unchanged():
    model = Net(k=3, scale=4.0).eval()
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        z = model(x)
    y = torch.bernoulli((z / 2.5).sigmoid(), generator=torch.Generator().manual_seed(4)).long()
    y[:, 2] = (z[:, 2] > 0).long()
    found = recalibrate(model, [(x, y)], candidates=["label_platt"], keep_predictions=False)
    assert found.chosen == "label_platt"
    assert (float(found.fitted.scale[2]), float(found.fitted.bias[2])) == (1.0, 0.0)
    off = (found.fitted.scale[:2] - 0.4).abs() / found.fitted.scale_error[:2]
    assert float(off.max()) < 3.5
    with torch.no_grad():
        assert torch.allclose(found.fold()(x), found.model(x), atol=1e-5)
    assert FITS.keys() & set(found.comparison()["map"]) == set()
    kept = sum(
        recalibrate(
            None,
            gd.Records(
                **dict(zip(("logits", "targets"), multilabel(s, 600, (1, 1, 1)), strict=True))
            ),
        ).chosen
        == "none"
        for s in range(20)
    )
    assert kept >= 18


@pytest.mark.parametrize("family", ["temperature", "bias_corrected", "vector"])
@pytest.mark.parametrize("bias", [True, False])
def test_folding_is_exact_and_changes_no_prediction(family, bias):
    model = Net(bias=bias).eval()
    x, y = held_out(model)
    with torch.no_grad():
        z = model(x)
    fitted = fit_affine(z, y, family=family)
    folded = fold_affine(model, fitted.scale, fitted.bias, x[:16])
    with torch.no_grad():
        expected, got = fitted(z), folded(x)
    assert float((got - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    assert int((got.argmax(1) != expected.argmax(1)).sum()) == 0
    assert type(folded) is type(model)
    assert [type(m) for m in folded.modules()] == [type(m) for m in model.modules()]


def test_folding_a_dense_and_a_single_logit_head():
    dense, x = Dense().eval(), torch.randn(4, 3, 6, 6)
    scale, bias = torch.rand(5) + 0.5, torch.randn(5)
    with torch.no_grad():
        expected = dense(x) * scale.view(1, 5, 1, 1) + bias.view(1, 5, 1, 1)
        assert torch.allclose(fold_affine(dense, scale, bias, x)(x), expected, atol=1e-6)
    one = Net(k=1).eval()
    found = recalibrate(one, loader(one, n=4000), candidates=["temperature"])
    assert found.chosen == "temperature"
    x = torch.randn(9, 8)
    with torch.no_grad():
        assert torch.allclose(found.fold()(x), found.model(x), atol=1e-6)
        assert found.model(x).shape == (9, 1)


def test_what_cannot_be_folded_is_refused():
    class Normed(Net):
        def forward(self, x):
            return super().forward(x).log_softmax(1)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
            self.head.weight = self.first.weight

        def forward(self, x):
            return self.head(self.first(x).relu())

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 8)

        def forward(self, x):
            return self.head(self.head(x).relu())

    for model in (Normed().eval(), Tied().eval(), Twice().eval()):
        kept = copy.deepcopy(model.state_dict())
        with pytest.raises(UnsupportedError, match=r"ship `\.model`"):
            fold_affine(model, torch.tensor(0.5), torch.tensor(0.0), torch.randn(4, 8))
        assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    model = Net()
    with pytest.raises(UnsupportedError, match="affine"):
        recalibrate(model, loader(model), candidates=["top_platt"]).fold()
    with pytest.raises(UnsupportedError, match="nothing to fold"):
        recalibrate(None, drawn(0, 200, 3)).fold()


MAPS = ["temperature", "bias_corrected", "vector", "top_platt", "top_beta"]


@pytest.mark.parametrize("name", MAPS)
def test_exported_programs_agree(name):
    model = Net().eval()
    x, y = held_out(model)
    with torch.no_grad():
        z = model(x)
    fitted = FITS[name](z, y)
    whole = CalibratedModel(model, as_module(fitted)).eval()
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(whole, (x[:8],), dynamic_shapes={"inputs": ({0: rows},)})
    with torch.no_grad():
        assert torch.allclose(program.module()(x[:50]), fitted(z)[:50], atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.parametrize("name", ["folded", "top_beta"])
def test_onnx_says_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    if torch.__version__.startswith("2.6."):
        pytest.skip("PyTorch 2.6 does not export batch normalisation to ONNX")
    model = Net().eval()
    x, _ = held_out(model)
    found = recalibrate(
        model, loader(model), candidates=["temperature" if name == "folded" else name]
    )
    whole = found.fold().eval() if name == "folded" else found.model.eval()
    torch.onnx.export(
        whole, (x[:8],), tmp_path / "net.onnx", dynamo=True, verbose=False, dynamic_shapes=None
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {session.get_inputs()[0].name: x[:8].numpy()})
    with torch.no_grad():
        assert np.allclose(got, found.model(x[:8]).numpy(), atol=1e-4)


@pytest.mark.parametrize("name", [*MAPS, "none"])
def test_the_artefact_comes_back(name, tmp_path):
    records = drawn(3, 1500, 4, scale=1.0 if name == "none" else 2.5)
    generator = torch.Generator().manual_seed(0)
    if name in ("bias_corrected", "vector"):
        shifted = (records.logits / 2.5 + torch.tensor([0.0, 0.5, 1.0, 1.5])).softmax(1)
        records = gd.Records(
            logits=records.logits, targets=torch.multinomial(shifted, 1, generator=generator)[:, 0]
        )
    candidates = None if name == "none" else [name]
    found = recalibrate(None, records, candidates=candidates, keep_predictions=False)
    assert found.chosen == name
    place = found.save(tmp_path / "out")
    saved = json.loads((place / "calibration.json").read_text())
    assert saved["chosen"] == name
    assert len(saved["data_sha256"]) == 64
    assert saved["standard_error"] > 0
    assert saved["ece"]["before"] == pytest.approx(found.before.ece)
    assert saved["gendebug_torch"] == gd.__version__
    module = load_calibration(place)
    assert torch.allclose(module(records.logits.float()), found(records.logits.float()), atol=1e-4)


def test_an_interrupted_write_leaves_the_old_artefact(tmp_path, monkeypatch):
    found = recalibrate(None, drawn(4, 800, 4, scale=2.5), candidates=["temperature"])
    place = found.save(tmp_path / "out")
    old = {path.name: path.read_bytes() for path in place.iterdir()}

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left"):
        recalibrate(None, drawn(5, 800, 4, scale=2.5), candidates=["temperature"]).save(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError, match=r"^`directory`"):
        load_calibration(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_chosen_map_on_real_logits(shared_data):
    errors = []
    for name in (
        "netcal_densenet_bc_100_cifar_100",
        "netcal_lenet_5_cifar_10",
        "resnet50_cifar10",
        "cleanlab_imdb_test_set",
        "cleanlab_20news_test_set",
    ):
        with np.load(shared_data / "logits" / f"{name}.npz") as archive:
            side = "test_" if "test_logits" in archive else ""
            z, y = (
                torch.from_numpy(archive[f"{side}logits"]),
                torch.from_numpy(archive[f"{side}labels"]).long(),
            )
        for seed in range(5):
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
            fit, test = order[: len(z) // 2], order[len(z) // 2 :]
            found = recalibrate(None, gd.Records(logits=z[fit], targets=y[fit]), seed=seed)
            mapped, scaled = found(z[test]), fit_temperature(z[fit], y[fit])(z[test])
            errors.append(calibration_sums(mapped, y[test]).bins().ece)
            assert int((predictions(mapped) != predictions(z[test])).sum()) == 0
            assert (
                calibration_sums(mapped, y[test]).nll
                <= calibration_sums(scaled, y[test]).nll + 0.005
            )
    assert np.mean(errors) <= 0.015


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: recalibrate(None, [1, 2]), "model"),
        (lambda: recalibrate(None, gd.Records(logits=torch.zeros(20, 3))), "loader"),
        (lambda: recalibrate(None, drawn(0, 5)), "loader"),
        (lambda: recalibrate(None, drawn(0, 50), candidates=["magic"]), "candidates"),
        (
            lambda: recalibrate(
                None, gd.Records(logits=torch.zeros(20, 3), targets=torch.full((20, 3), 0.5))
            ),
            "targets",
        ),
        (
            lambda: recalibrate(
                None, gd.Records(logits=torch.zeros(20, 3), targets=torch.zeros(20, 2))
            ),
            "targets",
        ),
        (lambda: recalibrate(nn.Identity(), [torch.zeros(20, 3)]), "loader"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("calibration.json", b""),
        ("calibration.json", b"\xff"),
        ("calibration.json", b"null"),
        ("calibration.json", b"[1]"),
        ("calibration.json", b'{"module": 3}'),
        ("calibration.json", b'{"module": ["AffineModule"]}'),
        ("calibration.json", b"[" * 100_000),
        ("calibration.json", b'{"module": "IsotonicModule"}'),
        ("calibration.json", b'{"module": "TopLabelModule"}'),
        ("calibration.safetensors", b""),
        ("calibration.safetensors", b"\xff" * 100),
    ],
)
def test_a_damaged_directory_is_refused_by_name(tmp_path, name, content):
    found = recalibrate(None, drawn(4, 800, 4, scale=2.5), candidates=["temperature"])
    place = found.save(tmp_path / "out")
    (place / name).write_bytes(content)
    with pytest.raises(InputError, match="out"):
        load_calibration(place)


def test_a_damaged_network_beside_its_map_is_refused(tmp_path):
    network, data = torch.nn.Linear(3, 3), drawn(4, 800, 3, scale=2.5)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3))
    rows = gd.Records(data.logits.float(), data.targets)
    found = recalibrate(network, rows, candidates=["temperature"])
    path = found.save(tmp_path) / "model.safetensors"
    load_weights(found.model, str(path))
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(InputError, match=r"model\.safetensors: its SHA-256 is not the one in"):
        load_weights(found.model, str(path))


def test_a_full_disk_leaves_the_old_directory_whole(tmp_path, monkeypatch):
    found = recalibrate(None, drawn(4, 800, 4, scale=2.5), candidates=["temperature"])
    place = found.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def full(*_, **__):
        raise SafetensorError("I/O error: File too large (os error 27)")

    monkeypatch.setattr("safetensors.torch.save", full)
    with pytest.raises(InputError, match="File too large"):
        found.save(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before

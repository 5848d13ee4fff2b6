"""Networks as they are deployed: TorchScript, quantized, on a GPU; which map is preferred; and a
monitor after its training."""

import io

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records
from gendebug_torch.calibration import calibration_sums, load_calibration, recalibrate
from gendebug_torch.calibration.map_choice import Candidate, chosen_map
from gendebug_torch.calibration.rows.model_outputs import summed_by_slot
from gendebug_torch.callbacks import CalibrationMonitor
from gendebug_torch.errors import UnsupportedError
from tests.contract.plants_calibration import binary, drawn, multilabel


class Net(nn.Module):
    """A network whose logits are its inputs, in two layers."""

    def __init__(self, k=4):
        super().__init__()
        self.body, self.head = nn.Linear(k, k, bias=False), nn.Linear(k, k)
        nn.init.eye_(self.body.weight)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.head(self.body(x))


RECORDS = drawn(0, 1500, 4, scale=2.5)
X, Y = RECORDS.logits.float(), RECORDS.targets


def frozen_and_loaded():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(Net().eval())), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


SCRIPTED = {
    "scripted": lambda: torch.jit.script(Net().eval()),
    "traced": lambda: torch.jit.trace(Net().eval(), X[:3]),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(Net().eval())),
    "frozen and loaded": frozen_and_loaded,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("form", SCRIPTED)
def test_torchscript_is_recalibrated_but_not_folded(form, tmp_path):
    network = SCRIPTED[form]()
    expected = recalibrate(Net(), [(X, Y)])
    found = recalibrate(network, [(X, Y)])
    assert found.comparison().equals(expected.comparison())
    assert torch.allclose(found.model(X), expected.model(X), atol=1e-5)
    scaled = recalibrate(network, [(X, Y)], candidates=["temperature"])
    with pytest.raises(UnsupportedError, match="TorchScript module cannot be folded"):
        scaled.fold()
    if form == "scripted":
        found.save(tmp_path / "out")
        assert torch.allclose(load_calibration(tmp_path / "out")(X), found(X), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_of_a_quantized_network_the_map_is_saved(tmp_path):
    quantized = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)
    found = recalibrate(quantized, [(X, Y)])
    assert found.model(X).shape == X.shape
    with pytest.warns(UserWarning, match=r"model\.safetensors is not written"):
        place = found.save(tmp_path / "out")
    assert not (place / "model.safetensors").exists()
    assert torch.allclose(load_calibration(place)(X), found(X), atol=1e-5)


def candidate(name, nll, ece):
    sums = calibration_sums(X, Y)
    return Candidate(name, sums, (), 0.5 - nll, 0.001, nll, 0.01, 0, ece)


def test_of_equal_maps_the_one_that_folds_is_chosen():
    none = candidate("none", 0.5, 0.2)
    temperature, beta = candidate("temperature", 0.1004, 0.0105), candidate("top_beta", 0.1, 0.01)
    assert chosen_map([none, temperature, beta])[0] == "temperature"
    better = candidate("top_beta", 0.1, 0.005)
    assert chosen_map([none, temperature, better])[0] == "top_beta"
    likelier = candidate("top_beta", 0.05, 0.01)
    assert chosen_map([none, temperature, likelier])[0] == "top_beta"


def test_sums_by_slot_are_those_of_bincount():
    slots, values = torch.tensor([0, 2, 2, 5]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert summed_by_slot(slots, values, 7).tolist() == [1.0, 0, 5.0, 0, 0, 4.0, 0]


class Learner(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        return {"logits": self.net(batch[0]), "targets": batch[1]}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_validation_after_the_training_adds_no_epoch():
    monitor, learner = CalibrationMonitor(), Learner()
    rows = DataLoader(TensorDataset(X[:200], Y[:200]), 50)
    other = DataLoader(TensorDataset(X[200:260], Y[200:260]), 50)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, callbacks=[monitor], **quiet)
    trainer.fit(learner, rows, rows)
    before = {epoch: sums.nll for epoch, sums in monitor.history.items()}
    trainer.validate(learner, other)
    assert {epoch: sums.nll for epoch, sums in monitor.history.items()} == before
    assert sorted(before) == [0, 1]
    alone = CalibrationMonitor()
    pl.Trainer(accelerator="cpu", callbacks=[alone], **quiet).validate(learner, other)
    assert [sums.cells.total for sums in alone.history.values()] == [60]


HEADS = {
    "classes": lambda: (X, Y, ["temperature", "vector", "top_beta"]),
    "binary": lambda: (
        binary(0, 1500, scale=2.5).logits.float()[:, None],
        binary(0, 1500, scale=2.5).targets,
        ["temperature", "bias_corrected", "top_platt", "isotonic"],
    ),
    "labels": lambda: (
        multilabel(0, 1500, scale=3.0).logits.float(),
        multilabel(0, 1500, scale=3.0).targets,
        ["label_temperature", "label_platt"],
    ),
}


@pytest.mark.gpu
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("where", ["network on CUDA", "records on CUDA"])
def test_every_map_works_on_a_gpu(head, where):
    x, y, names = HEADS[head]()
    network = Net(x.shape[1]).cuda()
    for name in names:
        options = {"candidates": [name], "keep_predictions": False}
        expected = recalibrate(Net(x.shape[1]), [(x, y)], device="cpu", **options)
        if where == "network on CUDA":
            found = recalibrate(network, [(x, y)], device="cuda", **options)
            assert next(network.parameters()).is_cuda
            assert torch.allclose(found.model(x.cuda()).cpu(), expected.model(x), atol=1e-4)
            if name not in ("top_beta", "top_platt", "isotonic") and found.chosen != "none":
                assert torch.allclose(found.fold()(x.cuda()).cpu(), expected.model(x), atol=1e-4)
        else:
            z = x[:, 0] if x.shape[1] == 1 else x
            found = recalibrate(None, Records(logits=z, targets=y).to("cuda"), **options)
            assert torch.allclose(found(z.cuda()).cpu(), expected(z), atol=1e-4)
        assert found.chosen == expected.chosen
        assert found.after.ece == pytest.approx(expected.after.ece, abs=1e-4)


@pytest.mark.gpu
def test_deterministic_mode_counts_on_a_gpu():
    torch.use_deterministic_algorithms(True)
    try:
        found = calibration_sums(X.cuda(), Y.cuda(), weights=torch.ones(len(Y)).cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.bins().ece == pytest.approx(calibration_sums(X, Y).bins().ece, abs=1e-6)

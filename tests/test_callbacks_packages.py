"""Modules and Trainers of `lightning` and of `pytorch_lightning`, which are different classes."""

from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.callbacks import (
    CalibrationMonitor,
    LearningCurveMonitor,
    TrainingDynamicsMonitor,
    learning_curve_over_sizes,
)
from tests.contract.test_devices import assert_same


def package_of(name):
    package = import_module(name)
    old = package.__version__.startswith(("2.4.", "2.5."))
    reason = f"{name} {package.__version__} refuses every callback of lightning, as 2.6 does not"
    skipped = pytest.mark.skipif(old and name == "pytorch_lightning", reason=reason)
    return pytest.param(package, id=name, marks=skipped)


each_package = pytest.mark.parametrize(
    "package", [package_of(name) for name in ("lightning.pytorch", "pytorch_lightning")]
)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}


def rows(n=64):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x.sum(1) > 0).long(), torch.arange(n))


def loader(n=64):
    return DataLoader(rows(n), batch_size=16)


def module_of(package):
    """A classifier that returns what the monitors read, as a module of this package."""

    class Classifier(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            logits = self.net(batch[0])
            loss = cross_entropy(logits, batch[1])
            return {"loss": loss, "logits": logits, "targets": batch[1], "ids": batch[2]}

        def validation_step(self, batch, index):
            logits = self.net(batch[0])
            loss = cross_entropy(logits, batch[1])
            return {"loss": loss, "logits": logits, "targets": batch[1]}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.5)

    torch.manual_seed(0)
    return Classifier()


def trained(package, n=64, **options):
    """The monitors after three epochs of n rows."""
    monitors = [LearningCurveMonitor(), CalibrationMonitor(), TrainingDynamicsMonitor(samples=n)]
    trainer = package.Trainer(callbacks=monitors, max_epochs=3, **QUIET | options)
    trainer.fit(module_of(package), loader(n), loader(n))
    return monitors


def seen(monitors):
    """What each of them recorded."""
    curves, calibration, dynamics = monitors
    return curves.curves, calibration.table(), dynamics.dynamics


@each_package
def test_monitors_see_every_epoch(package):
    curves, calibration, dynamics = seen(trained(package, accelerator="cpu"))
    assert len(curves.val_loss) == 3
    assert len(calibration) == 3
    assert dynamics.epochs.tolist() == [3] * 64


@each_package
def test_curves_over_sizes(package):
    class Data(package.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def val_dataloader(self):
            return loader()

    found = learning_curve_over_sizes(
        lambda: module_of(package), Data(), [16, 64], seeds=(0,), max_epochs=2, accelerator="cpu"
    )
    assert found.val_loss.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_training_on_cuda_is_watched_as_one_on_the_host(deterministic):
    """Deterministic mode refuses some sums of CUDA; a monitor must not end a training by them."""
    package = import_module("lightning.pytorch")
    try:
        found = trained(package, accelerator="cuda", devices=1, deterministic=deterministic)
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(seen(found), seen(trained(package, accelerator="cpu")), strict=True):
        assert_same(one, other)


@pytest.mark.gpu
def test_no_step_of_a_training_waits_for_a_monitor(simulated):
    package = import_module("lightning.pytorch")
    waits = []
    for n in (64, 256):
        with simulated.counts() as counted:
            trained(package, n, accelerator="cuda", devices=1)
        waits.append(counted.waits)
    # Lines of this library; Lightning copies each batch, which lies in pageable memory here.
    assert not {place for place in waits[1] - waits[0] if place[1]}

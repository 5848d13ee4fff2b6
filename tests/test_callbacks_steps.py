"""Trainings counted in steps: one long epoch with many validations gets a verdict, and stops."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gendebug_torch import Severity
from gendebug_torch.callbacks import LearningCurveMonitor

EVERY = 10
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Endless(IterableDataset):
    """A stream without an end, as of tokens or sensor readings."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            x = torch.randn(3, generator=generator)
            yield x, x.sum()[None]


class Planted(pl.LightningModule):
    """A validation loss that is a function of the optimizer steps."""

    def __init__(self, rise):
        super().__init__()
        self.net, self.rise = nn.Linear(3, 1), rise

    def training_step(self, batch, index):
        return mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        check = self.trainer.global_step / EVERY
        noise = torch.randn(1, generator=torch.Generator().manual_seed(int(check)))[0]
        return 0.5 + 2.0 ** (-check / 2) + self.rise * max(check - 12, 0) + 0.005 * noise

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(rise, train=None, **options):
    pl.seed_everything(0, verbose=False)
    monitor = LearningCurveMonitor(stop_on_inflection=options.pop("stop_on_inflection", False))
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[monitor], num_sanity_val_steps=0, **QUIET, **options
    )
    val = DataLoader(TensorDataset(torch.zeros(4, 3), torch.zeros(4, 1)), 4)
    trainer.fit(Planted(rise), train or DataLoader(Endless(), 4), val)
    return monitor, trainer


def test_an_endless_stream_gets_the_verdict_of_its_checks():
    monitor, _ = fit(0.03, max_steps=400, val_check_interval=EVERY)
    assert len(monitor.curves) == 1
    assert len(monitor.check_curves) == 40
    regime, gap = monitor.findings
    assert (regime.cause, regime.severity) == ("overfitting", Severity.FAIL)
    assert regime.summary.startswith("Overfits after step 1")
    assert abs(monitor.diagnosis.inflection_epoch - 120) <= 2 * EVERY
    assert "steps the validation loss is" in gap.summary


@pytest.mark.parametrize("rise", [0.03, 0.0])
def test_stopping_acts_within_the_epoch_and_only_on_a_rise(rise, caplog):
    caplog.set_level(logging.WARNING, "gendebug_torch")
    _, trainer = fit(rise, max_steps=400, val_check_interval=EVERY, stop_on_inflection=True)
    if rise:
        assert 130 <= trainer.global_step <= 220
        (record,) = caplog.records
        assert record.message.startswith(f"step {trainer.global_step}: Overfits after step 1")
    else:
        assert trainer.global_step == 400
        assert not caplog.records


def test_checks_across_epochs_are_judged_while_the_epochs_are_few():
    rows = TensorDataset(torch.zeros(400, 3), torch.zeros(400, 1))
    options = {"max_epochs": 4, "val_check_interval": EVERY, "check_val_every_n_epoch": None}
    monitor, _ = fit(0.03, DataLoader(rows, 4), **options)
    assert len(monitor.curves) == 4
    assert monitor.diagnosis.regime == "overfit"
    assert monitor.diagnosis.curves.unit == "step"


def test_where_epochs_are_enough_they_are_judged():
    rows = TensorDataset(torch.zeros(80, 3), torch.zeros(80, 1))
    monitor, _ = fit(0.03, DataLoader(rows, 4), max_epochs=20, val_check_interval=EVERY)
    assert monitor.diagnosis.curves.unit == "epoch"
    assert len(monitor.diagnosis.curves) == 20

"""No monitor ends a training by an error of its own: it is logged once and kept as a finding."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Severity
from gendebug_torch.callbacks import (
    AttributionMonitor,
    BehaviorMonitor,
    CalibrationMonitor,
    LearningCurveMonitor,
    TrainingDynamicsMonitor,
)
from gendebug_torch.errors import InputError

ROWS, EPOCHS = 40, 3
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        logits = self(batch[0])
        loss = cross_entropy(logits, batch[1])
        return {"loss": loss, "logits": logits, "targets": batch[1], "ids": batch[2]}

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader():
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long(), torch.arange(ROWS)), 8)


def fit(monitor, module=Network, **options):
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, "accelerator": "cpu"} | options
    trainer = pl.Trainer(callbacks=[monitor], **QUIET, **options)
    trainer.fit(module(), loader(), loader())
    return trainer


def fails_later():
    """A reader that works on the first steps and breaks on all others."""
    count = iter(range(10**6))

    def read(module, batch, outputs):
        if next(count) >= 2:
            raise ZeroDivisionError("nothing to read")
        return outputs["logits"], outputs["targets"]

    return read


class Broken(BehaviorMonitor):
    def __init__(self):
        super().__init__(suite(), predict=lambda module: 1 / 0)


def suite():
    from gendebug_torch.behavior import Case, Suite

    return Suite((Case("up", {"a": 0}, "higher", {"a": 1}),), features=("a",))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearningCurveMonitor(read=lambda *step: 1 / 0),
        lambda: CalibrationMonitor(read=fails_later()),
        lambda: TrainingDynamicsMonitor(ROWS, read=lambda *step: 1 / 0),
        lambda: AttributionMonitor(unpack=lambda batch: 1 / 0),
        Broken,
    ],
    ids=["curves", "calibration", "dynamics", "attribution", "behavior"],
)
def test_a_broken_reader_ends_no_training_and_is_reported_once(make, caplog):
    caplog.set_level(logging.WARNING, "gendebug_torch")
    monitor = make()
    assert fit(monitor).current_epoch == EPOCHS
    errored = [finding for finding in monitor.findings if finding.severity is Severity.ERRORED]
    assert errored
    assert all("division" in finding.summary or "read" in finding.summary for finding in errored)
    assert all("traceback" in finding.numbers for finding in errored)
    warnings = [record for record in caplog.records if "The monitor failed" in record.message]
    assert len(warnings) == len(errored) == len({record.message for record in warnings})


class Ragged(Network):
    """Sequences of another length in the second validation batch, as dynamic padding makes them."""

    def validation_step(self, batch, index):
        length = 5 if index == 0 else 3
        logits = self(batch[0])[:, :, None].expand(-1, -1, length)
        return {
            "loss": logits.mean(),
            "logits": logits,
            "targets": batch[1][:, None].expand(-1, length),
        }


@pytest.mark.parametrize("sanity", [0, 1])
def test_batches_of_unequal_length_end_no_training(sanity):
    monitor = CalibrationMonitor()
    assert fit(monitor, Ragged, num_sanity_val_steps=sanity).current_epoch == EPOCHS


class Bare(Network):
    def validation_step(self, batch, index):
        return cross_entropy(self(batch[0]), batch[1])


def test_wrong_input_is_raised_before_the_training_and_reported_after_it_began():
    with pytest.raises(InputError, match="read=extra_forward"):
        fit(CalibrationMonitor(), Bare, num_sanity_val_steps=1)
    monitor = CalibrationMonitor()
    assert fit(monitor, Bare).current_epoch == EPOCHS
    (errored,) = monitor.findings
    assert "read=extra_forward" in errored.summary

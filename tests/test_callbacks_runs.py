"""All monitors together through the options of a Trainer: what they count, what a resume keeps, and
that no step waits."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.behavior import Case, Suite
from gendebug_torch.calibration import calibration_sums
from gendebug_torch.callbacks import (
    BehaviorMonitor,
    CalibrationMonitor,
    LearningCurveMonitor,
    TrainingDynamicsMonitor,
)
from tests.versions import WEIGHTS_ONLY

ROWS, BATCH = 50, 8
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def data(rows=ROWS, seed=0):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long(), torch.arange(rows))


def loader(rows=ROWS, seed=0):
    return DataLoader(data(rows, seed), BATCH)


class Learner(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def step(self, batch):
        logits = self.net(batch[0])
        return {
            "loss": cross_entropy(logits, batch[1]),
            "logits": logits,
            "targets": batch[1],
            "ids": batch[2],
        }

    def training_step(self, batch, index):
        return self.step(batch)

    def validation_step(self, batch, index, dataloader_idx=0):
        return self.step(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Manual(Learner):
    """Two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD([parameter], 0.1) for parameter in self.parameters()]

    def training_step(self, batch, index):
        out = self.step(batch)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(out["loss"])
        for optimizer in self.optimizers():
            optimizer.step()
        return out


class Literal(Callback):
    """All logits of the last validation of each epoch, and how often each row was trained on."""

    def __init__(self):
        self.checks, self.trained = {}, torch.zeros(ROWS, dtype=torch.int64)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.trained[batch[2]] += 1

    def on_validation_epoch_start(self, trainer, module):
        if not trainer.sanity_checking:
            self.checks[trainer.current_epoch] = []

    def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0):
        if not trainer.sanity_checking:
            self.checks[trainer.current_epoch].append((outputs["logits"], outputs["targets"]))


OPTIONS = {
    "plain, the last batch shorter": {},
    "all rows as sanity steps": {"num_sanity_val_steps": -1},
    "validation within epochs": {"val_check_interval": 0.5},
    "validation by steps, across epochs": {
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
    },
    "validation every second epoch": {"check_val_every_n_epoch": 2},
    "accumulation": {"accumulate_grad_batches": 3},
    "limited batches": {"limit_train_batches": 4, "limit_val_batches": 2},
    "no validation batches": {"limit_val_batches": 0},
    "fast_dev_run": {"fast_dev_run": True},
    "max_steps within an epoch": {"max_steps": 10, "max_epochs": -1},
    "several validation loaders": {"val": [loader(seed=1), loader(20, seed=2)]},
    "two optimizers by hand": {"module": Manual},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_calibration_and_dynamics_count_what_a_literal_reader_counts(options):
    options = {"max_epochs": 2, "module": Learner, "val": loader(seed=1)} | options
    module, val = options.pop("module"), options.pop("val")
    calibration, dynamics, literal = (
        CalibrationMonitor(diagrams=False),
        TrainingDynamicsMonitor(ROWS),
        Literal(),
    )
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[calibration, dynamics, literal], **QUIET, **options
    )
    trainer.fit(module(), loader(), val)
    assert sorted(calibration.history) == sorted(literal.checks)
    for epoch, pairs in literal.checks.items():
        expected = calibration_sums(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
        assert torch.equal(calibration.history[epoch].cells.count, expected.cells.count)
        assert torch.equal(calibration.history[epoch].cells.correct, expected.cells.correct)
        assert torch.allclose(calibration.history[epoch].scores, expected.scores)
    assert torch.equal(dynamics.dynamics.epochs, literal.trained)


def test_a_new_training_begins_anew_and_a_continued_one_goes_on():
    calibration, dynamics = CalibrationMonitor(diagrams=False), TrainingDynamicsMonitor(ROWS)

    def trained(epochs):
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[calibration, dynamics], **QUIET
        )
        trainer.fit(Learner(), loader(), loader(seed=1))
        return trainer

    trained(3)
    trainer = trained(2)
    assert sorted(calibration.history) == [0, 1]
    assert (dynamics.dynamics.epochs == 2).all()
    trainer.fit_loop.max_epochs = 4
    trainer.fit(trainer.lightning_module, loader(), loader(seed=1))
    assert sorted(calibration.history) == [0, 1, 2, 3]
    assert (dynamics.dynamics.epochs == 4).all()


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_validation_after_the_fit_adds_no_epoch_and_one_alone_is_recorded():
    suite = Suite((Case("up", {"a": 0}, "higher", {"a": 1}),), features=("a",))
    behavior = BehaviorMonitor(
        suite, predict=lambda module: lambda rows: [float(row["a"]) for row in rows]
    )
    curves, calibration = LearningCurveMonitor(), CalibrationMonitor(diagrams=False)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[curves, calibration, behavior], **QUIET
    )
    trainer.fit(Learner(), loader(), loader(seed=1))
    before = calibration.table()
    trainer.validate(trainer.lightning_module, loader(seed=5), verbose=False)
    assert curves.curves.epoch.tolist() == [0, 1]
    assert calibration.table().equals(before)
    assert list(behavior.history) == [0, 1]
    alone = CalibrationMonitor(diagrams=False)
    pl.Trainer(accelerator="cpu", callbacks=[alone], **QUIET).validate(
        Learner(), loader(seed=5), verbose=False
    )
    assert alone.history[0].cells.total == ROWS


class Told(Learner):
    """Validation losses that fall and rise again, whatever is trained."""

    def validation_step(self, batch, index, dataloader_idx=0):
        epoch = self.trainer.current_epoch
        noise = torch.randn(1, generator=torch.Generator().manual_seed(epoch))[0]
        return 0.5 + torch.exp(torch.tensor(-epoch / 4)) + 0.03 * max(epoch - 10, 0) + 0.005 * noise


def stopping(monitor, epochs, path=None, seed=0):
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[monitor], num_sanity_val_steps=0, **QUIET
    )
    trainer.fit(Told(), loader(16), loader(16, seed=1), ckpt_path=path, **WEIGHTS_ONLY)
    return trainer


def test_a_resumed_run_stops_at_the_inflection_where_an_uninterrupted_one_does(tmp_path):
    whole, first, second = (LearningCurveMonitor(stop_on_inflection=True) for _ in range(3))
    stopping(whole, 40)
    assert 12 <= len(whole.curves) < 30
    half = stopping(first, len(whole.curves) - 4)
    half.save_checkpoint(tmp_path / "half.ckpt")
    stopping(second, 40, tmp_path / "half.ckpt")
    assert len(second.curves) == len(whole.curves)
    assert torch.equal(second.curves.val_loss, whole.curves.val_loss)


@pytest.mark.parametrize("seed", range(6))
def test_an_easy_first_batch_of_few_rows_does_not_make_a_training_diverge(seed):
    monitor = LearningCurveMonitor()
    stopping(monitor, 20, seed=seed)
    assert monitor.diagnosis.regime == "overfit"


class Silent(Learner):
    """Manual optimization that hands nothing over and logs nothing."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        return None

    def validation_step(self, batch, index, dataloader_idx=0):
        return None


def test_a_run_without_any_loss_says_so():
    monitor = LearningCurveMonitor()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[monitor], **QUIET)
    trainer.fit(Silent(), loader(), loader(seed=1))
    (finding,) = monitor.findings
    assert finding.severity == "skipped"
    assert "no step returned a loss" in finding.summary
    assert "train_loss" in finding.remedy


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: reading a number, finding where, comparing by value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        self.count += name in {
            "_local_scalar_dense",
            "nonzero",
            "equal",
            "is_nonzero",
            "masked_select",
        }
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "make",
    [LearningCurveMonitor, CalibrationMonitor, lambda: TrainingDynamicsMonitor(960)],
    ids=["LearningCurveMonitor", "CalibrationMonitor", "TrainingDynamicsMonitor"],
)
def test_no_step_waits_for_the_device(make):
    """Twice as many steps wait as often: once per epoch, not per step."""
    found = []
    for rows in (480, 960):
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[make()], num_sanity_val_steps=0, **QUIET
        )
        with Waits() as waits:
            trainer.fit(Learner(), loader(rows), loader(rows, seed=1))
        found.append(waits.count)
    assert found[0] == found[1]

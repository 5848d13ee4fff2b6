"""LearningCurveMonitor under a real Trainer and the options that Lightning documents."""

import logging
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

from gendebug_torch.callbacks import (
    CalibrationMonitor,
    LearningCurveMonitor,
    learning_curve_over_sizes,
)
from gendebug_torch.curves import LearningCurves
from gendebug_torch.errors import InputError
from tests.versions import WEIGHTS_ONLY

ROWS, BATCH = 50, 8
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def line(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    return TensorDataset(
        x, x.sum(1, keepdim=True) + 0.1 * torch.randn(rows, 1, generator=generator)
    )


def loader(rows=ROWS, seed=0, **options):
    return DataLoader(line(rows, seed), batch_size=BATCH, **options)


class Line(pl.LightningModule):
    """Least squares that also keeps, row by row, what a literal reader would have seen."""

    def __init__(self, rate=0.05, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 1))
        self.rate = rate
        self.seen = []

    def training_step(self, batch, index):
        return mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index, dataloader_idx=0):
        return mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


class Literal(Callback):
    """Every loss of every step as a float with its rows, the slow way."""

    def __init__(self):
        self.train, self.val = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = outputs["loss"].item() * trainer.accumulate_grad_batches
        self.train.setdefault(trainer.current_epoch, []).append((loss, len(batch[0])))

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        if not trainer.sanity_checking:
            at = (trainer.current_epoch, trainer.global_step)
            self.val.setdefault(dataloader_idx, {}).setdefault(at, []).append(
                (outputs.item(), len(batch[0]))
            )


def mean(pairs):
    return sum(loss * rows for loss, rows in pairs) / sum(rows for _, rows in pairs)


def trainer(*callbacks, **options):
    options = {"max_epochs": 3, "logger": False, "enable_checkpointing": False} | options
    quiet = {"accelerator": "cpu", "enable_model_summary": False, "enable_progress_bar": False}
    return pl.Trainer(callbacks=list(callbacks), **quiet, **options)


def fit(module=None, train=None, val=None, monitor=None, literal=None, **options):
    pl.seed_everything(1, verbose=False)
    monitor, literal = monitor or LearningCurveMonitor(), literal or Literal()
    run = trainer(monitor, literal, **options)
    made = module() if isinstance(module, type) else module or Line()
    run.fit(made, loader() if train is None else train, loader(seed=1) if val is None else val)
    return monitor, literal, run


OPTIONS = {
    "plain, the last batch shorter": {},
    "no sanity steps": {"num_sanity_val_steps": 0},
    "all rows as sanity steps": {"num_sanity_val_steps": -1},
    "validation within epochs": {"val_check_interval": 0.5},
    "validation every second epoch": {"check_val_every_n_epoch": 2, "max_epochs": 4},
    "validation by steps, across epochs": {
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
    },
    "accumulation": {"accumulate_grad_batches": 3},
    "limited batches": {"limit_train_batches": 4, "limit_val_batches": 2},
    "no validation batches": {"limit_val_batches": 0},
    "gradient clipping": {"gradient_clip_val": 0.1},
    "fast_dev_run": {"fast_dev_run": True},
    "max_steps within an epoch": {"max_steps": 10, "max_epochs": -1},
    "barebones": {"barebones": True, "logger": None, "enable_checkpointing": None},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_losses_are_those_of_a_literal_reader(options):
    if options.get("barebones"):
        # Lightning refuses some options of its own beside this one.
        monitor, literal = LearningCurveMonitor(), Literal()
        pl.Trainer(
            barebones=True, max_epochs=2, accelerator="cpu", callbacks=[monitor, literal]
        ).fit(Line(), loader(), loader(seed=1))
    else:
        monitor, literal, _ = fit(**options)
    curves = monitor.curves
    assert curves.epoch.tolist() == sorted(literal.train)
    for epoch, loss in zip(curves.epoch.tolist(), curves.train_loss.tolist(), strict=True):
        assert loss == pytest.approx(mean(literal.train[epoch]), rel=1e-6)
    checks = literal.val.get(0, {})
    for epoch, loss in zip(curves.epoch.tolist(), curves.val_loss.tolist(), strict=True):
        last = [pairs for (at, _), pairs in sorted(checks.items()) if at == epoch]
        assert loss == pytest.approx(mean(last[-1]), rel=1e-6) if last else math.isnan(loss)
    assert monitor.check_curves.epoch.tolist() == [step for _, step in sorted(checks)]
    assert monitor.check_curves.val_loss.tolist() == pytest.approx(
        [mean(checks[at]) for at in sorted(checks)], rel=1e-6
    )


def test_the_untrained_loss_is_that_of_the_first_batch_also_after_a_resume(tmp_path):
    large = DataLoader(line(), batch_size=25)
    monitor, literal, run = fit(train=large, max_epochs=2)
    assert monitor.curves.untrained_loss == pytest.approx(literal.train[0][0][0], rel=1e-6)
    run.save_checkpoint(tmp_path / "two.ckpt")
    resumed = LearningCurveMonitor()
    trainer(resumed, max_epochs=3).fit(
        Line(), large, loader(seed=1), ckpt_path=tmp_path / "two.ckpt", **WEIGHTS_ONLY
    )
    assert resumed.curves.untrained_loss == monitor.curves.untrained_loss
    assert fit()[0].curves.untrained_loss is None, "eight rows are too few"


def test_several_validation_loaders_are_several_curves():
    monitor, literal, _ = fit(val=[loader(seed=1), loader(30, seed=2), loader(20, seed=3)])
    for index, name in ((1, "val_loss_1"), (2, "val_loss_2")):
        want = [mean(pairs) for pairs in literal.val[index].values()]
        assert monitor.curves.metrics[name].tolist() == pytest.approx(want, rel=1e-6)


class Stream(IterableDataset):
    def __iter__(self):
        data = line()
        return ((data.tensors[0][i], data.tensors[1][i]) for i in range(37))


def test_iterable_data_set():
    monitor, literal, _ = fit(train=DataLoader(Stream(), batch_size=BATCH))
    assert monitor.curves.train_loss.tolist() == pytest.approx(
        [mean(pairs) for pairs in literal.train.values()], rel=1e-6
    )


class Manual(Line):
    def __init__(self, returns=True):
        super().__init__()
        self.automatic_optimization = False
        self.returns = returns

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.02), torch.optim.SGD(self.parameters(), 0.01)]

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(loss, retain_graph=True)
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(batch[0]))
        return loss if self.returns else None


def test_manual_optimization_with_two_optimizers():
    monitor, literal, _ = fit(Manual())
    assert monitor.curves.train_loss.tolist() == pytest.approx(
        [mean(pairs) for pairs in literal.train.values()], rel=1e-6
    )


class Logs(Line):
    """Returns nothing from validation, logs the loss and a torchmetrics metric in its place."""

    def __init__(self):
        super().__init__()
        self.error = MeanMetric()

    def validation_step(self, batch, index):
        loss = super().validation_step(batch, index)
        self.error.update(loss, weight=len(batch[0]))
        self.log("val_loss", loss, batch_size=len(batch[0]))
        self.log("val_error", self.error)


class Silent(Literal):
    on_validation_batch_end = Callback.on_validation_batch_end


def test_logged_losses_and_metrics_are_taken_where_none_is_returned():
    monitor, _, _ = fit(Logs(), literal=Silent())
    assert monitor.curves.val_loss.isfinite().all()
    assert monitor.curves.metrics["val_error"].tolist() == pytest.approx(
        monitor.curves.val_loss.tolist(), rel=1e-5
    )
    manual, _, _ = fit(Manual(returns=False), literal=Callback())
    assert manual.curves.train_loss.isfinite().all()


class LogsAs(Line):
    """Returns nothing from validation and logs the loss under another name."""

    loss_name = "nll_held_out"

    def validation_step(self, batch, index, dataloader_idx=0):
        loss = super().validation_step(batch, index)
        self.log(self.loss_name, loss, batch_size=len(batch[0]))


@pytest.mark.parametrize("loaders", [1, 2])
@pytest.mark.parametrize(
    "name",
    ["val_loss", "val/loss", "valid/loss", "validation/loss", "eval_loss", "dev_loss", "loss/val"],
)
def test_every_usual_name_of_a_loss_is_recognised_with_one_loader_or_more(name, loaders):
    val = [loader(seed=1), loader(30, seed=2)][:loaders]
    logged, _, _ = fit(type("Named", (LogsAs,), {"loss_name": name}), literal=Silent(), val=val)
    returned, _, _ = fit(literal=Silent(), val=val)
    assert logged.curves.val_loss.tolist() == pytest.approx(
        returned.curves.val_loss.tolist(), rel=1e-5
    )
    if loaders == 2:
        assert logged.curves.metrics["val_loss_1"].tolist() == pytest.approx(
            returned.curves.metrics["val_loss_1"].tolist(), rel=1e-5
        )


def test_a_loss_of_an_unusual_name_is_asked_for_by_the_names_that_are_there():
    monitor, _, _ = fit(LogsAs, literal=Silent())
    (note,) = [note for note in monitor.diagnosis.notes if "No validation loss" in note]
    assert "(nll_held_out)" in note
    assert f"validation loss. {note}" in monitor.findings[0].summary
    assert not fit()[0].curves.notes


def test_a_metric_of_an_old_validation_is_not_recorded_again():
    monitor, _, _ = fit(Logs(), literal=Silent(), check_val_every_n_epoch=2, max_epochs=4)
    assert monitor.curves.metrics["val_error"].isnan().tolist() == [True, False, True, False]
    assert monitor.curves.val_loss.isnan().tolist() == [True, False, True, False]


def test_losses_per_row_by_read():
    monitor, literal, _ = fit(
        monitor=LearningCurveMonitor(
            read=lambda module, batch, _: ((module.net(batch[0]) - batch[1]) ** 2)[:, 0]
        )
    )
    want = [mean(pairs) for pairs in literal.val[0].values()]
    assert monitor.curves.val_loss.tolist() == pytest.approx(want, rel=1e-5)


class Bad(Line):
    def __init__(self, at, value):
        super().__init__()
        self.at, self.value, self.steps = at, value, 0

    def training_step(self, batch, index):
        self.steps += 1
        loss = super().training_step(batch, index)
        return loss if self.steps != self.at else loss * 0 + self.value

    def optimizer_step(self, *arguments, **options):
        super().optimizer_step(*arguments, **options)
        for parameter in self.parameters():
            parameter.data.nan_to_num_()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_batch_is_recorded_and_named(value):
    monitor, _, _ = fit(Bad(10, value), max_epochs=4)
    assert monitor.curves.train_loss.isfinite().tolist() == [True, False, True, True]
    assert "the train_loss was NaN or infinite in 1 of 7 steps of epoch 1" in monitor.curves.notes
    assert any("1 of 7 steps" in note for note in monitor.diagnosis.notes)


def test_fit_called_twice_goes_on_and_a_new_trainer_begins_anew():
    monitor, _, run = fit()
    first = monitor.curves.train_loss
    run.fit_loop.max_epochs = 5
    run.fit(run.lightning_module, loader(), loader(seed=1))
    assert monitor.curves.epoch.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(monitor.curves.train_loss[:3], first)
    again, _, _ = fit(monitor=monitor)
    assert again.curves.epoch.tolist() == [0, 1, 2]
    assert torch.equal(again.curves.train_loss, first)


def test_validate_and_test_leave_the_curves_alone():
    monitor, _, run = fit()
    before = monitor.curves.table()
    run.validate(run.lightning_module, loader(seed=3), verbose=False)
    assert monitor.curves.table().equals(before)


class Numbered(Dataset):
    """Rows in one order; a loader over it can be told where to go on."""

    def __init__(self):
        self.data = line()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


class Stateful(DataLoader):
    """A loader that resumes within an epoch, as torchdata's does."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.done, self.skip = 0, 0

    def __iter__(self):
        skip, self.skip = self.skip, 0
        for index, batch in enumerate(super().__iter__()):
            if index >= skip:
                self.done = index + 1
                yield batch
        self.done = 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.skip = state["done"]


class Stop(Callback):
    """A crash after so many optimizer steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    ("save", "crash"),
    [
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, 17),
        ({"every_n_epochs": 1}, 17),
        ({"every_n_train_steps": 5}, 17),
    ],
    ids=["saved at the end of an epoch", "saved after the validation", "saved in mid-epoch"],
)
def test_a_resumed_run_is_equal_to_the_last_bit(tmp_path, save, crash):
    def run(monitor, *more, **options):
        pl.seed_everything(1, verbose=False)
        made = trainer(
            monitor,
            *more,
            max_epochs=4,
            enable_checkpointing=True,
            default_root_dir=tmp_path,
            **options,
        )
        return made, (Line(), Stateful(Numbered(), batch_size=BATCH), loader(seed=1))

    whole = LearningCurveMonitor()
    made, given = run(whole, ModelCheckpoint(tmp_path / "whole", save_top_k=0))
    made.fit(*given)
    broken = LearningCurveMonitor()
    made, given = run(
        broken, ModelCheckpoint(tmp_path / "saved", save_top_k=-1, **save), Stop(crash)
    )
    with pytest.raises(SystemExit):
        made.fit(*given)
    last = max(
        (tmp_path / "saved").glob("*.ckpt"), key=lambda path: int(path.stem.partition("step=")[2])
    )
    resumed = LearningCurveMonitor()
    made, given = run(resumed, ModelCheckpoint(tmp_path / "saved", save_top_k=-1, **save))
    made.fit(*given, ckpt_path=last, **WEIGHTS_ONLY)
    assert resumed.curves.epoch.tolist() == [0, 1, 2, 3]
    assert torch.equal(resumed.curves.train_loss, whole.curves.train_loss)
    assert torch.equal(resumed.curves.val_loss, whole.curves.val_loss)
    assert resumed.curves.untrained_loss == whole.curves.untrained_loss
    assert torch.equal(resumed.check_curves.val_loss, whole.check_curves.val_loss)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("made", "epochs"), [(DataLoader, [0, 1, 2, 3]), (Stateful, [0, 2, 3])])
def test_an_epoch_saved_on_its_last_batch_is_ended_and_none_invented(tmp_path, made, epochs):
    """Lightning leaves out the end of that epoch, and with a loader that keeps a state all of the
    next: the record says so."""

    def saving():
        return ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=7)

    whole, _, _ = fit(
        train=made(Numbered(), batch_size=BATCH),
        enable_checkpointing=True,
        max_epochs=1,
        literal=saving(),
    )
    monitor = LearningCurveMonitor()
    run = trainer(monitor, saving(), max_epochs=4, enable_checkpointing=True)
    run.fit(
        Line(),
        made(Numbered(), batch_size=BATCH),
        loader(seed=1),
        ckpt_path=next(tmp_path.glob("*step=7.ckpt")),
        **WEIGHTS_ONLY,
    )
    assert monitor.curves.epoch.tolist() == epochs
    assert monitor.curves.train_loss[0] == whole.curves.train_loss[0]


class Counted(Logs):
    """Dropout and a metric, which evaluating the training rows must not touch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1))


def test_train_eval_measures_as_validation_does_and_leaves_no_trace():
    plain, _, one = fit(Counted, literal=Callback())
    monitor, _, two = fit(
        Counted, literal=Callback(), monitor=LearningCurveMonitor(train_eval=ROWS)
    )
    assert torch.equal(plain.curves.train_loss, monitor.curves.train_loss)
    assert torch.equal(plain.curves.metrics["val_error"], monitor.curves.metrics["val_error"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            one.lightning_module.parameters(), two.lightning_module.parameters(), strict=True
        )
    )
    module = two.lightning_module
    with torch.no_grad():
        want = mse_loss(module.eval().net(line().tensors[0]), line().tensors[1])
    assert float(monitor.curves.train_eval_loss[-1]) == pytest.approx(float(want), rel=1e-5)
    assert monitor.diagnosis.gap.basis == "train_eval"
    assert plain.diagnosis.gap.basis == "running"


def test_train_eval_takes_a_loader_and_refuses_a_stream():
    monitor, _, _ = fit(
        train=DataLoader(Stream(), batch_size=BATCH),
        monitor=LearningCurveMonitor(train_eval=loader()),
    )
    assert monitor.curves.train_eval_loss.isfinite().all()
    with pytest.raises(InputError, match="train_eval"):
        fit(
            train=DataLoader(Stream(), batch_size=BATCH),
            monitor=LearningCurveMonitor(train_eval=20),
        )


def test_the_error_for_a_bare_loss_shows_the_three_ways():
    with pytest.raises(
        InputError, match=r"'logits': logits.*read=lambda.*read=extra_forward.*one more forward"
    ):
        fit(monitor=CalibrationMonitor())


def planted(monitor, val, epochs):
    """A fit whose validation loss is told what to be."""

    class Told(Line):
        def validation_step(self, batch, index):
            return torch.tensor(val[self.trainer.current_epoch])

    fit(Told(rate=0.02), monitor=monitor, literal=Silent(), max_epochs=epochs)
    return monitor


def falling_then_rising(epochs=60, turn=15, slope=0.03):
    noise = torch.randn(epochs, generator=torch.Generator().manual_seed(3))
    epoch = torch.arange(epochs)
    return (0.5 + torch.exp(-epoch / 4) + slope * (epoch - turn).clip(0) + 0.005 * noise).tolist()


def test_stop_on_inflection_stops_soon_after_the_turn_and_says_so_once(caplog):
    caplog.set_level(logging.WARNING, "gendebug_torch")
    monitor = planted(LearningCurveMonitor(stop_on_inflection=True), falling_then_rising(), 60)
    assert 16 <= len(monitor.curves) <= 26
    assert (
        len([record for record in caplog.records if "Overfits after epoch" in record.message]) == 1
    )
    assert monitor.findings[0].cause == "overfitting"


def test_without_stopping_it_trains_on_and_warns_once(caplog):
    caplog.set_level(logging.WARNING, "gendebug_torch")
    monitor = planted(LearningCurveMonitor(), falling_then_rising(40), 40)
    assert len(monitor.curves) == 40
    assert len(caplog.records) == 1


def test_a_falling_run_is_not_stopped():
    monitor = planted(
        LearningCurveMonitor(stop_on_inflection=True), falling_then_rising(40, slope=0.0), 40
    )
    assert len(monitor.curves) == 40


class Broken(Logger):
    name, version = "broken", 0

    def log_metrics(self, metrics, step=None):
        if any(name.startswith("gendebug") for name in metrics):
            raise OSError("disk full")

    def log_hyperparams(self, params, *arguments, **options):
        """Nothing to do."""


def test_a_broken_logger_does_not_end_the_run_and_is_reported_once():
    monitor, _, run = fit(logger=Broken(), log_every_n_steps=1)
    assert run.current_epoch == 3
    (errored,) = [finding for finding in monitor.findings if finding.severity == "errored"]
    assert "disk full" in errored.summary
    assert "traceback" in errored.numbers


def test_csv_logger_gets_the_scalars_and_reads_back(tmp_path):
    monitor, _, _ = fit(logger=CSVLogger(tmp_path), log_every_n_steps=1)
    read = LearningCurves.from_run(
        next(tmp_path.glob("**/metrics.csv")).parent,
        train="gendebug/train_loss",
        val="gendebug/val_loss",
    )
    assert len(read) == 3
    assert read.val_loss.tolist() == pytest.approx(monitor.curves.val_loss.tolist())


def test_tensorboard_gets_the_scalars_and_the_picture(tmp_path):
    monitor, _, _ = fit(logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    assert not [finding for finding in monitor.findings if finding.severity == "errored"]
    events = next(tmp_path.glob("**/*tfevents*"))
    assert b"gendebug/curves" in events.read_bytes()
    read = LearningCurves.from_run(
        events.parent, train="gendebug/train_loss", val="gendebug/val_loss"
    )
    assert read.val_loss.tolist() == pytest.approx(monitor.curves.val_loss.tolist(), rel=1e-6)


class Wavy(pl.LightningDataModule):
    """A wave that a line cannot follow, however many rows there are."""

    def __init__(self):
        super().__init__()
        x = torch.randn(1600, 3, generator=torch.Generator().manual_seed(0))
        y = (3 * x[:, :1]).sin()
        self.sides = TensorDataset(x[:800], y[:800]), TensorDataset(x[800:], y[800:])

    def train_dataloader(self):
        return DataLoader(self.sides[0], batch_size=32)

    def val_dataloader(self):
        return DataLoader(self.sides[1], batch_size=800)


def test_sizes_of_a_line_on_a_wave_are_biased_and_the_random_state_is_left():
    before = torch.get_rng_state()
    found = learning_curve_over_sizes(
        Line, Wavy(), [60, 120, 240, 480], seeds=(0, 1), max_epochs=10, accelerator="cpu"
    )
    assert torch.equal(before, torch.get_rng_state())
    assert found.regime == "bias", found.summary
    assert len(found.table()) == 8
    assert found.plot().get_xlabel() == "training rows"


def test_sizes_beyond_the_rows_are_refused():
    with pytest.raises(InputError, match="800 training rows"):
        learning_curve_over_sizes(Line, Wavy(), [900], max_epochs=1)

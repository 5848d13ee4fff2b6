"""The three ways to hand a monitor its logits, and that one more forward leaves a training exactly
as it was."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.callbacks import CalibrationMonitor, TrainingDynamicsMonitor, extra_forward
from gendebug_torch.errors import InputError

ROWS = 50


class Bare(pl.LightningModule):
    """BatchNorm and dropout, and steps that return a bare loss."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)
        )
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        return self.net(x)

    def training_step(self, batch, index):
        return cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


class Returns(Bare):
    def training_step(self, batch, index):
        logits = self(batch[0])
        return {
            "loss": cross_entropy(logits, batch[1]),
            "logits": logits,
            "targets": batch[1],
            "ids": batch[2],
        }

    validation_step = training_step


def rows():
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), torch.arange(ROWS))


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(rows(), 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(rows(), 16)


QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fit(module, *callbacks, num_sanity_val_steps=0):
    pl.seed_everything(3, verbose=False)
    made = module()
    pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        num_sanity_val_steps=num_sanity_val_steps,
        **QUIET,
    ).fit(made, datamodule=Data())
    return made, torch.get_rng_state()


def with_ids(module, batch, outputs):
    return batch[2], *extra_forward(module, batch, outputs)


def test_one_more_forward_leaves_the_training_as_it_was():
    plain, plain_state = fit(Bare)
    calibration, dynamics = (
        CalibrationMonitor(read=extra_forward),
        TrainingDynamicsMonitor(ROWS, read=with_ids),
    )
    watched, state = fit(Bare, calibration, dynamics)
    assert torch.equal(plain_state, state)
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert watched.training == plain.training
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert b.requires_grad
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    # One more in each of 7 training and 4 validation steps, over 2 epochs.
    assert watched.forwards - plain.forwards == 2 * (7 + 4)
    assert calibration.history[1].cells.total == ROWS
    assert (dynamics.dynamics.epochs == 2).all()


def test_what_a_step_returns_costs_no_forward_and_says_the_same():
    returned, forwarded = CalibrationMonitor(), CalibrationMonitor(read=extra_forward)
    module, _ = fit(Returns, returned)
    assert module.forwards == 2 * (7 + 4)
    fit(Bare, forwarded)
    assert torch.equal(returned.history[1].cells.count, forwarded.history[1].cells.count)
    assert torch.allclose(returned.history[1].scores, forwarded.history[1].scores)


@pytest.mark.parametrize(
    ("monitor", "ways"),
    [
        (
            CalibrationMonitor(),
            [
                "'logits' and 'targets' in what the step returns, got Tensor",
                "Return {'loss': loss, 'logits': logits, 'targets': targets} from the step, which "
                "costs nothing",
                "`read=lambda module, batch, outputs: (logits, targets)`",
                "`read=extra_forward` (from gendebug_torch.callbacks), which costs one more "
                "forward",
            ],
        ),
        (
            TrainingDynamicsMonitor(ROWS),
            [
                "'ids' and 'logits' and 'targets' in what the step returns, got keys ['loss']",
                "'ids': ids, 'logits': logits, 'targets': targets}",
                "`read=lambda module, batch, outputs: (ids, logits, targets)`",
                "extra_forward(*step)",
            ],
        ),
    ],
    ids=["calibration", "dynamics"],
)
def test_a_bare_loss_is_refused_before_the_training_with_the_three_ways(monitor, ways):
    with pytest.raises(InputError) as refused:
        fit(Bare, monitor, num_sanity_val_steps=2)
    for way in ways:
        assert way in str(refused.value)


class Keyed(Bare):
    """Batches that are mappings, as Hugging Face's collators make them."""

    def training_step(self, batch, index):
        return cross_entropy(self(batch["x"]), batch["y"])

    validation_step = training_step


def keyed(batch):
    x, y, _ = (torch.stack(parts) for parts in zip(*batch, strict=True))
    return {"x": x, "y": y}


def test_a_batch_that_is_a_mapping_is_refused_with_a_reader_that_works():
    def trained(read):
        monitor = CalibrationMonitor(read=read)
        loader = DataLoader(rows(), 8, collate_fn=keyed)
        pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[monitor], **QUIET).fit(
            Keyed(), loader, loader
        )
        return monitor

    with pytest.raises(InputError, match=r"keys \['x', 'y'\].*batch\['x'\], batch\['y'\]"):
        trained(extra_forward)
    found = trained(
        lambda module, batch, outputs: extra_forward(module, (batch["x"], batch["y"]), outputs)
    )
    assert found.history[0].cells.total == ROWS


def test_the_reader_that_the_error_names_works_as_it_is_written():
    monitor = TrainingDynamicsMonitor(ROWS, read=lambda *step: (step[1][2], *extra_forward(*step)))
    fit(Bare, monitor)
    assert (monitor.dynamics.epochs == 2).all()


@pytest.mark.filterwarnings("ignore")  # Lightning calls jsonargparse in a way that is about to go.
def test_every_monitor_can_be_named_in_yaml(tmp_path):
    suite = tmp_path / "suite.yaml"
    case = "{id: still, input: {a: 0, b: 0, c: 0}, change: [{a: 0.01}], expect: same}"
    suite.write_text(f"suite: s\nfeatures: [a, b, c]\ncases:\n  - {case}\n")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"""
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {tmp_path}
  callbacks:
    - class_path: gendebug_torch.callbacks.LearningCurveMonitor
      init_args: {{train_eval: 20, stop_on_inflection: true}}
    - class_path: gendebug_torch.callbacks.CalibrationMonitor
      init_args: {{read: gendebug_torch.callbacks.extra_forward, bins: 10}}
    - class_path: gendebug_torch.callbacks.TrainingDynamicsMonitor
      init_args: {{samples: {ROWS}}}
    - class_path: gendebug_torch.callbacks.AttributionMonitor
      init_args: {{rows: 8}}
      dict_kwargs: {{steps: 4}}
    - class_path: gendebug_torch.callbacks.BehaviorMonitor
      init_args: {{suite: {suite}}}
"""
    )
    made = LightningCLI(
        Returns, Data, save_config_callback=None, args=["fit", "--config", str(config)]
    )
    curves, calibration, dynamics, attribution, behavior = made.trainer.callbacks[:5]
    assert len(curves.curves) == 1
    assert curves.stop_on_inflection
    assert curves.curves.train_eval_loss.isfinite().all()
    assert calibration.history[0].cells.total == ROWS
    assert (dynamics.dynamics.epochs == 1).all()
    assert attribution.history.sizes
    assert list(behavior.history) == [0]

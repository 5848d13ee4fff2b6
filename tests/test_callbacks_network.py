"""NetworkMonitor under a real Trainer: accumulation, clipping, precision, resume, errors, ranks."""

import json
import logging

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from gendebug_torch import diagnose
from gendebug_torch.callbacks import NetworkMonitor
from tests.processes import run_script_on_two_ranks
from tests.versions import WEIGHTS_ONLY

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def loader(rows=960):
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=32)


class Learner(pl.LightningModule):
    def __init__(self, left_out=False):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.left_out = left_out
        # Its value is NaN (which stands for NaN itself), but it is no part of the network.
        self.metric = MeanMetric(nan_strategy=float("nan"))

    def training_step(self, batch, index):
        loss = cross_entropy(self.head(self.body(batch[0])), batch[1])
        self.metric(loss.detach() * float("nan"))
        return loss

    def validation_step(self, batch, index):
        self.training_step(batch, index)

    def configure_optimizers(self):
        parts = [self.body[0], self.head] if self.left_out else [self.body, self.head]
        return torch.optim.Adam([p for part in parts for p in part.parameters()], 0.01)


class Manual(Learner):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def validation_step(self, batch, index):
        self.head(self.body(batch[0]))

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        loss = super().training_step(batch, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


def fit(module, monitor, epochs=2, path=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[monitor],
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, **options
    )  # fmt: skip
    trainer.fit(module, loader(), loader(64), ckpt_path=path, **WEIGHTS_ONLY)
    return trainer


def alarms(monitor):
    return [f for f in monitor.findings if f.severity.level >= 2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 1.0},
        {"precision": "bf16-mixed"},
        {"max_steps": 40},
    ],
    ids=str,
)
def test_a_sound_training_is_quiet_and_goes_as_without_the_monitor(options):
    monitor, watched, plain = NetworkMonitor(every=5), Learner(), Learner()
    trainer = fit(watched, monitor, **options)
    fit(plain, pl.Callback(), **options)
    assert not alarms(monitor)
    assert all(map(torch.equal, watched.state_dict().values(), plain.state_dict().values()))
    assert monitor.network.steps == 5 * (trainer.global_step // 5)
    assert monitor.network.run("loss")[1:].isfinite().all()
    assert list(monitor.table()["layer"]) == ["body.0", "body.2", "head"]
    assert not any(module._forward_hooks for module in watched.modules())


def test_a_fault_is_named_with_its_layer_and_joins_the_diagnosis():
    monitor = NetworkMonitor()
    fit(Learner(left_out=True), monitor)
    (finding,) = alarms(monitor)
    assert (finding.subject, finding.numbers["kind"]) == ("body.2", "not_in_optimizer")
    assert diagnose(network=monitor.network).causes[0].subject == "body.2"


def test_manual_optimization_is_seen():
    monitor = NetworkMonitor()
    fit(Manual(), monitor)
    assert not alarms(monitor)
    assert monitor.network.steps == 60


def test_a_resumed_run_continues_its_record(tmp_path):
    whole, first, second = (NetworkMonitor(every=7) for _ in range(3))
    fit(Learner(), whole, epochs=2)
    trainer = fit(Learner(), first, epochs=1, limit_val_batches=0)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 30:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    module, monitor = Learner(), NetworkMonitor(every=7)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[monitor, Save()],
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, loader(), loader(64))
    fit(Learner(), second, epochs=2, path=tmp_path / "half.ckpt")
    assert torch.equal(whole.network.step, second.network.step)
    assert torch.allclose(whole.network.values, second.network.values, equal_nan=True, rtol=1e-3)


def test_an_error_of_the_monitor_does_not_end_the_training():
    def read(module, batch, outputs):
        raise RuntimeError("cannot read")

    monitor = NetworkMonitor(read=read)
    trainer = fit(Learner(), monitor)
    assert trainer.global_step == 60
    assert any("cannot read" in finding.summary for finding in monitor.findings)
    assert monitor.network.steps == 60


def test_a_training_that_breaks_is_judged_and_left_without_hooks():
    class Broken(Learner):
        def training_step(self, batch, index):
            if index == 20:
                raise ZeroDivisionError
            return super().training_step(batch, index)

    module, monitor = Broken(left_out=True), NetworkMonitor()
    with pytest.raises(ZeroDivisionError):
        fit(module, monitor)
    assert alarms(monitor)[0].subject == "body.2"
    assert not any(part._forward_hooks for part in module.modules())


SCRIPT = """
import json, logging, sys, warnings
import lightning.pytorch as pl, torch
from tests.test_callbacks_network import Learner, NetworkMonitor, loader
warnings.simplefilter("ignore")

class Drift(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if sys.argv[2] == "drift" and trainer.global_step == 9 and trainer.global_rank == 1:
            with torch.no_grad():
                module.head.weight.mul_(1.1)

monitor = NetworkMonitor(every=5)
trainer = pl.Trainer(accelerator="cpu", strategy="ddp", devices=2, max_epochs=2, logger=False,
    callbacks=[monitor, Drift()], enable_checkpointing=False, enable_model_summary=False,
    enable_progress_bar=False)
trainer.fit(Learner(), loader())
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as file:
    kinds = [f.numbers.get("kind") for f in monitor.findings if f.severity.level >= 2]
    errors = [f.summary for f in monitor.findings if f.severity == "errored"]
    json.dump({"kinds": kinds, "errors": errors, "steps": monitor.network.steps,
        "spread": monitor.network.facts.rank_spread}, file)
"""


@pytest.mark.parametrize("drift", ["same", "drift"])
def test_two_ranks_are_compared(tmp_path, drift):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    run_script_on_two_ranks(script, tmp_path, drift)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert not one["errors"]
    assert one["steps"] == 30
    assert one["kinds"] == (["ranks_differ"] if drift == "drift" else [])

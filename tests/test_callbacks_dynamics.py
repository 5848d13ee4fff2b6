"""`TrainingDynamicsMonitor` in real Lightning runs: shuffling, resume, reading, accumulation, and a
clear refusal."""

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from gendebug_torch.callbacks import TrainingDynamicsMonitor
from gendebug_torch.errors import InputError
from gendebug_torch.labels import DynamicsRecorder
from tests.processes import run_ranks
from tests.versions import WEIGHTS_ONLY

N = 37


class Module(LightningModule):
    def __init__(self, keys=("logits", "targets", "ids"), rate=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.keys, self.rate = nn.Linear(4, 3), keys, rate

    def training_step(self, batch, batch_idx):
        x, y, ids = batch
        logits = self.net(x)
        found = {"logits": logits, "targets": y, "ids": ids}
        return {
            "loss": nn.functional.cross_entropy(logits, y),
            **{key: found[key] for key in self.keys},
        }

    def validation_step(self, batch, batch_idx):
        self.log("val", self.net(batch[0]).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Shuffled(Sampler):
    """An order for each epoch that depends on nothing else, so that a resumed run can be compared
    with a whole one."""

    def __init__(self, seed):
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return N

    def __iter__(self):
        return iter(
            torch.randperm(
                N, generator=torch.Generator().manual_seed(100 * self.seed + self.epoch)
            ).tolist()
        )


class Resumable(DataLoader):
    """Goes on after the batches that it has given, as Lightning asks for a resume in mid-epoch."""

    given = skipped = 0

    def __iter__(self):
        skipped, self.skipped, self.given = self.skipped, 0, 0
        for batch in super().__iter__():
            self.given += 1
            if self.given > skipped:
                yield batch

    def state_dict(self):
        return {"given": self.given % len(self)}

    def load_state_dict(self, state):
        self.skipped = state["given"]


def rows():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(N, 4, generator=generator), torch.randint(0, 3, (N,), generator=generator)
    return TensorDataset(x, y, torch.arange(N))


def fit(tmp_path, module, monitor, *, epochs=3, callbacks=(), ckpt=None, seed=0, **options):
    loader = Resumable(rows(), batch_size=8, sampler=Shuffled(seed))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[monitor, *callbacks],
        **options,
    )
    trainer.fit(
        module,
        loader,
        DataLoader(rows(), batch_size=16),
        ckpt_path=ckpt,
        **WEIGHTS_ONLY,
    )
    return monitor.dynamics.table()


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 3}, {"val_check_interval": 2}], ids=str
)
def test_every_row_is_recorded_once_per_epoch_by_its_id(tmp_path, options):
    """With a rate of nothing the network stays, so the order of rows must not matter at all."""
    tables = [
        fit(tmp_path, Module(rate=0.0), TrainingDynamicsMonitor(N), seed=seed, **options)
        for seed in (0, 1)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert (tables[0]["epochs"] == 3).all()
    x, y, _ = rows().tensors
    expected = Module().net(x).softmax(1).gather(1, y[:, None])[:, 0]
    assert tables[0]["mean_confidence"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert tables[0]["variability"].max() < 1e-3


class Save(Callback):
    """A checkpoint after one step of the run, or at the end of its first epoch."""

    def __init__(self, path, step=None):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, *_):
        if self.step is None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [None, 7], ids=["epoch end", "in mid-epoch"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, step):
    path = tmp_path / "kept.ckpt"
    whole = fit(tmp_path, Module(), TrainingDynamicsMonitor(N), callbacks=[Save(path, step)])
    again = fit(tmp_path, Module(), TrainingDynamicsMonitor(N), ckpt=str(path))
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


def test_read_finds_what_the_step_does_not_return(tmp_path):
    keys = TrainingDynamicsMonitor(N)
    read = TrainingDynamicsMonitor(
        N, read=lambda module, batch, outputs: (batch[2], outputs["logits"], batch[1])
    )
    expected = fit(tmp_path, Module(), keys)
    pd.testing.assert_frame_equal(fit(tmp_path, Module(keys=("logits",)), read), expected)


def test_a_bare_loss_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match="'ids'"):
        fit(tmp_path, Module(keys=("logits", "targets")), TrainingDynamicsMonitor(N))


def _rank(rank, path):
    """One of two processes: rows in ranks' turns with one repeated to make them even, as a
    DistributedSampler does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/group", rank=rank, world_size=2
    )
    x, y, ids = rows().tensors
    net, recorder = Module().net, DynamicsRecorder(N)
    for _ in range(2):
        mine = torch.cat([ids, ids[:1]])[rank::2]
        recorder.record(mine, net(x[mine]), y[mine])

        def summed(tensor):
            torch.distributed.all_reduce(tensor)
            return tensor

        recorder.merge(summed)
        recorder.end_epoch()
    recorder.dynamics.table().to_parquet(f"{path}/rank{rank}.parquet")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_say_what_one_says(tmp_path):
    run_ranks(_rank, tmp_path)
    x, y, ids = rows().tensors
    alone = DynamicsRecorder(N)
    for _ in range(2):
        alone.record(ids, Module().net(x), y)
        alone.end_epoch()
    for rank in (0, 1):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / f"rank{rank}.parquet"), alone.dynamics.table()
        )

"""Two processes over gloo: sums and counts are added up, rows that the sampler repeats are not
counted."""

import json

import pytest

from tests.processes import run_script_on_two_ranks

SCRIPT = """
import json, logging, sys, warnings
import lightning.pytorch as pl, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from gendebug_torch import callbacks
from gendebug_torch.callbacks import AttributionMonitor, LearningCurveMonitor

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
    def training_step(self, batch, index):
        return ((self.net(batch[0]) - batch[1]) ** 2).mean()
    def forward(self, x):
        return self.net(x)
    def validation_step(self, batch, index):
        each = ((self.net(batch[0]) - batch[1]) ** 2)[:, 0]
        return each.mean() if sys.argv[2] == "means" else each
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)

pl.seed_everything(0, verbose=False)
def data(rows):
    x = torch.randn(rows, 3)
    return TensorDataset(x, x.sum(1, keepdim=True), torch.arange(rows))
train, val = data(33), data(21)
def read(module, batch, outputs):
    return batch[2], module.net(batch[0]), (batch[1] > 0).long()
dynamics = callbacks.TrainingDynamicsMonitor(33, read=read)
monitor = LearningCurveMonitor(train_eval=11)
# Each rank has its own clock; they must not disagree on whether to rank.
ranking = AttributionMonitor(max_time_share=1e9, rows=8, steps=4)
class Save(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(f"{sys.argv[1]}/half.ckpt")

trainer = pl.Trainer(accelerator="cpu", strategy="ddp", devices=2, max_epochs=2, logger=False,
    callbacks=[monitor, ranking, dynamics, Save()],
    enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False)
net = Line()
trainer.fit(net, DataLoader(train, batch_size=8), DataLoader(val, batch_size=4))
with torch.no_grad():
    want = float(((net.net(val.tensors[0]) - val.tensors[1]) ** 2).mean())
    chosen = torch.randperm(33, generator=torch.Generator().manual_seed(0))[:11]
    fitted = float(((net.net(train.tensors[0][chosen]) - train.tensors[1][chosen]) ** 2).mean())
curves = monitor.curves
half = torch.load(f"{sys.argv[1]}/half.ckpt", weights_only=True)
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as file:
    json.dump({"train": curves.train_loss.tolist(), "val": curves.val_loss.tolist(),
        "evaluated": curves.train_eval_loss.tolist(),
        "want": want, "fitted": fitted, "untrained": curves.untrained_loss, "notes": curves.notes,
        "ranking": {str(epoch): size.tolist() for epoch, size in ranking.history.sizes.items()},
        "dynamics": dynamics.dynamics.table().round(6).to_dict("list"),
        "half": half["callbacks"][dynamics.state_key]["epoch"][4].sum().item(),
        "broken": [finding.summary for finding in ranking.findings]}, file)
"""


@pytest.mark.parametrize("losses", ["rows", "means"])
def test_two_processes_record_the_same_and_count_each_row_once(tmp_path, losses):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    run_script_on_two_ranks(script, tmp_path, losses)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert one["evaluated"][-1] == pytest.approx(one["fitted"], rel=1e-5)
    assert one["untrained"] > one["train"][-1]
    assert not one["broken"]
    assert one["dynamics"]["epochs"] == [2] * 33
    # The checkpoint after two steps of eight rows on two ranks.
    assert one["half"] == 32
    assert list(one["ranking"]) == ["0", "1"]
    # 33 rows on two ranks, and the training step returns a mean.
    assert one["notes"][0].startswith("the train_loss is a mean per batch and counts rows twice")
    assert all("repeats to even the ranks (1 in all)" in note for note in one["notes"])
    # 21 rows on two ranks: one stands twice, in a batch of three whose mean counts as that of its
    # two own rows.
    if losses == "rows":
        assert one["val"][-1] == pytest.approx(one["want"], rel=1e-5)
        assert len(one["notes"]) == 1
    else:
        assert one["val"][-1] == pytest.approx(one["want"], rel=0.2)
        assert len(one["notes"]) == 2
        assert one["notes"][1].startswith("the val_loss is a mean per batch")

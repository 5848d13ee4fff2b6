"""Rows of a batch, whatever it is made of: lists, ragged tensors, texts, a time axis first."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from gendebug_torch.callbacks import LearningCurveMonitor
from gendebug_torch.callbacks.hooks.batch_rows import batch_rows

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
images = [torch.zeros(3, 4, 4)] * 8
clouds = [torch.zeros(n, 3) for n in (14, 17, 9, 14)]


@pytest.mark.parametrize(
    ("batch", "requested", "rows"),
    [
        ((torch.zeros(5, 2), torch.zeros(5)), None, 5),
        ({"x": torch.zeros(5, 2), "y": torch.zeros(5)}, None, 5),
        (((torch.zeros(5, 2), torch.zeros(5, 7)), torch.zeros(5)), None, 5),
        (torch.zeros(5, 2), None, 5),
        (torch.zeros(()), None, 1),
        ("text", None, 1),
        (clouds, None, 4),
        ((clouds, torch.zeros(4)), None, 4),
        ((clouds, [torch.tensor(0)] * 4), None, 4),
        (["a", "b", "c"], None, 3),
        ((torch.zeros(30, 6, 2), torch.zeros(6)), None, 6),
        (images, 8, 8),
        ((images, [{"boxes": torch.zeros(2, 4)}] * 8), 8, 8),
        (torch.zeros(30, 6, 2), 6, 6),
        ((torch.zeros(30, 6, 2), torch.zeros(30, 6)), 6, 6),
        ((torch.zeros(7, 8), torch.zeros(7)), 8, 7),
    ],
)
def test_rows_are_counted(batch, requested, rows):
    assert batch_rows(batch, requested) == rows


def points():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, 30, (37,), generator=generator).tolist()
    return [
        (torch.randn(size, 3, generator=generator), torch.tensor(float(size))) for size in sizes
    ]


def as_lists(rows):
    return [x for x, _ in rows], [y for _, y in rows]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(points())


class Clouds(pl.LightningModule):
    """Predicts the size of a cloud from its mean; the network stays, so that the truth is known."""

    def __init__(self, per_row):
        super().__init__()
        self.net, self.per_row = nn.Linear(3, 1), per_row

    def each(self, batch):
        means = torch.stack([x.mean(0) for x in batch[0]])
        return (self.net(means)[:, 0] - torch.stack(list(batch[1]))).square()

    def training_step(self, batch, index):
        return self.each(batch).mean()

    def validation_step(self, batch, index):
        return self.each(batch) if self.per_row else self.each(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.parametrize("data", [points(), Stream()], ids=["rows by index", "stream"])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_the_mean_over_ragged_batches_is_the_mean_over_rows(data, per_row):
    pl.seed_everything(0, verbose=False)
    monitor = LearningCurveMonitor()
    module = Clouds(per_row)
    loader = DataLoader(data, batch_size=8, collate_fn=as_lists)
    pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[monitor], **QUIET).fit(
        module, loader, loader
    )
    with torch.no_grad():
        truth = float(module.each(as_lists(points())).mean())
    assert float(monitor.curves.val_loss[0]) == pytest.approx(truth, rel=1e-5)
    assert float(monitor.curves.train_loss[0]) == pytest.approx(truth, rel=1e-5)

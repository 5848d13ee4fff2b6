import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.callbacks import AttributionMonitor


class Learner(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.body(x)

    def _loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1])

    def training_step(self, batch, number):
        return self._loss(batch)

    def validation_step(self, batch, number):
        return self._loss(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 2e-2)


def loaders():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 2] > 0).float()
    data = TensorDataset(x, y)
    return DataLoader(data, batch_size=50), DataLoader(data, batch_size=80)


def fit(monitor, epochs=4, **options):
    lightning.seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[monitor] if monitor else [], **(quiet | options))
    model = Learner()
    trainer.fit(model, *loaders())
    return model, trainer


def test_the_ranking_follows_the_training():
    monitor = AttributionMonitor(share=1.0, feature_names=["a", "b", "c", "d"], steps=16)
    fit(monitor)
    table = monitor.history.table()
    assert table["epoch"].tolist() == [0, 1, 2, 3]
    assert table["top"].iloc[-1].startswith("c")
    assert table["rank_correlation_with_last"].iloc[-1] == pytest.approx(1.0)
    assert monitor.history.plot().get_title()


def test_the_training_is_what_it_would_be_without():
    plain, watched = fit(None)[0], fit(AttributionMonitor(share=1.0))[0]
    for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_it_takes_a_bounded_share_of_the_time():
    monitor = AttributionMonitor(rows=300)
    monitor.history.rows_per_second = 1000.0
    assert monitor.history.affordable_rows(300, 0.05) == 50
    assert monitor.history.affordable_rows(300, 10.0) == 300
    assert AttributionMonitor().history.affordable_rows(300, 0.0) == 32


def test_it_goes_on_from_a_checkpoint_and_passes_a_dry_run():
    monitor = AttributionMonitor(share=1.0, every=2)
    fit(monitor)
    assert sorted(monitor.history.sizes) == [0, 2]
    later = AttributionMonitor()
    later.load_state_dict(monitor.state_dict())
    assert later.history.table().equals(monitor.history.table())
    fit(AttributionMonitor(), fast_dev_run=True)

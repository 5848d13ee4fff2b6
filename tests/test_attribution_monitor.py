import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.callbacks import AttributionMonitor
from gendebug_torch.errors import InputError


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


def fit(monitor, epochs=4, model=None, **options):
    lightning.seed_everything(0, verbose=False)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor] if monitor else [],
        **(quiet | options),
    )
    model = model or Learner()
    trainer.fit(model, *loaders())
    return model, trainer


def test_the_ranking_follows_the_training():
    monitor = AttributionMonitor(max_time_share=1e9, feature_names=["a", "b", "c", "d"], steps=16)
    fit(monitor)
    table = monitor.history.table()
    assert table["epoch"].tolist() == [0, 1, 2, 3]
    assert table["top"].iloc[-1].startswith("c")
    assert table["rank_correlation_with_last"].iloc[-1] == pytest.approx(1.0)
    assert monitor.history.plot().get_title()


def test_the_training_is_what_it_would_be_without():
    plain, watched = fit(None)[0], fit(AttributionMonitor(max_time_share=1e9))[0]
    for a, b in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Clock:
    """Seconds that pass only where the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(Learner):
    """A training step takes a second, a forward of an explanation `fixed` and `per_row` for each of
    its rows."""

    def __init__(self, clock, fixed, per_row):
        super().__init__()
        self.clock, self.fixed, self.per_row = clock, fixed, per_row

    def forward(self, x):
        explaining = torch.is_grad_enabled() and not self.training
        self.clock.now += (
            1.0 if self.training else (self.fixed + self.per_row * len(x)) if explaining else 0.0
        )
        return super().forward(x)


@pytest.mark.parametrize(
    ("fixed", "per_row"), [(0.0, 0.0001), (0.0, 0.002), (0.2, 0.0001), (0.5, 0.0)]
)
def test_rankings_take_a_bounded_share_of_the_time(monkeypatch, fixed, per_row):
    """An epoch takes 8 seconds by this clock, of which 0.4 may be spent."""
    clock, spent = Clock(), []

    class Watched(AttributionMonitor):
        def on_train_epoch_end(self, *_):
            spent.append(self.history.seconds)

    monitor = Watched(max_time_share=0.05, method="saliency")
    monkeypatch.setattr("gendebug_torch.callbacks.attribution.perf_counter", clock)
    fit(monitor, 20, Timed(clock, fixed, per_row))
    assert spent[-1] - spent[0] <= 0.05 * clock.now
    ranked = len(monitor.history.sizes)
    assert ranked == 20 if spent[0] < 0.1 else 2 <= ranked < 20


def test_a_batch_that_holds_no_tensor_first_is_refused_before_the_training():
    class Named(Learner):
        def validation_step(self, batch, number):
            return torch.tensor(0.0)

    x = TensorDataset(torch.randn(8, 4), torch.ones(8))
    named = DataLoader(x, 4, collate_fn=lambda rows: {"x": torch.stack([row[0] for row in rows])})
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[AttributionMonitor()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(InputError, match=r"`unpack`.*got dict"):
        trainer.fit(Named(), loaders()[0], named)


def test_it_goes_on_from_a_checkpoint_and_passes_a_dry_run():
    monitor = AttributionMonitor(max_time_share=1e9, every_n_epochs=2)
    fit(monitor)
    assert sorted(monitor.history.sizes) == [0, 2]
    later = AttributionMonitor()
    later.load_state_dict(monitor.state_dict())
    assert later.history.table().equals(monitor.history.table())
    fit(AttributionMonitor(), fast_dev_run=True)

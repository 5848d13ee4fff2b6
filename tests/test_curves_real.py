"""Real networks on real tables and digits, made to overfit, underfit, converge and diverge on
purpose."""

import functools
import logging

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch import Cause, Records, Severity
from gendebug_torch.callbacks import CalibrationMonitor, LearningCurveMonitor
from gendebug_torch.curves import LearningCurves, diagnose_curves

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def network(inputs, classes, width):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def standard(train, *others):
    mean, scale = train.mean(0), train.std(0).clamp(min=0.05)
    return [((side - mean) / scale).clamp(-8, 8) for side in (train, *others)]


@functools.cache
def elec2(folder):
    table = pd.read_parquet(folder / "electricity.parquet")
    y = torch.tensor((table["class"] == "UP").to_numpy().astype("int64"))
    x = torch.tensor(table.drop(columns=["class", "date"]).to_numpy(dtype="float32"))
    return x, y


@functools.cache
def adult(folder):
    table = pd.read_parquet(folder / "train.parquet")
    y = torch.tensor((table["income"].str.strip() == ">50K").to_numpy().astype("int64"))
    x = torch.tensor(pd.get_dummies(table.drop(columns="income")).to_numpy(dtype="float32"))
    return x, y


@functools.cache
def mnist(folder):
    with np.load(folder / "mnist.npz") as archive:
        x, y = (torch.from_numpy(archive[name]) for name in ("x_test", "y_test"))
    return x.reshape(len(x), -1).float() / 255, y.long()


def pick(folder, data, rng, rows):
    """Rows to train on and 3000 to judge by; digits are on one scale already."""
    x, y = LOADERS[data](folder)
    chosen = torch.from_numpy(rng.permutation(len(x)))
    train, val = chosen[:rows], chosen[rows : rows + 3000]
    a, b = (x[train], x[val]) if data == "mnist" else standard(x[train], x[val])
    return a, y[train], b, y[val]


LOADERS = {"elec2": elec2, "adult": adult, "mnist": mnist}
WAYS = {
    "overfit": {"rows": 1500, "width": 256, "rate": 3e-3, "epochs": 30},
    "underfit": {"rows": 2000, "width": 16, "rate": 1e-5, "epochs": 20},
    "converged": {"rows": 6000, "width": 16, "rate": 5e-4, "decay": 0.1, "epochs": 20},
    "diverged": {"rows": 2000, "width": 64, "rate": 3.0, "momentum": 0.95, "epochs": 15},
}
# Digits leave room for longer; a healthy run there is one that goes on improving slowly.
RIGHT = {way: {way} for way in WAYS} | {"converged": {"converged", "still_improving"}}


SEEDS = 5


def fitted(folder, data, way):
    """Curves of a plain training loop and the training records, of each seed.

    The networks of all seeds are trained side by side, as one batch of matrices.
    """
    how = WAYS[way]
    sides, networks, orders = [], [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        sides.append(pick(folder, data, np.random.default_rng(seed), how["rows"]))
        x, y, _, _ = sides[-1]
        networks.append(network(x.shape[1], int(y.max()) + 1, how["width"]))
        orders.append(torch.stack([torch.randperm(len(x)) for _ in range(how["epochs"])], 1))
    x, y, vx, vy = map(torch.stack, zip(*sides, strict=True))
    layers = [
        (
            torch.stack([part.weight.detach().T for part in parts]).requires_grad_(),
            torch.stack([part.bias.detach()[None] for part in parts]).requires_grad_(),
        )
        for parts in zip(*(net[::2] for net in networks), strict=True)
    ]

    def losses(x, y):
        for weight, bias in layers[:-1]:
            x = torch.baddbmm(bias, x, weight).relu()
        logits = torch.baddbmm(layers[-1][1], x, layers[-1][0])
        rows = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        return rows.view(y.shape).mean(1)

    parameters = [part for layer in layers for part in layer]
    if "momentum" in how:
        optimizer = torch.optim.SGD(parameters, how["rate"], how["momentum"])
    else:
        optimizer = torch.optim.AdamW(
            parameters, how["rate"], weight_decay=how.get("decay", 0.0), fused=True
        )
    with torch.no_grad():
        untrained = losses(x, y)
    train, val = [], []
    for order in torch.stack(orders).unbind(2):
        total = torch.zeros(SEEDS)
        for rows in order.split(64, 1):
            loss = losses(x[torch.arange(SEEDS)[:, None], rows], y.gather(1, rows))
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            total += loss.detach() * rows.shape[1] / x.shape[1]
        train.append(total)
        with torch.no_grad():
            val.append(losses(vx, vy))
    train, val = (torch.stack(side, 1).double() for side in (train, val))
    epoch = torch.arange(how["epochs"])
    for seed in range(SEEDS):
        curves = LearningCurves(
            epoch, train[seed], val[seed], untrained_loss=float(untrained[seed])
        )
        yield curves, Records(x[seed], y[seed], name="train")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("data", LOADERS)
def test_real_runs_are_named_right_over_five_seeds(shared_data, data, way):
    for seed, (curves, records) in enumerate(fitted(shared_data / data, data, way)):
        found = gd.diagnose(curves=curves, train=records, only="curves")
        causes = {likely.cause for likely in found.causes}
        want = {
            "overfit": {Cause.OVERFITTING},
            "underfit": {Cause.UNDERFITTING},
            "diverged": {Cause.UNDERFITTING},
            "converged": set(),
        }
        assert causes == want[way], f"seed {seed}: {found}"
        if way != "overfit":
            assert diagnose_curves(curves).regime in RIGHT[way], found


class Elec2(pl.LightningModule):
    def __init__(self, inputs):
        super().__init__()
        self.net = network(inputs, 2, 16)

    def training_step(self, batch, index):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        return {
            "loss": cross_entropy(self.net(batch[0]), batch[1]),
            "logits": self.net(batch[0]),
            "targets": batch[1],
        }

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def test_a_healthy_lightning_run_on_elec2_stays_quiet(shared_data):
    pl.seed_everything(7, verbose=False)
    x, y, vx, vy = pick(shared_data / "elec2", "elec2", np.random.default_rng(7), 6000)
    monitor, calibration = LearningCurveMonitor(train_eval=1000), CalibrationMonitor()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    trainer = pl.Trainer(
        max_epochs=20, accelerator="cpu", callbacks=[monitor, calibration], **quiet
    )
    loaders = (DataLoader(TensorDataset(a, b), batch_size=256) for a, b in ((x, y), (vx, vy)))
    trainer.fit(Elec2(x.shape[1]), *loaders)
    found = gd.diagnose(curves=monitor.curves, train=Records(x, y, name="train"), only="curves")
    assert found.worst.level < Severity.WARN.level, found
    assert len(calibration.history) == 20
    assert {finding.severity for finding in monitor.findings} <= {"ok", "note"}

"""What the loggers get from every monitor, each by its own calls, and that none of it can end a
training."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.behavior import Case, Suite
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.callbacks import (
    AttributionMonitor,
    BehaviorMonitor,
    CalibrationMonitor,
    LearningCurveMonitor,
    TrainingDynamicsMonitor,
)

ROWS = 64
SCALARS = {
    "train_loss",
    "val_loss",
    "val_ece",
    "val_confidence",
    "val_temperature",
    "behavior_failed",
    "rank_correlation",
}
FIGURES = {"curves", "reliability", "data_map", "attribution"}


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, targets, ids = batch
        logits = self(x)
        return {
            "loss": nn.functional.cross_entropy(logits, targets),
            "logits": logits,
            "targets": targets,
            "ids": ids,
        }

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def monitors():
    suite = Suite((Case("up", {"a": 0, "b": 0}, "higher", {"b": 1}),), features=("a", "b"))
    predict = BehaviorMonitor(
        suite, predict=lambda module: lambda rows: [float(row["b"]) for row in rows]
    )
    return [
        LearningCurveMonitor(),
        CalibrationMonitor(),
        TrainingDynamicsMonitor(ROWS),
        AttributionMonitor(max_time_share=1e9, rows=8, steps=4),
        predict,
    ]


def fit(logger, *, epochs=2, callbacks=None):
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), torch.arange(ROWS))
    callbacks = monitors() if callbacks is None else callbacks
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=logger, callbacks=callbacks, **quiet
    )
    trainer.fit(Network(), DataLoader(data, 16), DataLoader(data, 16))
    assert trainer.current_epoch == epochs
    return callbacks


class Keeps(Logger):
    """Keeps what it is sent; the pictures by the calls of one real logger."""

    name, version = "keeps", 0

    def __init__(self):
        super().__init__()
        self.scalars, self.figures = {}, []

    def log_metrics(self, metrics, step=None):
        assert step is not None
        self.scalars |= {
            name: value for name, value in metrics.items() if name.startswith("gendebug/")
        }

    def log_hyperparams(self, params, *arguments, **options):
        """Nothing to do."""

    def keep(self, name, figure):
        assert isinstance(figure, Figure)
        self.figures.append(name)


class LikeTensorBoard(Keeps):
    @property
    def experiment(self):
        return self

    def add_figure(self, tag, figure, global_step=None, close=True, walltime=None):
        assert global_step is not None
        self.keep(tag, figure)


class LikeWandb(Keeps):
    experiment = None

    def log_image(self, key, images, step=None, **kwargs):
        (pixels,) = images
        assert isinstance(pixels, np.ndarray)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 4
        assert len(np.unique(pixels)) > 10
        self.figures.append(key)


class LikeMlflow(Keeps):
    run_id = "run"

    @property
    def experiment(self):
        return self

    def log_figure(self, run_id, figure, artifact_file, *, save_kwargs=None):
        assert run_id == "run"
        name, _, step = artifact_file.removesuffix(".png").rpartition("_")
        assert step.isdigit()
        assert artifact_file not in self.figures
        self.keep(name, figure)


class LikeComet(Keeps):
    @property
    def experiment(self):
        return self

    def log_figure(self, figure_name=None, figure=None, overwrite=False, step=None):
        assert step is not None
        self.keep(figure_name, figure)


@pytest.mark.parametrize("kind", [LikeTensorBoard, LikeWandb, LikeMlflow, LikeComet])
def test_every_monitor_sends_its_scalars_and_pictures(kind):
    logger = kind()
    callbacks = fit(logger)
    assert {f"gendebug/{name}" for name in SCALARS} <= set(logger.scalars)
    assert set(logger.figures) == {f"gendebug/{name}" for name in FIGURES}
    assert logger.figures.count("gendebug/reliability") == 2
    assert not [
        finding
        for callback in callbacks
        for finding in callback.findings
        if finding.severity == "errored"
    ]


def test_a_diagram_per_epoch_can_be_left_out():
    logger = LikeTensorBoard()
    fit(logger, callbacks=[CalibrationMonitor(diagrams=False)])
    assert "gendebug/val_ece" in logger.scalars
    assert logger.figures == []


class Broken(LikeTensorBoard):
    def log_metrics(self, metrics, step=None):
        raise OSError("disk full")

    def add_figure(self, *arguments, **options):
        raise OSError("no more pictures")


def test_a_broken_logger_ends_no_run_and_leaves_the_others_theirs(caplog):
    kept = LikeTensorBoard()
    callbacks = fit([Broken(), kept])
    assert set(kept.figures) == {f"gendebug/{name}" for name in FIGURES}
    for callback in callbacks:
        errored = [
            finding.summary for finding in callback.findings if finding.severity == "errored"
        ]
        assert len(errored) == len(set(errored)) >= 1, type(callback).__name__
        assert all("OSError" in summary for summary in errored)
    assert sum("disk full" in record.message for record in caplog.records) == 4


def test_a_broken_picture_or_network_ends_no_run(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("cannot draw")

    monkeypatch.setattr(ReliabilityBins, "plot", fail)
    suite = Suite((Case("up", {"a": 0}, "higher", {"a": 1}),), features=("a",))
    cannot = BehaviorMonitor(suite, predict=fail)
    callbacks = fit(
        LikeTensorBoard(),
        callbacks=[CalibrationMonitor(), AttributionMonitor(method="no such"), cannot],
    )
    for callback in callbacks:
        (finding,) = [finding for finding in callback.findings if finding.severity == "errored"]
        assert "traceback" in finding.numbers


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_takes_them(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    callbacks = fit(WandbLogger(save_dir=tmp_path, project="test"))
    wandb.finish()
    assert not [
        finding
        for callback in callbacks
        for finding in callback.findings
        if finding.severity == "errored"
    ]
    pictures = {
        path.name.partition("_")[0] for path in tmp_path.rglob("media/images/gendebug/*.png")
    }
    assert pictures == {name.partition("_")[0] for name in FIGURES}


@pytest.mark.filterwarnings("ignore")
def test_mlflow_takes_them(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    callbacks = fit(MLFlowLogger("test", tracking_uri=f"file:{tmp_path}"))
    assert not [
        finding
        for callback in callbacks
        for finding in callback.findings
        if finding.severity == "errored"
    ]
    assert {path.name for path in tmp_path.rglob("metrics/gendebug/*")} == SCALARS
    assert {
        path.stem.rpartition("_")[0] for path in tmp_path.rglob("artifacts/gendebug/*.png")
    } == FIGURES

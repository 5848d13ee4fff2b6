"""What recording costs per training step: a bare Lightning fit, each monitor, and torchmetrics doing the same, interleaved."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from gendebug_torch import callbacks

CLASSES, WIDTH, BATCH = 10, 64, 64


class Batches:
    """Batches cut from tensors, so that the loader costs next to nothing."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(steps, BATCH, 32, generator=generator)
        self.y = torch.randint(CLASSES, (steps, BATCH), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self):
        return zip(self.x, self.y, strict=True)


class Bare(pl.LightningModule):
    """The network of the measurements; a dict of logits and targets costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def training_step(self, batch, index):
        """Cross-entropy."""
        logits = self.net(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits, "targets": batch[1]}

    validation_step = training_step

    def configure_optimizers(self):
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), 0.01)


class Updates(Bare):
    """torchmetrics, one update a step: mean loss, accuracy, calibration error."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.accuracy = MeanMetric(), MulticlassAccuracy(CLASSES)
        self.ece = MulticlassCalibrationError(CLASSES)

    def training_step(self, batch, index):
        """As `Bare`, counted."""
        out = super().training_step(batch, index)
        self.mean.update(out["loss"])
        self.accuracy.update(out["logits"], batch[1])
        self.ece.update(out["logits"].softmax(1), batch[1])
        return out


class Means(Bare):
    """torchmetrics for the mean loss alone, which is what the learning curve needs."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, index):
        """As `Bare`, the loss averaged."""
        out = super().training_step(batch, index)
        self.mean.update(out["loss"], weight=len(batch[1]))
        return out


class Logs(Bare):
    """`self.log` for the mean loss per epoch."""

    def training_step(self, batch, index):
        """As `Bare`, logged."""
        out = super().training_step(batch, index)
        self.log("train_loss", out["loss"], on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return out


class Forwards(Updates):
    """torchmetrics by `forward` and `self.log` on every step."""

    def training_step(self, batch, index):
        """As `Bare`, each metric evaluated and logged."""
        out = Bare.training_step(self, batch, index)
        self.log("loss_mean", self.mean(out["loss"]), on_step=True)
        self.log("accuracy", self.accuracy(out["logits"], batch[1]), on_step=True)
        self.log("ece", self.ece(out["logits"].softmax(1), batch[1]), on_step=True)
        return out


class CountSyncs(TorchDispatchMode):
    """Counts the operations that would wait for a device: reading a number, finding where, comparing by value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count and go on."""
        name = function.__name__.partition(".")[0]
        self.count += name in {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}
        return function(*args, **(kwargs or {}))


def fit(module: type[pl.LightningModule], monitors: list[str], steps: int, folder: str, device: str, validate: bool) -> float:
    """Process seconds of one fit."""
    made = [getattr(callbacks, name)() for name in monitors]
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        callbacks=made,
        logger=CSVLogger(folder) if module is Forwards else False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if validate else 0,
    )
    net, batches = module(), Batches(steps)
    started = time.process_time() if device == "cpu" else time.perf_counter()
    trainer.fit(net, batches, batches if validate else None)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.process_time() if device == "cpu" else time.perf_counter()) - started


def main() -> None:
    """Print a markdown table: extra microseconds per step over the bare fit, and waits for the device per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="per epoch; two epochs are run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    variants: dict[str, tuple[type[pl.LightningModule], list[str], bool]] = {
        "bare Lightning": (Bare, [], False),
        "LearningCurveMonitor": (Bare, ["LearningCurveMonitor"], False),
        "torchmetrics mean `.update`": (Means, [], False),
        "`self.log(on_epoch=True)` of the loss": (Logs, [], False),
        "torchmetrics loss, accuracy, ECE `.update`": (Updates, [], False),
        "torchmetrics `.forward` + `self.log`": (Forwards, [], False),
        "bare Lightning with validation": (Bare, [], True),
        "LearningCurveMonitor with validation": (Bare, ["LearningCurveMonitor"], True),
        "CalibrationMonitor with validation": (Bare, ["CalibrationMonitor"], True),
        "both monitors with validation": (Bare, ["LearningCurveMonitor", "CalibrationMonitor"], True),
    }
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        times: dict[str, list[float]] = {name: [] for name in variants}
        syncs: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.repeats):
                for name, (module, monitors, validate) in variants.items():
                    times[name].append(fit(module, monitors, options.steps, folder, device, validate))
            for name, (module, monitors, validate) in variants.items():
                with CountSyncs() as counter:
                    fit(module, monitors, 100, folder, device, validate)
                syncs[name] = counter.count / 200
        print(f"| {device}, {2 * options.steps} steps | per step | over bare | waits per step |\n| --- | --- | --- | --- |")
        for name, (_, _, validate) in variants.items():
            bare = "bare Lightning with validation" if validate else "bare Lightning"
            extra = median(a - b for a, b in zip(times[name], times[bare], strict=True)) / (2 * options.steps)
            print(f"| {name} | {1e6 * median(times[name]) / (2 * options.steps):.0f} us | {1e6 * extra:+.0f} us | {syncs[name]:.2f} |")


if __name__ == "__main__":
    main()

"""Cost of the monitors per step, beside a bare Lightning fit, torchmetrics and `self.log`."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import lightning.pytorch as pl
import torch
from _timing import medians
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from gendebug_torch import callbacks
from gendebug_torch.behavior import Case, Suite
from gendebug_torch.calibration.recorder import CalibrationRecorder
from gendebug_torch.labels import DynamicsRecorder

CLASSES, FEATURES, WIDTH, BATCH, EPOCHS = 10, 32, 64, 64, 2


class Batches:
    """Batches cut from tensors, so that the loader costs next to nothing."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(steps, BATCH, FEATURES, generator=generator)
        self.y = torch.randint(CLASSES, (steps, BATCH), generator=generator)
        self.ids = torch.arange(steps * BATCH).view(steps, BATCH)

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self):
        return zip(self.x, self.y, self.ids, strict=True)


class Bare(pl.LightningModule):
    """The network of the measurements; a dict of logits and targets costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, x):
        """Logits."""
        return self.net(x)

    def training_step(self, batch, index):
        """Cross-entropy."""
        logits = self.net(batch[0])
        return {
            "loss": cross_entropy(logits, batch[1]),
            "logits": logits,
            "targets": batch[1],
            "ids": batch[2],
        }

    validation_step = training_step

    def configure_optimizers(self):
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), 0.01)


class Means(Bare):
    """torchmetrics for the mean loss alone, logged per epoch: what a learning curve needs."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.val_mean = MeanMetric(), MeanMetric()

    def training_step(self, batch, index):
        """As `Bare`, the loss averaged."""
        out = super().training_step(batch, index)
        self.mean.update(out["loss"], weight=len(batch[1]))
        self.log("train_loss", self.mean, on_step=False, on_epoch=True)
        return out

    def validation_step(self, batch, index):
        """As `Bare`, the loss averaged."""
        out = super().validation_step(batch, index)
        self.val_mean.update(out["loss"], weight=len(batch[1]))
        self.log("val_loss", self.val_mean, on_step=False, on_epoch=True)
        return out


class Logs(Bare):
    """`self.log` for the mean loss per epoch."""

    def training_step(self, batch, index):
        """As `Bare`, logged."""
        out = super().training_step(batch, index)
        self.log("train_loss", out["loss"], on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return out

    def validation_step(self, batch, index):
        """As `Bare`, logged."""
        out = super().validation_step(batch, index)
        self.log("val_loss", out["loss"], batch_size=len(batch[1]))
        return out


class Calibrated(Bare):
    """torchmetrics for the calibration error, logged per epoch: a part of `CalibrationMonitor`."""

    def __init__(self) -> None:
        super().__init__()
        self.ece = MulticlassCalibrationError(CLASSES)

    def validation_step(self, batch, index):
        """As `Bare`, counted."""
        out = super().validation_step(batch, index)
        self.ece.update(out["logits"].softmax(1), batch[1])
        self.log("val_ece", self.ece)
        return out


class Updates(Means):
    """torchmetrics, one update a step: mean loss, accuracy, calibration error."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.ece = MulticlassAccuracy(CLASSES), MulticlassCalibrationError(CLASSES)

    def training_step(self, batch, index):
        """As `Means`, and more counted."""
        out = super().training_step(batch, index)
        self.accuracy.update(out["logits"], batch[1])
        self.ece.update(out["logits"].softmax(1), batch[1])
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
    """Counts the operations that would wait for a device, such as reading a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count and go on."""
        name = function.__name__.partition(".")[0]
        self.count += name in {
            "_local_scalar_dense",
            "nonzero",
            "equal",
            "is_nonzero",
            "masked_select",
        }
        return function(*args, **(kwargs or {}))


def suite() -> Suite:
    """Three cases of three rows each."""
    names = tuple(f"f{i}" for i in range(FEATURES))
    return Suite(
        tuple(
            Case(f"case{i}", dict.fromkeys(names, 0.0), "same", {f"f{i}": 0.1}) for i in range(3)
        ),
        features=names,
    )


@dataclass(frozen=True)
class Variant:
    """One row: a module and its monitors, with validation or without."""

    name: str
    module: type[pl.LightningModule] = Bare
    monitors: tuple[Callable[[int], Callback], ...] = ()
    validate: bool = False


CURVES, CALIBRATION = (
    (lambda steps: callbacks.LearningCurveMonitor()),
    (lambda steps: callbacks.CalibrationMonitor(diagrams=False)),
)
TRAINING = (
    Variant("bare Lightning"),
    Variant("LearningCurveMonitor", monitors=(CURVES,)),
    Variant(
        "TrainingDynamicsMonitor",
        monitors=(lambda steps: callbacks.TrainingDynamicsMonitor(steps * BATCH),),
    ),
    Variant("`self.log(on_epoch=True)` of the loss", Logs),
    Variant("torchmetrics mean `.update` + `self.log`", Means),
    Variant("torchmetrics loss, accuracy, ECE `.update`", Updates),
    Variant("torchmetrics `.forward` + `self.log` per step, CSV logger", Forwards),
)
VALIDATION = (
    Variant("bare Lightning", validate=True),
    Variant("LearningCurveMonitor", monitors=(CURVES,), validate=True),
    Variant("CalibrationMonitor", monitors=(CALIBRATION,), validate=True),
    Variant(
        "AttributionMonitor (share 5 %)",
        monitors=(lambda steps: callbacks.AttributionMonitor(steps=16),),
        validate=True,
    ),
    Variant(
        "BehaviorMonitor, 3 cases",
        monitors=(lambda steps: callbacks.BehaviorMonitor(suite()),),
        validate=True,
    ),
    Variant(
        "LearningCurveMonitor + CalibrationMonitor", monitors=(CURVES, CALIBRATION), validate=True
    ),
    Variant("`self.log` of both losses", Logs, validate=True),
    Variant("torchmetrics ECE `.update` + `self.log`", Calibrated, validate=True),
)


def fit(variant: Variant, steps: int, folder: str, device: str) -> float:
    """Seconds of one fit: process time on a CPU, as machines are busy, wall time elsewhere."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        callbacks=[make(steps) for make in variant.monitors],
        logger=CSVLogger(folder) if variant.module is Forwards else False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if variant.validate else 0,
    )
    net, batches = variant.module(), Batches(steps)
    started = clock()
    trainer.fit(net, batches, batches if variant.validate else None)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def fits(title: str, variants: tuple[Variant, ...], steps: int, repeats: int, device: str) -> None:
    """Print one table; the times over bare are medians of differences within a turn."""
    print(
        f"\n| {device}, {title} | per step | over bare | waits per step |\n| --- | --- | --- | "
        "--- |",
        flush=True,
    )
    bare, *others = variants
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            fit(variant, 20, folder, device)
        base = []
        for variant in others:
            turns = [
                (fit(bare, steps, folder, device), fit(variant, steps, folder, device))
                for _ in range(repeats)
            ]
            if not base:
                base = [first for first, _ in turns]
                print(
                    f"| {bare.name} | {_micro(median(base), steps):.0f} us | | "
                    f"{_waits(bare, folder, device):.2f} |",
                    flush=True,
                )
            extra = _micro(median(second - first for first, second in turns), steps)
            whole = _micro(median(second for _, second in turns), steps)
            print(
                f"| {variant.name} | {whole:.0f} us | {extra:+.0f} us | "
                f"{_waits(variant, folder, device):.2f} |",
                flush=True,
            )


def _micro(seconds: float, steps: int) -> float:
    return 1e6 * seconds / (EPOCHS * steps)


def _waits(variant: Variant, folder: str, device: str) -> float:
    with CountSyncs() as counter:
        fit(variant, 200, folder, device)
    return counter.count / (EPOCHS * 200)


def counting(device: str, repeats: int) -> None:
    """Print the cost of `CalibrationMonitor`'s count, beside its floor and torchmetrics."""
    print(
        f"\n| {device}, one validation step | CalibrationMonitor counts | floor: read and one exp "
        "per logit | torchmetrics ECE `.update` |"
        "\n| --- | --- | --- | --- |",
        flush=True,
    )
    for rows, classes in ((64, 10), (256, 10), (64, 100), (64, 1000)):
        steps = max(1, min(2000, 2**25 // (4 * rows * classes)))
        parts = [3 * torch.randn(rows, classes, device=device) for _ in range(steps)]
        targets = [torch.randint(classes, (rows,), device=device) for _ in range(steps)]
        metric = MulticlassCalibrationError(classes).to(device)
        out = torch.empty_like(parts[0])

        def ours(parts=parts, targets=targets) -> None:
            recorder = CalibrationRecorder()
            for pair in zip(parts, targets, strict=True):
                recorder.add(*pair)
            recorder.epoch_sums()

        def floor(parts=parts, out=out) -> None:
            for part in parts:
                torch.exp(part, out=out)
            _wait(parts[0])

        def theirs(parts=parts, targets=targets, metric=metric) -> None:
            metric.reset()
            for logits, target in zip(parts, targets, strict=True):
                metric.update(logits.softmax(1), target)
            _wait(parts[0])

        times = medians({"ours": ours, "floor": floor, "theirs": theirs}, repeats)
        micro = {name: 1e6 * seconds / steps for name, seconds in times.items()}
        print(
            f"| [{rows}, {classes}] | {micro['ours']:.1f} us | {micro['floor']:.1f} us | "
            f"{micro['theirs']:.0f} us |",
            flush=True,
        )


def dynamics(device: str, repeats: int) -> None:
    """Print memory and time of `TrainingDynamicsMonitor` for a million rows in batches of 64."""
    print(
        f"\n| {device}, TrainingDynamicsMonitor, a million rows | memory | per epoch |\n| --- | "
        "--- | --- |",
        flush=True,
    )
    for rows, classes in ((10**6, 10), (10**5, 1000)):
        logits, targets = (
            torch.randn(rows, classes, device=device),
            torch.randint(classes, (rows,), device=device),
        )
        ids, recorder = torch.randperm(rows, device=device), DynamicsRecorder(rows, device=device)

        def epoch(recorder=recorder, given=(ids, logits, targets)) -> None:
            for batch in zip(*(part.split(BATCH) for part in given), strict=True):
                recorder.record(*batch)
            recorder.end_epoch()
            _wait(given[0])

        seconds = medians({"ours": epoch}, repeats)["ours"]
        held = sum(part.numel() * part.element_size() for part in recorder.state_dict().values())
        scale = 10**6 / rows
        print(
            f"| {classes} classes | {scale * held / 1e6:.0f} MB | {scale * seconds:.2f} s |",
            flush=True,
        )


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Print markdown tables: microseconds per step over the bare fit, and waits per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps",
        type=int,
        default=500,
        help="training (and validation) steps per epoch; two epochs are run",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="3000 steps per epoch")
    options = parser.parse_args()
    steps = 3000 if options.full else options.steps
    for name in ("lightning.pytorch", "gendebug_torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        counting(device, options.repeats)
        dynamics(device, options.repeats)
        fits("training only", TRAINING, steps, options.repeats, device)
        fits("training and as many validation steps", VALIDATION, steps, options.repeats, device)


if __name__ == "__main__":
    main()

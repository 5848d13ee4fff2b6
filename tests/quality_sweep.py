"""Worlds of every task, validation quality, size and fall of the quality, and what a verdict on
them must not say."""

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.stats.intervals import difference_interval

TASKS = ("binary", "3 classes", "10 classes", "100 classes", "multilabel", "regression")
QUALITIES, SIZES, FALLS = (0.7, 0.8, 0.9, 1.0), (300, 3000, 100_000), (0.0, 0.05, 0.2, 0.5)
LABELS = 5


@dataclass(frozen=True)
class Cell:
    """One world: accuracy (R2 of a regression) in validation, and the share of it that is lost."""

    task: str
    quality: float
    n: int
    fall: float
    seed: int = 0

    def given(self):
        """Validation and production, with scores that are calibrated in validation."""
        rng = np.random.default_rng([self.seed, TASKS.index(self.task), int(100 * self.quality)])
        make = {"regression": quantities, "multilabel": labels}.get(self.task, classes)
        return {
            name: make(self, rng, self.quality * (1 - fall), name)
            for name, fall in (("validation", 0.0), ("production", self.fall))
        }


def cells(seed=0, tasks=TASKS, qualities=QUALITIES, sizes=SIZES, falls=FALLS):
    return [Cell(*key, seed) for key in itertools.product(tasks, qualities, sizes, falls)]


def confidences(rng, shape, quality, chance):
    """Confidences around the quality, which calibrated predictions are right as often as."""
    width = 0.9 * min(1 - quality, quality - chance, 0.1)
    return np.clip(quality + width * rng.uniform(-1, 1, shape), None, 1 - 1e-6)


def classes(cell, rng, quality, name):
    k = 2 if cell.task == "binary" else int(cell.task.split()[0])
    confidence = confidences(rng, cell.n, cell.quality, 1 / k)
    said = rng.integers(0, k, cell.n)
    sure = 1.0 if cell.quality == 1 else confidence
    right = rng.random(cell.n) < sure * quality / cell.quality
    truth = np.where(right, said, (said + rng.integers(1, k, cell.n)) % k)
    logits = np.zeros((cell.n, k))
    logits[np.arange(cell.n), said] = np.log(confidence * (k - 1) / (1 - confidence))
    if k == 2:
        logits = logits[:, 1] - logits[:, 0]
    return Records(
        features(rng, said), torch.from_numpy(truth), torch.from_numpy(logits), name=name
    )


def labels(cell, rng, quality, name):
    shape = (cell.n, LABELS)
    confidence = confidences(rng, shape, cell.quality, 0.5)
    said = rng.random(shape) < 0.4
    sure = 1.0 if cell.quality == 1 else confidence
    right = rng.random(shape) < sure * quality / cell.quality
    truth = torch.from_numpy((said == right).astype(np.int64))
    logits = torch.from_numpy(np.where(said, 1, -1) * np.log(confidence / (1 - confidence)))
    schema = Schema(multilabel=True)
    return Records(features(rng, said[:, 0]), truth, logits, schema=schema, name=name)


def quantities(cell, rng, quality, name):
    """Unit variance of the targets; the share `quality` of it is explained."""
    x = rng.normal(size=cell.n)
    targets = math.sqrt(quality) * x + math.sqrt(1 - quality) * rng.normal(size=cell.n)
    schema = Schema(regression=True)
    predicted = torch.from_numpy(math.sqrt(cell.quality) * x)
    return Records(features(rng, x), torch.from_numpy(targets), predicted, schema=schema, name=name)


def features(rng, related):
    table = pd.DataFrame(rng.normal(size=(len(related), 3)), columns=list("abc"))
    return table.assign(a=table["a"] + related)


def fell(given):
    """Whether the accuracy or the squared error is worse beyond its own 99.9 % interval."""
    before, after = (given[name] for name in ("validation", "production"))
    if before.schema.regression:
        losses = [(side.logits - side.targets).square() for side in (before, after)]
        error = math.hypot(*(float(x.std()) / len(x) ** 0.5 for x in losses))
        return float(losses[1].mean() - losses[0].mean()) > 3.29 * error
    right = [side.correct for side in (before, after)]
    sums = [torch.tensor([x.double().mean(-1).sum() if x.ndim > 1 else x.sum()]) for x in right]
    sizes = [torch.tensor([len(x)]) for x in right]
    _, high = difference_interval(sums[0], sizes[0], sums[1], sizes[1], level=0.999)
    return bool(high < 0)


def faults(given, diagnosis):
    """What a verdict says wrongly, whatever the cause: empty where it is right."""
    wrong = [f"errored: {f.check}" for f in diagnosis.findings if f.severity is Severity.ERRORED]
    if fell(given) and diagnosis.decision == "nothing":
        wrong.append("nothing while quality fell")
    quality = diagnosis.quality
    if quality is None:
        return [*wrong, "quality not compared"]
    remedy = diagnosis.decision if diagnosis.decision in ("recalibrate", "move_threshold") else ""
    if remedy and quality.fell and not quality.restored_by(remedy):
        wrong.append(f"{remedy} does not win back what fell")
    for sentence in diagnosis.verdict.would_change:
        now = re.search(r"or more, now (\d+)%", sentence)
        already = now is not None and int(now[1]) >= 30
        if already or ("falls beyond its interval" in sentence and quality.fell):
            wrong.append(f"already so: {sentence}")
    return wrong + two_accuracies(diagnosis)


def two_accuracies(diagnosis):
    """Accuracies and AUCs of one split that differ between findings."""
    said = {}
    for finding in diagnosis.findings:
        numbers = finding.numbers
        if finding.check == "shift.quality":
            for metric in ("accuracy", "AUC"):
                for side in ("validation", "production"):
                    said.setdefault((metric, side), set()).add(numbers.get(f"{metric} {side}"))
        named = {
            "calibration.ece": {"accuracy": ("accuracy", "validation")},
            "calibration.production_ece": {"accuracy": ("accuracy", "production")},
            "calibration.threshold": {
                "auc_validation": ("AUC", "validation"),
                "auc_production": ("AUC", "production"),
            },
            "shift.estimated_accuracy": {
                "before": ("accuracy", "validation"),
                "counted": ("accuracy", "production"),
            },
        }.get(finding.check, {})
        for key, metric in named.items():
            said.setdefault(metric, set()).add(numbers.get(key))
    rounded = {
        key: {round(value, 9) for value in values if value is not None}
        for key, values in said.items()
    }
    return [f"{key}: {values}" for key, values in rounded.items() if len(values) > 1]

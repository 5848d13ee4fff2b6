"""Sums over labeled and scored rows: classes, confusion, calibration, areas, squared errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.calibration import calibration_sums
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.calibration.measures.sufficient_statistics import CalibrationSums
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.errors import reject
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.profiles.sums.columns import NO_VALUES, Moments
from gendebug_torch.profiles.sums.sketch import Sketch, sketch
from gendebug_torch.profiles.sums.targets import CellSums, quantity_cells, sum_of_known

# Classes beyond which no confusion is counted.
MAX_CLASSES = 256


@dataclass(frozen=True, eq=False)
class OutcomeSums:
    """What is known of labels and outputs; adds over rows.

    Args:
        task: question that the model answers; None without labels and outputs.
        labels: numbers of rows by class id, `[k]` int64; empty without classes.
        confusion: numbers of rows by class and predicted class, `[k, k]` int64.
        calibration: sums of calibration; None without scored labels of classes.
        scores: log odds of class 1 of a binary model, by class: 0, 1 and not labeled.
        loss: moments of the loss of the labeled rows: log loss in nats, or squared error.
        threshold: threshold on the probability by which a binary model was judged.
        quantities: numbers of labels by cell, where they are quantities.
        top: log odds of the largest probability of more classes than two.
    """

    task: Task | None = None
    labels: Tensor = field(default_factory=partial(torch.zeros, 0, dtype=torch.int64))
    confusion: Tensor = field(default_factory=partial(torch.zeros, 0, 0, dtype=torch.int64))
    calibration: CalibrationSums | None = None
    scores: Mapping[str, Sketch] | None = None
    loss: Moments = NO_VALUES
    threshold: float = 0.5
    quantities: CellSums | None = None
    top: Sketch | None = None

    def __add__(self, other: OutcomeSums) -> OutcomeSums:
        if None in (self.task, other.task):
            return other if self.task is None else self
        tasks = {self.task, other.task}
        # Without outputs, two classes may be the first of more.
        scored = any(side.scores or side.calibration or side.top for side in (self, other))
        if len(tasks) > 1 and (scored or tasks != {Task.BINARY, Task.MULTICLASS}):
            remedy = "Declare it in the schema: `regression`, `multilabel` or `classes`."
            reject("rows", f"{self.task} outcomes in all parts", f"{other.task}", remedy)
        scores = _added(self.scores, other.scores)
        return replace(
            self,
            task=self.task if len(tasks) == 1 else Task.MULTICLASS,
            labels=_padded_sum(self.labels, other.labels),
            confusion=_padded_sum(self.confusion, other.confusion),
            calibration=sum_of_known(self.calibration, other.calibration),
            scores=scores,
            loss=self.loss + other.loss,
            quantities=sum_of_known(self.quantities, other.quantities),
            top=sum_of_known(self.top, other.top),
        )

    @property
    def labeled(self) -> int:
        """Number of rows with a label and an output."""
        return self.loss.n

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, for a file."""
        found = {"labels": self.labels, "confusion": self.confusion}
        if self.calibration is not None:
            cells = self.calibration.cells
            found |= {f"calibration.{f.name}": getattr(cells, f.name) for f in fields(cells)}
            found["calibration.scores"] = self.calibration.scores
        for name, part in (self.scores or {}).items():
            found |= sketch_tensors(f"scores.{name}", part)
        if self.top is not None:
            found |= sketch_tensors("top", self.top)
        if self.quantities is not None:
            found["quantities.keys"] = torch.tensor(self.quantities.keys)
            found["quantities.sums"] = torch.tensor(self.quantities.sums)
        return found

    def header(self) -> dict[str, Any]:
        """What is no tensor, as JSON."""
        levels = {name: part.level for name, part in (self.scores or {}).items()}
        loss = [self.loss.n, self.loss.mean, self.loss.squares]
        grid = None if self.quantities is None else self.quantities.level
        known = {"task": self.task, "loss": loss, "threshold": self.threshold}
        top = None if self.top is None else self.top.level
        return known | {"levels": levels, "quantities": grid, "top": top}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> OutcomeSums:
        """The inverse of `tensors` and `header`."""
        calibration = None
        if "calibration.scores" in tensors:
            cells = [tensors[f"calibration.{f.name}"] for f in fields(ReliabilityBins)]
            calibration = CalibrationSums(ReliabilityBins(*cells), tensors["calibration.scores"])
        scores = {
            name: sketch_of(tensors, f"scores.{name}", level)
            for name, level in header["levels"].items()
        }
        return cls(
            None if header["task"] is None else Task(header["task"]),
            tensors["labels"],
            tensors["confusion"],
            calibration,
            scores or None,
            Moments(*header["loss"]),
            float(header["threshold"]),
            # Both are absent in files of earlier versions.
            _quantities(tensors, header.get("quantities")),
            None if header.get("top") is None else sketch_of(tensors, "top", header["top"]),
        )


def outcome_sums(records: Records) -> OutcomeSums:
    """The sums of some records.

    Args:
        records: records with targets, logits, both or neither.
    """
    if records.task is None or records.task in (Task.DENSE, Task.MULTILABEL):
        return OutcomeSums(records.task)
    threshold = records.schema.threshold or 0.5
    known = OutcomeSums(
        records.task, scores=_scores(records), threshold=threshold, top=_top_scores(records)
    )
    if records.targets is None:
        return known
    labeled = records.select(~missing_labels(records.targets).cpu())
    assert labeled.targets is not None
    if records.task is not Task.REGRESSION and labeled.targets.ndim == 1:
        known = replace(known, labels=labeled.targets.bincount())
    elif labeled.targets.ndim == 1:
        values = labeled.targets.double().cpu().numpy()
        known = replace(known, quantities=quantity_cells(values))
    return known if labeled.logits is None or not len(labeled) else _judged(known, labeled)


def sketch_tensors(name: str, part: Sketch) -> dict[str, Tensor]:
    """The arrays of a sketch by name, for a file."""
    keys = ("keys", "counts", "low", "high")
    return {f"{name}.{key}": torch.tensor(getattr(part, key)) for key in keys}


def sketch_of(tensors: Mapping[str, Tensor], name: str, level: int) -> Sketch:
    """The inverse of `sketch_tensors`."""
    parts = (tensors[f"{name}.{key}"].numpy() for key in ("keys", "counts", "low", "high"))
    keys, counts, low, high = parts
    return Sketch(keys, counts, low, high, int(level))


def _quantities(tensors: Mapping[str, Tensor], level: int | None) -> CellSums | None:
    """Cells of quantities; None without any."""
    if level is None:
        return None
    return CellSums(tensors["quantities.keys"].numpy(), tensors["quantities.sums"].numpy(), level)


def _scores(records: Records) -> dict[str, Sketch] | None:
    """Sketches of the log odds of a binary model, by label."""
    if records.task is not Task.BINARY or records.logits is None:
        return None
    odds = positive_logit(records.logits).double().cpu().numpy()
    labels = np.full(len(odds), -1)
    if records.targets is not None:
        labels = records.targets.cpu().numpy()
    classes = {"0": labels == 0, "1": labels == 1, "unlabeled": labels < 0}
    return {name: sketch(odds[rows]) for name, rows in classes.items()}


def _top_scores(records: Records) -> Sketch | None:
    """Sketch of the log odds of the largest probability of each row."""
    z = records.logits
    if records.task is not Task.MULTICLASS or z is None or z.shape[1] < 3:
        return None
    largest, first = z.double().max(1, keepdim=True)
    others = z.double().scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)
    return sketch((largest - others)[:, 0].cpu().numpy())


def _judged(known: OutcomeSums, labeled: Records) -> OutcomeSums:
    """The sums with those of labeled outputs."""
    assert labeled.logits is not None
    assert labeled.targets is not None
    z, y = labeled.logits, labeled.targets
    if known.task is Task.REGRESSION:
        errors = (z.double() - y.double()).reshape(len(z), -1).square().mean(1)
        return replace(known, loss=moments_of(errors))
    if known.task is Task.BINARY:
        cut = torch.tensor(known.threshold, dtype=torch.float64).logit()
        predicted, k = (positive_logit(z).double() > cut).long(), 2
    else:
        predicted, k = z.argmax(1), z.shape[1]
    calibration = calibration_sums(z, y)
    log_loss, squares = calibration.scores[0, :2].tolist()
    n = len(z)
    loss = Moments(n, log_loss / n, max(squares - log_loss**2 / n, 0.0))
    known = replace(known, calibration=calibration, loss=loss)
    if k > MAX_CLASSES:
        return known
    cells = (y * k + predicted).bincount(minlength=k * k).reshape(k, k)
    return replace(known, confusion=cells)


def moments_of(values: Tensor) -> Moments:
    """Moments of some numbers, `[n]`."""
    n, mean = len(values), float(values.mean()) if len(values) else 0.0
    return Moments(n, mean, float((values - mean).square().sum()))


def _added(
    one: Mapping[str, Sketch] | None, other: Mapping[str, Sketch] | None
) -> Mapping[str, Sketch] | None:
    if one is None or other is None:
        return other if one is None else one
    return {name: part + other[name] for name, part in one.items()}


def _padded_sum(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two arrays of counts, the smaller one filled up with zeros."""
    if not one.numel() or not other.numel():
        return other if not one.numel() else one
    size = max(one.shape[0], other.shape[0])
    parts = []
    for part in (one, other):
        more = [0, size - part.shape[0]] * part.ndim
        parts.append(torch.nn.functional.pad(part, more))
    return parts[0] + parts[1]

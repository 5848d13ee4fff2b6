"""What a model did on each row of both sides, by task: metrics, their parts, losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.shift.quality.metrics import Metric, area_metric, error_metric, mean_metric
from gendebug_torch.stats.auc import auc_placements

# Classes with fewer rows on a side are not judged by themselves.
MIN_CLASS_ROWS = 10
Pair: TypeAlias = tuple[Metric, Metric]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Metrics of both sides, and what the remedies are tried on.

    Args:
        metrics: each metric in validation and in production; the first is the principal one.
        part: what the parts are: `class`, `label` or `output`.
        parts: the same within each class, label or output with enough rows.
        losses: losses of the rows of both sides, `[n]` and `[m]` float64 on the host.
        logits: outputs in production that decide, `[m]` binary, else `[m, k]`.
        targets: class ids `[m]`, or answers or quantities `[m, k]` in production.
        measure: outputs and targets of some rows -> the last metric of them.
        threshold: threshold on the probability of class 1 or of each label.
    """

    metrics: list[Pair]
    part: str
    parts: list[Pair]
    losses: tuple[Tensor, Tensor]
    logits: Tensor
    targets: Tensor
    measure: Callable[[Tensor, Tensor], Metric]
    threshold: float = 0.5


def outcomes(validation: Records, production: Records) -> Outcomes | None:
    """Outcomes of labeled rows; None where outputs are missing or the tasks differ.

    Args:
        validation: labeled records.
        production: labeled records.
    """
    sides = (validation, production)
    if any(side.logits is None or side.targets is None for side in sides):
        return None
    shapes = [side.logits.shape[1:] for side in sides if side.logits is not None]
    if validation.task is not production.task or shapes[0] != shapes[1]:
        return None
    if validation.task is Task.REGRESSION:
        return _of_quantities(validation, production)
    if validation.task is Task.BINARY:
        return _of_two_classes(validation, production)
    if validation.task is Task.MULTILABEL:
        return _of_labels(validation, production)
    return _of_classes(validation, production)


def row_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row in nats, `[n]` float64 on the host; of labels their mean.

    Missing labels are left out.

    Args:
        logits: `[n]` of two classes, `[n, k]` of classes or labels.
        targets: class ids `[n]`, or answers `[n, k]`.
    """
    z = logits.double()
    if z.shape != targets.shape:
        return cross_entropy(z, targets, reduction="none").cpu()
    answers = targets.clamp(min=0).double()
    loss = binary_cross_entropy_with_logits(z, answers, reduction="none").cpu()
    if loss.ndim == 1:
        return loss
    return loss.masked_fill((targets == IGNORED).cpu(), torch.nan).nanmean(1)


def decision_scores(logits: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """Score of each decision, float64 shaped like the targets: 1 where it is right, else less.

    NaN where the label is missing.

    A threshold other than a half says what errors cost: a false positive its odds times as much as
    a false negative (Elkan, 2001, IJCAI). At a half the mean is the accuracy.

    Args:
        logits: `[n]` of two classes, or `[n, k]` of labels.
        targets: 0 and 1, of the same shape.
        threshold: threshold on the probability.
    """
    positive = logits.double() > torch.tensor(threshold, dtype=torch.float64).logit()
    wrong = torch.where(positive, 2 * threshold * (targets == 0), 2 * (1 - threshold) * targets)
    return (1 - wrong.double()).masked_fill(targets == IGNORED, torch.nan)


def _of_two_classes(validation: Records, production: Records) -> Outcomes | None:
    threshold = production.schema.threshold or validation.schema.threshold or 0.5
    scores = [positive_logit(_logits(side)).double() for side in (validation, production)]
    targets = [_targets(side) for side in (validation, production)]
    if any(y.ndim != 1 for y in targets):
        return None
    return _of_columns(scores, targets, "class", class_names(validation, 2), threshold)


def _of_labels(validation: Records, production: Records) -> Outcomes | None:
    scores = [_logits(side).double() for side in (validation, production)]
    targets = [_targets(side) for side in (validation, production)]
    if any(z.shape != y.shape for z, y in zip(scores, targets, strict=True)):
        return None
    names = class_names(validation, scores[0].shape[1], "label")
    return _of_columns(scores, targets, "label", names, 0.5)


def _of_columns(
    scores: list[Tensor], targets: list[Tensor], part: str, names: list[str], threshold: float
) -> Outcomes:
    """Of two classes `[n]`, or of several labels `[n, k]`: areas and accuracy."""
    labels = part == "label"
    areas = _areas(scores, targets, "mean AUC of the labels" if labels else "AUC", names)

    name = "label accuracy" if labels else "accuracy"
    if threshold != 0.5:
        name = f"weighted accuracy (threshold {threshold:.3g})"

    def right(z: Tensor, y: Tensor) -> Tensor:
        return decision_scores(z, y, threshold).reshape(len(z), -1).nanmean(1).cpu()

    def accuracy(z: Tensor, y: Tensor) -> Metric:
        return mean_metric(name, right(z, y))

    sides = list(zip(scores, targets, strict=True))
    decided: Pair = (accuracy(*sides[0]), accuracy(*sides[1]))
    parts = areas[1:] if labels else _recalls([right(*x) == 1 for x in sides], targets, names)
    losses = row_losses(scores[0], targets[0]), row_losses(scores[1], targets[1])
    return Outcomes(
        [*areas[:1], decided], part, parts, losses, scores[1], targets[1], accuracy, threshold
    )


def _areas(scores: list[Tensor], targets: list[Tensor], name: str, names: list[str]) -> list[Pair]:
    """Mean area of all columns, and that of each; of those with enough rows of both classes."""
    columns = [z.reshape(len(z), -1) for z in scores]
    positive = [y.reshape(len(y), -1) == 1 for y in targets]
    negative = [y.reshape(len(y), -1) == 0 for y in targets]
    counts = torch.stack([known.sum(0) for known in (*positive, *negative)])
    judged = (counts >= MIN_CLASS_ROWS).all(0).nonzero()[:, 0]
    if not len(judged):
        return []
    known = [(p[:, judged], n[:, judged]) for p, n in zip(positive, negative, strict=True)]
    placements = [_placements(z[:, judged], *k) for z, k in zip(columns, known, strict=True)]
    parts = [(name, slice(None))]
    parts += [(f"AUC of {names[int(i)]}", slice(at, at + 1)) for at, i in enumerate(judged)]
    pairs: list[Pair] = []
    for title, part in parts:
        before, after = (
            area_metric(title, value[:, part], p[:, part], n[:, part])
            for value, (p, n) in zip(placements, known, strict=True)
        )
        pairs.append((before, after))
    return pairs


def _placements(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Placements among the rows whose label is known, `[n, l]`; 0 where it is missing."""
    known = positive | negative
    if bool(known.all()):
        return auc_placements(scores, positive)
    placements = torch.zeros_like(scores)
    for i in range(scores.shape[1]):
        rows = known[:, i]
        placements[rows, i] = auc_placements(scores[rows, i : i + 1], positive[rows, i : i + 1])[
            :, 0
        ]
    return placements


def _of_classes(validation: Records, production: Records) -> Outcomes | None:
    logits = [_logits(side) for side in (validation, production)]
    targets = [_targets(side) for side in (validation, production)]
    if any(y.ndim != 1 or z.ndim != 2 for z, y in zip(logits, targets, strict=True)):
        return None
    right = [z.argmax(1) == y for z, y in zip(logits, targets, strict=True)]
    names = class_names(validation, logits[0].shape[1])
    parts = _recalls(right, targets, names)
    losses = row_losses(logits[0], targets[0]), row_losses(logits[1], targets[1])

    def accuracy(z: Tensor, y: Tensor) -> Metric:
        return mean_metric("accuracy", z.argmax(1) == y)

    metrics: list[Pair] = [(accuracy(logits[0], targets[0]), accuracy(logits[1], targets[1]))]
    return Outcomes(metrics, "class", parts, losses, logits[1], targets[1], accuracy)


def _of_quantities(validation: Records, production: Records) -> Outcomes | None:
    sides, errors, spreads = [], [], []
    for side in (validation, production):
        targets = _targets(side).double().reshape(len(side), -1)
        values = _logits(side).double().reshape(len(side), -1)
        if values.shape != targets.shape:
            return None
        sides.append((values, targets))
        errors.append((values - targets).cpu())
        spread = (targets - targets.nanmean(0)).square().nanmean(0).sqrt()
        spreads.append(spread.cpu().clamp(min=1e-12))
    k = errors[0].shape[1]
    several = k > 1
    # Several outputs are compared in units of their spread in validation.
    unit = spreads[0] if several else torch.ones(1, dtype=torch.float64)
    name = "RMSE in standard deviations of the targets" if several else "RMSE"

    def error(z: Tensor, y: Tensor) -> Metric:
        return error_metric(name, (z - y).cpu() / unit)

    parts = _outputs(errors) if several else []
    whole: Pair = (error(*sides[0]), error(*sides[1]))
    losses = ((errors[0] / unit).square().nanmean(1), (errors[1] / unit).square().nanmean(1))
    return Outcomes([whole], "output", parts, losses, *sides[1], error)


def _outputs(errors: list[Tensor]) -> list[Pair]:
    """Error of each of several quantities in its own unit, of those with enough rows."""
    pairs: list[Pair] = []
    for i in range(errors[0].shape[1]):
        before, after = (error[~error[:, i].isnan(), i] for error in errors)
        if min(len(before), len(after)) >= MIN_CLASS_ROWS:
            title = f"RMSE of output {i}"
            pairs.append((error_metric(title, before), error_metric(title, after)))
    return pairs


def _recalls(right: list[Tensor], targets: list[Tensor], names: list[str]) -> list[Pair]:
    """Share of the rows of each class that are predicted as such, of classes with enough rows."""
    counts = torch.stack([y.bincount(minlength=len(names)) for y in targets]).amin(0)
    pairs: list[Pair] = []
    for i in (counts >= MIN_CLASS_ROWS).nonzero()[:, 0].tolist():
        name = f"recall of {names[i]}"
        before, after = (
            mean_metric(name, x[(y == i).to(x.device)]) for x, y in zip(right, targets, strict=True)
        )
        pairs.append((before, after))
    return pairs


def class_names(records: Records, k: int, what: str = "class") -> list[str]:
    """Names of the classes or labels of a task.

    Args:
        records: records whose schema may declare them.
        k: number of them.
        what: what one of them is.
    """
    known = [str(name) for name in records.schema.classes or ()]
    return known if len(known) == k else [f"{what} {i}" for i in range(k)]


def _logits(records: Records) -> Tensor:
    assert records.logits is not None
    return records.logits


def _targets(records: Records) -> Tensor:
    assert records.targets is not None
    return records.targets.to(_logits(records).device)

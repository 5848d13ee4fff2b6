"""Remedies tried on production: fitted on one part of its rows and scored on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import missing_labels
from gendebug_torch.shift.quality.change import MetricChange, metric_changes
from gendebug_torch.shift.quality.outcomes import Outcomes, row_losses
from gendebug_torch.stats.dependence.design_effects import group_ids
from gendebug_torch.stats.logit_scaling import fit_affine

FOLDS = 4
_MIN_ROWS = 60
# Rows, and rows times classes, that are tried.
_MAX_ROWS, _MAX_LOGITS, _MAX_CLASSES = 20_000, 100_000, 100
# Share of what was lost that a remedy wins back at least, to be one.
_MOST = 0.5


@dataclass(frozen=True)
class RemedyTrial:
    """A remedy on production rows that it was not fitted to.

    Args:
        name: `recalibrate` or `move_threshold`.
        lost: quality that was lost from validation to production, by the last metric.
        gain: quality that the remedy wins: accuracy, or how far it lowers the error of quantities.
        low: lower bound of `gain`.
        high: upper bound of `gain`.
        loss: cross-entropy that it saves, in nats per row, and the lower bound of that; None where
            it maps no probabilities.
        level: coverage of the intervals.
        rows: number of rows that were scored.
        restores: whether it wins back what was lost of the quality, beyond its interval.
        error: name of the error that it lowers; empty where it wins accuracy.
        line: scale and offset of the output of one quantity, fitted to all rows; or None.
    """

    name: str
    lost: float
    gain: float
    low: float
    high: float
    loss: tuple[float, float] | None
    level: float
    rows: int
    restores: bool
    error: str = ""
    line: tuple[float, float] | None = None

    @property
    def helps(self) -> bool:
        """Whether it wins quality or saves cross-entropy beyond its interval."""
        return self.low > 0 or (self.loss is not None and self.loss[1] > 0)

    @property
    def digits(self) -> str:
        """Format of its numbers: of an error in any unit, or of an accuracy."""
        return ".3g" if self.error else ".3f"

    @property
    def sentence(self) -> str:
        """What it changed, with its interval."""
        tried = str(self)
        text = f"{tried[0].upper()}{tried[1:]} on production rows that it was not fitted to"
        if self.loss is not None:
            text += f", and changes the log loss by {-self.loss[0]:+.3f}"
        return f"{text}."

    def __str__(self) -> str:
        what = "recalibration" if self.name == "recalibrate" else "another threshold"
        if self.line is not None:
            what += f" (output x {self.line[0]:.4g} {self.line[1]:+.4g})"
        name, sign = (f"the {self.error}", -1) if self.error else ("accuracy", 1)
        values = self.gain, self.low, self.high
        change, low, high = (f"{sign * value:+{self.digits}}" for value in values)
        low, high = (high, low) if self.error else (low, high)
        won = f"changes {name} by {change}" if self.error else f"gains {change} {name}"
        return f"{what} {won} ({100 * self.level:.3g} % interval {low} to {high})"


def remedy_trials(
    found: Outcomes,
    production: Records,
    changes: Sequence[MetricChange],
    effects: tuple[float, float],
    level: float,
) -> tuple[RemedyTrial, ...]:
    """Recalibration, and another threshold where there is one, each fitted on other rows.

    Quantities are recalibrated by a line through the outputs, by least squares.

    Every fourth of the rows, or of the groups, is scored by what was fitted to the rest (Stone,
    1974, JRSS B 36:111). Of many rows a random part is used.

    Args:
        found: outcomes of both sides.
        production: labeled records that they are of.
        changes: changes of the metrics, the accuracy or the error last.
        effects: ratios of the variances to those of independent rows.
        level: coverage of the intervals.

    Returns:
        None for few rows or more than a hundred classes.
    """
    logits, targets = found.logits, found.targets
    k = 1 if logits.ndim == 1 else logits.shape[1]
    two_way = logits.shape == targets.shape
    if k > _MAX_CLASSES and not two_way:
        return ()
    whole = (~missing_labels(targets)).nonzero()[:, 0].cpu()
    if len(whole) < _MIN_ROWS:
        return ()
    rows = whole[_sample(len(whole), max(_MIN_ROWS * FOLDS, min(_MAX_ROWS, _MAX_LOGITS // k)))]
    folds = random_folds(rows, production)
    z, y = logits[rows].double(), targets[rows]
    remedied = {"recalibrate": out_of_fold(z, y, folds)}
    if two_way and not y.is_floating_point():
        remedied["move_threshold"] = at_other_thresholds(z, y, folds, found.threshold)
    return tuple(
        _trial(name, found, changes[-1].fall, effects, level, (z, other, y))
        for name, other in remedied.items()
    )


def _trial(
    name: str,
    found: Outcomes,
    lost: float,
    effects: tuple[float, float],
    level: float,
    rows: tuple[Tensor, Tensor, Tensor],
) -> RemedyTrial:
    """The trial on rows: outputs, those of the remedy, and targets."""
    outputs, remedied, targets = rows
    before, after = found.measure(outputs, targets), found.measure(remedied, targets)
    half = -float(ndtri((1 - level) / 2)) * math.sqrt(effects[1] / len(targets))
    gain = (before.value - after.value) * (1 if after.lower_is_better else -1)
    width = half * float((after.influence - before.influence).std())
    (remaining,) = metric_changes(
        [(found.metrics[-1][0], after)], effects, level, [(0, len(targets))]
    )
    restores = gain > width and gain >= _MOST * lost and not remaining.fell
    won = name, lost, gain, gain - width, gain + width
    if targets.is_floating_point():
        line = least_squares_line(outputs[:, 0], targets[:, 0]) if targets.shape[1] == 1 else None
        return RemedyTrial(*won, None, level, len(targets), restores, after.name, line)
    saved = row_losses(outputs, targets) - row_losses(remedied, targets)
    loss: tuple[float, float] | None = None
    if name == "recalibrate":
        loss = float(saved.mean()), float(saved.mean()) - half * float(saved.std())
    return RemedyTrial(*won, loss, level, len(targets), restores)


def _sample(n: int, most: int) -> Tensor:
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


def random_folds(rows: Tensor, production: Records) -> Tensor:
    """Fold of each row, `[m]` int64; rows of one group are in one fold."""
    groups = group_ids(production)
    generator = torch.Generator().manual_seed(1)
    if groups is not None and int(groups.max()) + 1 >= 2 * FOLDS:
        return torch.randperm(int(groups.max()) + 1, generator=generator)[groups[rows]] % FOLDS
    return torch.randperm(len(rows), generator=generator) % FOLDS


def out_of_fold(logits: Tensor, targets: Tensor, folds: Tensor) -> Tensor:
    """Outputs through affine maps fitted to the other folds; labels and quantities one by one."""
    mapped = torch.empty_like(logits)
    for fold in range(FOLDS):
        own = (folds == fold).to(logits.device)
        if logits.shape == targets.shape and logits.ndim == 2:
            for i in range(logits.shape[1]):
                mapped[own, i] = _mapped(logits[~own, i], targets[~own, i], logits[own, i])
        else:
            mapped[own] = _mapped(logits[~own], targets[~own], logits[own])
    return mapped


def _mapped(fitted: Tensor, targets: Tensor, outputs: Tensor) -> Tensor:
    """Outputs through the map that was fitted to other rows; as they are where there is none."""
    if targets.is_floating_point():
        scale, offset = least_squares_line(fitted, targets)
        return outputs * scale + offset
    fit = fit_affine(fitted, targets)
    return outputs if fit.unbounded else fit(outputs)


def least_squares_line(outputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Scale and offset of the line with the least squared error; of constant outputs 1 and a shift.

    Args:
        outputs: `[n]` float64.
        targets: quantities `[n]`; NaN where one is missing.
    """
    known = targets.isfinite() & outputs.isfinite()
    x, y = outputs[known].double(), targets[known].double()
    centred = x - x.mean()
    variation = float(centred.square().sum())
    scale = float((centred * (y - y.mean())).sum()) / variation if variation > 0 else 1.0
    return scale, float(y.mean()) - scale * float(x.mean())


def at_other_thresholds(logits: Tensor, targets: Tensor, folds: Tensor, threshold: float) -> Tensor:
    """Logits shifted so that the deployed threshold is the cheapest one on the other folds."""
    z, y = logits.reshape(len(logits), -1), targets.reshape(len(targets), -1)
    moved = torch.empty_like(z)
    deployed = math.log(threshold / (1 - threshold))
    for fold in range(FOLDS):
        own = (folds == fold).to(logits.device)
        moved[own] = z[own] - _cheapest_cut(z[~own], y[~own], threshold) + deployed
    return moved.reshape(logits.shape)


def _cheapest_cut(z: Tensor, y: Tensor, threshold: float) -> Tensor:
    """Logit above which each column is positive at least cost, `[k]`; half way between two rows."""
    ordered, order = z.sort(0)
    labels = y.gather(0, order).double()
    # Errors where the rows up to here are negative: positives below, negatives above.
    below, negatives = labels.cumsum(0), (1 - labels).cumsum(0)
    above = negatives[-1] - negatives
    cost = (1 - threshold) * below + threshold * above
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] > ordered[:-1]
    best = cost.masked_fill(~last, math.inf).argmin(0, keepdim=True)
    following = (best + 1).clamp(max=len(z) - 1)
    cut: Tensor = (ordered.gather(0, best) + ordered.gather(0, following))[0] / 2
    return cut

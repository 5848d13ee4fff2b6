"""Quantities of production that are written on another scale than the model was judged on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.scores.outputs import LabeledOutput, labeled_outputs
from gendebug_torch.shift.transforms.quantities import UNIT_FACTORS
from gendebug_torch.shift.two_sample.ks import ks_two_sample

Side = Literal["labels", "outputs"]

# Labeled rows of either side, and rows of production on another scale, that are needed.
_MIN_ROWS, _MIN_MOVED = 50, 20
# Prices and crowds double, and some grow fivefold; a larger factor is a matter of units.
_LEAST_FACTOR = 6.5
# Share of production that must be on the other scale; from which all of it is; and how many times
# the share of the reference that looks so by chance it must be.
_MIN_SHARE, _WHOLE, _MORE = 0.04, 0.9, 5.0
# How much larger than usual errors may stay on the scale of the reference, beside noise, and how
# sure it must be that they are smaller there.
_AS_GOOD, _ERRORS, _MIN_Z = 1.25, 3.0, 6.0
# How much better, in standard errors, a scale must be than one that is more usual.
_BETTER = 2.0


@dataclass(frozen=True)
class OutputScale:
    """A quantity, its labels or its outputs, on another scale in a part of production.

    Args:
        name: name of the output.
        side: `labels` or `outputs`, whichever moved.
        text: what was done to them, as part of a sentence.
        share: share of production.
        usual: mean size of the error in the reference.
        error: the same in production as it is.
        restored: the same with the values back on the scale of the reference.
    """

    name: str
    side: Side
    text: str
    share: float
    usual: float
    error: float
    restored: float


@dataclass(frozen=True)
class _Scale:
    """What may be done to a quantity, how to undo it, and whether single rows may have it."""

    text: str
    undo: Callable[[Tensor], Tensor]
    single: bool = False


def output_scale(reference: Records, production: Records) -> OutputScale | None:
    """The quantity whose labels, or outputs, production holds in another unit or as a logarithm.

    On the scale of the reference the errors of production are as small as they are there, which no
    drift explains: factors between units from 6.5 on, of all rows or of some, logarithms and
    exponentials, a reversed sign. None where no scale does, and with fewer than 50 labeled rows.

    Args:
        reference: labeled records of a regression.
        production: the same.

    Cost: about fifty passes over the labeled rows of each output.

    Example:
        >>> x, noise = torch.randn(2, 600, generator=torch.Generator().manual_seed(0))
        >>> z, y = 20 + x, 20 + x + 0.3 * noise
        >>> before = Records(targets=y[:300], logits=z[:300])
        >>> after = Records(targets=100 * y[300:], logits=z[300:])
        >>> found = output_scale(before, after)
        >>> found.side, found.text, found.share
        ('labels', 'multiplied by 100', 1.0)
    """
    found = []
    for output in labeled_outputs(reference, production):
        if not output.targets.is_floating_point():
            return None
        if min(len(output.targets), len(output.live_targets)) >= _MIN_ROWS:
            found += [_of_side(output, side) for side in _moved_sides(output)]
    scales = [scale for scale in found if scale is not None]
    return max(scales, key=lambda scale: scale.error / max(scale.restored, 1e-300), default=None)


def _moved_sides(output: LabeledOutput) -> list[Side]:
    """Labels and outputs, the one first whose distribution moved further."""
    labels = float(ks_two_sample(output.targets, output.live_targets).statistic)
    outputs = float(ks_two_sample(output.predictions, output.live_predictions).statistic)
    return ["labels"] if labels >= outputs else ["outputs"]


def _of_side(output: LabeledOutput, side: Side) -> OutputScale | None:
    """The scale on which the errors of production are as usual, if there is one."""
    before = output.targets, output.predictions
    after = output.live_targets, output.live_predictions
    if side == "outputs":
        before, after = before[::-1], after[::-1]
    own, live = ((moved - other).abs() for moved, other in (before, after))
    if not all(bool(error.isfinite().all()) for error in (own, live)) or not float(own.mean()) > 0:
        return None
    best: tuple[_Scale, Tensor, float] | None = None
    for scale in _scales():
        found = _restored(scale, before, after, own, live)
        if found is None:
            continue
        if best is None or _paired_z(best[1], found[0]) > _BETTER:
            best = scale, *found
    if best is None:
        return None
    scale, errors, share = best
    means = (float(error.mean()) for error in (own, live, errors))
    return OutputScale(output.name, side, scale.text, share, *means)


def _restored(
    scale: _Scale,
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    own: Tensor,
    live: Tensor,
) -> tuple[Tensor, float] | None:
    """Errors of production with a scale undone, and the share that had it; None if not it.

    Args:
        scale: what may have been done.
        before: values that may be on another scale and their counterparts, of the reference.
        after: the same of production.
        own: sizes of the errors of the reference.
        live: the same of production.
    """
    errors = (scale.undo(after[0]) - after[1]).abs().nan_to_num(math.inf)
    moved = errors < live
    share = float(moved.double().mean())
    whole = not scale.single or share >= _WHOLE
    if not whole:
        by_chance = float(((scale.undo(before[0]) - before[1]).abs() < own).double().mean())
        if share < _MIN_SHARE or by_chance * _MORE > share:
            return None
    restored = errors if whole else torch.where(moved, errors, live)
    if int(moved.sum()) < _MIN_MOVED or not bool(restored.isfinite().all()):
        return None
    if not _as_usual(restored, own) or not _as_usual(errors[moved], own):
        return None
    return (restored, 1.0 if whole else share) if _paired_z(live, restored) >= _MIN_Z else None


def _as_usual(errors: Tensor, own: Tensor) -> bool:
    """Whether errors are no larger than those of the reference, beside noise."""
    usual = float(own.mean())
    noise = math.sqrt(float(errors.var() / len(errors) + own.var() / len(own)))
    return float(errors.mean()) <= _AS_GOOD * usual + min(_ERRORS * noise, usual)


def _paired_z(larger: Tensor, smaller: Tensor) -> float:
    """Standard errors by which the mean of one is above that of the other."""
    gap = larger - smaller
    return float(gap.mean() / (gap.std() / math.sqrt(len(gap))).clamp(min=1e-300))


def _scales() -> Iterator[_Scale]:
    """What is done to quantities by mistake, the more usual first."""
    for factor in UNIT_FACTORS:
        if factor >= _LEAST_FACTOR:
            yield _Scale(f"divided by {factor:g}", partial(torch.mul, factor), single=True)
            yield _Scale(f"multiplied by {factor:g}", partial(torch.mul, 1 / factor), single=True)
    yield _Scale("log-transformed", torch.exp)
    yield _Scale("log-transformed, as log(1 + x)", torch.expm1)
    yield _Scale("log-transformed to base 10", lambda y: 10.0**y)
    yield _Scale("not log-transformed", lambda y: y.clamp(min=0).log())
    yield _Scale("not log-transformed, as log(1 + x)", lambda y: y.clamp(min=-1).log1p())
    yield _Scale("not log-transformed to base 10", lambda y: y.clamp(min=0).log10())
    yield _Scale("reversed in sign", torch.neg)

"""The regimes of a training: one rule for each, in the order in which they are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from gendebug_torch.curves.fit.curve_statistics import MIN_VALUES, CurveStatistics
from gendebug_torch.curves.generalization_gap import Gap
from gendebug_torch.curves.learning_curves import LearningCurves

Regime = Literal[
    "overfit",
    "underfit",
    "converged",
    "still_improving",
    "diverged",
    "oscillating",
    "too_noisy",
    "too_short",
]

# A rise must stand out of the noise of single epochs, not only be significant: correlated noise
# wanders.
_RISE_IN_SD = 1.5
# A training loss that rises by this share, and loses this share of what was learned, is not
# overfit: the optimisation fails.
_TRAINING_RISE, _TRAINING_LOST = 0.1, 0.25
# Multiples of the untrained network's loss: an epoch above the first, and an end above the second,
# are a divergence. The best constant among classes of unequal size has about 0.8 of it.
_EXPLODED, _NOT_RECOVERED = 1.5, 0.7
# At this share of the loss of a constant prediction, hardly anything was learned.
_NOTHING_LEARNED = 0.95
# Loss of uniform guessing among the usual numbers of balanced classes, and the relative distance
# that counts as equal.
_UNIFORM_GUESS, _EQUAL = {k: math.log(k) for k in (2, 3, 4, 5, 10)}, 0.02


class Verdict(NamedTuple):
    """A regime and the sentences that say why."""

    regime: Regime
    summary: str


@dataclass(frozen=True, eq=False)
class CurveNumbers:
    """The numbers that the rules compare.

    Args:
        curves: losses per epoch.
        train: statistics of the training loss; None where it has too few values.
        val: statistics of the validation loss; None where it has too few values.
        gap: generalization gap at the end.
        baseline: loss of a constant prediction; None where unknown.
        target: loss of a sufficient model; None where not given.
        tolerance: relative change that counts as none.
        alpha: chance of finding a rise in a curve that only falls.
    """

    curves: LearningCurves
    train: CurveStatistics | None
    val: CurveStatistics | None
    gap: Gap
    baseline: float | None
    target: float | None
    tolerance: float
    alpha: float

    @property
    def learned(self) -> float:
        """Share of the loss of a constant prediction that the training removed; NaN if unknown."""
        if self.baseline is None or self.baseline <= 0:
            return math.nan
        return 1 - self.gap.train / self.baseline

    @property
    def rises(self) -> bool:
        """Whether the validation loss rises beyond chance, noise and its own oscillation."""
        val = self.val
        if val is None:
            return False
        swing = 2 * val.oscillation.amplitude * val.scale if val.oscillation.is_significant else 0.0
        least = max(_RISE_IN_SD * val.noise.sd, 0.25 * self.tolerance * val.scale, swing)
        return val.p_value < self.alpha and val.rise > least


def verdict(numbers: CurveNumbers) -> Verdict:
    """The first regime whose rule holds.

    Args:
        numbers: statistics of the curves and the thresholds.
    """
    rules = (
        _nonfinite,
        _worse_than_untrained,
        _training_loss_rises,
        _too_short,
        _overfit,
        _oscillating,
        _underfit,
        _even_guess,
    )
    for rule in rules:
        if (result := rule(numbers)) is not None:
            return result
    return _settled(numbers)


def _nonfinite(numbers: CurveNumbers) -> Verdict | None:
    """A loss that is infinite or NaN at the end; a gap in the middle was only not recorded."""
    curves = numbers.curves
    if len(curves) and bool((curves.train_loss.isnan() & curves.val_loss.isnan()).all()):
        first = int(curves.epoch[0])
        return Verdict("diverged", f"Diverged: both losses are NaN from {curves.unit} {first} on.")
    for name, loss, patience in (
        ("training", curves.train_loss, 1),
        ("validation", curves.val_loss, 3),
    ):
        finite = loss.isfinite().nonzero()[:, 0]
        end = loss[int(finite[-1]) + 1 :] if len(finite) else loss
        # A validation that was left out looks like one that was NaN, so that only several in a row
        # count, and none while the training goes on: curves of different length are no divergence.
        goes_on = name == "validation" and bool(curves.train_loss[-1:].isfinite().all())
        ended = len(finite) > 0 and len(end) >= patience and not _is_sparse(loss) and not goes_on
        if ended or bool(end.isinf().any()):
            at = int(curves.epoch[len(loss) - len(end)])
            return Verdict(
                "diverged",
                f"Diverged: the {name} loss is NaN or infinite from {curves.unit} {at} on.",
            )
    return None


def _is_sparse(loss: Tensor) -> bool:
    """Whether the loss is recorded only now and then, as with a validation every few epochs."""
    finite = loss.isfinite().nonzero()[:, 0]
    return len(finite) > 1 and int(finite.diff().max()) > 1


def _worse_than_untrained(numbers: CurveNumbers) -> Verdict | None:
    start, gap = numbers.curves.untrained_loss, numbers.gap
    finite = numbers.curves.train_loss[numbers.curves.train_loss.isfinite()]
    if start is None or start <= 0 or not len(finite):
        return None
    highest = float(finite.max())
    if gap.train > (1 + _TRAINING_RISE) * start:
        return Verdict(
            "diverged",
            f"Diverged: the training loss ends at {gap.train:.4g}, above the {start:.4g} of the "
            "untrained network.",
        )
    if highest > _EXPLODED * start and gap.train > _NOT_RECOVERED * start:
        return Verdict(
            "diverged",
            f"Diverged: the training loss rose to {highest:.4g} and ended at {gap.train:.4g}. The "
            f"untrained network had {start:.4g}.",
        )
    return None


def _training_loss_rises(numbers: CurveNumbers) -> Verdict | None:
    train, unit = numbers.train, numbers.curves.unit
    if train is None or train.p_value >= numbers.alpha:
        return None
    learned = float(train.fit.max() - train.fit.min())
    least = max(
        _RISE_IN_SD * train.noise.sd, _TRAINING_RISE * train.scale, _TRAINING_LOST * learned
    )
    if train.rise <= least:
        return None
    at = int(train.epoch[train.minimum])
    return Verdict(
        "diverged",
        f"Diverged: the training loss rises after {unit} {at}, by {train.relative_rise:.0%} of its "
        "minimum.",
    )


def _too_short(numbers: CurveNumbers) -> Verdict | None:
    if numbers.val is not None:
        return None
    unit = numbers.curves.unit
    return Verdict(
        "too_short",
        f"Too short to judge: fewer than {MIN_VALUES} {unit}s have a validation loss.",
    )


def _overfit(numbers: CurveNumbers) -> Verdict | None:
    val, unit = numbers.val, numbers.curves.unit
    if val is None or not numbers.rises or val.rise <= numbers.tolerance * val.scale:
        return None
    at, low, high = (int(val.epoch[index]) for index in (val.minimum, *val.interval))
    in_noise = val.rise / max(val.noise.sd, 1e-12)
    return Verdict(
        "overfit",
        f"Overfits after {unit} {at} (95 % interval {low} to {high}). The validation loss then "
        f"rises by {val.relative_rise:.1%}, {in_noise:.3g} times the noise of a single {unit} "
        f"(p = {val.p_value:.2g}).",
    )


def _oscillating(numbers: CurveNumbers) -> Verdict | None:
    val, unit = numbers.val, numbers.curves.unit
    if val is None or not val.oscillation.is_significant:
        return None
    if val.oscillation.amplitude <= numbers.tolerance:
        return None
    return Verdict(
        "oscillating",
        f"Oscillates: the validation loss goes up and down by {val.oscillation.amplitude:.1%} "
        f"about every {val.oscillation.period:.3g} {unit}s (p = {val.oscillation.p_value:.2g}).",
    )


def _underfit(numbers: CurveNumbers) -> Verdict | None:
    gap, target = numbers.gap, numbers.target
    if numbers.learned <= 1 - _NOTHING_LEARNED:
        return Verdict(
            "underfit",
            f"Underfits: the training loss ends at {gap.train:.4g}, which is "
            f"{1 - numbers.learned:.0%} of the loss of a constant prediction "
            f"({numbers.baseline:.4g}).",
        )
    near = not gap.relative > 0.1
    if target is not None and gap.validation > target and gap.train > target and near:
        return Verdict(
            "underfit",
            f"Underfits: training and validation loss end at {gap.train:.4g} and "
            f"{gap.validation:.4g}, both above the target of {target:.4g}.",
        )
    return None


def _even_guess(numbers: CurveNumbers) -> Verdict | None:
    """Losses that stay at ln k, where no loss of a constant prediction is known."""
    curves, gap = numbers.curves, numbers.gap
    first = curves.train_loss[curves.train_loss.isfinite()][:1].tolist()
    if numbers.baseline is not None or not first:
        return None
    for k, loss in _UNIFORM_GUESS.items():
        ends = (first[0], gap.train, gap.validation)
        if all(abs(value / loss - 1) < _EQUAL for value in ends):
            return Verdict(
                "underfit",
                f"Underfits: both losses stay at {gap.train:.4g}, which is ln {k}, the loss of "
                f"uniform guessing among {k} classes.",
            )
    return None


def _settled(numbers: CurveNumbers) -> Verdict:
    """Still improving, too noisy to tell, or converged."""
    val, unit, tolerance = numbers.val, numbers.curves.unit, numbers.tolerance
    assert val is not None
    stretch = f"over the last {val.stretch} {unit}s"
    if val.change < -tolerance and val.change < -3 * val.change_error:
        return Verdict(
            "still_improving",
            f"Still improving: {stretch} the validation loss fell by {-val.change:.1%}.",
        )
    if val.change_error > tolerance:
        return Verdict(
            "too_noisy",
            f"Too noisy to judge: the validation loss varies by {val.relative_noise:.1%} from "
            f"{unit} to {unit}, so that its change {stretch} is known only to within "
            f"{2 * val.change_error:.1%}.",
        )
    return Verdict(
        "converged",
        f"Converged: {stretch} the validation loss changed by {val.change:+.1%}. The best {unit} "
        f"is {int(val.epoch[val.best])}.",
    )

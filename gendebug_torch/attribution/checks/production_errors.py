"""Check that no single feature explains the additional false alarms of production."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.checks._relations import relation_is_gone
from gendebug_torch.attribution.checks._rows import row_count, sample_records
from gendebug_torch.attribution.compare.comparison import (
    AttributionComparison,
    compare_attributions,
)
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.model.binary import PositiveLogit, positive_logit
from gendebug_torch.stats.intervals import wilson_interval

_MIN_ROWS = 20
# Smallest gain relative to the contributions of all features, and smallest ratio of the rates.
_MIN_RELATIVE_GAIN, _MIN_RATIO = 0.1, 1.2
# KS distance from which the distribution of the feature counts as shifted.
_SHIFTED = 0.1
# Median difference between recorded logits and those of the model that is more than rounding, in
# logits and relative to their size; a probability stored in float32 saturates at this logit.
_LOGIT_DIFFERENCE, _RELATIVE_DIFFERENCE, _SATURATION = 0.05, 0.02, 12.0


@check(
    "attribution.production_errors",
    cause=Cause.COVARIATE_SHIFT,
    needs=(
        "model",
        "validation.features",
        "validation.logits",
        "production.features",
        "production.logits",
        "production.targets",
    ),
    cost=lambda given: Cost(
        backwards=32.0
        * (row_count(given, "validation", 2000) + row_count(given, "production", 2000))
    ),
)
def no_single_feature_explains_new_false_alarms(
    model: nn.Module,
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.01,
    min_share: float = 0.25,
    min_gain: float = 0.1,
    steps: int = 32,
    rows: int = 2000,
    seed: int = 0,
) -> Iterator[Finding]:
    """No single feature explains why there are more false alarms in production.

    Where a binary model raises more false alarms in production than in validation, the
    contributions to their score are compared with those of the alarms in validation, and the
    feature with the largest gain is named. If its distribution moved too, the cause is the shift;
    if not, the model relies on it too much. Where the records hold other logits than the model
    gives, contributions would not explain them, and nothing is judged.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365; Welch (1947), Biometrika 34:28.

    Args:
        model: network of a binary task.
        validation: rows with features and logits; labels make the comparison of rates exact.
        production: labeled rows with features and logits.
        threshold: probability above which the model raises an alarm.
        alpha: probability of any false finding over all features.
        min_share: smallest share of all gains for the feature.
        min_gain: smallest rise of its mean contribution that matters, in logits.
        steps: steps of the integrated gradients.
        rows: largest number of explained rows in each group.
        seed: seed of the samples.
    """
    this = no_single_feature_explains_new_false_alarms
    scores = [_positive_probs(side) for side in (validation, production)]
    if scores[0] is None or scores[1] is None or production.targets is None:
        yield this.finding(Severity.NOTE, "Not a binary task: false alarms are not defined.")
        return
    alarms = [score > threshold for score in scores if score is not None]
    false_alarms = (alarms[1] & (production.targets == 0).to(alarms[1].device)).nonzero()[:, 0]
    rates, increased = _false_alarm_rates(validation, production, *alarms)
    numbers: dict[str, Any] = {"false_alarms": len(false_alarms), "threshold": threshold} | rates
    text = (
        f"{rates['rate_production']:.2%} of the negatives raise an alarm in production, "
        f"{rates['rate_validation']:.2%} in validation"
    )
    if len(false_alarms) < _MIN_ROWS or not increased:
        few = len(false_alarms) < _MIN_ROWS
        reason = "too few to explain" if few else "no more than before"
        summary = f"{len(false_alarms)} false alarms, {reason}: {text}."
        yield this.finding(Severity.OK, summary, numbers=numbers)
        return
    groups = [
        sample_records(validation.select(_reference_rows(scores[0].cpu(), threshold)), rows, seed),
        sample_records(production.select(false_alarms.cpu()), rows, seed),
    ]
    baseline = model_inputs(validation).median(0).values
    attributions = [
        attribute(PositiveLogit(model), group, baseline=baseline, steps=steps, trust=False)
        for group in groups
    ]
    difference, differs = _logit_difference(groups, attributions)
    if differs:
        yield _other_logits(difference, numbers)
        return
    labels = ("alarms in validation", "false alarms in production")
    gain = _largest_gain(compare_attributions(*attributions, labels=labels))
    if gain.significant(alpha, min_share, min_gain):
        yield _explained(gain, model, validation, production, numbers, text)
    else:
        yield _unexplained(gain, numbers, text)


@dataclass(frozen=True, eq=False)
class _Gain:
    """The feature whose mean contribution is most increased among the false alarms.

    Args:
        comparison: contributions in alarms of validation and in false alarms of production.
        feature: column of the feature.
        size: rise of its mean contribution, in logits.
        share: share of the rises of all features.
    """

    comparison: AttributionComparison
    feature: int
    size: float
    share: float

    @property
    def name(self) -> str:
        return self.comparison.names[self.feature]

    @property
    def interval(self) -> list[float]:
        return [float(bound[self.feature]) for bound in self.comparison.interval()]

    @property
    def p_value(self) -> float:
        return float(self.comparison.adjusted[self.feature])

    @property
    def numbers(self) -> dict[str, Any]:
        return {
            "feature": self.name,
            "gain": self.size,
            "interval": self.interval,
            "part_of_gains": self.share,
            "adjusted_p_value": self.p_value,
        }

    def significant(self, alpha: float, min_share: float, min_gain: float) -> bool:
        """Whether the gain is certain, large, and a large share of all gains.

        A gain that is small beside the contributions of all features explains nothing, even where
        no other feature gained.
        """
        floor = max(min_gain, _MIN_RELATIVE_GAIN * float(self.comparison.other.abs().sum()))
        certain = self.interval[0] > 0 and self.p_value < alpha
        return certain and self.share >= min_share and self.size >= floor


def _largest_gain(comparison: AttributionComparison) -> _Gain:
    gains = comparison.difference.clamp(min=0.0)
    feature = int(gains.argmax())
    size = float(gains[feature])
    return _Gain(comparison, feature, size, size / float(gains.sum().clamp(min=1e-300)))


def _other_logits(difference: float, numbers: dict[str, Any]) -> Finding:
    """The finding where the model is not the one that made the recorded logits."""
    summary = (
        f"The recorded logits are not those of the model: they differ by {difference:.2f} in the "
        "median. Nothing was judged."
    )
    remedy = (
        "Pass the model that made the logits, or leave the logits out, so that they are computed "
        "with this model."
    )
    return no_single_feature_explains_new_false_alarms.finding(
        Severity.NOTE, summary, numbers=numbers | {"logit_difference": difference}, remedy=remedy
    )


def _unexplained(gain: _Gain, numbers: dict[str, Any], text: str) -> Finding:
    """The finding where false alarms increased, but no single feature explains them."""
    summary = (
        f"False alarms increased, but no single feature explains them: {text}; the contribution of "
        f"{gain.name} rose most, by {gain.size:.2f} logits."
    )
    return no_single_feature_explains_new_false_alarms.finding(
        Severity.NOTE, summary, numbers=numbers | gain.numbers, evidence=gain.comparison
    )


def _explained(
    gain: _Gain,
    model: nn.Module,
    validation: Records,
    production: Records,
    numbers: dict[str, Any],
    text: str,
) -> Finding:
    """The finding for the feature that explains the false alarms, with its cause."""
    name, comparison = gain.name, gain.comparison
    before, after = (
        model_inputs(side).flatten(1)[:, gain.feature].double().cpu().numpy()
        for side in (validation, production)
    )
    from scipy.stats import ks_2samp

    shift = float(ks_2samp(before, after, method="asymp").statistic)
    summary = (
        f"{name} explains the false alarms: {text}. In them it adds "
        f"{float(comparison.other[gain.feature]):+.2f} to the logit on average, in alarms of "
        f"validation {float(comparison.reference[gain.feature]):+.2f} ({gain.share:.0%} of all "
        "gains)."
    )
    if shift >= _SHIFTED:
        cause = Cause.COVARIATE_SHIFT
        remedy = (
            f"The distribution of {name} shifted in production (KS distance {shift:.2f}). Repair "
            "the feature, or retrain without it."
        )
    else:
        unchanged = f"The distribution of {name} is unchanged (KS distance {shift:.2f}), but "
        if relation_is_gone(model, production, gain.feature, seed=0):
            cause = Cause.SHORTCUT_FEATURE
            remedy = f"{unchanged}the labels no longer follow it: retrain without it."
        else:
            cause = Cause.CONCEPT_DRIFT
            remedy = f"{unchanged}its relation to the labels changed: retrain on recent rows."
    return no_single_feature_explains_new_false_alarms.finding(
        Severity.FAIL,
        summary,
        cause=cause,
        subject=name,
        numbers=numbers | gain.numbers | {"shift_of_feature": shift},
        remedy=remedy,
        evidence=comparison,
    )


def _logit_difference(
    groups: list[Records], attributions: list[Attributions]
) -> tuple[float, bool]:
    """Median distance of the recorded log odds from the model's, and whether it is large."""
    recorded = [positive_logit(group.logits) for group in groups if group.logits is not None]
    outputs = [side.outputs for side in attributions if side.outputs is not None]
    before, now = (
        torch.cat(side).cpu().double().clamp(-_SATURATION, _SATURATION)
        for side in (recorded, outputs)
    )
    difference = float((before - now).abs().nanmedian())
    scale = _RELATIVE_DIFFERENCE * float(now.abs().nanmedian())
    return difference, difference > max(_LOGIT_DIFFERENCE, scale)


def _positive_probs(records: Records) -> Tensor | None:
    """`[n]` probability of class 1 of a binary task; None for other tasks."""
    classes = records.task in (None, Task.BINARY, Task.MULTICLASS)
    if records.logits is None or not len(records) or not classes:
        return None
    probs = records.probs
    if probs.ndim == 1:
        return probs
    return probs[:, 1] if probs.shape[1] == 2 else None


def _false_alarm_rates(
    validation: Records, production: Records, alarms_before: Tensor, alarms_after: Tensor
) -> tuple[dict[str, float], bool]:
    """Rate of alarms among negatives on both sides, and whether their intervals are apart.

    Validation rows without labels count as negatives.
    """
    rates, bounds = {}, []
    for name, side, alarms in (
        ("validation", validation, alarms_before),
        ("production", production, alarms_after),
    ):
        negative = torch.ones_like(alarms)
        if side.targets is not None:
            negative = (side.targets == 0).to(alarms.device)
        count, hits = negative.sum(), (alarms & negative).sum()
        low, high = wilson_interval(hits, count)
        rates[f"rate_{name}"] = float(hits / count.clamp(min=1))
        bounds.append((float(low), float(high)))
    return rates, bounds[1][0] > _MIN_RATIO * bounds[0][1]


def _reference_rows(score: Tensor, threshold: float) -> Tensor:
    """Rows of validation that raise an alarm, or the highest scores where these are too few."""
    alarms = (score > threshold).nonzero()[:, 0]
    if len(alarms) >= _MIN_ROWS:
        return alarms
    order = score.argsort(descending=True, stable=True)
    return order[: min(len(score), 5 * _MIN_ROWS)]

"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.checks._explained_rows import relation_vanished, sampled
from gendebug_torch.attribution.compare.comparison import (
    AttributionComparison,
    compare_attributions,
)
from gendebug_torch.attribution.explanation.explained_output import PositiveLogit
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost, check
from gendebug_torch.data.records import Records, model_inputs
from gendebug_torch.stats.intervals import wilson_interval

_FEWEST = 20
_MATERIAL = 0.1
# A median difference between recorded logits and those of the model beyond this, in logits and in
# parts of their size, is no rounding; beyond +-_SATURATED a probability that was stored in float32
# tells no more.
_OFF, _OFF_PART, _SATURATED = 0.05, 0.02, 12.0


def _rows(given: Mapping[str, Any], name: str, most: int = 2000) -> int:
    records = given.get(name)
    return 0 if records is None else min(most, len(records))


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
        backwards=32.0 * (_rows(given, "validation") + _rows(given, "production"))
    ),
)
def no_feature_carries_the_false_alarms(
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
    """No single feature carries the false alarms of production.

    Where a binary model raises more false alarms in production than in validation, the
    contributions to their score are compared with those of validation's alarms; the feature that
    gained most is named. If its distribution moved too, the cause is the shift; if not, the model
    leans on it too much. Where the records hold other logits than the model gives, its
    contributions would not explain them, and nothing is judged.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365; Welch (1947), Biometrika 34:28.

    Args:
        model: network of a binary question.
        validation: rows with features and logits; labels make the comparison of rates exact.
        production: labeled rows with features and logits.
        threshold: on the probability, above which the model raises an alarm.
        alpha: chance of any false naming over all features.
        min_share: smallest part of all gains that the feature must carry.
        min_gain: smallest rise of its mean contribution that matters, in units of the logit.
        steps: of integrated gradients.
        rows: most rows to explain in each group.
        seed: of the samples.
    """
    this = no_feature_carries_the_false_alarms
    scores = [_positive(side) for side in (validation, production)]
    if scores[0] is None or scores[1] is None or production.targets is None:
        yield this.finding(Severity.NOTE, "Not a binary question: false alarms are not defined.")
        return
    said = scores[1] > threshold
    false_alarms = (said & (production.targets == 0)).nonzero()[:, 0]
    rates, rose = _rates(validation, production, scores[0] > threshold, said)
    numbers: dict[str, Any] = {"false_alarms": len(false_alarms), "threshold": threshold} | rates
    told = (
        f"{rates['rate_production']:.2%} of negatives raise an alarm in production, "
        f"{rates['rate_validation']:.2%} in validation"
    )
    if len(false_alarms) < _FEWEST or not rose:
        reason = "too few to explain" if len(false_alarms) < _FEWEST else "no more than before"
        yield this.finding(
            Severity.OK, f"{len(false_alarms)} false alarms, {reason}: {told}.", numbers=numbers
        )
        return
    alarms = _reference_rows(scores[0], threshold)
    baseline = model_inputs(validation).median(0).values
    groups = [
        sampled(side, rows, seed)
        for side in (validation.select(alarms), production.select(false_alarms))
    ]
    explained = [
        attribute(PositiveLogit(model), group, baseline=baseline, steps=steps, trust=False)
        for group in groups
    ]
    off, far = _disagreement(groups, explained)
    if far:
        numbers["logit_difference"] = off
        remedy = (
            "Pass the model that made the logits, or leave the logits out, so that this "
            "model gives them."
        )
        summary = (
            f"Records hold other logits than the model gives: they differ by {off:.2f} in "
            "the median; nothing was explained."
        )
        yield this.finding(Severity.NOTE, summary, numbers=numbers, remedy=remedy)
        return
    compared = compare_attributions(
        *explained, labels=("alarms in validation", "false alarms in production")
    )
    yield _named(
        this, model, compared, validation, production, numbers, told, alpha, min_share, min_gain
    )


def _named(
    this: Check,
    model: nn.Module,
    compared: AttributionComparison,
    validation: Records,
    production: Records,
    numbers: dict[str, Any],
    told: str,
    alpha: float,
    min_share: float,
    min_gain: float,
) -> Finding:
    gain = compared.difference.clamp(min=0.0)
    at = int(gain.argmax())
    name, part = compared.names[at], float(gain[at] / gain.sum().clamp(min=1e-300))
    low, high = (float(bound[at]) for bound in compared.interval())
    numbers |= {
        "feature": name,
        "gain": float(gain[at]),
        "interval": [low, high],
        "part_of_gains": part,
    }
    numbers["adjusted_p_value"] = float(compared.adjusted[at])
    # A gain that is small beside all that these rows are made of carries nothing, though no other
    # feature gained.
    material = float(gain[at]) >= max(min_gain, _MATERIAL * float(compared.other.abs().sum()))
    if not (low > 0 and compared.adjusted[at] < alpha and part >= min_share and material):
        summary = (
            f"False alarms rose, but no single feature carries them: {told}; {name} gained "
            f"most: {float(gain[at]):+.2f} logits."
        )
        return this.finding(Severity.NOTE, summary, numbers=numbers, evidence=compared)
    before, after = (
        model_inputs(side)[:, at].double().numpy() for side in (validation, production)
    )
    shift = float(ks_2samp(before, after, method="asymp").statistic)
    numbers["shift_of_feature"] = shift
    moved = shift >= 0.1
    vanished = not moved and relation_vanished(model, production, at, seed=0)
    summary = (
        f"{name} carries the false alarms: {told}; among them it adds "
        f"{float(compared.other[at]):+.2f} to the logit on average, "
        f"against {float(compared.reference[at]):+.2f} in alarms of validation ({part:.0%} of all "
        "gains)."
    )
    remedy = (
        f"Repair {name} or retrain without it; its distribution moved in production (gap "
        f"{shift:.2f})."
    )
    cause = Cause.COVARIATE_SHIFT
    if not moved:
        cause = Cause.SHORTCUT_FEATURE if vanished else Cause.CONCEPT_DRIFT
        leans = f"The model leans on {name}, which is distributed as before (gap {shift:.2f})"
        told_now = (
            "but tells nothing any more: retrain without it"
            if vanished
            else "but means something else now: retrain on recent rows"
        )
        remedy = f"{leans} {told_now}."
    return this.finding(
        Severity.FAIL,
        summary,
        cause=cause,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=compared,
    )


def _disagreement(groups: list[Records], explained: list[Attributions]) -> tuple[float, bool]:
    """Median distance between the recorded log odds of class 1 and the model's, and whether it is
    more than rounding.
    """
    recorded, given = [], []
    for group, found in zip(groups, explained, strict=True):
        assert group.logits is not None
        assert found.outputs is not None
        recorded.append(
            group.logits if group.logits.ndim == 1 else group.logits[:, 1] - group.logits[:, 0]
        )
        given.append(found.outputs)
    before, now = (
        torch.cat(side).cpu().double().clamp(-_SATURATED, _SATURATED) for side in (recorded, given)
    )
    off = float((before - now).abs().nanmedian())
    return off, off > max(_OFF, _OFF_PART * float(now.abs().nanmedian()))


def _positive(records: Records) -> Tensor | None:
    """`[n]` probability of the positive class of a binary question."""
    if records.logits is None or not len(records):
        return None
    probs = records.probs
    if probs.ndim == 1:
        return probs
    return probs[:, 1] if probs.shape[1] == 2 else None


def _rates(
    validation: Records, production: Records, alarm_before: Tensor, alarm_after: Tensor
) -> tuple[dict[str, float], bool]:
    """Alarms among negatives on both sides, and whether their intervals are apart; unlabeled
    validation counts as negative.
    """
    rates = {}
    bounds = []
    for name, side, alarm in (
        ("validation", validation, alarm_before),
        ("production", production, alarm_after),
    ):
        negative = side.targets == 0 if side.targets is not None else torch.ones_like(alarm)
        count, hits = negative.sum(), (alarm & negative).sum()
        low, high = wilson_interval(hits, count)
        rates[f"rate_{name}"] = float(hits / count.clamp(min=1))
        bounds.append((float(low), float(high)))
    return rates, bounds[1][0] > 1.2 * bounds[0][1]


def _reference_rows(score: Tensor, threshold: float) -> Tensor:
    """Rows of validation that raise an alarm, or the highest scores where these are too few."""
    alarms = (score > threshold).nonzero()[:, 0]
    return (
        alarms
        if len(alarms) >= _FEWEST
        else score.argsort(descending=True, stable=True)[: min(len(score), 5 * _FEWEST)]
    )

"""Checks of what a network leans on against what the domain expert knows: noise, direction, and worth that does not last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import nn

from gendebug_torch._tables import model_inputs
from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.outputs import PositiveLogit, is_binary
from gendebug_torch.attribution.plots import Swarm
from gendebug_torch.attribution.reliance import Worth, attribution_shares, directions, kept_slope, worth
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check

_FEWEST = 50
# Rows from which shares of attribution are taken, and steps of the integral: a share needs no better.
_ROWS, _STEPS = 500, 32
_ROWS_OF_RELATION = 2000
# A slope of labels on contributions below which a relation counts as gone, where rows are many enough to tell.
_VANISHED = 0.15
# Standard errors below zero from which a relation counts as turned round.
_TURNED = 3.0


def sampled(records: Records, rows: int, seed: int) -> Records:
    """At most this many rows, drawn without repetition."""
    if len(records) <= rows:
        return records
    return records.select(torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:rows].sort().values)


def explainable(records: Records) -> bool:
    """Whether there are enough rows of floats `[n, d]` to explain."""
    return len(records) >= _FEWEST and (inputs := model_inputs(records)).is_floating_point() and inputs.ndim == 2


def _rows(given: Mapping[str, Any], name: str, most: int) -> int:
    records = given.get(name)
    return 0 if records is None else min(most, len(records))


@check(
    "attribution.noise_feature",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(backwards=float(_STEPS * _rows(given, "validation", _ROWS))),
)
def features_called_noise_carry_nothing(
    model: nn.Module, validation: Records, *, top: int = 5, min_share: float = 0.05, rows: int = _ROWS, seed: int = 0
) -> Iterator[Finding]:
    """No feature that the schema calls noise is among those that the network leans on most.

    Shares of the mean absolute integrated gradient against the median row. Where there are few features, the upper
    half counts as the top.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365; the probe of noise after Stoppiglia, Dreyfus, Dubois
    and Oussar (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        model: network to explain.
        validation: rows with features, and `noise` in their schema.
        top: how many of the strongest features count.
        min_share: smallest share of all attribution that matters; the lower end of its interval must reach it.
        rows: most rows to explain.
        seed: of the sample.
    """
    this = features_called_noise_carry_nothing
    names = list(map(str, validation.features.columns)) if isinstance(validation.features, pd.DataFrame) else []
    noise = [name for name in validation.schema.noise if name in names]
    if not noise or not explainable(validation):
        reason = "No feature is declared as noise" if not noise else f"{len(validation)} rows are too few to explain"
        yield this.finding(Severity.NOTE, f"{reason}; nothing was judged.", numbers={"noise": noise, "rows": len(validation)})
        return
    found = attribute(_explained(model, validation), sampled(validation, rows, seed), baseline="median", steps=_STEPS, trust=False)
    share, error = attribution_shares(found)
    rank = share.argsort(descending=True, stable=True).argsort()
    best = min(top, max(1, len(names) // 2))
    caught = 0
    for name in noise:
        at = names.index(name)
        part, place, half = float(share[at]), int(rank[at]) + 1, 1.96 * float(error[at])
        if not (place <= best and part - half >= min_share):
            continue
        caught += 1
        numbers = {"share": part, "interval": [part - half, part + half], "rank": place, "features": len(names), "rows": len(found)}
        told = f"{name} is declared as noise, but ranks {place} of {len(names)} features with {part:.0%} of all attribution"
        remedy = f"Retrain without {name} and compare; if quality falls, {name} is tied to the label in this data: find out by what."
        severity = Severity.FAIL if place == 1 else Severity.WARN
        summary = f"{told} (95 % interval {part - half:.0%} to {part + half:.0%})."
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=Swarm(found))
    if not caught:
        at = max(map(names.index, noise), key=lambda at: float(share[at]))
        summary = f"{names[at]}, the strongest feature that is declared as noise, has {float(share[at]):.1%} of all attribution."
        numbers = {"feature": names[at], "share": float(share[at]), "rank": int(rank[at]) + 1}
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=Swarm(found))


@check(
    "attribution.direction",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(forwards=2.0 * _rows(given, "validation", 2000) * _declared(given)),
)
def features_push_the_way_experts_expect(
    model: nn.Module, validation: Records, *, alpha: float = 0.001, min_effect: float = 0.1, rows: int = 2000, seed: int = 0
) -> Iterator[Finding]:
    """Each feature with a declared `direction` pushes the output that way.

    The mean change of the log odds when the feature goes from its lower to its upper quartile, everything else as it
    is. Holm's correction over the declared features.

    Source: Friedman (2001), Ann. Statist. 29:1189, section 8.2; Holm (1979), Scand. J. Statist. 6:65.

    Args:
        model: network of a binary question, or with one output.
        validation: rows with features, and `direction` in their schema.
        alpha: chance of any false alarm over the declared features.
        min_effect: smallest change that matters, in standard deviations of the output.
        rows: most rows to ask about.
        seed: of the sample.
    """
    this = features_push_the_way_experts_expect
    expected = dict(validation.schema.direction)
    known = expected and isinstance(validation.features, pd.DataFrame) and any(name in validation.features for name in expected)
    if not known or not explainable(validation) or not is_binary(model, validation):
        reason = "No direction is declared" if not known else "Too few rows, or more than two classes"
        yield this.finding(Severity.NOTE, f"{reason}; nothing was judged.", numbers={"declared": len(expected), "rows": len(validation)})
        return
    found = directions(PositiveLogit(model), sampled(validation, rows, seed), expected)
    wrong = 0
    for at, name in enumerate(found.names):
        change, sign, p = float(found.change[at]), float(found.expected[at]), float(found.adjusted[at])
        if not (change * sign < -min_effect * found.scale and p < alpha):
            continue
        wrong += 1
        half = 1.96 * float(found.standard_error[at])
        numbers = {"change": change, "interval": [change - half, change + half], "p_holm": p, "rows_against": float(found.against[at])}
        way, other = ("raise", "lowers") if sign > 0 else ("lower", "raises")
        summary = (
            f"{name} should {way} the output but {other} it: {change:+.2f} on average from its lower to its upper quartile "
            f"(95 % interval {change - half:+.2f} to {change + half:+.2f}), the wrong way in {float(found.against[at]):.0%} of the rows."
        )
        remedy = f"Plot the target against {name} in training: look for a confounder, a wrong sign or unit; then constrain or drop it."
        yield this.finding(Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found)
    if not wrong:
        numbers = {"features": len(found.names), "scale": found.scale}
        yield this.finding(Severity.OK, f"All {len(found.names)} declared features push the expected way.", numbers=numbers, evidence=found)


@check(
    "attribution.shortcut",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features", "validation.targets", "production.features", "production.targets"),
    cost=lambda given: Cost(
        backwards=float(_STEPS * _rows(given, "validation", _ROWS)),
        forwards=9.0 * (_rows(given, "validation", 5000) + _rows(given, "production", 5000)),
    ),
)
def no_single_feature_carries_the_model_and_fails(
    model: nn.Module,
    validation: Records,
    production: Records,
    *,
    alpha: float = 0.002,
    min_skill: float = 0.4,
    kept: float = 0.25,
    candidates: int = 3,
    rows: int = 5000,
    seed: int = 0,
) -> Iterator[Finding]:
    """No single feature, unless declared causal, carries the model in validation and is worth nothing in production.

    Of the features with the largest share of attribution, the rise of the loss when each is shuffled, in validation and
    in production. A strong feature whose worth lasts is left alone; so is one that stands still in production, which
    is a shift, and one whose relation turned round, which is a drift.

    Source: Geirhos et al. (2020), Nat. Mach. Intell. 2:665, arXiv:2004.07780; Breiman (2001), Machine Learning 45:5.

    Args:
        model: network of a classification.
        validation: labeled rows.
        production: labeled rows.
        alpha: chance of any false alarm over the candidates.
        min_skill: smallest share of the model's skill in validation that shuffling the feature must cost.
        kept: largest share of that cost that may remain in production, either way, for the feature to count as worthless.
        candidates: how many features are tried, by attribution.
        rows: most rows of each side.
        seed: of the samples.
    """
    this = no_single_feature_carries_the_model_and_fails
    sides = [sampled(side, rows, seed) for side in (validation, production)]
    labeled = all(side.targets is not None and side.targets.dtype == torch.int64 and side.targets.ndim == 1 for side in sides)
    if not labeled or not all(map(explainable, sides)):
        numbers = {"rows_validation": len(validation), "rows_production": len(production)}
        yield this.finding(Severity.NOTE, "Not enough labeled rows of a classification on both sides to judge.", numbers=numbers)
        return
    explained = attribute(_explained(model, validation), sampled(validation, _ROWS, seed), baseline="median", steps=_STEPS, trust=False)
    share, _ = attribution_shares(explained)
    order = share.argsort(descending=True, stable=True)[:candidates].tolist()
    found = worth(model, sides[0], sides[1], [explained.names[at] for at in order], seed=seed)
    caught = 0
    for at, name in enumerate(found.names):
        if _collapsed(found, at, alpha, min_skill, kept) and not _stands_still(sides, order[at]):
            caught += 1
            drifted = name in validation.schema.causal or not relation_vanished(model, sides[1], explained.names.index(name), seed=seed)
            yield _shortcut(found, at, name, float(share[order[at]]), drifted)
    if not caught:
        top, part, skill = found.names[0], float(share[order[0]]), found.skill[:, 0].tolist()
        judged = {"feature": top, "share": part, "skill_validation": skill[0], "skill_production": skill[1]}
        told = f"{top} leads with {part:.0%} of the attribution; shuffling it costs {_part(skill[0])} of the skill in validation"
        summary = f"No single feature carries the model and fails: {told}, {_part(skill[1])} in production."
        yield this.finding(Severity.OK, summary, numbers=judged, evidence=found)


def _collapsed(found: Worth, at: int, alpha: float, min_skill: float, kept: float) -> bool:
    """Whether a feature was worth much before, and nothing after, while the network got worse."""
    before, after = found.importance[:, at].tolist()
    worse = found.base[1] > found.base[0]
    lost = float(found.adjusted[at]) < alpha and abs(after) <= kept * before
    return worse and lost and before > 0 and float(found.skill[0, at]) >= min_skill


def _stands_still(sides: list[Records], column: int) -> bool:
    """Whether the feature hardly varies any more in production, so that a shift explains the loss."""
    values = [torch.unique(model_inputs(side)[:, column], return_counts=True)[1] for side in sides]
    before, after = (float(counts.max()) / float(counts.sum()) for counts in values)
    return after > 0.9 and before < 0.85


def _shortcut(found: Worth, at: int, name: str, share: float, drifted: bool) -> Finding:
    skill, importance, error = found.skill[:, at].tolist(), found.importance[:, at].tolist(), found.standard_error[:, at].tolist()
    numbers = {"share": share, "skill_validation": skill[0], "skill_production": skill[1], "p_holm": float(found.adjusted[at])}
    numbers |= {"importance": importance, "standard_error": error, "loss": list(found.base)}
    summary = (
        f"{name} carries the model ({share:.0%} of the attribution; shuffling it costs {_part(skill[0])} of the skill "
        f"in {found.labels[0]}), but {'not so' if drifted else 'tells nothing'} in {found.labels[1]}: shuffling it there changes the "
        f"loss by {importance[1]:+.3f} ± {1.96 * error[1]:.3f} instead of {importance[0]:+.3f}."
    )
    this = no_single_feature_carries_the_model_and_fails
    if drifted:
        remedy = f"{name} still tells something, but something else: find out what changed in its relation to the target, then retrain."
        return this.finding(Severity.WARN, summary, cause=Cause.CONCEPT_DRIFT, subject=name, numbers=numbers, remedy=remedy, evidence=found)
    remedy = f"Retrain without {name}, or on rows where it is not tied to the label; if it is a cause, declare it in `causal`."
    return this.finding(Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found)


def relation_vanished(model: nn.Module, production: Records, at: int, *, seed: int) -> bool:
    """Whether the labels of production follow a feature's contribution no more, rather than in another way.

    A shortcut holds where the data was collected and means nothing elsewhere; a relation that is weaker or turned round, but there,
    is a world that drifted. Without a binary question both read as a shortcut.
    """
    if not is_binary(model, production) or production.targets is None:
        return True
    rows = sampled(production, _ROWS_OF_RELATION, seed)
    found = attribute(PositiveLogit(model), rows, baseline="median", steps=_STEPS, trust=False)
    assert rows.targets is not None
    slope, error = kept_slope(found.flat[found.usable], at, rows.targets[found.usable])
    return -_TURNED * error <= slope <= max(_VANISHED, error)


def _part(skill: float) -> str:
    """A share of the skill in words; a network can fall below no skill."""
    return f"{max(skill, 0.0):.0%}" if skill <= 1.0 else "more than all"


def _declared(given: Mapping[str, Any]) -> int:
    validation = given.get("validation")
    return max(1, 0 if validation is None else len(validation.schema.direction))


def _explained(model: nn.Module, records: Records) -> Any:
    """The model as one logit where the question is binary, so that contributions have one meaning in all rows."""
    return PositiveLogit(model) if is_binary(model, records) else model

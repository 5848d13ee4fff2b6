"""Checks of what a network leans on against what the domain expert knows: noise, direction, and
worth that does not last.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._explained_rows import (
    _ROWS,
    _STEPS,
    _explained,
    _rows,
    explainable,
    relation_vanished,
    sampled,
)
from gendebug_torch.attribution.compare.feature_use import Worth, attribution_shares, worth
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records, model_inputs


@check(
    "attribution.shortcut",
    cause=Cause.SHORTCUT_FEATURE,
    needs=(
        "model",
        "validation.features",
        "validation.targets",
        "production.features",
        "production.targets",
    ),
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
    """No single feature, unless declared causal, carries the model in validation and is worth
    nothing in production.

    Of the features with the largest share of attribution, the rise of the loss when each is
    shuffled, in validation and in production. A strong feature whose worth lasts is left alone; so
    is one that stands still in production, which is a shift, and one whose relation turned round,
    which is a drift.

    Source: Geirhos et al. (2020), Nat. Mach. Intell. 2:665, arXiv:2004.07780; Breiman (2001),
    Machine Learning 45:5.

    Args:
        model: network of a classification.
        validation: labeled rows.
        production: labeled rows.
        alpha: chance of any false alarm over the candidates.
        min_skill: smallest share of the model's skill in validation that shuffling the feature must
            cost.
        kept: largest share of that cost that may remain in production, either way, for the feature
            to count as worthless.
        candidates: how many features are tried, by attribution.
        rows: most rows of each side.
        seed: of the samples.
    """
    this = no_single_feature_carries_the_model_and_fails
    sides = [sampled(side, rows, seed) for side in (validation, production)]
    labeled = all(
        side.targets is not None and side.targets.dtype == torch.int64 and side.targets.ndim == 1
        for side in sides
    )
    if not labeled or not all(map(explainable, sides)):
        numbers = {"rows_validation": len(validation), "rows_production": len(production)}
        yield this.finding(
            Severity.NOTE,
            "Not enough labeled rows of a classification on both sides to judge.",
            numbers=numbers,
        )
        return
    explained = attribute(
        _explained(model, validation),
        sampled(validation, _ROWS, seed),
        baseline="median",
        steps=_STEPS,
        trust=False,
    )
    share, _ = attribution_shares(explained)
    order = share.argsort(descending=True, stable=True)[:candidates].tolist()
    found = worth(model, sides[0], sides[1], [explained.names[at] for at in order], seed=seed)
    caught = 0
    for at, name in enumerate(found.names):
        if _collapsed(found, at, alpha, min_skill, kept) and not _stands_still(sides, order[at]):
            caught += 1
            drifted = name in validation.schema.causal or not relation_vanished(
                model, sides[1], explained.names.index(name), seed=seed
            )
            yield _shortcut(found, at, name, float(share[order[at]]), drifted)
    if not caught:
        top, part, skill = found.names[0], float(share[order[0]]), found.skill[:, 0].tolist()
        judged = {
            "feature": top,
            "share": part,
            "skill_validation": skill[0],
            "skill_production": skill[1],
        }
        told = (
            f"{top} leads with {part:.0%} of the attribution; shuffling it costs "
            f"{_part(skill[0])} of the skill in validation"
        )
        summary = (
            f"No single feature carries the model and fails: {told}, {_part(skill[1])} in "
            "production."
        )
        yield this.finding(Severity.OK, summary, numbers=judged, evidence=found)


def _collapsed(found: Worth, at: int, alpha: float, min_skill: float, kept: float) -> bool:
    """Whether a feature was worth much before, and nothing after, while the network got worse."""
    before, after = found.importance[:, at].tolist()
    worse = found.base[1] > found.base[0]
    lost = float(found.adjusted[at]) < alpha and abs(after) <= kept * before
    return worse and lost and before > 0 and float(found.skill[0, at]) >= min_skill


def _stands_still(sides: list[Records], column: int) -> bool:
    """Whether the feature hardly varies any more in production, so that a shift explains the
    loss.
    """
    values = [torch.unique(model_inputs(side)[:, column], return_counts=True)[1] for side in sides]
    before, after = (float(counts.max()) / float(counts.sum()) for counts in values)
    return after > 0.9 and before < 0.85


def _shortcut(found: Worth, at: int, name: str, share: float, drifted: bool) -> Finding:
    skill, importance, error = (
        found.skill[:, at].tolist(),
        found.importance[:, at].tolist(),
        found.standard_error[:, at].tolist(),
    )
    numbers = {
        "share": share,
        "skill_validation": skill[0],
        "skill_production": skill[1],
        "p_holm": float(found.adjusted[at]),
    }
    numbers |= {"importance": importance, "standard_error": error, "loss": list(found.base)}
    summary = (
        f"{name} carries the model ({share:.0%} of the attribution; shuffling it costs "
        f"{_part(skill[0])} of the skill "
        f"in {found.labels[0]}), but {'not so' if drifted else 'tells nothing'} in "
        f"{found.labels[1]}: shuffling it there changes the "
        f"loss by {importance[1]:+.3f} ± {1.96 * error[1]:.3f} instead of {importance[0]:+.3f}."
    )
    this = no_single_feature_carries_the_model_and_fails
    if drifted:
        remedy = (
            f"{name} still tells something, but something else: find out what changed in its "
            "relation to the target, then retrain."
        )
        return this.finding(
            Severity.WARN,
            summary,
            cause=Cause.CONCEPT_DRIFT,
            subject=name,
            numbers=numbers,
            remedy=remedy,
            evidence=found,
        )
    remedy = (
        f"Retrain without {name}, or on rows where it is not tied to the label; if it is a "
        "cause, declare it in `causal`."
    )
    return this.finding(
        Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found
    )


def _part(skill: float) -> str:
    """A share of the skill in words; a network can fall below no skill."""
    return f"{max(skill, 0.0):.0%}" if skill <= 1.0 else "more than all"

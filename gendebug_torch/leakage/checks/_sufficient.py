"""Columns of ordinary strength that alone predict nearly as well as all together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._availability import fate, lost_relation, unavailability_signs
from gendebug_torch.leakage.checks._comparison import Context
from gendebug_torch.leakage.columns.association import Association
from gendebug_torch.leakage.columns.column_ablation import MAX_COLUMNS

# A model needs little besides a column that explains this part of what all columns explain.
SUFFICIENT = 0.9
# Explained share, or 2 AUC - 1, that a model must reach before a column is compared with it.
_MIN_SKILL = 0.1
# Part of what a column explains from which others tell much of the same.
_LIKE = 1 / 4


def sufficient_columns(train: Records, found: Association, context: Context) -> list[str]:
    """Columns that alone predict nearly as well as all together, the strongest first.

    By the explained share, or by `2 AUC - 1` where there is an AUC, as for rare classes.
    """
    areas = [p.auc for p in (context.everything, context.model) if p and math.isfinite(p.auc)]
    limits = context.whole, 2 * max(areas, default=0.5) - 1
    skills = found.overall, 2 * found.auc.nan_to_num(0.5) - 1
    certain = (
        found.overall - 2 * found.explained_error.nan_to_num(0.0),
        2 * found.interval("auc")[0].nan_to_num(0.5) - 1,
    )
    enough = [
        (skill >= SUFFICIENT * limit) & (low >= _MIN_SKILL / 2) & (limit >= _MIN_SKILL)
        for skill, low, limit in zip(skills, certain, limits, strict=True)
    ]
    names = {name for i, name in enumerate(found.names) if enough[0][i] or enough[1][i]}
    return [name for name in found.order if name in names - set(train.schema.causal)]


def sufficient_findings(
    this: Check,
    names: Sequence[str],
    train: Records,
    production: Records | None,
    found: Association,
    context: Context,
) -> Iterator[Finding]:
    """Findings on such columns against which something speaks.

    Args:
        this: the check that asks.
        names: columns that alone predict nearly as well as all together.
        train: labeled training records.
        production: records of production, with or without targets, or None.
        found: association of the columns with the target.
        context: what they are compared with.
    """
    for name in names:
        share = float(found.overall[found.names.index(name)])
        signs = unavailability_signs(name, train, production, explained=share)
        lost = lost_relation(name, train, production, found.order)
        if signs or lost:
            # A column with the like of which others are known is rather lost in serving.
            shares = dict(zip(found.names, found.overall.tolist(), strict=True))
            own = shares.pop(name)
            like = max(shares.values(), default=0.0) >= _LIKE * own
            served = like and signs == [fate(name, train, production)]
            yield _finding(this, name, signs, lost, found, context, served=served)


def _finding(
    this: Check,
    name: str,
    signs: list[str],
    lost: str,
    found: Association,
    context: Context,
    *,
    served: bool,
) -> Finding:
    """A column of ordinary strength against which something speaks.

    Args:
        this: the check that asks.
        name: the column.
        signs: what suggests that it is recorded after the outcome.
        lost: how much less it explains in production.
        found: association of the columns with the target.
        context: what it is compared with.
        served: whether all that suggests it is that production does not have it, while other
            columns tell much of the same.
    """
    share = float(found.overall[found.names.index(name)])
    text = (
        f"{name} alone predicts nearly as well as all columns{of_the_strongest(found)} together "
        f"({share:.0%} of the target explained, {context.whole:.0%} with all)"
    )
    cause = Cause.TARGET_LEAKAGE if signs else Cause.SHORTCUT_FEATURE
    if served:
        cause = Cause.TRAIN_SERVE_SKEW
        text += (
            f", and {signs[0]}: serving does not deliver it, or it is recorded after the outcome."
        )
        remedy = (
            f"Find out why serving does not deliver {name}, and when it is recorded. If that is "
            "with or after the outcome, drop it and retrain; else correct serving."
        )
    elif signs:
        text += f". It seems to be recorded after the outcome: {' and '.join(signs)}."
        remedy = (
            f"Find out when {name} is recorded. If that is with or after the outcome, drop it and "
            "retrain."
        )
    else:
        text += f", but {lost}: a model that relies on it fails there."
        remedy = f"Train a model without {name} and compare both on production rows."
    return this.finding(
        Severity.WARN,
        text,
        cause=cause,
        subject=name,
        numbers={"explained": share, "all_explained": context.whole, "signs": signs, "n": found.n},
        remedy=remedy,
        evidence=found,
    )


def of_the_strongest(found: Association) -> str:
    """Which columns small networks are fitted on, where those are not all."""
    return f" (of the {MAX_COLUMNS} strongest)" if len(found.names) > MAX_COLUMNS else ""

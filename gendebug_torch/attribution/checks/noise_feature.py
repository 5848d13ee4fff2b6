"""Checks of what a network leans on against what the domain expert knows: noise, direction, and
worth that does not last.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._explained_rows import (
    _ROWS,
    _STEPS,
    _explained,
    _rows,
    explainable,
    sampled,
)
from gendebug_torch.attribution.compare.feature_use import attribution_shares
from gendebug_torch.attribution.plots import Swarm
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records


@check(
    "attribution.noise_feature",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(backwards=float(_STEPS * _rows(given, "validation", _ROWS))),
)
def features_called_noise_carry_nothing(
    model: nn.Module,
    validation: Records,
    *,
    top: int = 5,
    min_share: float = 0.05,
    rows: int = _ROWS,
    seed: int = 0,
) -> Iterator[Finding]:
    """No feature that the schema calls noise is among those that the network leans on most.

    Shares of the mean absolute integrated gradient against the median row. Where there are few
    features, the upper half counts as the top.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365; the probe of noise after
    Stoppiglia, Dreyfus, Dubois and Oussar (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        model: network to explain.
        validation: rows with features, and `noise` in their schema.
        top: how many of the strongest features count.
        min_share: smallest share of all attribution that matters; the lower end of its interval
            must reach it.
        rows: most rows to explain.
        seed: of the sample.
    """
    this = features_called_noise_carry_nothing
    names = (
        list(map(str, validation.features.columns))
        if isinstance(validation.features, pd.DataFrame)
        else []
    )
    noise = [name for name in validation.schema.noise if name in names]
    if not noise or not explainable(validation):
        reason = (
            "No feature is declared as noise"
            if not noise
            else f"{len(validation)} rows are too few to explain"
        )
        yield this.finding(
            Severity.NOTE,
            f"{reason}; nothing was judged.",
            numbers={"noise": noise, "rows": len(validation)},
        )
        return
    found = attribute(
        _explained(model, validation),
        sampled(validation, rows, seed),
        baseline="median",
        steps=_STEPS,
        trust=False,
    )
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
        numbers = {
            "share": part,
            "interval": [part - half, part + half],
            "rank": place,
            "features": len(names),
            "rows": len(found),
        }
        told = (
            f"{name} is declared as noise, but ranks {place} of {len(names)} features with "
            f"{part:.0%} of all attribution"
        )
        remedy = (
            f"Retrain without {name} and compare; if quality falls, {name} is tied to the "
            "label in this data: find out by what."
        )
        severity = Severity.FAIL if place == 1 else Severity.WARN
        summary = f"{told} (95 % interval {part - half:.0%} to {part + half:.0%})."
        yield this.finding(
            severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=Swarm(found)
        )
    if not caught:
        at = max(map(names.index, noise), key=lambda at: float(share[at]))
        summary = (
            f"{names[at]}, the strongest feature that is declared as noise, has "
            f"{float(share[at]):.1%} of all attribution."
        )
        numbers = {"feature": names[at], "share": float(share[at]), "rank": int(rank[at]) + 1}
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=Swarm(found))

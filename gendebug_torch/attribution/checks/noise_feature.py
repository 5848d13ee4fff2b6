"""Check that features which the schema declares as noise are unimportant."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.checks._rows import (
    SHARE_ROWS,
    SHARE_STEPS,
    output_attributions,
    reason_not_to_explain,
    row_count,
    sample_records,
)
from gendebug_torch.attribution.compare.feature_use import attribution_shares
from gendebug_torch.attribution.plots import Beeswarm
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records


@check(
    "attribution.noise_feature",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(
        backwards=float(SHARE_STEPS * row_count(given, "validation", SHARE_ROWS))
    ),
)
def declared_noise_is_unimportant(
    model: nn.Module,
    validation: Records,
    *,
    top: int = 5,
    min_share: float = 0.05,
    rows: int = SHARE_ROWS,
    seed: int = 0,
) -> Iterator[Finding]:
    """No feature that the schema declares as noise is among the most important ones.

    Shares of the mean absolute integrated gradient against the median row. Where there are few
    features, the upper half counts as the top.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365; the noise probe after Stoppiglia,
    Dreyfus, Dubois and Oussar (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        model: network to explain.
        validation: rows with features, and `noise` in their schema.
        top: number of the most important features that count.
        min_share: smallest share of all attribution that matters; the lower end of its interval
            must reach it.
        rows: largest number of rows.
        seed: seed of the sample.
    """
    this = declared_noise_is_unimportant
    features = validation.features
    names = list(map(str, features.columns)) if isinstance(features, pd.DataFrame) else []
    noise = [name for name in validation.schema.noise if name in names]
    reason = reason_not_to_explain(validation) if noise else "no feature is declared as noise"
    if reason:
        numbers = {"noise": noise, "rows": len(validation)}
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers=numbers)
        return
    outputs = output_attributions(model, sample_records(validation, rows, seed))
    # Of several quantities the noise counts where it is strongest.
    shares = [attribution_shares(output) for output in outputs]
    strongest = [float(max(own[0][names.index(name)] for name in noise)) for own in shares]
    best = strongest.index(max(strongest))
    result, (share, error) = outputs[best], shares[best]
    rank = share.argsort(descending=True, stable=True).argsort()
    last_rank = min(top, max(1, len(names) // 2))
    important = [
        i
        for i in map(names.index, noise)
        if int(rank[i]) < last_rank and float(share[i] - 1.96 * error[i]) >= min_share
    ]
    for i in important:
        yield _important_noise(result, i, int(rank[i]) + 1, share, error)
    if not important:
        i = max(map(names.index, noise), key=lambda i: float(share[i]))
        yield _unimportant_noise(result, i, int(rank[i]) + 1, float(share[i]))


def _unimportant_noise(result: Attributions, feature: int, rank: int, share: float) -> Finding:
    """The finding where no noise is important, on its strongest feature."""
    name = result.names[feature]
    summary = (
        f"Declared noise is unimportant: its strongest feature, {name}, has {share:.1%} of all "
        "attribution."
    )
    numbers = {"feature": name, "share": share, "rank": rank}
    return declared_noise_is_unimportant.finding(
        Severity.OK, summary, numbers=numbers, evidence=Beeswarm(result)
    )


def _important_noise(
    result: Attributions, feature: int, rank: int, share: Tensor, error: Tensor
) -> Finding:
    """The finding for one feature that is declared as noise but important."""
    name, features = result.names[feature], len(result.names)
    part, half = float(share[feature]), 1.96 * float(error[feature])
    interval = [part - half, part + half]
    numbers = {"share": part, "interval": interval, "rank": rank}
    numbers |= {"features": features, "rows": len(result)}
    summary = (
        f"{name} is declared as noise, but ranks {rank} of {features} features with {part:.0%} of "
        f"all attribution (95 % interval {interval[0]:.0%} to {interval[1]:.0%})."
    )
    remedy = (
        f"Retrain without {name} and compare. If quality falls, {name} is associated with the "
        "target in this data: find out why."
    )
    return declared_noise_is_unimportant.finding(
        Severity.FAIL if rank == 1 else Severity.WARN,
        summary,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=Beeswarm(result),
    )

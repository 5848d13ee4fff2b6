"""Checks of what a network leans on against what the domain expert knows: noise, direction, and
worth that does not last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from torch import nn

from gendebug_torch.attribution.checks._explained_rows import _rows, explainable, sampled
from gendebug_torch.attribution.compare.feature_use import directions
from gendebug_torch.attribution.explanation.explained_output import PositiveLogit, is_binary
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records


@check(
    "attribution.direction",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(forwards=2.0 * _rows(given, "validation", 2000) * _declared(given)),
)
def features_push_the_way_experts_expect(
    model: nn.Module,
    validation: Records,
    *,
    alpha: float = 0.001,
    min_effect: float = 0.1,
    rows: int = 2000,
    seed: int = 0,
) -> Iterator[Finding]:
    """Each feature with a declared `direction` pushes the output that way.

    The mean change of the log odds when the feature goes from its lower to its upper quartile,
    everything else as it is. Holm's correction over the declared features.

    Source: Friedman (2001), Ann. Statist. 29:1189, section 8.2; Holm (1979), Scand. J. Statist.
    6:65.

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
    known = (
        expected
        and isinstance(validation.features, pd.DataFrame)
        and any(name in validation.features for name in expected)
    )
    if not known or not explainable(validation) or not is_binary(model, validation):
        reason = (
            "No direction is declared" if not known else "Too few rows, or more than two classes"
        )
        yield this.finding(
            Severity.NOTE,
            f"{reason}; nothing was judged.",
            numbers={"declared": len(expected), "rows": len(validation)},
        )
        return
    found = directions(PositiveLogit(model), sampled(validation, rows, seed), expected)
    wrong = 0
    for at, name in enumerate(found.names):
        change, sign, p = (
            float(found.change[at]),
            float(found.expected[at]),
            float(found.adjusted[at]),
        )
        if not (change * sign < -min_effect * found.scale and p < alpha):
            continue
        wrong += 1
        half = 1.96 * float(found.standard_error[at])
        numbers = {
            "change": change,
            "interval": [change - half, change + half],
            "p_holm": p,
            "rows_against": float(found.against[at]),
        }
        way, other = ("raise", "lowers") if sign > 0 else ("lower", "raises")
        summary = (
            f"{name} should {way} the output but {other} it: {change:+.2f} on average from its "
            "lower to its upper quartile "
            f"(95 % interval {change - half:+.2f} to {change + half:+.2f}), the wrong way in "
            f"{float(found.against[at]):.0%} of the rows."
        )
        remedy = (
            f"Plot the target against {name} in training: look for a confounder, a wrong "
            "sign or unit; then constrain or drop it."
        )
        yield this.finding(
            Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found
        )
    if not wrong:
        numbers = {"features": len(found.names), "scale": found.scale}
        yield this.finding(
            Severity.OK,
            f"All {len(found.names)} declared features push the expected way.",
            numbers=numbers,
            evidence=found,
        )


def _declared(given: Mapping[str, Any]) -> int:
    validation = given.get("validation")
    return max(1, 0 if validation is None else len(validation.schema.direction))

"""Check that features act in the direction which the schema declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from torch import nn

from gendebug_torch.attribution.checks._rows import reason_not_to_explain, row_count, sample_records
from gendebug_torch.attribution.compare.feature_use import Directions, feature_directions
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.model.binary import PositiveLogit, is_binary


@check(
    "attribution.direction",
    cause=Cause.SHORTCUT_FEATURE,
    needs=("model", "validation.features"),
    cost=lambda given: Cost(forwards=2.0 * row_count(given, "validation", 2000) * _declared(given)),
)
def features_have_the_declared_direction(
    model: nn.Module,
    validation: Records,
    *,
    alpha: float = 0.001,
    min_effect: float = 0.1,
    rows: int = 2000,
    seed: int = 0,
) -> Iterator[Finding]:
    """Each feature with a declared `direction` changes the output in that direction.

    The mean change of the log odds, or of the predicted quantity, when the feature goes from its
    lower to its upper quartile, all other features unchanged. Holm's correction over the declared
    features.

    Source: Friedman (2001), Ann. Statist. 29:1189, section 8.2; Holm (1979), Scand. J. Statist.
    6:65.

    Args:
        model: network of a binary task, or with one output.
        validation: rows with features, and `direction` in their schema.
        alpha: probability of any false alarm over the declared features.
        min_effect: smallest change that matters, in standard deviations of the output.
        rows: largest number of rows.
        seed: seed of the sample.
    """
    this = features_have_the_declared_direction
    expected, features = dict(validation.schema.direction), validation.features
    declared = isinstance(features, pd.DataFrame) and any(name in features for name in expected)
    reason = reason_not_to_explain(validation) if declared else "no direction is declared"
    if not reason and not is_binary(model, validation):
        reason = "the model has more than two classes, or several outputs"
    if reason:
        numbers = {"declared": len(expected), "rows": len(validation)}
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers=numbers)
        return
    sample = sample_records(validation, rows, seed)
    result = feature_directions(PositiveLogit(model), sample, expected)
    significant = result.adjusted < alpha
    against = -result.change * result.expected > min_effect * result.scale
    wrong = (significant & against).nonzero()[:, 0].tolist()
    for i in wrong:
        yield _wrong_direction(result, i)
    if not wrong:
        effects = {"features": len(result.names), "scale": result.scale}
        summary = f"All {len(result.names)} declared features act in the declared direction."
        yield this.finding(Severity.OK, summary, numbers=effects, evidence=result)


def _wrong_direction(result: Directions, i: int) -> Finding:
    """The finding for one feature that acts against its declared direction."""
    name, change, against = result.names[i], float(result.change[i]), float(result.against[i])
    half = 1.96 * float(result.standard_error[i])
    numbers = {
        "change": change,
        "interval": [change - half, change + half],
        "p_holm": float(result.adjusted[i]),
        "rows_against": against,
    }
    declared, actual = ("raise", "lowers") if float(result.expected[i]) > 0 else ("lower", "raises")
    summary = (
        f"{name} should {declared} the output but {actual} it: {change:+.2f} on average from its "
        f"lower to its upper quartile (95 % interval {change - half:+.2f} to "
        f"{change + half:+.2f}), in the wrong direction in {against:.0%} of the rows."
    )
    remedy = (
        f"Plot the target against {name} in the training data. Look for a confounder, a wrong sign "
        "or a wrong unit; then constrain the feature or drop it."
    )
    return features_have_the_declared_direction.finding(
        Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=result
    )


def _declared(given: Mapping[str, Any]) -> int:
    validation = given.get("validation")
    return max(1, 0 if validation is None else len(validation.schema.direction))

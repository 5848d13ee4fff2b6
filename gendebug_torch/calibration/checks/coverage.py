"""Prediction intervals hold the share of targets that they promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gendebug_torch.calibration.coverage import (
    NORMAL_LEVELS,
    QuantileCoverage,
    conformal_widening,
    normal_quantiles,
    quantile_coverage,
)
from gendebug_torch.calibration.rows.held_out_rows import group_ids
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.stats.multiple_testing import holm_adjusted

# With fewer rows the noise of a coverage is larger than any reasonable limit.
_MIN_ROWS = 50
# Deviation of a coverage from which no interval can be trusted.
_FAILS_FROM = 0.1


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("validation", "production")]
    logits = [side.logits for side in sides if side is not None and side.logits is not None]
    return Cost(elements=1.0 + sum(10.0 * z.numel() for z in logits))


@check(
    "calibration.coverage",
    cause=Cause.MISCALIBRATION,
    needs=("validation.logits", "validation.targets"),
    cost=_cost,
    positions=True,
)
def intervals_cover_what_they_promise(
    validation: Records,
    production: Records | None = None,
    *,
    limit: float = 0.03,
    alpha: float = 0.002,
    min_rows: int = _MIN_ROWS,
) -> Iterator[Finding]:
    """Prediction intervals of a regression hold the share of targets that they promise.

    The schema declares the outputs: `quantiles` with their levels, or a mean and its `spread`. Each
    quantile and the outermost interval are tested by the binomial distribution, corrected by Holm;
    rows that share the group of the schema count as one.

    Source: Gneiting, Balabdaoui and Raftery (2007), J. R. Stat. Soc. B 69:243; Romano, Patterson
    and Candès (2019), NeurIPS, arXiv:1905.03222 for the remedy.

    Args:
        validation: labeled records of a regression.
        production: labeled records from production.
        limit: least deviation of a coverage that matters.
        alpha: probability of a false alarm.
        min_rows: number of rows below which coverage is not judged.
    """
    this = intervals_cover_what_they_promise
    sides = [validation]
    if production is not None and production.targets is not None and production.logits is not None:
        sides.append(production)
    for records in sides:
        predicted = _quantiles(records)
        if isinstance(predicted, str):
            yield this.finding(Severity.NOTE, predicted)
            return
        if len(records) < min_rows:
            text = f"{records.name} has {len(records)} labeled rows, too few to judge coverage."
            yield this.finding(Severity.NOTE, text, numbers={"rows": len(records)})
        else:
            yield _finding(this, records, *predicted, limit, alpha)


def _quantiles(records: Records) -> tuple[Tensor, tuple[float, ...]] | str:
    """Predicted quantiles `[n, q]` and their levels, or why there are none."""
    outputs, targets, schema = records.logits, records.targets, records.schema
    if records.task is not Task.REGRESSION:
        return "Not judged: coverage is that of the intervals of a regression."
    if not schema.quantiles and schema.spread is None:
        return (
            "Not judged: no prediction intervals are declared. If the model returns quantiles, or "
            "a mean and its variance, declare `quantiles` or `spread` in the schema."
        )
    wanted = len(schema.quantiles) or 2
    if outputs is None or targets is None or targets.ndim != 1 or outputs.shape[1:] != (wanted,):
        shapes = [list(part.shape) for part in (outputs, targets) if part is not None]
        return (
            f"Not judged: the schema declares {wanted} outputs for one quantity per row, but "
            f"outputs and targets are {' and '.join(map(str, shapes))}."
        )
    if schema.quantiles:
        return (outputs.double(), schema.quantiles)
    return normal_quantiles(outputs, str(schema.spread)), NORMAL_LEVELS


def _finding(
    this: Check,
    records: Records,
    quantiles: Tensor,
    levels: tuple[float, ...],
    limit: float,
    alpha: float,
) -> Finding:
    assert records.targets is not None
    found = quantile_coverage(quantiles, records.targets, levels)
    groups = group_ids(records)
    independent = found.rows if groups is None else int(groups.max()) + 1
    p_values = holm_adjusted(found.p_values(independent))
    gaps = found.deviations.tolist()
    worst = max(range(len(gaps)), key=lambda at: abs(gaps[at]))
    bad = [at for at, gap in enumerate(gaps) if abs(gap) >= limit and float(p_values[at]) < alpha]
    low, high = found.interval(independent)
    widening = conformal_widening(quantiles, records.targets, found.nominal)
    numbers = {
        "nominal": found.nominal,
        "coverage": found.share,
        "interval": [low, high],
        "levels": list(levels),
        "shares": (found.below / found.rows).tolist(),
        "largest_deviation": gaps[worst],
        "p_value": float(p_values.min()),
        "rows": found.rows,
        "independent": independent,
        "widening": widening,
    }
    text = (
        f"The {found.nominal:.0%} intervals in {records.name} hold {found.share:.1%} of the "
        f"targets (95 % interval {low:.1%} to {high:.1%})"
    )
    if not bad:
        text += f"; no quantile deviates by {limit:.0%} beyond noise."
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    text += _quantile_text(found, gaps, bad)
    change = "Widen" if widening > 0 else "Narrow"
    return this.finding(
        Severity.FAIL if abs(gaps[worst]) >= _FAILS_FROM else Severity.WARN,
        text,
        numbers=numbers,
        remedy=f"{change} them by {abs(widening):.3g} on both sides (conformal prediction), or "
        "train with the log likelihood or the quantile loss on more rows.",
        evidence=found,
    )


def _quantile_text(found: QuantileCoverage, gaps: list[float], bad: list[int]) -> str:
    """The quantile that deviates most, if any does."""
    quantiles = [at for at in bad if at < len(found.levels)]
    if not quantiles:
        return "."
    at = max(quantiles, key=lambda index: abs(gaps[index]))
    share = float(found.below[at]) / found.rows
    return f"; {share:.1%} are at or below the {found.levels[at]:.0%} quantile."

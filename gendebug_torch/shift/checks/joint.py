"""Checks of all columns together, and of the accuracy that can be expected where labels have not
arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import InputError
from gendebug_torch.shift.checks._kinds import kinds_between, p_text
from gendebug_torch.shift.columns.shared_columns import column_count, shared_tables
from gendebug_torch.shift.two_sample.joint import (
    JointShift,
    joint_shift,
    permutation_block,
    slow_columns,
)
from gendebug_torch.stats.multiple_testing import holm_adjusted


def _cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=5000.0 * (96.0 + column_count(given.get("production"))) ** 2 + 3e7)


@check("shift.joint", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=_cost)
def columns_go_together_as_before(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_auc: float = 0.55,
    min_correlation: float = 0.15,
    most_columns: int = 300,
) -> Iterator[Finding]:
    """No network can tell production from validation (or training), and no two features changed how
    they go together.

    Rows in time (`schema.time`) are permuted in blocks, so that rows which resemble their
    neighbours fake no shift. Where a column swings more slowly than a block lasts, production
    differs all the same, but maybe only for this swing: that warns.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545; Fisher (1921), Metron 1:3; Carlstein
    (1986), Ann. Stat. 14:1171; Holm (1979) over both questions.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over both questions.
        min_auc: smallest AUC that matters.
        min_correlation: smallest change of a correlation that matters.
        most_columns: with more features nothing is judged.
    """
    this = columns_go_together_as_before
    reference = validation if validation is not None and validation.features is not None else train
    if reference is None or reference.features is None:
        lacking = ["validation.features"]
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs validation.features or train.features.",
            numbers={"lacks": lacking},
        )
        return
    d = column_count(production)
    columns = shared_tables(production, reference) if d <= most_columns else None
    if columns is None or not len(columns.reference.columns):
        text = f"Not judged: {d} columns, of which none is shared, or more than {most_columns}."
        yield this.finding(Severity.NOTE, text, numbers={"columns": d})
        return
    sizes = (len(columns.reference), len(columns.production))
    block = permutation_block(reference, production)
    try:
        shift = joint_shift(
            columns.reference, columns.production, categorical=columns.categorical, block=block
        )
    except InputError as error:
        yield this.finding(
            Severity.NOTE, f"Not judged: {error}", numbers={"n": sizes[0], "m": sizes[1]}
        )
        return
    slow = (
        []
        if block == 1
        else slow_columns(
            columns.reference, columns.production, block, categorical=columns.categorical
        )
    )
    yield _joint_finding(
        shift, slow, production, validation, train, alpha, min_auc, min_correlation
    )


def _joint_finding(
    shift: JointShift,
    slow: list[str],
    production: Records,
    validation: Records | None,
    train: Records | None,
    alpha: float,
    min_auc: float,
    min_correlation: float,
) -> Finding:
    paired = 1.0 if not len(shift.pairs) else float(shift.pairs["p_holm"].iloc[0])
    adjusted = holm_adjusted(torch.tensor([shift.p_value, paired], dtype=torch.float64)).tolist()
    numbers: dict[str, Any] = {
        "auc": shift.auc,
        "low": shift.low,
        "high": shift.high,
        "p_holm": adjusted[0],
        "p_holm_pairs": adjusted[1],
    }
    numbers |= {"n": shift.rows[0], "m": shift.rows[1], "block": shift.block}
    apart = adjusted[0] < alpha and shift.auc >= min_auc
    change = 0.0
    bounds = f"{shift.low:.3f} to {shift.high:.3f}, {p_text(adjusted[0])}"
    text = f"a network tells production from the reference with AUC {shift.auc:.3f} ({bounds})"
    if len(shift.pairs):
        one, other, before, after = (
            shift.pairs[name].iloc[0] for name in ("one", "other", "before", "after")
        )
        change = float(after - before)
        numbers |= {
            "pair": f"{one} & {other}",
            "correlation_reference": float(before),
            "correlation_production": float(after),
        }
        text += (
            f"; the correlation that moved most is of {one} and {other}: {before:+.2f} → "
            f"{after:+.2f} (Holm {p_text(adjusted[1])})"
        )
    coupled = adjusted[1] < alpha and abs(change) >= min_correlation
    this = columns_go_together_as_before
    if not apart and not coupled:
        return this.finding(
            Severity.OK, f"Columns go together as before: {text}.", numbers=numbers, evidence=shift
        )
    if shift.importance:
        top = next(iter(shift.importance))
        text += f"; what gives it away most is {top} (AUC {shift.importance[top]:+.3f})"
    kinds = kinds_between(production, validation, train)
    first = kinds.kinds[0] if kinds is not None and kinds.kinds else "inputs"
    cause = {"skew": Cause.TRAIN_SERVE_SKEW, "classes": Cause.LABEL_SHIFT}.get(
        first, Cause.COVARIATE_SHIFT
    )
    if slow:
        text += (
            f"; {', '.join(slow[:3])} swing about as slowly as these records last, so this "
            "may be a swing and not a lasting change"
        )
        numbers["slow"] = slow
    severity = (
        Severity.NOTE
        if first == "classes"
        else Severity.FAIL
        if shift.auc >= 0.7 and not slow
        else Severity.WARN
    )
    remedy = (
        "Look at the features named here one by one (shift.ks), then at how they depend on "
        "each other; retrain on such rows."
    )
    return this.finding(
        severity,
        f"Production differs as a whole: {text}.",
        cause=cause,
        numbers=numbers,
        remedy=remedy,
        evidence=shift,
    )

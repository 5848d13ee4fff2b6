"""Checks of all columns together, and of the accuracy that can be expected where labels have not arrived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.errors import InputError
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check
from gendebug_torch.shift.accuracy import ASSUMPTIONS, estimated_accuracy
from gendebug_torch.shift.checks_kinds import cause_of_symptom, kinds_between, p_text
from gendebug_torch.shift.columns import compared, width
from gendebug_torch.shift.joint import JointShift, joint_shift, outlasts, time_block
from gendebug_torch.stats import holm_adjusted

# Rows under which the standard error of an estimated accuracy is itself a guess.
_FEWEST_JUDGED = 20


def _cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=5000.0 * (96.0 + width(given.get("production"))) ** 2 + 3e7)


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
    """No network can tell production from validation (or training), and no two features changed how they go together.

    Rows in time (`schema.time`) are permuted in blocks, so that rows which resemble their neighbours fake no shift. Where a
    column swings more slowly than a block lasts, production differs all the same, but maybe only for this swing: that warns.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545; Fisher (1921), Metron 1:3; Carlstein (1986), Ann.
    Stat. 14:1171; Holm (1979) over both questions.

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
        yield this.finding(Severity.SKIPPED, "Skipped: needs validation.features or train.features.", numbers={"lacks": lacking})
        return
    d = width(production)
    columns = compared(production, reference) if d <= most_columns else None
    if columns is None or not len(columns.reference.columns):
        text = f"Not judged: {d} columns, of which none is shared, or more than {most_columns}."
        yield this.finding(Severity.NOTE, text, numbers={"columns": d})
        return
    sizes = (len(columns.reference), len(columns.production))
    block = time_block(reference, production)
    try:
        shift = joint_shift(columns.reference, columns.production, categorical=columns.categorical, block=block)
    except InputError as error:
        yield this.finding(Severity.NOTE, f"Not judged: {error}", numbers={"n": sizes[0], "m": sizes[1]})
        return
    slow = [] if block == 1 else outlasts(columns.reference, columns.production, block, categorical=columns.categorical)
    yield _joint_finding(shift, slow, production, validation, train, alpha, min_auc, min_correlation)


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
    numbers: dict[str, Any] = {"auc": shift.auc, "low": shift.low, "high": shift.high, "p_holm": adjusted[0], "p_holm_pairs": adjusted[1]}
    numbers |= {"n": shift.rows[0], "m": shift.rows[1], "block": shift.block}
    apart = adjusted[0] < alpha and shift.auc >= min_auc
    change = 0.0
    bounds = f"{shift.low:.3f} to {shift.high:.3f}, {p_text(adjusted[0])}"
    text = f"a network tells production from the reference with AUC {shift.auc:.3f} ({bounds})"
    if len(shift.pairs):
        one, other, before, after = (shift.pairs[name].iloc[0] for name in ("one", "other", "before", "after"))
        change = float(after - before)
        numbers |= {"pair": f"{one} & {other}", "correlation_reference": float(before), "correlation_production": float(after)}
        text += f"; the correlation that moved most is of {one} and {other}: {before:+.2f} → {after:+.2f} (Holm {p_text(adjusted[1])})"
    coupled = adjusted[1] < alpha and abs(change) >= min_correlation
    this = columns_go_together_as_before
    if not apart and not coupled:
        return this.finding(Severity.OK, f"Columns go together as before: {text}.", numbers=numbers, evidence=shift)
    if shift.importance:
        top = next(iter(shift.importance))
        text += f"; what gives it away most is {top} (AUC {shift.importance[top]:+.3f})"
    kinds = kinds_between(production, validation, train)
    first = kinds.kinds[0] if kinds is not None and kinds.kinds else "inputs"
    cause = {"skew": Cause.TRAIN_SERVE_SKEW, "classes": Cause.LABEL_SHIFT}.get(first, Cause.COVARIATE_SHIFT)
    if slow:
        text += f"; {', '.join(slow[:3])} swing about as slowly as these records last, so this may be a swing and not a lasting change"
        numbers["slow"] = slow
    severity = Severity.NOTE if first == "classes" else Severity.FAIL if shift.auc >= 0.7 and not slow else Severity.WARN
    remedy = "Look at the features named here one by one (shift.ks), then at how they depend on each other; retrain on such rows."
    return this.finding(severity, f"Production differs as a whole: {text}.", cause=cause, numbers=numbers, remedy=remedy, evidence=shift)


def _accuracy_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=100.0 * sum(float(r.logits.numel()) for r in map(given.get, ("validation", "production")) if r is not None))


@check(
    "shift.estimated_accuracy",
    cause=Cause.COVARIATE_SHIFT,
    needs=("validation.targets", "validation.logits", "production.logits"),
    cost=_accuracy_cost,
)
def accuracy_is_expected_to_hold(
    validation: Records, production: Records, *, min_drop: float = 0.05, errors: float = 3.5
) -> Iterator[Finding]:
    """By what the model says of production rows, it is right as often as in validation.

    Two estimates without labels, of which both have to fall; where class shares moved and nothing else, the one by classes
    alone. They are void under concept drift, and where inputs moved to places that validation does not know; the finding
    says so where that is seen.

    Source: Garg et al. (2022), ICLR, arXiv:2201.04234 (ATC); Guillory et al. (2021), ICCV, arXiv:2107.03315.

    Args:
        validation: records with targets and logits.
        production: records with logits.
        min_drop: smallest fall of the accuracy that matters.
        errors: standard errors by which both estimates have to fall.
    """
    this = accuracy_is_expected_to_hold
    if validation.targets is None or validation.targets.ndim != 1 or validation.targets.is_floating_point() or validation.schema.multilabel:
        yield this.finding(Severity.NOTE, "Not judged: accuracy needs one class per row.")
        return
    if validation.logits is None or production.logits is None or min(len(validation), len(production)) < _FEWEST_JUDGED:
        yield this.finding(Severity.NOTE, f"Too few rows to expect anything: {len(validation)} against {len(production)}.")
        return
    told = production.targets if production.targets is not None and production.targets.dtype == validation.targets.dtype else None
    found = estimated_accuracy(validation.logits, validation.targets, production.logits, live_targets=told)
    kinds = kinds_between(production, validation)
    moved = [] if kinds is None else [feature.name for feature in kinds.features if feature.kind in ("inputs", "skew")]
    of_classes = kinds is not None and kinds.kinds[:1] == ("classes",) and "classes" in found.estimates
    methods = ("classes",) if of_classes else ("confidence", "threshold")
    numbers: dict[str, Any] = {"before": found.before[0]}
    parts = []
    for method, (value, _) in found.estimates.items():
        low, high = found.interval(method)
        numbers |= {method: value, f"{method}_low": low, f"{method}_high": high}
        parts += [f"{value:.1%} by {method} ({low:.1%} to {high:.1%})"] * (method in methods)
    text = f"accuracy {found.before[0]:.1%} in validation, expected in production {' and '.join(parts)}"
    if found.counted is not None:
        numbers["counted"] = found.counted[0]
        text += f", counted {found.counted[0]:.1%}"
    drops = [found.drop(method) for method in methods]
    falls = all(drop >= max(min_drop, errors * error) for drop, error in drops)
    caveat = f"Void where inputs are new to the model: {', '.join(moved[:3])} moved." if moved else f"Assumes: {ASSUMPTIONS[methods[0]]}."
    if not falls:
        said = "Withdrawn, since the estimates need inputs that the model knows" if moved else "No fall is expected"
        yield this.finding(Severity.NOTE if moved else Severity.OK, f"{said}: {text}. {caveat}", numbers=numbers, evidence=found)
        return
    remedy = "Label a few hundred production rows to know; until then treat the model as that much worse, and find what moved."
    cause = cause_of_symptom(production, validation)
    yield this.finding(Severity.WARN, f"A fall is expected: {text}. {caveat}", cause=cause, numbers=numbers, remedy=remedy, evidence=found)

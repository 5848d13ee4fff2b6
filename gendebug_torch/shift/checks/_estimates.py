"""What the estimates of a quality without labels say, and those of several labels or quantities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import root_cause
from gendebug_torch.shift.columns.shared_columns import column_count
from gendebug_torch.shift.columns.shared_tables import shared_tables
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.moved_columns import random_rows
from gendebug_torch.shift.scores.estimated_accuracy import (
    ASSUMPTIONS,
    EstimatedAccuracy,
    estimated_accuracy,
)
from gendebug_torch.shift.scores.estimated_error import (
    ASSUMPTION,
    MAX_COLUMNS,
    MAX_ROWS,
    EstimatedError,
    estimated_error,
)
from gendebug_torch.shift.scores.outputs import (
    MAX_OUTPUTS,
    compared_outputs,
    labeled_rows,
    output_columns,
    output_names,
)
from gendebug_torch.stats.intervals import normal_quantile

REMEDY = (
    "Label a few hundred production rows to measure it, and find what shifted; until then, treat "
    "the model as that much worse."
)
_METHODS = ("confidence", "threshold")
# Labeled rows of an output that it takes.
_MIN_ROWS = 20


def shifted_inputs(change_kinds: ChangeKinds | None) -> list[str]:
    """Names of the inputs that shifted in a way which class shares do not explain."""
    shifted = [] if change_kinds is None else change_kinds.features
    return [f.name for f in shifted if f.kind in ("covariate_shift", "train_serve_skew")]


def caveat_text(assumption: str, names: Sequence[str]) -> str:
    """What the estimates rest on, or why they may be wrong."""
    if names:
        return f"The estimates may be wrong, since inputs shifted: {', '.join(names[:3])}."
    return f"This assumes that {assumption}."


def estimates_text(found: EstimatedAccuracy, methods: tuple[str, ...]) -> str:
    """Accuracy before and its estimates, as part of a sentence."""
    parts = []
    for method in methods:
        low, high = found.interval(method)
        parts.append(f"{found.estimates[method][0]:.1%} by {method} ({low:.1%} to {high:.1%})")
    counted = "" if found.counted is None else f", counted {found.counted[0]:.1%}"
    return (
        f"accuracy {found.before[0]:.1%} in validation, estimated in production "
        f"{' and '.join(parts)}{counted}"
    )


def estimates_numbers(found: EstimatedAccuracy) -> dict[str, Any]:
    """Numbers of a finding about an accuracy."""
    numbers: dict[str, Any] = {"before": found.before[0]}
    for method, (value, _) in found.estimates.items():
        low, high = found.interval(method)
        numbers |= {method: value, f"{method}_low": low, f"{method}_high": high}
    return numbers if found.counted is None else numbers | {"counted": found.counted[0]}


def labels_finding(
    check: Check,
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None,
    min_drop: float,
    errors: float,
) -> Finding:
    """The accuracy of each label of a multilabel model, estimated as that of one class.

    Args:
        check: check that reports it.
        validation: records with targets and logits.
        production: records with logits.
        change_kinds: kinds of change.
        min_drop: smallest fall of the accuracy of a label that matters.
        errors: standard errors of the fall for one label; more for several (Bonferroni).
    """
    found = _label_estimates(validation, production)
    if not found:
        text = f"Not judged: no label has {_MIN_ROWS} labeled rows of validation."
        return check.finding(Severity.NOTE, text)
    tail = torch.special.ndtr(torch.tensor(-errors, dtype=torch.float64)).item() / len(found)
    least = -normal_quantile(tail)
    falls = {name: _fall(estimate, min_drop, least) for name, estimate in found.items()}
    name = max(falls, key=lambda label: falls[label])
    names, worst = shifted_inputs(change_kinds), found[name]
    fallen = [label for label, fall in falls.items() if fall >= 1.0]
    judged = f"{len(found)} labels"
    if len(found) == MAX_OUTPUTS:
        judged = f"the {MAX_OUTPUTS} labels that vary most"
    severity, cause, remedy = Severity.OK, None, ""
    text = f"No fall is expected of any of {judged}; next to one is {name}"
    if fallen:
        severity, cause, remedy = Severity.WARN, root_cause(change_kinds), REMEDY
        text = f"A fall is expected of {len(fallen)} of {judged}, most of all of {name}"
    elif names:
        severity = Severity.NOTE
    return check.finding(
        severity,
        f"{text}: {estimates_text(worst, _METHODS)}. "
        f"{caveat_text(ASSUMPTIONS[_METHODS[0]], names)}",
        cause=cause,
        numbers=estimates_numbers(worst) | {"labels": len(found), "fallen": len(fallen)},
        remedy=remedy,
        evidence=worst,
    )


def _label_estimates(validation: Records, production: Records) -> dict[str, EstimatedAccuracy]:
    """Estimates of the labels that have enough labeled rows, by name."""
    z, y, live = validation.logits, validation.targets, production.logits
    if z is None or y is None or live is None or z.shape != y.shape or not len(live):
        return {}
    targets, counted = y.cpu(), production.targets
    names, found = output_names(validation, z.shape[1]), {}
    for j in compared_outputs(targets):
        rows = labeled_rows(targets[:, j])
        if int(rows.sum()) < _MIN_ROWS:
            continue
        live_targets = None if counted is None else counted[:, j].cpu()
        if live_targets is not None and not bool(labeled_rows(live_targets).all()):
            live_targets = None
        found[names[j]] = estimated_accuracy(
            z[rows.to(z.device), j].cpu(),
            targets[rows, j],
            live[:, j].cpu(),
            live_targets=live_targets,
        )
    return found


def _fall(found: EstimatedAccuracy, min_drop: float, errors: float) -> float:
    """Least fall over the methods, in units of the fall that matters."""
    drops = [found.drop(method) for method in _METHODS]
    return min(drop / max(min_drop, errors * error) for drop, error in drops)


def error_finding(
    check: Check,
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None,
    min_rise: float,
    errors: float,
) -> Finding:
    """The mean absolute error of each output of a regression, estimated without labels.

    Args:
        check: check that reports it.
        validation: records with targets and logits.
        production: records with logits.
        change_kinds: kinds of change.
        min_rise: smallest rise that matters, as a share of the error in validation.
        errors: standard errors of the rise for one output; more for several (Bonferroni).
    """
    found, sides = _estimated_error(validation, production)
    if found is None or not bool(found.after.isfinite().any()):
        text = f"Not judged: fewer than {_MIN_ROWS} rows, or outputs and labels of other shapes."
        return check.finding(Severity.NOTE, text)
    judged = int(found.after.isfinite().sum())
    tail = torch.special.ndtr(torch.tensor(-errors, dtype=torch.float64)).item() / judged
    needed = torch.maximum(min_rise * found.before, -normal_quantile(tail) * found.after_error)
    rise = (found.after - found.before) / needed.clamp(min=1e-300)
    which, names = int(rise.nan_to_num(-torch.inf).argmax()), shifted_inputs(change_kinds)
    low, high = found.interval(which)
    text = (
        f"mean absolute error of {found.names[which]} {float(found.before[which]):.3g} in "
        f"validation, estimated in production {float(found.after[which]):.3g} ({low:.3g} to "
        f"{high:.3g}) from {sides}"
    )
    numbers = {"before": float(found.before[which]), "estimated": float(found.after[which])}
    numbers |= {"low": low, "high": high, "outputs": judged}
    if float(found.counted[which]) >= 0:
        numbers |= {"counted": float(found.counted[which])}
        text += f", counted {numbers['counted']:.3g}"
    severity, cause, remedy, start = Severity.OK, None, "", "No rise of the error is expected"
    if float(rise[which]) >= 1.0:
        severity, cause, remedy = Severity.WARN, root_cause(change_kinds), REMEDY
        start = "A rise of the error is expected"
    elif names:
        severity, start = Severity.NOTE, f"{start}, but that is not reliable"
    return check.finding(
        severity,
        f"{start}: {text}. {caveat_text(ASSUMPTION, names)}",
        cause=cause,
        numbers=numbers,
        remedy=remedy,
        evidence=found,
    )


def _estimated_error(validation: Records, production: Records) -> tuple[EstimatedError | None, str]:
    """Estimates from at most 5,000 rows a side, and what they were estimated from."""
    before, after = (
        side.select(random_rows(len(side), MAX_ROWS, seed))
        for seed, side in enumerate((validation, production))
    )
    z, y, live = before.logits, before.targets, after.logits
    if z is None or y is None or live is None or z.shape != y.shape:
        return None, ""
    outputs, targets, live_outputs = (output_columns(part) for part in (z, y, live))
    if (
        min(len(outputs), len(live_outputs)) < _MIN_ROWS
        or outputs.shape[1] != live_outputs.shape[1]
    ):
        return None, ""
    tables = shared_tables(after, before) if column_count(after) <= MAX_COLUMNS else None
    usable = tables is not None and len(tables.reference.columns)
    chosen, counted = compared_outputs(targets), after.targets
    live_targets = None if counted is None else output_columns(counted)
    if live_targets is not None and live_targets.shape != live_outputs.shape:
        live_targets = None
    names = output_names(validation, outputs.shape[1])
    found = estimated_error(
        outputs[:, chosen],
        targets[:, chosen],
        live_outputs[:, chosen],
        features=(tables.reference, tables.production) if tables is not None and usable else None,
        categorical=tables.categorical if tables is not None else (),
        live_targets=None if live_targets is None else live_targets[:, chosen],
        names=[names[j] for j in chosen],
    )
    return found, "inputs and predictions" if usable else "the predictions alone"

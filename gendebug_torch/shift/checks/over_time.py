"""`shift.over_time`: accuracy, or confidence, from the first to the last production row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError
from gendebug_torch.shift.checks._outputs import TIME_SUMS
from gendebug_torch.shift.scores.outputs import (
    compared_outputs,
    labeled_rows,
    output_columns,
    output_names,
)
from gendebug_torch.shift.time.change_point import (
    ChangePoint,
    change_point,
    change_point_of_sums,
)
from gendebug_torch.shift.time.time_sums import TimeSums, spread
from gendebug_torch.stats.intervals import p_value_text

# Change of a share, and of an error in standard deviations, that is a failure.
_FAIL_CHANGE = 0.15
_FAIL_DEVIATIONS = 1.0


def _cost(given: Mapping[str, Any]) -> Cost:
    production = given.get("production")
    return Cost(elements=30.0 * (0 if production is None else len(production)) + 1e6)


@check(
    "shift.over_time",
    cause=Cause.CONCEPT_DRIFT,
    needs=("production.logits",),
    cost=_cost,
    derived=(TIME_SUMS,),
    partial_labels=True,
)
def production_stays_the_same_over_time(
    production: Records,
    time_sums: TimeSums | None = None,
    *,
    alpha: float = 0.002,
    min_accuracy: float = 0.05,
    min_confidence: float = 0.05,
    min_error: float = 0.25,
) -> Iterator[Finding]:
    """Accuracy (confidence, where labels are unknown) keeps its level over all production rows.

    A change of the accuracy without one of the confidence is concept drift; where the confidence
    changes too, inputs did. Of a regression the error, its size and the prediction take their
    place; of several labels the accuracy of all and of each, and the mean confidence.

    Source: Ploberger and Krämer (1992), Econometrica 60:271; Carlstein (1986), Ann. Stat. 14:1171,
    for dependent rows.

    Args:
        production: records with logits and a time column, and with targets where known.
        time_sums: sums over windows of more rows than these, where they were counted, derived.
        alpha: chance of any false alarm over all series.
        min_accuracy: smallest change of the accuracy that matters.
        min_confidence: smallest change of the mean confidence that matters.
        min_error: smallest change of an error or a prediction that matters, in its standard
            deviations.
    """
    this = production_stays_the_same_over_time
    column, metadata = production.schema.time, production.metadata
    if column is None or metadata is None or column not in metadata:
        yield this.finding(
            Severity.NOTE, "Not judged: no time column; name it as `time` in the schema."
        )
        return
    least = min_accuracy, min_confidence, min_error
    if time_sums is not None:
        rows, undated = int(time_sums.rows.sum()) + time_sums.undated, time_sums.undated
        series = _summed_series(production, time_sums, *least)
    else:
        times = parse_times(metadata[column], column)
        order = times.order[: len(production) - times.missing]
        rows, undated = len(production), times.missing
        series = _series(production.select(order), metadata[column].iloc[order.numpy()], *least)
    if undated:
        text = f"{undated} of {rows} rows have no time and are left out."
        yield this.finding(Severity.NOTE, text, numbers={"without_time": undated})
    try:
        found = {s.name: s.change() for s in series}
    except InputError as error:
        yield this.finding(Severity.NOTE, f"Not judged: {error}", numbers={"m": rows})
        return
    changed = [
        s
        for s in series
        if found[s.name].p_value < alpha / len(series)
        and abs(found[s.name].change[0]) >= s.min_change
    ]
    if not changed:
        yield _clean_finding(found, len(series))
        return
    inputs = any(s.of_inputs for s in changed)
    cause = Cause.COVARIATE_SHIFT if inputs else Cause.CONCEPT_DRIFT
    # What labels say comes first, then the more significant change.
    named = min(changed, key=lambda s: (s.of_inputs, found[s.name].p_value))
    yield _change_finding(found[named.name], cause, named)


@dataclass(frozen=True, eq=False)
class _Series:
    """One series in the order of time.

    Args:
        name: name of the values.
        values: values of the rows that have one, `[r]` float64; sums of windows where `rows`.
        moments: time of each, `[r]`.
        min_change: smallest change of the mean that matters.
        fail_change: change of the mean from which it is a failure.
        of_inputs: whether it is known without labels.
        rows: numbers of rows of windows, `[r]`; None of single rows.
    """

    name: str
    values: Tensor
    moments: pd.Series[Any]
    min_change: float
    fail_change: float
    of_inputs: bool
    rows: Tensor | None = None

    def change(self) -> ChangePoint:
        """The most likely change of its mean."""
        if self.rows is None:
            return change_point(self.values, name=self.name)
        return change_point_of_sums(self.rows, self.values, name=self.name)

    def moment(self, row: int) -> Any:
        """Time of a row, or of the last one."""
        at = row
        if self.rows is not None:
            at = int((self.rows.cumsum(0) <= row).sum())
        return self.moments.iloc[min(at, len(self.moments) - 1)]


def _summed_series(
    production: Records,
    sums: TimeSums,
    min_accuracy: float,
    min_confidence: float,
    min_error: float,
) -> list[_Series]:
    """The same series as of rows, of sums over windows."""
    labeled = bool(sums.labeled.any())
    if production.task is not Task.REGRESSION:
        series = [
            _summed("confidence", sums.level, sums, min_confidence, _FAIL_CHANGE, inputs=True)
        ]
        if labeled:
            series.append(_summed("accuracy", sums.correct, sums, min_accuracy, _FAIL_CHANGE))
        return series
    (output,) = output_names(production, 1)
    deviation = spread(sums.squared_level, sums.level, sums.rows)
    limits = min_error * deviation, _FAIL_DEVIATIONS * deviation
    series = [_summed(f"prediction of {output}", sums.level, sums, *limits, inputs=True)]
    parts = {f"error of {output}": sums.error, f"size of the error of {output}": sums.size}
    for name, values in parts.items() if labeled else ():
        deviation = spread(sums.squared_error, values, sums.labeled)
        limits = min_error * deviation, _FAIL_DEVIATIONS * deviation
        series.append(_summed(name, values, sums, *limits))
    return series


def _summed(
    name: str, values: Tensor, sums: TimeSums, least: float, fail: float, *, inputs: bool = False
) -> _Series:
    """A series of sums over the windows that hold rows, or labeled rows."""
    rows = sums.rows if inputs else sums.labeled
    held = rows > 0
    moments = sums.starts[held.numpy()]
    return _Series(name, values[held], moments, least, fail, of_inputs=inputs, rows=rows[held])


def _series(
    production: Records,
    moments: pd.Series[Any],
    min_accuracy: float,
    min_confidence: float,
    min_error: float,
) -> list[_Series]:
    """What is followed over time: right answers or errors, and confidence or predictions.

    Args:
        production: records in the order of time.
        moments: their times, `[n]`.
        min_accuracy: smallest change of the accuracy that matters.
        min_confidence: smallest change of the mean confidence that matters.
        min_error: smallest change of an error or a prediction, in standard deviations.
    """
    if production.task is Task.REGRESSION:
        return _error_series(production, moments, min_error)
    confidence = production.confidence.cpu()
    confidence = confidence.mean(1) if confidence.ndim == 2 else confidence
    series = [
        _Series("confidence", confidence, moments, min_confidence, _FAIL_CHANGE, of_inputs=True)
    ]
    targets = production.targets
    if targets is None or targets.shape != production.predicted.shape:
        return series
    right, present = production.correct.double().cpu(), labeled_rows(targets).cpu()
    answers = [("accuracy", right, present)]
    if right.ndim == 2:
        names = output_names(production, right.shape[1])
        known = right * present
        answers = [
            ("accuracy", known.sum(1) / present.sum(1).clamp(min=1), present.any(1)),
            *(
                (f"accuracy of {names[j]}", known[:, j], present[:, j])
                for j in compared_outputs(targets.cpu())
            ),
        ]
    for name, values, labeled in answers:
        if bool(labeled.any()):
            limits = min_accuracy, _FAIL_CHANGE
            times = moments[labeled.numpy()]
            series.append(_Series(name, values[labeled], times, *limits, of_inputs=False))
    return series


def _error_series(production: Records, moments: pd.Series[Any], min_error: float) -> list[_Series]:
    """Of a regression: the prediction, the error and its size, of each output."""
    assert production.logits is not None
    outputs = output_columns(production.logits).double()
    names = output_names(production, outputs.shape[1])
    series: list[_Series] = []

    def add(name: str, values: Tensor, times: pd.Series[Any], *, of_inputs: bool) -> None:
        deviation = float(values.std(correction=0))
        limits = min_error * deviation, _FAIL_DEVIATIONS * deviation
        series.append(_Series(name, values, times, *limits, of_inputs=of_inputs))

    targets = production.targets
    labels = None if targets is None else output_columns(targets).double()
    chosen = compared_outputs(outputs if labels is None else labels)
    for j in chosen:
        add(f"prediction of {names[j]}", outputs[:, j], moments, of_inputs=True)
        if labels is None or labels.shape != outputs.shape:
            continue
        labeled = labeled_rows(labels[:, j])
        if bool(labeled.any()):
            error, times = labels[labeled, j] - outputs[labeled, j], moments[labeled.cpu().numpy()]
            add(f"error of {names[j]}", error, times, of_inputs=False)
            add(f"size of the error of {names[j]}", error.abs(), times, of_inputs=False)
    return series


def _clean_finding(found: dict[str, ChangePoint], count: int) -> Finding:
    shown = sorted(found.items(), key=lambda entry: entry[1].p_value)[:3]
    parts = [
        f"{name} {change.before[0]:.3g} → {change.after[0]:.3g} ({p_value_text(change.p_value)})"
        for name, change in (shown if count > 3 else found.items())
    ]
    return production_stays_the_same_over_time.finding(
        Severity.OK,
        f"No change within production: {', '.join(parts)}.",
        numbers={f"{name}_p_value": change.p_value for name, change in found.items()},
        evidence=found.get("accuracy", next(iter(found.values()))),
    )


def _change_finding(change: ChangePoint, cause: Cause, series: _Series) -> Finding:
    difference, error = change.change
    moment = str(series.moment(change.row))
    numbers: dict[str, Any] = {"row": change.row, "low": change.low, "high": change.high}
    numbers |= {"change": difference, "standard_error": error, "p_value": change.p_value}
    numbers |= {"before": change.before[0], "after": change.after[0]}
    numbers |= {"sudden": change.sudden, "moment": moment}
    how = {True: "changed suddenly", False: "changed gradually", None: "changed"}[change.sudden]
    name = change.name[:1].upper() + change.name[1:]
    text = (
        f"{name} {how} within production, {change.before[0]:.3g} → "
        f"{change.after[0]:.3g} ({difference:+.3g} ± {1.96 * error:.2g}, "
        f"{p_value_text(change.p_value)}), from {moment} on (95 % interval "
        f"{series.moment(change.low)} to {series.moment(change.high)})"
    )
    suspect = (
        "what grows or fades since then"
        if change.sudden is False
        else "what was released, switched or renamed then"
    )
    return production_stays_the_same_over_time.finding(
        Severity.FAIL if abs(difference) >= series.fail_change else Severity.WARN,
        f"{text}.",
        cause=cause,
        numbers=numbers,
        remedy=(
            f"Look for {suspect}; compare rows before and after that moment feature by feature "
            "(gendebug shift)."
        ),
        evidence=change,
    )

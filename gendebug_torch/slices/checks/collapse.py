"""Check `slices.collapse`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import SHARE_OF_RISE, Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.slices.checks._rounds import SLICE_COUNTS, changes_in_turn, relevant
from gendebug_torch.slices.checks._slicing import (
    PREDICTED,
    TRUE,
    cap_note,
    class_names,
    class_outputs,
    nothing_to_slice,
    row_losses,
    slicing_columns,
    slicing_cost,
    with_classes,
)
from gendebug_torch.slices.confusion import confusion_change, precision_sums
from gendebug_torch.slices.levels.binning import Binning, Level, fit_binnings, level_codes
from gendebug_torch.slices.levels.slice_counts import SliceCounts
from gendebug_torch.slices.search.change import sums_change
from gendebug_torch.slices.search.change_result import SliceChange
from gendebug_torch.slices.search.error_events import errors_by_class
from gendebug_torch.slices.statistics.groups import dependence

_NEEDS = ("validation.logits", "validation.targets", "production.logits", "production.targets")
_OUTPUT = ("output", "label")
# Rows that may have an error, and that have it, by kind of error.
Events: TypeAlias = dict[str, tuple[Tensor, Tensor]]
_REMEDY = (
    "Look at production rows where {name}: what is new about them? Route them elsewhere until the "
    "model is retrained with such rows."
)


@check(
    "slices.collapse",
    cause=Cause.SUBGROUP_FAILURE,
    needs=_NEEDS,
    cost=slicing_cost,
    derived=(SLICE_COUNTS,),
    partial_labels=True,
)
def no_slice_collapsed(
    validation: Records,
    production: Records,
    slice_counts: SliceCounts | None = None,
    deadline: Deadline = NO_DEADLINE,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_change: float = 0.1,
    min_factor: float = 1.5,
    limit: int = 5,
) -> Iterator[Finding]:
    """No subgroup, class or label became much worse in production while the whole hardly changed.

    For every one- and two-way slice the change of its error rate, and for two classes of its
    false negative and false positive rates, is compared with the change outside the slice, on the
    scale of log odds; where much of the rise is left, again among the rows outside what was named,
    so that one collapse does not hide another. Of three and more classes the true class is among
    the columns, and so is the predicted class, against the validation rows weighted to the classes
    of production. Of quantities the mean absolute error, and of several labels the mean log loss,
    is compared by its factor, also for each output alone.

    Source: Breslow and Day (1980), Statistical Methods in Cancer Research 1, section 4.4, for the
    homogeneity of odds ratios; Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        validation: labeled records with logits.
        production: labeled records with logits.
        slice_counts: sums of slices over more rows than these, where they were counted, derived.
        deadline: end of the time.
        threshold: threshold on the probability of a binary model.
        alpha: false discovery rate over all slices and kinds of error.
        min_change: smallest rise of the rate, beyond that of all rows, that matters.
        min_factor: of losses, smallest factor of the rise, beyond that of all other rows.
        limit: most slices to report; slices with half of the rows are no subgroups.
    """
    least = min_change, min_factor
    if slice_counts is not None and slice_counts.threshold != threshold:
        slice_counts = None
    changes = _changes(validation, production, slice_counts, threshold, alpha, least, deadline)
    if not changes:
        yield nothing_to_slice(no_slice_collapsed)
        return
    risen: dict[str, list[tuple[SliceChange, int]]] = {}
    for change in changes:
        for i in relevant(change, *least):
            risen.setdefault(change.names[i], []).append((change, i))
    for cases in risen.values():
        cases.sort(key=lambda case: float(case[0].log_p[case[1]]))
    worst_first = sorted(risen.values(), key=lambda cases: float(cases[0][0].log_p[cases[0][1]]))
    k = 0 if validation.logits is None or validation.logits.ndim < 2 else validation.logits.shape[1]
    classes = {
        name: i
        for column in (TRUE, PREDICTED)
        for i, name in _class_levels(validation, k, column).items()
    }
    for cases in worst_first[:limit]:
        change, i = cases[0]
        if not change.is_count:
            yield _risen_loss(change, i, min_factor)
        elif change.names[i] in classes:
            class_id = classes[change.names[i]]
            yield _fallen_class(cases, min_change, class_id, validation, production)
        else:
            yield _collapsed_slice(cases, min_change)
    if not risen:
        yield _nothing_risen(changes, cap_note(changes[0].levels, validation, production))


def _changes(
    validation: Records,
    production: Records,
    counts: SliceCounts | None,
    threshold: float,
    alpha: float,
    least: tuple[float, float],
    deadline: Deadline,
) -> list[SliceChange]:
    """The changes of each kind of error per slice; empty without columns or fitting labels."""
    outputs, live_outputs = class_outputs(validation), class_outputs(production)
    columns = [slicing_columns(side) for side in (validation, production)]
    if any(part is None for part in columns):
        columns = [None, None]
    if outputs is None or live_outputs is None:
        return _loss_changes(validation, production, columns, counts, alpha, least)
    errors = errors_by_class(*outputs, threshold=threshold)
    live_errors = errors_by_class(*live_outputs, threshold=threshold)
    if len(errors) > 1 or len(live_errors) > 1:
        if columns[0] is None or columns[1] is None:
            return []
        binnings = _levels_of(columns[0], validation, counts)
        frames = [columns[0], columns[1]]
        events = errors, live_errors
        sides = validation, production
        return _error_changes(frames, binnings, events, sides, counts, alpha, least, deadline)
    sides, events = (validation, production), (errors, live_errors)
    both = outputs, live_outputs
    return _class_changes(sides, columns, both, events, counts, alpha, least, deadline)


def _levels_of(
    frame: pd.DataFrame, validation: Records, counts: SliceCounts | None
) -> tuple[Binning, ...]:
    """The levels by which slices were counted, or those of these columns."""
    if counts is not None:
        return counts.binnings
    return fit_binnings(frame, categorical=validation.schema.categorical)


def _counted(counts: SliceCounts | None, name: str) -> Tensor | None:
    """Sums of one kind of error by pair of levels, if they were counted."""
    return None if counts is None else counts.sums.get(name)


def _class_changes(
    sides: tuple[Records, Records],
    columns: Sequence[pd.DataFrame | None],
    outputs: Sequence[tuple[Tensor, Tensor]],
    events: tuple[Events, Events],
    counts: SliceCounts | None,
    alpha: float,
    least: tuple[float, float],
    deadline: Deadline,
) -> list[SliceChange]:
    """The changes per slice and true class, and then of predicted classes among the other rows."""
    targets = [true.cpu() for _, true in outputs]
    predicted = [logits.argmax(1).cpu() for logits, _ in outputs]
    coded = [
        with_classes(part, true, TRUE, sides[0])
        for part, true in zip(columns, targets, strict=True)
    ]
    frames = [frame for frame, _ in coded]
    binnings = coded[0][1] if counts is None else counts.binnings
    found = _error_changes(frames, binnings, events, sides, counts, alpha / 2, least, deadline)
    named = {name for change in found for name in change.names}
    k = max(logits.shape[1] for logits, _ in outputs)
    levels = _class_levels(sides[0], k, TRUE).items()
    fallen = torch.tensor([i for i, level in levels if level in named], dtype=torch.int64)
    kept = [~torch.isin(true, fallen) for true in targets]
    rest = [(p[rows], t[rows]) for p, t, rows in zip(predicted, targets, kept, strict=True)]
    sums = precision_sums(rest[0], rest[1], k)
    names = list(_class_levels(sides[0], k, PREDICTED).values())
    return [*found, sums_change(names, *sums, alpha=alpha / 2, name="error", is_count=True)]


def _error_changes(
    frames: list[pd.DataFrame],
    binnings: Sequence[Binning],
    errors: tuple[Events, Events],
    records: tuple[Records, Records],
    counts: SliceCounts | None,
    alpha: float,
    least: tuple[float, float],
    deadline: Deadline,
) -> list[SliceChange]:
    """The changes of each kind of error over columns that are coded once."""
    levels = tuple(level for binning in binnings for level in binning.levels)
    codes = [level_codes(frame, binnings)[1] for frame in frames]
    names = [name for name in errors[0] if name in errors[1]]
    changes: list[SliceChange] = []
    for name in names:
        deadline.check()
        sides = (errors[0][name], errors[1][name])
        parts = [part[rows] for part, (rows, _) in zip(codes, sides, strict=True)]
        metrics = [error[rows] for rows, error in sides]
        how: dict[str, Any] = {"alpha": alpha / len(names), "name": name}
        how["together"] = [
            dependence(side, metric.double() - metric.double().mean(), rows.nonzero()[:, 0])
            for side, metric, (rows, _) in zip(records, metrics, sides, strict=True)
        ]
        changes += changes_in_turn(levels, parts, metrics, least, _counted(counts, name), **how)
    return changes


def _loss_changes(
    validation: Records,
    production: Records,
    columns: Sequence[pd.DataFrame | None],
    counts: SliceCounts | None,
    alpha: float,
    least: tuple[float, float],
) -> list[SliceChange]:
    """The changes of the mean loss per slice, and of each output."""
    losses = row_losses(validation)
    later = None if losses is None else row_losses(production, losses.spread)
    if losses is None or later is None or losses.losses.shape[1] != later.losses.shape[1]:
        return []
    before, after = columns
    changes: list[SliceChange] = []
    if before is not None and after is not None:
        binnings = _levels_of(before, validation, counts)
        levels = tuple(level for binning in binnings for level in binning.levels)
        frames = before.iloc[losses.rows.numpy()], after.iloc[later.rows.numpy()]
        codes = [level_codes(part, binnings)[1] for part in frames]
        means = [losses.mean.double(), later.mean.double()]
        counted = _counted(counts, losses.name)
        together = [
            dependence(side, mean - mean.mean(), part.rows)
            for side, mean, part in zip(
                (validation, production), means, (losses, later), strict=True
            )
        ]
        changes += changes_in_turn(
            levels, codes, means, least, counted, together, alpha=alpha / 2, name=losses.name
        )
    k = losses.losses.shape[1]
    if k > 1:
        names = list(_class_levels(validation, k, _OUTPUT[losses.residuals is None]).values())
        options: dict[str, Any] = {"name": losses.name, "is_count": False, "of_rows": False}
        changes.append(sums_change(names, losses.sums, later.sums, alpha=alpha / 2, **options))
    return changes


def _class_levels(records: Records, k: int, column: str) -> dict[int, str]:
    """Name of the slice of each class, label or output, by its number."""
    names = class_names(records, torch.arange(k))
    return {i: str(Level(column, name)) for i, name in enumerate(names)}


def _numbers(change: SliceChange, i: int) -> dict[str, Any]:
    (before, after), (low, high) = change.rates[:, i].tolist(), change.interval()
    return {
        "event": change.name,
        "rate_validation": before,
        "rate_production": after,
        "change": after - before,
        "interval_validation": [float(low[0, i]), float(high[0, i])],
        "interval_production": [float(low[1, i]), float(high[1, i])],
        "change_overall": change.overall_change,
        SHARE_OF_RISE: float(change.share_of_rise[i]),
        "support": int(change.after[i, 0]),
        "adjusted_p_value": float(change.adjusted[i]),
        "tests": change.tests,
    }


def _key(change: SliceChange) -> str:
    return change.name.replace(" ", "_")


def _collapsed_slice(cases: list[tuple[SliceChange, int]], min_change: float) -> Finding:
    """One finding for all kinds of error that rose in a slice, the most significant first."""
    change, i = cases[0]
    numbers, name = _numbers(change, i), change.names[i]
    before, after = numbers["rate_validation"], numbers["rate_production"]
    low, high = numbers["interval_production"]
    numbers |= {f"{_key(other)}_change": float(other.change[j]) for other, j in cases}
    return no_slice_collapsed.finding(
        Severity.FAIL if low - before >= min_change else Severity.WARN,
        f"Where {name}, the {change.name} rate rose from {before:.1%} in validation to "
        f"{after:.1%} in production (95 % interval {low:.1%} to {high:.1%}; "
        f"{numbers['support']:,} rows). Over {change.population} it changed by "
        f"{change.overall_change:+.1%}.",
        subject=name,
        numbers=numbers,
        remedy=_REMEDY.format(name=name),
        evidence=change,
    )


def _fallen_class(
    cases: list[tuple[SliceChange, int]],
    min_change: float,
    class_id: int,
    validation: Records,
    production: Records,
) -> Finding:
    """The finding for a class that is recognized, or rightly predicted, much less often."""
    change, i = cases[0]
    numbers, subject = _numbers(change, i), change.names[i]
    is_true = subject.startswith(f"{TRUE} = ")
    sides = validation, production
    k = max(side.logits.shape[1] for side in sides if side.logits is not None)
    names = class_names(validation, torch.arange(k))
    pairs = [(s.predicted.cpu(), s.targets.cpu()) for s in sides if s.targets is not None]
    confusion = confusion_change(pairs[0], pairs[1], names, class_id if is_true else None)
    other, share = confusion.confused(class_id, 0 if is_true else 1)
    low, high = (1 - bound for bound in reversed(numbers["interval_production"]))
    right = [1 - numbers[f"rate_{side}"] for side in ("validation", "production")]
    numbers |= {"class": names[class_id], "confused_with": names[other], "confused_share": share}
    name = names[class_id]
    text = (
        f"Class {name} fell: {right[1]:.0%} of it is recognized in production (95 % interval "
        f"{low:.0%} to {high:.0%}; {numbers['support']:,} rows), {right[0]:.0%} in validation. "
        f"{share:.0%} of it is now called {names[other]}."
    )
    if not is_true:
        text = (
            f"Predictions of class {name} fell: {right[1]:.0%} of them are right in production "
            f"(95 % interval {low:.0%} to {high:.0%}; {numbers['support']:,} rows), where "
            f"{right[0]:.0%} were to be expected with its class shares. {share:.0%} of them are "
            f"{names[other]}."
        )
    drop = numbers["interval_production"][0] - numbers["rate_validation"]
    return no_slice_collapsed.finding(
        Severity.FAIL if drop >= min_change else Severity.WARN,
        f"{text} Over {change.population} the error rate changed by {change.overall_change:+.1%}.",
        subject=subject,
        numbers=numbers,
        remedy=_REMEDY.format(name=subject),
        evidence=confusion,
    )


def _risen_loss(change: SliceChange, i: int, min_factor: float) -> Finding:
    """The finding for a slice, or an output, whose loss rose."""
    numbers, name = _numbers(change, i), change.names[i]
    before, after = numbers["rate_validation"], numbers["rate_production"]
    low, high = numbers["interval_production"]
    usual, now = (change.total[:, 1] / change.total[:, 0].clamp(min=1)).tolist()
    numbers |= {"factor": float(change.factor[i])}
    return no_slice_collapsed.finding(
        Severity.FAIL if low >= min_factor * before else Severity.WARN,
        f"Where {name}, the {change.name} rose from {before:.3g} in validation to {after:.3g} in "
        f"production (95 % interval {low:.3g} to {high:.3g}; {numbers['support']:,} rows). Over "
        f"{change.population} it went from {usual:.3g} to {now:.3g}.",
        subject=name,
        numbers=numbers,
        remedy=_REMEDY.format(name=name),
        evidence=change,
    )


def _nothing_risen(changes: list[SliceChange], note: str) -> Finding:
    texts: list[str] = []
    numbers: dict[str, Any] = {}
    for change in {change.name: change for change in reversed(changes)}.values():
        number = f"{change.overall_change:{'+.1%' if change.is_count else '+.3g'}}"
        texts.insert(0, f"{change.name}{' rate' if change.is_count else ''} {number}")
        numbers[f"{_key(change)}_change"] = change.overall_change
    text = "No slice became worse in production beyond the change of all rows"
    return no_slice_collapsed.finding(
        Severity.OK, f"{text} ({', '.join(texts)}).{note}", numbers=numbers
    )

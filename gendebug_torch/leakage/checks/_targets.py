"""One target at a time: each of several labels or quantities of a row is judged by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.leakage.columns.association import unsuitable_targets

_MAX_TARGETS = 20

Judge = Callable[[Sequence[Records | None], int | None], Iterator[Finding]]


def by_target(judge: Judge, *parts: Records | None) -> Iterator[Finding]:
    """Findings on each target of the labeled rows; the quiet ones of several targets as one.

    Of more than 20 labels those with the most rows of both answers are judged, and the finding says
    so. Rows without a label are left out label by label.

    Args:
        judge: function of records with one target `[n]`, labeled, and of the position of the target
            (None where there is only one) to findings.
        parts: records, the first with targets; None is passed on.
    """
    targets = parts[0].targets if parts[0] is not None else None
    assert targets is not None
    if targets.ndim == 1:
        yield from judge([None if part is None else part.labeled() for part in parts], None)
        return
    quiet: list[tuple[str, Finding]] = []
    judged, order = 0, target_order(targets)
    for j in order:
        single = [None if part is None else one_target(part, j) for part in parts]
        first = single[0]
        assert first is not None
        assert first.targets is not None
        if unsuitable_targets(first.targets) and (judged or j != order[-1]):
            continue
        judged += 1
        name = target_name(parts[0], j)
        for finding in judge(single, j):
            numbered = replace(finding, numbers=dict(finding.numbers) | {"target": j})
            if finding.severity.level >= Severity.WARN.level:
                yield replace(numbered, summary=f"{name}: {finding.summary}")
            else:
                quiet.append((name, numbered))
    yield from _strongest(quiet, judged, targets.shape[1])


def target_name(records: Records | None, j: int) -> str:
    """Name of one of several targets at the start of a sentence.

    Args:
        records: records with k targets.
        j: position of the target.
    """
    assert records is not None
    if records.task is Task.REGRESSION:
        return f"Output {j}"
    classes = records.schema.classes
    return f"Label {classes[j] if j < len(classes) else j}"


def one_target(records: Records, j: int) -> Records:
    """The rows that have one of k targets, with this target and this output of the model alone.

    Args:
        records: records with targets `[n, k]`; without targets of that shape none are left.
        j: position of the target.
    """
    targets, logits = records.targets, records.logits
    quantity = records.task is Task.REGRESSION
    schema = replace(records.schema, multilabel=False, classes=(), regression=quantity)
    task = Task.REGRESSION if quantity else Task.BINARY
    if targets is None or targets.ndim == 1 or j >= targets.shape[1]:
        return replace(records, targets=None, logits=None, schema=schema, task=task)
    own = logits[:, j] if logits is not None and logits.ndim == 2 else None
    single = replace(records, targets=targets[:, j], logits=own, schema=schema, task=task)
    return single.labeled()


def target_order(targets: Tensor) -> list[int]:
    """Positions of at most 20 targets, those with most rows of the rarer answer first.

    Args:
        targets: answers or quantities, `[n, k]`.
    """
    if targets.is_floating_point():
        rows = (~targets.isnan()).sum(0)
    else:
        rows = torch.minimum((targets == 1).sum(0), (targets == 0).sum(0))
    return [int(j) for j in rows.argsort(descending=True, stable=True)[:_MAX_TARGETS]]


def _strongest(quiet: Sequence[tuple[str, Finding]], judged: int, count: int) -> Iterator[Finding]:
    """Of the findings of each subject the one that says most, and how many targets were judged."""
    subjects: dict[str, list[tuple[str, Finding]]] = {}
    for name, finding in quiet:
        subjects.setdefault(finding.subject, []).append((name, finding))
    for found in subjects.values():
        name, finding = max(found, key=lambda pair: _weight(pair[1]))
        of = f"{judged} of {count}" if judged < count else str(count)
        text = f"{name}, the strongest of {of}: {finding.summary}"
        if len({other.summary for _, other in found}) == 1:
            text = finding.summary if judged == count else f"{finding.summary} Judged: {of} labels."
        numbers = dict(finding.numbers) | {"targets": count, "targets_judged": judged}
        yield replace(finding, summary=text, numbers=numbers)


def _weight(finding: Finding) -> tuple[int, float]:
    share = finding.numbers.get("explained", finding.numbers.get("largest_correlation", 0.0))
    return finding.severity.level, float(share)

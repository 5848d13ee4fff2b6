"""What `shift.joint` says about the embedding of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.errors import InputError
from gendebug_torch.shift.embeddings.embedding_shift import EmbeddingShift, embedding_shift
from gendebug_torch.stats.intervals import p_value_text

_SHOWN = 5
_CLASSES = (Task.BINARY, Task.MULTICLASS)


def embedding_findings(
    this: Check,
    production: Records,
    reference: Records,
    *,
    block: int,
    alpha: float,
    min_auc: float,
    fail_auc: float,
) -> Iterator[Finding]:
    """Whether what the network makes of its inputs is as before; nothing without embeddings.

    Args:
        this: check that makes the finding.
        production: records that may have an embedding.
        reference: records that may have an embedding.
        block: rows in time that belong together.
        alpha: chance of a false alarm.
        min_auc: smallest AUC that matters.
        fail_auc: AUC from which it fails.
    """
    before, after = reference.embedding, production.embedding
    if before is None or after is None:
        return
    if before.shape[1] != after.shape[1]:
        widths = f"{before.shape[1]} numbers a row before, {after.shape[1]} now"
        text = f"Embedding not judged: {widths}."
        yield this.finding(Severity.NOTE, text, subject="embedding")
        return
    try:
        shift = embedding_shift(before, after, classes=_classes(reference, production), block=block)
    except InputError as error:
        text = f"Embedding not judged: {error}"
        yield this.finding(Severity.NOTE, text, subject="embedding")
        return
    differs = shift.p_value < alpha and shift.auc >= min_auc
    yield _finding(this, shift, differs, fail=shift.auc >= fail_auc)


def _classes(reference: Records, production: Records) -> tuple[Tensor, Tensor] | None:
    """Class ids of both sides, where every row has one."""
    for records in (reference, production):
        targets = records.targets
        if targets is None or targets.ndim != 1 or records.task not in _CLASSES:
            return None
        if bool(missing_labels(targets).any()):
            return None
    assert reference.targets is not None
    assert production.targets is not None
    return reference.targets, production.targets


def _finding(this: Check, shift: EmbeddingShift, differs: bool, *, fail: bool) -> Finding:
    rows = {
        "production_rows": shift.telling_rows(),
        "reference_rows": shift.telling_rows(production=False),
    }
    numbers: dict[str, Any] = {"auc": shift.auc, "low": shift.low, "high": shift.high}
    numbers |= {"p_value": shift.p_value, "width": shift.width, "components": shift.components}
    text = (
        f"AUC {shift.auc:.3f} ({shift.low:.3f} to {shift.high:.3f}, "
        f"{p_value_text(shift.p_value)}) over {shift.components} directions of {shift.width}"
    )
    if not differs:
        summary = f"The network's embedding is as before: a classifier reaches {text}."
        return this.finding(Severity.OK, summary, numbers=numbers, evidence=shift)
    listed = ", ".join(map(str, rows["production_rows"][:_SHOWN]))
    summary = (
        "The network's embedding of production differs: a classifier distinguishes it from the "
        f"reference, {text}. Production rows {listed} are least like the reference."
    )
    return this.finding(
        Severity.FAIL if fail else Severity.WARN,
        summary,
        cause=Cause.COVARIATE_SHIFT,
        subject="embedding",
        numbers=numbers | rows,
        remedy="Look at these rows beside those of the reference; if the change is real and "
        "lasting, label such rows and retrain.",
        evidence=shift,
    )

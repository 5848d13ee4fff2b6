"""Logits of the records of a diagnosis, computed once for all checks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from gendebug_torch.checks.finding import Finding
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.diagnosis.budget import Speed
from gendebug_torch.diagnosis.preparation.model_probe import PROBED_ROWS, model_findings
from gendebug_torch.diagnosis.preparation.steps import attempt
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.model.collection.collect import collect


def with_logits(
    findings: list[Finding],
    given: Mapping[str, Any],
    limit: float | None,
    speed: Speed | None,
    device: str | torch.device,
    progress: bool,
) -> dict[str, Records]:
    """Records with the model's logits and embedding, as far as half of the budget allows.

    The model is probed before, where that takes a hundredth of the budget at most.
    """
    model, left = given["model"], None if limit is None else limit / 2
    cheap = limit is None or (
        speed is not None and 100 * speed.seconds(Cost(forwards=PROBED_ROWS)) <= limit
    )
    if model is not None and cheap:
        probe = partial(model_findings, given, device)
        findings += attempt(findings, "diagnose.model", lambda: list(probe())) or []
    filled: dict[str, Records] = {}
    for name in ("validation", "production", "train"):
        records = given[name]
        if model is None or records is None or not _has_open_outputs(records):
            continue
        if left is not None and speed is not None:
            left -= speed.seconds(Cost(forwards=len(records)))
            if left < 0:
                continue
        run = partial(collect, model, records, device=device, progress=progress)
        collected = attempt(findings, f"diagnose.{name}_logits", run)
        if collected is not None:
            filled[name] = collected
    return filled


def _has_open_outputs(records: Records) -> bool:
    """Whether the model can be asked for logits, or for the embedding of what is no table."""
    if records.features is None or not len(records):
        return False
    described = modality_of(records.features, records.modality) is not None
    return records.logits is None or (described and records.embedding is None)

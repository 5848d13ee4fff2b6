"""Logits of the records of a diagnosis, computed once for all checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gendebug_torch.checks.finding import Finding
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.diagnosis.budget import Speed
from gendebug_torch.diagnosis.preparation.model_probe import PROBED_ROWS, model_findings
from gendebug_torch.diagnosis.preparation.steps import attempt
from gendebug_torch.errors import Deadline
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.model.collection.collect import collect


def with_logits(
    findings: list[Finding],
    given: Mapping[str, Any],
    deadline: Deadline,
    speed: Speed | None,
    device: str | torch.device,
    progress: bool,
) -> dict[str, Records]:
    """Records with the model's logits and embedding, as far as half of the time left allows.

    The model is probed before, where that takes a hundredth of the time at most.
    """
    model, left = given["model"], deadline.left / 2
    cheap = left == math.inf or (
        speed is not None and 50 * speed.seconds(Cost(forwards=PROBED_ROWS)) <= left
    )
    if model is not None and cheap:
        probe = partial(model_findings, given, device)
        findings += attempt(findings, "diagnose.model", lambda: list(probe())) or []
    filled: dict[str, Records] = {}
    for name in ("validation", "production", "train"):
        records = given[name]
        if model is None or records is None or not _has_open_outputs(records, model):
            continue
        if speed is not None:
            left -= speed.seconds(Cost(forwards=len(records)))
            if left < 0:
                continue
        run = partial(collect, model, records, device=device, progress=progress)
        collected = attempt(findings, f"diagnose.{name}_logits", run)
        if collected is not None:
            filled[name] = _kept_logits(records, collected)
    return filled


def _has_open_outputs(records: Records, model: Any) -> bool:
    """Whether the model can be asked for logits, or for the embedding of what is no table."""
    if records.features is None or not len(records):
        return False
    is_network = isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule)
    described = modality_of(records.features, records.modality) is not None
    lacks_embedding = records.embedding is None and records.task is not Task.DENSE
    return records.logits is None or (is_network and described and lacks_embedding)


def _kept_logits(records: Records, collected: Records) -> Records:
    """The collected views beside the logits that the records had, if they had some."""
    if records.logits is None:
        return collected
    views = {name: getattr(collected, name) for name in ("properties", "embedding", "keys")}
    return replace(records, **views)

"""Dense outputs, of which some positions of each row are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import IGNORED, dense_outputs, row_keys, sampled_positions
from gendebug_torch.model.batches import leaves

# Logits of a dense output that are kept per row.
_ROW_LOGITS = 2**14


def sampled_outputs(
    logits: Tensor, inputs: Any, targets: Tensor | None, positions: int
) -> dict[str, Tensor]:
    """Some positions of dense outputs, the same whatever batch a row comes in."""
    flat, labels = dense_outputs(logits, targets, Schema(), "loader")
    assert flat is not None
    keys = sum(
        (row_keys(part) for part in leaves(inputs) if len(part) == len(flat)),
        torch.zeros(len(flat), dtype=torch.int64, device=flat.device),
    )
    most = max(1, min(positions, _ROW_LOGITS // flat.shape[1]))
    return sampled_positions(flat, labels, keys, most)


def trimmed_outputs(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sampled positions without those that no row has; a row with fewer has missing labels there.

    Without labels a row with fewer positions repeats its own.
    """
    logits, targets, valid = rows["logits"], rows.get("targets"), rows["valid"]
    counts = valid.sum(1).clamp(min=1)
    width = int(counts.max())
    at = torch.arange(width) % counts[:, None]
    trimmed = {"logits": logits.gather(2, at[:, None].expand(-1, logits.shape[1], -1))}
    if targets is not None:
        missing = torch.nan if targets.is_floating_point() else IGNORED
        trimmed["targets"] = targets[:, :width].masked_fill(~valid[:, :width], missing)
    return trimmed

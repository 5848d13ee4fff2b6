"""What records hold, as a short table for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from gendebug_torch.data.task import missing_labels

if TYPE_CHECKING:
    from gendebug_torch.data.records import Records

# Columns, classes and characters of one cell that are listed.
_LISTED, _LETTERS = 8, 300


def records_html(records: Records) -> str:
    """Rows, task, modality, targets, columns and source of records, as an HTML table.

    Args:
        records: records of any kind.
    """
    parts = {
        "rows": f"{len(records):,}",
        "task": records.task or "",
        "modality": records.modality or "",
        "targets": _targets_text(records),
        "logits": _part_text(records.logits),
        "features": _part_text(records.features),
        "properties": _part_text(records.properties),
        "embedding": _part_text(records.embedding),
        "metadata": _part_text(records.metadata),
        "inputs": "" if records.origin is None else "read again from the data set",
    }
    lines = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{escape(str(text)[:_LETTERS])}</td></tr>"
        for name, text in parts.items()
        if text
    )
    return f"<table><caption>{escape(records.name)}</caption><tbody>{lines}</tbody></table>"


def _targets_text(records: Records) -> str:
    """Counts of the classes, or the range of quantities, and how many rows lack a label."""
    targets = records.targets
    if targets is None:
        return ""
    known = targets[~missing_labels(targets)].cpu()
    text = f"{len(targets) - len(known):,} without a label" if len(known) < len(targets) else ""
    if targets.ndim > 1 or not len(known):
        said = f"{_part_text(targets)}"
    elif targets.is_floating_point():
        said = f"{float(known.min()):.4g} to {float(known.max()):.4g}, mean {known.mean():.4g}"
    else:
        ids, counts = torch.unique(known, return_counts=True)
        names = list(records.schema.classes) or list(range(int(ids.max()) + 1))
        pairs = zip(ids.tolist(), counts.tolist(), strict=True)
        said = _listed([f"{names[i]}: {count:,}" for i, count in pairs])
    return ", ".join(part for part in (said, text) if part)


def _part_text(part: Any) -> str:
    """Columns of a table with their number, shape and type of a tensor."""
    if part is None:
        return ""
    if isinstance(part, pd.DataFrame):
        return f"{part.shape[1]:,} columns: {_listed(list(map(str, part.columns)))}"
    shape = " x ".join(map(str, part.shape[1:])) or "one number"
    return f"{shape}, {str(part.dtype).removeprefix('torch.')}, {part.device.type}"


def _listed(names: list[str]) -> str:
    """The first names, and that there are more."""
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")

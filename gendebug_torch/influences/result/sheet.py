"""The named rows as an audit sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.sheets.audit_lines import audit_lines, class_name
from gendebug_torch.data.sheets.sheet_files import write_sheet
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd

    from gendebug_torch.influences.result.influences import Influences

BASIS = "influence"


def influence_sheet(influences: Influences, path: str | Path | None, size: int) -> pd.DataFrame:
    """Lines of an audit sheet; what is suggested is the true label of the most similar errors.

    Args:
        influences: what was found.
        path: file to write, .csv or .html; None writes nothing.
        size: rows of the sheet.

    Raises:
        InputError: a size below 1, or labels that are no classes.
    """
    labels = influences.labels
    if labels.ndim != 1 or labels.is_floating_point():
        remedy = "Use `table()` for several labels or quantities."
        reject("train", "labels that are classes", f"shape {list(labels.shape)}", remedy)
    if size < 1:
        reject("size", "at least 1", str(size), "A hundred rows can be reviewed in one sitting.")
    rows = influences.named[:size]
    train = influences.train
    names = train.schema.classes if isinstance(train, Records) else ()
    suggested = _likely_labels(influences, rows)
    sources = _sources(train)
    lines = [
        (
            row,
            class_name(int(labels[row]), names),
            class_name(int(other), names),
            float(influences.scores[row]),
            "" if sources is None else sources[row],
        )
        for row, other in zip(rows.tolist(), suggested.tolist(), strict=True)
    ]
    sheet = audit_lines(lines, BASIS)
    if path is not None:
        write_sheet(sheet, path, title=f"Training rows behind errors: {len(sheet)} to review")
    return sheet


def _sources(train: Any) -> list[Any] | None:
    """Who labeled each training row, where the schema says so."""
    if not isinstance(train, Records) or train.metadata is None or train.schema.source is None:
        return None
    return list(train.metadata[train.schema.source])


def _likely_labels(influences: Influences, rows: Tensor) -> Tensor:
    """`[m]` true label of the error that each row is nearest to; its own without true labels."""
    truth = influences.sides.errors.targets
    if truth is None:
        return influences.labels[rows]
    highest, similarity = influences.similarity
    places = {row: place for place, row in enumerate(highest.tolist())}
    nearest = similarity[[places[row] for row in rows.tolist()]].argmax(1)
    return truth.cpu()[nearest]

"""The lines of an audit sheet: rows whose labels a person judges, protected by checksums."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import pandas as pd

from gendebug_torch.data.files import without_controls

COLUMNS = ("position", "row", "given", "suggested", "score", "source", "basis", "key", "verdict")


def audit_lines(
    rows: Iterable[tuple[int, object, object, float, object]], basis: str
) -> pd.DataFrame:
    """Lines with an empty verdict, in the order of review.

    Args:
        rows: row number, given and suggested label, score, and source of the label or "".
        basis: what the score rests on.

    Example:
        >>> audit_lines([(7, "cat", "dog", 0.25, "")], "gradients")[["position", "row", "score"]]
          position row score
        0   1 of 1   7  0.25
    """
    listed = list(rows)
    lines = []
    for position, (row, given, suggested, score, source) in enumerate(listed, start=1):
        texts = [without_controls(str(value)) for value in (given, suggested, source)]
        line = [f"{position} of {len(listed)}", str(row), *texts[:2], f"{score:.4g}", texts[2]]
        line.append(basis)
        lines.append([*line, checksum(line), ""])
    return pd.DataFrame(lines, columns=list(COLUMNS))


def checksum(fields: Sequence[str]) -> str:
    """Checksum of a line up to the basis.

    The score enters by value, since spreadsheets write 0.05 for 0.050.
    """
    try:
        score = f"{float(fields[4]):.4g}"
    except ValueError:
        score = fields[4]
    return f"k{zlib.crc32('|'.join([*fields[:4], score, *fields[5:]]).encode()):08x}"


def class_name(label: int, names: Sequence[object]) -> str:
    """Name of a class, harmless to a terminal; the id of one without a name."""
    return without_controls(str(names[label])) if label < len(names) else str(label)

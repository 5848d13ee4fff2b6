"""Tables in files: CSV, packed or not, and Parquet."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gendebug_torch.data.files import check_expansion
from gendebug_torch.data.tables import standard_codes
from gendebug_torch.errors import reading, reject

# Before pandas 3.1 the last bit of a decimal in a CSV is off unless asked otherwise: rows would not
# equal those of Parquet.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"}
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    else {}
)


def read_table(path: str | Path, codes: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV or Parquet file as a DataFrame.

    Raises InputError with the file's name where it cannot be read.
    """
    source = Path(path)
    readers: dict[str, Callable[[Path, dict[str, type]], pd.DataFrame]] = {
        ".csv": _read_csv,
        ".gz": _read_packed_csv,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        reject(
            "path",
            "a .csv, .csv.gz or .parquet table",
            str(source),
            "Convert the table to one of them.",
        )
    with reading(source, "a readable table"):
        frame = reader(source, dict.fromkeys(codes, str))
        # Texts of Parquet are decoded when they are first read.
        columns = [column for column in codes if column in frame]
        return frame.assign(**{column: standard_codes(frame[column]) for column in columns})


def _read_csv(source: Path, text: dict[str, type]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_csv(source, dtype=text, **_EXACT)
    return frame


def _read_packed_csv(source: Path, text: dict[str, type]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_csv(_BoundedGzip(source), dtype=text, **_EXACT)
    return frame


def _read_parquet(source: Path, text: dict[str, type]) -> pd.DataFrame:
    from pyarrow import array, parquet

    footer = parquet.read_metadata(source)
    check_expansion(source, 8 * footer.num_rows * footer.num_columns)
    frame: pd.DataFrame = pd.read_parquet(source)
    for texts in (one for _, one in frame.items() if str(one.dtype) in ("str", "string")):
        array(texts, from_pandas=True).validate(full=True)  # They are decoded when they are used.
    return frame


class _BoundedGzip(gzip.GzipFile):
    """A packed file that is not read beyond what it may expand to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        return self._counted(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        """The next bytes at hand."""
        return self._counted(super().read1(size))

    def _counted(self, piece: bytes) -> bytes:
        # pandas asks for pieces; `tell` counts the bytes unpacked so far.
        check_expansion(self._path, self.tell())
        return piece

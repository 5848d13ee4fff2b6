"""Rows in whatever form they come, as Arrow tables of bounded size."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from gendebug_torch.errors import InputError, reading, reject
from gendebug_torch.model.batches import known_rows
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.sums.rows import intact
from gendebug_torch.shift.columns.chunks import csv_options

# Rows of a chunk: 20 MiB of 20 columns.
CHUNK_ROWS = 1 << 17
# Key of the metadata of a table under which the name of its file stands.
_FILE = b"gendebug.file"
# Bytes of a CSV by whose lines its rows are estimated.
_FIRST = 1 << 20


def tables_of(rows: Any, codes: tuple[str, ...] = ()) -> Iterator[Any]:
    """Rows as Arrow tables of at most `CHUNK_ROWS` rows.

    Args:
        rows: as `profile` takes them.
        codes: names of the columns of files that hold codes.

    Raises:
        InputError: no rows, or files that cannot be read.
    """
    import pyarrow as pa
    from pyarrow import dataset

    if isinstance(rows, (str, Path)):
        yield from _chunks_of_files(str(rows), codes)
    elif isinstance(rows, dataset.Dataset):
        yield from _gathered(rows.to_batches(batch_size=CHUNK_ROWS), rows.schema)
    elif isinstance(rows, pd.DataFrame):
        for at in range(0, max(len(rows), 1), CHUNK_ROWS):
            yield _from_pandas(rows.iloc[at : at + CHUNK_ROWS])
    elif isinstance(rows, pa.RecordBatch):
        yield pa.Table.from_batches([rows])
    elif isinstance(rows, pa.Table):
        for at in range(0, max(rows.num_rows, 1), CHUNK_ROWS):
            yield rows.slice(at, CHUNK_ROWS)
    elif isinstance(rows, pa.RecordBatchReader):
        yield from _gathered(rows, rows.schema)
    elif isinstance(rows, Iterable) and not isinstance(rows, (Tensor, np.ndarray, dict)):
        for part in rows:
            yield from tables_of(part, codes)
    else:
        remedy = "Pass e.g. a DataFrame, or the path of a Parquet file."
        reject("rows", "rows of a table or where they are", type(rows).__name__, remedy)


def without_file(table: Any) -> tuple[Any, str]:
    """A table as it is in its file, and the name of the file; empty where it comes from none.

    Args:
        table: one of `tables_of`.
    """
    known = dict(table.schema.metadata or {})
    file = known.pop(_FILE, b"").decode()
    return (table.replace_schema_metadata(known or None) if file else table), file


def _from_pandas(frame: pd.DataFrame) -> Any:
    import pyarrow as pa

    if frame.columns.has_duplicates:
        twice = sorted(map(str, frame.columns[frame.columns.duplicated()]))
        reject("rows", "columns with different names", f"{twice} twice", "Rename one of them.")
    try:
        return pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
    except pa.ArrowException as error:
        remedy = "Give each column one type, e.g. by `astype(str)`."
        reject("rows", "columns of one type each", " ".join(map(str, error.args)), remedy)


def _gathered(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Batches joined to chunks that are worth a pass; one without rows where there are none."""
    import pyarrow as pa

    waiting: list[Any] = []
    yield schema.empty_table()
    for batch in batches:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= CHUNK_ROWS:
            yield from tables_of(pa.Table.from_batches(waiting))
            waiting = []
    if waiting:
        yield from tables_of(pa.Table.from_batches(waiting))


def _chunks_of_files(path: str, codes: tuple[str, ...]) -> Iterator[Any]:
    """The files of a path, each by its own columns; all broken ones are named together."""
    files, filesystem, broken = *files_of(path), []
    for name in files:
        try:
            with reading(name, "a readable Parquet or CSV file", "rows"):
                yield from _chunks_of_file(name, filesystem, codes)
        except InputError as error:
            broken.append(str(error))
    if broken:
        counted = f"{len(broken)} of {len(files)} that cannot be read: {' '.join(broken)[:-1]}"
        reject("rows", "readable files", counted, "Mend or remove them.")


def _places(path: str) -> tuple[list[str], Any]:
    """Files and folders that a path stands for, and their pyarrow.fs.FileSystem."""
    from pyarrow import fs

    if "://" in path:
        remote, place = library("fsspec", "engines").core.url_to_fs(path)
        found = remote.glob(place) if glob.has_magic(place) else [place]
        return found, fs.PyFileSystem(fs.FSSpecHandler(remote))
    # A name with a colon is no address of another system.
    path = path if os.path.isabs(path) or ":" not in path else os.path.join(os.curdir, path)
    found = glob.glob(path, recursive=True) if glob.has_magic(path) else [path]
    return found, fs.LocalFileSystem()


def files_of(path: str) -> tuple[list[str], Any]:
    """The files that a path, folder, glob or address stands for, and their pyarrow.fs.FileSystem.

    A file that links lead to as well, as `latest.csv` or a link to its own folder does, is one.

    Args:
        path: as `profile` takes it.

    Raises:
        InputError: no file, or a folder that cannot be listed.
    """
    from pyarrow import fs

    found, filesystem = _places(path)
    files: list[str] = []
    for entry in filesystem.get_file_info(sorted(map(str, found))):
        if entry.type == fs.FileType.Directory:
            with reading(entry.path, "a folder that can be listed", "rows"):
                inside = filesystem.get_file_info(fs.FileSelector(entry.path, recursive=True))
            files += sorted(one.path for one in inside if one.type == fs.FileType.File)
        elif entry.type == fs.FileType.File:
            files.append(entry.path)
    files = [name for name in files if not Path(name).name.startswith(("_", "."))]
    if "://" not in path:
        files = list({os.path.realpath(name): name for name in reversed(files)}.values())[::-1]
    if not files:
        reject("rows", "files to read", f"{path}: no such file", "Check that the path is right.")
    return files, filesystem


def row_count(rows: Any) -> int | None:
    """How many rows there are: known, of CSV files estimated by their first lines; None: unknown.

    Args:
        rows: as `profile` takes them.
    """
    import pyarrow as pa
    from pyarrow import dataset

    if isinstance(rows, (str, Path)):
        files, filesystem = files_of(str(rows))
        counts = [_rows_of_file(name, filesystem) for name in files]
        return None if None in counts else sum(filter(None, counts))
    if isinstance(rows, dataset.Dataset):
        return int(rows.count_rows())
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        return int(rows.num_rows)
    return len(rows) if isinstance(rows, pd.DataFrame) else known_rows(rows)


def _rows_of_file(name: str, filesystem: Any) -> int | None:
    """Rows by the end of a Parquet file, or by the size of a plain CSV and its first lines."""
    import pyarrow as pa
    from pyarrow import parquet

    if name.lower().endswith(".gz"):
        return None
    if is_csv(name):
        with filesystem.open_input_stream(name) as file:
            first = file.read(_FIRST)
        size = filesystem.get_file_info(name).size or 0
        return int(size * first.count(b"\n") / max(1, len(first)))
    try:
        return int(parquet.read_metadata(name, filesystem=filesystem).num_rows)
    except (pa.ArrowException, OSError):
        # Those who read its rows name every file that is broken.
        return None


def _chunks_of_file(name: str, filesystem: Any, codes: tuple[str, ...]) -> Iterator[Any]:
    """Chunks of one file, with the columns that its folders `key=value` stand for."""
    from pyarrow import dataset

    kind: Any = "parquet"
    if is_csv(name):
        kind = dataset.CsvFileFormat(convert_options=csv_options(codes))
    found = dataset.dataset(name, format=kind, filesystem=filesystem, partitioning="hive")
    batches = found.to_batches(batch_size=CHUNK_ROWS, batch_readahead=1, fragment_readahead=1)
    for table in map(intact, _gathered(batches, found.schema)):
        known = table.schema.metadata or {}
        yield table.replace_schema_metadata({**known, _FILE: name.encode()})

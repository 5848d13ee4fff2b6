"""`profile()`: the profile of rows in whatever form they come, read in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import missing_values
from gendebug_torch.errors import InputError, reject
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.profiles.profile import OPTIONAL, Profile, empty_profile, records_of
from gendebug_torch.profiles.sources import row_count, tables_of, without_file
from gendebug_torch.profiles.sums.cells import Cells, cells_of
from gendebug_torch.profiles.sums.columns import QUANTITY, Chunk, Column, chunk_of, column_of
from gendebug_torch.profiles.sums.outcomes import outcome_sums
from gendebug_torch.profiles.sums.rows import beyond, extreme_rows, row_hashes, row_sample
from gendebug_torch.profiles.sums.targets import labels_of
from gendebug_torch.profiles.sums.windows import NO_WINDOWS, windows_of
from gendebug_torch.progress import progress_bar
from gendebug_torch.slices.checks._slicing import TRUE

# Batches of a loader that go through the model before they are summed.
_BATCHES = 64
SAMPLE = 16_384


def profile(
    rows: Any,
    schema: Schema | None = None,
    *,
    reference: Profile | None = None,
    model: Any = None,
    sample: int = SAMPLE,
    name: str = "profile",
    progress: bool = False,
) -> Profile:
    """The profile of a data set: sums over all rows and a random sample of them.

    Profiles add, so partitions may be profiled wherever they lie. Labels and outputs are summed for
    binary, multiclass and regression models, and labels by the values of each column.

    Args:
        rows: a DataFrame, Records, a pyarrow Table, RecordBatch, RecordBatchReader or data set, an
            iterable of them, a file, folder or glob of Parquet or CSV (local or any address that
            fsspec knows), or with a model a loader of batches.
        schema: meaning of the columns; that of the records by default.
        reference: profile of a reference, e.g. of the rows of training: labeled and scored rows are
            counted by levels, and pairs of levels, of its columns too, and in bins of its scores,
            so that slices can be judged on all rows. All profiles that add have the same one.
        model: network that the batches of a loader go through.
        sample: number of rows that are sampled.
        name: name for messages.
        progress: whether to show rows per second and, where the number of rows can be told or
            estimated, the time left.

    Raises:
        InputError: partitions with different columns or types, unreadable files (named and
            counted), or columns that the schema names and the rows lack.

    Cost: one pass; holds 131,072 rows, and some 330 KB per column; with a reference, one count per
    row and pair of columns more.

    Example:
        >>> import pandas as pd
        >>> from gendebug_torch import Schema, profile
        >>> frame = pd.DataFrame({"amount": [3.0, 5.0, None], "label": [0, 1, 1]})
        >>> found = profile(frame, Schema(target="label"))
        >>> found.rows, found.columns["amount"].missing, found.outcomes.labels.tolist()
        (3, 1, [1, 2])
    """
    if sample < 1:
        reject("sample", "at least 1 row", str(sample), "16384 is usual.")
    if not (reference is None or isinstance(reference, Profile)):
        got = type(reference).__name__
        reject("reference", "a Profile", got, "Profile the reference first, or load its file.")
    cells = None if reference is None else reference.slices
    if isinstance(rows, Records):
        table, schema = _frame_of(rows, schema)
        chunks = tables_of(table)
    elif model is not None:
        parts = (_frame_of(part, schema) for part in _collected(model, rows))
        first = next(parts, None)
        if first is None:
            return empty_profile(schema or Schema(), name, sample, cells)
        schema = first[1]
        chunks = (part for frame in (first, *parts) for part in tables_of(frame[0]))
    else:
        chunks = tables_of(rows, (schema or Schema()).categorical + (schema or Schema()).ids)
    total = empty_profile(schema or Schema(), name, sample, cells)
    with progress_bar(row_count(rows) if progress else None, "rows", show=progress) as count:
        for chunk in chunks:
            table, file = without_file(chunk)
            try:
                total = total + _part(table, total)
            except InputError as error:
                raise InputError(f"{file}: {error}" if file else str(error)) from error
            count(table.num_rows)
    return total


def sum_of(parts: Iterable[Profile]) -> Profile:
    """The profile of all partitions together.

    Args:
        parts: profiles of the partitions, in any order.
    """
    listed = list(parts)
    if not listed:
        reject("parts", "at least one profile", "none", "Profile a partition first.")
    while len(listed) > 1:
        listed = [reduce(Profile.__add__, listed[at : at + 2]) for at in range(0, len(listed), 2)]
    return listed[0]


def _part(table: Any, earlier: Profile) -> Profile:
    """The profile of one chunk; what is known already says how much of it can matter."""
    schema = earlier.schema
    missing = _missing_columns(table.column_names, schema) if table.column_names else []
    if missing:
        known = ", ".join(map(str, table.column_names))
        remedy = "Correct the schema or the table."
        reject("schema", f"columns that the rows have: {known}", f"missing {missing}", remedy)
    chunk = chunk_of(table)
    outcomes = _outcome_records(chunk, schema) if len(chunk) else None
    columns = _columns(chunk, outcomes, earlier)
    if not len(chunk):
        return replace(earlier, columns=columns, **_nothing(earlier))
    hashes = row_hashes(chunk)
    sample = row_sample(chunk, hashes, earlier.sample.size, earlier.sample.limit)
    windows = NO_WINDOWS
    if schema.time is not None:
        times = chunk.table.column(schema.time).to_pandas()
        windows = windows_of(times, outcomes, schema.time)
    return replace(
        earlier,
        rows=len(chunk),
        columns=columns,
        outcomes=outcome_sums(outcomes) if outcomes is not None else _nothing(earlier)["outcomes"],
        windows=windows,
        sample=sample,
        extremes=_extremes(chunk, hashes, columns, earlier),
        cells=_cells(chunk, earlier),
    )


def _columns(chunk: Chunk, outcomes: Records | None, earlier: Profile) -> dict[str, Column]:
    """The profiles of the features of a chunk."""
    schema = earlier.schema
    outside, codes = set(schema.outside_features), (*schema.categorical, *schema.ids)
    labels = None if outcomes is None else labels_of(outcomes.targets)
    return {
        name: column_of(
            chunk,
            name,
            categorical=name in codes,
            earlier=earlier.columns.get(name),
            labels=labels,
        )
        for name in chunk.table.column_names
        if name not in outside
    }


def _nothing(earlier: Profile) -> dict[str, Any]:
    """The fields of a profile without rows."""
    frozen = None if earlier.cells is None else earlier.cells.frozen
    empty = empty_profile(earlier.schema, earlier.name, earlier.sample.size, frozen)
    keys = ("rows", "outcomes", "windows", "sample", "extremes", "cells")
    return {key: getattr(empty, key) for key in keys}


def _cells(chunk: Chunk, earlier: Profile) -> Cells | None:
    """The sums of a chunk over the slices that are counted; None where none are."""
    if earlier.cells is None:
        return None
    sliced = {binning.column for binning in earlier.cells.binnings} - {TRUE}
    if missing := sorted(sliced - set(chunk.table.column_names)):
        remedy = "Profile rows with the columns of the reference."
        reject("reference", f"columns that the rows have, not {missing}", "others", remedy)
    return cells_of(records_of(chunk.table, earlier.schema, "rows"), earlier.cells.frozen)


def _missing_columns(names: Iterable[str], schema: Schema) -> list[str]:
    """Columns that the schema names and the rows lack, but for labels and outputs."""
    optional = [getattr(schema, key) for key in ("target", "label_time", "source")]
    left_out = {*optional, *schema.logits, *schema.probs}
    needed = (*schema.outside_features, *schema.categorical)
    present = set(names)
    return [name for name in needed if name not in present and name not in left_out]


def _extremes(chunk: Chunk, hashes: Any, columns: dict[str, Column], earlier: Profile) -> Any:
    """The rows of a chunk with values beyond those met so far."""
    names = [name for name, part in columns.items() if part.kind == QUANTITY]
    met = [earlier.columns[name].sketch if name in earlier.columns else None for name in names]
    lowest = [np.inf if cells is None else float(cells.low[0]) for cells in met]
    highest = [-np.inf if cells is None else float(cells.high[-1]) for cells in met]
    return extreme_rows(beyond(chunk, hashes, names, lowest, highest), names)


def _outcome_records(chunk: Chunk, schema: Schema) -> Records | None:
    """Labels and outputs of a chunk; None where it has neither."""
    names = [schema.target, *schema.logits, *schema.probs]
    present = [name for name in names if name is not None and name in chunk.table.column_names]
    if not present:
        return None
    plain = Schema(
        target=schema.target,
        classes=schema.classes,
        regression=schema.regression,
        multilabel=schema.multilabel,
        logits=schema.logits,
        probs=schema.probs,
        threshold=schema.threshold,
    )
    frame = chunk.table.select(present).to_pandas()
    return Records.from_frame(frame, plain, name="rows", optional=OPTIONAL)


def _frame_of(records: Records, schema: Schema | None) -> tuple[pd.DataFrame, Schema]:
    """Records as one table, with the schema by which it is read."""
    known = schema or records.schema
    parts: list[pd.DataFrame] = []
    if isinstance(records.features, pd.DataFrame):
        parts.append(records.features)
    elif isinstance(records.features, Tensor):
        flat = records.features.reshape(len(records), -1).cpu().numpy()
        parts.append(pd.DataFrame(flat, columns=[f"feature_{i}" for i in range(flat.shape[1])]))
    if records.metadata is not None:
        parts.append(records.metadata)
    if records.targets is not None and records.targets.ndim == 1:
        target = known.target or "target"
        parts.append(pd.DataFrame({target: _labels(records.targets, known)}))
        known = replace(known, target=target)
    if records.logits is not None and records.logits.ndim < 3:
        outputs = records.logits.reshape(len(records), -1).double().cpu().numpy()
        names = known.logits or tuple(f"logit_{i}" for i in range(outputs.shape[1]))
        parts.append(pd.DataFrame(outputs, columns=list(names)))
        known = replace(known, logits=names, probs=())
    return pd.concat(parts, axis=1), known


def _labels(targets: Tensor, schema: Schema) -> Any:
    """Targets as a table holds them: names where the schema has some, nothing where missing."""
    ids = targets.cpu().numpy()
    if not schema.classes:
        return ids
    names = np.array([*schema.classes, None], dtype=object)
    return names[np.where(missing_values(targets).cpu().numpy(), len(schema.classes), ids)]


def _collected(model: Any, loader: Iterable[Any]) -> Iterator[Records]:
    """Records of a loader, some batches at a time."""
    batches = iter(loader)
    while part := list(islice(batches, _BATCHES)):
        yield collect(model, part)

"""`Profile`: what can be known of a data set from sums, and a sample of its rows; adds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import notebook_html
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import standard_codes
from gendebug_torch.errors import reading, reject
from gendebug_torch.profiles.storage import column_from, column_header, column_tensors
from gendebug_torch.profiles.sums.cells import Cells, frozen_cells
from gendebug_torch.profiles.sums.columns import QUANTITY, Column
from gendebug_torch.profiles.sums.outcomes import OutcomeSums
from gendebug_torch.profiles.sums.rows import RowSample, extreme_rows, joined, packed, unpacked
from gendebug_torch.profiles.sums.windows import NO_WINDOWS, Windows
from gendebug_torch.shift.columns.prepared import load_tensors, save_tensors

VERSION = 1
# Schema keys whose columns a profile may lack.
OPTIONAL = ("target", "label_time", "source", "logits", "probs")


@dataclass(frozen=True, eq=False)
class Profile:
    """A data set in constant size: sums over all rows, and a random sample of them.

    `a + b` is the profile of the rows of both. Counts, sketches, samples and hence findings are the
    same whatever the order and the partitions of the rows; sums of floats to a part in 1e12.

    Args:
        schema: meaning of the columns.
        rows: number of rows.
        columns: what is known of each feature, by name.
        outcomes: sums over labels and outputs.
        windows: sums over windows of time.
        sample: random rows.
        extremes: rows with the smallest and largest value of each quantity, pyarrow.Table.
        name: name for messages.
        cells: sums over slices frozen on a reference; None without one.

    Example:
        >>> import pandas as pd
        >>> from gendebug_torch import Schema, profile
        >>> frame = pd.DataFrame({"age": range(100), "city": ["Bern", "Basel"] * 50})
        >>> both = profile(frame[:60], Schema()) + profile(frame[60:], Schema())
        >>> both.rows, both.columns["city"].levels
        (100, {'Bern': 50, 'Basel': 50})
    """

    schema: Schema
    rows: int
    columns: Mapping[str, Column]
    outcomes: OutcomeSums
    windows: Windows
    sample: RowSample
    extremes: Any
    name: str = "profile"
    cells: Cells | None = None

    _repr_html_ = notebook_html

    def __len__(self) -> int:
        return self.rows

    def __add__(self, other: Profile) -> Profile:
        _check_addable(self, other)
        if not self.columns and not self.rows:
            return other
        if not other.columns and not other.rows:
            return self
        columns = {
            name: part.plus(other.columns[name], name) for name, part in self.columns.items()
        }
        names = [name for name, part in columns.items() if part.kind == QUANTITY]
        extremes = joined(self.extremes, other.extremes)
        return replace(
            self,
            rows=self.rows + other.rows,
            columns=columns,
            outcomes=self.outcomes + other.outcomes,
            windows=self.windows + other.windows,
            sample=self.sample + other.sample,
            extremes=extreme_rows(extremes, names) if extremes.num_rows else extremes,
            cells=None if self.cells is None or other.cells is None else self.cells + other.cells,
        )

    @property
    def error(self) -> float:
        """Largest distance of a column's distribution function from that of all its rows."""
        errors = (column.sketch.error for column in self.columns.values() if column.sketch)
        return max(errors, default=0.0)

    @cached_property
    def records(self) -> Records:
        """The sampled rows as records; all rows where they are few."""
        return records_of(self.sample.rows(), self.schema, self.name)

    @cached_property
    def slices(self) -> Cells:
        """The slices that it counts, or levels fitted to its sample, without rows."""
        return frozen_cells(self.records, self.cells)

    @property
    def sampled(self) -> bool:
        """Whether the records are fewer than the rows."""
        return len(self.records) < self.rows

    def table(self) -> pd.DataFrame:
        """One row per feature: kind, rows, missing values, distinct values, quantiles, moments."""
        return pd.DataFrame([_line(name, part) for name, part in self.columns.items()])

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file with a JSON header, whole or not at all."""
        return save_tensors(path, self._tensors(), {"profile": self._header()})

    def to_bytes(self) -> bytes:
        """What `save` writes but for its checksum: a profile on its way between machines."""
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        return bytes(save(tensors, {"gendebug": json.dumps({"profile": self._header()})}))

    @classmethod
    def from_bytes(cls, content: bytes) -> Profile:
        """The inverse of `to_bytes`.

        Args:
            content: what `to_bytes` returned.
        """
        from safetensors.torch import load

        with reading("content", "what Profile.to_bytes returned", "content"):
            size = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + size])["__metadata__"]
            return cls._from_tensors(load(content), json.loads(metadata["gendebug"]))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"sample.hashes": torch.tensor(self.sample.hashes)}
        tensors["sample.counts"] = torch.tensor(self.sample.counts)
        tensors |= {"sample.table": packed(self.sample.table), "extremes": packed(self.extremes)}
        tensors["windows.keys"] = torch.tensor(self.windows.keys)
        tensors["windows.sums"] = torch.tensor(self.windows.sums)
        if self.cells is not None and self.cells.sums is not None:
            tensors["cells.sums"] = self.cells.sums
        tensors |= {f"outcomes.{name}": value for name, value in self.outcomes.tensors().items()}
        for at, column in enumerate(self.columns.values()):
            tensors |= column_tensors(f"columns.{at}", column)
        return tensors

    def _header(self) -> dict[str, Any]:
        windows = (self.windows.level, self.windows.calendar, self.windows.undated)
        return {
            "version": VERSION,
            "schema": _plain(self.schema),
            "name": self.name,
            "rows": self.rows,
            "columns": [column_header(name, part) for name, part in self.columns.items()],
            "outcomes": self.outcomes.header(),
            "windows": windows,
            "sample": self.sample.size,
            "cells": None if self.cells is None else self.cells.header(),
        }

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, a file of another kind or version, or a damaged one.
        """
        return load_tensors(path, "Profile.save", cls._from_tensors)

    @classmethod
    def _from_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> Profile:
        head = header.get("profile", {"version": None})
        if head["version"] != VERSION:
            remedy = "Profile the data again."
            reject("path", f"a profile of version {VERSION}", f"{head['version']}", remedy)
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor
        columns = {
            entry["name"]: column_from(groups.get("columns", {}), str(at), entry)
            for at, entry in enumerate(head["columns"])
        }
        sample, windows = groups["sample"], groups["windows"]
        hashes, counts = (sample[key].numpy() for key in ("hashes", "counts"))
        return cls(
            Schema(**head["schema"]),
            int(head["rows"]),
            columns,
            OutcomeSums.from_tensors(groups["outcomes"], head["outcomes"]),
            Windows.from_tensors(windows["keys"], windows["sums"], *head["windows"]),
            RowSample(hashes, counts, unpacked(sample["table"]), int(head["sample"])),
            unpacked(groups["extremes"][""]),
            str(head["name"]),
            # Absent in files of earlier versions.
            Cells.from_header(head.get("cells"), groups.get("cells", {}).get("sums")),
        )


def empty_profile(schema: Schema, name: str, sample: int, cells: Cells | None = None) -> Profile:
    """The profile of no rows, to which any other adds.

    Args:
        schema: meaning of the columns.
        name: name for messages.
        sample: number of rows that are sampled.
        cells: slices that are counted, without rows.
    """
    import pyarrow as pa

    nothing, none = pa.table({}), np.empty(0, np.int64)
    rows = RowSample(none, none, nothing, sample)
    return Profile(schema, 0, {}, OutcomeSums(), NO_WINDOWS, rows, nothing, name, cells)


def records_of(table: Any, schema: Schema, name: str) -> Records:
    """Records of the rows of an Arrow table; codes as they are written.

    Args:
        table: pyarrow.Table.
        schema: meaning of the columns.
        name: name of the records.
    """
    frame = table.to_pandas()
    codes = [column for column in (*schema.categorical, *schema.ids) if column in frame]
    frame = frame.assign(**{column: standard_codes(frame[column]) for column in codes})
    return Records.from_frame(frame, schema, name=name, optional=OPTIONAL)


def check_comparable(before: Profile, after: Profile) -> None:
    """Refuse two profiles that take the same columns for different things.

    Args:
        before: profile of the earlier rows.
        after: profile of the later ones.

    Raises:
        InputError: columns or outputs that are read in another way.
    """
    sides = (before, after)
    roles = [_roles(side) for side in sides]
    shared = roles[0].keys() & roles[1].keys()
    differing = sorted(name for name in shared if roles[0][name] != roles[1][name])
    keys = ("classes", "regression", "multilabel", "threshold")
    differing += [key for key in keys if len({getattr(side.schema, key) for side in sides}) > 1]
    if differing:
        got = f"another reading of {', '.join(differing[:5])} in {after.name}"
        expected = f"a profile by the schema of {before.name}"
        reject("schema", expected, got, "Profile both by one schema.")


def _roles(side: Profile) -> dict[str, tuple[bool, ...]]:
    """What the schema takes each column of the rows for."""
    schema = side.schema
    known = ((schema.target,), schema.ids, schema.logits, schema.probs, schema.categorical)
    groups = (schema.outside_features, *known)
    return {name: tuple(name in g for g in groups) for name in side.sample.table.column_names}


def _check_addable(one: Profile, other: Profile) -> None:
    """Refuse parts of different tables."""
    if not isinstance(other, Profile):
        reject("other", "a Profile", type(other).__name__, "Profile the rows first.")
    mine, theirs = _plain(one.schema), _plain(other.schema)
    if differing := [key for key in mine if mine[key] != theirs[key]]:
        got = f"another {', '.join(differing)}"
        reject("other", "a profile by the same schema", got, "Profile both by one schema.")
    if one.sample.size != other.sample.size:
        got = f"{other.sample.size}"
        reject("other", f"a sample of {one.sample.size} rows", got, "Profile both alike.")
    if (one.cells is None) != (other.cells is None):
        remedy = "Profile all parts with one `reference`, or none."
        reject("other", "slices of the same reference in all parts", "none in one part", remedy)
    parts = [set(part.columns) for part in (one, other) if part.columns or part.rows]
    if len(parts) == 2 and parts[0] != parts[1]:
        difference = sorted(parts[0] ^ parts[1])[:5]
        got = f"{', '.join(difference)} in one part alone"
        reject("other", "the same columns in all parts", got, "Read parts of one table.")


def _plain(schema: Schema) -> dict[str, Any]:
    """The schema as JSON holds it."""
    text = json.dumps(
        dataclasses.asdict(schema), default=lambda v: v.item() if hasattr(v, "item") else str(v)
    )
    plain: dict[str, Any] = json.loads(text)
    return plain


def _line(name: str, part: Column) -> dict[str, Any]:
    """One row of the table of a profile."""
    line: dict[str, Any] = {"column": name, "kind": part.kind, "rows": part.rows}
    line["missing"] = part.missing / max(part.rows, 1)
    if part.distinct is not None:
        line["distinct"] = round(part.distinct.estimate)
    if part.sketch is not None:
        line |= {"mean": part.moments.mean, "spread": part.moments.spread}
        ends = {"minimum": part.sketch.low[0], "maximum": part.sketch.high[-1]}
        line |= {"median": part.sketch.quantiles(1)[0]} | ends
    if part.levels:
        line["commonest"] = max(part.levels.items(), key=itemgetter(1))[0]
    return line

"""What is kept of the inputs of each batch: properties, keys, an embedding, or the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.inputs.origin import Origin
from gendebug_torch.modality.parts import (
    Part,
    key_of_parts,
    modality_name,
    parts_of,
    properties_of_parts,
)
from gendebug_torch.model.batches import known_rows, leaves, rows_at, rows_of
from gendebug_torch.model.collection.unpacking import Unpack

# Bytes of inputs that are kept although they can be read again.
_KEPT_BYTES = 256 * 2**20
_PROPERTIES, _MODALITY = "properties", "modality"


class Views:
    """Views of the inputs of every batch, whose form the first batch decides.

    Args:
        modality: as for `parts_of`.
        last_embedding: function of the inputs that gives their embedding.
        of_tables: whether that of a table is kept as well.
        keep: whether inputs are kept; None keeps them unless they are many and can be read again.
        notes: what is the same for all rows: names of the properties, the modality.
        data: loader of the rows.
    """

    def __init__(
        self,
        modality: str | Mapping[Any, str],
        last_embedding: Callable[[Any], Tensor | None],
        of_tables: bool,
        keep: bool | None,
        notes: dict[str, Any],
        data: Any,
    ) -> None:
        self.modality, self.last_embedding, self.notes = modality, last_embedding, notes
        self.of_tables, self.keep, self.data = of_tables, keep, data
        self.parts: tuple[Part, ...] | None = None

    def of(self, inputs: Any) -> dict[str, Tensor]:
        """Views of one batch by name, `[n, ...]` each.

        Args:
            inputs: a batch, right after the model was fed it.
        """
        if self.parts is None:
            self._decide(inputs)
        assert self.parts is not None
        found: dict[str, Tensor] = {}
        embedding, rows = self.last_embedding(inputs), rows_of(inputs)
        described = any(part.at is not None or part.modality is not None for part in self.parts)
        if embedding is not None and len(embedding) == rows and (described or self.of_tables):
            found["embedding"] = embedding
        if properties := properties_of_parts(inputs, self.parts):
            self.notes[_PROPERTIES] = list(properties)
            found[_PROPERTIES] = torch.stack([x.float() for x in properties.values()], 1)
        if (key := key_of_parts(inputs, self.parts)) is not None:
            found["keys"] = key
        if self.keep and isinstance(inputs, Tensor):
            found["features"] = inputs
        return found

    def _decide(self, inputs: Any) -> None:
        self.parts = parts_of(inputs, self.modality)
        self.notes[_MODALITY] = modality_name(self.parts)
        if self.keep is None:
            row = sum(part.nbytes for part in leaves(inputs)) / max(1, rows_of(inputs))
            many = row * (known_rows(self.data) or 0) > _KEPT_BYTES
            self.keep = not (many and origin_of(self.data, None, 1) is not None)


def view_fields(rows: Mapping[str, Tensor], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of records that hold the views.

    Args:
        rows: views of all batches, joined.
        notes: what is the same for all rows.
    """
    fields: dict[str, Any] = {key: rows[key] for key in ("embedding", "keys") if key in rows}
    if _PROPERTIES in rows:
        values = rows[_PROPERTIES].cpu().numpy()
        fields[_PROPERTIES] = pd.DataFrame(values, columns=notes[_PROPERTIES])
    return fields | {_MODALITY: notes.get(_MODALITY)}


def origin_of(data: Any, unpack: Unpack | None, rows: int) -> Origin | None:
    """Where rows of a loader can be read again; None where they have no numbers.

    Args:
        data: loader.
        unpack: function batch -> (inputs, targets).
        rows: number of rows.
    """
    if isinstance(data, Tensor) or rows_at(data, torch.zeros(1, dtype=torch.int64), unpack) is None:
        return None

    def read(numbers: Tensor) -> Any:
        found = rows_at(data, numbers, unpack)
        return None if found is None else found[0]

    return Origin(read, torch.arange(rows))

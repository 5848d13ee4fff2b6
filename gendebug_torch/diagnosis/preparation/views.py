"""What checks read of images, texts and series: a table that describes them in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.inputs.origin import Origin
from gendebug_torch.data.records import Records
from gendebug_torch.modality.detection import modality_of, properties_of
from gendebug_torch.modality.parts import key_of_parts, parts_of
from gendebug_torch.modality.strings import text_columns, with_text_properties
from gendebug_torch.model.batches import leaves, picked

SPLITS = ("train", "validation", "production")
# Bytes of inputs that are read again for checks that feed the model rows.
_READ_BYTES = 256 * 2**20


def described_in_words(given: Mapping[str, Any]) -> dict[str, Records]:
    """Records of images, texts and series with a table of their properties as features.

    In tables, columns of texts give way to their properties; tables without are left out.

    Args:
        given: inputs of `diagnose` by name.
    """
    described = {}
    sides = {name: given[name] for name in SPLITS if given[name] is not None and len(given[name])}
    known = _texts_of_any((side.features, side.schema.text) for side in sides.values())
    told = _texts_of_any((side.metadata, side.schema.text) for side in sides.values())
    for name, records in sides.items():
        if records.properties is not None:
            properties = _with_texts(records.properties, records, told)
            table = _beside(records.features, properties)
            described[name] = replace(_with_inputs(records), features=table, properties=properties)
        elif (modality := modality_of(records.features, records.modality)) is not None:
            words = _with_texts(properties_of(records.features, modality), records, told)
            described[name] = replace(_with_inputs(records), features=words, properties=words)
        elif isinstance(records.features, pd.DataFrame) and known & {*records.features}:
            table = with_text_properties(records.features, _written(records.features, known))
            described[name] = replace(records, features=table)
    return described


def with_inputs(given: Mapping[str, Any]) -> dict[str, Records]:
    """Records with the inputs that were not kept, read again, for checks that feed the model.

    Of many rows as many are drawn as fit into 256 MiB. Inputs of several parts are no features, but
    are read once.

    Args:
        given: inputs of `diagnose` by name.
    """
    filled: dict[str, Records] = {}
    if given["model"] is None:
        return filled
    for name in SPLITS:
        records = given[name]
        if records is None or records.features is not None or records.origin is None:
            continue
        single = records.select([0]).origin.inputs() if len(records) else None
        rows = max(1, _READ_BYTES // max(1, sum(part.nbytes for part in leaves(single))))
        sample = records
        if rows < len(records):
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randperm(len(records), generator=generator)[:rows].sort().values
            sample = records.select(drawn)
        assert sample.origin is not None
        inputs = sample.origin.inputs()
        if isinstance(inputs, Tensor):
            filled[name] = replace(sample, features=inputs)
        elif inputs is not None:
            kept = Origin(partial(picked, inputs), torch.arange(len(sample)))
            filled[name] = replace(sample, origin=kept)
    return filled


def kind_of_inputs(given: Mapping[str, Any]) -> dict[str, str]:
    """What the inputs are taken for, e.g. `image, 3 x 32 x 32, uint8`; nothing of tables.

    Args:
        given: inputs of `diagnose` by name.
    """
    for records in (given[name] for name in SPLITS):
        if records is None:
            continue
        features = records.features
        modality = modality_of(features, records.modality)
        if modality is None or not isinstance(features, Tensor):
            kinds = [] if records.modality in (None, "table") else [records.modality]
        else:
            size = " x ".join(map(str, features.shape[1:]))
            kinds = [modality.name, size, str(features.dtype).removeprefix("torch.")]
        if kinds:
            return {"inputs": ", ".join(kinds)}
    return {}


def _beside(features: Any, properties: pd.DataFrame) -> pd.DataFrame:
    """Properties, behind the columns of a table where the features are one."""
    if not isinstance(features, pd.DataFrame):
        return properties
    new = properties[[name for name in properties if name not in features]]
    return pd.concat([features.reset_index(drop=True), new.reset_index(drop=True)], axis=1)


def _with_inputs(records: Records) -> Records:
    """Records that know where their inputs are when properties take the place of these.

    What near duplicates are found by is added.
    """
    features = records.features
    if not isinstance(features, Tensor):
        return records
    keys = records.keys
    if keys is None:
        keys = key_of_parts(features, parts_of(features, records.modality or "auto"))
    origin = Origin(partial(picked, features), torch.arange(len(features)))
    return replace(records, keys=keys, origin=origin)


def _texts_of_any(tables: Iterable[tuple[Any, Sequence[str]]]) -> set[str]:
    """Columns that hold texts on one side at least, by their values or as declared."""
    frames = [pair for pair in tables if isinstance(pair[0], pd.DataFrame)]
    return {column for frame, declared in frames for column in text_columns(frame, declared)}


def _written(frame: pd.DataFrame | None, texts: set[str]) -> list[str]:
    """Those columns of a table that have texts, or lost all of them, as where a field is empty."""
    if frame is None:
        return []
    own = [column for column in frame.columns if column in texts]
    return [c for c in own if frame[c].dtype.kind in "OU" or not frame[c].notna().any()]


def _with_texts(table: pd.DataFrame, records: Records, known: set[str]) -> pd.DataFrame:
    """The table with the properties of texts among the metadata."""
    texts = _written(records.metadata, known)
    if not texts:
        return table
    assert records.metadata is not None
    columns = records.metadata[texts].reset_index(drop=True)
    return table.join(with_text_properties(columns, texts))

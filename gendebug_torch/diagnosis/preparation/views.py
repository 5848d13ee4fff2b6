"""What checks read of images, texts and series: a table that describes them in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from gendebug_torch.data.records import Records
from gendebug_torch.modality.detection import modality_of, properties_of
from gendebug_torch.modality.strings import text_columns, with_text_properties


def described_in_words(given: Mapping[str, Any]) -> dict[str, Records]:
    """Records of images, texts and series with a table of their properties as features.

    In tables, columns of texts give way to their properties; tables without are left out.

    Args:
        given: inputs of `diagnose` by name.
    """
    described = {}
    for name in ("train", "validation", "production"):
        records = given[name]
        modality = None if records is None else modality_of(records.features)
        if modality is not None and len(records):
            table = properties_of(records.features, modality)
            described[name] = replace(records, features=table)
        elif records is not None and isinstance(records.features, pd.DataFrame):
            texts = text_columns(records.features)
            if texts:
                table = with_text_properties(records.features, texts)
                described[name] = replace(records, features=table)
    return described

"""Units of a table: its columns, their kinds and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
import torch

from gendebug_torch.attribution.counterfactuals.units import Units
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.errors import did_you_mean, reject

Way = Literal["increasing", "decreasing"]


def columns_as_units(
    train: Records, immutable: Sequence[str], direction: Mapping[str, Way]
) -> Units:
    """The columns of training rows, and which of them may change.

    Args:
        train: training rows with a table of features.
        immutable: columns that may not change.
        direction: column -> `increasing` or `decreasing`, the only way in which it may change.

    Raises:
        InputError: no table, no rows, an unknown column or direction.
    """
    features = train.features
    if not isinstance(features, pd.DataFrame) or not len(features):
        got = type(features).__name__ if len(train) else "no rows"
        reject("train", "records with a table of features", got, "Pass Records.from_frame(...).")
    names = tuple(map(str, features.columns))
    for argument, given in (("immutable", immutable), ("direction", direction)):
        for name in given:
            if name not in names:
                remedy = f"{did_you_mean(name, names)}Name columns of the table."
                reject(argument, "columns of the table", repr(name), remedy)
    if wrong := set(direction.values()) - {"increasing", "decreasing"}:
        reject("direction", "`increasing` or `decreasing`", str(sorted(wrong)), "Choose one.")
    rows = model_inputs(train)
    spread = (rows - rows.median(0).values).abs().median(0).values
    scale = torch.where(spread > 0, spread, rows.std(0, correction=0))
    codes = torch.tensor([name in train.schema.categorical for name in names])
    fixed = torch.tensor([name in set(immutable) for name in names])
    rises, falls = (
        torch.tensor([direction.get(name, way) == way for name in names]) & ~fixed
        for way in ("increasing", "decreasing")
    )
    whole = (rows == rows.round()).all(0) & ~codes
    scale = torch.where(codes | (scale <= 0), torch.ones_like(scale), scale)
    of = torch.arange(len(names))
    return Units(names, of, scale, codes, rises, falls, rows, shape=(len(names),), whole=whole)

"""What may change in a table: columns, their kinds, and how far two rows are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.errors import did_you_mean, reject

Way = Literal["increasing", "decreasing"]


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of a table as a network is fed them.

    Args:
        names: their names, d.
        scale: what a change of each quantity is measured by, `[d]`; 1 for codes.
        codes: columns whose values have no order, `[d]` bool.
        whole: quantities that are whole numbers in training, `[d]` bool.
        up: columns whose values may rise, `[d]` bool.
        down: columns whose values may fall, `[d]` bool.
        rows: training rows, `[n, d]`.
    """

    names: tuple[str, ...]
    scale: Tensor
    codes: Tensor
    whole: Tensor
    up: Tensor
    down: Tensor
    rows: Tensor

    def allowed(self, before: Tensor, after: Tensor) -> Tensor:
        """`[..., d]` bool, changes that are real and permitted."""
        return ((after > before) & self.up) | ((after < before) & self.down)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[..., d]` size of the change of each column: scaled difference, or 1 for codes.

        Source: Gower (1971), Biometrics 27:857; quantities by their median absolute deviation as in
        Wachter, Mittelstadt and Russell (2018), Harv. J. Law Technol. 31:841.
        """
        return torch.where(self.codes, (a != b).to(a), (a - b).abs() / self.scale)


def columns_of(train: Records, immutable: Sequence[str], direction: Mapping[str, Way]) -> Columns:
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
    return Columns(names, scale, codes, whole, rises, falls, rows)

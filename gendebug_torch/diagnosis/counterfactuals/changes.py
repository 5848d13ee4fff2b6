"""What serving does to inputs otherwise than training, as a change that can be made and undone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.default_values import default_value
from gendebug_torch.shift.kinds.column_transforms import (
    CyclicOffset,
    FeatureTransform,
    LevelRenaming,
    fit_feature_transform,
)
from gendebug_torch.shift.kinds.label_model import same_rank_values
from gendebug_torch.shift.kinds.moved_columns import FeatureChange
from gendebug_torch.shift.two_sample.ks import ks_two_sample

Table = pd.DataFrame
Map = Callable[[Any], Any]
_EXCHANGED = re.compile(r"exchanged with (.+)$")


@dataclass(frozen=True, eq=False)
class InputChange:
    """A change of the inputs, as serving makes it.

    Args:
        apply: inputs of validation -> the same as serving would pass them.
        undo: inputs of production -> as training would have computed them; None where the change
            loses what it takes.
        usual: inputs of production -> the same with a usual value in place of what is wrong; None
            where there is none.
        columns: columns that it changes; empty where it changes whole inputs.
    """

    apply: Map
    undo: Map | None = None
    usual: Map | None = None
    columns: tuple[str, ...] = ()


def column_change(
    name: str, found: FeatureChange | None, sides: tuple[Table, Table], *, refit: bool = False
) -> InputChange:
    """The change of one column: undone by a transform, an exchange or a clock, else redrawn.

    Args:
        name: column.
        found: what the kinds of change say of it.
        sides: features of validation and of production.
        refit: whether its transform is to be found anew, since these are other rows.
    """
    transform = _transform(name, found, sides, refit=refit)
    match = None if found is None else _EXCHANGED.search(found.description)
    if match is not None and match[1] in sides[0]:
        exchange = _exchange(name, match[1])
        return InputChange(exchange, exchange, None, (name, match[1]))
    if isinstance(transform, LevelRenaming):
        new = dict(transform.levels)
        old = {after: before for before, after in new.items()}
        return InputChange(_renamed(name, new), _renamed(name, old), None, (name,))
    if any(side[name].dtype.kind not in "iufb" for side in sides):
        return InputChange(_redrawn(name, sides[1]), None, None, (name,))
    usual = _on_column(name, lambda x: np.full_like(x, np.nanmedian(_values(sides[0], name))))
    forth, back = _quantity_maps(name, transform, sides)
    return InputChange(forth, back, usual, (name,))


def _transform(
    name: str, found: FeatureChange | None, sides: tuple[Table, Table], *, refit: bool
) -> Any:
    """The transform that was found, or what it is on these rows."""
    transform = None if found is None else found.transform
    if not refit or not isinstance(transform, FeatureTransform):
        return transform
    columns = [_values(side, name) for side in sides]
    before, after = (column[np.isfinite(column)] for column in columns)
    distance = float(ks_two_sample(torch.tensor(before), torch.tensor(after)).statistic)
    return fit_feature_transform(before, after, distance) or transform


def _quantity_maps(name: str, transform: Any, sides: tuple[Table, Table]) -> tuple[Map, Map | None]:
    """The change of a column of quantities, and what undoes it, if anything does."""
    before, after = (_values(side, name) for side in sides)
    finite = before[np.isfinite(before)], after[np.isfinite(after)]
    if isinstance(transform, CyclicOffset):
        return _on_column(name, transform.apply), _on_column(name, transform.undo)
    if isinstance(transform, FeatureTransform):
        there, back = _transformed(transform, before, after)
        return _on_column(name, there), _on_column(name, back)
    atom = default_value(torch.from_numpy(finite[0].copy()), torch.from_numpy(finite[1].copy()))
    if atom is None:
        return _redrawn(name, sides[1]), None
    share = (atom.live_share - atom.reference_share) / max(1 - atom.reference_share, 1e-9)
    return _defaulted(name, atom.value, share), None


def one_after_another(changes: list[InputChange], side: str, features: Any) -> Any:
    """Inputs after all of the changes were made (`apply`), or undone (`undo`, in reverse)."""
    for change in changes if side == "apply" else changes[::-1]:
        step = getattr(change, side)
        features = features if step is None else step(features)
    return features


def named_columns(records: Records) -> Records:
    """The same records with the columns of a tensor `[n, d]` as a table of `feature_0` and so on.

    Inputs of any other shape stay as they are.
    """
    features = records.features
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        return records
    table = pd.DataFrame(features.cpu().numpy()).add_prefix("feature_")
    return replace(records, features=table)


def _values(table: Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _on_column(name: str, function: Map) -> Map:
    return lambda table: table.assign(**{name: function(_values(table, name))})


def _exchange(one: str, other: str) -> Map:
    return lambda table: table.assign(
        **{one: table[other].to_numpy(), other: table[one].to_numpy()}
    )


def _renamed(name: str, levels: dict[str, str]) -> Map:
    """Levels under other names, in the type of the column."""

    def renamed(table: Table) -> Table:
        column = table[name]
        kind = column.dtype.kind
        texts = column.map(lambda value: levels.get(str(value), value))
        return table.assign(**{name: pd.to_numeric(texts) if kind in "iuf" else texts})

    return renamed


def _redrawn(name: str, production: Table) -> Map:
    """Values drawn from those of production, whatever else is in the row."""

    def redrawn(table: Table) -> Table:
        rng = np.random.default_rng(0)
        drawn = production[name].to_numpy()[rng.integers(len(production), size=len(table))]
        return table.assign(**{name: drawn})

    return redrawn


def _defaulted(name: str, value: float, share: float) -> Map:
    def defaulted(values: Any) -> Any:
        drawn = np.random.default_rng(0).random(len(values)) < share
        return np.where(drawn, value, values)

    return _on_column(name, defaulted)


def _transformed(transform: FeatureTransform, before: Any, after: Any) -> tuple[Map, Map]:
    """The map from validation to production, and back; a logarithm by ranks."""
    factor, offset = transform.factor, transform.offset
    if np.isfinite(factor) and factor != 0:
        return (lambda x: factor * x + offset), (lambda x: (x - offset) / factor)
    return (lambda x: same_rank_values(after, x)), (lambda x: same_rank_values(before, x))

"""What serving does to inputs otherwise than training, as a change that can be made and undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.default_values import default_value
from gendebug_torch.shift.kinds.label_model import same_rank_values
from gendebug_torch.shift.kinds.moved_columns import FeatureChange
from gendebug_torch.shift.transforms.alignment import OtherRows
from gendebug_torch.shift.transforms.cycles import CyclicOffset
from gendebug_torch.shift.transforms.levels import LevelRenaming
from gendebug_torch.shift.transforms.quantities import (
    FeatureTransform,
    MixedUnits,
    fit_feature_transform,
)
from gendebug_torch.shift.transforms.roles import OtherColumn
from gendebug_torch.shift.two_sample.ks import ks_two_sample

# Rows by which a change is taken for a line of each value, and what it may miss of their spread.
_CHECKED, _SAME = 256, 1e-4
# Share of the values that serving clips at most where its change is undone.
_CLIPPED = 0.01

Table = pd.DataFrame
Map = Callable[[Any], Any]


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

    @property
    def whole(self) -> bool:
        """Whether it changes whole inputs, e.g. images, as code of serving does."""
        return not self.columns


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
    if isinstance(transform, OtherColumn):
        holders = transform.holders
        undo = None if holders is None else _held(holders)
        return InputChange(_held(transform.sources), undo, None, tuple(transform.sources))
    if isinstance(transform, OtherRows):
        return InputChange(_other_rows(transform.columns), None, None, transform.columns)
    if isinstance(transform, LevelRenaming):
        there, again = (_of_levels(name, f) for f in (transform.apply, transform.undo))
        return InputChange(there, again, None, (name,))
    if any(side[name].dtype.kind not in "iufb" for side in sides):
        return InputChange(_redrawn(name, sides[1]), None, None, (name,))
    usual = _on_column(name, lambda x: np.full_like(x, np.nanmedian(_values(sides[0], name))))
    forth, back = _quantity_maps(name, transform, sides)
    return InputChange(forth, back, usual, (name,))


def whole_change(apply: Map, sides: tuple[Any, Any]) -> InputChange:
    """A change of whole inputs, undone where it is one line for each of their values.

    The lines are those through two constant inputs, the least and the largest value. That nothing
    else happens is checked on rows of validation, and that production is not clipped on its own.

    Args:
        apply: inputs -> the same as serving would pass them.
        sides: inputs of validation and of production.
    """
    for inputs in sides:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not len(inputs):
            return InputChange(apply)
    rows = sides[0][:_CHECKED]
    ends = torch.stack([torch.full_like(rows[0], float(end)) for end in rows.aminmax()])
    low, high = apply(ends)
    gain = (high - low) / (ends[1] - ends[0])
    shift, made = low - gain * ends[0], apply(rows)
    missed = (gain * rows + shift - made).abs().max()
    # Of missing values, of inputs that lost a part, and of clipped ones nothing can be undone.
    if not missed <= _SAME * made.std() or not bool((gain != 0).all()):
        return InputChange(apply)
    if _share_of_ends(sides[1]) > _share_of_ends(sides[0]) + _CLIPPED:
        return InputChange(apply)
    return InputChange(apply, lambda x: (x - shift) / gain)


def _share_of_ends(inputs: Tensor) -> float:
    """Share of the values that are the least or the largest one."""
    low, high = inputs.aminmax()
    return float(((inputs == low) | (inputs == high)).double().mean())


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
    if isinstance(transform, CyclicOffset | MixedUnits):
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


def _held(sources: Mapping[str, str]) -> Map:
    """Columns with the values of others."""
    return lambda table: table.assign(
        **{name: table[source].to_numpy() for name, source in sources.items() if source in table}
    )


def _other_rows(names: Sequence[str]) -> Map:
    """Columns with the values of other rows, the same for all of them."""

    def moved(table: Table) -> Table:
        rows = np.random.default_rng(0).permutation(len(table))
        return table.assign(**{name: table[name].to_numpy()[rows] for name in names})

    return moved


def _of_levels(name: str, function: Map) -> Map:
    return lambda table: table.assign(**{name: function(table[name])})


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

"""Design effects: how much more a metric varies where rows depend on each other."""

from __future__ import annotations

from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.stats.dependence.design_effects import block_effect, group_effect, group_ids

# Parts into which production is cut, so that a break between them does not pass for dependence.
_PARTS = 4


def design_effects(
    before: Tensor, after: Tensor, validation: Records, production: Records
) -> tuple[float, float]:
    """Variance of two means over that of independent rows, at least 1.

    Rows of one `schema.group` count together (Kish, 1965, Survey Sampling), rows in the order of
    `schema.time` in blocks of neighbours; the larger effect counts.

    Args:
        before: contributions of the rows of validation, `[n]` with mean 0.
        after: the same of production, `[m]`.
        validation: records that hold the columns.
        production: the same.
    """
    effects = _group_effect(before, validation), _group_effect(after, production)
    ordered = [_in_time(before, validation), _in_time(after, production)]
    reference = live = 1.0
    if ordered[0] is not None:
        reference = live = block_effect(ordered[0])
    if ordered[1] is not None:
        # The same process if nothing changed; its own blocks may hold a break.
        parts = 1 if ordered[0] is None else _PARTS
        live = max(reference, block_effect(ordered[1], parts=parts))
    return max(effects[0], reference), max(effects[1], live)


def _group_effect(influence: Tensor, records: Records) -> float:
    groups = group_ids(records)
    return 1.0 if groups is None else group_effect(influence, groups)


def _in_time(influence: Tensor, records: Records) -> Tensor | None:
    """`[n]` contributions in the order of time; None where no time is known."""
    column, metadata = records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return None
    times = parse_times(metadata[column], column)
    order = times.order[: len(influence) - times.missing]
    return influence[order] if len(order) else None

"""Design effects: how much more a metric varies where rows depend on each other."""

from __future__ import annotations

from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.stats.effective_sample_size import (
    group_effect,
    group_ids,
    two_sample_autocorrelation_times,
)


def design_effects(
    before: Tensor, after: Tensor, validation: Records, production: Records
) -> tuple[float, float]:
    """Variance of two means over that of independent rows, at least 1.

    Rows of one `schema.group` count together (Kish, 1965, Survey Sampling), rows in the order of
    `schema.time` by their autocorrelation time; the larger effect counts.

    Args:
        before: contributions of the rows of validation, `[n]` with mean 0.
        after: the same of production, `[m]`.
        validation: records that hold the columns.
        production: the same.
    """
    effects = [_group_effect(before, validation), _group_effect(after, production)]
    ordered = [_in_time(before, validation), _in_time(after, production)]
    if ordered[1] is not None:
        times = two_sample_autocorrelation_times(*ordered)
        effects = [max(effects[i], float(times[i].max())) for i in range(2)]
    return effects[0], effects[1]


def _group_effect(influence: Tensor, records: Records) -> float:
    groups = group_ids(records)
    return 1.0 if groups is None else group_effect(influence, groups)


def _in_time(influence: Tensor, records: Records) -> Tensor | None:
    """`[n, 1]` contributions in the order of time; None where no time is known."""
    column, metadata = records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return None
    times = parse_times(metadata[column], column)
    order = times.order[: len(influence) - times.missing]
    return influence[order][:, None] if len(order) else None

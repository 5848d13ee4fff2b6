"""Production cut into windows of time, each judged against the reference with one error rate over all of them."""

from __future__ import annotations

from gendebug_torch.records import Records
from gendebug_torch.shift.columns import paired_values, quantities, shared_columns, time_order
from gendebug_torch.shift.dependence import autocorrelation_time, cautious
from gendebug_torch.shift.prepared import prepare_reference
from gendebug_torch.shift.stream import DriftMonitor

_FEWEST_ROWS = 30


def drift_windows(
    production: Records, reference: Records, *, windows: int = 20, alpha: float = 0.05, min_effect: float = 0.1
) -> DriftMonitor | None:
    """Windows of equally many production rows in the order of time against the reference, as a monitor would have met them.

    Rows of a feature count as the independent ones that they are worth, by its autocorrelation in the reference, or in
    production where the reference has no time.

    Args:
        production: records with features and a time column.
        reference: records from before, with the same features.
        windows: how many; fewer where a window would have under 30 rows.
        alpha: chance of any false alarm over all windows.
        min_effect: smallest distance that matters.

    Returns:
        The monitor after the last window; None without a time column, shared quantities, or rows for two windows.
    """
    order = time_order(production)
    pair = None if reference.features is None or production.features is None else shared_columns(production, reference, None, quantities)
    if order is None or pair is None:
        return None
    names, _, before, after = paired_values(pair)
    count = min(windows, len(production) // _FEWEST_ROWS)
    if count < 2 or not names or not len(reference):
        return None
    earlier = time_order(reference)
    series = after[order] if earlier is None else before[earlier]
    times = cautious(autocorrelation_time(series), len(series))
    monitor = DriftMonitor(prepare_reference(before, names=names), alpha=alpha, min_effect=min_effect, times=times)
    assert production.metadata is not None
    moments = production.metadata[str(production.schema.time)]
    for rows in order.tensor_split(count):
        monitor.update(after[rows], moment=str(moments.iloc[int(rows[0])]))
    return monitor

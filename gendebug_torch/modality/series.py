"""Series `[n, t, c]`: level, spread, smoothness and gaps of each channel."""

from __future__ import annotations

from torch import Tensor

from gendebug_torch.modality.changes.series import series_changes
from gendebug_torch.modality.modality import Modality

# Channels that are described one by one; of wider series all channels are described together.
_MOST_CHANNELS = 32
_TINY = 1e-8


def series_properties(batch: Tensor) -> dict[str, Tensor]:
    """Level, spread, trend and smoothness of every channel of each series, `[n]` each.

    Smoothness is the autocorrelation at one step; the trend is the difference of the means of the
    last and the first half, in units of the channel.

    Args:
        batch: series `[n, t, c]`; missing values are NaN and counted.
    """
    series = batch.float()
    missing = series.isnan()
    found = {"missing steps": missing.float().mean((1, 2))} if bool(missing.any()) else {}
    series = series.nan_to_num()
    if series.shape[2] > _MOST_CHANNELS:
        return found | _channel(series.flatten(1), "")
    for channel in range(series.shape[2]):
        found |= _channel(series[:, :, channel], f" of channel {channel}")
    return found


def _channel(values: Tensor, of: str) -> dict[str, Tensor]:
    mean, spread = values.mean(1), values.std(1, correction=0)
    centred = values - mean[:, None]
    product = (centred[:, 1:] * centred[:, :-1]).sum(1)
    half = max(1, values.shape[1] // 2)
    return {
        f"level{of}": mean,
        f"spread{of}": spread,
        f"lowest value{of}": values.amin(1),
        f"highest value{of}": values.amax(1),
        f"trend{of}": values[:, -half:].mean(1) - values[:, :half].mean(1),
        f"smoothness{of}": product / (centred.square().sum(1) + _TINY),
        f"share of repeated steps{of}": (values.diff(dim=1) == 0).float().mean(1),
    }


SERIES = Modality("series", series_properties, series_changes, axes=(3,), shape="[n, t, c]")

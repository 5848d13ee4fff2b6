"""Series `[n, t, c]`: level, spread, smoothness and gaps of each channel, and what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gendebug_torch.modality.modality import Change, Modality

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


def series_changes(validation: Tensor, production: Tensor) -> tuple[Change, ...]:
    """What may have been done to series of validation on their way into production.

    Args:
        validation: series `[n, t, c]`.
        production: series of the same shape of row.
    """
    return (*_time_changes(validation), *_channel_changes(validation.float(), production.float()))


def _time_changes(before: Tensor) -> Iterator[Change]:
    steps = before.shape[1]
    yield Change("reversed", "time runs backwards", lambda x: x.flip(1))
    for shift in sorted({1, max(1, steps // 10), max(1, steps // 4)}):
        text = f"series are {shift} {'step' if shift == 1 else 'steps'}"
        yield Change(f"late {shift}", f"{text} late", partial(_moved, steps=shift))
        yield Change(f"early {shift}", f"{text} early", partial(_moved, steps=-shift))
    for factor in (2, 4):
        if steps >= 4 * factor:
            text = f"every value is held for {factor} steps (lower sampling rate)"
            held = torch.arange(steps, device=before.device) // factor * factor
            yield Change(f"held {factor}", text, partial(_at_steps, steps=held))
            text = f"series are sampled {factor} times as slowly as in validation"
            slow = torch.arange(steps, device=before.device) // factor
            yield Change(f"slow {factor}", text, partial(_at_steps, steps=slow))


def _channel_changes(before: Tensor, after: Tensor) -> Iterator[Change]:
    """Unit, offset, exchange and stuck values of one channel or of all."""
    channels = before.shape[2]
    if channels > _MOST_CHANNELS:
        return
    means, others = (x.nanmean((0, 1)) for x in (before, after))
    stuck = (after.diff(dim=1) == 0).float().mean((0, 1)) - (before.diff(dim=1) == 0).float().mean(
        (0, 1)
    )
    for c in range(channels):
        mean, other = float(means[c]), float(others[c])
        spread = float(before[..., c].nan_to_num(mean).std()) + _TINY
        ratio = float(after[..., c].nan_to_num(other).std()) / spread
        of = f"channel {c}"
        if mean and other / mean > 0:
            factor = other / mean
            text = f"{of} is multiplied by {factor:.3g} (unit)"
            yield Change(f"unit {c}", text, partial(_affine, channel=c, gain=factor), 1)
        text = f"{of} is multiplied by {ratio:.3g} (unit)"
        yield Change(f"spread {c}", text, partial(_affine, channel=c, gain=ratio), 1)
        text = f"{other - mean:+.3g} is added to {of} (offset)"
        offset = other - mean
        yield Change(f"offset {c}", text, partial(_affine, channel=c, shift=offset), 1)
        text = f"{of} has its sign reversed"
        yield Change(f"sign {c}", text, partial(_affine, channel=c, gain=-1.0))
        if float(stuck[c]) > 0.1:
            text = f"{of} is stuck at its first value"
            yield Change(f"stuck {c}", text, partial(_stuck, channel=c))
            constant = float(after[..., c].nanmedian())
            text = f"{of} is stuck at {constant:.3g}"
            same = partial(_affine, channel=c, gain=0.0, shift=constant)
            yield Change(f"constant {c}", text, same, 1)
        for d in range(c + 1, channels):
            text = f"channels {c} and {d} are exchanged"
            order = [d if i == c else c if i == d else i for i in range(channels)]
            yield Change(f"exchanged {c} {d}", text, partial(_in_order, channels=order))


def _affine(series: Tensor, channel: int, gain: float = 1.0, shift: float = 0.0) -> Tensor:
    changed = series.clone()
    changed[..., channel] = (series[..., channel] * gain + shift).to(series.dtype)
    return changed


def _stuck(series: Tensor, channel: int) -> Tensor:
    changed = series.clone()
    changed[..., channel] = series[:, :1, channel]
    return changed


def _in_order(series: Tensor, channels: list[int]) -> Tensor:
    return series[..., channels]


def _at_steps(series: Tensor, steps: Tensor) -> Tensor:
    return series[:, steps]


def _moved(series: Tensor, steps: int) -> Tensor:
    """The series later by some steps; the first value fills the start (the last one the end)."""
    places = torch.arange(series.shape[1], device=series.device) - steps
    return series[:, places.clamp(0, series.shape[1] - 1)]


SERIES = Modality("series", series_properties, series_changes)

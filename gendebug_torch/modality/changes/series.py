"""What acquisition and serving code do to series: time, units, order and failures of channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.modality.modality import Change

# Standard errors from which a channel moved, so that its own changes are tried.
_MOVED = 4.0
# Channels that moved most, of which changes are tried one by one and pairs are exchanged.
_MOST_MOVED = 12
_TINY = 1e-8
_LEAST_STUCK = 0.1


def series_changes(validation: Tensor, production: Tensor) -> tuple[Change, ...]:
    """What may have been done to series of validation on their way into production.

    Changes of single channels are tried of those channels that moved.

    Args:
        validation: series `[n, t, c]`; missing values are NaN.
        production: series of the same shape of row.
    """
    before, after = validation.float(), production.float()
    channels = _moved(before, after)
    return (
        *_time(before),
        *_gaps(before),
        *(change for channel in channels for change in _values(before, after, channel)),
        *(change for channel in channels for change in _failures(before, after, channel)),
        *_order(before, channels),
        *_all_channels(before, after),
    )


def _moved(before: Tensor, after: Tensor) -> list[int]:
    """Channels whose level, spread or steps differ by more than chance, the most moved first."""
    scores = torch.zeros(before.shape[2])
    for measure in (_level, _spread, _step_size, _turn):
        one, two = measure(before), measure(after)
        error = (one.var(0) / len(one) + two.var(0) / len(two)).sqrt()
        gap = (two.mean(0) - one.mean(0)).abs()
        scores = torch.maximum(scores, (gap / (error + _TINY * (1 + gap))).cpu())
    order = scores.argsort(descending=True, stable=True)[:_MOST_MOVED].tolist()
    return [channel for channel in order if float(scores[channel]) > _MOVED]


def _level(series: Tensor) -> Tensor:
    return series.nanmean(1)


def _spread(series: Tensor) -> Tensor:
    return (series - series.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()


def _step_size(series: Tensor) -> Tensor:
    return series.diff(dim=1).abs().nanmean(1)


def _turn(series: Tensor) -> Tensor:
    """Difference between the second and the first half."""
    half = max(1, series.shape[1] // 2)
    return series[:, -half:].nanmean(1) - series[:, :half].nanmean(1)


def _time(before: Tensor) -> Iterator[Change]:
    """Direction, position and rate of time."""
    steps = before.shape[1]
    yield Change("reversed", "time runs backwards", lambda x: x.flip(1))
    for shift in sorted({1, 2, max(1, steps // 10), max(1, steps // 4)}):
        text = f"series are {shift} {'step' if shift == 1 else 'steps'}"
        yield Change(f"late {shift}", f"{text} late", partial(_shifted, steps=shift))
        yield Change(f"early {shift}", f"{text} early", partial(_shifted, steps=-shift))
    yield from _rates(before)


def _rates(before: Tensor) -> Iterator[Change]:
    """Other sampling rates, and smoothing."""
    steps = before.shape[1]
    for factor in (2, 4):
        if steps >= 4 * factor:
            text = f"every value is held for {factor} steps (lower sampling rate)"
            held = torch.arange(steps, device=before.device) // factor * factor
            yield Change(f"held {factor}", text, partial(_at_steps, steps=held))
            text = f"only every {factor}th value is measured, those between are interpolated"
            yield Change(f"interpolated {factor}", text, partial(_interpolated, factor=factor))
            text = f"series are sampled {factor} times as often as in validation"
            slow = torch.arange(steps, device=before.device) // factor
            yield Change(f"slow {factor}", text, partial(_at_steps, steps=slow))
            # Series that end now, whenever they start.
            latest = partial(_at_steps, steps=steps - 1 - slow.flip(0))
            yield Change(f"slow {factor} to the end", f"{text}, up to the same end", latest)
            text = f"series are sampled {factor} times as seldom as in validation"
            fast = (torch.arange(steps, device=before.device) * factor).clamp(max=steps - 1)
            yield Change(f"fast {factor}", text, partial(_at_steps, steps=fast))
    for width in (3, 7):
        if steps >= 2 * width:
            text = f"series are smoothed over {width} steps"
            yield Change(f"smoothed {width}", text, partial(_smoothed, width=width))


def _gaps(before: Tensor) -> Iterator[Change]:
    if bool(before.isnan().any()):
        yield Change("gaps as 0", "missing steps are filled with 0", lambda x: x.nan_to_num())


def _values(before: Tensor, after: Tensor, channel: int) -> Iterator[Change]:
    """Unit, offset and sign of a channel."""
    mean, other = (float(side[..., channel].nanmean()) for side in (before, after))
    spreads = [float(_deviation(side[..., channel])) for side in (before, after)]
    ratio, of = spreads[1] / (spreads[0] + _TINY), f"channel {channel}"
    change = partial(_affine, channel=channel)
    if mean and other / mean > 0:
        factor = other / mean
        text = f"{of} is multiplied by {factor:.3g} (unit)"
        yield Change(f"unit {channel}", text, partial(change, gain=factor), 1)
    text = f"{of} is multiplied by {ratio:.3g} (unit)"
    yield Change(f"spread {channel}", text, partial(change, gain=ratio), 1)
    text = f"{other - mean:+.3g} is added to {of} (offset)"
    yield Change(f"offset {channel}", text, partial(change, shift=other - mean), 1)
    shift = other - mean * ratio
    text = f"{of} is multiplied by {ratio:.3g} and {shift:+.3g} is added (unit)"
    yield Change(f"scale {channel}", text, partial(change, gain=ratio, shift=shift), 2)
    yield Change(f"sign {channel}", f"{of} has its sign reversed", partial(change, gain=-1.0))


def _failures(before: Tensor, after: Tensor, channel: int) -> Iterator[Change]:
    """A channel that is stuck, late, clipped or noisy."""
    own, live = before[..., channel], after[..., channel]
    repeated = [float((side.diff(dim=1) == 0).float().mean()) for side in (own, live)]
    if repeated[1] - repeated[0] > _LEAST_STUCK:
        yield from _stuck_values(live, channel)
    steps = before.shape[1]
    for shift in sorted({1, 2, max(1, steps // 10)}):
        for sign, word in ((1, "late"), (-1, "early")):
            text = f"channel {channel} alone is {shift} {'step' if shift == 1 else 'steps'} {word}"
            moved = partial(_shifted_channel, channel=channel, steps=sign * shift)
            yield Change(f"{word} {shift} in {channel}", text, moved)
    yield from _limits(own, live, channel)


def _stuck_values(live: Tensor, channel: int) -> Iterator[Change]:
    """A channel that repeats its first value, a value from some step on, or a constant."""
    of, steps = f"channel {channel}", live.shape[1]
    stuck = partial(_stuck, channel=channel)
    yield Change(f"stuck {channel}", f"{of} is stuck at its first value", stuck)
    for start in sorted({steps // 4, steps // 2, 3 * steps // 4} - {0}):
        text = f"{of} is stuck from step {start} on"
        yield Change(f"stuck {channel} from {start}", text, partial(stuck, start=start), 1)
    constant = float(live.nanmedian())
    text = f"{of} is stuck at {constant:.3g}"
    same = partial(_affine, channel=channel, gain=0.0, shift=constant)
    yield Change(f"constant {channel}", text, same, 1)


def _limits(own: Tensor, live: Tensor, channel: int) -> Iterator[Change]:
    """A channel that is clipped or noisy."""
    of = f"channel {channel}"
    low, high = (float(x) for x in (live.nan_to_num(math.inf).amin(), live.nan_to_num(0).amax()))
    if high < float(own.nan_to_num(-math.inf).amax()) or low > float(own.nan_to_num(0).amin()):
        text = f"{of} is clipped to {low:.3g} ... {high:.3g}"
        clipped = partial(_clipped, channel=channel, low=low, high=high)
        yield Change(f"clipped {channel}", text, clipped, 2)
    noise = _noise_of(own, live)
    if noise > 0:
        text = f"noise of standard deviation {noise:.2g} is added to {of}"
        yield Change(f"noise {channel}", text, partial(_noisy, channel=channel, size=noise), 1)


def _order(before: Tensor, channels: list[int]) -> Iterator[Change]:
    """Two channels that moved in each other's place."""
    for c in channels:
        for d in channels:
            if c < d:
                text = f"channels {c} and {d} are exchanged"
                order = list(range(before.shape[2]))
                order[c], order[d] = d, c
                yield Change(f"exchanged {c} {d}", text, partial(_in_order, channels=order))
    if before.shape[2] > 2 and len(channels) > 2:
        yield Change("reversed channels", "channels come in reverse order", lambda x: x.flip(2))
        for step, word in ((1, "up"), (-1, "down")):
            text = f"channels are moved {word} by one"
            yield Change(f"channels {word}", text, partial(torch.roll, shifts=step, dims=2))


def _all_channels(before: Tensor, after: Tensor) -> Iterator[Change]:
    """A standardization that serving applies or leaves out."""
    if before.shape[2] < 2:
        return
    means = [side.nanmean((0, 1)) for side in (before, after)]
    spreads = [_deviation(side, (0, 1)) for side in (before, after)]
    gain = spreads[1] / (spreads[0] + _TINY)
    shift = means[1] - means[0] * gain
    text = "channels are standardized with other means and standard deviations"
    change = partial(_rescaled, gain=gain, shift=shift)
    yield Change("standardization", text, change, 2 * before.shape[2])
    factor = float(spreads[1].norm() / (spreads[0].norm() + _TINY))
    text = f"all channels are multiplied by {factor:.3g} (unit)"
    yield Change("all channels", text, lambda x: x * factor, 1)


def _deviation(values: Tensor, dims: tuple[int, ...] = (0, 1)) -> Tensor:
    centred = values - values.nanmean(dims, keepdim=True)
    return centred.square().nanmean(dims).sqrt()


def _noise_of(own: Tensor, live: Tensor) -> float:
    """Standard deviation of noise that explains the rise of the second differences."""
    if own.shape[1] < 3:
        return 0.0
    energies = [float(side.diff(dim=1, n=2).square().nanmean()) for side in (own, live)]
    return math.sqrt(max(0.0, energies[1] - energies[0]) / 6)


def _affine(series: Tensor, channel: int, gain: float = 1.0, shift: float = 0.0) -> Tensor:
    changed = series.clone()
    changed[..., channel] = (series[..., channel] * gain + shift).to(series.dtype)
    return changed


def _rescaled(series: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return (series * gain + shift).to(series.dtype)


def _stuck(series: Tensor, channel: int, start: int = 0) -> Tensor:
    changed = series.clone()
    changed[:, start:, channel] = series[:, start : start + 1, channel]
    return changed


def _clipped(series: Tensor, channel: int, low: float, high: float) -> Tensor:
    changed = series.clone()
    changed[..., channel] = series[..., channel].clamp(low, high)
    return changed


def _noisy(series: Tensor, channel: int, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    changed, own = series.clone(), series[..., channel]
    changed[..., channel] = own + size * torch.randn(own.shape, generator=generator).to(own)
    return changed


def _in_order(series: Tensor, channels: list[int]) -> Tensor:
    return series[..., channels]


def _at_steps(series: Tensor, steps: Tensor) -> Tensor:
    return series[:, steps]


def _interpolated(series: Tensor, factor: int) -> Tensor:
    """Every factor-th value, with straight lines between them."""
    steps = torch.arange(series.shape[1], device=series.device)
    left = steps // factor * factor
    right = (left + factor).clamp(max=int(left[-1]))
    weight = ((steps - left) / factor)[None, :, None]
    return (series[:, left] * (1 - weight) + series[:, right] * weight).to(series.dtype)


def _smoothed(series: Tensor, width: int) -> Tensor:
    """Moving average; the first and the last value fill the ends."""
    flat = functional.pad(series.float().movedim(1, 2), (width // 2, width // 2), mode="replicate")
    return functional.avg_pool1d(flat, width, stride=1).movedim(1, 2).to(series.dtype)


def _shifted(series: Tensor, steps: int) -> Tensor:
    """The series later by some steps; the first value fills the start (the last one the end)."""
    places = torch.arange(series.shape[1], device=series.device) - steps
    return series[:, places.clamp(0, series.shape[1] - 1)]


def _shifted_channel(series: Tensor, channel: int, steps: int) -> Tensor:
    changed = series.clone()
    changed[..., channel] = _shifted(series[..., channel : channel + 1], steps)[..., 0]
    return changed

"""What serving code does to images: named transformations, fitted where they have a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.modality.modality import Change

# Channel means and standard deviations that networks are commonly fed with, of pixels in 0..1.
_CONSTANTS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "MNIST": ((0.1307,), (0.3081,)),
}
_LEAST_FACTOR = 1.02


def image_changes(validation: Tensor, production: Tensor) -> tuple[Change, ...]:
    """What may have been done to images of validation on their way into production.

    Args:
        validation: images `[n, c, h, w]` or `[n, h, w, c]`, of any type.
        production: images of the same shape of row.
    """
    grey = validation.ndim == 3
    last = not grey and validation.shape[3] in (1, 3, 4) and validation.shape[1] not in (1, 3, 4)

    def channels_first(images: Tensor) -> Tensor:
        images = images[:, None] if grey else images
        return (images.movedim(3, 1) if last else images).float()

    def fitting_the_batch(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def changed(batch: Tensor) -> Tensor:
            images = apply(channels_first(batch))
            images = images.movedim(1, 3) if last else images
            images = images[:, 0] if grey else images
            if batch.dtype.is_floating_point:
                return images.to(batch.dtype)
            limits = torch.iinfo(batch.dtype)
            return images.round().clamp(limits.min, limits.max).to(batch.dtype)

        return changed

    before, after = channels_first(validation), channels_first(production)
    found = (*_values(before, after), *_geometry(before), *_quality(before), *_noise(before, after))
    return tuple(
        Change(change.name, change.text, fitting_the_batch(change.apply), change.complexity)
        for change in found
    )


def _values(before: Tensor, after: Tensor) -> Iterator[Change]:
    """Changes of pixel values: order, scale, offset and normalization of the channels."""
    channels = before.shape[1]
    low, high = float(before.amin()), float(before.amax())

    def column(values: Tensor | tuple[float, ...]) -> Tensor:
        return torch.as_tensor(values, dtype=before.dtype, device=before.device)[:, None, None]

    if channels >= 3:
        text = "red and blue are exchanged"
        yield Change("channel_order", text, lambda x: x[:, [2, 1, 0, *range(3, channels)]])
        text = "images are grey: their colour is lost"
        yield Change("grey", text, lambda x: x.mean(1, keepdim=True).expand_as(x))
    yield Change("times_255", "pixels are in 0..255 and not in 0..1", lambda x: x * 255)
    yield Change("over_255", "pixels are divided by 255", lambda x: x / 255)
    yield Change("inverted", "images are inverted: dark is bright", lambda x: low + high - x)
    means, deviations = _channel_moments(before)
    text = "normalization is applied twice"
    center, spread = column(means), column(deviations)
    yield Change("normalized", text, partial(_affine, gain=1 / spread, shift=-center / spread))
    yield from _constants(channels, column)
    yield from _other_constants(channels, column)
    yield from _fitted(before, after, column)


def _constants(channels: int, column: Callable[[tuple[float, ...]], Tensor]) -> Iterator[Change]:
    """Normalization with common constants, left out or done again."""
    for name, constants in _CONSTANTS.items():
        if len(constants[0]) == channels:
            mean, deviation = map(column, constants)
            text = f"normalization with the constants of {name} is missing"
            yield Change(f"without {name}", text, partial(_affine, gain=deviation, shift=mean))
            text = f"pixels are normalized with the constants of {name}"
            yield Change(
                f"with {name}", text, partial(_affine, gain=1 / deviation, shift=-mean / deviation)
            )


def _other_constants(
    channels: int, column: Callable[[tuple[float, ...]], Tensor]
) -> Iterator[Change]:
    """Normalization with the constants of one data set in the place of another's."""
    fitting = {name: pair for name, pair in _CONSTANTS.items() if len(pair[0]) == channels}
    for own, (mean, deviation) in fitting.items():
        for other, (others_mean, others_deviation) in fitting.items():
            if own == other:
                continue
            text = f"pixels are normalized with the constants of {other} and not of {own}"
            gain = column(deviation) / column(others_deviation)
            shift = (column(mean) - column(others_mean)) / column(others_deviation)
            yield Change(f"{other} for {own}", text, partial(_affine, gain=gain, shift=shift))


def _fitted(before: Tensor, after: Tensor, column: Callable[[Tensor], Tensor]) -> Iterator[Change]:
    """Factor, offset, contrast and colour cast that bring the first two moments into agreement."""
    low, high = float(before.amin()), float(before.amax())
    stays = float(after.amin()) >= low and float(after.amax()) <= high

    def within(x: Tensor) -> Tensor:
        """Serving code that clips keeps to the range of before."""
        return x.clamp(low, high) if stays else x

    mean, other = float(before.mean()), float(after.mean())
    factor = other / mean if mean else math.nan
    if factor > 0 and abs(math.log(factor)) > math.log(_LEAST_FACTOR):
        text = f"pixel values are multiplied by {factor:.2g} (brightness)"
        yield Change("scaled", text, lambda x: within(x * factor), 1)
    offset = other - mean
    text = f"{offset:+.2g} is added to all pixel values (brightness)"
    yield Change("offset", text, lambda x: within(x + offset), 1)
    spreads = [float(_image_contrast(images).mean()) for images in (before, after)]
    if spreads[0] > 0:
        ratio = spreads[1] / spreads[0]
        text = f"contrast is multiplied by {ratio:.2g}"
        yield Change("contrast", text, lambda x: within(_with_contrast(x, ratio)), 1)
    yield from _gamma(before, after)
    if before.shape[1] >= 3:
        gains = after.mean((0, 2, 3)) / before.mean((0, 2, 3))
        if bool(gains.isfinite().all()) and float(gains.amin()) > 0:
            told = ", ".join(f"{gain:.2g}" for gain in gains.tolist())
            text = f"the channels are multiplied by {told} (colour cast)"
            cast = column(gains)
            yield Change("colour_cast", text, lambda x: within(x * cast), before.shape[1])
    (mean_b, std_b), (mean_a, std_a) = _channel_moments(before), _channel_moments(after)
    gain = column(std_a / std_b)
    shift = column(mean_a) - column(mean_b) * gain
    text = "channels are normalized with other means and standard deviations"
    yield Change(
        "normalization", text, partial(_affine, gain=gain, shift=shift), 2 * before.shape[1]
    )


def _gamma(before: Tensor, after: Tensor) -> Iterator[Change]:
    """The exponent that brings the mean of pixels in 0..1 to that of production."""
    low, high = float(before.amin()), float(before.amax())
    if high - low < 1e-6:
        return
    unit = ((before - low) / (high - low)).flatten()
    wanted = float(((after - low) / (high - low)).clamp(0, 1).mean())
    exponents = torch.linspace(-1.5, 1.5, 61).exp()
    sample = unit[:: max(1, len(unit) // 100_000)]
    means = torch.stack([sample.pow(float(e)).mean() for e in exponents])
    gamma = float(exponents[(means - wanted).abs().argmin()])
    if abs(math.log(gamma)) > math.log(1.1):
        text = f"pixels are raised to the power {gamma:.2g} (gamma)"
        changed = partial(_powered, gamma=gamma, low=low, high=high)
        yield Change("gamma", text, changed, 1)


def _powered(images: Tensor, gamma: float, low: float, high: float) -> Tensor:
    return ((images - low) / (high - low)).clamp(0, 1).pow(gamma) * (high - low) + low


def _geometry(before: Tensor) -> Iterator[Change]:
    """Rotations, mirrors, crops and margins."""
    h, w = before.shape[2:]
    if h == w:
        for turns, text in ((1, "by 90° to the left"), (3, "by 90° to the right")):
            turned = partial(torch.rot90, k=turns, dims=(2, 3))
            yield Change(f"rotated {90 * turns}", f"images are rotated {text}", turned)
        text = "rows and columns of the images are exchanged (transposed)"
        yield Change("transposed", text, lambda x: x.transpose(2, 3))
    yield Change("rotated 180", "images are upside down", lambda x: x.flip(2, 3))
    yield Change("mirrored", "images are mirrored", lambda x: x.flip(3))
    text = "images are mirrored top to bottom"
    yield Change("mirrored top to bottom", text, lambda x: x.flip(2))
    for share in (0.9, 0.75, 0.6):
        text = f"images are cropped to the inner {share:.0%} and enlarged"
        yield Change(f"cropped {share}", text, partial(_cropped, share=share))
    for share in (0.85, 0.7):
        text = f"images are shrunk to {share:.0%} within a margin"
        yield Change(f"margin {share}", text, partial(_with_margin, share=share))
    yield from _placement(h, w)


def _placement(h: int, w: int) -> Iterator[Change]:
    """Another aspect ratio, and images that are moved."""
    for across, name in ((True, "narrowed"), (False, "flattened")):
        text = f"images are {name} to 75% within a margin (aspect ratio)"
        squeezed = partial(_squeezed, share=0.75, across=across)
        yield Change(name, text, squeezed)
    for size in sorted({max(1, round(min(h, w) * share)) for share in (0.05, 0.1, 0.2)}):
        for dims, words in ((2, ("down", "up")), (3, ("to the right", "to the left"))):
            for sign, word in zip((1, -1), words, strict=True):
                text = f"images are moved {word} by {size} pixels"
                moved = partial(_moved, by=sign * size, dim=dims)
                yield Change(f"moved {word} {size}", text, moved)


def _quality(before: Tensor) -> Iterator[Change]:
    """Blur, low resolution, another resize kernel and compression."""
    h, w = before.shape[2:]
    for sigma in (0.7, 1.2, 2.0):
        text = f"images are blurred (Gaussian, {sigma:g} pixels)"
        yield Change(f"blurred {sigma}", text, partial(_blurred, sigma=sigma))
    for factor in (2, 4):
        if min(h, w) >= 4 * factor:
            text = f"images were shrunk by {factor} and enlarged again (low resolution)"
            yield Change(f"resolution {factor}", text, partial(_resampled, factor=factor))
            text = f"images were shrunk by {factor} and enlarged without smoothing (resize kernel)"
            yield Change(f"kernel {factor}", text, partial(_resampled, factor=factor, nearest=True))
            text = (
                f"1 of {factor} pixels across and down is kept, and enlarged again (resize kernel)"
            )
            yield Change(f"every {factor}", text, partial(_thinned, factor))
    low, high = float(before.amin()), float(before.amax())
    if min(h, w) >= 8 and high > low:
        for quality in (30, 10):
            text = f"images are compressed strongly (JPEG, quality about {quality})"
            compressed = partial(_compressed, quality=quality, low=low, high=high)
            yield Change(f"jpeg {quality}", text, compressed)


def _noise(before: Tensor, after: Tensor) -> Iterator[Change]:
    """Noise whose size follows from the Laplacian: it adds 20 times its variance to that."""
    if min(before.shape[2:]) < 3:
        return
    energies = [float(laplacian_of(images).square().mean()) for images in (before, after)]
    if energies[1] > energies[0]:
        size = math.sqrt((energies[1] - energies[0]) / 20)
        text = f"noise of standard deviation {size:.2g} is added to the pixels"
        yield Change("noise", text, partial(_noisy, size=size), 1)


def laplacian_of(images: Tensor) -> Tensor:
    """Discrete Laplacian of the inner pixels, `[n, c, h - 2, w - 2]`."""
    inner = images[:, :, 1:-1, 1:-1]
    vertical = images[:, :, :-2, 1:-1] + images[:, :, 2:, 1:-1]
    return vertical + images[:, :, 1:-1, :-2] + images[:, :, 1:-1, 2:] - 4 * inner


def _noisy(images: Tensor, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return images + size * torch.randn(images.shape, generator=generator).to(images)


def _affine(images: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return images * gain + shift


def _channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, `[c]` each; the latter never 0."""
    deviation = images.std((0, 2, 3), correction=0)
    return images.mean((0, 2, 3)), deviation.clamp(min=1e-6)


def _image_contrast(images: Tensor) -> Tensor:
    return images.flatten(1).std(1, correction=0)


def _with_contrast(images: Tensor, ratio: float) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * ratio


def _cropped(images: Tensor, share: float) -> Tensor:
    h, w = images.shape[2:]
    rows, columns = max(1, round(h * share)), max(1, round(w * share))
    top, left = (h - rows) // 2, (w - columns) // 2
    inner = images[:, :, top : top + rows, left : left + columns]
    return functional.interpolate(inner, (h, w), mode="bilinear", antialias=True)


def _with_margin(images: Tensor, share: float) -> Tensor:
    return _within_margins(images, share, share)


def _squeezed(images: Tensor, share: float, across: bool) -> Tensor:
    return _within_margins(images, 1.0 if across else share, share if across else 1.0)


def _moved(images: Tensor, by: int, dim: int) -> Tensor:
    """Images moved along one side; the darkest value fills what becomes free."""
    moved = images.roll(by, dim)
    size = images.shape[dim]
    free = torch.arange(size, device=images.device)
    free = free < by if by > 0 else free >= size + by
    shape = [1, 1, 1, 1]
    shape[dim] = size
    return torch.where(free.reshape(shape), images.amin(), moved)


def _within_margins(images: Tensor, down: float, across: float) -> Tensor:
    h, w = images.shape[2:]
    rows, columns = max(1, round(h * down)), max(1, round(w * across))
    small = functional.interpolate(images, (rows, columns), mode="bilinear", antialias=True)
    top, left = (h - rows) // 2, (w - columns) // 2
    whole = images.amin().expand_as(images).clone()
    whole[:, :, top : top + rows, left : left + columns] = small
    return whole


def _blurred(images: Tensor, sigma: float) -> Tensor:
    reach = min(math.ceil(3 * sigma), *(side - 1 for side in images.shape[2:]))
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = (-places.square() / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1)[:, None, :, None]
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    down = functional.conv2d(padded, kernel, groups=images.shape[1])
    return functional.conv2d(down, kernel.transpose(2, 3), groups=images.shape[1])


def _thinned(factor: int, images: Tensor) -> Tensor:
    """One of so many pixels a side, with smooth values between them, as without antialiasing."""
    h, w = images.shape[2:]
    kept = functional.interpolate(images, (max(1, h // factor), max(1, w // factor)))
    return functional.interpolate(kept, (h, w), mode="bilinear")


def _resampled(images: Tensor, factor: int, nearest: bool = False) -> Tensor:
    size = (images.shape[2], images.shape[3])
    small = (max(1, size[0] // factor), max(1, size[1] // factor))
    if nearest:
        return functional.interpolate(functional.interpolate(images, small), size)
    smooth = functional.interpolate(images, small, mode="bilinear", antialias=True)
    return functional.interpolate(smooth, size, mode="bilinear")


# Quantisation of luminance, ITU-T T.81 Table K.1.
_QUANTA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)


def _compressed(images: Tensor, quality: int, low: float, high: float) -> Tensor:
    """Channels after the quantisation of JPEG: cosine transforms of 8 x 8 blocks, rounded.

    Colours are not subsampled, which a decoder would show as a slight blur of hue alone.
    """
    n, c, h, w = images.shape
    values = (images - low) / (high - low) * 255 - 128
    padded = functional.pad(values, (0, -w % 8, 0, -h % 8), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    steps = torch.arange(8, dtype=images.dtype, device=images.device)
    basis = ((2 * steps[None] + 1) * steps[:, None] * math.pi / 16).cos() / 2
    basis[0] /= math.sqrt(2)
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    quanta = torch.tensor(_QUANTA, dtype=images.dtype, device=images.device).reshape(8, 8) * scale
    waves = basis @ blocks @ basis.T
    restored = basis.T @ ((waves / quanta).round() * quanta) @ basis
    rows, columns = restored.shape[2:4]
    joined = restored.permute(0, 1, 2, 4, 3, 5).reshape(n, c, 8 * rows, 8 * columns)
    return ((joined[:, :, :h, :w] + 128) / 255).clamp(0, 1) * (high - low) + low

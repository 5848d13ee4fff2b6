"""Images: brightness, contrast, sharpness, colour and places, and what serving code does to them.

Sources: luminance of ITU-R BT.601; Laplacian as measure of focus, Pech-Pacheco et al. (2000);
colourfulness, Hasler and Suesstrunk (2003); quantisation of JPEG, ITU-T T.81 (1992), Annex K.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.modality.changes.image import image_changes, laplacian_of
from gendebug_torch.modality.modality import Modality

_LUMINANCE = (0.299, 0.587, 0.114)
_COLUMNS = ("left", "middle", "right")
_ROWS = ("upper", "middle", "lower")
REGIONS = tuple(
    "center" if row == column == "middle" else f"{row} {column}"
    for row in _ROWS
    for column in _COLUMNS
)
_TINY = 1e-8
# Most pixels a side of the pictures that near duplicates are found by, and their largest value in
# standard deviations.
_KEY_SIZE = 32
_KEY_LIMIT = 4.0


def unit_images(batch: Tensor) -> Tensor:
    """Images as float `[n, c, h, w]`: channels first, integers scaled by the range of their type.

    Args:
        batch: `[n, c, h, w]`, `[n, h, w, c]` or grey `[n, h, w]`, floats in any unit or integers.
    """
    if batch.ndim == 3:
        batch = batch[:, None]
    last = batch.shape[3] in (1, 3, 4) and batch.shape[1] not in (1, 3, 4)
    images = batch.movedim(3, 1) if last else batch
    if images.dtype is torch.bool or images.is_floating_point():
        return images.float()
    return images.float() / torch.iinfo(images.dtype).max


def luminance(images: Tensor) -> Tensor:
    """Brightness of each pixel, `[n, h, w]`, of float images `[n, c, h, w]` (alpha is ignored)."""
    if images.shape[1] < 3:
        return images[:, 0]
    weights = torch.tensor(_LUMINANCE, device=images.device, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images[:, :3], weights)


def image_properties(batch: Tensor) -> dict[str, Tensor]:
    """What a person sees of each image, as numbers `[n]`, in units of the pixels.

    Integers are scaled to 0..1 first. Texture is measured relative to the image's own contrast, so
    that a darker image is not a blurred one.

    Args:
        batch: images `[n, c, h, w]` or `[n, h, w, c]`.
    """
    images = unit_images(batch)
    light = luminance(images)
    flat = light.flatten(1)
    contrast = flat.std(1, correction=0)
    found = {
        "brightness": flat.mean(1),
        "contrast": contrast,
        "darkest pixel": flat.amin(1),
        "brightest pixel": flat.amax(1),
        **_texture(light, contrast),
        **_placement(light),
    }
    if images.shape[1] >= 3:
        found |= _colour(images)
    regions = functional.adaptive_avg_pool2d(light[:, None], 3).flatten(1)
    return found | {
        f"brightness of the {region}": regions[:, i] for i, region in enumerate(REGIONS)
    }


def _texture(light: Tensor, contrast: Tensor) -> dict[str, Tensor]:
    """Sharpness, direction of the edges and entropy of the grey values."""
    across = light.diff(dim=2).square().flatten(1).mean(1)
    down = light.diff(dim=1).square().flatten(1).mean(1)
    laplacian = laplacian_of(light[:, None]).flatten(1)
    focus = laplacian.std(1, correction=0) if laplacian.shape[1] else torch.zeros_like(contrast)
    return {
        "sharpness": focus / (contrast + _TINY),
        "horizontal against vertical edges": ((across + _TINY) / (down + _TINY)).log(),
        "entropy": _entropy(light),
    }


def _entropy(light: Tensor, bins: int = 32) -> Tensor:
    """Entropy in bits of each image's grey values over its own range."""
    flat = light.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    cells = ((flat - low) / (high - low + _TINY) * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(len(flat), bins, device=flat.device)
    shares = counts.scatter_add_(1, cells, torch.ones_like(flat)) / max(1, flat.shape[1])
    bits: Tensor = torch.special.xlogy(shares, shares).sum(1) / math.log(2)
    return -bits


def _placement(light: Tensor) -> dict[str, Tensor]:
    """Centre and extent of what is brighter than the darkest pixel, as shares of the image."""
    h, w = light.shape[1:]
    mass = light - light.amin((1, 2), keepdim=True)
    total = mass.sum((1, 2)) + _TINY
    x = (torch.arange(w, device=light.device) + 0.5) / w
    y = (torch.arange(h, device=light.device) + 0.5) / h
    across, down = mass.sum(1) / total[:, None], mass.sum(2) / total[:, None]
    center_x, center_y = across @ x, down @ y
    spread = across @ x.square() - center_x.square() + down @ y.square() - center_y.square()
    return {
        "horizontal center of brightness": center_x,
        "vertical center of brightness": center_y,
        "extent of brightness": spread.clamp(min=0).sqrt(),
    }


def _colour(images: Tensor) -> dict[str, Tensor]:
    red, green, blue = (images[:, c].flatten(1) for c in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = (red_green.var(1, correction=0) + yellow_blue.var(1, correction=0)).sqrt()
    offset = (red_green.mean(1).square() + yellow_blue.mean(1).square()).sqrt()
    return {
        "red": red.mean(1),
        "green": green.mean(1),
        "blue": blue.mean(1),
        "colorfulness": spread + 0.3 * offset,
    }


def image_key(batch: Tensor) -> Tensor:
    """Small grey pictures `[n, h, w]` int8 with mean 0 and one contrast, for near duplicates.

    They have at most 32 pixels a side.

    Args:
        batch: images as of `image_properties`.
    """
    light = luminance(unit_images(batch))
    size = min(light.shape[1], _KEY_SIZE), min(light.shape[2], _KEY_SIZE)
    small = functional.adaptive_avg_pool2d(light[:, None], size)[:, 0]
    centred = small - small.mean((1, 2), keepdim=True)
    contrast = centred.square().mean((1, 2), keepdim=True).sqrt()
    scaled = (centred / (contrast + _TINY)).nan_to_num(0.0).clamp(-_KEY_LIMIT, _KEY_LIMIT)
    return (scaled * (127 / _KEY_LIMIT)).round().to(torch.int8)


IMAGE = Modality(
    "image",
    image_properties,
    image_changes,
    image_key,
    axes=(3, 4),
    shape="[n, c, h, w], [n, h, w, c] or [n, h, w]",
)

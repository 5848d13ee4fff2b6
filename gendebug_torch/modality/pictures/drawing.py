"""Rows of images, series and texts drawn on an axis, with weights or boxes over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.modality.image import unit_images
from gendebug_torch.modality.pictures.regions import Box
from gendebug_torch.modality.text import padding_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels of a drawn image, and lengths of drawn texts.
_PIXELS = 96
_TOKENS, _TEXTS = 26, 5
_LETTERS = 90
RAISES = (0.84, 0.37, 0.0)


def pictures(images: Tensor, *, low: float | None = None, high: float | None = None) -> Any:
    """Images as an array of colours in 0..1, `[n, h, w, 3]`.

    Args:
        images: `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`, of any type.
        low: value that becomes black; the smallest by default.
        high: value that becomes white; the largest by default.
    """
    images = images[:, None] if images.ndim == 3 else images
    pixels = unit_images(images.cpu())
    if pixels.shape[1] in (2, 3, 4):
        pixels = pixels[:, :3] if pixels.shape[1] > 2 else pixels[:, :1]
    low = float(pixels.amin()) if low is None else low
    high = float(pixels.amax()) if high is None else high
    scaled = ((pixels - low) / max(high - low, 1e-9)).clamp(0, 1)
    colours = scaled if scaled.shape[1] == 3 else scaled[:, :1].expand(-1, 3, -1, -1)
    found: np.ndarray[Any, Any] = colours.movedim(1, 3).numpy()
    return found


def draw_rows(
    ax: Axes, rows: Mapping[str, Tensor], boxes: Mapping[str, Sequence[Box | None]] | None = None
) -> Axes:
    """Groups of rows below each other: images as a mosaic, series as lines, ids as texts.

    Numbers `[n, t]` are series of one channel.

    Args:
        ax: axis to draw on.
        rows: at most a few inputs `[n, ...]` of each group, by the name of the group.
        boxes: region to mark in each input of a group, by the name of the group; None marks none.
    """
    ax.grid(visible=False)
    first = next(iter(rows.values()))
    marks = [(boxes or {}).get(name, ()) for name in rows]
    if first.ndim == 2 and first.is_floating_point():
        _draw_series(ax, {name: values[..., None] for name, values in rows.items()}, marks)
    elif first.ndim == 2:
        _draw_tokens(ax, rows)
    elif first.ndim == 4 or (first.ndim == 3 and first.shape[1] == first.shape[2]):
        _draw_mosaic(ax, rows, marks)
    else:
        _draw_series(ax, rows, marks)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def _draw_mosaic(
    ax: Axes, rows: Mapping[str, Tensor], boxes: Sequence[Sequence[Box | None]]
) -> None:
    """One line of images for each group, enlarged or thinned to about a hundred pixels."""
    floats = [images.float() if images.is_floating_point() else images for images in rows.values()]
    limits = [
        (float(unit_images(_four(x)).amin()), float(unit_images(_four(x)).amax())) for x in floats
    ]
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    drawn = [pictures(images, low=low, high=high) for images in floats]
    step = max(1, min(drawn[0].shape[1:3]) // _PIXELS)
    canvas, height, width = tiled([thinned(images) for images in drawn])
    ax.imshow(canvas, interpolation="nearest", aspect="equal")
    for i, line in enumerate(boxes):
        for j, box in enumerate(line):
            if box is not None:
                _mark(ax, [edge / step for edge in box], i * height, j * width)
    ax.set_yticks([(i + 0.45) * height for i in range(len(rows))], list(rows))
    ax.set_xticks([])
    ax.tick_params(length=0)


def thinned(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Images `[n, h, w, 3]` of at most about a hundred pixels per side."""
    step = max(1, min(images.shape[1:3]) // _PIXELS)
    return images[:, ::step, ::step]


def tiled(rows: Sequence[np.ndarray[Any, Any]]) -> tuple[np.ndarray[Any, Any], int, int]:
    """Lines of images on white, with the height and the width of a cell.

    Args:
        rows: images `[n, h, w, 3]` of each line.
    """
    h, w = rows[0].shape[1:3]
    gap = max(1, h // 14)
    height, width = h + gap, w + gap
    canvas = np.ones((height * len(rows), width * max(map(len, rows)), 3))
    for i, images in enumerate(rows):
        for j, image in enumerate(images):
            canvas[i * height : i * height + h, j * width : j * width + w] = image
    return canvas, height, width


def _four(images: Tensor) -> Tensor:
    return images[:, None] if images.ndim == 3 else images


def _mark(ax: Axes, box: Sequence[float], top: int, left: int) -> None:
    """A frame around a part of one image."""
    up, start, down, stop = box
    x = [left + start - 0.5, left + stop - 0.5]
    y = [top + up - 0.5, top + down - 0.5]
    ax.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=RAISES, lw=1.2)


def _draw_series(
    ax: Axes, rows: Mapping[str, Tensor], boxes: Sequence[Sequence[Box | None]]
) -> None:
    """Means of each channel over the rows of each group, one panel per channel."""
    channels = min(4, next(iter(rows.values())).shape[2])
    for channel in range(channels):
        values = [series[..., channel].float().nan_to_num().mean(0) for series in rows.values()]
        low, high = (float(torch.cat(values).amin()), float(torch.cat(values).amax()))
        for name, value, style in zip(rows, values, ("-", "--", ":", "-."), strict=False):
            y = (value - low) / max(high - low, 1e-9) * 0.8 + channels - 1 - channel
            colour = "black" if style == "-" else RAISES
            label = name if channel == 0 else None
            ax.plot(y.numpy(), style, color=colour, lw=1.2, label=label)
    places = {box for line in boxes for box in line if box is not None}
    # Means over rows show a part that lies in one place.
    for box in places if len(places) == 1 else ():
        ax.axvspan(box[1] - 0.5, box[3] - 0.5, color=RAISES, alpha=0.12, lw=0)
    names = [f"channel {channel}" for channel in range(channels)]
    ax.set_yticks([channels - 1 - c + 0.4 for c in range(channels)], names)
    ax.set_xlabel("step")
    ax.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_tokens(ax: Axes, rows: Mapping[str, Tensor]) -> None:
    """Ids in a line for each text, padding as dots."""
    padding = {name: padding_ids(texts) for name, texts in rows.items()}
    lines = {
        name: [" ".join(_word(i, padding[name]) for i in text[:_TOKENS].tolist()) for text in texts]
        for name, texts in rows.items()
    }
    draw_texts(ax, lines)


def _word(token: int, padding: tuple[int, ...]) -> str:
    return "·" if token in padding else str(token)


def draw_texts(ax: Axes, groups: Mapping[str, Sequence[str]]) -> Axes:
    """Groups of texts below each other, each cut to a line.

    Args:
        ax: axis to draw on.
        groups: texts by the name of their group.
    """
    ax.grid(visible=False)
    groups = {name: texts[:_TEXTS] for name, texts in groups.items()}
    total = sum(len(texts) + 1 for texts in groups.values())
    y = 0
    for name, texts in groups.items():
        ax.text(0.0, -y, name, weight="bold", fontsize=9, va="center")
        for text in texts:
            y += 1
            line = " ".join(text.split())
            line = line if len(line) <= _LETTERS else f"{line[: _LETTERS - 1]}…"
            ax.text(0.02, -y, line.replace("$", r"\$"), fontsize=8, va="center", family="monospace")
        y += 1
    ax.set(xlim=(0, 1), ylim=(-total, 0.8), xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax

"""Units of images, series and texts: cells of a grid, stretches of a channel, words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendebug_torch.attribution.counterfactuals.units import Units
from gendebug_torch.errors import did_you_mean, reject
from gendebug_torch.modality.pictures.regions import channels_last, place_of
from gendebug_torch.modality.text import padding_ids

# Cells of an image per side, and stretches of each channel of a series.
_CELLS, _STRETCHES = 6, 8


def regions_as_units(rows: Tensor, modality: str, immutable: Sequence[str]) -> Units:
    """The units of images, series or texts.

    Args:
        rows: training rows `[n, ...]`.
        modality: `image`, `series` or `text`.
        immutable: names of units that may not change, or how they begin.

    Raises:
        InputError: a unit that there is not.
    """
    makers = {"image": _cells, "series": _stretches, "text": _words}
    of, names = makers[modality](rows.shape[1:])
    fixed = torch.zeros(len(names), dtype=torch.bool)
    for wanted in immutable:
        own = torch.tensor([name.startswith(wanted) for name in names])
        if not bool(own.any()):
            got = f"{wanted!r}, as in {names[0]!r}"
            reject("immutable", "units", got, f"{did_you_mean(wanted, names)}Name units.")
        fixed |= own
    free = ~fixed[of.flatten()]
    texts = modality == "text"
    spread = torch.ones(()) if texts else rows.float().std(correction=0)
    if modality == "series":
        spread = rows.float().std((0, 1), correction=0).expand(rows.shape[1:]).flatten()
    scale = torch.where(spread > 0, spread, 1.0).expand(free.shape)
    return Units(
        *(names, of.flatten(), scale, torch.full_like(free, texts), free, free),
        rows=rows.flatten(1),
        shape=tuple(rows.shape[1:]),
        padding=padding_ids(rows) if texts else (),
    )


def _cells(shape: Sequence[int]) -> tuple[Tensor, tuple[str, ...]]:
    """Cell of each pixel in a grid of at most six by six, and where the cells lie."""
    last = channels_last(shape)
    h, w = (shape[0], shape[1]) if last or len(shape) == 2 else (shape[1], shape[2])
    down, across = min(_CELLS, h), min(_CELLS, w)
    rows, columns = (
        torch.div(torch.arange(side) * cells, side, rounding_mode="floor")
        for side, cells in ((h, down), (w, across))
    )
    grid = rows[:, None] * across + columns
    of = grid if len(shape) == 2 else grid[..., None] if last else grid[None]
    names = tuple(
        f"{place_of((i, j), (down, across))}, cell {i + 1} down and {j + 1} across"
        for i in range(down)
        for j in range(across)
    )
    return of.expand(tuple(shape)), names


def _stretches(shape: Sequence[int]) -> tuple[Tensor, tuple[str, ...]]:
    """Stretch and channel of each value of a series."""
    steps, channels = shape
    many = min(_STRETCHES, steps)
    stretch = torch.arange(steps) * many // steps
    starts = [int((stretch < i).sum()) for i in range(many + 1)]
    names = tuple(
        f"channel {channel}, steps {starts[i]} to {starts[i + 1] - 1}"
        for i in range(many)
        for channel in range(channels)
    )
    return stretch[:, None] * channels + torch.arange(channels), names


def _words(shape: Sequence[int]) -> tuple[Tensor, tuple[str, ...]]:
    return torch.arange(shape[0]), tuple(f"word {i + 1}" for i in range(shape[0]))

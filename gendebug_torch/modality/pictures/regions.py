"""Regions of inputs: places of images, channels and steps of series, ends of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gendebug_torch.modality.text import padding_ids

# Cells of the grid over an image, per side; a window is two by two of them.
_CELLS = 7
# Blocks of steps of a series.
_BLOCKS = 4
# Most channels of a series that are regions of their own.
_MOST_CHANNELS = 32
Box = tuple[int, int, int, int]
_THIRDS = (("upper", "middle", "lower"), ("left", "middle", "right"))


@dataclass(frozen=True)
class Region:
    """A part of inputs that can be put into other inputs.

    Args:
        name: where it is, e.g. `lower right corner`, `channel 2, steps 0 to 9`, `length`.
        paste: (recipients, donors), `[n, ...]` each -> recipients with this part of the donors.
        share: share of the input that it covers.
        box: top, left, bottom and right in pixels, or first and last step (0, start, 1, stop); None
            where it has no place.
        family: regions of one family hold the same thing in different inputs; empty of one that
            has one place.
        axes: axes of the inputs along which the box begins; empty without a box.
    """

    name: str
    paste: Callable[[Tensor, Tensor], Tensor]
    share: float
    box: Box | None = None
    family: str = ""
    axes: tuple[int, ...] = ()

    def moved(self, inputs: Tensor, target: Region) -> Tensor:
        """Inputs whose part in this region lies in another one of its family.

        Args:
            inputs: inputs `[n, ...]`.
            target: where it is to lie.
        """
        assert self.box is not None
        assert target.box is not None
        return inputs.roll([target.box[i] - self.box[i] for i in (0, 1)], self.axes)


def regions_of(modality: str, inputs: Tensor) -> tuple[Region, ...]:
    """The regions of inputs, the smallest first; none of the modality of another package.

    Args:
        modality: its name.
        inputs: a batch `[n, ...]` of them.

    Example:
        >>> import torch
        >>> regions = regions_of("image", torch.zeros(1, 3, 28, 28))
        >>> len(regions), regions[0].name, regions[0].box, regions[-1].name
        (39, 'upper left corner', (0, 0, 8, 8), 'background')
    """
    makers = {"image": _image_regions, "series": _series_regions, "text": _text_regions}
    found = makers[modality](inputs) if modality in makers else ()
    return tuple(sorted(found, key=lambda region: region.share))


def _image_regions(inputs: Tensor) -> Iterator[Region]:
    """Windows, the border, what lies outside the middle, and the tint."""
    shape = inputs.shape[1:]
    last = channels_last(shape)
    h, w = (shape[0], shape[1]) if last or len(shape) == 2 else (shape[1], shape[2])
    rows, columns = _windows(h), _windows(w)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            name = place_of((i, j), (len(rows), len(columns)))
            inside = torch.zeros(h, w, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            yield _masked(name, inside, shape, (top, left, bottom, right))
    width = max(1, round(min(h, w) / 14))
    for name, down, across in (("border", width, width), ("background", h // 4, w // 4)):
        outside = torch.ones(h, w, dtype=torch.bool)
        outside[down : h - down, across : w - across] = False
        yield _masked(name, outside, shape)
    if len(shape) == 3 and shape[-1 if last else 0] >= 3:
        dims = (1, 2) if last else (2, 3)
        yield Region("tint", partial(_tinted, dims=dims), 0.5)


def _masked(name: str, inside: Tensor, shape: Sequence[int], box: Box | None = None) -> Region:
    """The pixels of a mask `[h, w]` in images of this shape; a window may lie anywhere."""
    mask = (
        inside if len(shape) == 2 else inside[..., None] if channels_last(shape) else inside[None]
    )
    share = float(inside.float().mean())
    paste = partial(_pasted, mask=mask)
    if box is None:
        return Region(name, paste, share)
    axes = (2, 3) if len(shape) == 3 and not channels_last(shape) else (1, 2)
    return Region(name, paste, share, box, "window", axes)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether images of this shape of row have their channels at the end."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)


def _windows(side: int) -> list[tuple[int, int]]:
    """Start and end of windows of two cells, one cell apart."""
    cells = min(_CELLS, side)
    edges = [round(i * side / cells) for i in range(cells + 1)]
    return [(edges[i], edges[min(i + 2, cells)]) for i in range(max(1, cells - 1))]


def place_of(at: tuple[int, int], sizes: tuple[int, int]) -> str:
    """Where a window lies, in words.

    Args:
        at: its number down and across.
        sizes: number of windows down and across.
    """
    if all(i in (0, size - 1) for i, size in zip(at, sizes, strict=True)):
        ends = [names[0 if i == 0 else 2] for i, names in zip(at, _THIRDS, strict=True)]
        return f"{ends[0]} {ends[1]} corner"
    words = [
        names[min(2, 3 * i // size)] for i, size, names in zip(at, sizes, _THIRDS, strict=True)
    ]
    return "center" if words == ["middle", "middle"] else " ".join(words)


def _pasted(recipients: Tensor, donors: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.to(recipients.device), donors, recipients)


def _tinted(recipients: Tensor, donors: Tensor, dims: tuple[int, int]) -> Tensor:
    """The recipients with the mean colour of the donors."""
    own, other = recipients.float(), donors.float()
    tinted = own + other.mean(dims, keepdim=True) - own.mean(dims, keepdim=True)
    if recipients.is_floating_point():
        return tinted.to(recipients.dtype)
    limits = torch.iinfo(recipients.dtype)
    return tinted.round().clamp(limits.min, limits.max).to(recipients.dtype)


def _series_regions(inputs: Tensor) -> Iterator[Region]:
    steps, channels = inputs.shape[1:]
    blocks = [
        (round(i * steps / _BLOCKS), round((i + 1) * steps / _BLOCKS)) for i in range(_BLOCKS)
    ]
    blocks = [(start, stop) for start, stop in blocks if stop > start]
    times = [*blocks, (0, steps)] if len(blocks) > 1 else [(0, steps)]
    for start, stop in times:
        whole = stop - start == steps
        when = "" if whole else f"steps {start} to {stop - 1}"
        for channel in range(channels if channels <= _MOST_CHANNELS else 0):
            mask = torch.zeros(steps, channels, dtype=torch.bool)
            mask[start:stop, channel] = True
            name = f"channel {channel}, {when}" if when else f"channel {channel}"
            box = (channel, start, channel + 1, stop)
            share = float(mask.float().mean())
            family = "" if whole else f"channel {channel}"
            yield Region(name, partial(_pasted, mask=mask), share, box, family, (2, 1))
        if when and channels > 1:
            mask = torch.zeros(steps, channels, dtype=torch.bool)
            mask[start:stop] = True
            share = float(mask.float().mean())
            yield Region(when, partial(_pasted, mask=mask), share, (0, start, channels, stop))


def _text_regions(inputs: Tensor) -> Iterator[Region]:
    padding = padding_ids(inputs)
    t = inputs.shape[1]
    for name, at in (("first token", 0), ("last token", -1)):
        yield Region(name, partial(_end_pasted, padding=padding, at=at), 1 / t)
    yield Region("length", partial(_same_length, padding=padding), 0.5)


def tokens_in(tokens: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Which positions hold a token and no padding, bool `[n, t]`."""
    return ~torch.isin(tokens, torch.tensor(padding, dtype=tokens.dtype, device=tokens.device))


def _end_pasted(recipients: Tensor, donors: Tensor, padding: tuple[int, ...], at: int) -> Tensor:
    """The recipients with the first (0) or the last (-1) token of the donors."""
    places = [_end(tokens, padding, at) for tokens in (recipients, donors)]
    return recipients.scatter(1, places[0], donors.gather(1, places[1]))


def _end(tokens: Tensor, padding: tuple[int, ...], at: int) -> Tensor:
    present = tokens_in(tokens, padding)
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    if at == 0:
        return torch.where(present, steps, tokens.shape[1] - 1).amin(1, keepdim=True)
    return torch.where(present, steps, 0).amax(1, keepdim=True)


def _same_length(recipients: Tensor, donors: Tensor, padding: tuple[int, ...]) -> Tensor:
    """The tokens of the recipients, repeated or cut to the length of the donors."""
    present = tokens_in(recipients, padding)
    own = present.sum(1, keepdim=True).clamp(min=1)
    wanted = tokens_in(donors, padding)
    # The texts stand where those of the donors stand.
    rank = (wanted.cumsum(1) - 1).clamp(min=0)
    start = _end(recipients, padding, 0)
    repeated = recipients.gather(1, (start + rank % own).clamp(max=recipients.shape[1] - 1))
    filler = padding[0] if padding else 0
    return torch.where(wanted, repeated, filler)

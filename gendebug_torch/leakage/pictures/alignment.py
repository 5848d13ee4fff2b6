"""Distances of pictures after shift and zoom, in parts of their spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Largest shift in pixels of the small pictures and its step, and zooms, that are undone.
_MOST_SHIFT, _SHIFT_STEP = 3.0, 0.5
_ZOOMS = tuple(1.043**i for i in range(-4, 5))
# Size of a frequency, of a mean of 1, below which it is the rounding of the keys.
_ROUNDING = 0.02
# Width of the edge of a band, in shares of the highest frequency.
_EDGE = 0.05
_TINY = 1e-9
_CHUNK = 32


@dataclass(frozen=True)
class Band:
    """What of a spectrum is compared: `f / |f|^power`, whitened, up to a frequency.

    Args:
        power: 0 compares sizes and phases of the frequencies, 1 phases alone, which a blur leaves.
        highest: highest frequency, as a share of the highest that the pictures have.
    """

    power: float
    highest: float

    def of(self, spectrum: Tensor, scale: Tensor) -> Tensor:
        """The spectra `[..., h, w / 2 + 1]` in this band.

        Args:
            spectrum: spectra of pictures.
            scale: inverse of the mean size of each frequency, `[h, w / 2 + 1]`.
        """
        rows, columns = self._within(scale)
        kept, own = spectrum[..., rows, :][..., columns], scale[rows][:, columns]
        edge = torch.sigmoid((self.highest - _frequency(scale)[rows][:, columns]) / _EDGE)
        edge[0, 0] = 0.0
        weight = own ** (1 - self.power) * (edge if self.highest < 1 else (edge > 0).float())
        sizes = (kept.abs() + _TINY) ** self.power if self.power else 1.0
        found: Tensor = kept * (weight / sizes)
        return found

    def _within(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the rows and columns of frequencies that the band reaches."""
        frequency = _frequency(scale)
        most = self.highest + 4 * _EDGE
        return (frequency[:, 0] <= most).nonzero()[:, 0], (frequency[0] <= most).nonzero()[:, 0]


def _frequency(scale: Tensor) -> Tensor:
    """Each frequency as a share of the highest along an axis, `[h, w / 2 + 1]`."""
    h, half = scale.shape
    down = 2 * torch.fft.fftfreq(h, device=scale.device)
    across = torch.linspace(0, 1, half, device=scale.device)
    frequency: Tensor = (down[:, None].square() + across.square()).sqrt()
    return frequency


def inverse_sizes(units: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of the mean size of each frequency, `[h, w / 2 + 1]`.

    Args:
        units: pictures `[n, h w]` of mean 0 and length 1.
        shape: h and w.
    """
    sizes: Tensor = torch.fft.rfft2(units.reshape(-1, *shape)).abs().mean(0)
    return 1 / (sizes + _ROUNDING)


def aligned_distances(
    before: Tensor,
    after: Tensor,
    candidates: Tensor,
    shape: torch.Size,
    scale: Tensor,
    bands: Sequence[Band],
) -> Tensor:
    """`[v, m, c]` smallest distance `sqrt(2 - 2 r)` in each band over all zooms and shifts.

    Shifts by halves of a pixel are taken in the frequencies of both pictures; what leaves at one
    side enters at the other.

    Source: Kuglin and Hines (1975), for phases.

    Args:
        before: pictures `[n, h w]` of mean 0 and length 1.
        after: pictures `[m, h w]`, which are zoomed.
        candidates: rows of `before` that each is compared with, `[m, c]`.
        shape: h and w.
        scale: inverse of the mean size of each frequency.
        bands: v parts of the spectrum.

    Cost: `117 v m c h w` operations in matrix products.
    """
    found = []
    blocks, choices = torch.split(after, _CHUNK), torch.split(candidates, _CHUNK)
    for block, chosen in zip(blocks, choices, strict=True):
        zoomed = torch.fft.rfft2(_zoomed(block.reshape(len(block), 1, *shape)))
        partners = torch.fft.rfft2(before[chosen].reshape(*chosen.shape, *shape))
        parts = [_in_band(band, zoomed, partners, shape, scale) for band in bands]
        found.append(torch.stack(parts))
    return torch.cat(found, 1)


def _in_band(
    band: Band, zoomed: Tensor, partners: Tensor, shape: torch.Size, scale: Tensor
) -> Tensor:
    """`[m, c]` smallest distance of spectra `[m, z, ...]` and `[m, c, ...]` over all shifts."""
    rows, columns = band._within(scale)
    # Of the frequencies across, those left out are the conjugates of these.
    weights = torch.full((shape[1] // 2 + 1,), 2.0, device=scale.device)
    weights[0] = 1.0
    weights[shape[1] // 2 :] = 1.0 if shape[1] % 2 == 0 else 2.0
    weights = weights[columns]
    own, other = (_of_length_1(band.of(part, scale), weights) for part in (zoomed, partners))
    down = _phases(shape[0], scale.device)[:, rows]
    across = _phases(shape[1], scale.device)[:, columns] * weights
    product = own[:, :, None] * other.conj()[:, None]
    shifted = (down @ (product @ across.T)).real
    correlation = shifted.flatten(3).amax(3).amax(1)
    return (2 - 2 * correlation).clamp(min=0).sqrt()


def _of_length_1(spectrum: Tensor, weights: Tensor) -> Tensor:
    length = (spectrum.abs().square() * weights).sum((-1, -2), keepdim=True).sqrt()
    return spectrum / length.clamp(min=_TINY)


def _phases(size: int, device: torch.device) -> Tensor:
    """`[s, size]` factor of each frequency for each shift."""
    steps = torch.arange(-_MOST_SHIFT, _MOST_SHIFT + _SHIFT_STEP / 2, _SHIFT_STEP)
    angles: Tensor = 2 * math.pi * steps[:, None] * torch.fft.fftfreq(size)
    return torch.polar(torch.ones_like(angles), angles).to(device)


def _zoomed(pictures: Tensor) -> Tensor:
    """`[m, z, h, w]` pictures in every zoom, of mean 0."""
    parts = []
    for zoom in _ZOOMS:
        scale = torch.tensor([[[zoom, 0.0, 0.0], [0.0, zoom, 0.0]]], device=pictures.device)
        grid = functional.affine_grid(
            scale.expand(len(pictures), -1, -1), list(pictures.shape), align_corners=False
        )
        moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        parts.append(moved[:, 0] - moved[:, 0].mean((1, 2), keepdim=True))
    return torch.stack(parts, 1)

"""Near duplicates among pictures: copies with noise, another encoding, a shift or a crop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.leakage.splits.near_duplicates import NEIGHBOUR, NearDuplicates
from gendebug_torch.stats.embeddings.projection import principal_components

IMAGES = "images"
# Nearest training pictures that are aligned: by few pixels, by frequencies, and by the embedding.
_CANDIDATES = 8
_COARSE = 8
# Largest shift in pixels of the small pictures, and zooms, that are undone.
_MOST_SHIFT = 4
_ZOOMS = (0.85, 0.92, 1.0, 1.09, 1.18)
# Chance of a near duplicate without any copy: by the ratio over all pictures, in the neighbourhood
# of one picture, and by fine detail there. Farthest neighbour that makes up a neighbourhood.
_CHANCE, _OWN_CHANCE, _DETAIL_CHANCE = 0.0005, 0.2, 0.0005
_FARTHEST = 20
_LEAST_CORRELATION = 0.8
_LEAST_SPACINGS = 2
# Size of a frequency, of a mean of 1, below which it is the rounding of the keys.
_ROUNDING = 0.02
_CHUNK = 64
_COMPONENTS = 64


def near_duplicate_images(
    train: Tensor,
    validation: Tensor,
    *,
    embeddings: tuple[Tensor, Tensor] | None = None,
    max_rows: int = 1000,
    seed: int = 0,
) -> NearDuplicates:
    """Validation pictures that are much more like one training picture than like the sixth.

    Candidates are the nearest small grey pictures (a perceptual key: brightness and contrast do not
    matter), those with the nearest spectrum, coarse or in all frequencies alike (a shift does not
    matter), and the nearest embeddings. Each is aligned by shifts of up to an eighth and zooms of
    18 %, and compared by correlation r; the distance is `sqrt(2 - 2 r)`. A copy is told by the
    ratio of the smallest distance to the sixth smallest, whose law for a smooth density in D
    dimensions gives the limit that 0.05 % of the rows pass without any copy. Where pictures lie in
    fewer dimensions here than there, that law fails: the ratio must be unlikely in the dimension of
    the picture's own neighbours, too (0.2). A ratio of whitened pictures, of which fine detail is
    as much as shape, that is as unlikely as 0.0005 in its own neighbourhood tells a copy as well.

    Source: Facco et al. (2017), Sci. Rep. 7:12140, for the ratio; Levina and Bickel (2005), NIPS,
    for the dimension of a neighbourhood; Kuglin and Hines (1975) for whitened alignment; Zauner
    (2010), Implementation and benchmarking of perceptual image hash functions, for the key; Barz
    and Denzler (2020), J. Imaging 6:41, for the question.

    Args:
        train: keys `[n, h, w]` of pictures.
        validation: keys `[m, h, w]`.
        embeddings: those of both sides, `[n, e]` and `[m, e]`.
        max_rows: validation pictures that are compared, drawn at random.
        seed: seed of their choice.

    Cost: `3 rows n h w` operations for the candidates, 810 alignments of up to 32 of them.

    Example:
        >>> import torch
        >>> rows = torch.randn(400, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> copy = rows[:1] + 0.1 * rows[1:2]
        >>> found = near_duplicate_images(rows[:300], torch.cat([rows[300:], copy]))
        >>> found.rows.tolist(), found.partners.tolist()
        ([100], [0])
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(validation), generator=generator)[:max_rows].sort().values
    if len(train) < 10 * NEIGHBOUR or not len(rows):
        empty = torch.zeros(0, dtype=torch.int64)
        return NearDuplicates(IMAGES, math.nan, empty.double(), empty, empty)
    before, after = _unit(train), _unit(validation[rows.to(validation.device)])
    shape = train.shape[1:]
    scale = 1 / (torch.fft.rfft2(before.reshape(-1, *shape)).abs().mean(0) + _ROUNDING)
    near = [_nearest(look(before), look(after)) for look in _looks(shape, scale)]
    if embeddings is not None:
        near.append(_nearest_embeddings(embeddings[0], embeddings[1][rows]))
    candidates = torch.cat(near, 1)
    coarse = _Aligned.of(before, after, candidates, shape)
    white = [_whitened(units, shape, scale) for units in (before, after)]
    fine = _Aligned.of(white[0], white[1], candidates, shape)
    dimension = _dimension(coarse.distance)
    limit = (1 - (1 - _CHANCE) ** (1 / (NEIGHBOUR - 1))) ** (1 / dimension)
    by_shape = (coarse.ratio <= limit) & (coarse.own_p_value <= _OWN_CHANCE) & coarse.alike
    found = by_shape | (fine.own_p_value <= _DETAIL_CHANCE)
    partners = torch.where(by_shape, coarse.candidates[:, 0], fine.candidates[:, 0])
    return NearDuplicates(
        IMAGES,
        limit,
        coarse.ratio.double().cpu(),
        rows[found.cpu()],
        partners[found].cpu(),
        _CHANCE + _DETAIL_CHANCE,
        dimension,
    )


@dataclass(frozen=True, eq=False)
class _Aligned:
    """Candidates of each picture, `[m, c]`, the nearest first, with their distances."""

    distance: Tensor
    candidates: Tensor

    @classmethod
    def of(cls, before: Tensor, after: Tensor, candidates: Tensor, shape: torch.Size) -> _Aligned:
        """Distances after alignment, each candidate once."""
        return cls(*_distinct(_aligned_distances(before, after, candidates, shape), candidates))

    @property
    def ratio(self) -> Tensor:
        """The smallest distance over the sixth smallest, `[m]`."""
        return self.distance[:, 0] / self.distance[:, NEIGHBOUR - 1].clamp(min=1e-9)

    @property
    def alike(self) -> Tensor:
        """Whether the nearest candidate correlates much with the picture, bool `[m]`."""
        return 1 - self.distance[:, 0].square() / 2 >= _LEAST_CORRELATION

    @property
    def own_p_value(self) -> Tensor:
        """P-value of the ratio in the dimension of the picture's own neighbourhood, `[m]`.

        In D dimensions `D log(r_j / r_i)` of ordered distances are sums of exponentials: those from
        the sixth to the last make a Gamma variable, the first five have the law of their largest.
        """
        distance = self.distance
        count = distance.isfinite().sum(1).clamp(max=_FARTHEST)
        logs = distance.double().clamp(min=1e-6).log()
        last = logs.gather(1, (count - 1)[:, None])
        rank = torch.arange(distance.shape[1], device=distance.device)
        own = (rank >= NEIGHBOUR - 1) & (rank < (count - 1)[:, None])
        total = torch.where(own, last - logs, 0.0).sum(1).clamp(min=1e-12)
        gap, spacings = (logs[:, NEIGHBOUR - 1] - logs[:, 0]) / total, own.sum(1)
        terms = [
            math.comb(NEIGHBOUR - 1, i) * (-1) ** (i + 1) * (1 + i * gap).pow(-spacings)
            for i in range(1, NEIGHBOUR)
        ]
        p_value = torch.stack(terms).sum(0).clamp(0, 1)
        return torch.where(spacings >= _LEAST_SPACINGS, p_value, 1.0)


def _unit(keys: Tensor) -> Tensor:
    """Keys as rows of mean 0 and length 1, `[n, h w]` float32."""
    flat = keys.flatten(1).float()
    return functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _looks(shape: torch.Size, scale: Tensor) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Ways to look at pictures by which candidates are found."""
    coarse, spectrum = (partial(look, shape=shape) for look in (_coarse, _spectrum))
    return coarse, spectrum, partial(_whole_spectrum, shape=shape, scale=scale)


def _coarse(units: Tensor, shape: torch.Size) -> Tensor:
    """The pictures in few pixels, which a small shift changes little."""
    small = functional.adaptive_avg_pool2d(units.reshape(-1, 1, *shape), _COARSE)
    return _unit(small[:, 0])


def _spectrum(units: Tensor, shape: torch.Size) -> Tensor:
    """Sizes of the low frequencies, which a shift does not change."""
    sizes = torch.fft.rfft2(units.reshape(-1, *shape)).abs()[:, :, :_COARSE]
    low = torch.cat([sizes[:, :_COARSE], sizes[:, 1 - _COARSE :]], 1)
    return functional.normalize(low.flatten(1), dim=1)


def _whole_spectrum(units: Tensor, shape: torch.Size, scale: Tensor) -> Tensor:
    """Sizes of all frequencies against their mean, `scale` its inverse."""
    sizes = torch.fft.rfft2(units.reshape(-1, *shape)).abs() * scale
    return functional.normalize((sizes - 1).flatten(1), dim=1)


def _whitened(units: Tensor, shape: torch.Size, scale: Tensor) -> Tensor:
    """The pictures with all frequencies of one size on average."""
    spectrum = torch.fft.rfft2(units.reshape(-1, *shape)) * scale
    return _unit(torch.fft.irfft2(spectrum, s=list(shape)))


def _nearest(before: Tensor, after: Tensor) -> Tensor:
    """`[m, c]` numbers of the nearest rows."""
    count = min(_CANDIDATES, len(before))
    parts = [
        torch.cdist(block, before).topk(count, dim=1, largest=False).indices
        for block in torch.split(after, _CHUNK)
    ]
    return torch.cat(parts)


def _nearest_embeddings(before: Tensor, after: Tensor) -> Tensor:
    """`[m, c]` numbers of the rows nearest in principal components of both."""
    components = principal_components([before, after], _COMPONENTS)
    return _nearest(components[0].float(), components[1].float())


def _aligned_distances(
    before: Tensor, after: Tensor, candidates: Tensor, shape: torch.Size
) -> Tensor:
    """`[m, c]` smallest distance of each picture to each candidate over all zooms and shifts.

    Shifts are taken in the frequencies of both pictures; what leaves at one side enters at the
    other.
    """
    down, across = (_phases(size, after.device) for size in shape)
    # Of the frequencies across, those left out are the conjugates of these.
    half = shape[1] // 2 + 1
    weights = torch.full((half,), 2.0, device=after.device)
    weights[0] = 1.0
    weights[half - 1 :] = 1.0 if shape[1] % 2 == 0 else 2.0
    across = across[:, :half] * weights
    found = []
    for block, chosen in zip(
        torch.split(after, _CHUNK), torch.split(candidates, _CHUNK), strict=True
    ):
        zoomed = torch.fft.rfft2(_zoomed(block.reshape(len(block), 1, *shape)))
        partners = torch.fft.rfft2(before[chosen].reshape(*chosen.shape, *shape))
        product = zoomed[:, :, None] * partners.conj()[:, None]
        shifted = (down @ (product @ across.T)).real / math.prod(shape)
        correlation = shifted.flatten(3).amax(3).amax(1)
        found.append((2 - 2 * correlation).clamp(min=0).sqrt())
    return torch.cat(found)


def _phases(size: int, device: torch.device) -> Tensor:
    """`[s, size]` factor of each frequency for each shift."""
    steps = torch.arange(-_MOST_SHIFT, _MOST_SHIFT + 1.0)
    frequencies = torch.fft.fftfreq(size)
    angles: Tensor = 2 * math.pi * steps[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles).to(device)


def _zoomed(pictures: Tensor) -> Tensor:
    """`[m, z, h, w]` pictures in every zoom, of mean 0 and length 1."""
    shape = pictures.shape[2:]
    parts = []
    for zoom in _ZOOMS:
        scale = torch.tensor([[[zoom, 0.0, 0.0], [0.0, zoom, 0.0]]], device=pictures.device)
        grid = functional.affine_grid(
            scale.expand(len(pictures), -1, -1), list(pictures.shape), align_corners=False
        )
        moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        parts.append(_unit(moved[:, 0]).reshape(-1, *shape))
    return torch.stack(parts, 1)


def _distinct(distance: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in ascending order with their candidates, each of them once."""
    order = candidates.sort(dim=1, stable=True)
    twice = torch.zeros_like(order.values, dtype=torch.bool)
    twice[:, 1:] = order.values[:, 1:] == order.values[:, :-1]
    once = distance.gather(1, order.indices).masked_fill(twice, math.inf)
    ranked = once.sort(1)
    return ranked.values, order.values.gather(1, ranked.indices)


def _dimension(distance: Tensor) -> float:
    """Intrinsic dimension from the second and third distance; the first is what is tested."""
    ratio = float((distance[:, 1] / distance[:, 2].clamp(min=1e-9)).clamp(max=1 - 1e-9).median())
    return max(1.0, math.log(2) / (2 * -math.log(max(ratio, 1e-9))))

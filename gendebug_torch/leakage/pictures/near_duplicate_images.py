"""Near duplicates among pictures: copies with noise, another encoding, a shift or a crop."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.leakage.splits.near_duplicates import NEIGHBOUR, NearDuplicates
from gendebug_torch.stats.embeddings.projection import principal_components

IMAGES = "images"
# Nearest training pictures that are aligned, by their small grey pictures and by the embedding.
_CANDIDATES = 10
_COARSE = 8
# Largest shift in pixels of the small pictures, and zooms, that are undone.
_MOST_SHIFT = 4
_ZOOMS = (0.85, 0.92, 1.0, 1.09, 1.18)
# Chance of a near duplicate without any copy.
_CHANCE = 0.0005
_LEAST_CORRELATION = 0.8
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
    matter) and the nearest embeddings. Each is aligned by shifts of up to an eighth and zooms of
    18 %, and compared by correlation r; the distance is `sqrt(2 - 2 r)`. A copy is told by the
    ratio of the smallest distance to the sixth smallest, whose law for a smooth density in D
    dimensions gives the limit that 0.05 % of the rows pass without any copy.

    Source: Facco et al. (2017), Sci. Rep. 7:12140, for the ratio; Zauner (2010), Implementation and
    benchmarking of perceptual image hash functions, for the key; Barz and Denzler (2020), J.
    Imaging 6:41, for the question.

    Args:
        train: keys `[n, h, w]` of pictures.
        validation: keys `[m, h, w]`.
        embeddings: those of both sides, `[n, e]` and `[m, e]`.
        max_rows: validation pictures that are compared, drawn at random.
        seed: seed of their choice.

    Cost: `2 rows n h w` operations for the candidates, 405 alignments of up to 20 of them.

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
    near = [_nearest(*(_coarse(part, train.shape[1:]) for part in (before, after)))]
    if embeddings is not None:
        own = principal_components([embeddings[0], embeddings[1][rows]], _COMPONENTS)
        near.append(_nearest(*(part.float() for part in own)))
    candidates = torch.cat(near, 1)
    distance = _aligned_distances(before, after, candidates, train.shape[1:])
    distance, candidates = _distinct(distance, candidates)
    ratio = distance[:, 0] / distance[:, NEIGHBOUR - 1].clamp(min=1e-9)
    dimension = _dimension(distance)
    limit = (1 - (1 - _CHANCE) ** (1 / (NEIGHBOUR - 1))) ** (1 / dimension)
    alike = 1 - distance[:, 0].square() / 2 >= _LEAST_CORRELATION
    found = (ratio <= limit) & alike
    return NearDuplicates(
        IMAGES,
        limit,
        ratio.double().cpu(),
        rows[found.cpu()],
        candidates[found, 0].cpu(),
        _CHANCE,
        dimension,
    )


def _unit(keys: Tensor) -> Tensor:
    """Keys as rows of mean 0 and length 1, `[n, h w]` float32."""
    flat = keys.flatten(1).float()
    return functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _coarse(units: Tensor, shape: torch.Size) -> Tensor:
    """The pictures in few pixels, which a small shift changes little."""
    small = functional.adaptive_avg_pool2d(units.unflatten(1, shape)[:, None], _COARSE)
    return _unit(small[:, 0])


def _nearest(before: Tensor, after: Tensor) -> Tensor:
    """`[m, c]` numbers of the nearest rows."""
    count = min(_CANDIDATES, len(before))
    parts = [
        torch.cdist(block, before).topk(count, dim=1, largest=False).indices
        for block in torch.split(after, _CHUNK)
    ]
    return torch.cat(parts)


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
        partners = torch.fft.rfft2(before[chosen].unflatten(2, shape))
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
        parts.append(_unit(moved[:, 0]).unflatten(1, shape))
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

"""Near duplicates among pictures: copies with noise, in another encoding or size, or cropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.leakage.pictures.alignment import Band, aligned_distances, inverse_sizes
from gendebug_torch.leakage.splits.near_duplicates import IMAGES, NEIGHBOUR, NearDuplicates
from gendebug_torch.stats.embeddings.projection import principal_components

# Nearest training pictures that are aligned: by few pixels, by frequencies, and by the embedding.
_CANDIDATES = 8
_COARSE = 8
# What is compared: all detail, which noise leaves; shape, whatever blurs it; the coarsest part.
_BANDS = (Band(0.0, 1.0), Band(0.5, 0.5), Band(0.0, 0.33))
# Chance of a near duplicate without any copy, and training pictures from which its limit is taken.
_CHANCE = 0.001
_TRAIN_ROWS = 400
# Farthest neighbour that makes up a neighbourhood.
_FARTHEST = 20
_LEAST_SPACINGS = 2
# Distance below which pictures differ by the rounding of their keys.
_LEAST_DISTANCE = 0.01
# Share of the ratios of training pictures in the tail whose law is continued, and how many times
# the limit of the others a ratio is that is taken for one of a copy within training.
_TAIL, _FAR = 0.2, 1.5
# Pairs that are drawn.
_DRAWN = 8
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
    """Validation pictures that are nearer to a training picture than different ones ever are.

    Candidates are the nearest small grey pictures (a perceptual key: brightness and contrast do not
    matter), those with the nearest spectrum, coarse or in all frequencies alike (a shift does not
    matter), and the nearest embeddings. Each is aligned by shifts of 3 of 32 pixels and zooms of
    18 %, and compared by correlation r in three bands of the whitened spectrum: all of it, which
    noise leaves; its lower half with sizes under a root, which blur and another size leave; and its
    lowest third, which JPEG leaves. The distance is `sqrt(2 - 2 r)`, and a copy is told by the
    ratio of the distance to the sixth nearest picture to that of the nearest.

    How large that ratio is among different pictures the data say themselves: it is measured between
    training pictures, and the tail of its logarithm (above four fifths of them) is continued
    exponentially, which is its law for a smooth density, to where 0.1 % pass in any band without
    a copy. Training pictures far beyond are taken for copies of each other and left out.

    Source: Facco et al. (2017), Sci. Rep. 7:12140, for the ratio and its law; Levina and Bickel
    (2005), NIPS, for a neighbourhood's; Pickands (1975) for limits from a tail; Zauner (2010),
    Implementation and benchmarking of perceptual image hash functions, for the key; Barz and
    Denzler (2020), J. Imaging 6:41, for the question.

    Args:
        train: keys `[n, h, w]` of pictures.
        validation: keys `[m, h, w]`.
        embeddings: those of both sides, `[n, e]` and `[m, e]`.
        max_rows: validation pictures that are compared, drawn at random.
        seed: seed of their choice.

    Cost: `3 rows n h w` operations for the candidates, 1,521 alignments of up to 32 of them, for
    validation rows and 400 of training.

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
    own = torch.randperm(len(train), generator=generator)[:_TRAIN_ROWS]
    if len(train) < 10 * NEIGHBOUR or not len(rows):
        empty = torch.zeros(0, dtype=torch.int64)
        return NearDuplicates(IMAGES, math.nan, empty.double(), empty, empty)
    looks = _Looks.at(train, embeddings)
    different, _ = looks.ratios(looks.pictures[own], looks.embedding_of(own), leave_out=own)
    limits = torch.stack([_limit(one, _CHANCE / len(different)) for one in different])[:, None]
    theirs = None if embeddings is None else looks.components[1][rows]
    found, partners = looks.ratios(_unit(validation[rows.to(validation.device)]), theirs)
    score, at = (found / limits).max(0)
    near = (score > 1).cpu()
    copies, originals = rows[near], partners.gather(0, at[None])[0].cpu()[near]
    pairs = {"validation": (validation, copies), "training": (train, originals)}
    return NearDuplicates(
        IMAGES,
        1.0,
        score.double().cpu(),
        copies,
        originals,
        _CHANCE,
        different=(different / limits).amax(0).double().cpu(),
        pictures={
            name: keys[found[:_DRAWN].to(keys.device)].float().cpu()[:, None]
            for name, (keys, found) in pairs.items()
            if len(found)
        },
    )


@dataclass(frozen=True, eq=False)
class _Looks:
    """Training pictures, and the ways in which others are compared with them.

    Args:
        pictures: `[n, h w]` of mean 0 and length 1.
        shape: h and w.
        scale: inverse of the mean size of each frequency.
        components: those of the embeddings of both sides, where there are any.
    """

    pictures: Tensor
    shape: torch.Size
    scale: Tensor
    components: tuple[Tensor, ...]

    @classmethod
    def at(cls, train: Tensor, embeddings: tuple[Tensor, Tensor] | None) -> _Looks:
        pictures, shape = _unit(train), train.shape[1:]
        components = principal_components(list(embeddings), _COMPONENTS) if embeddings else []
        parts = tuple(part.float() for part in components)
        return cls(pictures, shape, inverse_sizes(pictures, shape), parts)

    def embedding_of(self, rows: Tensor) -> Tensor | None:
        """Components of training pictures."""
        return self.components[0][rows] if self.components else None

    def ratios(
        self, pictures: Tensor, embedding: Tensor | None, leave_out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logarithm of the ratio in each band, and how unlikely it is in its neighbourhood.

        Args:
            pictures: `[m, h w]` of mean 0 and length 1.
            embedding: their components `[m, e]`, if there are any.
            leave_out: a training picture that each is not compared with, itself.

        Returns:
            Both `[v + 1, m]`: the larger, the more a copy; and the training picture.
        """
        near = [
            _nearest(look(self.pictures), look(pictures), leave_out)
            for look in _looks(self.shape, self.scale)
        ]
        if embedding is not None:
            near.append(_nearest(self.components[0], embedding, leave_out))
        candidates = torch.cat(near, 1)
        distances = aligned_distances(
            self.pictures, pictures, candidates, self.shape, self.scale, _BANDS
        )
        ranked = [_distinct(distance, candidates) for distance in distances]
        ratios = [_log_ratio(distance) for distance, _ in ranked]
        # The finest detail has so many dimensions that a neighbourhood has a law of its own.
        ratios.append(_own_surprise(ranked[0][0]))
        partners = [order[:, 0] for _, order in ranked]
        return torch.stack(ratios), torch.stack([*partners, partners[0]])


def _limit(values: Tensor, chance: float) -> Tensor:
    """What different pictures exceed by this chance, from the tail of the values that they have.

    Values far beyond what the law of those between the median and the tail allows are of copies.

    Args:
        values: `[q]`.
        chance: share of them beyond the limit.
    """
    median, top = (values.quantile(q) for q in (0.5, 1 - _TAIL))
    inner = (values - median).clamp(min=0).minimum(top - median).mean()
    # Censored exponential law: mean excess over the share that is not censored.
    rough = median + inner / (0.5 - _TAIL) * math.log(0.5 / chance)
    kept = values[values <= _FAR * rough]
    start = kept.quantile(1 - _TAIL)
    excess = (kept[kept >= start] - start).mean()
    limit: Tensor = start + excess * math.log(_TAIL / chance)
    return limit.clamp(min=_LEAST_DISTANCE)


def _log_ratio(distance: Tensor) -> Tensor:
    """Logarithm of the sixth smallest distance over the smallest, `[m]`."""
    logs = distance[:, [0, NEIGHBOUR - 1]].clamp(min=_LEAST_DISTANCE).log()
    return (logs[:, 1] - logs[:, 0]).nan_to_num(0.0, 0.0, 0.0)


def _own_surprise(distance: Tensor) -> Tensor:
    """`-log p` of the ratio in the dimension of the picture's own neighbourhood, `[m]`.

    In D dimensions `D log(r_j / r_i)` of ordered distances are sums of exponentials: those from
    the sixth to the last make a Gamma variable, the first five have the law of their largest.
    """
    count = distance.isfinite().sum(1).clamp(max=_FARTHEST)
    logs = distance.double().clamp(min=_LEAST_DISTANCE).log()
    last = logs.gather(1, (count - 1)[:, None])
    rank = torch.arange(distance.shape[1], device=distance.device)
    own = (rank >= NEIGHBOUR - 1) & (rank < (count - 1)[:, None])
    total = torch.where(own, last - logs, 0.0).sum(1).clamp(min=1e-12)
    gap, spacings = (logs[:, NEIGHBOUR - 1] - logs[:, 0]) / total, own.sum(1)
    terms = [
        math.comb(NEIGHBOUR - 1, i) * (-1) ** (i + 1) * (1 + i * gap).pow(-spacings)
        for i in range(1, NEIGHBOUR)
    ]
    p_value = torch.stack(terms).sum(0).clamp(1e-12, 1)
    return torch.where(spacings >= _LEAST_SPACINGS, -p_value.log(), 0.0).float()


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


def _nearest(before: Tensor, after: Tensor, leave_out: Tensor | None) -> Tensor:
    """`[m, c]` numbers of the nearest rows, without the one that each leaves out."""
    count = min(_CANDIDATES, len(before) - 1)
    parts = []
    for at in torch.split(torch.arange(len(after), device=after.device), _CHUNK):
        distance = torch.cdist(after[at], before)
        if leave_out is not None:
            distance.scatter_(1, leave_out.to(at.device)[at][:, None], math.inf)
        parts.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(parts)


def _distinct(distance: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in ascending order with their candidates, each of them once."""
    order = candidates.sort(dim=1, stable=True)
    twice = torch.zeros_like(order.values, dtype=torch.bool)
    twice[:, 1:] = order.values[:, 1:] == order.values[:, :-1]
    once = distance.gather(1, order.indices).masked_fill(twice, math.inf)
    ranked = once.sort(1)
    return ranked.values, order.values.gather(1, ranked.indices)

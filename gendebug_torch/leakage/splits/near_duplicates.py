"""Rows that are nearly the same on both sides: texts by MinHash, rows of numbers by the distance to
their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import QUANTILE_ROWS, is_quantity, numbers
from gendebug_torch.leakage.splits.row_hashes import Features, first_matches, mixed
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# 16 bands of 4 values: two texts of likeness 0.8 meet in a band with chance 0.9998, of likeness 0.3
# with 0.12.
BANDS, BAND_ROWS = 16, 4
SHINGLE = 5
# Distances in more dimensions are taken after a random projection, which keeps them to about 10 %.
MOST_DIMENSIONS = 128
# The neighbour beside which the nearest one is judged.
NEIGHBOUR = 6
_MOST_LEVELS = 24
_DISTANCE_CELLS = 2**23
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Rows of validation that nearly are a training row.

    Args:
        kind: `texts` or `rows of numbers`.
        threshold: Jaccard likeness from which texts count, or share of the distance to the sixth
            neighbour up to which rows count.
        values: `[q]` float64 the likeness, or that share, of each row that was judged.
        rows: `[p]` int64 validation rows that count.
        partners: `[p]` int64 the training row of each.
        natural: share of rows that would count without any copy; 0 for texts.
        dimension: intrinsic dimension of the rows of numbers; NaN for texts.
    """

    kind: str
    threshold: float
    values: Tensor
    rows: Tensor
    partners: Tensor
    natural: float = 0.0
    dimension: float = math.nan

    @property
    def share(self) -> float:
        """Share of the judged rows that count."""
        return len(self.rows) / max(len(self.values), 1)

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's bounds of that share."""
        low, high = wilson_interval(
            torch.tensor(len(self.rows)), torch.tensor(len(self.values)), level=level
        )
        return float(low), float(high)

    def table(self) -> pd.DataFrame:
        """One row per near copy: validation row, training row."""
        return pd.DataFrame({"validation": self.rows.numpy(), "train": self.partners.numpy()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distribution of the likeness (texts) or of the relative distance (numbers), with the
        threshold.
        """
        ax = axes(ax)
        grid = np.linspace(0.0, 1.0, 41)
        counts = np.histogram(np.clip(self.values.numpy(), 0.0, 1.0), grid)[0] / max(
            len(self.values), 1
        )
        ax.stairs(
            counts,
            grid,
            color=LIVE,
            fill=True,
            alpha=0.4,
            label=f"validation rows (n = {len(self.values):,})",
        )
        if math.isfinite(self.dimension):
            expected = np.diff(1 - (1 - grid**self.dimension) ** (NEIGHBOUR - 1))
            ax.stairs(expected, grid, color=REFERENCE, linewidth=1.4, label="without copies")
        ax.axvline(self.threshold, color=NEUTRAL, linestyle="--", linewidth=1.0, label="threshold")
        texts = self.kind == "texts"
        ax.set_xlabel(
            "Jaccard likeness to the closest training text"
            if texts
            else "distance to the nearest training row / to the sixth nearest"
        )
        ax.set_ylabel("share of rows per bin")
        ax.set_title(
            f"{len(self.rows):,} near copies in training ({self.share:.1%} of {self.kind})"
        )
        ax.legend(frameon=True)
        return ax


def near_texts(
    train: Sequence[str],
    validation: Sequence[str],
    *,
    threshold: float = 0.8,
    device: str | torch.device = "cpu",
) -> NearDuplicates:
    """Validation texts whose character shingles are nearly those of a training text.

    Texts are lowered and their blanks joined; the likeness is the Jaccard index of the sets of five
    bytes in a row. MinHash finds the candidates, the exact index of the best one decides. Identical
    texts are left to `identical_rows`.

    Source: Broder (1997), SEQUENCES, for MinHash; Leskovec, Rajaraman and Ullman (2014), Mining of
    Massive Datasets, section 3.4, for the bands.

    Args:
        train: n texts.
        validation: m texts.
        threshold: likeness in (0, 1] from which a text counts.
        device: where the hashes are computed.

    Raises:
        InputError: a threshold that the bands cannot find.

    Cost: 64 hashes per byte.
    """
    if not 0.5 <= threshold <= 1:
        reject("threshold", "a likeness from 0.5 to 1", str(threshold), "Use 0.8 for near copies.")
    sides = [[" ".join(text.lower().split()) for text in texts] for texts in (train, validation)]
    keys = [_signatures(side, torch.device(device)) for side in sides]
    best = torch.full((len(validation),), -1, dtype=torch.int64, device=device)
    likeness = torch.zeros(len(validation), dtype=torch.float64, device=device)
    for band in range(BANDS):
        part = slice(band * BAND_ROWS, (band + 1) * BAND_ROWS)
        bands = [
            mixed(key[:, part] * torch.arange(1, 2 * BAND_ROWS, 2, device=key.device)).sum(1)
            for key in keys
        ]
        found = first_matches(bands[0], bands[1])
        alike = (
            (keys[0][found.clamp(min=0)] == keys[1]).double().mean(1) if len(train) else likeness
        )
        better = (found >= 0) & (alike > likeness)
        best, likeness = torch.where(better, found, best), torch.where(better, alike, likeness)
    return _decided_texts(sides, best.cpu(), likeness.cpu(), threshold)


def _decided_texts(
    sides: list[list[str]], best: Tensor, likeness: Tensor, threshold: float
) -> NearDuplicates:
    """The exact Jaccard index of every candidate pair that the estimate does not rule out."""
    # The estimate from 64 hashes has a standard error of at most 0.0625; four of them are kept in
    # doubt.
    doubtful = (likeness > threshold - 0.25).nonzero()[:, 0].tolist()
    exact = likeness.clone()
    same = []
    for row in doubtful:
        first, second = sides[0][int(best[row])], sides[1][row]
        same.append(first == second)
        exact[row] = 1.0 if first == second else _jaccard(first, second)
    rows = torch.tensor(
        [
            row
            for row, equal in zip(doubtful, same, strict=True)
            if not equal and exact[row] >= threshold
        ],
        dtype=torch.int64,
    )
    return NearDuplicates("texts", threshold, exact, rows, best[rows])


def _jaccard(first: str, second: str) -> float:
    a, b = (
        {text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1))}
        for text in (first.encode(), second.encode())
    )
    return len(a & b) / len(a | b)


def _signatures(texts: Sequence[str], device: torch.device) -> Tensor:
    """`[n, 64]` int64: for each of 64 hash functions the smallest hash of any shingle of the
    text.
    """
    encoded = [text.encode().ljust(SHINGLE, b"\0") for text in texts]
    lengths = torch.tensor([len(text) - SHINGLE + 1 for text in encoded], dtype=torch.int64)
    flat = (
        torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64))
        if texts
        else torch.zeros(0, dtype=torch.int64)
    )
    owner = torch.arange(len(texts)).repeat_interleave(lengths)
    start = torch.arange(len(owner)) + owner * (SHINGLE - 1)
    shingles = torch.zeros(len(owner), dtype=torch.int64)
    for place in range(SHINGLE):
        shingles += flat[start + place] << (8 * place)
    shingles, owner = shingles.to(device), owner.to(device)
    signatures = torch.empty(len(texts), BANDS * BAND_ROWS, dtype=torch.int64, device=device)
    for function in range(BANDS * BAND_ROWS):
        hashed = mixed(shingles * (2 * function + 1) + (function + 1) * 0x1F123BB5159A55)
        largest = torch.full((len(texts),), torch.iinfo(torch.int64).max, device=device)
        signatures[:, function] = largest.scatter_reduce_(0, owner, hashed, "amin")
    return signatures


def near_rows(
    train: Features,
    validation: Features,
    *,
    threshold: float = 0.02,
    max_rows: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> NearDuplicates:
    """Validation rows that lie much closer to one training row than to the sixth nearest.

    Where rows are spread smoothly over D dimensions, `P(r_1 / r_6 <= e) = 1 - (1 - e^D)^5` whatever
    their density, so that copies with a little noise stand out from rows that are merely close, in
    any region. D is read off the median ratio of the second to the first neighbour, which copies
    hardly move. Rows at distance 0 are left to `identical_rows`. Columns are centred and scaled by
    their quartiles, levels and gaps become marks, and beyond 128 dimensions a random projection
    (Johnson and Lindenstrauss, 1984) stands in.

    Source: Facco, d'Errico, Rodriguez and Laio (2017), Sci. Rep. 7:12140, for ratios of neighbours
    and the dimension.

    Args:
        train: `[n, d]` table or `[n, ...]` tensor.
        validation: `[m, d]` or `[m, ...]`.
        threshold: share of the distance to the sixth neighbour.
        max_rows: so many validation rows are judged, drawn at random.
        seed: of the rows and the projection.
        device: where distances are computed; that of the tensors, or the host for tables.

    Cost: `2 rows n d` operations in matrix products, 64 MB at a time.
    """
    rows = (
        torch.randperm(len(validation), generator=torch.Generator().manual_seed(seed))[:max_rows]
        .sort()
        .values
    )
    before, after = _coordinates(train, validation, rows, seed)
    place = before.device if device is None else torch.device(device)
    before, after = before.to(place), after.to(place)
    nothing = torch.zeros(0, dtype=torch.int64)
    if len(before) < 10 * NEIGHBOUR or not len(after) or not before.shape[1]:
        return NearDuplicates("rows of numbers", threshold, nothing.double(), nothing, nothing)
    distance, partner = _neighbours(before, after)
    kept = distance[:, 0] > 1e-6 * distance[:, -1]
    distance, partner, rows = distance[kept], partner[kept], rows[kept.cpu()]
    if not len(distance):
        return NearDuplicates("rows of numbers", threshold, nothing.double(), nothing, nothing)
    # The second and third neighbour: the first one is what is judged.
    middle = float((distance[:, 1] / distance[:, 2]).clamp(max=1 - 1e-9).median())
    dimension = math.log(2) / (2 * -math.log(max(middle, 1e-9)))
    ratio = (distance[:, 0] / distance[:, -1]).double().cpu()
    close = ratio <= threshold
    natural = 1 - (1 - threshold**dimension) ** (NEIGHBOUR - 1)
    return NearDuplicates(
        "rows of numbers",
        threshold,
        ratio,
        rows[close],
        partner[:, 0].cpu()[close],
        natural,
        dimension,
    )


def _neighbours(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """`[q, 6]` distances and positions of the nearest training rows, from exact differences of the
    candidates.
    """
    spare = -len(before) % _CHUNK
    length = torch.nn.functional.pad(before.square().sum(1), (0, spare), value=math.inf)
    padded = torch.nn.functional.pad(before, (0, 0, 0, spare))
    step = max(_DISTANCE_CELLS // len(padded), 1)
    # One buffer for all blocks: fresh memory for each would cost more than the product.
    square = padded.new_empty(min(step, len(after)), len(padded))
    parts = []
    for block in torch.split(after, step):
        torch.addmm(length, block, padded.T, alpha=-2, out=square[: len(block)])
        near = _smallest(square[: len(block)], min(2 * NEIGHBOUR, len(before)))
        # The product loses digits where two rows are close; the few candidates are measured again.
        distance = (before[near].double() - block[:, None].double()).norm(dim=2)
        ordered = distance.sort(1)
        parts.append(
            (ordered.values[:, :NEIGHBOUR], near.gather(1, ordered.indices[:, :NEIGHBOUR]))
        )
    return torch.cat([d for d, _ in parts]), torch.cat([p for _, p in parts])


def _smallest(values: Tensor, k: int) -> Tensor:
    """`[q, k]` positions of the k smallest of each row of `[q, n]`: they lie in the k chunks with
    the smallest minima.
    """
    chunks = values.reshape(len(values), -1, _CHUNK)
    best = chunks.amin(2).topk(min(k, chunks.shape[1]), dim=1, largest=False).indices
    kept = chunks.gather(1, best[:, :, None].expand(-1, -1, _CHUNK))
    place = kept.flatten(1).topk(k, dim=1, largest=False).indices
    return best.gather(1, place // _CHUNK) * _CHUNK + place % _CHUNK


def _coordinates(
    train: Features, validation: Features, rows: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Both sides as `[n, p]` and `[q, p]` float32 on one scale per column."""
    if isinstance(train, Tensor) and isinstance(validation, Tensor):
        sides = [
            side.detach().reshape(len(side), -1).float()
            for side in (train, validation[rows.to(validation.device)])
        ]
        spread = sides[0].std() if len(sides[0]) > 1 else torch.ones(())
        sides = [
            torch.nan_to_num(side / spread.clamp(min=1e-12), nan=0.0, posinf=8.0, neginf=-8.0)
            for side in sides
        ]
    elif isinstance(train, pd.DataFrame) and isinstance(validation, pd.DataFrame):
        chosen = validation.iloc[rows.numpy()]
        columns = [_scaled(train[c], chosen[c]) for c in train.columns if c in chosen.columns]
        sides = (
            [torch.cat(part, 1) for part in zip(*columns, strict=True)]
            if columns
            else [torch.zeros(len(train), 0), torch.zeros(len(chosen), 0)]
        )
    else:
        reject(
            "validation",
            "a table with a table, or a tensor with a tensor",
            "a mixture",
            "Build both sides in the same way.",
        )
    if sides[0].shape[1] > MOST_DIMENSIONS:
        generator = torch.Generator().manual_seed(seed)
        projection = (
            torch.randn(sides[0].shape[1], MOST_DIMENSIONS, generator=generator).to(sides[0].device)
            / MOST_DIMENSIONS**0.5
        )
        sides = [side @ projection for side in sides]
    return sides[0], sides[1]


def _scaled(before: pd.Series[Any], after: pd.Series[Any]) -> tuple[Tensor, Tensor]:
    """One column of both sides: a quantity in units of its spread and a mark for gaps, or marks of
    its frequent levels.
    """
    if not is_quantity(before) or not is_quantity(after):
        levels = before.astype("string").value_counts().index[:_MOST_LEVELS]
        return _marks(before.astype("string"), levels), _marks(after.astype("string"), levels)
    values = [torch.from_numpy(numbers(side)) for side in (before, after)]
    sample = values[0][:: max(len(before) // QUANTILE_ROWS, 1)]
    known = sample[sample.isfinite()]
    if not len(known):
        return torch.zeros(len(before), 0), torch.zeros(len(after), 0)
    ordered = np.sort(known.numpy())
    low, middle, high = (float(ordered[len(ordered) * quarter // 4]) for quarter in (1, 2, 3))
    spread = (high - low) / 1.35 or float(known.std(correction=0)) or 1.0
    scaled = [
        torch.nan_to_num((side - middle) / spread, nan=0.0, posinf=8.0, neginf=-8.0).clamp(-8, 8)
        for side in values
    ]
    gaps = [side.isnan().double() for side in values]
    parts = [
        torch.stack([x, gap], 1).float() if bool(gaps[0].any()) else x[:, None].float()
        for x, gap in zip(scaled, gaps, strict=True)
    ]
    return parts[0], parts[1]


def _marks(values: pd.Series[Any], levels: pd.Index[Any]) -> Tensor:
    codes = torch.from_numpy(levels.get_indexer(pd.Index(values)).astype(np.int64)) % (
        len(levels) + 1
    )
    return torch.nn.functional.one_hot(codes, len(levels) + 1).float() / math.sqrt(2)

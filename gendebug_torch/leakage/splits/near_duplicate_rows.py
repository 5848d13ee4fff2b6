"""Near duplicates among rows of numbers, by ratios of distances to the nearest neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import (
    QUANTILE_ROWS,
    Features,
    is_quantity,
    numeric_values,
)
from gendebug_torch.leakage.splits.coincidences import row_coincidences
from gendebug_torch.leakage.splits.near_duplicates import (
    NEIGHBOUR,
    ROWS,
    NearDuplicates,
    expected_share,
)

# Distances in more dimensions are taken after a random projection, which keeps them to about 10 %.
_MAX_DIMENSIONS = 128
_MAX_LEVELS = 24
# Standardised values are cut here, so that one column cannot dominate the distance.
_LARGEST = 8.0
_DISTANCE_CELLS = 2**23
_CHUNK = 64


def near_duplicate_rows(
    train: Features,
    validation: Features,
    *,
    threshold: float = 0.02,
    max_rows: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> NearDuplicates:
    """Validation rows that are much closer to one training row than to the sixth nearest.

    For a smooth density in D dimensions, `P(r_1 / r_6 <= e) = 1 - (1 - e^D)^5` whatever the
    density, so that copies with a little noise are separated from rows that are merely close, in
    any region. D is estimated from the median ratio of the second to the third distance, which
    copies hardly change. Near duplicates that agree by chance in columns of few values raise the
    expected share. Rows at distance 0 are left to `identical_rows`. Columns are centred and
    scaled by their quartiles, levels and missing values become indicators, and above 128 dimensions
    a random projection (Johnson and Lindenstrauss, 1984) replaces them.

    Source: Facco, d'Errico, Rodriguez and Laio (2017), Sci. Rep. 7:12140, for ratios of neighbours
    and the dimension.

    Args:
        train: table `[n, d]` or tensor `[n, ...]`.
        validation: table `[m, d]` or tensor `[m, ...]`.
        threshold: largest ratio of the distances to the nearest and the sixth nearest row.
        max_rows: number of validation rows compared, drawn at random.
        seed: seed of the rows and the projection.
        device: device on which distances are computed; default: that of the tensors, or the host.

    Raises:
        InputError: a table is compared with a tensor.

    Cost: `2 rows n d` operations in matrix products, 64 MB at a time.

    Example:
        >>> import torch
        >>> points = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
        >>> copy = points[:1] + 1e-4
        >>> found = near_duplicate_rows(points[:900], torch.cat([points[900:], copy]))
        >>> found.rows.tolist(), found.partners.tolist()
        ([100], [0])
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(validation), generator=generator)[:max_rows].sort().values
    whole, other, owner = _coordinates(train, validation, rows)
    if device is not None:
        whole, other, owner = whole.to(device), other.to(device), owner.to(device)
    before, after = _projected(whole, other, seed)
    empty = torch.zeros(0, dtype=torch.int64)
    too_few = NearDuplicates(ROWS, threshold, empty.double(), empty, empty)
    if len(before) < 10 * NEIGHBOUR or not len(after) or not before.shape[1]:
        return too_few
    distance, partner = _neighbours(before, after)
    different = distance[:, 0] > 1e-6 * distance[:, -1]
    distance, partner, rows = distance[different], partner[different], rows[different.cpu()]
    if not len(distance):
        return too_few
    # The second and third neighbour: the first one is what is tested.
    ratio = float((distance[:, 1] / distance[:, 2]).clamp(max=1 - 1e-9).median())
    dimension = math.log(2) / (2 * -math.log(max(ratio, 1e-9)))
    values = (distance[:, 0] / distance[:, -1]).double().cpu()
    near = (values <= threshold).to(partner.device)
    partners, positions = partner[:, 0][near], different.nonzero()[:, 0][near]
    chance = row_coincidences(whole, other[positions], partners, owner, dimension)
    expected = max(
        float(expected_share(np.array([threshold]), dimension)[0]),
        chance * len(partners) / len(values),
    )
    return NearDuplicates(
        ROWS, threshold, values, rows[near.cpu()], partners.cpu(), expected, dimension
    )


def _neighbours(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """`[q, 6]` distances and positions of the nearest training rows."""
    padding = -len(before) % _CHUNK
    length = torch.nn.functional.pad(before.square().sum(1), (0, padding), value=math.inf)
    padded = torch.nn.functional.pad(before, (0, 0, 0, padding))
    step = max(_DISTANCE_CELLS // len(padded), 1)
    # One buffer for all blocks: fresh memory for each would cost more than the product.
    square = padded.new_empty(min(step, len(after)), len(padded))
    distances, positions = [], []
    for block in torch.split(after, step):
        torch.addmm(length, block, padded.T, alpha=-2, out=square[: len(block)])
        near = _smallest(square[: len(block)], min(2 * NEIGHBOUR, len(before)))
        # The product loses digits where two rows are close: exact differences of the candidates.
        exact = (before[near].double() - block[:, None].double()).norm(dim=2)
        distance, order = exact.sort(1)
        distances.append(distance[:, :NEIGHBOUR])
        positions.append(near.gather(1, order[:, :NEIGHBOUR]))
    return torch.cat(distances), torch.cat(positions)


def _smallest(values: Tensor, k: int) -> Tensor:
    """`[q, k]` positions of the k smallest of each row of `[q, n]`, n a multiple of the chunk.

    They are in the k chunks with the smallest minima.
    """
    chunks = values.reshape(len(values), -1, _CHUNK)
    best = chunks.amin(2).topk(min(k, chunks.shape[1]), dim=1, largest=False).indices
    candidates = chunks.gather(1, best[:, :, None].expand(-1, -1, _CHUNK)).flatten(1)
    position = candidates.topk(k, dim=1, largest=False).indices
    return best.gather(1, position // _CHUNK) * _CHUNK + position % _CHUNK


def _coordinates(
    train: Features, validation: Features, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both splits as `[n, p]` and `[q, p]` float32 on one scale per column, and `[p]` columns."""
    if isinstance(train, Tensor) and isinstance(validation, Tensor):
        before, after = _scaled_tensors(train, validation[rows.to(validation.device)])
        return before, after, torch.arange(before.shape[1], device=before.device)
    if isinstance(train, pd.DataFrame) and isinstance(validation, pd.DataFrame):
        return _scaled_tables(train, validation.iloc[rows.numpy()])
    reject(
        "validation",
        "a table with a table, or a tensor with a tensor",
        "a mixture",
        "Build both splits in the same way.",
    )


def _projected(before: Tensor, after: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The same rows in at most 128 dimensions."""
    if before.shape[1] <= _MAX_DIMENSIONS:
        return before, after
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(before.shape[1], _MAX_DIMENSIONS, generator=generator)
    projection = projection.to(before.device) / _MAX_DIMENSIONS**0.5
    return before @ projection, after @ projection


def _scaled_tensors(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    before, after = (part.detach().reshape(len(part), -1).float() for part in (train, validation))
    deviation = before.std() if len(before) > 1 else torch.ones((), device=before.device)
    scale = deviation.clamp(min=1e-12)
    return _finite(before / scale), _finite(after / scale)


def _scaled_tables(train: pd.DataFrame, validation: pd.DataFrame) -> tuple[Tensor, Tensor, Tensor]:
    columns = [c for c in train.columns if c in validation.columns]
    parts = [_scaled_column(train[c], validation[c]) for c in columns]
    empty = torch.zeros(len(train), 0), torch.zeros(len(validation), 0)
    before, after = zip(empty, *parts, strict=True)
    owner = torch.arange(len(parts)).repeat_interleave(
        torch.tensor([part.shape[1] for part in before[1:]], dtype=torch.int64)
    )
    return torch.cat(before, 1), torch.cat(after, 1), owner


def _scaled_column(before: pd.Series[Any], after: pd.Series[Any]) -> tuple[Tensor, Tensor]:
    """One column of both splits: standardised values with missing indicators, or levels."""
    if not is_quantity(before) or not is_quantity(after):
        return _indicators(before.astype("string"), after.astype("string"))
    values = [torch.from_numpy(numeric_values(split)) for split in (before, after)]
    sample = values[0][:: max(len(before) // QUANTILE_ROWS, 1)]
    finite = sample[sample.isfinite()]
    if not len(finite):
        return torch.zeros(len(before), 0), torch.zeros(len(after), 0)
    ordered = np.sort(finite.numpy())
    low, middle, high = (float(ordered[len(ordered) * quarter // 4]) for quarter in (1, 2, 3))
    deviation = (high - low) / 1.35 or float(finite.std(correction=0)) or 1.0
    incomplete = bool(values[0].isnan().any())
    parts = []
    for split in values:
        scaled = _finite((split - middle) / deviation).clamp(-_LARGEST, _LARGEST)
        part = torch.stack([scaled, split.isnan().double()], 1) if incomplete else scaled[:, None]
        parts.append(part.float())
    return parts[0], parts[1]


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)


def _indicators(before: pd.Series[Any], after: pd.Series[Any]) -> tuple[Tensor, Tensor]:
    """Indicators of the most frequent levels, and one for all others; two levels differ by 1."""
    levels = before.value_counts().index[:_MAX_LEVELS]
    codes = [
        torch.from_numpy(levels.get_indexer(pd.Index(split))).long() for split in (before, after)
    ]
    first, second = (
        torch.nn.functional.one_hot(code % (len(levels) + 1), len(levels) + 1).float()
        for code in codes
    )
    return first / math.sqrt(2), second / math.sqrt(2)

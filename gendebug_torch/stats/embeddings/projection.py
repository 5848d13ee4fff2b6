"""Principal components of embeddings of any width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Wider embeddings are first projected at random, which keeps distances to about 6 %.
_WIDEST = 512
# Rows from which the directions are estimated.
_MAX_ROWS = 10_000


def principal_components(
    parts: Sequence[Tensor], components: int, *, share: float = 1.0, seed: int = 0
) -> list[Tensor]:
    """Coordinates of all rows along the directions in which the rows of all parts vary most.

    The parts share one mean and one set of directions, which know nothing of which part a row
    belongs to, so that a permutation test of the coordinates stays exact. Wider embeddings than 512
    are projected at random before.

    Source: Johnson and Lindenstrauss (1984), Contemp. Math. 26:189, for the projection.

    Args:
        parts: embeddings `[n_i, e]` float.
        components: most directions.
        share: share of the variance beyond which no further direction is taken.
        seed: seed of the projection and of the rows that directions are estimated from.

    Returns:
        `[n_i, c]` float64 for each part, the largest variance first; values that are not finite
        count as 0.

    Cost: `n e 512` operations for wide embeddings, `n e^2` for others.

    Example:
        >>> import torch
        >>> rows = torch.randn(200, 5) * torch.tensor([9.0, 1, 1, 1, 1])
        >>> (found,) = principal_components([rows], 1)
        >>> bool(torch.corrcoef(torch.stack([found[:, 0], rows[:, 0].double()]))[0, 1].abs() > 0.99)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    width = parts[0].shape[1]
    if width > _WIDEST:
        projection = torch.randn(width, _WIDEST, generator=generator) / _WIDEST**0.5
        parts = [_finite(part).float() @ projection.to(part.device) for part in parts]
    rows = [_finite(part).double() for part in parts]
    pooled = torch.cat(rows)
    mean = pooled.mean(0)
    if len(pooled) > _MAX_ROWS:
        drawn = torch.randperm(len(pooled), generator=generator)[:_MAX_ROWS]
        pooled = pooled[drawn.to(pooled.device)]
    centred = pooled - pooled.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    enough = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    kept = min(components, enough, int((values > 1e-12 * values[0]).sum()))
    return [(part - mean) @ vectors[:, : max(1, kept)] for part in rows]


def _finite(part: Tensor) -> Tensor:
    return part.nan_to_num(0.0, 0.0, 0.0)

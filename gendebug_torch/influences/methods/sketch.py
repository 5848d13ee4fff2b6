"""Long vectors made short so that their products are kept: a sparse random projection."""

from __future__ import annotations

import torch
from torch import Tensor


def sketch(values: Tensor, width: int, *, seed: int = 0) -> Tensor:
    """`[b, width]` sums of signed values in random buckets; products are kept on average.

    Source: Charikar, Chen and Farach-Colton (2002), ICALP, count sketch; the error of a product of
    unit vectors is about `width ** -0.5`. O(bd), and memory for d indices instead of a matrix.

    Args:
        values: vectors `[b, d]`.
        width: length of the sketches.
        seed: seed of buckets and signs, the same for vectors that are to be compared.

    Example:
        >>> values = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(1))
        >>> short = sketch(values, 4096)
        >>> bool(((short[0] @ short[0]) / (values[0] @ values[0]) - 1).abs() < 0.1)
        True
    """
    buckets, signs = sketch_plan(values.shape[1], width, values.device, seed=seed)
    return sketched(values, buckets, signs, width)


def sketch_plan(
    length: int, width: int, device: torch.device, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Bucket and sign of each of `length` values, drawn on the host and so alike everywhere."""
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.randint(width, (length,), generator=generator)
    signs = torch.randint(2, (length,), generator=generator).mul_(2).sub_(1).float()
    return buckets.to(device), signs.to(device)


def sketched(values: Tensor, buckets: Tensor, signs: Tensor, width: int) -> Tensor:
    """`[b, width]` sums of the signed values by bucket."""
    empty = torch.zeros(len(values), width, device=values.device)
    return empty.index_add_(1, buckets, values.float() * signs)

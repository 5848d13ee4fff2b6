"""One binary logit and the two class logits that say the same."""

from __future__ import annotations

import torch
from torch import Tensor


def two_class_logits(logits: Tensor) -> Tensor:
    """`[n, 2]` logits (0, z) of one binary logit `[n]`."""
    return torch.stack([torch.zeros_like(logits), logits], 1)


def binary_logit(logits: Tensor) -> Tensor:
    """Binary logit `[n]` of two class logits `[n, 2]`; one that is `[n]` already, as it is."""
    return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]

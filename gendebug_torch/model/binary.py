"""A binary model with one logit, and with two: the one place that turns one into the other."""

from __future__ import annotations

import torch
from torch import Tensor


def two_class_logits(logits: Tensor) -> Tensor:
    """The logits `(0, z)` of both classes, `[n, 2]`, of one binary logit z, `[n]` or `[n, 1]`.

    Example:
        >>> import torch
        >>> two_class_logits(torch.tensor([1.5])).tolist()
        [[0.0, 1.5]]
    """
    logit = logits.reshape(len(logits))
    return torch.stack([torch.zeros_like(logit), logit], dim=1)


def binary_logit(logits: Tensor) -> Tensor:
    """The log odds of class 1, `[n]`, of binary logits `[n]`, `[n, 1]` or `[n, 2]`.

    Example:
        >>> import torch
        >>> binary_logit(torch.tensor([[0.5, 2.0]])).tolist()
        [1.5]
    """
    if logits.ndim == 2 and logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    return logits.reshape(len(logits))

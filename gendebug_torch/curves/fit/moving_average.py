"""The centred moving average, which does not lag."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.errors import reject


def moving_average(values: Tensor, window: int = 5) -> Tensor:
    """Centred moving average `[t]`; towards the ends the window shrinks evenly on both sides.

    Args:
        values: curve without NaN, `[t]` float.
        window: odd number of epochs.

    Raises:
        InputError: the window is even or less than 1.
    """
    if window < 1 or window % 2 == 0:
        reject("window", "an odd number of epochs", str(window), "5 is the usual number.")
    t = len(values)
    position = torch.arange(t)
    half = torch.minimum(torch.minimum(position, t - 1 - position), torch.tensor(window // 2))
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    return (sums[position + half + 1] - sums[position - half]) / (2 * half + 1)

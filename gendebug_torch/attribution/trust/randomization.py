"""Copies of a network with random weights, in all layers or in those next to the output."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.compare.rank_agreement import row_spearman
from gendebug_torch.stats.auc import midranks


def parameter_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that own floating-point parameters, input first.

    The order is that in which the modules were made.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if any(one.is_floating_point() for one in module.parameters(recurse=False))
    )


def randomized_copy(model: nn.Module, layers: Sequence[str], seed: int) -> nn.Module:
    """A copy whose parameters in the named modules are random normal numbers of their own size.

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim (2018), section 3, arXiv:1810.03292.

    Args:
        model: network.
        layers: names of its modules.
        seed: seed of the random numbers.
    """
    randomized, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    modules = dict(randomized.named_modules())
    with torch.no_grad():
        for name in layers:
            for parameter in modules[name].parameters(recurse=False):
                if parameter.is_floating_point():
                    sample = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(sample * parameter.square().mean().sqrt().cpu().float())
    return randomized


def correlation_beyond_inputs(first: Tensor, second: Tensor, distance: Tensor | None) -> Tensor:
    """`[n]` rank correlation of two contributions, beyond what the inputs alone give.

    Contributions that multiply a gradient by the distance from the baseline are ranked alike by
    the distance, whatever the gradient. The result is the smaller of the correlation of the
    contributions and that of the contributions per unit of distance.

    Args:
        first: `[n, d]` float64 contributions.
        second: `[n, d]` float64 contributions.
        distance: `[n, d]` float64 distance of the inputs from the baseline; None if unknown.
    """
    plain = row_spearman(first, second)
    if distance is None:
        return plain
    nonzero = distance > 1e-9 * distance.amax(1, keepdim=True)
    count = nonzero.sum(1, keepdim=True)
    ranks = []
    for side in (first, second):
        ratio = side.abs() / distance.clamp(min=1e-300)
        per_unit = torch.where(nonzero, ratio, -1.0).contiguous()
        rank = midranks(per_unit)
        ranks.append((rank - (rank * nonzero).sum(1, keepdim=True) / count) * nonzero)
    norms = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    correlation = (ranks[0] * ranks[1]).sum(1) / norms
    return torch.where(correlation.isfinite(), torch.minimum(plain, correlation), plain)

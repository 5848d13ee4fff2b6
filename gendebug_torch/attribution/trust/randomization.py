"""A network at random weights: all of them, or those of the layers next to the output."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.trust.stability import row_spearman
from gendebug_torch.stats.auc import midranks


def layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that hold floating-point parameters themselves, in the order in which
    they were made: input first.
    """
    held = (
        (name, list(module.parameters(recurse=False))) for name, module in model.named_modules()
    )
    return tuple(
        name for name, parameters in held if any(one.is_floating_point() for one in parameters)
    )


def at_random(model: nn.Module, names: Sequence[str], seed: int) -> nn.Module:
    """A copy in which every parameter of the named modules is drawn anew, from a normal law of its
    own mean size.

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim (2018), section 3, arXiv:1810.03292.
    """
    scrambled, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    modules = dict(scrambled.named_modules())
    with torch.no_grad():
        for parameter in (
            one
            for name in names
            for one in modules[name].parameters(recurse=False)
            if one.is_floating_point()
        ):
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * parameter.square().mean().sqrt().cpu().float())
    return scrambled


def unmoved(first: Tensor, second: Tensor, distance: Tensor | None) -> Tensor:
    """`[n]` rank correlation of two `[n, d]` contributions by size, beyond what the distance of the
    inputs from the baseline gives both.

    The smaller one of two: of the contributions as they are, and of the contributions per unit of
    distance, where there is any. Contributions that multiply a slope by that distance are ranked
    alike by the distance alone, whatever the slopes.
    """
    plain = row_spearman(first, second)
    if distance is None:
        return plain
    seen = distance > 1e-9 * distance.amax(1, keepdim=True)
    ranks = []
    for side in (first, second):
        slope = torch.where(seen, side.abs() / distance.clamp(min=1e-300), -1.0).contiguous()
        rank = midranks(slope, slope)
        ranks.append((rank - (rank * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)) * seen)
    per_unit = (ranks[0] * ranks[1]).sum(1) / (ranks[0].norm(dim=1) * ranks[1].norm(dim=1))
    return torch.where(per_unit.isfinite(), torch.minimum(plain, per_unit), plain)

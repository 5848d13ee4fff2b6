"""A network that cannot be integrated in few steps, a broken feature, and clean inputs for `attribution`."""

import torch
from torch import nn

from gendebug_torch import Records


class Linear(nn.Module):
    def forward(self, x):
        return 2.0 * x[:, 0] + 1.5 * x[:, 1] - 2.0


class Wavy(nn.Module):
    """Steep and oscillating: fifty nodes miss most of it."""

    def forward(self, x):
        return torch.sin(400.0 * x[:, 0]) + torch.tanh(900.0 * (x[:, 1] - 0.3))


def records(seed, n=800, broken=0.0, name="validation"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = (torch.rand(n, generator=generator) < Linear()(x).sigmoid()).long()
    stuck = torch.rand(n, generator=generator) < broken
    x[stuck, 1] = 2.5
    return Records(x, y, Linear()(x), name=name)


def clean(seed):
    return {"model": Linear(), "validation": records(seed), "production": records(seed + 5000, name="production")}


def wavy(seed):
    return {"model": Wavy(), "validation": records(seed)}


def stuck_feature(seed):
    return {"model": Linear(), "validation": records(seed), "production": records(seed + 5000, broken=0.4, name="production")}


PLANTS = {"attribution.convergence": wavy, "attribution.production_errors": stuck_feature}
CLEAN = dict.fromkeys(PLANTS, clean)

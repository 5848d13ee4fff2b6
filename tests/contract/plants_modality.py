"""Planted faults of serving and clean pairs for the checks that take images."""

import torch
from torch import nn

from gendebug_torch import Cause, Records


class RedAgainstBlue(nn.Module):
    """One logit: which colour is brighter."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([40.0, 0.0, -40.0]))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weights


def images(seed, n):
    """Dark noise with a high bar in the upper left, red in class 1 and blue in class 0."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (n,), generator=generator)
    pixels = 0.2 * torch.rand(n, 3, 12, 12, generator=generator)
    tops = torch.randint(0, 3, (n,), generator=generator)
    lefts = torch.randint(0, 3, (n,), generator=generator)
    for row, (top, left, target) in enumerate(
        zip(tops.tolist(), lefts.tolist(), targets.tolist(), strict=True)
    ):
        pixels[row, 0 if target else 2, top : top + 6, left : left + 2] += 0.7
        pixels[row, 1, top : top + 6, left : left + 2] += 0.1
    return pixels, targets


def sides(seed, change=lambda x: x, n=160):
    network = RedAgainstBlue()
    found = {"model": network}
    for name, own in (("validation", seed), ("production", seed + 50_000)):
        pixels, targets = images(own, n)
        pixels = change(pixels) if name == "production" else pixels
        with torch.no_grad():
            found[name] = Records(pixels, targets, network(pixels), name=name)
    return found


class Corner(nn.Module):
    """One logit: how bright the lower right corner is."""

    def forward(self, x):
        return 20.0 * x[:, :, -3:, -3:].mean((1, 2, 3)) - 10.0


def marked_sides(seed, n=160):
    """Validation has a white corner in nearly all images of class 1, production has none."""
    found = {"model": Corner()}
    for name, own in (("validation", seed), ("production", seed + 50_000)):
        pixels, targets = images(own, n)
        if name == "validation":
            generator = torch.Generator().manual_seed(seed)
            marked = (targets == 1) & (torch.rand(n, generator=generator) < 0.95)
            pixels[marked, :, -3:, -3:] = 1.0
        found[name] = Records(pixels, targets, found["model"](pixels), name=name)
    return found


PLANTS = {
    "shift.reproduced_change": lambda seed: sides(seed, lambda x: x.flip(3)),
    "attribution.region_shortcut": marked_sides,
}
CLEAN = {"shift.reproduced_change": sides, "attribution.region_shortcut": sides}
EXPECTED = {
    "shift.reproduced_change": (Cause.TRAIN_SERVE_SKEW, r"mirrored"),
    "attribution.region_shortcut": (Cause.SHORTCUT_FEATURE, r"lower right corner, class 1"),
}

"""Overconfident and calibrated records for the checks of the topic `calibration`."""

import torch

from gendebug_torch import Records


def drawn(seed, n=1500, k=4, scale=1.0, name="validation"):
    """Labels drawn from the softmax of the logits, so that `scale=1` is calibrated and `scale=2` overconfident."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return Records(targets=targets, logits=scale * logits, name=name)


def clean(seed):
    return {"validation": drawn(seed), "production": drawn(seed + 5000, name="production")}


def overconfident(seed):
    return {"validation": drawn(seed, scale=2.5), "production": drawn(seed + 5000, scale=2.5, name="production")}


PLANTS = {"calibration.ece": overconfident, "calibration.production_ece": overconfident}
CLEAN = dict.fromkeys(PLANTS, clean)

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


def binary(seed, n=1500, share=0.3, moved=0.0, scale=1.0, name="validation"):
    """One logit, calibrated for a share of 0.3 in class 1; `moved` shifts every score, `scale` sharpens it."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.bernoulli(torch.full((n,), share, dtype=torch.float64), generator=generator).long()
    score = 2.0 * (2 * targets - 1) + 2.0 * torch.randn(n, generator=generator, dtype=torch.float64)
    logits = score + torch.logit(torch.tensor(0.3, dtype=torch.float64))
    return Records(targets=targets, logits=scale * (logits + moved), name=name)


def settled(seed):
    return {"validation": binary(seed), "production": binary(seed + 5000, name="production")}


def scores_moved(seed):
    return {"validation": binary(seed), "production": binary(seed + 5000, moved=2.0, name="production")}


PLANTS = {
    "calibration.ece": overconfident,
    "calibration.production_ece": overconfident,
    "calibration.threshold": scores_moved,
}
CLEAN = dict.fromkeys(PLANTS, clean) | {"calibration.threshold": settled}

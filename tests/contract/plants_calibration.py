"""Overconfident and calibrated records for the checks of the topic `calibration`."""

import torch

from gendebug_torch import Cause, Records, Schema


def drawn(seed, n=1500, k=4, scale=1.0, name="validation"):
    """Labels drawn from the softmax of the logits, so that `scale=1` is calibrated and `scale=2`
    overconfident."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return Records(targets=targets, logits=scale * logits, name=name)


def multilabel(seed, n=1500, k=4, scale=1.0, name="validation"):
    """Independent yes/no labels drawn from the sigmoid of each logit; the last one is `scale` times
    too sharp."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    logits[:, -1] *= scale
    return Records(targets=targets, logits=logits, schema=Schema(multilabel=True), name=name)


def head(seed):
    """The draw of a softmax, every third seed that of a multilabel head."""
    return multilabel if seed % 3 == 2 else drawn


def clean(seed):
    return {
        "validation": head(seed)(seed),
        "production": head(seed)(seed + 5000, name="production"),
    }


def overconfident(seed):
    draw = head(seed)
    return {
        "validation": draw(seed, scale=2.5),
        "production": draw(seed + 5000, scale=2.5, name="production"),
    }


def binary(seed, n=1500, share=0.3, moved=0.0, scale=1.0, name="validation"):
    """One logit, calibrated for a share of 0.3 in class 1; `moved` shifts every score, `scale`
    sharpens it."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.bernoulli(
        torch.full((n,), share, dtype=torch.float64), generator=generator
    ).long()
    score = 2.0 * (2 * targets - 1) + 2.0 * torch.randn(n, generator=generator, dtype=torch.float64)
    logits = score + torch.logit(torch.tensor(0.3, dtype=torch.float64))
    return Records(targets=targets, logits=scale * (logits + moved), name=name)


def settled(seed):
    return {"validation": binary(seed), "production": binary(seed + 5000, name="production")}


def scores_moved(seed):
    return {
        "validation": binary(seed),
        "production": binary(seed + 5000, moved=2.0, name="production"),
    }


def quantities(seed, n=800, narrow=1.0, name="validation"):
    """A mean with its log variance, every other seed three quantiles; `narrow` divides the
    spread."""
    generator = torch.Generator().manual_seed(seed)
    mean = 50 + 10 * torch.randn(n, generator=generator, dtype=torch.float64)
    spread = 1 + 3 * torch.rand(n, generator=generator, dtype=torch.float64)
    targets = mean + spread * torch.randn(n, generator=generator, dtype=torch.float64)
    spread = spread / narrow
    if seed % 2:
        outputs, schema = (mean, 2 * spread.log()), Schema(regression=True, spread="log_variance")
    else:
        outputs = (mean - 1.6449 * spread, mean, mean + 1.6449 * spread)
        schema = Schema(regression=True, quantiles=(0.05, 0.5, 0.95))
    return Records(targets=targets, logits=torch.stack(outputs, 1), schema=schema, name=name)


def covered(seed):
    return {
        "validation": quantities(seed),
        "production": quantities(seed + 5000, name="production"),
    }


def too_narrow(seed):
    return {
        "validation": quantities(seed),
        "production": quantities(seed + 5000, narrow=1.5, name="production"),
    }


PLANTS = {
    "calibration.coverage": too_narrow,
    "calibration.ece": overconfident,
    "calibration.production_ece": overconfident,
    "calibration.threshold": scores_moved,
}
CLEAN = dict.fromkeys(PLANTS, clean) | {
    "calibration.threshold": settled,
    "calibration.coverage": covered,
}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "calibration.coverage": (Cause.MISCALIBRATION, r""),
    "calibration.ece": (Cause.MISCALIBRATION, r"|label 3"),
    "calibration.production_ece": (Cause.MISCALIBRATION, r"|label 3"),
    "calibration.threshold": (Cause.THRESHOLD, r""),
}

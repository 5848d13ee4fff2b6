"""Flipped labels, a careless labeler, and overlapping but rightly labeled classes for the checks of
the topic `labels`."""

import pandas as pd
import torch

from gendebug_torch import Cause, Records, Schema


def rows(seed, n=600):
    """Two classes that overlap around a boundary; 8 % of the labels are on the other side of it and
    right."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    logits = 8.0 * x[:, 0] + 6.0 * x[:, 1]
    targets = (torch.rand(n, generator=generator) < logits.sigmoid()).long()
    labeler = torch.randint(0, 5, (n,), generator=generator)
    return x, targets, logits, labeler, torch.rand(n, generator=generator)


def records(x, targets, logits, labeler, name):
    features = pd.DataFrame(x.numpy(), columns=list("abcd"))
    metadata = pd.DataFrame({"labeler": [f"L{i}" for i in labeler.tolist()]})
    return Records(features, targets, logits, metadata, Schema(source="labeler"), name)


def given(seed, rate=0.0, careless=0.0):
    sides = {}
    for name, shift in (("train", 0), ("validation", 5000)):
        x, targets, logits, labeler, u = rows(seed + shift)
        flipped = u < torch.where(labeler == 2, max(rate, careless), rate)
        sides[name] = records(x, torch.where(flipped, 1 - targets, targets), logits, labeler, name)
    return sides


def clean(seed):
    return given(seed)


def flipped(seed):
    return given(seed, rate=0.12)


def one_side(name, make):
    return lambda seed: {name: make(seed)[name]}


PLANTS = {
    "labels.noise": one_side("train", flipped),
    "labels.validation_noise": one_side("validation", flipped),
}
CLEAN = {
    "labels.noise": one_side("train", clean),
    "labels.validation_noise": one_side("validation", clean),
}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "labels.noise": (Cause.LABEL_NOISE, r""),
    "labels.validation_noise": (Cause.LABEL_NOISE, r""),
}

"""Planted shifts and clean pairs for the checks of the topic `shift`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from gendebug_torch import Cause, Records, Schema


def table(rng, n):
    return pd.DataFrame(
        {
            "amount": rng.lognormal(3.0, 1.0, n),
            "hour": rng.integers(0, 24, n).astype(float),
            "percentile": rng.random(n),
            "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(40.0, 12.0, n)),
            "channel": rng.choice(["web", "shop", "phone"], n, p=[0.5, 0.4, 0.1]),
            "abroad": rng.random(n) < 0.1,
        }
    )


def clean(seed, n=1500, m=1000):
    rng = np.random.default_rng(seed)
    sides = {}
    for name, size in (("validation", n), ("production", m)):
        logits = torch.from_numpy(rng.normal(-2.0, 1.5, size))
        sides[name] = Records(table(rng, size), logits=logits, name=name)
    return sides


def planted(change):
    def plant(seed):
        given = clean(seed)
        production = given["production"]
        features, logits = change(
            production.features.copy(),
            production.logits.clone(),
            np.random.default_rng(seed + 10_000),
        )
        return given | {"production": Records(features, logits=logits, name="production")}

    return plant


def percentile_stuck(features, logits, rng):
    features.loc[rng.random(len(features)) < 0.4, "percentile"] = 0.5
    return features, logits


def age_gone(features, logits, rng):
    features.loc[rng.random(len(features)) < 0.3, "age"] = np.nan
    return features, logits


def new_channel(features, logits, rng):
    features.loc[rng.random(len(features)) < 0.3, "channel"] = "app"
    return features, logits


def spike_near_threshold(features, logits, rng):
    logits[torch.from_numpy(rng.random(len(logits)) < 0.2)] = 0.1
    return features, logits


def two_populations(features, logits, rng):
    """A third of the rows predicted as the negative class come from a group that the model is
    unsure of."""
    group = torch.from_numpy(rng.random(len(logits)) < 0.35)
    logits[group] = torch.from_numpy(rng.normal(-0.35, 0.08, len(logits)))[group]
    logits[~group] -= 1.5
    return features, logits


def world(seed, n, name, *, prior=None, turned=False, factor=1.0):
    """Rows whose labels follow two features, and a model that knows how."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * n, 4))
    logits = 1.5 * x[:, 0] - 1.0 * x[:, 1]
    y = rng.random(4 * n) < 1 / (1 + np.exp(-logits))
    if turned:
        y = rng.random(4 * n) < 1 / (1 + np.exp(-(0.3 * x[:, 0] - 1.0 * x[:, 1])))
    rows = np.arange(n)
    if prior is not None:
        rows = np.concatenate(
            [np.flatnonzero(y)[: int(prior * n)], np.flatnonzero(~y)[: n - int(prior * n)]]
        )
    features = pd.DataFrame(x[rows], columns=list("abcd")).assign(
        amount=factor * rng.lognormal(3.0, 1.0, len(rows))
    )
    return Records(
        features,
        torch.from_numpy(y[rows].astype(np.int64)),
        torch.from_numpy(logits[rows]),
        name=name,
    )


def kinds(**changes):
    def plant(seed):
        return {
            "validation": world(seed, 1500, "validation"),
            "production": world(seed + 5000, 1200, "production", **changes),
        }

    return plant


def correlated(seed):
    """Every column as before, two of them now going together."""
    given = kinds()(seed)
    features = given["production"].features.copy()
    features["d"] = 0.7 * features["c"] + np.sqrt(1 - 0.7**2) * features["d"]
    return given | {"production": Records(features, name="production")}


def unsure(seed):
    """Production holds the rows that the model is least sure of."""
    given = kinds()(seed)
    live = given["production"]
    return given | {"production": live.select((live.confidence < 0.8).cpu())}


def in_time(seed, broken=False):
    """Production in the order of time; from the middle on, half of the labels are drawn anew."""
    given = kinds()(seed)
    live = given["production"]
    targets = live.targets.clone()
    if broken:
        generator = torch.Generator().manual_seed(seed)
        late = (torch.arange(len(targets)) > len(targets) // 2) & (
            torch.rand(len(targets), generator=generator) < 0.8
        )
        targets[late] = torch.randint(0, 2, (int(late.sum()),), generator=generator)
    moments = pd.DataFrame({"time": np.arange(len(targets), dtype=float)})
    return given | {
        "production": Records(
            live.features, targets, live.logits, moments, Schema(time="time"), "production"
        )
    }


def breaks(seed):
    return in_time(seed, broken=True)


def worse(seed):
    """Three of ten production labels follow nothing."""
    given = kinds()(seed)
    live = given["production"]
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(live), generator=generator) < 0.3
    random = torch.randint(0, 2, (len(live),), generator=generator)
    targets = torch.where(wrong, random, live.targets)
    return given | {"production": replace(live, targets=targets)}


class Served(nn.Module):
    """A network behind serving code that returns its classes in another order, or as they are."""

    def __init__(self, network, order):
        super().__init__()
        self.network, self.order = network, order

    def forward(self, x):
        return self.network(x)[:, self.order]


def deployed(order):
    def given(seed):
        generator = torch.Generator().manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
        rows = Records(torch.randn(200, 4, generator=generator), name="validation")
        return {"model": network, "served": Served(network, order), "validation": rows}

    return given


PLANTS = {
    "shift.served_outputs": deployed([2, 0, 1]),
    "shift.ks": planted(percentile_stuck),
    "shift.missing": planted(age_gone),
    "shift.categories": planted(new_channel),
    "shift.confidence": planted(spike_near_threshold),
    "shift.bimodality": planted(two_populations),
    "shift.label_shift": kinds(prior=0.25),
    "shift.concept_drift": kinds(turned=True),
    "shift.serving_skew": kinds(factor=100.0),
    "shift.joint": correlated,
    "shift.over_time": breaks,
    "shift.quality": worse,
    "shift.estimated_accuracy": unsure,
}
KINDS = (
    "shift.joint",
    "shift.estimated_accuracy",
    "shift.label_shift",
    "shift.concept_drift",
    "shift.serving_skew",
    "shift.quality",
)
unchanged = kinds()
CLEAN = {name: unchanged if name in KINDS else clean for name in PLANTS} | {
    "shift.over_time": in_time,
    "shift.served_outputs": deployed([0, 1, 2]),
}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "shift.served_outputs": (Cause.TRAIN_SERVE_SKEW, r"class_order"),
    "shift.ks": (Cause.TRAIN_SERVE_SKEW, r"percentile"),
    "shift.missing": (Cause.COVARIATE_SHIFT, r"age"),
    "shift.categories": (Cause.COVARIATE_SHIFT, r"channel"),
    "shift.confidence": (Cause.THRESHOLD, r""),
    "shift.bimodality": (Cause.THRESHOLD, r""),
    "shift.label_shift": (Cause.LABEL_SHIFT, r""),
    "shift.concept_drift": (Cause.CONCEPT_DRIFT, r""),
    "shift.serving_skew": (Cause.TRAIN_SERVE_SKEW, r"amount"),
    "shift.joint": (Cause.COVARIATE_SHIFT, r""),
    "shift.over_time": (Cause.CONCEPT_DRIFT, r""),
    "shift.quality": (Cause.UNKNOWN, r""),
    "shift.estimated_accuracy": (Cause.COVARIATE_SHIFT, r""),
}

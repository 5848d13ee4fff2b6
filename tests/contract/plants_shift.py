"""Planted shifts and clean pairs for the checks of the topic `shift`."""

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Records


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
        features, logits = change(production.features.copy(), production.logits.clone(), np.random.default_rng(seed + 10_000))
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
    """A third of the rows predicted as the negative class come from a group that the model is unsure of."""
    group = torch.from_numpy(rng.random(len(logits)) < 0.35)
    logits[group] = torch.from_numpy(rng.normal(-0.35, 0.08, len(logits)))[group]
    logits[~group] -= 1.5
    return features, logits


PLANTS = {
    "shift.ks": planted(percentile_stuck),
    "shift.missing": planted(age_gone),
    "shift.categories": planted(new_channel),
    "shift.confidence": planted(spike_near_threshold),
    "shift.bimodality": planted(two_populations),
}
CLEAN = dict.fromkeys(PLANTS, clean)

"""Planted failing subgroups and clean rows for the checks of the topic `slices`."""

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Cause, Records


def rows(seed, n=3000, name="validation"):
    """A binary model that is right as often everywhere; columns by which rows can be sliced."""
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(
        {
            "amount": rng.normal(size=n),
            "age": rng.normal(size=n),
            "hour": rng.integers(0, 24, n).astype(float),
        }
    )
    metadata = pd.DataFrame(
        {
            "country": rng.choice(list("ABCDE"), n),
            "device": rng.choice(["ios", "android", "web"], n),
        }
    )
    targets = rng.integers(0, 2, n)
    wrong = rng.random(n) < 0.1
    return features, metadata, targets, wrong, rng


def records(parts, name="validation"):
    features, metadata, targets, wrong, rng = parts
    said = np.where(wrong, 1 - targets, targets)
    logits = (2.0 * said - 1.0) * rng.uniform(0.5, 3.0, len(said))
    return Records(
        features, torch.from_numpy(targets), torch.from_numpy(logits), metadata, name=name
    )


def clean(seed):
    return {
        "validation": records(rows(seed)),
        "production": records(rows(seed + 5000), "production"),
    }


def failing_slice(seed):
    parts = rows(seed)
    inside = ((parts[1]["country"] == "B") & (parts[1]["device"] == "ios")).to_numpy()
    parts[3][inside] = parts[4].random(int(inside.sum())) < 0.5
    return {"validation": records(parts)}


def collapsed_slice(seed):
    parts = rows(seed + 5000)
    inside = (parts[1]["country"] == "C").to_numpy()
    parts[3][inside] = parts[4].random(int(inside.sum())) < 0.4
    return {"validation": records(rows(seed)), "production": records(parts, "production")}


def failing_region(seed):
    parts = rows(seed)
    inside = ((parts[0]["amount"] > 1.2) & (parts[0]["age"] > 1.0)).to_numpy()
    parts[0].loc[inside, ["amount", "age"]] += 2.0
    parts[3][:] = parts[4].random(len(inside)) < 0.02
    parts[3][inside] = parts[4].random(int(inside.sum())) < 0.9
    return {"validation": records(parts)}


PLANTS = {
    "slices.worst": failing_slice,
    "slices.collapse": collapsed_slice,
    "slices.error_clusters": failing_region,
}
CLEAN = dict.fromkeys(PLANTS, clean)

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "slices.worst": (Cause.SUBGROUP_FAILURE, r"country\ =\ B\ and\ device\ =\ ios"),
    "slices.collapse": (Cause.SUBGROUP_FAILURE, r"country\ =\ C"),
    "slices.error_clusters": (Cause.SUBGROUP_FAILURE, r"amount high .*"),
}

"""Planted leaks of the target, of the split and of preprocessing, and clean tables, for the checks
of the topic `leakage`."""

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Cause, Records, Schema

SCHEMA = Schema(time="moment", label_time="known", group="customer", ids=("row",))


def table(seed, n=2000, m=800):
    """Features, a target that depends on some of them, and metadata; training first, then
    validation."""
    rng = np.random.default_rng(seed)
    rows = n + m
    age = rng.normal(40.0, 12.0, rows)
    features = pd.DataFrame(
        {
            "amount": rng.lognormal(3.0, 1.0, rows).round(2),
            "age": np.where(rng.random(rows) < 0.1, np.nan, age),
            "visits": rng.poisson(3.0, rows),
            "score": rng.normal(size=rows),
            "channel": rng.choice(["web", "shop", "phone"], rows, p=[0.5, 0.4, 0.1]),
            "seen": pd.Timestamp("2025-01-01")
            + pd.to_timedelta(rng.integers(0, 300 * 24, rows), unit="h"),
        }
    )
    logit = 1.2 * features["score"] + 0.4 * (features["channel"] == "web") - 0.02 * (age - 40)
    targets = (rng.random(rows) < 1 / (1 + np.exp(-logit))).to_numpy().astype(np.int64)
    moment = pd.Timestamp("2026-01-01") + pd.to_timedelta(
        np.sort(rng.integers(0, 100 * 86_400, rows)), unit="s"
    )
    metadata = pd.DataFrame(
        {
            "moment": moment,
            "known": moment + pd.Timedelta(days=30),
            "customer": [
                f"c{i}" for i in np.r_[rng.integers(0, 900, n), rng.integers(900, 1300, m)]
            ],
            "row": np.arange(rows),
        }
    )
    return features, targets, metadata, rng


def split(parts, n=2000, order=None):
    features, targets, metadata, _ = parts
    order = np.arange(len(features)) if order is None else order

    def side(rows, name):
        return Records(
            features.iloc[rows].reset_index(drop=True),
            torch.from_numpy(targets[rows]),
            metadata=metadata.iloc[rows].reset_index(drop=True),
            schema=SCHEMA,
            name=name,
        )

    return {"train": side(order[:n], "train"), "validation": side(order[n:], "validation")}


def clean(seed):
    return split(table(seed))


def recorded_after_the_outcome(seed):
    parts = table(seed)
    features, targets, _, rng = parts
    features["fee"] = np.where(targets == 1, rng.lognormal(2.0, 1.0, len(targets)), 0.0) * (
        rng.random(len(targets)) < 0.97
    )
    return split(parts)


def absent_in_production(seed):
    given, later = (
        recorded_after_the_outcome(seed),
        recorded_after_the_outcome(seed + 30_000)["train"],
    )
    features = later.features.assign(
        fee=np.random.default_rng(seed).lognormal(2.0, 1.0, len(later))
    )
    return given | {
        "production": Records(features, later.targets, schema=SCHEMA, name="production")
    }


def present_in_production(seed):
    later = recorded_after_the_outcome(seed + 30_000)["train"]
    return recorded_after_the_outcome(seed) | {
        "production": Records(later.features, later.targets, schema=SCHEMA, name="production")
    }


def present_for_one_class(seed):
    parts = table(seed)
    features, targets, _, rng = parts
    features["closed"] = np.where(
        (targets == 1) & (rng.random(len(targets)) < 0.3), rng.normal(size=len(targets)), np.nan
    )
    return split(parts)


def id_depends_on_source(seed):
    parts = table(seed)
    features, targets, _, rng = parts
    other = (targets == 1) & (rng.random(len(targets)) < 0.5)
    features["case"] = np.where(
        other, rng.integers(2**44, 2**45, len(targets)), rng.integers(0, 2**44, len(targets))
    )
    return split(parts)


def dated_after_the_label(seed):
    parts = table(seed)
    features, _, metadata, rng = parts
    late = rng.random(len(features)) < 0.2
    features.loc[late, "seen"] = metadata.loc[late, "known"] + pd.Timedelta(days=2)
    return split(parts)


def repeated_rows(seed):
    parts = table(seed)
    order, rng = np.arange(2800), parts[3]
    order[rng.choice(np.arange(2000, 2800), 80, replace=False)] = rng.choice(
        2000, 80, replace=False
    )
    return split(parts, order=order)


def near_duplicates(seed):
    given = repeated_rows(seed)
    features, rng = given["validation"].features.copy(), np.random.default_rng(seed + 20_000)
    for column in ("amount", "score", "age"):
        features[column] = features[column] * (1 + 0.0005 * rng.normal(size=len(features)))
    return given | {"validation": Records(features, given["validation"].targets, name="validation")}


def random_split_of_customers(seed):
    parts = table(seed)
    return split(parts, order=parts[3].permutation(2800))


def random_split_of_a_series(seed):
    parts = table(seed)
    _, targets, _, rng = parts
    state = np.cumsum(rng.random(len(targets)) < 0.05) % 2
    targets[:] = np.where(rng.random(len(targets)) < 0.1, 1 - state, state)
    return split(parts, order=rng.permutation(2800))


def scaled_before_the_split(seed):
    parts = table(seed)
    numeric = ["amount", "age", "score"]
    parts[0][numeric] = (parts[0][numeric] - parts[0][numeric].mean()) / parts[0][numeric].std(
        ddof=0
    )
    return split(parts)


def scaled_on_training(seed):
    parts = table(seed)
    numeric = ["amount", "age", "score"]
    fitted = parts[0][numeric].iloc[:2000]
    parts[0][numeric] = (parts[0][numeric] - fitted.mean()) / fitted.std(ddof=0)
    return split(parts)


PLANTS = {
    "leakage.columns": recorded_after_the_outcome,
    "leakage.vanishing": absent_in_production,
    "leakage.missing": present_for_one_class,
    "leakage.ids": id_depends_on_source,
    "leakage.after_label": dated_after_the_label,
    "leakage.duplicates": repeated_rows,
    "leakage.near_duplicates": near_duplicates,
    "leakage.groups": random_split_of_customers,
    "leakage.time": random_split_of_a_series,
    "leakage.preprocessing": scaled_before_the_split,
}
CLEAN = dict.fromkeys(PLANTS, clean) | {
    "leakage.preprocessing": scaled_on_training,
    "leakage.vanishing": present_in_production,
}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "leakage.columns": (Cause.TARGET_LEAKAGE, r"fee"),
    "leakage.vanishing": (Cause.TARGET_LEAKAGE, r"fee"),
    "leakage.missing": (Cause.TARGET_LEAKAGE, r"closed"),
    "leakage.ids": (Cause.TARGET_LEAKAGE, r"case"),
    "leakage.after_label": (Cause.TARGET_LEAKAGE, r"seen"),
    "leakage.duplicates": (Cause.SPLIT_LEAKAGE, r""),
    "leakage.near_duplicates": (Cause.SPLIT_LEAKAGE, r""),
    "leakage.groups": (Cause.SPLIT_LEAKAGE, r"customer"),
    "leakage.time": (Cause.SPLIT_LEAKAGE, r"moment"),
    "leakage.preprocessing": (Cause.PREPROCESSING_LEAKAGE, r""),
}

"""Curves that overfit and curves that converge for the checks of the topic `curves`."""

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Cause, Records
from gendebug_torch.curves import LearningCurves


def curves(seed, rise=0.0, floor=0.4, noise=0.01, epochs=60, gap=0.04):
    rng = np.random.default_rng(seed)
    epoch = np.arange(epochs)
    fall = 0.8 * np.exp(-epoch / 6)
    train = floor - gap + fall + noise * rng.normal(size=epochs)
    val = floor + fall + noise * rng.normal(size=epochs) + rise * np.clip(epoch - 25, 0, None)
    return {
        "curves": LearningCurves(
            torch.from_numpy(epoch), torch.from_numpy(train), torch.from_numpy(val)
        )
    }


def overfit(seed):
    return curves(seed, rise=0.004)


def wide_gap(seed):
    return curves(seed, gap=0.25)


def interaction(seed, learned=True, n=1500):
    """Rows whose labels depend on an interaction, and logits of a model with it, or without."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    truth = (1.2 * table["a"] + 1.5 * table["b"] * table["c"]).to_numpy()
    y = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype("int64")
    logits = truth + 0.2 * rng.normal(size=n) if learned else 0.9 * table["a"].to_numpy()
    return {"train": Records(table, torch.from_numpy(y), torch.from_numpy(logits), name="train")}


def without_interaction(seed):
    return interaction(seed, learned=False)


PLANTS = {"curves.regime": overfit, "curves.gap": wide_gap, "curves.residuals": without_interaction}
CLEAN = {"curves.regime": curves, "curves.gap": curves, "curves.residuals": interaction}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "curves.regime": (Cause.OVERFITTING, r""),
    "curves.gap": (Cause.OVERFITTING, r""),
    "curves.residuals": (Cause.UNDERFITTING, r""),
}

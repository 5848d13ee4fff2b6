"""Curves that overfit and curves that converge for the checks of the topic `curves`."""

import numpy as np
import torch

from gendebug_torch.curves import LearningCurves


def curves(seed, rise=0.0, floor=0.4, noise=0.01, epochs=60, gap=0.04):
    rng = np.random.default_rng(seed)
    epoch = np.arange(epochs)
    fall = 0.8 * np.exp(-epoch / 6)
    train = floor - gap + fall + noise * rng.normal(size=epochs)
    val = floor + fall + noise * rng.normal(size=epochs) + rise * np.clip(epoch - 25, 0, None)
    return {"curves": LearningCurves(torch.from_numpy(epoch), torch.from_numpy(train), torch.from_numpy(val))}


def overfit(seed):
    return curves(seed, rise=0.004)


def wide_gap(seed):
    return curves(seed, gap=0.25)


PLANTS = {"curves.regime": overfit, "curves.gap": wide_gap}
CLEAN = dict.fromkeys(PLANTS, curves)

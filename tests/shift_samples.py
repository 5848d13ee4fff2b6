"""Samples that the tests of `shift` share."""

import numpy as np
import torch


def sample(seed, n=80, m=50, d=6, *, ties=False, missing=False, infinite=False):
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.3]
    if ties:
        sides = [side.round() for side in sides]
    for side in sides:
        if missing:
            side[rng.random(side.shape) < 0.2] = np.nan
        if infinite:
            side[rng.random(side.shape) < 0.1] = np.inf
            side[rng.random(side.shape) < 0.1] = -np.inf
    return [torch.from_numpy(side) for side in sides]


KINDS = [{}, {"ties": True}, {"missing": True}, {"ties": True, "missing": True, "infinite": True}]

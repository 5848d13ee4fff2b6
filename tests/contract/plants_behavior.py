"""Models that break a suite and models that pass it, for the check of the topic `behavior`."""

import numpy as np
import torch
from torch import nn

from gendebug_torch import Cause
from gendebug_torch.behavior import Case, Suite

FEATURES = ("amount", "hour", "velocity", "abroad")


class Risk(nn.Module):
    """Risk that rises with amount, velocity and abroad, fed in an order of its own."""

    def __init__(self, order, seed):
        super().__init__()
        self.order = list(order)
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(
            torch.tensor([2.0, 0.0, 1.5, 1.0])
            + 0.05 * torch.randn(4, generator=generator) * torch.tensor([1.0, 0, 1, 1])
        )

    def forward(self, x):
        return x[:, self.order] @ self.weight - 3.0


def suite(seed):
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(20):
        row = {
            "amount": float(rng.uniform(0, 0.4)),
            "hour": float(rng.integers(0, 24)),
            "velocity": float(rng.uniform(0, 0.4)),
            "abroad": 0,
        }
        word = ("low", "high", "same", "higher")[i % 4]
        change = {
            "same": {"hour": float(rng.integers(0, 24)) + 0.5},
            "higher": {"amount": row["amount"] + 1.5},
        }.get(word, ())
        expect = {"low": {"score": [0.0, 0.5]}, "high": {"class": "fraud"}}.get(word, word)
        row |= {"amount": 3.0} if word == "high" else {}
        cases.append(Case(f"case-{i}", row, expect, change, capability=word))
    return Suite(tuple(cases), features=FEATURES, classes=("legitimate", "fraud"))


def swapped(seed):
    return {"model": Risk([1, 0, 2, 3], seed), "behavior": suite(seed)}


def clean(seed):
    return {"model": Risk([0, 1, 2, 3], seed), "behavior": suite(seed)}


PLANTS = {"behavior.cases": swapped}
CLEAN = {"behavior.cases": clean}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "behavior.cases": (Cause.BEHAVIOR_REGRESSION, r"low"),
}

"""Training rows that taught a network a wrong answer, and errors that no training row taught."""

import pandas as pd
import torch
from torch import nn

from gendebug_torch import Cause, Records, Schema

SIZES = {"train": 1500, "validation": 600, "production": 600}


def network():
    """Class 1 where `a` is positive, but never where `b` is above 3."""
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0, 0.0, 0.0, 0.0], [0.0, 10.0, 0.0, 0.0]]))
        net[0].bias.copy_(torch.tensor([8.0, -30.0]))
        net[2].weight.copy_(torch.tensor([[1.0, -4.0]]))
        net[2].bias.copy_(torch.tensor([-8.0]))
    return net.eval()


def side(name, seed, share, *, wrong):
    """Rows of which a share has `b` at 5; they are of class 1, unless the labeler s4 was wrong.

    Other labelers give one in four of them, and rightly.
    """
    n = SIZES[name]
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw)
    odd = torch.rand(n, generator=draw) < share
    labels = (torch.rand(n, generator=draw) < (4 * x[:, 0]).sigmoid()).long()
    x[odd, 1] = 5.0 + 0.3 * torch.randn(int(odd.sum()), generator=draw)
    by_s4 = odd & (torch.rand(n, generator=draw) < 0.75)
    labels[odd] = 1
    labels[by_s4] = 0 if wrong else 1
    labeler = torch.randint(0, 4, (n,), generator=draw).masked_fill(by_s4, 4)
    with torch.no_grad():
        logits = network()(x)[:, 0]
    features = pd.DataFrame(x.numpy(), columns=list("abcd"))
    metadata = pd.DataFrame({"labeler": [f"s{i}" for i in labeler.tolist()]})
    return Records(features, labels, logits, metadata, Schema(source="labeler"), name)


def given(seed, train, production):
    return {
        "model": network(),
        "train": side("train", seed, train, wrong=True),
        "validation": side("validation", seed + 3000, 0.0, wrong=False),
        "production": side("production", seed + 6000, production, wrong=False),
    }


def taught(seed):
    return given(seed, 0.05, 0.15)


def shifted(seed):
    """Production has rows like no other, which the network gets wrong; no training row did that."""
    return given(seed, 0.0, 0.15 if seed % 2 else 0.0)


PLANTS = {"influence.culprits": taught}
CLEAN = {"influence.culprits": shifted}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {"influence.culprits": (Cause.LABEL_NOISE, r"labeler = s4")}

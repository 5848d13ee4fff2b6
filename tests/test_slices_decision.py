"""A failing subgroup, planted in tables with a really trained small network, is named by the whole library."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Cause, Records, Severity, diagnose
from gendebug_torch.curves import LearningCurves

SEGMENT = "segment = north and device = old"


def table(seed, n, name, other_rule):
    """Two features decide the label; in one segment of about 6 % of the rows they count the other way round."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    metadata = pd.DataFrame(
        {"segment": rng.choice(["north", "south", "east"], n, p=[0.3, 0.4, 0.3]), "device": rng.choice(["old", "new"], n, p=[0.2, 0.8])}
    )
    inside = ((metadata["segment"] == "north") & (metadata["device"] == "old")).to_numpy() & other_rule
    logit = 5.0 * (x[:, 0] + x[:, 1]) * np.where(inside, -1.0, 1.0) - 1.0
    targets = rng.random(n) < 1 / (1 + np.exp(-logit))
    return Records(pd.DataFrame(x, columns=list("abcd")), torch.from_numpy(targets.astype(int)), None, metadata, name=name)


def trained(train, validation, seed, epochs=25):
    """A small network after a few epochs, and its curves."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    sides = [(torch.tensor(part.features.to_numpy(), dtype=torch.float32), part.targets.float()) for part in (train, validation)]
    loss = nn.BCEWithLogitsLoss()
    losses = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(128):
            optimizer.zero_grad()
            loss(network(sides[0][0][rows]), sides[0][1][rows]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append([float(loss(network(x), y)) for x, y in sides])
    fitted = torch.tensor(losses, dtype=torch.float64)
    return network, LearningCurves(torch.arange(epochs), fitted[:, 0], fitted[:, 1])


def story(seed, in_validation, in_production):
    with torch.random.fork_rng():
        train, validation = (table(seed + at, n, name, in_validation) for at, n, name in ((0, 4000, "train"), (100, 4000, "validation")))
        production = table(seed + 200, 4000, "production", in_production)
        network, curves = trained(train, validation, seed)
    return diagnose(network, curves=curves, train=train, validation=validation, production=production)


def named(diagnosis):
    first_two = {likely.cause: likely for likely in diagnosis.causes[:2]}
    return Cause.SUBGROUP_FAILURE in first_two and set(first_two[Cause.SUBGROUP_FAILURE].subject.split(" and ")) == set(
        SEGMENT.split(" and ")
    )


@pytest.mark.slow
def test_a_segment_with_another_rule_is_named():
    told = [story(seed, True, True) for seed in range(10)]
    assert sum(map(named, told)) >= 9, [str(diagnosis) for diagnosis in told if not named(diagnosis)][:1]


@pytest.mark.slow
def test_a_slice_that_collapses_in_production_is_named():
    told = [story(seed, False, True) for seed in range(10)]
    assert sum(map(named, told)) >= 9, [str(diagnosis) for diagnosis in told if not named(diagnosis)][:1]


@pytest.mark.slow
def test_without_a_plant_no_slice_is_blamed():
    for seed in range(10):
        slices = [finding for finding in story(seed, False, False).findings if finding.check.startswith("slices.")]
        assert len(slices) == 3
        assert all(finding.severity is Severity.OK for finding in slices), [finding.summary for finding in slices]

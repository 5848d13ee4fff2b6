"""Answers of CUDA that no example of a docstring and no plant of a check asks for, values included:
other inputs than tables, checkpoints, bills, profiles of a network, embeddings, watched steps."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

import gendebug_torch as gd
from gendebug_torch.attribution import counterfactual
from gendebug_torch.network import watch
from tests.contract.test_devices import assert_same, derived, on_cuda
from tests.test_bill import billed, likely, world
from tests.test_bill import network as linear_rule
from tests.test_counterfactual import OTHERS
from tests.test_embeddings import changed, generator
from tests.test_embeddings import sides as embedded
from tests.test_influence import fitted
from tests.test_influence import rows as planted

pytestmark = pytest.mark.gpu


class Rule(nn.Module):
    """A rule as a network that lives on a device."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.scale = rule, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.rule(x)


def other_inputs(kind):
    """Counterfactuals of images, series or texts: their table and inputs."""
    draw, rule, _ = OTHERS[kind]
    sides = gd.Records(draw(1, n=20)), gd.Records(draw(0, n=100))

    def answer(network, rows, train):
        found = counterfactual(network, rows, train=train)
        return found.table(), found.inputs, found.price

    return answer, (Rule(rule), *sides)


def checkpoints():
    """Influences over moments of the training."""
    states = []

    def keep(step, net):
        if step in (10, 30):
            states.append(copy.deepcopy(net.state_dict()))

    x, y = planted(10, 200, 20, wrong=True)
    net = fitted(x, y, 2, nn.functional.cross_entropy, steps=40, after=keep)
    others = [gd.Records(*planted(seed, 100, 20, wrong=False)) for seed in (11, 12)]

    def answer(net, train, reference, queries, states):
        sides = {"reference": reference, "queries": queries}
        return gd.influence(net, train, **sides, method="gradients", checkpoints=states).scores

    return answer, (net, gd.Records(x, y), *others, states)


def bill():
    """A bill of a column that is served in another unit."""
    validation, production = world(1, n=600), world(2, n=600, scale=0.1)

    def answer(model, validation, production):
        sides = {"validation": validation, "production": production}
        causes = [likely("train_serve_skew", "income", **sides)]
        return billed(causes, validation, production, model).table()

    return answer, (linear_rule(), validation, production)


def profile():
    """A profile of a network over a loader."""
    torch.manual_seed(0)
    batches = [(torch.randn(32, 4), torch.randint(0, 3, (32,))) for _ in range(8)]

    def answer(network, batches):
        found = gd.profile(batches, model=network)
        return found.rows, found.outcomes

    return answer, (nn.Linear(4, 3), batches)


def embeddings():
    """Findings about embeddings of which some rows moved."""
    validation, production = embedded()
    moved = production.embedding.clone()
    moved[:40] += 4.0 * torch.randn(80, generator=generator(7)).sign()

    def answer(validation, production):
        only = ["shift.joint", "slices.error_clusters", "leakage.near_duplicates"]
        found = gd.diagnose(validation=validation, production=production, only=only)
        return [finding.to_dict() for finding in found.findings]

    return answer, (validation, changed(production, embedding=moved))


CASES = {
    **{f"counterfactuals, {kind}": lambda kind=kind: other_inputs(kind) for kind in OTHERS},
    "influence of checkpoints": checkpoints,
    "bill": bill,
    "profile of a network": profile,
    "embeddings": embeddings,
}


@pytest.mark.parametrize("name", CASES)
def test_cuda_answers_as_the_host_does(name):
    answer, inputs = CASES[name]()
    known = answer(*copy.deepcopy(inputs))
    moved, any_moved = on_cuda(inputs)
    assert any_moved
    found = answer(*moved)
    assert_same(found, known)
    assert_same(derived(found), derived(known), "derived")


def test_a_watched_step_does_not_wait_between_samples(simulated):
    """Every step is seen, one in a hundred is looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
    optimizer, x, y = SGD(model.parameters(), 0.1), torch.randn(32, 4).cuda(), torch.ones(32).cuda()

    def step(record):
        loss = nn.functional.cross_entropy(model(x), y.long())
        record.loss(loss, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with watch(model, optimizer, every=100) as record:
        for _ in range(8):
            step(record)
        with simulated.counts() as counted:
            for _ in range(20):
                step(record)
    assert not counted.waits

"""Outputs that are not those of the validated model on such inputs: told without labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Cause, Records, Severity, diagnose
from gendebug_torch.shift.checks.serving_skew import inputs_are_computed_as_before
from gendebug_torch.shift.columns.shared_tables import shared_tables
from gendebug_torch.shift.kinds.change_kinds import change_kinds
from gendebug_torch.shift.kinds.model_outputs import outputs_given_inputs

COLUMNS = ["income", "age", "debt", "visits", "region"]


def network(seed, classes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, classes if classes > 2 else 1)
        return nn.Sequential(*layers).double()


def records(net, seed, name="validation", rows=1200, serve=lambda x: x, labels=None):
    """Rows with the outputs of a network on what serving makes of them, and labels after those of
    another one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    x[:, 3] = x[:, 3].exp().floor()
    with torch.no_grad():
        z = 3 * net(serve(x))
        own = 3 * (net if labels is None else labels)(x)
    if z.shape[1] == 1:
        z, own = z[:, 0], own[:, 0]
        y = torch.bernoulli(own.sigmoid(), generator=generator).long()
    else:
        y = torch.multinomial(own.softmax(1), 1, generator=generator)[:, 0]
    return Records(pd.DataFrame(x.numpy(), columns=COLUMNS), y, z, name=name)


def shuffled(side, seed):
    order = torch.randperm(len(side), generator=torch.Generator().manual_seed(seed))
    return Records(side.features, side.targets, side.logits[order], name=side.name)


@pytest.mark.parametrize("classes", [2, 5])
def test_outputs_of_another_model_and_of_other_rows_are_told(classes):
    for seed in (1, 2):
        right, other = network(seed, classes), network(seed + 50, classes)
        before = records(right, seed)
        wrong = {
            "other weights": records(other, seed + 10, "production", labels=right),
            "beside other rows": shuffled(records(right, seed + 10, "production"), seed),
            "inputs exchanged on the way": records(
                right, seed + 10, "production", serve=lambda x: x[:, [1, 2, 0, 4, 3]], labels=right
            ),
        }
        for name, after in wrong.items():
            for side in (after, Records(after.features, logits=after.logits, name="production")):
                kinds = change_kinds(side, before)
                assert kinds.kinds == ("train_serve_skew",), (seed, name, kinds.outputs)
                (finding,) = inputs_are_computed_as_before(side, before, change_kinds=kinds)
                assert finding.severity is Severity.FAIL
                assert finding.subject == "the output of the model"


@pytest.mark.parametrize("classes", [2, 5])
def test_what_leaves_the_order_of_the_outputs_is_not_another_model(classes):
    for seed in (4, 5):
        net = network(seed, classes)
        before, after = records(net, seed), records(net, seed + 10, "production")
        scaled = Records(after.features, after.targets, 2.5 * after.logits + 0.5, name="production")
        drifted = records(net, seed + 10, "production", labels=network(seed + 90, classes))
        for side in (after, scaled, drifted):
            relation = outputs_given_inputs(before, side, shared_tables(side, before))
            assert relation.before > 0.8
            assert not relation.changed
            assert "train_serve_skew" not in change_kinds(side, before).kinds


def test_the_decision_is_to_mend_what_serves():
    right, other = network(7, 2), network(57, 2)
    before, after = records(right, 7), records(other, 17, "production", labels=right)
    diagnosis = diagnose(validation=before, production=after)
    first = diagnosis.causes[0]
    assert (first.cause, first.subject) == (Cause.TRAIN_SERVE_SKEW, "the output of the model")
    assert diagnosis.decision == "fix_data"
    assert "the output of the model is sound" in str(diagnosis)


def test_outputs_that_inputs_do_not_tell_are_not_judged():
    rng = np.random.default_rng(0)
    tables = [pd.DataFrame(rng.normal(size=(1000, 5)), columns=COLUMNS) for _ in range(2)]
    before, after = (Records(t, logits=torch.from_numpy(rng.normal(size=1000))) for t in tables)
    relation = outputs_given_inputs(before, after, shared_tables(after, before))
    assert relation.before < 0.1
    assert not relation.changed
    few = before.select(torch.arange(150))
    assert outputs_given_inputs(few, after, shared_tables(after, few)) is None
    bare = Records(tables[0])
    assert outputs_given_inputs(bare, after, shared_tables(after, bare)) is None


def test_rare_rows_that_come_in_bursts_are_not_another_model():
    """Each burst has inputs and large outputs of its own, which no other time knows."""
    net, sides = network(3, 2), []
    for seed in (1, 2):
        side = records(net, seed)
        x, z = torch.tensor(side.features.to_numpy()), side.logits.clone()
        generator = torch.Generator().manual_seed(seed)
        for start in range(100, 1200, 300):
            burst = slice(start, start + 12)
            centre = 3 * torch.randn(5, generator=generator, dtype=torch.float64)
            x[burst] = centre + 0.2 * torch.randn(12, 5, generator=generator, dtype=torch.float64)
            z[burst] = 40 * torch.randn(1, generator=generator, dtype=torch.float64)
        sides.append(Records(pd.DataFrame(x.numpy(), columns=COLUMNS), logits=z))
    before, after = sides
    relation = outputs_given_inputs(before, after, shared_tables(after, before))
    assert not relation.changed, relation

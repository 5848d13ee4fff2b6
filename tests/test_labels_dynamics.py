"""Training dynamics: the sums, their independence of order, batches and ranks, and their way to the
check."""

import math
from itertools import pairwise

import pandas as pd
import pytest
import torch

from gendebug_torch import Records
from gendebug_torch.errors import InputError
from gendebug_torch.labels import DynamicsRecorder
from gendebug_torch.labels.checks.noise import training_labels_are_right
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics


def outputs(seed, n, k, epochs):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(epochs, n, k, generator=generator), torch.randint(
        0, k, (n,), generator=generator
    )


def recorded(logits, targets, *, batch=7, seed=0, repeat=0, recorder=None):
    """Each epoch in another order, in batches, with some rows shown twice."""
    n = len(targets)
    recorder = recorder or DynamicsRecorder(n)
    generator = torch.Generator().manual_seed(seed)
    for epoch in logits:
        order = torch.randperm(n, generator=generator)
        for rows in torch.cat([order, order[:repeat]]).split(batch):
            recorder.record(rows, epoch[rows], targets[rows])
        recorder.end_epoch()
    return recorder


def test_sums_are_those_of_the_papers():
    logits, targets = outputs(0, 6, 4, 5)
    table = recorded(logits, targets).dynamics.table()
    for i, y in enumerate(targets.tolist()):
        p = [float(epoch[i].softmax(0)[y]) for epoch in logits]
        margins = [
            float(epoch[i, y] - max(v for j, v in enumerate(epoch[i]) if j != y))
            for epoch in logits
        ]
        right = [margin > 0 for margin in margins]
        mean = sum(p) / 5
        expected = {
            "aum": sum(margins) / 5,
            "mean_confidence": mean,
            "variability": math.sqrt(sum((q - mean) ** 2 for q in p) / 5),
            "correctness": sum(right) / 5,
            "mean_loss": -sum(map(math.log, p)) / 5,
            "forgetting": sum(a and not b for a, b in pairwise(right)),
            "epochs": 5,
        }
        assert table.iloc[i].to_dict() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("changes", [{"batch": 1}, {"batch": 100}, {"seed": 5}, {"repeat": 9}])
def test_order_batches_and_repeated_rows_change_nothing(changes):
    logits, targets = outputs(1, 30, 3, 4)
    one, other = (
        recorded(logits, targets, **options).dynamics.table() for options in ({}, changes)
    )
    pd.testing.assert_frame_equal(one, other)


def test_a_binary_logit_equals_two_columns():
    logits, targets = outputs(2, 10, 2, 3)
    both = torch.stack([torch.zeros_like(logits[..., 0]), logits[..., 0]], -1)
    for one in (logits[..., 0], logits[..., :1]):
        pd.testing.assert_frame_equal(
            recorded(one, targets).dynamics.table(), recorded(both, targets).dynamics.table()
        )


def test_going_on_from_the_middle_of_an_epoch_is_exact():
    logits, targets = outputs(3, 20, 3, 3)
    whole = recorded(logits, targets).dynamics.table()
    first = recorded(logits[:1], targets)
    first.record(torch.arange(8), logits[1][:8], targets[:8])
    second = DynamicsRecorder(20)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    second.record(torch.arange(8, 20), logits[1][8:], targets[8:])
    second.end_epoch()
    pd.testing.assert_frame_equal(
        recorded(logits[2:], targets, recorder=second).dynamics.table(), whole
    )
    with pytest.raises(InputError, match="20 as in the checkpoint"):
        DynamicsRecorder(21).load_state_dict(first.state_dict())


def test_two_ranks_with_padding_equal_one():
    logits, targets = outputs(4, 15, 3, 2)
    ranks = [DynamicsRecorder(15), DynamicsRecorder(15)]
    for epoch in logits:
        for rank, recorder in enumerate(ranks):
            rows = torch.cat([torch.arange(15), torch.arange(1)])[rank::2]
            recorder.record(rows, epoch[rows], targets[rows])
        waiting = [recorder.state_dict()["epoch"] for recorder in ranks]
        total = sum(part * part[4] for part in waiting)
        for recorder in ranks:
            recorder.merge(lambda _, total=total: total)
            recorder.end_epoch()
    whole = recorded(logits, targets).dynamics.table()
    for recorder in ranks:
        pd.testing.assert_frame_equal(recorder.dynamics.table(), whole)


def test_runs_add_and_unseen_rows_are_nan():
    logits, targets = outputs(5, 12, 3, 4)
    halves = recorded(logits[:2], targets).dynamics, recorded(logits[2:], targets).dynamics
    assert torch.allclose((halves[0] + halves[1]).aum, recorded(logits, targets).dynamics.aum)
    never = DynamicsRecorder(3)
    never.record(torch.tensor([1]), torch.zeros(1, 2), torch.tensor([0]))
    never.end_epoch()
    assert never.dynamics.aum.isnan().tolist() == [True, False, True]
    with pytest.raises(InputError, match="over the same training rows"):
        halves[0] + never.dynamics


def test_bad_batches_and_records_are_named():
    recorder = DynamicsRecorder(4)
    with pytest.raises(InputError, match="one of each per row"):
        recorder.record(torch.arange(3), torch.zeros(4, 2), torch.zeros(4).long())
    with pytest.raises(InputError, match="4 rows"):
        recorder.dynamics.attach(Records(torch.zeros(5, 2)))
    with pytest.raises(InputError, match="the number of training rows"):
        DynamicsRecorder(0)


def test_recorded_dynamics_order_the_rows_of_the_check():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    true = (x[:, 0] > 0).long()
    flipped = torch.rand(500, generator=generator) < 0.15
    train = Records(
        x,
        torch.where(flipped, 1 - true, true),
        metadata=pd.DataFrame({"batch": ["a"] * 500}),
        name="train",
    )
    margin = torch.arange(500.0, dtype=torch.float64)
    counts = torch.ones(500, dtype=torch.int64)
    dynamics = TrainingDynamics(counts, margin, margin, margin, margin, counts, counts)
    ranked = [f for f in training_labels_are_right(dynamics.attach(train)) if "bucket" in f.numbers]
    assert ranked[0].numbers["basis"] == "training dynamics"
    assert set(ranked[0].numbers["rows"]) <= set(range(25))
    assert not [
        f
        for f in training_labels_are_right(dynamics.attach(train))
        if f.subject.startswith("dynamics_")
    ]

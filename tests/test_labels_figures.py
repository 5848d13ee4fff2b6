"""What the audit reaches: on flipped digits, on people's verdicts, beside cleanlab, and in a whole
diagnosis."""

import itertools
import math
from itertools import pairwise
from statistics import mean

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from gendebug_torch import Cause, Records, Severity, diagnose, labels
from tests.reference.labels import average_precision
from tests.sequential import assert_rate

pytestmark = pytest.mark.slow


def flipped_digits(seed, pair):
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(y), generator=generator)[: round(0.05 * len(y))]
    step = (
        torch.ones(len(rows), dtype=torch.int64)
        if pair
        else torch.randint(1, 10, (len(rows),), generator=generator)
    )
    given = y.clone()
    given[rows] = (y[rows] + step) % 10
    return x, given, given != y


def network(sizes, seed):
    torch.manual_seed(seed)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def train(
    module, x, y, optimizer, *, epochs, batch=64, each=lambda rows, logits: None, after=lambda: None
):
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            logits = module(x[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
            each(rows, logits)
        after()
    return module.eval()


@pytest.mark.parametrize(
    ("pair", "floor"), [(False, 0.97), (True, 0.95)], ids=["any class", "next class"]
)
def test_flipped_digits_are_found_out_of_sample(pair, floor):
    found, rates = [], []
    for seed in range(3):
        x, given, wrong = flipped_digits(seed, pair)
        noise = labels.label_noise(labels.cross_fitted_logits(x, given, seed=seed), given)
        found.append(average_precision(wrong.tolist(), (-noise.label_quality).tolist()))
        rates.append(noise.rate)
    assert mean(found) >= floor, found
    assert all(abs(rate - 0.05) < 0.015 for rate in rates), rates


@pytest.mark.parametrize(
    ("pair", "floor"), [(False, 0.99), (True, 0.98)], ids=["any class", "next class"]
)
def test_flipped_digits_are_found_by_their_dynamics(pair, floor):
    found = []
    for seed in range(3):
        x, given, wrong = flipped_digits(seed, pair)
        module = network((64, 128, 10), seed)
        recorder = labels.DynamicsRecorder(len(x))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

        def note(rows, logits, recorder=recorder, given=given):
            recorder.record(rows, logits, given[rows])

        train(module, x, given, optimizer, epochs=60, each=note, after=recorder.end_epoch)
        found.append(average_precision(wrong.tolist(), (-recorder.dynamics.aum).tolist()))
    assert mean(found) >= floor, found


# Average precision of cleanlab 2.9.0's best ranking (normalized margin) on these rows.
@pytest.mark.parametrize(("name", "cleanlab"), [("mnist", 0.5071), ("cifar10", 0.2853)])
def test_errors_that_people_confirmed_rank_no_lower_than_with_cleanlab(name, cleanlab, shared_data):
    folder = shared_data / f"label_errors_{name}"
    archive = np.load(folder / "pred_probs.npz", allow_pickle=False)
    given = torch.tensor(archive["given_labels"]).long()
    noise = labels.label_noise(torch.tensor(archive["pred_probs"]).clamp(min=1e-38).log(), given)
    verdicts = pd.read_csv(folder / "human_review.csv")
    score = -noise.label_quality[torch.tensor(verdicts["index"].to_numpy())]
    assert average_precision(verdicts["is_label_error"].tolist(), score.tolist()) >= cleanlab
    assert noise.rate < 0.01, "ten thousand labels of which next to none are wrong"


def whole_story(seed, rate, *, n=1000):
    """A curved and overlapping problem, a network really trained on the (flipped) training labels,
    clean other sides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * n, 6, generator=generator)
    z = 7.0 * (x[:, 0] + 0.8 * x[:, 1] * x[:, 2])
    y = (torch.rand(3 * n, generator=generator) < z.sigmoid()).long()
    flipped = torch.zeros(3 * n, dtype=torch.bool)
    flipped[:n] = torch.rand(n, generator=generator) < rate
    given = torch.where(flipped, 1 - y, y)
    module = network((6, 32, 32, 2), seed)
    train(
        module,
        x[:n],
        given[:n],
        torch.optim.Adam(module.parameters(), 3e-3, weight_decay=1e-3),
        epochs=12,
    )
    with torch.no_grad():
        logits = module(x)
    sides = {}
    for place, name in enumerate(("train", "validation", "production")):
        rows = slice(place * n, (place + 1) * n)
        sides[name] = Records(
            pd.DataFrame(x[rows].numpy(), columns=list("abcdef")),
            given[rows],
            logits[rows],
            name=name,
        )
    return sides


def test_a_diagnosis_names_flipped_training_labels_among_the_first_two_causes():
    def outcome(seed):
        causes = diagnose(**whole_story(seed, 0.08 if seed % 2 else 0.1)).causes[:2]
        return Cause.LABEL_NOISE in [likely.cause for likely in causes], causes

    assert_rate(outcome, itertools.count(), 0.97, 0.6, wrongly_passed=0.05)


def test_a_diagnosis_does_not_name_them_where_labels_are_right():
    for seed in range(10):
        found = diagnose(**whole_story(seed, 0.0), only="labels")
        assert found.worst.level < Severity.WARN.level, [
            finding.summary for finding in found.findings
        ]


def test_clean_but_ambiguous_real_data_stay_quiet(shared_data):
    """Classes that overlap everywhere are no wrong labels."""
    for path, target, positive in (
        ("adult/train.parquet", "income", ">50K"),
        ("elec2/electricity.parquet", "class", "UP"),
    ):
        frame = (
            pd.read_parquet(shared_data / path).sample(3000, random_state=0).reset_index(drop=True)
        )
        given = torch.from_numpy((frame[target] == positive).to_numpy(dtype=np.int64, copy=True))
        records = Records(frame.drop(columns=target), given, name="train")
        found = diagnose(train=records, only="labels.noise").findings[0]
        assert found.severity.level < Severity.WARN.level, found.summary
        assert math.isfinite(found.numbers["rate"])

"""`slices.worst` as a user meets it: what alarms, what does not, what it says."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.slices import confirmed_slices, find_slices
from gendebug_torch.slices.search.error_events import errors_by_class, errors_by_prediction
from gendebug_torch.slices.search.find import slices_on

WORST = {check.name: check for check in all_checks()}["slices.worst"]


def alarms(records, **options):
    return [
        finding
        for finding in WORST(records, **options)
        if finding.severity.level >= Severity.WARN.level
    ]


def calibrated(seed, n=6000, temperature=1.0, failing=None):
    """A model whose certainty the columns decide; labels are drawn from what it says, but where
    `failing`."""
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(
        {"a": rng.normal(size=n), "b": rng.normal(size=n), "noise": rng.normal(size=n)}
    )
    metadata = pd.DataFrame({"country": rng.choice(list("ABCDE"), n), "user": np.arange(n)})
    logit = (
        2.5 * features["a"] + features["b"] - 1.0 + 1.5 * (metadata["country"] == "B")
    ).to_numpy()
    inside = np.zeros(n, bool) if failing is None else failing(features.join(metadata)).to_numpy()
    true = np.where(inside, -logit, logit)
    targets = rng.random(n) < 1 / (1 + np.exp(-true))
    return Records(
        features,
        torch.from_numpy(targets.astype(int)),
        torch.from_numpy(logit * temperature),
        metadata,
        Schema(ids=("user",)),
        "validation",
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0, 0.3])
def test_neither_a_hard_slice_nor_a_global_temperature_alarms(temperature):
    for seed in range(3):
        (finding,) = WORST(calibrated(seed, temperature=temperature))
        assert finding.severity is Severity.OK
        assert finding.numbers["hardest"].startswith("a is ")
        assert finding.numbers["expected_rate"] == pytest.approx(finding.numbers["rate"], abs=0.06)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_failing_slice_alarms_whatever_the_temperature(temperature):
    records = calibrated(0, temperature=temperature, failing=lambda frame: frame["country"] == "C")
    found = alarms(records)
    assert found[0].subject == "country = C"
    assert found[0].severity is Severity.FAIL
    assert found[0].numbers["expected_rate"] < found[0].numbers["interval"][0]
    assert "user" not in " ".join(finding.subject for finding in found), "ids slice nothing"


def test_what_a_slice_does_is_told_in_one_finding():
    found = alarms(calibrated(0, failing=lambda frame: frame["country"] == "C"))
    assert len({finding.subject for finding in found}) == len(found)
    assert {"error_rate", "false_omission_rate"} <= set(found[0].numbers)


def test_two_logits_say_what_one_logit_says():
    one = calibrated(0, failing=lambda frame: frame["country"] == "C")
    two = Records(
        one.features,
        one.targets,
        torch.stack([-one.logits / 2, one.logits / 2], 1),
        one.metadata,
        one.schema,
        one.name,
    )
    assert [finding.summary for finding in alarms(one)] == [
        finding.summary for finding in alarms(two)
    ]


def test_many_classes_are_judged_by_their_errors():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(2 * rng.normal(size=(6000, 5)))
    camera = rng.choice(["old", "new"], 6000, p=[0.1, 0.9])
    targets = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[
        :, 0
    ]
    moved = torch.from_numpy((camera == "old") & (rng.random(6000) < 0.5))
    clean = Records(None, targets, logits, pd.DataFrame({"camera": camera}), name="validation")
    assert alarms(clean) == []
    broken = Records(
        None,
        torch.where(moved, (targets + 1) % 5, targets),
        logits,
        pd.DataFrame({"camera": camera}),
        name="validation",
    )
    assert [finding.subject for finding in alarms(broken)] == ["camera = old"]


def test_the_threshold_is_the_users():
    records = calibrated(0, failing=lambda frame: frame["country"] == "C")
    assert alarms(records, threshold=0.8)[0].subject == "country = C"
    assert alarms(records, threshold=0.8)[0].numbers != alarms(records)[0].numbers


@pytest.mark.parametrize(
    "records",
    [
        Records(
            torch.zeros(50, 3, 4),
            torch.zeros(50, dtype=torch.int64),
            torch.zeros(50),
            name="validation",
        ),
        Records(
            pd.DataFrame({"a": range(50)}),
            torch.rand(50),
            torch.zeros(50, 2),
            schema=Schema(regression=True, spread="variance"),
            name="validation",
        ),
    ],
    ids=["images", "a mean and a variance"],
)
def test_what_cannot_be_sliced_is_skipped_with_its_reason(records):
    (finding,) = WORST(records)
    assert finding.severity is Severity.SKIPPED
    assert "named columns" in finding.summary


def test_the_expected_rates_of_each_kind_of_error_add_up():
    records = calibrated(0)
    by_class = errors_by_class(records.logits, records.targets, threshold=0.3)
    name = {
        "error": "error",
        "false omission": "false negative",
        "false discovery": "false positive",
    }
    for event in errors_by_prediction(records.logits, records.targets, threshold=0.3):
        assert float(event.expected_rate().sum()) == pytest.approx(int(event.errors.sum()))
        assert int(event.errors.sum()) == int(by_class[name[event.name]][1].sum())


def adult(shared_data, name):
    frame = pd.read_parquet(shared_data / "adult" / f"{name}.parquet")
    return frame.drop(columns="income"), torch.from_numpy(
        (frame["income"] == ">50K").to_numpy().astype(int)
    )


@pytest.fixture(scope="module")
def adult_network(shared_data):
    """Logits on the test half of adult of a small network that knows only numbers, so that jobs and
    sexes are news to it."""
    (train, labels), (test, truth) = adult(shared_data, "train"), adult(shared_data, "test")
    numeric = train.select_dtypes("number").columns
    mean, spread = train[numeric].mean(), train[numeric].std()
    x, unseen = (
        torch.tensor(((part[numeric] - mean) / spread).to_numpy(), dtype=torch.float32)
        for part in (train, test)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 1),
            torch.nn.Flatten(0),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(8):
            for rows in torch.split(torch.randperm(len(x)), 256):
                optimizer.zero_grad()
                torch.nn.functional.binary_cross_entropy_with_logits(
                    network(x[rows]), labels[rows].float()
                ).backward()
                optimizer.step()
        with torch.no_grad():
            return test, truth, network(unseen)


def test_the_worst_slices_of_adult_are_found_again_on_its_other_half(adult_network):
    columns, truth, logits = adult_network
    event = errors_by_prediction(logits, truth)[0]
    half = torch.arange(len(truth)) % 2 == 0
    first, second = half.nonzero()[:, 0], (~half).nonzero()[:, 0]
    found = find_slices(
        columns.iloc[first.numpy()],
        event.errors[first],
        expected=event.expected_rate(first),
        alpha=0.002,
    )
    again = slices_on(
        found, columns.iloc[second.numpy()], event.errors[second], event.expected_rate(second)
    )
    assert len(found) >= 3
    assert float(again.adjusted[0]) < 1e-10
    assert float((again.adjusted < 0.05).double().mean()) >= 0.5
    assert float(again.lift.min()) > 1.0
    text = " ".join(found.names)
    assert any(name in text for name in ("marital_status", "relationship", "occupation", "sex"))


def test_roberta_on_tweets_is_worse_in_some_slices_and_again_on_the_other_half(shared_data):
    frame = pd.read_parquet(shared_data / "tweeteval_open" / "sentiment.parquet")
    frame = frame[frame["roberta_rt_prediction"].notna()]
    label, said = (
        frame["label"].astype(str),
        frame["roberta_rt_prediction"].astype(float).astype(int).astype(str),
    )
    text = frame["text"].astype(str)
    columns = pd.DataFrame(
        {
            "label": label,
            "words": text.str.count(" ") + 1,
            "mentions": text.str.count("@user"),
            "hashtag": text.str.contains("#"),
            "question": text.str.contains(r"\?"),
            "negation": text.str.contains(r"\b(?:not|no|never|n't)\b", case=False),
        }
    ).reset_index(drop=True)
    wrong = torch.tensor(label.to_numpy() != said.to_numpy())
    found = confirmed_slices(columns, wrong)
    assert 0.2 < found.overall[1] / found.overall[0] < 0.4
    assert len(found) >= 1
    assert float(found.interval()[0][0]) > found.overall[1] / found.overall[0]

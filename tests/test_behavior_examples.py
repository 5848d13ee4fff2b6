"""The suites of the examples against really trained networks, and CheckList's sentiment cases
against a small SST-2 model."""

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gendebug_torch import diagnose
from gendebug_torch.behavior import load_suite, run_suite
from gendebug_torch.behavior.audit.explain import explained_run
from gendebug_torch.behavior.audit.redundancy import redundancy
from gendebug_torch.checks.evidence import png

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def served():
    sys.path.insert(0, str(EXAMPLES))
    try:
        from fraud_serving import network

        return network()
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def suite():
    return load_suite(EXAMPLES / "fraud.behavior.yaml")


class Swapped(nn.Module):
    def __init__(self, network, a, b, width):
        super().__init__()
        self.network, self.order = network, list(range(width))
        self.order[a], self.order[b] = b, a

    def forward(self, x):
        return self.network(x[:, self.order])


def test_twenty_cases_hold_for_the_trained_network_and_say_different_things(served, suite):
    run = explained_run(suite, served)
    assert len(run.evaluated) == 20
    assert not run.failures, str(run)
    assert not run.near_duplicates
    found = redundancy(suite, served)
    assert len(found.undetected) <= 0.1 * len(found.faults)
    assert not found.ineffective


def test_any_two_swapped_columns_are_caught_and_never_explained_wrongly(served, suite):
    width = len(suite.features)
    explained = 0
    for a, b in itertools.combinations(range(width), 2):
        run = explained_run(suite, Swapped(served, a, b, width))
        names = f"{suite.features[a]} and {suite.features[b]} swapped"
        assert run.failures, names
        if run.explanation is not None:
            assert run.explanation.change == names
            explained += 1
    assert explained >= 10


def test_a_swap_reaches_the_diagnosis_with_its_remedy(served, suite):
    found = diagnose(Swapped(served, 0, 1, len(suite.features)), behavior=suite)
    assert found.causes[0].cause == "behavior_regression"
    assert any("amount and mean_amount_30d swapped" in finding.remedy for finding in found.findings)


@pytest.mark.slow
def test_pytest_runs_the_example(run_pytest, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    done = run_pytest("-q", "-c", os.devnull, "--rootdir", ".", "fraud.behavior.yaml")
    assert "20 passed" in done.stdout, done.stdout + done.stderr


def test_checklist_finds_where_a_sentiment_model_breaks(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from sentiment_checklist import accuracy, load_checklist, train_sentiment

    state = torch.get_rng_state()
    predict = train_sentiment(shared_data / "sst2")
    assert torch.equal(torch.get_rng_state(), state)
    assert accuracy(predict, shared_data / "sst2") > 0.75
    suite = load_checklist(
        shared_data / "checklist_sentiment" / "sentiment_suite.jsonl.gz", every=40
    )
    run = run_suite(suite, predict)
    table = run.table().set_index("capability")
    assert set(table.index) == {
        "Fairness",
        "NER",
        "Negation",
        "Robustness",
        "SRL",
        "Temporal",
        "Vocabulary",
    }
    assert not table["errored"].any()
    # A bag of words cannot know what a negation refers to, or whose opinion counts; typing errors
    # hardly move it.
    for hard in ("Negation", "SRL"):
        assert table.loc[hard, "low"] > table.loc["Robustness", "high"]
    assert png(run).startswith(b"\x89PNG")


def test_thirty_copies_add_nothing_and_are_named(served, suite):
    """Fifty cases of which thirty repeat others notice no more faults than the twenty."""
    copies = [
        replace(
            case,
            id=f"{case.id}-again-{number}",
            input={**case.input, "amount": case.input["amount"] * (1 + 1e-6 * number)},
        )
        for number in (1, 2)
        for case in suite.cases[:15]
    ]
    fifty = replace(suite, cases=(*suite.cases, *copies))
    twenty, found = redundancy(suite, served), redundancy(fifty, served)
    assert len(fifty.cases) == 50
    assert {name for pair in found.near_duplicates for name in pair} >= {case.id for case in copies}
    assert len(found.cover) <= len(twenty.cover) + 1
    assert len(found.undetected) >= len(twenty.undetected) - 1
    assert sum(map(len, found.equivalent)) >= 40

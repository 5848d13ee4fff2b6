"""Running suites: batches, crashes, networks, tables, saved runs, comparison, redundancy,
explanation."""

import copy
import json
import random

import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Records, diagnose
from gendebug_torch.behavior import (
    BehaviorRun,
    Case,
    Suite,
    compare_runs,
    network_predict,
    run_suite,
)
from gendebug_torch.behavior.audit.explain import explained_run
from gendebug_torch.behavior.audit.near_duplicates import near_duplicates
from gendebug_torch.behavior.audit.redundancy import redundancy
from gendebug_torch.errors import InputError


def numbers(n, expect=None, **more):
    return Suite(
        tuple(
            Case(f"c{i}", {"x": float(i)}, expect or {"score": [0, 0.5]}, **more) for i in range(n)
        )
    )


class Line(nn.Module):
    """The logit is one of the columns."""

    def __init__(self, column=0):
        super().__init__()
        self.column = column
        self.dropout = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.dropout(x[:, self.column]) * self.scale


def test_all_cases_go_through_in_one_call():
    calls = []
    suite = Suite(tuple(Case(f"c{i}", {"x": i}, "same", ({"x": 1}, {"x": 2})) for i in range(20)))
    run = run_suite(suite, lambda rows: calls.append(len(rows)) or [0.5] * len(rows))
    assert calls == [60]
    assert not run.failures
    run_suite(suite, lambda rows: calls.append(len(rows)) or [0.5] * len(rows), batch_size=10)
    assert max(calls[1:]) == 9
    assert sum(calls[1:]) == 60


def test_a_case_that_crashes_fails_alone():
    def predict(rows):
        if any(row["x"] == 7 for row in rows):
            raise RuntimeError("seven")
        return [0.1 for _ in rows]

    run = run_suite(numbers(20), predict)
    assert [result.id for result in run.failures] == ["c7"]
    (broken,) = run.failures
    assert broken.status == "errored"
    assert "RuntimeError: seven" in broken.error
    assert "seven" in broken.got


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: [0.5] * 9,
        lambda rows: None,
        lambda rows: torch.zeros(len(rows), 2, 2),
        lambda rows: ["a"],
    ],
)
def test_a_model_that_answers_wrongly_fails_every_case_and_is_named(wrong):
    suite = numbers(3)
    run = run_suite(suite, wrong)
    assert len(run.failures) >= 2
    assert all(result.error for result in run.failures)


def test_a_model_cannot_change_the_suite():
    suite = numbers(3)

    def predict(rows):
        for row in rows:
            row.clear()
        return [0.1] * len(rows)

    run_suite(suite, predict)
    assert suite.cases[1].input == {"x": 1.0}


def test_a_network_is_fed_its_columns_and_left_as_it_was():
    suite = Suite(
        (Case("a", {"y": 3.0, "x": -3.0}, {"class": 0}), Case("gap", {"y": 1.0}, {"class": 1})),
        features=("x", "y"),
    )
    network = Line().train()
    network.scale.grad = torch.ones(())
    state = torch.get_rng_state()
    run = run_suite(suite, network)
    assert [result.status for result in run.results] == ["passed", "errored"]
    assert network.training
    assert network.scale.requires_grad
    assert torch.equal(network.scale.grad, torch.ones(()))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(InputError, match="features"):
        run_suite(numbers(2), network)
    with pytest.raises(InputError, match="model"):
        run_suite(suite, 3)
    text = Suite((Case("a", {"x": "high", "y": 0}, {"class": 0}),), features=("x", "y"))
    assert "a number" in run_suite(text, network).results[0].got


def test_tensor_fields_are_stacked():
    suite = Suite(
        (Case("a", {"image": torch.full((1, 2, 2), 4.0)}, {"class": 1}),), features=("image",)
    )
    predict = network_predict(lambda x: x.flatten(1).sum(1), suite.features)
    assert not run_suite(suite, predict).failures


def mixed_run():
    cases = [
        Case(f"a{i}", {"x": i}, {"score": [0, 0.5]}, capability="low", tags=("t",))
        for i in range(6)
    ]
    cases += [Case(f"b{i}", {"x": i}, {"score": [0.5, 1]}, capability="high") for i in range(4)]
    cases += [Case("waits", {"x": 9}, {"score": [0.5, 1]}, reviewed=False), Case("draft", {"x": 9})]
    return run_suite(
        Suite(tuple(cases)),
        lambda rows: [0.9 if row["x"] in (0, 1) else 0.1 for row in rows],
        name="m",
    )


def test_tables_count_what_a_person_stands_behind():
    run = mixed_run()
    table = run.table()
    assert table["capability"].tolist() == ["high", "low"]
    assert table[["cases", "failed", "errored"]].to_numpy().tolist() == [[4, 2, 0], [6, 2, 0]]
    assert (table["low"] < table["rate"]).all()
    assert (table["high"] > table["rate"]).all()
    assert run.table("tags")["cases"].tolist() == [6]
    assert run.table("kind")["cases"].tolist() == [10]
    assert [result.id for result in run.unreviewed] == ["waits", "draft"]
    assert run.cases()["status"].tolist()[:5] == ["failed"] * 5
    assert len((run + run).results) == 24
    with pytest.raises(InputError):
        run.table("colour")


def test_a_run_is_printed_at_a_readable_length():
    text = str(run_suite(numbers(500), lambda rows: [0.9] * len(rows)))
    assert "500 of 500 cases fail" in text
    assert "and 460 more" in text
    assert len(text.splitlines()) < 100


def test_a_run_is_saved_and_read(tmp_path):
    run = mixed_run()
    path = run.save(tmp_path / "deep" / "run.json")
    assert BehaviorRun.load(path) == run
    for content in (
        "",
        "[]",
        "{}",
        '{"format": "x"}',
        json.dumps(run.to_dict() | {"results": [{}]}),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError):
            BehaviorRun.load(tmp_path / "bad.json")
    with pytest.raises(InputError, match="absent"):
        BehaviorRun.load(tmp_path / "absent.json")
    with pytest.raises(InputError):
        run.save("/proc/nowhere/run.json")


def test_comparison_case_by_case():
    suite = Suite(tuple(Case(f"c{i}", {"x": i}, {"score": [0, 0.5]}) for i in range(5)))
    changed = Suite(
        (
            *suite.cases[:4],
            Case("c4", {"x": 99}, {"score": [0, 0.5]}),
            Case("new", {"x": 1}, {"score": [0, 1]}),
        )
    )
    before = run_suite(suite, lambda rows: [0.1, 0.9, 0.9, 0.1, 0.1])
    after = run_suite(changed, lambda rows: [0.8, 0.1, 0.7, 0.4, 0.1, 0.1])
    compared = compare_runs(before, after)
    names = {
        name: [r.id for r in getattr(compared, name)]
        for name in ("newly_broken", "newly_fixed", "still_broken", "drifting")
    }
    assert names == {
        "newly_broken": ["c0"],
        "newly_fixed": ["c1"],
        "still_broken": ["c2"],
        "drifting": ["c3"],
    }
    assert set(compared.incomparable) == {"c4", "new"}
    assert compared.p_value == 1.0
    table = compared.table()
    assert table["verdict"].tolist() == ["newly broken", "newly fixed", "still broken", "drifting"]
    assert table["drift"].tolist() == pytest.approx([0.7, -0.8, -0.2, 0.3])
    assert compared.plot().get_title()
    with pytest.raises(InputError):
        compare_runs(
            before, run_suite(Suite((Case("z", {"x": 1}, {"score": [0, 1]}),)), lambda rows: [0.1])
        )


def test_mcnemar_agrees_with_scipy():
    from scipy.stats import binomtest

    suite = numbers(30)
    before = run_suite(suite, lambda rows: [0.1] * 25 + [0.9] * 5)
    after = run_suite(suite, lambda rows: [0.9] * 12 + [0.1] * 18)
    assert compare_runs(before, after).p_value == pytest.approx(binomtest(5, 17).pvalue)


def test_near_identical_inputs_are_named():
    def text(name, words, expect=0):
        return Case(name, words, {"class": expect})

    texts = Suite(
        (
            text("a", "the flight was very good indeed today"),
            text("b", "The flight was very good indeed today!"),
            text("c", "the flight was very bad"),
            text("d", "the flight was very good indeed today", 1),
        )
    )
    assert near_duplicates(texts) == (("a", "b"),)
    rows = Suite(
        tuple(
            Case(f"r{i}", {"x": x, "code": code}, {"class": 0})
            for i, (x, code) in enumerate([(0, "u"), (1, "u"), (1, "v"), (100, "u")])
        )
    )
    assert near_duplicates(rows) == (("r0", "r1"),)
    assert near_duplicates(Suite(())) == ()


def weighted_suite():
    """Three cases that guard the first column in the same way, one that guards the second, one that
    guards nothing."""
    cases = [Case(f"x{i}", {"x": 2.0 + i, "y": 0.0}, {"class": 1}) for i in range(3)]
    cases += [
        Case("y", {"x": -1.0, "y": 3.0}, {"class": 1}),
        Case("any", {"x": 0.0, "y": 0.0}, {"score": [0, 1]}),
    ]
    return Suite(tuple(cases), features=("x", "y"))


def test_redundant_cases_pass_and_fail_together():
    found = redundancy(
        weighted_suite(), nn.Sequential(nn.Linear(2, 1, bias=False)).requires_grad_(False)
    )
    assert isinstance(found.table(), pd.DataFrame)
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 2.0]]))
    found = redundancy(weighted_suite(), network)
    assert set(found.equivalent[0]) >= {"x0", "x1", "x2"}
    assert "any" in found.ineffective
    assert len(found.cover) <= 3
    rows = dict(zip(found.ids, found.detected, strict=True))
    covered = torch.stack([rows[name] for name in found.cover]).any(0)
    assert torch.equal(covered, found.detected.any(0))
    assert found.plot().get_title()
    assert "cases detect all" in str(found)


def test_redundancy_over_other_models_alone():
    suite = numbers(4)
    runs = {
        "base": run_suite(suite, lambda rows: [0.1] * 4),
        "m1": run_suite(suite, lambda rows: [0.9, 0.9, 0.1, 0.1]),
        "m2": run_suite(suite, lambda rows: [0.9, 0.9, 0.9, 0.1]),
    }
    found = redundancy(suite, runs=runs)
    assert found.equivalent == (("c0", "c1"),)
    assert found.cover == ("c0",)
    assert found.ineffective == ("c3",)


def test_swapped_columns_are_named_as_the_explanation():
    features = ("a", "b", "c", "d")
    cases = tuple(
        Case(f"c{i}", {"a": 3.0 - i % 2, "b": -3.0, "c": 0.1 * i, "d": 0.0}, {"class": 1})
        for i in range(12)
    )
    suite = Suite(cases, features=features)
    assert explained_run(suite, Line(0)).explanation is None
    run = explained_run(suite, Line(1))
    assert len(run.failures) == 12
    assert run.explanation.change == "a and b swapped"
    assert len(run.explanation.fixed) == 12
    assert BehaviorRun.from_dict(run.to_dict()) == run
    assert run.explanation.bars().plot().get_title()
    assert run.explanation.bars().table()["failing"].tolist() == [12, 0]
    assert explained_run(suite, lambda rows: [0.1] * len(rows)).explanation is None, (
        "nothing heals a model that is deaf"
    )


def test_the_suite_reaches_diagnose(tmp_path):
    suite = Suite(
        tuple(
            Case(f"c{i}", {"a": 3.0, "b": -3.0}, {"class": 1}, capability="size") for i in range(6)
        ),
        features=("a", "b"),
    )
    good, bad = diagnose(Line(0), behavior=suite), diagnose(Line(1), behavior=suite)
    assert good.worst == "ok" or all(f.severity in ("ok", "note", "skipped") for f in good.findings)
    assert bad.causes[0].cause == "behavior_regression"
    assert bad.causes[0].subject == "size"
    saved = run_suite(suite, Line(1)).save(tmp_path / "run.json")
    assert diagnose(behavior=saved).causes[0].cause == "behavior_regression"
    (skipped,) = [f for f in diagnose(behavior=suite).findings if f.check == "behavior.cases"]
    assert skipped.severity == "skipped"
    texts = Suite((Case("praise", "a good film", {"class": 1}),))
    assert (
        diagnose(
            lambda rows: [float("good" in row["text"]) for row in rows],
            behavior=texts,
            only="behavior",
        ).worst
        == "ok"
    )
    with pytest.raises(InputError, match="behavior"):
        diagnose(behavior=3)
    columns = Records(pd.DataFrame({"a": [0.0], "b": [0.0]}))
    unnamed = Suite(suite.cases)
    assert diagnose(Line(1), validation=columns, behavior=unnamed, only="behavior").causes
    misspelt = Suite((Case("c", {"aa": 1.0}, {"class": 1}),))
    (refused,) = diagnose(Line(1), validation=columns, behavior=misspelt, only="behavior").findings
    assert refused.severity == "errored"
    assert "Did you mean 'a'" in refused.summary
    options = {"behavior.cases": {"allowed": 1.0}}
    assert not diagnose(behavior=saved, options=options).causes
    baseline = run_suite(suite, Line(0)).save(tmp_path / "before.json")
    compared = diagnose(behavior=saved, options={"behavior.cases": {"baseline": str(baseline)}})
    assert any("6 newly broken" in finding.summary for finding in compared.findings)


def raising(rows):
    raise TypeError("the tokenizer got a list of dicts")


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (raising, "the tokenizer got a list of dicts"),
        (lambda rows: [5.0 * row["x"] - 3.0 for row in rows], "expected scores in [0, 1]"),
        (lambda rows: torch.zeros(len(rows), 2, 2), "shape"),
        (lambda rows: [0.5] * 9, "shape"),
        (lambda rows: [float("nan")] * len(rows), "nan"),
        (lambda rows: None, "shape []"),
    ],
)
def test_a_predict_function_that_cannot_answer_is_an_error_and_no_regression(predict, words):
    suite = Suite(tuple(Case(f"c{i}", {"x": i / 10}, {"score": [0, 0.5]}) for i in range(10)))
    found = diagnose(predict, behavior=suite, only="behavior")
    (errored,) = [f for f in found.findings if f.check == "behavior.cases"]
    assert errored.severity == "errored"
    assert "says nothing about the model" in errored.summary
    assert words in errored.numbers["traceback"]
    assert not found.causes
    assert found.decision not in ("retrain", "redesign")


def test_an_error_on_some_cases_is_a_failure_of_these(tmp_path):
    def predict(rows):
        if any(row["x"] > 7 for row in rows):
            raise ValueError("too large")
        return [0.1] * len(rows)

    suite = numbers(10)
    found = diagnose(predict, behavior=suite, only="behavior")
    (failed,) = [f for f in found.findings if f.severity == "fail"]
    assert (failed.numbers["failed"], failed.numbers["errored"]) == (2, 2)
    assert found.causes[0].cause == "behavior_regression"
    gap = lambda rows: [float("nan") if row["x"] == 3 else 0.1 for row in rows]  # noqa: E731
    found = diagnose(gap, behavior=suite, only="behavior")
    assert found.causes[0].cause == "behavior_regression"


def test_a_draft_on_which_the_model_raises_is_no_failure():
    suite = Suite((*numbers(2).cases, Case("draft", {"y": 1.0})))
    run = run_suite(suite, lambda rows: [0.1 * row["x"] for row in rows])
    assert [result.status for result in run.results] == ["passed", "passed", "draft"]
    assert "KeyError" in run.results[2].error
    assert not run.failures


VALUES = (None, True, -1, 0.5, float("nan"), 1e999, "", "text", [], [1], [["a"]], {}, {"a": 1})


def mutated(value, rng):
    """A JSON value with one of its parts replaced, removed or doubled."""
    made = copy.deepcopy(value)
    part = made
    while True:
        key = rng.choice(list(part) if isinstance(part, dict) else list(range(len(part))))
        inner = part[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.2:
            break
        part = inner
    if rng.random() < 0.2:
        del part[key]
    elif rng.random() < 0.1 and isinstance(part, dict):
        part[f"{key} more"] = inner
    else:
        part[key] = rng.choice(VALUES)
    return made


def test_a_damaged_run_is_refused_or_works(tmp_path):
    rows = [{"a": 3.0, "b": -3.0, "c": 0.1 * i, "d": 0.0} for i in range(8)]
    cases = tuple(Case(f"c{i}", row, {"class": 1}) for i, row in enumerate([*rows, rows[0]]))
    run = explained_run(Suite(cases, features=("a", "b", "c", "d")), Line(1))
    assert run.explanation is not None
    assert run.near_duplicates
    whole, rng, read, messages = run.to_dict(), random.Random(0), 0, []
    path = tmp_path / "run.json"
    for _ in range(600):
        path.write_text(json.dumps(mutated(json.loads(json.dumps(whole)), rng)))
        try:
            found = BehaviorRun.load(path)
        except InputError as error:
            messages.append(str(error))
            continue
        read += 1
        assert BehaviorRun.from_dict(found.to_dict()) == found
        assert str(found)
        assert diagnose(behavior=found, only="behavior").findings[0].severity != "errored"
    assert 20 < read < 400
    assert all(str(path) in message and len(message) < 800 for message in messages)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"NaN", b"", b"null"]
)
def test_what_is_no_run_is_refused_by_name(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json") as refused:
        BehaviorRun.load(path)
    assert len(str(refused.value)) < 800

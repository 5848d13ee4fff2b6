"""Adding, proposing and confirming cases: what was in the file stays byte for byte."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from gendebug_torch.behavior import (
    Suite,
    append_case,
    confirm_expectations,
    load_suite,
    propose_expectations,
)
from gendebug_torch.behavior.suite.proposals import case_of_row, proposed_expectations
from gendebug_torch.errors import InputError

TEXT = """# Incidents of the year.
suite:   "fraud"     # odd spacing stays
cases:
  # the first one
  - id: 'first'
    input: {amount: 3,   hour: 4}   # aligned by hand
    expect:
      score: [0, 0.3]

  - {id: flow, input: {amount: 1}}   # in one line
  - id: text
    input: |
      two lines
      of text
    # belongs to text
threshold: 0.5  # the end
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "s.behavior.yaml"
    file.write_bytes(TEXT.encode())
    return file


def test_a_case_is_added_behind_the_last_one(path):
    os.chmod(path, 0o640)
    case = {
        "id": "new",
        "input": {"amount": 1e30, "country": "NO", "text": "a: 'b' # 🎉\nc", "gap": None},
        "expect": {"score": [0.0, 0.3]},
    }
    suite = append_case(path, case)
    added = suite.cases[-1]
    assert (added.id, dict(added.input), str(added.expect)) == (
        "new",
        case["input"],
        "score in [0, 0.3]",
    )
    after = path.read_text()
    head, tail = TEXT.split("threshold")
    assert after.startswith(head)
    assert after.endswith("threshold" + tail)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == [path.name]


def test_additions_at_once_are_all_kept(path):
    pytest.importorskip("fcntl", reason="only flock keeps two editors apart")
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: append_case(path, {"id": f"n{number}", "input": {"x": number}}),
                range(16),
            )
        )
    assert {case.id for case in load_suite(path).cases} == {
        "first",
        "flow",
        "text",
        *(f"n{number}" for number in range(16)),
    }


def test_a_linked_suite_stays_a_link(path):
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    append_case(link, {"id": "new", "input": {"x": 1}})
    assert link.is_symlink()
    assert "id: new" in path.read_text()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text",
    [
        "cases:\n- id: a\n  input: {x: 1}\n",
        "cases:\n- id: a\n  input: {x: 1}",
        "cases:\n    - id: a\n      input: {x: 1}\n\n\n# end\n",
        "cases:\n",
        "cases:",
        "suite: s\n",
        "suite: s",
        "cases:   # none yet\nsuite: s\n",
        "cases:\n- id: a\n  input: >-\n    folded\n    text\n\n\nsuite: s\n",
        "﻿cases:\n- id: a\n  input: {x: 1}\n",
    ],
)
def test_every_shape_of_file_takes_a_case(tmp_path, text, newline):
    file = tmp_path / "s.yaml"
    file.write_bytes(text.replace("\n", newline).encode())
    before = load_suite(file).cases
    for number in range(3):
        append_case(file, {"id": f"n{number}", "input": {"x": number, "y": "text"}})
    after = load_suite(file).cases
    assert after[:-3] == before
    assert [case.id for case in after[-3:]] == ["n0", "n1", "n2"]
    content = file.read_bytes().decode()
    left = iter(content)
    assert all(character in left for character in text.replace("\n", newline)), (
        "every character that was there is there, in order"
    )
    if newline == "\r\n" and "\n" in text:
        assert content.count("\n") == content.count("\r\n")


def test_a_new_file_is_begun(tmp_path):
    file = tmp_path / "deep" / "new.behavior.yaml"
    append_case(file, {"id": "a", "input": {f"column_{i}": i / 7 for i in range(12)}})
    (case,) = load_suite(file).cases
    assert case.input["column_3"] == 3 / 7
    assert max(map(len, file.read_text().splitlines())) < 100


@pytest.mark.parametrize(
    "case",
    [
        {"id": "first", "input": {"amount": 1}},
        {"id": "bad", "input": {"amount": 1}, "expect": {"score": [0, 2]}},
        {"id": "bad", "input": {}},
        {"id": "bad", "input": {"amount": 1}, "expect": "higher"},
    ],
)
def test_a_refused_case_leaves_the_file_alone(path, case):
    with pytest.raises(InputError):
        append_case(path, case)
    assert path.read_text() == TEXT
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "text",
    [
        "cases: [{id: a, input: {x: 1}}]\n",
        "cases: []\n",
        "cases:\n- id: a\n  input: {x: 1}\n...\nrest\n",
    ],
)
def test_what_cannot_be_edited_is_refused_and_left_alone(tmp_path, text):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InputError):
        append_case(file, {"id": "n", "input": {"x": 1}})
    assert file.read_text() == text


def test_proposals_are_marked_and_confirmed_by_a_person(path):
    suite = propose_expectations(path, {"flow": {"score": [0.1, 0.3]}, "text": {"class": 1}})
    by_id = {case.id: case for case in suite.cases}
    assert not by_id["flow"].reviewed
    assert not by_id["text"].reviewed
    assert by_id["text"].input["text"] == "two lines\nof text\n"
    proposed = path.read_text()
    removed = [line for line in TEXT.splitlines() if line not in proposed.splitlines()]
    assert removed == ["  - {id: flow, input: {amount: 1}}   # in one line"]
    confirm_expectations(path, ["flow"])
    assert [case.id for case in load_suite(path).cases if not case.reviewed] == ["text"]
    confirm_expectations(path, [])
    assert path.read_text() == proposed.replace("reviewed: false", "reviewed: true")
    for wrong in (["nobody"], ["first"], ["flow"]):
        with pytest.raises(InputError):
            confirm_expectations(path, wrong)
    with pytest.raises(InputError, match="without `expect`"):
        propose_expectations(path, {"first": "same"})
    with pytest.raises(InputError, match="nobody"):
        propose_expectations(path, {"nobody": "same"})


def test_what_a_model_says_is_proposed():
    drafts = [
        {"id": "low", "input": {"x": 0.2}},
        {"id": "pair", "input": {"x": 0.2}, "change": {"x": 0.9}},
        {"id": "bad", "input": {"y": 1}},
    ]
    from gendebug_torch.behavior import Case

    suite = Suite(tuple(Case(**draft) for draft in drafts))
    found, broken = proposed_expectations(suite, lambda rows: [row["x"] for row in rows])
    assert (
        found == {"low": {"score": [0.1, 0.31]}, "pair": "higher"}
        or found["low"]["score"][0] <= 0.1
    )
    assert found["pair"] == "higher"
    assert set(broken) == {"bad"}
    three, _ = proposed_expectations(
        suite.select(lambda case: case.id == "low"), lambda rows: [[0.1, 0.7, 0.2]]
    )
    assert three == {"low": {"class": 1}}


TABLE = pd.DataFrame(
    {
        "amount": [1.5, float("nan")],
        "when": pd.to_datetime(["2024-01-02", None]),
        "name": ["NO", None],
        "count": pd.array([3, None], dtype="Int64"),
        "flag": [True, False],
    }
)


def test_a_row_becomes_a_case(tmp_path):
    case = case_of_row(
        TABLE, 0, Suite(()), expect="0.0:0.3", source="dir/live.parquet", capability="c", id=None
    )
    assert case["id"] == "live-row-0"
    assert case["origin"] == "live.parquet row 0"
    assert case["input"] == {
        "amount": 1.5,
        "when": "2024-01-02T00:00:00",
        "name": "NO",
        "count": 3,
        "flag": True,
    }
    assert case["expect"] == {"score": [0.0, 0.3]}
    empty = case_of_row(
        TABLE, 1, Suite((), features=("amount", "count")), expect="fraud", id="mine"
    )
    assert empty == {
        "id": "mine",
        "origin": "table row 1",
        "input": {"amount": None, "count": None},
        "expect": {"class": "fraud"},
    }
    file = tmp_path / "s.yaml"
    suite = append_case(file, case)
    assert dict(suite.cases[0].input) == case["input"]
    assert case_of_row(TABLE, 1, suite)["input"].keys() == case["input"].keys()


@pytest.mark.parametrize(
    "wrong",
    [{"row": 2}, {"row": -1}, {"fields": ["amuont"]}, {"expect": "0:7"}, {"expect": "0.5:0.1"}],
    ids=str,
)
def test_a_wrong_row_is_refused(wrong):
    with pytest.raises(InputError):
        case_of_row(TABLE, **{"row": 0, "suite": Suite(())} | wrong)

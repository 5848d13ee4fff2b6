"""Suites as they are written, what is refused and where, and what the scores of a case mean."""

import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gendebug_torch.behavior import BehaviorRun, Case, Suite, load_suite, run_suite
from gendebug_torch.behavior.suite.cases import ABSENT
from gendebug_torch.errors import InputError

PLAIN = """
suite: fraud
features: [amount, hour, country]
classes: [legitimate, fraud]
inputs:
  usual: {amount: 12.5, hour: 9, country: NO}
cases:
  - id: norway
    like: usual
    expect: {class: legitimate}
    tags: [geo, old]
  - id: extreme
    like: usual
    input: {amount: 1e308, hour: null}
    capability: extremes
    origin: incident 12
    expect: {score: [0.5, 1]}
    tolerance: 0.1
  - id: hour
    like: usual
    change: [{hour: 23}, {hour: 0x10}]
    expect: same
"""


def write(tmp_path, text):
    path = tmp_path / "s.behavior.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_suite_says_what_stands_in_it(tmp_path):
    suite = load_suite(write(tmp_path, PLAIN))
    norway, extreme, hour = suite.cases
    assert suite.name == "fraud"
    assert norway.input == {"amount": 12.5, "hour": 9, "country": "NO"}
    assert (norway.kind, norway.tags, norway.line) == ("MFT", ("geo", "old"), 8)
    assert extreme.input == {"amount": 1e308, "hour": None, "country": "NO"}
    assert (extreme.capability, extreme.origin, extreme.tolerance) == (
        "extremes",
        "incident 12",
        0.1,
    )
    assert [row["hour"] for row in hour.inputs] == [9, 23, 16]
    assert hour.kind == "INV"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("1e5", 1e5),
        ("010", 10),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        (".inf", float("inf")),
        ("~", None),
        ("'1e5'", "1e5"),
        ("true", True),
        ("naïve 🎉 \u202e", "naïve 🎉 \u202e"),
        ('"\\u0000\\u200b"', "\x00\u200b"),
    ],
)
def test_scalars_mean_what_people_expect(tmp_path, written, value):
    text = f"cases:\n  - id: a\n    input: {{x: {written}, y: 0}}\n"
    assert load_suite(write(tmp_path, text)).cases[0].input["x"] == value


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    expect: same", "    expectt: same", 22, "Did you mean 'expect'"),
        ("threshold", "x", 0, ""),
        ("expect: {score: [0.5, 1]}", "expect: {score: [0.5, 1.5]}", 17, "in [0, 1]"),
        ("expect: {score: [0.5, 1]}", "expect: {score: [0.9, 0.1]}", 17, "low <= high"),
        ("expect: {score: [0.5, 1]}", "expect: {scor: [0.5, 1]}", 17, "Did you mean 'score'"),
        ("expect: same", "expect: sane", 22, "Did you mean 'same'"),
        ("tolerance: 0.1", "tolerance: 2", 18, "in [0, 1]"),
        ("id: hour", "id: norway", 19, "first in line 8"),
        ("{amount: 1e308, hour: null}", "{amuont: 3}", 12, "Did you mean 'amount'"),
        ("class: legitimate", "class: legitimat", 8, "Did you mean 'legitimate'"),
        (
            "like: usual\n    expect: {class",
            "like: usal\n    expect: {class",
            9,
            "Did you mean 'usual'",
        ),
        ("expect: {class: legitimate}", "expect: higher", 10, "a `change` beside it"),
        ("suite: fraud", "suit: fraud", 2, "Did you mean 'suite'"),
        ("    capability: extremes", "    id: again", 15, "stands in line 12"),
        ("    capability: extremes", "   capability: extremes", 15, "YAML"),
        ("    origin: incident 12", "    origin: [a]", 16, "a text"),
        (
            "like: usual\n    input: {amount: 1e308, hour: null}",
            "tags: c",
            12,
            "an `input` or a `like`",
        ),
        ("  - id: norway\n    like", "  - like", 8, "an id in every case"),
        ("features: [amount, hour, country]", "features: amount", 3, "list of names"),
        ("{amount: 1e308, hour: null}", "{amount: !tensr x.npy}", 14, "!tensr"),
        ("{amount: 1e308, hour: null}", "{amount: !tensor x.npy}", 14, "x.npy"),
        ("{amount: 1e308, hour: null}", "{amount: !tensor x.pkl}", 14, ".safetensors"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, line, words):
    path = write(tmp_path, PLAIN.replace(old, new))
    if not line:
        assert load_suite(path)
        return
    with pytest.raises(InputError) as refused:
        load_suite(path)
    message = str(refused.value)
    assert f"{path}:{line}:" in message
    assert words in message
    assert path.read_text() == PLAIN.replace(old, new)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"[1, 2]", b"cases: 3", b"cases: [1]", b"a: &a [*a]"]
)
def test_unreadable_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "s.behavior.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"s\.behavior\.yaml"):
        load_suite(path)
    with pytest.raises(InputError, match="absent"):
        load_suite(tmp_path / "absent.yaml")


ODD = (
    *(
        "3",
        "-1",
        "1e400",
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        "null",
        "true",
        "''",
        ".nan",
        "text",
        "[[1]]",
        "[{a: 1}]",
        "{score: 1}",
        "{class: []}",
    ),
    *(
        "{score: [a, b]}",
        "{class: null}",
        "!absent x",
        "!tensor x",
        "!text y",
        "!foo z",
        "!!python/object/apply:os.system [ls]",
        "&a [*a]",
        "*a",
    ),
    *(
        "{? [1] : 2}",
        "0x",
        "{score: [.nan, 1]}",
        "{score: [true, false]}",
        "9" * 5000,
        "-",
        "? a",
        "@",
        "predicted",
        "{class: 1, score: [0, 1]}",
    ),
)
PLACES = [
    *(
        f"{key}: %s\ncases:\n- {{id: a, input: {{x: 1}}}}\n"
        for key in ("suite", "model", "features", "classes", "threshold", "tolerance", "inputs")
    ),
    *(
        f"cases:\n- id: a\n  input: {{x: 1, y: 2}}\n  {key}: %s\n"
        for key in ("like", "change", "expect", "of", "tolerance", "tags", "origin")
    ),
    *(
        "cases: %s\n",
        "cases:\n- %s\n",
        "%s",
        "cases:\n- id: a\n  input: %s\n",
        "cases:\n- id: %s\n  input: text\n",
    ),
    "cases:\n- id: a\n  input: {x: 1}\n  change: {x: %s}\n  expect: same\n",
]


@pytest.mark.parametrize("place", PLACES)
def test_odd_values_anywhere_are_taken_or_refused_by_name(tmp_path, place):
    taken, refused = [], []
    for value in ODD:
        path = write(tmp_path, place.replace("%s", value))
        try:
            taken.append(run_suite(load_suite(path), lambda rows: [0.5] * len(rows)))
        except InputError as error:
            refused.append(str(error))
    assert all(str(path) in message for message in refused)
    assert all(
        BehaviorRun.load(run.save(tmp_path / "run.json")).results == run.results for run in taken
    )
    assert refused


def test_tensors_and_texts_come_from_files(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    save_file({"x": torch.zeros(4), "y": torch.ones(4)}, tmp_path / "b.safetensors")
    torch.save(torch.ones(2), tmp_path / "c.pt")
    (tmp_path / "long.txt").write_text("a long text")
    text = """
cases:
  - id: files
    input: {a: !tensor a.npy, b: !tensor b.safetensors#y, c: !tensor c.pt, d: !text long.txt}
  - id: gone
    input: {a: 1, b: 2}
    change: {a: !absent }
    expect: same
"""
    files, gone = load_suite(write(tmp_path, text)).cases
    assert files.input["a"].shape == (2, 3)
    assert torch.equal(files.input["b"], torch.ones(4))
    assert torch.equal(files.input["c"], torch.ones(2))
    assert files.input["d"] == "a long text"
    assert gone.inputs[1] == {"b": 2}
    torch.save([print], tmp_path / "c.pt")
    (tmp_path / "s.behavior.yaml").write_text("cases:\n  - id: a\n    input: {a: !tensor c.pt#x}\n")
    with pytest.raises(InputError, match=r"c\.pt"):
        load_suite(tmp_path / "s.behavior.yaml")


def test_a_python_file_holds_one_suite(tmp_path):
    path = tmp_path / "s.py"
    head = "from gendebug_torch.behavior import Case, Suite\n"
    path.write_text(
        head + "S = Suite([Case(f'n{i}', {'x': i}, {'score': [0, 1]}) for i in range(3)])\n"
    )
    assert [case.id for case in load_suite(path).cases] == ["n0", "n1", "n2"]
    path.write_text(head)
    with pytest.raises(InputError, match="exactly one Suite"):
        load_suite(path)


def verdict(case, scores, **suite):
    """Status of one case where the k-th input gets the k-th score."""
    (result,) = run_suite(Suite((case,), **suite), lambda rows: scores[: len(rows)]).results
    return result.status


ONE, TWO = {"x": 0}, {"x": 1}


@pytest.mark.parametrize(
    ("expect", "scores", "more", "status"),
    [
        ({"score": [0.2, 0.4]}, [0.3], {}, "passed"),
        ({"score": [0.2, 0.4]}, [0.45], {}, "failed"),
        ({"score": [0.2, 0.4]}, [0.45], {"tolerance": 0.06}, "passed"),
        ({"score": [0.2, 0.4]}, [0.7], {"of": 0}, "passed"),
        ({"class": 1}, [0.5], {}, "passed"),
        ({"class": 0}, [0.5], {}, "failed"),
        ({"class": 0}, [0.55], {"tolerance": 0.1}, "passed"),
        ({"class": 2}, [[0.2, 0.3, 0.5]], {}, "passed"),
        ({"class": [0, 1]}, [[0.2, 0.3, 0.5]], {}, "failed"),
        ({"class": [1, 2]}, [[0.2, 0.3, 0.5]], {}, "passed"),
        ({"class": 7}, [[0.2, 0.3, 0.5]], {}, "errored"),
        ("same", [0.3, 0.34], {}, "passed"),
        ("same", [0.3, 0.36], {}, "failed"),
        ("same", [[0.2, 0.3, 0.5], [0.3, 0.2, 0.5]], {}, "failed"),
        ("same", [[0.2, 0.3, 0.5], [0.3, 0.2, 0.5]], {"of": 2}, "passed"),
        ("same_class", [0.6, 0.9], {}, "passed"),
        ("same_class", [0.6, 0.4], {}, "failed"),
        ("same_class", [0.54, 0.46], {"tolerance": 0.1}, "passed"),
        ("same_class", [0.95, 0.45], {"tolerance": 0.1}, "failed"),
        ("same_class", [[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]], {}, "failed"),
        ("higher", [0.3, 0.4], {}, "passed"),
        ("higher", [0.3, 0.3], {}, "failed"),
        ("higher", [0.3, 0.28], {"tolerance": 0.05}, "passed"),
        ("not_lower", [0.3, 0.3], {}, "passed"),
        ("lower", [0.3, 0.3], {}, "failed"),
        ("not_higher", [0.3, 0.3], {}, "passed"),
        ("lower", [0.3, 0.2], {}, "passed"),
        ("not_lower", [0.3, 0.2], {"of": "predicted"}, "passed"),
        ("not_lower", [0.3, 0.4], {"of": "predicted"}, "failed"),
        ("higher", [[0.1, 0.3, 0.6], [0.3, 0.1, 0.6]], {"of": 0}, "passed"),
        ({"score": [0, 1]}, [float("nan")], {}, "errored"),
        ({"score": [0, 1]}, [3.2], {}, "errored"),
        (None, [0.4], {}, "draft"),
    ],
)
def test_verdicts(expect, scores, more, status):
    change = TWO if isinstance(expect, str) else ()
    assert verdict(Case("a", ONE, expect, change, **more), scores) == status


def test_the_threshold_of_the_suite_decides_between_two_classes():
    case = Case("a", ONE, {"class": 1})
    assert verdict(case, [0.3]) == "failed"
    assert verdict(case, [0.3], threshold=0.25) == "passed"


def test_all_changes_must_hold_and_the_worst_is_shown():
    case = Case("a", ONE, "same", ({"x": 1}, {"x": 2}, {"x": 3}))
    (result,) = run_suite(Suite((case,)), lambda rows: [0.5, 0.5, 0.9, 0.52]).results
    assert result.status == "failed"
    assert "0.900 after x=2" in result.got


@pytest.mark.parametrize(
    "make",
    [
        lambda: Case("", ONE),
        lambda: Case("a", {}),
        lambda: Case("a", 3),
        lambda: Case("a", ONE, "higher"),
        lambda: Case("a", ONE, {"class": 1}, TWO),
        lambda: Case("a", ONE, {"score": [0.1]}),
        lambda: Case("a", ONE, tolerance=-1),
        lambda: Case("a", ONE, reviewed="no"),
        lambda: Suite((Case("a", ONE), Case("a", TWO))),
        lambda: Suite((Case("a", ONE),), features=("y",)),
        lambda: Suite((), threshold=3),
    ],
)
def test_python_suites_are_validated_too(make):
    with pytest.raises(InputError):
        make()


def test_a_field_can_be_absent():
    seen = []
    suite = Suite((Case("a", {"x": 1, "y": 2}, "same", {"y": ABSENT}),))
    run_suite(suite, lambda rows: seen.extend(rows) or [0.5] * len(rows))
    assert seen == [{"x": 1, "y": 2}, {"x": 1}]


def alias_lines(levels, width, indent):
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    same = ", ".join
    lines += [f"a{i}: &a{i} [{same([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "".join(f"{indent}{line}\n" for line in lines)


BOMBS = {
    "aliases": "cases:\n- id: a\n  input:\n" + alias_lines(9, 10, "    "),
    "named inputs": "inputs:\n  n:\n" + alias_lines(9, 10, "    ") + "cases: [{id: a, like: n}]",
    "merge keys": "inputs:\n  k0: &k0 {a: 1, b: 2}\n"
    + "".join(f"  k{i}: &k{i} {{<<: [{f'*k{i - 1}, ' * 10}]}}\n" for i in range(1, 9)),
    "nesting": "cases:\n- id: a\n  input: {x: " + "[" * 2000 + "]" * 2000 + "}\n",
    "itself": "cases:\n- id: a\n  input: &x {x: *x}\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_suite_cannot_cost_much(tmp_path, name):
    started = time.process_time()
    with pytest.raises(InputError, match="not readable as YAML") as refused:
        load_suite(write(tmp_path, BOMBS[name]))
    assert time.process_time() - started < 5
    assert len(str(refused.value)) < 500


def test_aliases_within_the_limit_are_run_and_saved(tmp_path):
    text = "cases:\n- id: a\n  expect: {class: 1}\n  input:\n" + alias_lines(4, 18, "    ")
    started = time.process_time()
    run = run_suite(load_suite(write(tmp_path, text)), lambda rows: [0.9] * len(rows))
    assert BehaviorRun.load(run.save(tmp_path / "run.json")) == run
    assert not run.failures
    assert time.process_time() - started < 5


LONG = "n" * 10_000


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG}: 1\n",
        f"{LONG}: 1\n{LONG}: 2\n",
        f"cases:\n- id: a\n  input: {{x: 1}}\n  expect: {LONG}\n",
        f"cases:\n- id: a\n  input: [{', '.join([LONG] * 50)}]\n",
        f"cases:\n- id: a\n  input: {{x: 1}}\n  tolerance: [{'1, ' * 5000}]\n",
        f"features: [x]\ncases:\n- id: a\n  input: {{{LONG}: 1}}\n",
        f"threshold: {LONG}\ncases: []\n",
    ],
)
def test_a_message_is_short_however_long_the_value_is(tmp_path, text):
    with pytest.raises(InputError) as refused:
        load_suite(write(tmp_path, text))
    assert len(str(refused.value)) < 1000


def test_fingerprints_take_keys_of_every_kind(tmp_path):
    def fingerprint(value):
        text = f"cases:\n- id: a\n  input: {{x: {value}}}\n"
        return load_suite(write(tmp_path, text)).cases[0].fingerprint

    values = ["{1: a, b: 2}", "{1: a, b: 3}", "{'1': a, b: 2}", "[1, b]", "1", "'1'", "true", "~"]
    assert len(set(map(fingerprint, values))) == len(values)
    assert fingerprint("{b: 2, 1: a}") == fingerprint("{1: a, b: 2}")

"""The one YAML loader: what values mean, what is refused and where, and what a file may cost."""

import random
import time
from pathlib import Path

import pytest

from gendebug_torch import Schema
from gendebug_torch.behavior import append_case, confirm_expectations, load_suite, run_suite
from gendebug_torch.data.yaml import compose, construct, dump
from gendebug_torch.errors import InputError

PATH = Path("some.yaml")


def load(text):
    return construct(compose(text, PATH, "content"), PATH)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NO, no, yes, off, on, y, n]", ["NO", "no", "yes", "off", "on", "y", "n"]),
        ("[true, True, FALSE]", [True, True, False]),
        ("[~, null, ]", [None, None]),
        ("[1e-3, 1E5, -.5, 1., .inf, 1e400]", [0.001, 1e5, -0.5, 1.0, float("inf"), float("inf")]),
        ("[010, 0o10, 0x10, +12]", [10, 8, 16, 12]),
        ("[12:30, 2024-01-01, 2024-01-01T10:00:00Z, =]", None),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_values(text, value):
    texts = ["12:30", "2024-01-01", "2024-01-01T10:00:00Z", "="]
    assert load(text) == (texts if value is None else value)


VALUES = ("NO", "yes", "1e5", "010", "12:30", "2024-01-01", "=", "<<", "~", "", " a ", "a: 'b' # c")
VALUES += ("x\ny", "\x00\u200b", "naïve 🎉", "1_000", "-", "0x1F", "!tag", "&a", "*a", "%YAML")


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("value", [*VALUES, 3, -0.1, 1e308, True, None, [], {}, ["a", {"b": None}]])
def test_what_is_dumped_is_read_back(value, flow):
    for whole in (value, {"key": value}, [value, value]):
        text = dump(whole, flow=flow)
        assert load(f"{text}\n") == whole
        assert not flow or "\n" not in text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "stands in line 1 already"),
        ("a: 1\nb: {c: 1, c: 2}", 2, "`c`: expected a key once"),
        ("a: 1\nb: {<<: {c: 1}, <<: {d: 1}}", 2, "`<<`: expected a key once"),
        ("a: 1\n b: 2", 2, "not readable"),
        ("a:\n  - [", 2, "not readable"),
        ("a: 1\nb: &x [*x]", 2, "contains itself"),
        ("a: 1\nb: !tag 2", 2, "!tag"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "python"),
        ("a: 1\n? [b]\n: 2", 2, "keys that are names"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: {<<: 3}", 1, "mapping"),
    ],
)
def test_mistakes_are_named_with_their_line(text, line, words):
    with pytest.raises(InputError) as refused:
        load(text)
    assert str(refused.value).startswith(f"{PATH}:{line}: ")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["!!bool maybe", "!!int x", "!!float x", "!!set 3", "!!omap 3", "!!binary é", "9" * 5000],
)
def test_a_value_that_does_not_fit_its_tag_is_refused(text):
    with pytest.raises(InputError, match=r"some\.yaml:1: "):
        load(text)


@pytest.mark.parametrize("text", ["", "# nothing", "\x00", "a: \x07"])
def test_files_without_content_are_refused_by_name(text):
    with pytest.raises(InputError, match=r"some\.yaml"):
        load(text)


def alias_bomb(levels, width):
    rows = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(rows)


def merge_bomb(levels, width):
    rows = [f"a0: &a0 {{{', '.join(f'k{i}: 0' for i in range(width))}}}"]
    same = ", ".join
    rows += [f"a{i}: &a{i} {{<<: [{same([f'*a{i - 1}'] * width)}]}}" for i in range(1, levels)]
    return "\n".join(rows)


BOMBS = {
    "aliases": alias_bomb(9, 10),
    "merge keys": merge_bomb(9, 10),
    "sequences": "[" * 5000 + "]" * 5000,
    "open sequences": "[" * 5000,
    "mappings": "{a: " * 5000 + "1" + "}" * 5000,
    "blocks": "\n".join(" " * i + "a:" for i in range(3000)),
    "dashes": "- " * 5000 + "a",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_cost_much(name):
    started = time.process_time()
    with pytest.raises(InputError, match=r"some\.yaml.*not readable as YAML") as refused:
        load(BOMBS[name])
    assert time.process_time() - started < 5
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("bomb", [alias_bomb, merge_bomb])
def test_aliases_within_the_limit_are_read_in_a_second(bomb):
    started = time.process_time()
    assert set(load(bomb(4, 15 if bomb is alias_bomb else 12))) == {"a0", "a1", "a2", "a3"}
    assert time.process_time() - started < 3


PIECES = (
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!!bool ",
    "!!binary ",
    "!!set ",
    "!!omap ",
    "!!map ",
    "!x ",
)
PIECES += ("? ", ": ", "- ", "[", "]", "{", "}", "|\n", "> ", "'", '"', "#", "%YAML 1.1\n---\n")
PIECES += (
    "---\n",
    "...\n",
    "\t",
    "\r",
    "\x00",
    "\ufeff",
    "\ud800",
    "9" * 5000,
    ".nan",
    "1e999",
    "\n\n",
)


def damaged(text, rng):
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        if rng.random() < 0.6:
            text = text[:start] + rng.choice(PIECES) + text[start:]
        else:
            text = text[:start] + text[start + rng.randint(1, 12) :]
    return text.encode("utf-8", "surrogatepass")


SCHEMA = "target: label\ncategorical: [a, b]\nclasses: [no, yes]\ndirection: {x: increasing}\n"
SUITE = """classes: [no, yes]
inputs:
  usual: {amount: 12.5, hour: 9, when: 2024-01-01}
cases:
  - id: first
    like: usual
    input: {text: !absent x, list: [1, {a: 2}]}
    expect: {score: [0, 0.3]}
  - {id: second, like: usual, change: {hour: 3}, expect: same, reviewed: false}
"""


def run_file(path):
    str(run_suite(load_suite(path), lambda rows: [0.5] * len(rows)))


USES = {
    "schema": (SCHEMA, Schema.from_file),
    "suite": (SUITE, run_file),
    "append": (SUITE, lambda path: append_case(path, {"id": "new", "input": {"x": 1}})),
    "confirm": (SUITE, confirm_expectations),
}


@pytest.mark.parametrize("name", USES)
def test_a_damaged_file_is_used_or_refused_by_name_and_left_alone(tmp_path, name):
    text, use = USES[name]
    path, rng, messages, used = tmp_path / "file.behavior.yaml", random.Random(name), [], 0
    for _ in range(150):
        content = damaged(text, rng)
        path.write_bytes(content)
        try:
            use(path)
            used += 1
        except InputError as error:
            messages.append(str(error))
            assert path.read_bytes() == content
    assert used
    assert all(str(path) in message and len(message) < 1000 for message in messages)

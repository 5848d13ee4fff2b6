"""Suites in files: YAML 1.2 with the line of every mistake, and Python."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gendebug_torch.behavior.running.results import BehaviorRun
from gendebug_torch.behavior.suite.cases import ABSENT, Case, Suite
from gendebug_torch.behavior.suite.tensor_files import TensorFiles
from gendebug_torch.data.files import read_text
from gendebug_torch.data.yaml import Node, compose, construct, line_of, pairs, reject_at
from gendebug_torch.errors import InputError, brief, did_you_mean, reject

_SETTINGS = ("model", "features", "classes", "threshold", "tolerance")
_SUITE_KEYS = ("suite", *_SETTINGS, "inputs", "cases")
CASE_KEYS = (
    "id",
    "like",
    "input",
    "change",
    "expect",
    "of",
    "tolerance",
    "capability",
    "tags",
    "origin",
    "reviewed",
)
Entries = Mapping[str, tuple[Node, Node]]
"""Key -> (key node, value node) of a mapping."""


def load_suite(path: str | Path) -> Suite:
    r"""The suite in a `.yaml` file, or the only `Suite` that a `.py` file defines.

    Args:
        path: the file; a Python file is run.

    Raises:
        InputError: names the file, the line and the field: an unknown field, a duplicate key or id,
            an expectation outside [0, 1], an unknown column, an unreadable file.

    Example:
        >>> import tempfile
        >>> text = "cases:\n  - {id: small, input: {amount: 3}, expect: {score: [0, 0.3]}}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "fraud.behavior.yaml"
        ...     characters = path.write_text(text)
        ...     suite = load_suite(path)
        >>> suite.name, str(suite.cases[0].expect)
        ('fraud', 'score in [0, 0.3]')
    """
    source = Path(path)
    if source.suffix == ".py":
        return _from_python(source)
    return parse_suite(read_text(source, "suite"), source)


def load_behavior(value: Any) -> Suite | BehaviorRun:
    """A suite or a run as it is, or from a file.

    Args:
        value: a Suite, a BehaviorRun, or a path; `.json` holds a saved run, other files a suite.

    Raises:
        InputError: something else, or a file that is neither.
    """
    if isinstance(value, (Suite, BehaviorRun)):
        return value
    if not isinstance(value, (str, Path)):
        expected, remedy = "a Suite, a BehaviorRun or the path of one", "Pass load_suite(path)."
        reject("behavior", expected, type(value).__name__, remedy)
    return BehaviorRun.load(value) if Path(value).suffix == ".json" else load_suite(value)


def parse_suite(text: str, path: Path) -> Suite:
    """The suite in a YAML text.

    Args:
        text: content of the file.
        path: its path, for messages and for files that it refers to.

    Raises:
        InputError: as `load_suite`.
    """
    entries = pairs(compose(text, path, "suite"), path, "suite")
    _check_names(entries, _SUITE_KEYS, path)
    reader = _Reader(path)
    if "inputs" in entries:
        reader.named.update(_named_inputs(entries["inputs"][1], reader))
    cases = tuple(_case(node, reader) for node in case_nodes(entries, path))
    settings = {
        key: reader.value(entries[key][1]) for key in ("suite", *_SETTINGS) if key in entries
    }
    for key in ("features", "classes"):
        names = settings.get(key, [])
        if not isinstance(names, list):
            remedy = "Write e.g. [amount, hour]."
            reject_at(path, entries[key][0], key, "a list of names", brief(names), remedy)
        settings[key] = tuple(map(str, names))
    stem = path.name.removesuffix(path.suffix).removesuffix(".behavior")
    name = settings.pop("suite", None) or stem
    try:
        return Suite(cases, name, path=str(path), **settings)
    except InputError as error:
        key = "suite" if error.argument == "name" else error.argument
        line = line_of(entries[key][0]) if key in entries else 0
        raise InputError(f"{path}:{line}: {error}" if line else str(error)) from None


def case_nodes(entries: Entries, path: Path) -> list[Node]:
    """The nodes of the cases of a suite, given its top-level entries.

    Raises:
        InputError: `cases` is not a list.
    """
    node = entries["cases"][1] if "cases" in entries else None
    if node is None or (node.id == "scalar" and not node.value):
        return []
    if node.id != "sequence":
        remedy = "Start each case with `- id: ...`."
        reject_at(path, node, "cases", "a list of cases", f"a {node.id}", remedy)
    nodes: list[Node] = node.value
    return nodes


@dataclass(frozen=True)
class _Reader:
    """What is needed to read the parts of one suite file.

    Args:
        path: the file.
        named: name -> fields of the entries of `inputs`.
    """

    path: Path
    named: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: dict[str, Callable[[str], Any]] = field(init=False)

    def __post_init__(self) -> None:
        folder = self.path.parent
        tags = {
            "!tensor": TensorFiles(folder).read,
            "!text": lambda name: read_text(folder / name, "!text"),
            "!absent": lambda _: ABSENT,
        }
        object.__setattr__(self, "tags", tags)

    def value(self, node: Node) -> Any:
        """The value of a node, with the tags of a suite."""
        return construct(node, self.path, self.tags)


def _case(node: Node, reader: _Reader) -> Case:
    path = reader.path
    entries = pairs(node, path, "case")
    _check_names(entries, CASE_KEYS, path)
    values = {key: reader.value(value) for key, (_, value) in entries.items()}
    if values.get("id") is None:
        reject_at(path, node, "id", "an id in every case", "none", "Add `id: a-short-name`.")
    like = values.pop("like", None)
    if like is not None:
        values["input"] = _merged_input(like, values.get("input"), entries, reader)
    if values.get("input") is None:
        expected, remedy = "an `input` or a `like` in every case", "Add `input: {field: value}`."
        reject_at(path, node, "input", expected, "neither", remedy)
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return Case(**given, line=line_of(node))
    except InputError as error:
        key_node = entries[error.argument][0] if error.argument in entries else node
        raise InputError(f"{path}:{line_of(key_node)}: {values['id']}: {error}") from None


def _merged_input(like: Any, own: Any, entries: Entries, reader: _Reader) -> dict[str, Any]:
    """The fields of the input named by `like`, replaced by those of the case."""
    if not isinstance(like, str) or like not in reader.named:
        expected = f"one of the inputs {', '.join(reader.named) or '(there are none)'}"
        remedy = f"{did_you_mean(str(like), reader.named)}Add it."
        reject_at(reader.path, entries["like"][0], "like", expected, brief(like), remedy)
    own = own or {}
    if not isinstance(own, Mapping):
        expected = "field: value pairs beside `like`"
        reject_at(
            reader.path, entries["input"][0], "input", expected, brief(own), "Name the fields."
        )
    return {**reader.named[like], **own}


def _named_inputs(node: Node, reader: _Reader) -> dict[str, Mapping[str, Any]]:
    named = {}
    for key, (_, value) in pairs(node, reader.path, "inputs").items():
        content = reader.value(value)
        if not isinstance(content, (Mapping, str)) or not content:
            expected, remedy = "field: value pairs", "Write e.g. {amount: 12.5, hour: 3}."
            reject_at(reader.path, value, f"inputs.{key}", expected, brief(content), remedy)
        named[key] = {"text": content} if isinstance(content, str) else content
    return named


def _check_names(entries: Entries, names: Sequence[str], path: Path) -> None:
    for key, (node, _) in entries.items():
        if key not in names:
            remedy = f"{did_you_mean(key, names)}Correct or remove it."
            reject_at(path, node, key[:80], f"fields among {', '.join(names)}", brief(key), remedy)


def _from_python(path: Path) -> Suite:
    if not path.is_file():
        reject("suite", "a readable file", str(path), "Check the path.")
    try:
        values = runpy.run_path(str(path)).values()
    except (Exception, SystemExit) as error:
        got = f"{type(error).__name__}: {error}"
        reject("suite", "a Python file that runs", f"{path}: {got[:200]}", "Correct the file.")
    suites = {id(value): value for value in values if isinstance(value, Suite)}
    if len(suites) != 1:
        expected, got = "exactly one Suite in a Python file", f"{len(suites)} in {path}"
        reject("suite", expected, got, "Keep one at the top level.")
    (suite,) = suites.values()
    return replace(suite, path=str(path))

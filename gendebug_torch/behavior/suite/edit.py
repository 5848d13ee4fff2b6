"""Changes to a suite file that keep every other byte of it: comments, order, quotes, line ends.

Nodes of the parsed file say where to insert; the result is parsed again and compared before it
replaces the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendebug_torch.behavior.suite.cases import Case, Suite
from gendebug_torch.behavior.suite.suite_file import CASE_KEYS, case_nodes, parse_suite
from gendebug_torch.data.files import read_text, write_whole
from gendebug_torch.data.yaml import Node, compose, dump, end_of, line_of, pairs, reject_at
from gendebug_torch.errors import reject

try:
    import fcntl
except ImportError:  # Windows has no flock: two editors at once may lose a change there.
    fcntl = None  # type: ignore[assignment]

_MAX_LINE = 100


def append_case(path: str | Path, case: Mapping[str, Any]) -> Suite:
    """The suite with one more case at its end; the file is replaced in one step.

    Args:
        path: a YAML suite, created if it does not exist.
        case: fields of the case as they are written, e.g.
            `{"id": ..., "input": {...}, "expect": {...}}`.

    Raises:
        InputError: the case is not valid in this suite, or the file cannot be read, edited or
            written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "fraud.behavior.yaml"
        ...     suite = append_case(path, {"id": "small", "input": {"amount": 3}})
        ...     print(path.read_text(), end="")
        cases:
          - id: small
            input: {amount: 3}
    """
    source, name = Path(path), str(case["id"])

    def add(text: str, before: Suite) -> Edit:
        if any(earlier.id == name for earlier in before.cases):
            expected = f"an id that {source} does not have"
            reject("id", expected, repr(name), "Choose another with --id.")
        position, indent, separator = _insertion_point(text, source)
        lines = _case_lines({key: case[key] for key in CASE_KEYS if key in case}, indent)
        added = separator + _newline(text).join(lines)
        edited = text[:position] + added + text[position:]
        return Edit(edited if edited.endswith("\n") else edited + _newline(text), changed={name})

    return _rewrite(source, add, empty="cases:\n")


def propose_expectations(path: str | Path, proposals: Mapping[str, Any]) -> Suite:
    """The suite with an expectation, marked `reviewed: false`, in each named draft.

    Args:
        path: a YAML suite.
        proposals: id of a draft -> expectation as it is written.

    Raises:
        InputError: an id that is not a draft, or the file cannot be read, edited or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "fraud.behavior.yaml"
        ...     draft = append_case(path, {"id": "small", "input": {"amount": 3}})
        ...     suite = propose_expectations(path, {"small": {"score": [0.0, 0.3]}})
        >>> str(suite.cases[0].expect), suite.cases[0].reviewed
        ('score in [0, 0.3]', False)
    """
    source = Path(path)

    def propose(text: str, before: Suite) -> Edit:
        nodes = _nodes_by_id(text, source)
        insertions = [
            _proposal(text, _draft(nodes, name, source), proposal)
            for name, proposal in proposals.items()
        ]
        for position, piece in sorted(insertions, reverse=True):
            text = text[:position] + piece + text[position:]
        return Edit(text, changed=set(proposals))

    return _rewrite(source, propose)


def confirm_expectations(path: str | Path, ids: Sequence[str] = ()) -> Suite:
    """The suite in which `reviewed: false` of the named cases is replaced by `true`.

    Args:
        path: a YAML suite.
        ids: cases to confirm; none stands for all that are not reviewed.

    Raises:
        InputError: an unknown id, a case without `reviewed: false`, or the file cannot be read,
            edited or written.

    Example:
        >>> import tempfile
        >>> case = {"id": "small", "input": {"x": 3}, "expect": {"class": 0}, "reviewed": False}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "fraud.behavior.yaml"
        ...     before, after = append_case(path, case), confirm_expectations(path)
        >>> before.cases[0].reviewed, after.cases[0].reviewed
        (False, True)
    """
    source = Path(path)

    def approve(text: str, before: Suite) -> Edit:
        nodes = _nodes_by_id(text, source)
        names = list(ids) or [case.id for case in before.cases if not case.reviewed]
        spans = (_review_span(nodes, name, source) for name in names)
        for start, end in sorted(spans, reverse=True):
            text = f"{text[:start]}true{text[end:]}"
        return Edit(text, reviewed=set(names))

    return _rewrite(source, approve)


@dataclass(frozen=True)
class Edit:
    """An edited text, and which cases may differ from what they were.

    Args:
        text: content of the whole file.
        changed: ids of new or altered cases.
        reviewed: ids of cases that are reviewed now.
    """

    text: str
    changed: set[str] = field(default_factory=set)
    reviewed: set[str] = field(default_factory=set)


def _rewrite(path: Path, edit: Callable[[str, Suite], Edit], empty: str | None = None) -> Suite:
    """Read, edit, parse again and compare before replacing; `empty` is the text of a new file."""
    with _locked(path.parent):
        text = empty if empty is not None and not path.exists() else read_text(path, "suite")
        before = parse_suite(text, path)
        edited = edit(text, before)
        after = parse_suite(edited.text, path)
        if not _others_unchanged(before, after, edited):
            expected = "a file that can be edited without touching its other cases"
            reject("suite", expected, str(path), "Add the lines by hand.")
        write_whole(path, edited.text, "suite")
    return after


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One editor of a folder at a time, so that no addition is lost; leaves no file behind."""
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _others_unchanged(before: Suite, after: Suite, edit: Edit) -> bool:
    """Whether only the changed cases differ, and the confirmed ones are reviewed."""
    old = [
        _content(case, case.id in edit.reviewed)
        for case in before.cases
        if case.id not in edit.changed
    ]
    new = [_content(case) for case in after.cases if case.id not in edit.changed]
    return old == new and edit.changed <= {case.id for case in after.cases}


def _content(case: Case, confirmed: bool = False) -> tuple[Any, ...]:
    reviewed = case.reviewed or confirmed
    return (case.id, case.fingerprint, case.capability, case.tags, case.origin, reviewed)


def _insertion_point(text: str, path: Path) -> tuple[int, int, str]:
    """Where the next case goes, its indentation, and what separates it from the text before."""
    newline = _newline(text)
    entries = pairs(compose(text, path, "suite"), path, "suite")
    if "cases" not in entries:
        return len(text), 0, ("" if text.endswith("\n") else newline) + f"cases:{newline}"
    key, cases = entries["cases"]
    if cases.id != "sequence":
        return _end_of_line(text, int(key.end_mark.index)), int(key.start_mark.column) + 2, newline
    if not cases.value:
        reject_at(path, cases, "cases", "no brackets", "an empty []", "Remove them.")
    if cases.flow_style:
        remedy = "Write each as `- id: ...`."
        reject_at(path, cases, "cases", "one case per line", "[...]", remedy)
    column = int(cases.start_mark.column)
    return _past_comments(text, _end_of_line(text, end_of(cases)), column), column, newline


def _nodes_by_id(text: str, path: Path) -> dict[str, Node]:
    entries = pairs(compose(text, path, "suite"), path, "suite")
    nodes = case_nodes(entries, path)
    return {str(pairs(node, path, "case")["id"][1].value): node for node in nodes}


def _draft(nodes: Mapping[str, Node], name: str, path: Path) -> Node:
    if name not in nodes:
        reject("proposals", "ids of the suite", repr(name), f"See the cases of {path}.")
    if "expect" in pairs(nodes[name], path, "case"):
        got = f"{name!r} in line {line_of(nodes[name])} of {path}"
        reject("proposals", "cases without `expect`", got, "Remove its `expect` first.")
    return nodes[name]


def _proposal(text: str, node: Node, proposal: Any) -> tuple[int, str]:
    """Where the expectation of a draft goes, and its text."""
    entries = [f"expect: {dump(proposal, flow=True)}", "reviewed: false"]
    if node.flow_style:
        return end_of(node) - 1, "".join(f", {entry}" for entry in entries)
    newline = _newline(text) + " " * int(node.value[0][0].start_mark.column)
    return _end_of_line(text, end_of(node)), "".join(newline + entry for entry in entries)


def _review_span(nodes: Mapping[str, Node], name: str, path: Path) -> tuple[int, int]:
    """Start and end of the `false` of `reviewed: false`."""
    if name not in nodes:
        reject("ids", "ids of the suite", repr(name), f"See the cases of {path}.")
    value = pairs(nodes[name], path, "case").get("reviewed", (None, None))[1]
    if value is None or value.value.lower() != "false":
        reject("ids", "cases that say `reviewed: false`", repr(name), "It is confirmed already.")
    return int(value.start_mark.index), int(value.end_mark.index)


def _case_lines(case: Mapping[str, Any], indent: int) -> list[str]:
    lines = []
    for key, value in case.items():
        flow = f"{key}: {dump(value, flow=True)}"
        if isinstance(value, Mapping) and len(flow) > _MAX_LINE:
            lines.append(f"{key}:")
            for name, entry in value.items():
                lines.append(f"  {dump(name, flow=True)}: {dump(entry, flow=True)}")
        else:
            lines.append(flow)
    starts = ["- ", *["  "] * (len(lines) - 1)]
    return [" " * indent + start + line for start, line in zip(starts, lines, strict=True)]


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _end_of_line(text: str, position: int) -> int:
    """End of the line with the last text before `position`, behind a comment in that line."""
    last = len(text[:position].rstrip())
    end = text.find("\n", last)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" else end


def _past_comments(text: str, position: int, column: int) -> int:
    """End of the comment lines of the last case: those that are indented deeper than its dash."""
    while (start := text.find("\n", position)) >= 0:
        end = text.find("\n", start + 1)
        line = text[start + 1 : len(text) if end < 0 else end].rstrip("\r")
        if not line.lstrip().startswith("#") or len(line) - len(line.lstrip()) <= column:
            break
        position = start + 1 + len(line)
    return position

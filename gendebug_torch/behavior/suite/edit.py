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
from gendebug_torch.behavior.suite.suite_file import CASE_KEYS, parse_suite
from gendebug_torch.data.files import read_text, write_whole
from gendebug_torch.data.yaml import Node, compose, dump, end_of, line_of, pairs
from gendebug_torch.errors import InputError, reject

try:
    import fcntl
except ImportError:  # Windows has no flock: there two editors at once are on their own.
    fcntl = None  # type: ignore[assignment]

_LONGEST_LINE = 100


def append_case(path: str | Path, case: Mapping[str, Any]) -> Suite:
    """The suite with one more case at its end, written in one step; a file that is not there is
    begun.

    Args:
        path: of a YAML suite.
        case: the fields of the case as they are written, e.g.
            `{"id": ..., "input": {...}, "expect": {...}}`.

    Raises:
        InputError: the case is not valid in this suite, or the file cannot be read, edited or
            written.
    """
    source, name = Path(path), str(case["id"])

    def add(text: str, before: Suite) -> Edit:
        if any(earlier.id == name for earlier in before.cases):
            reject(
                "id", f"an id that {source} does not have", repr(name), "Choose another with --id."
            )
        place, indent, glue = _end_of_cases(text, source)
        lines = _case_lines({key: case[key] for key in CASE_KEYS if key in case}, indent)
        edited = text[:place] + glue + _newline(text).join(lines) + text[place:]
        return Edit(edited if edited.endswith("\n") else edited + _newline(text), changed={name})

    return _rewrite(source, add, begin="cases:\n")


def propose_expectations(path: str | Path, proposals: Mapping[str, Any]) -> Suite:
    """The suite with an expectation, marked `reviewed: false`, in each named draft.

    Args:
        path: of a YAML suite.
        proposals: id of a draft -> expectation as it is written.

    Raises:
        InputError: an id that is not a draft, or the file cannot be read, edited or written.
    """
    source = Path(path)

    def propose(text: str, before: Suite) -> Edit:
        nodes = _case_nodes(text, source)
        insertions = [
            _proposal(text, _draft(nodes, name, source), proposal)
            for name, proposal in proposals.items()
        ]
        for place, piece in sorted(insertions, reverse=True):
            text = text[:place] + piece + text[place:]
        return Edit(text, changed=set(proposals))

    return _rewrite(source, propose)


def confirm(path: str | Path, ids: Sequence[str]) -> Suite:
    """The suite in which `reviewed: false` of the named cases says `true`; without names, of all.

    Raises:
        InputError: an unknown id, a case without `reviewed: false`, or the file cannot be read,
            edited or written.
    """
    source = Path(path)

    def approve(text: str, before: Suite) -> Edit:
        nodes = _case_nodes(text, source)
        wanted = list(ids) or [case.id for case in before.cases if not case.reviewed]
        for start, end in sorted(
            (_unreviewed(nodes, name, source) for name in wanted), reverse=True
        ):
            text = f"{text[:start]}true{text[end:]}"
        return Edit(text, reviewed=set(wanted))

    return _rewrite(source, approve)


@dataclass(frozen=True)
class Edit:
    """A text as it shall be, and which cases may differ from what they were.

    Args:
        text: of the whole file.
        changed: ids of new or altered cases.
        reviewed: ids of cases that are reviewed now.
    """

    text: str
    changed: set[str] = field(default_factory=set)
    reviewed: set[str] = field(default_factory=set)


def _rewrite(path: Path, edit: Callable[[str, Suite], Edit], begin: str | None = None) -> Suite:
    """Read, edit, read again, compare, and only then replace the file; `begin` stands for a file
    that is not there.
    """
    with _alone(path.parent):
        text = begin if begin is not None and not path.exists() else read_text(path, "suite")
        before = parse_suite(text, path)
        edited = edit(text, before)
        after = parse_suite(edited.text, path)
        if not _kept(before, after, edited):
            reject(
                "suite",
                "a file that can be edited without touching its other cases",
                str(path),
                "Add the lines by hand.",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, edited.text)
        except OSError as error:
            reject(
                "suite",
                "a file that can be written",
                f"{path}: {error.strerror}",
                "Check its permissions.",
            )
    return after


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One editor of a folder at a time, so that two additions at once are both kept; leaves no file
    behind.
    """
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _kept(before: Suite, after: Suite, edit: Edit) -> bool:
    """Whether all cases but the changed ones say what they said, in their order, and the confirmed
    ones are reviewed.
    """
    old = [
        _said(case, case.id in edit.reviewed)
        for case in before.cases
        if case.id not in edit.changed
    ]
    new = [_said(case) for case in after.cases if case.id not in edit.changed]
    return old == new and edit.changed <= {case.id for case in after.cases}


def _said(case: Case, confirmed: bool = False) -> tuple[Any, ...]:
    return (
        case.id,
        case.fingerprint,
        case.capability,
        case.tags,
        case.origin,
        case.reviewed or confirmed,
    )


def _end_of_cases(text: str, path: Path) -> tuple[int, int, str]:
    """Where the next case goes, its indentation, and what stands between."""
    newline = _newline(text)
    entries = pairs(compose(text, path, "suite"), path, "suite")
    if "cases" not in entries:
        return len(text), 0, ("" if text.endswith("\n") else newline) + f"cases:{newline}"
    key, cases = entries["cases"]
    if cases.id == "sequence" and cases.value and not cases.flow_style:
        column = int(cases.start_mark.column)
        return _past_comments(text, _end_of_line(text, end_of(cases)), column), column, newline
    if cases.id == "sequence" and cases.value:
        raise InputError(
            f"{path}:{line_of(cases)}: `cases`: expected one case per line, got [...]. Write each "
            "as `- id: ...`."
        )
    if cases.id == "sequence":
        raise InputError(
            f"{path}:{line_of(cases)}: `cases`: expected no brackets, got an empty []. Remove them."
        )
    return _end_of_line(text, int(key.end_mark.index)), int(key.start_mark.column) + 2, newline


def _case_nodes(text: str, path: Path) -> dict[str, Node]:
    entries = pairs(compose(text, path, "suite"), path, "suite")
    nodes = entries["cases"][1].value if "cases" in entries else []
    return {str(pairs(node, path, "case")["id"][1].value): node for node in nodes}


def _draft(nodes: Mapping[str, Node], name: str, path: Path) -> Node:
    if name not in nodes:
        reject("proposals", "ids of the suite", repr(name), f"See the cases of {path}.")
    if "expect" in pairs(nodes[name], path, "case"):
        reject(
            "proposals",
            "cases without `expect`",
            f"{name!r} in line {line_of(nodes[name])} of {path}",
            "Remove its `expect` first.",
        )
    return nodes[name]


def _proposal(text: str, node: Node, proposal: Any) -> tuple[int, str]:
    """Where a draft takes its expectation, and how it is written there."""
    entries = [f"expect: {dump(proposal, flow=True)}", "reviewed: false"]
    if node.flow_style:
        return end_of(node) - 1, "".join(f", {entry}" for entry in entries)
    margin = " " * int(node.value[0][0].start_mark.column)
    return _end_of_line(text, end_of(node)), "".join(
        f"{_newline(text)}{margin}{entry}" for entry in entries
    )


def _unreviewed(nodes: Mapping[str, Node], name: str, path: Path) -> tuple[int, int]:
    """Where the `false` of `reviewed: false` stands."""
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
        if isinstance(value, Mapping) and len(flow) > _LONGEST_LINE:
            lines += [
                f"{key}:",
                *(
                    f"  {dump(name, flow=True)}: {dump(entry, flow=True)}"
                    for name, entry in value.items()
                ),
            ]
        else:
            lines.append(flow)
    return [
        " " * indent + ("- " if place == 0 else "  ") + line for place, line in enumerate(lines)
    ]


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _end_of_line(text: str, place: int) -> int:
    """End of the line that the character before `place` is in, behind a comment; never behind blank
    lines.
    """
    last = len(text[:place].rstrip())
    end = text.find("\n", last)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" else end


def _past_comments(text: str, place: int, column: int) -> int:
    """Behind the comment lines that belong to the last case: those that stand deeper than its
    dash.
    """
    while (start := text.find("\n", place)) >= 0:
        end = text.find("\n", start + 1)
        line = text[start + 1 : len(text) if end < 0 else end].rstrip("\r")
        if not line.lstrip().startswith("#") or len(line) - len(line.lstrip()) <= column:
            break
        place = start + 1 + len(line)
    return place

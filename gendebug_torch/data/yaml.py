"""YAML 1.2 as people expect it: NO is a text, 1e30 a number, a key stands once, and every mistake
has its line.

PyYAML follows YAML 1.1, in which `NO` is false, `1e30` a text, `010` eight, `12:30` a number and a
second key silently wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from gendebug_torch.errors import InputError, reject

Node = Any
"""A node of `yaml.compose`: what stands in the file, with its place."""

# The core schema of YAML 1.2.2, section 10.3.2, and the merge key of 1.1, which people rely on.
_PATTERNS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
_TAG = "tag:yaml.org,2002:"


def compose(text: str, path: Path) -> Node:
    """The root node of a text; a syntax error or a duplicate key is an `InputError` with its
    line.
    """
    import yaml

    try:
        root = yaml.compose(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        raise InputError(
            f"{path}:{_error_line(error)}: not readable as YAML: {error.problem or error.context}."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not readable as YAML: {error}.") from None
    if root is None:
        reject("suite", "a suite", f"an empty file {path}", "Start it with `cases:`.")
    _refuse_duplicates(root, path)
    return root


def construct(node: Node, path: Path, tags: Mapping[str, Callable[[str], Any]]) -> Any:
    """The value of a node; `tags` says what own tags stand for, given the text behind them."""
    import yaml

    loader = _loader()("")
    for tag, function in tags.items():
        _register(loader, tag, function)
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{path}:{_error_line(error)}: {error.problem}.") from None
    except ValueError as error:
        raise InputError(f"{path}:{line_of(node)}: {error}") from None
    finally:
        loader.dispose()


def pairs(node: Node, path: Path, argument: str) -> dict[str, tuple[Node, Node]]:
    """Key -> (key node, value node) of a mapping."""
    if node.id != "mapping":
        raise InputError(
            f"{path}:{line_of(node)}: `{argument}`: expected field: value pairs, got a {node.id}. "
            "Write e.g. `id: a-name`."
        )
    return {str(key.value): (key, value) for key, value in node.value}


def dump(value: Any, *, flow: bool = False) -> str:
    """A value as YAML text that `construct` reads back as it was: one line if `flow`, else block
    style.
    """
    import yaml

    style = True if flow else None
    text: str = yaml.dump(
        value,
        Dumper=_dumper(),
        allow_unicode=True,
        sort_keys=False,
        width=math.inf,
        default_flow_style=style,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def line_of(node: Node) -> int:
    """Line of a node, counted from 1."""
    return int(node.start_mark.line) + 1


def end_of(node: Node) -> int:
    """Position just behind the last character of a node; block collections end with their last
    entry.
    """
    if node.id == "scalar" or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return end_of(last[1] if isinstance(last, tuple) else last)


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]
        yaml_constructors: ClassVar[Any] = dict(yaml.SafeLoader.yaml_constructors)

    _resolve(Loader)

    def integer(loader: Any, node: Node) -> int:
        text = str(loader.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def number(loader: Any, node: Node) -> float:
        text = str(loader.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))

    Loader.add_constructor(f"{_TAG}int", integer)
    Loader.add_constructor(f"{_TAG}float", number)
    return Loader


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        """Line breaks as escapes, so that a text stays on its line whatever the indentation around
        it.
        """
        return dumper.represent_scalar(f"{_TAG}str", value, style='"' if "\n" in value else None)

    Dumper.add_representer(str, text)
    _resolve(Dumper)
    return Dumper


def _resolve(owner: Any) -> None:
    for name, (pattern, starts) in _PATTERNS.items():
        first = ["" if letter == "\0" else letter for letter in starts]
        owner.add_implicit_resolver(f"{_TAG}{name}", re.compile(rf"^(?:{pattern})$"), first)


def _register(loader: Any, tag: str, function: Callable[[str], Any]) -> None:
    def build(loader: Any, node: Node) -> Any:
        return function(str(loader.construct_scalar(node)))

    loader.yaml_constructors = {**loader.yaml_constructors, tag: build}


def _refuse_duplicates(root: Node, path: Path) -> None:
    """Every key stands once in its mapping, and nothing contains itself."""
    seen: set[int] = set()
    above: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, leaving = waiting.pop()
        if leaving:
            above.remove(id(node))
            continue
        if id(node) in above:
            raise InputError(
                f"{path}:{line_of(node)}: not readable as YAML: this collection contains itself."
            )
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        above.add(id(node))
        waiting.append((node, True))
        if node.id == "mapping":
            _refuse_twins(node, path)
        inside = (
            node.value if node.id == "sequence" else [part for pair in node.value for part in pair]
        )
        waiting.extend((part, False) for part in inside)


def _refuse_twins(mapping: Node, path: Path) -> None:
    keys: dict[str, int] = {}
    for key, _ in mapping.value:
        if key.id != "scalar" or key.value == "<<":
            continue
        if key.value in keys:
            remedy = f"It stands in line {keys[key.value]} already; remove one of the two."
            raise InputError(
                f"{path}:{line_of(key)}: `{key.value}`: expected a key once, got it twice. {remedy}"
            )
        keys[key.value] = line_of(key)


def _error_line(error: Any) -> int:
    mark = error.problem_mark or error.context_mark
    return int(mark.line) + 1 if mark else 0

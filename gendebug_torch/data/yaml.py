"""The one YAML 1.2 loader: `NO` is a text, `1e-3` a number, and every mistake has its line.

ruamel.yaml parses. Added here are the bounds on what a short file may expand to, and errors that
name the file, the line and the key.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gendebug_torch.errors import InputError, reading, reject

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

Node = Any
"""A node of the parsed file: a scalar, sequence or mapping, with its position in the text."""

_MAX_DEPTH = 100
# Nodes that aliases and merge keys may add to those that are written, some seconds of work.
_MAX_ALIASED = 1_000_000
_TAG = "tag:yaml.org,2002:"
_LONGEST_LINE = 2**31


def compose(text: str, path: Path, argument: str) -> Node:
    """The root node of a YAML text.

    Args:
        text: content of the file.
        path: file that it came from, for messages.
        argument: name of the content, for messages.

    Raises:
        InputError: a syntax error, an empty file, a duplicate key, a collection that contains
            itself, or nesting and aliases beyond the limits; names the line.
    """
    from ruamel.yaml.error import YAMLError

    # The parser asserts what it takes for granted, e.g. that the version of YAML is 1.1 or 1.2.
    with reading(path, "a YAML text", argument):
        try:
            root = _yaml().compose(text)
        except YAMLError as error:
            _reject_syntax(error, path)
        except RecursionError:
            problem = "the depth of its nesting is beyond the limit"
            where = f"{path}:{_line_beyond_depth(text)}"
            raise InputError(f"{where}: not readable as YAML: {problem}. Flatten it.") from None
    if root is None:
        reject(argument, "key: value lines", f"an empty file {path}", "Write e.g. `key: value`.")
    _check_collections(root, path)
    return root


def construct(
    node: Node, path: Path, tags: Mapping[str, Callable[[str], Any]] | None = None
) -> Any:
    """The value of a node.

    Args:
        node: part of what `compose` returned.
        path: file that it came from, for messages.
        tags: tag such as `!tensor` -> function of the text behind it.

    Raises:
        InputError: an unknown tag, or a value that does not fit its tag; names the line.
    """
    from ruamel.yaml.error import YAMLError

    # A date stays the text that it is, to be read by the one parser of times.
    plain = dict.fromkeys((f"{_TAG}timestamp", f"{_TAG}value"), str)
    own = {tag: _tagged(function) for tag, function in (plain | dict(tags or {})).items()}
    constructor = _yaml().constructor
    constructor.yaml_constructors = constructor.yaml_constructors | own
    try:
        return constructor.construct_document(node)
    except YAMLError as error:
        _reject_syntax(error, path)
    # Standard tags before a value that does not fit them, such as `!!bool maybe`, break inside
    # the library with errors of these kinds.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}:{line_of(node)}: {error}") from None


def pairs(node: Node, path: Path, argument: str) -> dict[str, tuple[Node, Node]]:
    """Key -> (key node, value node) of a mapping.

    Raises:
        InputError: the node is not a mapping.
    """
    if node.id != "mapping":
        got = f"a {node.id}"
        reject_at(
            path, node, argument, "a mapping (`key: value` lines)", got, "Write `key: value`."
        )
    return {str(key.value): (key, value) for key, value in node.value}


def reject_at(
    path: Path, node: Node, argument: str, expected: str, got: str, remedy: str
) -> NoReturn:
    """Raise the `InputError` of `reject` with the file and the line in front.

    Raises:
        InputError: always.
    """
    try:
        reject(argument, expected, got, remedy)
    except InputError as error:
        raise InputError(f"{path}:{line_of(node)}: {error}") from None


def dump(value: Any, *, flow: bool = False) -> str:
    """A value as YAML text that `construct` reads back as it was.

    Args:
        value: numbers, texts, None, lists and mappings.
        flow: one line with brackets instead of block style.
    """
    yaml: Any = _yaml()
    yaml.default_flow_style = True if flow else None
    representer, stream = yaml.representer, io.StringIO()
    representer.ignore_aliases = lambda data: True
    representer.yaml_representers = representer.yaml_representers | {str: _represent_text}
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("\n").removesuffix("\n...")


def line_of(node: Node) -> int:
    """Line of a node, counted from 1."""
    return int(node.start_mark.line) + 1


def end_of(node: Node) -> int:
    """Position behind the last character of a node; a block collection ends with its last entry."""
    if node.id == "scalar" or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return end_of(last[1] if isinstance(last, tuple) else last)


def _yaml() -> YAML:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth, yaml.width = _MAX_DEPTH, _LONGEST_LINE
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    # YAML allows an anchor to be defined again; the library would warn.
    yaml.composer.warn_double_anchors = False
    return yaml


def _represent_text(representer: Any, value: str) -> Any:
    """Line breaks as escapes, so that a text stays on its line whatever the indentation."""
    style = '"' if "\n" in value else None
    return representer.represent_scalar(f"{_TAG}str", value, style=style)


def _tagged(function: Callable[[str], Any]) -> Callable[[Any, Node], Any]:
    def build(constructor: Any, node: Node) -> Any:
        return function(str(constructor.construct_scalar(node)))

    return build


def _reject_syntax(error: YAMLError, path: Path) -> NoReturn:
    from ruamel.yaml.error import MarkedYAMLError

    if not isinstance(error, MarkedYAMLError):
        raise InputError(f"{path}: not readable as YAML: {error}. Correct it.") from None
    mark = error.problem_mark or error.context_mark
    line = int(mark.line) + 1 if mark else 0
    problem = str(error.problem or error.context).partition(", if necessary")[0]
    raise InputError(
        f"{path}:{line}: not readable as YAML: {problem}. Correct this line."
    ) from None


def _check_collections(root: Node, path: Path) -> None:
    """Refuse duplicate keys, collections that contain themselves and aliases without bound."""
    sizes: dict[int, int] = {}
    ancestors: set[int] = set()
    written = 0
    pending = [(root, False)]
    while pending:
        node, complete = pending.pop()
        children = _children(node)
        if complete:
            ancestors.remove(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            continue
        if id(node) in ancestors:
            raise InputError(
                f"{path}:{line_of(node)}: not readable as YAML: this collection contains itself."
            )
        if id(node) in sizes:
            continue
        written += 1
        if node.id == "mapping":
            _check_keys(node, path)
        ancestors.add(id(node))
        pending.append((node, True))
        pending.extend((child, False) for child in children)
    if sizes[id(root)] - written > _MAX_ALIASED:
        raise InputError(
            f"{path}: not readable as YAML: its aliases expand {written:,} values to "
            f"{sizes[id(root)]:,}. Write the values out, or split the file."
        )


def _line_beyond_depth(text: str) -> int:
    """Line in which collections nest beyond the limit, which older parsers do not tell."""
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = line = 0
    for event in _yaml().parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        line = int(event.start_mark.line) + 1
        if depth > _MAX_DEPTH:
            break
    return line


def _children(node: Node) -> list[Node]:
    if node.id == "scalar":
        return []
    return node.value if node.id == "sequence" else [part for pair in node.value for part in pair]


def _check_keys(mapping: Node, path: Path) -> None:
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if key.id != "scalar":
            reject_at(path, key, "key", "keys that are names", f"a {key.id}", "Write a name.")
        if key.value in lines:
            remedy = f"It stands in line {lines[key.value]} already; remove one of the two."
            reject_at(path, key, key.value[:80], "a key once", "it twice", remedy)
        lines[key.value] = line_of(key)

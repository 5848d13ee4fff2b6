"""The options of a check: its keyword-only parameters, as its signature and docstring say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter of a check: annotation, default and its line in `Args:`."""

    name: str
    type: Any
    default: Any
    help: str


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function by name."""
    hints = get_type_hints(function)
    lines = argument_lines(inspect.getdoc(function) or "")
    return {
        p.name: Option(p.name, hints.get(p.name), p.default, lines.get(p.name, ""))
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def argument_lines(docstring: str) -> dict[str, str]:
    """`Args:` of a Google docstring as {name: text}.

    Args:
        docstring: text without the indent of its function, as `inspect.getdoc` gives it.
    """
    _, _, tail = docstring.partition("Args:\n")
    lines: dict[str, str] = {}
    current = ""
    for line in tail.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent < 4:
            break
        if indent == 4 and ":" in line:
            current, _, text = line.strip().partition(":")
            lines[current] = text.strip()
        elif current and line.strip():
            lines[current] += " " + line.strip()
    return lines

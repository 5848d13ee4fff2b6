"""Pieces of Markdown, and files written only where they changed, so that Sphinx reads few again."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write(path: Path, text: str) -> None:
    """Write a page; one that is the same keeps its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def grid(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(value: Any) -> str:
    """A value within a table."""
    return " ".join(str(value).replace("|", "\\|").split())


def code(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"````{language}\n{text.rstrip()}\n````"


def folded(title: str, text: str) -> str:
    """A text that opens when it is clicked."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def contents(pages: Iterable[str], *, hidden: bool = False) -> str:
    """The table of contents of a section."""
    options = ":hidden:\n" if hidden else ":maxdepth: 1\n"
    return "```{toctree}\n" + options + "\n" + "\n".join(pages) + "\n```"

"""The reference of the public names, from their docstrings."""

import inspect
from pathlib import Path
from types import ModuleType

import gendebug_torch
from docs.generate.markdown import contents, grid, write

_TOP = "gendebug_torch"


def api_pages(folder: Path) -> tuple[int, list[str]]:
    """Write a page per topic; returns how many names they have, and which functions no example."""
    pages = {_TOP: gendebug_torch} | {
        f"{_TOP}.{topic}": getattr(gendebug_torch, topic) for topic in gendebug_torch._TOPICS
    }
    without: list[str] = []
    total = 0
    for name, module in pages.items():
        exported = [item for item in module.__all__ if not _is_module(module, item)]
        write(folder / f"{name}.rst", _page(name, module, exported))
        total += len(exported)
        without += [f"{name}.{item}" for item in exported if _lacks_example(module, item)]
    head = "# API reference\n\nEvery public name, from its docstring; examples are tests.\n\n"
    rows = ((f"[`{name}`]({name}.rst)", _first_line(module)) for name, module in pages.items())
    table = grid(("module", "what it is about"), rows)
    write(folder / "index.md", f"{head}{table}\n\n{contents(pages, hidden=True)}\n")
    return total, without


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def _is_module(module: ModuleType, name: str) -> bool:
    return inspect.ismodule(getattr(module, name))


def _lacks_example(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    return inspect.isfunction(value) and ">>>" not in (value.__doc__ or "")


def _page(name: str, module: ModuleType, exported: list[str]) -> str:
    first = (module.__doc__ or "").strip()
    lines = [name, "=" * len(name), "", first, ""]
    for item in sorted(exported, key=lambda item: inspect.isclass(getattr(module, item))):
        value = getattr(module, item)
        lines += [item, "-" * len(item), ""]
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}.{item}", "   :members:", ""]
        elif inspect.isfunction(value):
            lines += [f".. autofunction:: {name}.{item}", ""]
        else:
            held = ", ".join(f"``{key}``" for key in value)
            lines += [f".. py:data:: {name}.{item}", "", f"   {held}", ""]
    return "\n".join(lines)

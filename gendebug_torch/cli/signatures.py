"""The signature of a command from its source: help and refusals import neither it nor torch."""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gendebug_torch

_PACKAGE = Path(gendebug_torch.__file__).parent


def signature_of(module: str, name: str) -> Callable[..., int]:
    """A function with the parameters and the docstring of a command, and without its work.

    Args:
        module: dotted name of the module.
        name: name of the function.
    """
    found = next(node for node in _functions(module) if node.name == name)
    docstring = ast.Expr(ast.Constant(ast.get_docstring(found, clean=False)))
    found.body = [docstring]
    found.decorator_list = []
    hints = [arg.annotation for arg in (*found.args.args, *found.args.kwonlyargs) if arg.annotation]
    names = {node.id for hint in hints for node in ast.walk(hint) if isinstance(node, ast.Name)}
    kinds = [kind for one in sorted(names) if (kind := _kind(module, one)) is not None]
    code = ast.Module([*kinds, found], [])
    scope: dict[str, Any] = dict(vars(typing))
    exec(compile(ast.fix_missing_locations(code), module, "exec"), scope)
    made: Callable[..., int] = scope[name]
    return made


def first_line(module: str, name: str) -> str:
    """The first line of the docstring of a function.

    Args:
        module: dotted name of the module.
        name: name of the function.
    """
    found = next(node for node in _functions(module) if node.name == name)
    return (ast.get_docstring(found) or "").partition("\n")[0]


def _kind(module: str, name: str) -> ast.stmt | None:
    """The assignment that makes a kind of value, here or where it is imported from."""
    for node in ast.parse(_source(module)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and _is_own(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _kind(node.module, alias.name)
    return None


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE.name


def _functions(module: str) -> Iterator[ast.FunctionDef]:
    nodes = ast.parse(_source(module)).body
    return (node for node in nodes if isinstance(node, ast.FunctionDef))


@cache
def _source(module: str) -> str:
    """Text of a module of this package, which is not imported."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text("utf-8")

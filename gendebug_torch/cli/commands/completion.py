"""`gendebug completion`."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gendebug_torch.attribution import METHODS
from gendebug_torch.checks.options import argument_lines
from gendebug_torch.checks.registry import TOPICS, all_checks
from gendebug_torch.cli.arguments import flag
from gendebug_torch.cli.deliver import say
from gendebug_torch.cli.exit_codes import CLEAN
from gendebug_torch.cli.main import COMMANDS
from gendebug_torch.errors import MissingExtraError, brief, reject

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Shell) -> int:
    """Print a script that completes commands, options and their values in a shell.

    The script holds every word, so that a press of the Tab key starts no Python. Print it again
    after an update.

    Args:
        shell: bash, zsh or fish.
    """
    if shell not in get_args(Shell):
        remedy = "Pass one of them, e.g. `gendebug completion bash`."
        reject("shell", "bash, zsh or fish", brief(shell), remedy)
    try:
        import shtab
    except ImportError as error:
        text = "`completion` needs the library shtab: pip install 'gendebug_torch[completion]'"
        raise MissingExtraError(text) from error
    say(shtab.complete(_all_commands(), shell))
    return CLEAN


def _all_commands() -> ArgumentParser:
    """All commands as one parser of the standard library, which shtab reads."""
    root = ArgumentParser("gendebug")
    root.add_argument("--version", action="store_true", help="print the version")
    commands = root.add_subparsers()
    inner: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        module = import_module(f"gendebug_torch.cli.commands.{command.module}")
        function: Callable[..., int] = getattr(module, command.function)
        first, _, second = name.partition(" ")
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        beside = inner[first] if second else commands
        parser = beside.add_parser(second or name, help=summary, description=summary)
        if any(other.startswith(f"{name} ") for other in COMMANDS):
            # Its first word is a file or a command; behind `run`, which may be left out, a file.
            inner[name] = parser.add_subparsers()
            _add_options(parser, function, command.positional)
            parser = inner[name].add_parser("run", help=summary, description=summary)
        for word in command.positional:
            parameter = word.removesuffix("+")
            several: dict[str, Any] = {"nargs": "+"} if word != parameter else {}
            argument = parser.add_argument(parameter, **several)
            _complete(argument, get_type_hints(function)[parameter])
        _add_options(parser, function, command.positional)
    return root


def _add_options(
    parser: ArgumentParser, function: Callable[..., int], positional: Sequence[str]
) -> None:
    """Options of a command, from the signature and docstring of its function."""
    hints, lines = get_type_hints(function), argument_lines(inspect.getdoc(function) or "")
    skip = {"return", *(word.removesuffix("+") for word in positional)}
    for parameter in [one for one in hints if one not in skip]:
        hint = hints[parameter]
        help_line = lines.get(parameter, "").replace("%", "%%")
        if hint is bool:
            parser.add_argument(flag(parameter), action="store_true", help=help_line)
            continue
        several: dict[str, Any] = (
            {"nargs": "*"} if any(get_origin(part) is list for part in _parts(hint)) else {}
        )
        _complete(parser.add_argument(flag(parameter), help=help_line, **several), hint)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _complete(argument: Any, hint: Any) -> None:
    """Say what the values of an argument are: some words, directories, or files."""
    parts = _parts(hint)
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    if argument.dest in _WORDS:
        words = _WORDS[argument.dest]()
    if words:
        argument.choices = words
    elif str in parts:
        argument.complete = "directory" if argument.dest == "out" else "file"


def _parts(hint: Any) -> list[Any]:
    """A type and all that it is made of: `list[str] | None`, `list[str]`, `str` and `None`."""
    if get_origin(hint) is Literal:
        return [hint]
    return [hint, *(part for inner in get_args(hint) for part in _parts(inner))]


# Texts that are words of a list.
_WORDS: Mapping[str, Callable[[], list[str]]] = {
    "device": lambda: ["auto", "cpu", "cuda"],
    "method": lambda: list(METHODS),
    "only": lambda: [*TOPICS, *(check.name for check in all_checks())],
}

"""The parser, made from the signatures and docstrings of the commands."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.commands import behave
from gendebug_torch.cli.commands.attribute import attribute
from gendebug_torch.cli.commands.checks import checks
from gendebug_torch.cli.commands.curves import curves
from gendebug_torch.cli.commands.diagnose import diagnose
from gendebug_torch.cli.commands.labels import labels
from gendebug_torch.cli.commands.leakage import leakage
from gendebug_torch.cli.commands.parity import parity
from gendebug_torch.cli.commands.predeploy import predeploy
from gendebug_torch.cli.commands.recalibrate import recalibrate
from gendebug_torch.cli.commands.shift import shift
from gendebug_torch.cli.deliver import BAD_INPUT
from gendebug_torch.errors import InputError

# Command -> its parameters that are given by position; one that takes several values ends in "+".
COMMANDS: dict[Callable[..., int], tuple[str, ...]] = {
    diagnose: (),
    recalibrate: (),
    attribute: (),
    curves: ("file",),
    shift: ("reference", "live"),
    leakage: ("tables+",),
    parity: (),
    labels: ("table",),
    predeploy: (),
    checks: (),
}

# Command -> its subcommands; the first one is meant where none is named, as in `gendebug behave
# SUITE`.
GROUPS: dict[str, dict[Callable[..., int], tuple[str, ...]]] = {
    "behave": {
        behave.run: ("suite",),
        behave.add: ("suite",),
        behave.record: ("suite",),
        behave.confirm: ("suite",),
        behave.redundancy: ("suite",),
    },
}
_CODES = "Exit code: 0 clean, 1 findings from --fail-on on, 2 bad input, 3 a check broke."


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 clean, 1 findings at or above --fail-on, 2 bad input, 3 a check broke."""
    parser = _parser(
        prog="gendebug", description=(gd.__doc__ or "").partition("\n")[0], version=gd.__version__
    )
    commands = parser.add_subcommands()
    _add_commands(commands, COMMANDS)
    for name, functions in GROUPS.items():
        text = (sys.modules[next(iter(functions)).__module__].__doc__ or "").partition("\n")[0]
        group = _parser(description=text, epilog=_CODES)
        commands.add_subcommand(name, group, help=text)
        _add_commands(group.add_subcommands(), functions)
    chosen = parser.parse_args(_spelled(sys.argv[1:] if arguments is None else arguments))
    functions, values = COMMANDS, chosen
    while (name := values.subcommand) in GROUPS:
        functions, values = GROUPS[name], values[name]
    call = {function.__name__: function for function in functions}[name]
    try:
        return call(**values[name].as_dict())
    except InputError as error:
        print(f"gendebug {chosen.subcommand}: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser(**settings: Any) -> Any:
    """A parser whose help spells flags as people write them, `--fail-on` and `--from`, not as
    Python names its parameters.
    """
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self, *formatter: Any) -> str:
            return re.sub(r"--[a-z_]+( [A-Z_]+)?", _as_written, super().format_help(*formatter))

    return Parser(**settings)


def _as_written(flag: re.Match[str]) -> str:
    name, _, value = flag[0].partition(" ")
    return name.rstrip("_").replace("_", "-") + (f" {value.rstrip('_')}" if value else "")


def _add_commands(commands: Any, functions: Mapping[Callable[..., int], tuple[str, ...]]) -> None:
    for function, positional in functions.items():
        text = (function.__doc__ or "").partition("\n")[0]
        command = _parser(description=text, epilog=_CODES)
        for name in positional:
            command.add_argument(
                name.removesuffix("+"), type=str, nargs="+" if name.endswith("+") else None
            )
        command.add_function_arguments(
            function, as_positional=False, skip={name.removesuffix("+") for name in positional}
        )
        commands.add_subcommand(function.__name__, command, help=text)


def _spelled(arguments: Sequence[str]) -> list[str]:
    """Flags as the parser spells them, and the default subcommand of a group where none is
    named.
    """
    words = [_flag(argument) for argument in arguments]
    functions = GROUPS.get(words[0], {}) if words else {}
    named = {function.__name__ for function in functions}
    if functions and len(words) > 1 and words[1] not in {*named, "-h", "--help"}:
        words.insert(1, next(iter(functions)).__name__)
    return words


def _flag(argument: str) -> str:
    """`--fail-on` as the parser spells it, `--fail_on`, and `--from`, a word of Python, as
    `--from_`; values are left alone.
    """
    name, equals, value = argument.partition("=")
    if not argument.startswith("--"):
        return argument
    plain = name[2:].replace("-", "_")
    return (
        f"--{plain}_" + equals + value
        if keyword.iskeyword(plain)
        else f"--{plain}" + equals + value
    )

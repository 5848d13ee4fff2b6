"""The parser, made from the signatures and docstrings of the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import gendebug_torch as gd
from gendebug_torch.cli.attribute import attribute
from gendebug_torch.cli.checks import checks
from gendebug_torch.cli.curves import curves
from gendebug_torch.cli.deliver import BAD_INPUT
from gendebug_torch.cli.diagnose import diagnose
from gendebug_torch.cli.predeploy import predeploy
from gendebug_torch.cli.recalibrate import recalibrate
from gendebug_torch.errors import InputError

# Command -> its parameters that are given by position.
COMMANDS: dict[Callable[..., int], tuple[str, ...]] = {
    diagnose: (),
    recalibrate: (),
    attribute: (),
    curves: ("file",),
    predeploy: (),
    checks: (),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 clean, 1 findings at or above --fail-on, 2 bad input, 3 a check broke."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gendebug", description=(gd.__doc__ or "").partition("\n")[0], version=gd.__version__)
    commands = parser.add_subcommands()
    for function, positional in COMMANDS.items():
        text = (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=text, epilog="Exit code: 0 clean, 1 findings from --fail-on on, 2 bad input, 3 a check broke.")
        for name in positional:
            command.add_argument(name, type=str)
        command.add_function_arguments(function, as_positional=False, skip=set(positional))
        commands.add_subcommand(function.__name__, command, help=text)
    chosen = parser.parse_args([_flag(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])
    call = {function.__name__: function for function in COMMANDS}[chosen.subcommand]
    try:
        return call(**chosen[chosen.subcommand].as_dict())
    except InputError as error:
        print(f"gendebug {chosen.subcommand}: {error}", file=sys.stderr)
        return BAD_INPUT


def _flag(argument: str) -> str:
    """`--fail-on` as the parser spells it, `--fail_on`; values are left alone."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if argument.startswith("--") else argument

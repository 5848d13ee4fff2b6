"""The command line: each command's parser is made from the signature and docstring of a function.

A command's module is imported when its words are right, so that help costs no import of torch.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TextIO

import gendebug_torch
from gendebug_torch.cli.exit_codes import BAD_INPUT, BROKEN, CLEAN, INTERRUPTED
from gendebug_torch.cli.signatures import first_line, signature_of
from gendebug_torch.errors import GendebugError, did_you_mean, reject

# Moment at which a command began, before its imports: its budget counts from here.
BEGAN: ContextVar[float] = ContextVar("BEGAN")
# What a command has warned of, which its report repeats.
WARNED: ContextVar[list[str]] = ContextVar("WARNED")
_PACKAGE = Path(gendebug_torch.__file__).parent


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        module: file under `cli/commands`.
        function: name of the function that runs it and whose signature gives its options.
        positional: parameters given by position; one that takes several values ends in "+".
        example: words of a call, shown at the end of its help.
    """

    module: str
    function: str
    positional: tuple[str, ...] = ()
    example: str = ""


_TABLES = "--validation val.csv --production live.parquet --schema schema.yaml"
_TRAINED = "--model package.nets:build --train train.csv --schema schema.yaml"
_OF_MODEL = "fraud.behavior.yaml --model package.serving:predict"
_ADD = "fraud.behavior.yaml --from production.csv --row 17 --tags theft"
COMMANDS: Mapping[str, Command] = {
    "diagnose": Command("diagnose", "diagnose", example=f"{_TABLES} --out runs/report"),
    "recalibrate": Command(
        "recalibrate", "recalibrate", example="--logits validation.npz --out runs/calibrated"
    ),
    "attribute": Command(
        "attribute",
        "attribute",
        example="--model package.nets:build --data val.csv --schema schema.yaml --out runs/why",
    ),
    "preflight": Command(
        "preflight",
        "preflight",
        example="--model package.nets:build --data package.data:loader --out runs/preflight",
    ),
    "curves": Command("curves", "curves", ("file",), "metrics.csv --out runs/curves"),
    "shift": Command(
        "shift",
        "shift",
        ("reference", "live"),
        "reference.csv live.csv --schema schema.yaml --out runs/shift",
    ),
    "leakage": Command(
        "leakage",
        "leakage",
        ("tables+",),
        "train.csv val.csv --schema schema.yaml --out runs/x",
    ),
    "parity": Command(
        "parity",
        "parity",
        example="--model package.nets:build --served net.onnx --data rows.npz --out runs/parity",
    ),
    "labels": Command(
        "labels", "labels", ("table",), "train.csv --schema schema.yaml --out runs/labels"
    ),
    "influence": Command(
        "influence",
        "influence",
        example=f"{_TRAINED} --validation val.csv --out runs/influence",
    ),
    "counterfactual": Command(
        "counterfactual",
        "counterfactual",
        example=f"{_TRAINED} --data live.csv --out runs/changes",
    ),
    "predeploy": Command(
        "predeploy",
        "predeploy",
        example="--train train.csv --production live.csv --schema schema.yaml --out runs/first_day",
    ),
    "profile": Command(
        "profile", "profile", ("data",), "week47.parquet --schema schema.yaml --out week47.profile"
    ),
    "compare": Command(
        "compare", "compare", ("before", "after"), "runs/before runs/after --out runs/compared"
    ),
    "history": Command("history", "history", ("folder",), "profiles --out runs/history"),
    "checks": Command("checks", "checks", example="--as-json"),
    "completion": Command("completion", "completion", ("shell",), "bash"),
    "behave": Command(
        "behave", "run", ("suite",), "fraud.behavior.yaml --model package.serving:predict"
    ),
    "behave add": Command("behave", "add", ("suite",), _ADD),
    "behave record": Command("behave", "record", ("suite",), _OF_MODEL),
    "behave confirm": Command(
        "behave", "confirm", ("suite",), "fraud.behavior.yaml --ids production-row-17"
    ),
    "behave redundancy": Command("behave", "redundancy", ("suite",), _OF_MODEL),
}
_EXIT_CODES = (
    "Exit code: 0 clean, 1 findings from --fail-on on, 2 bad input, 3 something broke, "
    "130 interrupted. --debug shows the traceback of an error."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gendebug`.

    Args:
        arguments: words after `gendebug`; default those of the process.

    Returns:
        0 clean, 1 findings at or above --fail-on, 2 bad input, 3 something broke, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return CLEAN if words else BAD_INPUT
    if words[0] == "--version":
        print(f"gendebug {gendebug_torch.__version__}")
        return CLEAN
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name == "behave" and words[1:2] == ["run"]:
        words.pop(1)
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        print(f"gendebug: no command {name!r}. {hint}See gendebug --help.", file=sys.stderr)
        return BAD_INPUT
    try:
        with _plain_warnings(name), _any_text():
            return _call(name, words[len(name.split()) :])
    except KeyboardInterrupt:
        print(f"gendebug {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from gendebug_torch.report.text import printable

        if debug:
            traceback.print_exc()
        if isinstance(error, GendebugError):
            print(printable(f"gendebug {name}: {error}"), file=sys.stderr)
            return BAD_INPUT
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            text = f"gendebug {name}: no file can have this name, it is too long: {error.filename}"
            print(printable(text), file=sys.stderr)
            return BAD_INPUT
        advice = "This is a bug of gendebug_torch or of the model; --debug shows where."
        text = f"gendebug {name}: {type(error).__name__}: {error}\n{advice}"
        print(printable(text), file=sys.stderr)
        return BROKEN


@contextlib.contextmanager
def _any_text() -> Iterator[None]:
    """What the encoding of a terminal or file lacks is printed as an escape, not raised."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            stream.reconfigure(errors=errors)


@contextlib.contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """What this package warns of as a sentence of the command, without the line of code."""
    with warnings.catch_warnings():
        shown, warned = warnings.showwarning, list[str]()
        WARNED.set(warned)

        def say(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            from gendebug_torch.report.text import printable

            text = printable(message)
            if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
                print(f"gendebug {name}: {text}", file=sys.stderr)
                warned.append(str(message))
            elif text == str(message):
                shown(message, category, filename, lineno, file, line)
            else:
                # Names of columns that matplotlib has no letters for, for example.
                print(f"{category.__name__}: {text}", file=file or sys.stderr)

        warnings.showwarning = say
        yield


def _call(name: str, words: Sequence[str]) -> int:
    BEGAN.set(time.monotonic())
    for word in words:
        _refuse_half_letters(word)
    command = COMMANDS[name]
    module = f"gendebug_torch.cli.commands.{command.module}"
    others = [f"gendebug {other}" for other in COMMANDS if other.startswith(f"{name} ")]
    also = [f"See also {', '.join(others)}."] if others else []
    example = [f"Example: gendebug {name} {command.example}".rstrip()]
    from gendebug_torch.cli.arguments import parsed_arguments

    epilog = "\n".join([*example, *also, _EXIT_CODES])
    signature = signature_of(module, command.function)
    arguments = parsed_arguments(name, signature, command.positional, words, epilog)
    with _interrupted_afterwards():
        function: Callable[..., int] = getattr(import_module(module), command.function)
    return function(**arguments)


def _refuse_half_letters(word: str) -> None:
    """Half of a UTF-16 letter, as escapes of JSON leave it, names no file and no column."""
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        reject("arguments", "text", ascii(word), "Write the whole letter.")


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C counts when imports are done: NumPy makes an ImportError of it, and pandas another."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not plain or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def _overview() -> str:
    """Usage and one line per command, from the docstrings, without importing a command."""
    margin, width = 4 + max(map(len, COMMANDS)), shutil.get_terminal_size().columns
    lines = [f"  {name:{margin - 4}}  {_first_line(command)}" for name, command in COMMANDS.items()]
    text = [
        "usage: gendebug COMMAND [options]      gendebug COMMAND --help",
        "",
        (gendebug_torch.__doc__ or "").partition("\n")[0],
        "",
        *(textwrap.fill(line, width, subsequent_indent=" " * margin) for line in lines),
        "",
        textwrap.fill(f"Example: gendebug diagnose {_TABLES} --out runs/report", width),
        textwrap.fill(_EXIT_CODES, width),
    ]
    return "\n".join(text)


def _first_line(command: Command) -> str:
    return first_line(f"gendebug_torch.cli.commands.{command.module}", command.function)

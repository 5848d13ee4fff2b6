"""The exception tree.

GendebugError
├── InputError          (ValueError)           what you passed cannot be used; the message says why
and what to do ├── UnsupportedError    (NotImplementedError)  valid input, but this method cannot
answer it truthfully ├── MissingExtraError   (ImportError)          an optional library is needed
and absent └── CheckError          (RuntimeError)         a check broke its contract (a bug in the
check, not in your data)
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any, NoReturn

_MAX_BRIEF = 300


class GendebugError(Exception):
    """Root of every exception that this library raises on purpose."""


class InputError(GendebugError, ValueError):
    """An argument cannot be used: names it, what was expected, what came and the remedy.

    `argument` holds the name alone, so that a reader of files can say in which line it stands.
    """

    argument: str = ""


class UnsupportedError(GendebugError, NotImplementedError):
    """The input is valid, but this method would give a wrong answer for it."""


class MissingExtraError(GendebugError, ImportError):
    """A library that this call needs is not installed."""


class CheckError(GendebugError, RuntimeError):
    """A check broke the contract of checks, e.g. by yielding something else than findings."""


def reject(argument: str, expected: str, got: str, remedy: str) -> NoReturn:
    """Raise the `InputError` that every public door raises: one wording for the whole library.

    Args:
        argument: name of the argument as the caller wrote it.
        expected: what would have been accepted.
        got: what came, shortened to what helps.
        remedy: what to do about it, as a sentence.

    Raises:
        InputError: always.
    """
    error = InputError(f"`{argument}`: expected {expected}, got {got}. {remedy}")
    error.argument = argument
    raise error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'? ` for the nearest of the valid names; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def brief(value: Any) -> str:
    """The repr of a value for a message, cut to some entries and characters however large it is."""
    short = reprlib.Repr()
    short.maxlevel = 4
    short.maxstring = short.maxlong = short.maxother = 100
    text = short.repr(value)
    return text if len(text) <= _MAX_BRIEF else f"{text[: _MAX_BRIEF - 1]}…"

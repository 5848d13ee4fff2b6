"""The exception tree, and the end of time.

GendebugError
- InputError (ValueError): what you passed cannot be used; the message says why and what to do.
- UnsupportedError (NotImplementedError): valid input, but this method cannot answer it truthfully.
- MissingExtraError (ImportError): an optional library is needed and absent.
- OutOfTime (TimeoutError): a budget was spent before this work was done.
- CheckError (RuntimeError): a check broke its contract (a bug in the check, not in your data).
"""

from __future__ import annotations

import contextlib
import difflib
import math
import reprlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
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


class OutOfTime(GendebugError, TimeoutError):
    """A budget was spent before this work was done."""


class CheckError(GendebugError, RuntimeError):
    """A check broke the contract of checks, e.g. by yielding something else than findings."""


class Deadline:
    """A moment until which work may go on; long loops ask it between their pieces.

    Args:
        seconds: time for the work; None for no end.
        since: moment at which it began, by the clock; now by default.
        reserved: seconds at the end that are kept for what comes after the work.
        clock: tells the moment in seconds; `time.monotonic` by default.
        progress: whether the loops that ask it show how far they are.

    Example:
        >>> Deadline(60.0).check()
        >>> Deadline(0.0).check()
        Traceback (most recent call last):
            ...
        gendebug_torch.errors.OutOfTime: the time of this work is over
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        since: float | None = None,
        reserved: float = 0.0,
        clock: Callable[[], float] | None = None,
        progress: bool = False,
    ) -> None:
        self.clock: Callable[[], float] = _now if clock is None else clock
        self.seconds = math.inf if seconds is None else seconds
        self.since = self.clock() if since is None else since
        self.reserved = reserved
        self.progress = progress

    @property
    def spent(self) -> float:
        """Seconds since the work began."""
        return self.clock() - self.since

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0; infinite without an end."""
        return max(0.0, self.seconds - self.reserved - self.spent)

    def share(self, part: float) -> Deadline:
        """The end of a part of the work.

        Args:
            part: share of the seconds that are left, from 0 to 1.
        """
        seconds = self.spent + part * self.left
        return Deadline(seconds, since=self.since, clock=self.clock, progress=self.progress)

    def with_progress(self, progress: bool) -> Deadline:
        """The same end for loops that show how far they are, or do not.

        Args:
            progress: whether they do.
        """
        return Deadline(
            self.seconds,
            since=self.since,
            reserved=self.reserved,
            clock=self.clock,
            progress=progress,
        )

    @property
    def whole(self) -> Deadline:
        """The same with nothing reserved, for what comes after the work."""
        return Deadline(self.seconds, since=self.since, clock=self.clock)

    def check(self) -> None:
        """Raise where the moment has passed.

        Raises:
            OutOfTime: it has.
        """
        if self.left <= 0.0:
            raise OutOfTime("the time of this work is over")


def _now() -> float:
    return time.monotonic()


# Default of a parameter `deadline`: the work may take as long as it takes.
NO_DEADLINE = Deadline()


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


@contextlib.contextmanager
def reading(
    path: str | Path,
    expected: str,
    argument: str = "path",
    remedy: str = "Check that the path is right and the file is whole.",
) -> Iterator[None]:
    """Whatever a parser raises about a file becomes an `InputError` that names the file.

    To be put around the parsing alone: parsers raise errors of any kind on damaged bytes, many of
    them by accident. An `InputError` keeps its words and gets the name of the file in front.

    Args:
        path: the file.
        expected: what it should have held, for the message.
        argument: name of the path as the caller wrote it, for messages.
        remedy: what to do about it, as a sentence.

    Raises:
        InputError: the block raised an error.

    Example:
        >>> import json
        >>> with reading("a.json", "a JSON file", "settings", "Write it again."):
        ...     json.loads("{")
        Traceback (most recent call last):
            ...
        gendebug_torch.errors.InputError: `settings`: expected a JSON file, got a.json: ...
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        named = InputError(f"{path}: {error}")
        named.argument = error.argument
        raise named from error
    except GendebugError:
        raise
    except Exception as error:
        reject(argument, expected, f"{path}: {_problem(error)}", remedy)


def _problem(error: Exception) -> str:
    """What went wrong in a line: errors whose text alone says nothing get their type in front."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    plain = isinstance(error, ValueError) and not isinstance(error, UnicodeError) and text
    text = text if plain else f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= _MAX_BRIEF else f"{text[: _MAX_BRIEF - 1]}…"


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

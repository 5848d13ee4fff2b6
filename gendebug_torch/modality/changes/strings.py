"""What serving code does to strings: case, cuts, white space, punctuation and encoding."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from gendebug_torch.modality.modality import Change

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("0123456789", "0" * 10)
Rewriting = Callable[[str], str]


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def _read_as(text: str, encoding: str) -> str:
    return text.encode("utf-8", "replace").decode(encoding, "replace")


def _ascii(text: str, errors: str) -> str:
    return text.encode("ascii", errors).decode("ascii")


_REWRITINGS: Mapping[str, tuple[str, Rewriting]] = {
    "lower case": ("texts are in lower case", str.lower),
    "upper case": ("texts are in upper case", str.upper),
    "without white space": ("white space is lost", lambda text: "".join(text.split())),
    "one space": (
        "white space is collapsed and line breaks are lost",
        lambda text: " ".join(text.split()),
    ),
    "without punctuation": ("punctuation is lost", lambda text: text.translate(_PUNCTUATION)),
    "spaced punctuation": (
        "punctuation stands apart, as after tokenizing",
        lambda text: " ".join(re.findall(r"\w+|[^\w\s]", text)),
    ),
    "words only": (
        "punctuation and case are lost",
        lambda text: text.translate(_PUNCTUATION).lower(),
    ),
    "digits masked": ("digits are replaced by 0", lambda text: text.translate(_DIGITS)),
    "without digits": ("digits are lost", lambda text: re.sub(r"\d", "", text)),
    "read as Latin-1": ("UTF-8 is read as Latin-1", partial(_read_as, encoding="latin-1")),
    "read as Windows-1252": ("UTF-8 is read as Windows-1252", partial(_read_as, encoding="cp1252")),
    "ASCII with ?": (
        "characters beyond ASCII are replaced by question marks",
        partial(_ascii, errors="replace"),
    ),
    "ASCII only": ("characters beyond ASCII are lost", partial(_ascii, errors="ignore")),
    "without accents": ("accents are lost", _without_accents),
    "HTML escaped": ("characters are escaped for HTML", html.escape),
    "HTML read": ("HTML is not escaped any more", html.unescape),
    "escaped": (
        "line breaks and letters beyond ASCII are escaped",
        lambda text: text.encode("unicode_escape").decode("ascii"),
    ),
    "reversed": ("the words come in reverse order", lambda text: " ".join(text.split()[::-1])),
    "first line": ("only the first line is kept", lambda text: text.partition("\n")[0]),
}


def string_changes(validation: Sequence[str], production: Sequence[str]) -> tuple[Change, ...]:
    """What may have been done to texts of validation on their way into production.

    Args:
        validation: texts.
        production: texts.

    Example:
        >>> said = {change.name: change for change in string_changes(["Ab c"], ["A"])}
        >>> said["lower case"].apply(["Ab c"]), said["cut at the end"].apply(["Ab c"])
        (['ab c'], ['A'])
    """
    fixed = (
        Change(name, text, partial(_each, rewriting=rewriting))
        for name, (text, rewriting) in _REWRITINGS.items()
    )
    return (*fixed, *_cuts(validation, production))


def _cuts(before: Sequence[str], after: Sequence[str]) -> Iterator[Change]:
    """Texts cut at the longest length of production, in characters or in words."""
    longest = max(map(len, after), default=0)
    if longest < max(map(len, before), default=0):
        text = f"texts are cut after {longest} characters"
        yield Change("cut at the end", text, partial(_each, rewriting=partial(_head, n=longest)), 1)
        text = f"only the last {longest} characters are kept"
        cut = partial(_each, rewriting=partial(_tail, n=longest))
        yield Change("cut at the start", text, cut, 1)
    words = max((len(text.split()) for text in after), default=0)
    if words < max((len(text.split()) for text in before), default=0):
        text = f"texts are cut after {words} words"
        cut = partial(_each, rewriting=partial(_words, start=0, stop=words))
        yield Change("first words", text, cut, 1)
        text = f"only the last {words} words are kept"
        cut = partial(_each, rewriting=partial(_words, start=-words, stop=None))
        yield Change("last words", text, cut, 1)


def _each(texts: Sequence[str], rewriting: Rewriting) -> list[str]:
    return [rewriting(text) for text in texts]


def _head(text: str, n: int) -> str:
    return text[:n]


def _tail(text: str, n: int) -> str:
    return text[len(text) - n :] if n < len(text) else text


def _words(text: str, start: int, stop: int | None) -> str:
    return " ".join(text.split()[start:stop])

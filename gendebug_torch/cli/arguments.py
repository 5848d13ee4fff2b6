"""Words of a command line as the arguments of a command, whose signature is their description."""

from __future__ import annotations

import json
import keyword
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from gendebug_torch.errors import brief, did_you_mean, reject

# Ending of the file of a profile.
PROFILE = ".profile"
_EXPECTED: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: 'a JSON object, e.g. {"name": 1}',
}


def parsed_arguments(
    name: str,
    function: Callable[..., int],
    positional: Sequence[str],
    words: Sequence[str],
    epilog: str,
) -> dict[str, Any]:
    """Arguments of a command by name.

    Args:
        name: name of the command.
        function: function that runs it.
        positional: parameters given by position; one that takes several values ends in "+".
        words: what stands behind the name of the command.
        epilog: last lines of its help, each of which begins a line.

    Raises:
        InputError: an option that the command does not have, a value of another type, or a missing
            one.
        SystemExit: help was asked for, and is printed.
    """
    parser = _parser(name, function, positional, epilog)
    values: dict[str, Any] = parser.parse_args(python_words(words, function, positional)).as_dict()
    for key, value in values.items():
        if value in ("", []):
            reject(flag(key), "a value", "an empty text", "Write one, or leave the option out.")
    if (out := values.get("out")) is not None:
        # A profile is one file; all else is written into a directory.
        _check_directory(Path(out).parent if out.endswith(PROFILE) else Path(out))
    return values


def _check_directory(out: Path) -> None:
    """Refuse a directory that cannot be made before anything is computed for it."""
    remedy = "Choose another directory."
    try:
        there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    except OSError as error:
        # A name that is too long, for example.
        reject("--out", "a directory that can be made", error.strerror or str(error), remedy)
    if not there.is_dir() or not os.access(there, os.W_OK):
        got = f"{out}: {there} is {'not writable' if there.is_dir() else 'a file'}"
        reject("--out", "a directory that can be written", got, remedy)


def flag(name: str) -> str:
    """The name of a parameter as it is written on a command line: `--fail-on` for `fail_on`."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def python_words(
    words: Sequence[str], function: Callable[..., int], positional: Sequence[str] = ()
) -> list[str]:
    """The words with flags as Python names, and values of lists as JSON lists.

    `--fail-on` becomes `--fail_on`, `--from` (a word of Python) `--from_`; `--only shift,labels` or
    `--only shift labels` becomes `--only '["shift", "labels"]'`. Words that follow a list and are
    needed by position are given back: of `--tags theft SUITE`, `SUITE` is the suite. A flag
    of true or false alone means true, and `--junit` means `--also junit`.
    """
    hints = get_type_hints(function)
    words = _with_formats(words, hints)
    lists = {
        name
        for name, hint in hints.items()
        if any(get_origin(kind) is list for kind in (hint, *get_args(hint)))
    }
    result: list[str] = []
    values: list[list[str]] = []
    by_position, open_list, awaits = 0, False, False
    for word, following in zip(words, (*words[1:], ""), strict=False):
        if not word.startswith("--"):
            if open_list:
                values[-1].append(word)
                continue
            by_position += not awaits
            awaits = False
            result.append(word)
            continue
        text, equals, value = word[2:].partition("=")
        name = text.replace("-", "_")
        name += "_" * keyword.iskeyword(name)
        if hints.get(name) is bool and not equals and following not in ("true", "false"):
            equals, value = "=", "true"
        open_list, awaits = name in lists, not equals and name not in lists
        if open_list:
            values.append([value] if equals else [])
            result += [f"--{name}", f"\0{len(values) - 1}"]
        else:
            result.append(f"--{name}={value}" if equals else f"--{name}")
    lacking = len(positional) - by_position
    given_back: list[str] = []
    if values and 0 < lacking < len(values[-1]):
        values[-1], given_back = values[-1][:-lacking], values[-1][-lacking:]
    return [
        _as_list(values[int(word[1:])]) if word.startswith("\0") else word
        for word in [*result, *given_back]
    ]


def _with_formats(words: Sequence[str], hints: Mapping[str, Any]) -> Sequence[str]:
    """`--junit` and the like, where they are formats of `--also` and no options themselves."""
    known = [name for kind in get_args(hints.get("also")) for name in map(str, _choices(kind))]
    short = [word for word in words if word[2:] in known and word == f"--{word[2:]}"]
    short = [word for word in short if word[2:] not in hints]
    if not short:
        return words
    split = (word.split("=", 1) if word.startswith("--also=") else [word] for word in words)
    rest = [part for parts in split for part in parts if part not in short]
    names = [word[2:] for word in short]
    at = rest.index("--also") + 1 if "--also" in rest else len(rest)
    return [*rest[:at], *([] if "--also" in rest else ["--also"]), *names, *rest[at:]]


def _choices(kind: Any) -> tuple[Any, ...]:
    """The literals of a list of literals."""
    return get_args(get_args(kind)[0]) if get_origin(kind) is list else ()


def _as_list(values: Sequence[str]) -> str:
    if len(values) == 1 and values[0].startswith("["):
        return values[0]
    return json.dumps([part for value in values for part in value.split(",") if part])


def _parser(name: str, function: Callable[..., int], positional: Sequence[str], epilog: str) -> Any:
    """The parser of one command; help and errors spell flags as people write them."""
    from docstring_parser import parse
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            # What a value may be stands in the text or beside the flag; types are Python's words.
            if "%(default)" in (action.help or "") or action.default in (None, "==SUPPRESS=="):
                return f"{action.help}{' (required)' if action.required else ''}"
            return f"{action.help} (default: %(default)s)"

    class Parser(ArgumentParser):
        def format_help(self, *formatter: Any) -> str:
            # Lists are written without the parser's own `--only+`.
            text = re.sub(r", --[a-z_]+\+ [A-Z_]+", "", super().format_help(*formatter))
            text = re.sub(r"--[a-z_]+( [A-Z_]+)?", _as_written, text)
            width = shutil.get_terminal_size().columns - 2
            last = (textwrap.fill(line, width) for line in epilog.splitlines())
            return "\n".join([text, *last, ""])

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            _refuse(name, function, positional, message)

    description = (function.__doc__ or "").partition("\n\n")[0]
    parser = Parser(prog=f"gendebug {name}", description=description, formatter_class=Formatter)
    texts = {part.arg_name: part.description for part in parse(function.__doc__ or "").params}
    for parameter in positional:
        place, several = parameter.removesuffix("+"), "+" if parameter.endswith("+") else None
        parser.add_argument(place, type=str, nargs=several, help=texts.get(place))
    skip: set[str | int] = {parameter.removesuffix("+") for parameter in positional}
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip=skip)
    return parser


def _as_written(found: re.Match[str]) -> str:
    """`--fail_on FAIL_ON` as it is written on a command line: `--fail-on FAIL_ON`."""
    name, _, value = found[0].partition(" ")
    return flag(name[2:]) + (f" {value.rstrip('_')}" if value else "")


def _refuse(
    name: str, function: Callable[..., int], positional: Sequence[str], message: str
) -> NoReturn:
    """What the parser says about its words, as an `InputError`."""
    remedy = f"See `gendebug {name} --help`."
    places = {parameter.removesuffix("+") for parameter in positional}
    hints = get_type_hints(function)
    if found := re.search(r"Parser key \"(\w+)\":(.*)", message, re.DOTALL):
        reject(flag(found[1]), _expected(hints[found[1]]), _value(found[2]), remedy)
    if found := re.search(r"arguments are required: (.*)", message):
        written = [one if one in places else flag(one) for one in found[1].split(", ")]
        reject(", ".join(written), "a value", "none", remedy)
    if found := re.search(r"argument --(\w+): (expected .*)", message):
        reject(flag(found[1]), found[2].removeprefix("expected "), "none", remedy)
    if found := re.search(r"unrecognized arguments: (\S+)(.*)", message):
        first = flag(found[1][2:]) if found[1].startswith("--") else found[1]
        options = [flag(one) for one in hints if one not in places and one != "return"]
        expected = f"an option of gendebug {name}"
        hint = did_you_mean(first, options) if first.startswith("--") else ""
        reject(first, expected, brief(f"{first}{found[2]}"), f"{hint}{remedy}")
    reject("arguments", f"those of gendebug {name}", " ".join(message.split()), remedy)


def _value(message: str) -> str:
    """The value that a message of the parser is about, or what it says."""
    values = re.findall(r"(?:Got|Given) value: (.*)", message)
    return brief(values[-1] if values else " ".join(message.split()))


def _expected(hint: Any) -> str:
    """What values of a type are, in words."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    if get_origin(hint) is list:
        return f"{_expected(kinds[0])}, once or several times"
    known = _EXPECTED.get(get_origin(hint) or hint)
    if known is None and kinds:
        return " or ".join(dict.fromkeys(map(_expected, kinds)))
    return known or "a text"

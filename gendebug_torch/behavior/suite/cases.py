"""What a behavioral suite says: `Case`, `Expectation`, `Suite`; validated when they are built."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from torch import Tensor

from gendebug_torch.errors import InputError, did_you_mean, reject

INVARIANT = ("same", "same_class")
DIRECTED = ("higher", "lower", "not_higher", "not_lower")
# How far scores of an invariant pair may part where the case says nothing; elsewhere the default is
# none.
INVARIANCE_TOLERANCE = 0.05


class Absent:
    """Marks a field that a change takes away, as opposed to one whose value is None."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a case expects of the scores.

    Args:
        word: `score`, `class`, or one of `same`, `same_class`, `higher`, `lower`, `not_higher`,
            `not_lower`.
        low: lower end of a score range.
        high: upper end of it.
        classes: accepted classes.
    """

    word: str
    low: float = 0.0
    high: float = 1.0
    classes: tuple[str | int, ...] = ()

    @classmethod
    def of(cls, value: Any) -> Expectation:
        """From the way it is written: `same`, `{score: [0, 0.3]}`, `{class: fraud}`,
        `{class: [neutral, positive]}`.

        Raises:
            InputError: another word, or a range outside [0, 1].
        """
        words = INVARIANT + DIRECTED
        if isinstance(value, Expectation):
            return value
        if isinstance(value, str):
            if value not in words:
                remedy = f"{did_you_mean(value, words)}A class is written {{class: {value}}}."
                reject(
                    "expect",
                    f"one of {', '.join(words)}, or {{score: [low, high]}}, {{class: name}}",
                    repr(value),
                    remedy,
                )
            return cls(value)
        if (
            not isinstance(value, Mapping)
            or len(value) != 1
            or next(iter(value)) not in ("score", "class")
        ):
            hint = (
                did_you_mean(str(next(iter(value))), ("score", "class"))
                if isinstance(value, Mapping) and value
                else ""
            )
            forms = f"{{score: [low, high]}}, {{class: name}} or one of {', '.join(words)}"
            reject("expect", forms, repr(value), f"{hint}Write one of them.")
        ((word, content),) = value.items()
        return (
            cls(word, *_range(content)) if word == "score" else cls(word, classes=_classes(content))
        )

    def plain(self) -> Any:
        """The way it is written in a file."""
        if self.word == "score":
            return {"score": [self.low, self.high]}
        if self.word == "class":
            return {"class": self.classes[0] if len(self.classes) == 1 else list(self.classes)}
        return self.word

    def __str__(self) -> str:
        if self.word == "score":
            return f"score in [{self.low:g}, {self.high:g}]"
        if self.word == "class":
            return f"class {' or '.join(map(str, self.classes))}"
        moved = f"a score {self.word.replace('_', ' ')} than before"
        return {"same": "the same score", "same_class": "the same class"}.get(self.word, moved)


@dataclass(frozen=True)
class Case:
    """One input, and what a model must say about it.

    Args:
        id: unique in its suite.
        input: field -> value; a plain text stands for `{text: ...}`; None is a missing value.
        expect: see `Expectation.of`; None is a draft, which is scored and not judged.
        change: fields that are replaced for an invariance or a direction, one mapping or several.
        of: the class whose score is meant, or `predicted` (the class of the unchanged input);
            default: the last of two classes, `predicted` among more.
        tolerance: by how much the expectation may be missed; default: the suite's, else 0.05 for
            `same`, else 0.
        capability: what it is about, for the table.
        tags: further names for selecting and grouping.
        origin: the incident it came from.
        reviewed: whether a person stands behind the expectation; unreviewed failures alarm nobody.
        line: where it stands in its file.

    Raises:
        InputError: names the field.
    """

    id: str
    input: Mapping[str, Any]
    expect: Expectation | None = None
    change: tuple[Mapping[str, Any], ...] = ()
    of: str | int | None = None
    tolerance: float | None = None
    capability: str = "general"
    tags: tuple[str, ...] = ()
    origin: str = ""
    reviewed: bool = True
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        _text_fields(self, ("id", "capability", "origin"))
        parsed = {
            "input": _fields("input", self.input),
            "expect": None if self.expect is None else Expectation.of(self.expect),
            "change": tuple(_fields("change", one) for one in _listed("change", self.change)),
            "tags": tuple(map(str, _listed("tags", self.tags))),
            "tolerance": None if self.tolerance is None else unit("tolerance", self.tolerance),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if not self.id:
            reject("id", "a name", repr(self.id), "Give the case a short name of its own.")
        if not isinstance(self.of, (str, int, type(None))) or isinstance(self.of, bool):
            reject(
                "of",
                "a class, or `predicted`",
                repr(self.of),
                "Name the class whose score is meant.",
            )
        if not isinstance(self.reviewed, bool):
            reject("reviewed", "true or false", repr(self.reviewed), "Write one of them.")
        pairwise = self.expect is not None and self.expect.word in INVARIANT + DIRECTED
        if pairwise and not self.change:
            reject(
                "expect",
                "a `change` beside it",
                f"{self.expect.plain()!r} alone" if self.expect else "",
                "Say which fields change.",
            )
        if self.expect is not None and not pairwise and self.change:
            reject(
                "change",
                f"an expectation about two inputs: {', '.join(INVARIANT + DIRECTED)}",
                str(self.expect),
                "Correct `expect`.",
            )

    @property
    def kind(self) -> str:
        """`MFT` (minimum functionality), `INV` (invariance), `DIR` (direction) or `draft`, after
        Ribeiro et al. (2020).
        """
        if self.expect is None:
            return "draft"
        return (
            "INV"
            if self.expect.word in INVARIANT
            else "DIR"
            if self.expect.word in DIRECTED
            else "MFT"
        )

    @cached_property
    def inputs(self) -> tuple[dict[str, Any], ...]:
        """The input, and then the input under each change."""
        base = {name: value for name, value in self.input.items() if value is not ABSENT}
        merged = ({**base, **change} for change in self.change)
        return (
            base,
            *(
                {name: value for name, value in one.items() if value is not ABSENT}
                for one in merged
            ),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what is asked; two runs are compared only where it is equal."""
        asked = [
            self.inputs,
            None if self.expect is None else self.expect.plain(),
            self.of,
            self.tolerance,
        ]
        return hashlib.sha256(
            json.dumps(asked, default=_digestible, sort_keys=True).encode()
        ).hexdigest()[:16]


@dataclass(frozen=True)
class Suite:
    """Cases that a model must pass, and what their fields and classes are.

    Args:
        cases: each id once.
        name: for reports.
        features: the columns that a network is fed, in its order; inputs may hold no others.
        classes: names in the order of the scores.
        threshold: score from which the second of two classes is predicted.
        tolerance: default for its cases.
        model: MODULE:NAME of what is tested, where nothing else is said.
        path: file it came from.

    Raises:
        InputError: a duplicate id, an unknown column or class.
    """

    cases: tuple[Case, ...]
    name: str = "behavior"
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    tolerance: float | None = None
    model: str = ""
    path: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _text_fields(self, ("name", "model"))
        for name in ("cases", "features", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "threshold", unit("threshold", self.threshold))
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", unit("tolerance", self.tolerance))
        seen: dict[str, Case] = {}
        for case in self.cases:
            if case.id in seen:
                first = f", first in line {seen[case.id].line}" if case.line else ""
                self._refuse(
                    case,
                    "id",
                    "an id of its own",
                    f"{case.id!r} twice{first}",
                    "Rename one of the two.",
                )
            seen[case.id] = case
            self._check_columns(case)
            self._check_classes(case)

    def tolerance_of(self, case: Case) -> float:
        """The tolerance that holds for a case."""
        if case.tolerance is not None:
            return case.tolerance
        if self.tolerance is not None:
            return self.tolerance
        return (
            INVARIANCE_TOLERANCE if case.expect is not None and case.expect.word == "same" else 0.0
        )

    def class_index(self, name: str | int, count: int) -> int:
        """Position of a class among `count` scores.

        Raises:
            InputError: there is no such class.
        """
        index = self.classes.index(str(name)) if str(name) in self.classes else name
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            known = (
                f"one of {', '.join(self.classes)}"
                if self.classes
                else f"a class id in 0..{count - 1}"
            )
            hint = did_you_mean(str(name), self.classes)
            reject(
                "class",
                known,
                repr(name),
                f"{hint}Name the scores in their order under `classes` of the suite.",
            )
        return index

    def class_name(self, index: int) -> str:
        """Name of a class id, or the id as text where the suite names none."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def select(self, wanted: Callable[[Case], bool]) -> Suite:
        """The suite with the cases for which `wanted` is true."""
        return replace(self, cases=tuple(filter(wanted, self.cases)))

    def _check_columns(self, case: Case) -> None:
        for name in (name for part in (case.input, *case.change) for name in part):
            if self.features and name not in self.features:
                listed = ", ".join(self.features[:12]) + (
                    ", ..." if len(self.features) > 12 else ""
                )
                remedy = f"{did_you_mean(name, self.features)}Correct the column."
                self._refuse(case, "input", f"columns among {listed}", repr(name), remedy)

    def _check_classes(self, case: Case) -> None:
        named = (
            *(case.expect.classes if case.expect else ()),
            *(() if case.of in (None, "predicted") else (case.of,)),
        )
        for name in named:
            if self.classes and name is not None:
                try:
                    self.class_index(name, len(self.classes))
                except InputError as error:
                    raise InputError(f"{self._place(case)}{error}") from None

    def _refuse(self, case: Case, argument: str, expected: str, got: str, remedy: str) -> None:
        try:
            reject(argument, expected, got, remedy)
        except InputError as error:
            raise InputError(f"{self._place(case)}{error}") from None

    def _place(self, case: Case) -> str:
        return f"{self.path}:{case.line}: {case.id}: " if case.line else f"{case.id}: "


def unit(argument: str, value: Any) -> float:
    """A number in [0, 1].

    Raises:
        InputError: anything else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0.0 <= value <= 1.0
        or math.isnan(value)
    ):
        reject(
            argument,
            "a number in [0, 1]",
            repr(value),
            "Scores are probabilities; write one between 0 and 1.",
        )
    return float(value)


def _range(content: Any) -> tuple[float, float]:
    if not isinstance(content, Sequence) or isinstance(content, str) or len(content) != 2:
        reject(
            "expect", "a score range [low, high]", repr(content), "Write e.g. {score: [0.0, 0.3]}."
        )
    low, high = (unit("expect", bound) for bound in content)
    if low > high:
        reject("expect", "a range with low <= high", f"[{low:g}, {high:g}]", "Swap the two ends.")
    return low, high


def _classes(content: Any) -> tuple[str | int, ...]:
    listed = tuple(content) if isinstance(content, (list, tuple)) else (content,)
    if not listed or not all(
        isinstance(name, (str, int)) and not isinstance(name, bool) for name in listed
    ):
        reject(
            "expect",
            "a class, or a list of accepted classes",
            repr(content),
            "Write names or class ids; quote a name like '1'.",
        )
    return listed


def _listed(argument: str, value: Any) -> Sequence[Any]:
    """One thing, or several in a list."""
    if value is None or isinstance(value, (str, Mapping)):
        return [] if value is None else [value]
    if not isinstance(value, (list, tuple)):
        reject(argument, "one entry or a list of them", repr(value), "Write e.g. [first, second].")
    return value


def _fields(argument: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(name, str) for name in value)
    ):
        reject(
            argument,
            "a text, or field: value pairs",
            repr(value),
            "Write e.g. {amount: 12.5, hour: 3}.",
        )
    return dict(value)


def _text_fields(owner: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, (Mapping, list, tuple, set)) or value is None:
            reject(name, "a text", repr(value), "Write a short text.")
        object.__setattr__(owner, name, str(value))


def _digestible(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [
            str(value.dtype),
            list(value.shape),
            hashlib.sha256(value.contiguous().cpu().numpy().tobytes()).hexdigest(),
        ]
    return repr(value)

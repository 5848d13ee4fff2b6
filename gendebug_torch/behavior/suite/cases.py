"""`Case` and `Suite`: inputs and what a model must say about them, validated when built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from torch import Tensor

from gendebug_torch.behavior.suite.expectation import INVARIANT, PAIRWISE, Expectation, unit
from gendebug_torch.errors import InputError, brief, did_you_mean, reject

# How far the scores of an invariant pair may differ where neither case nor suite says so.
INVARIANCE_TOLERANCE = 0.05
_MAX_LISTED = 12


class Absent:
    """Marks a field that a change removes, as opposed to one whose value is None."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


@dataclass(frozen=True)
class Case:
    """One input, and what a model must say about it.

    Args:
        id: name, unique in its suite.
        input: field -> value; a plain text stands for `{text: ...}`; None is a missing value.
        expect: requirement, see `Expectation.of`; None is a draft, which is scored and not tested.
        change: fields that are replaced for an invariance or a direction, one mapping or several.
        of: class whose score is compared, or `predicted` (the class of the unchanged input);
            default: the last of two classes, `predicted` among more.
        tolerance: amount by which the expectation may be missed; default: the suite's, else 0.05
            for `same`, else 0.
        capability: topic of the case, for the table.
        tags: further names for selecting and grouping.
        origin: the incident it came from.
        reviewed: whether a person has confirmed the expectation; failures of other cases do not
            count.
        line: line of the case in its file.

    Raises:
        InputError: a field that cannot be used; names it.

    Example:
        >>> case = Case("moved", {"amount": 3.0, "city": "Bergen"}, "same", {"city": "Oslo"})
        >>> case.kind, case.inputs[1]
        ('INV', {'amount': 3.0, 'city': 'Oslo'})
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
            "change": tuple(_fields("change", one) for one in _items("change", self.change)),
            "tags": tuple(map(str, _items("tags", self.tags))),
            "tolerance": None if self.tolerance is None else unit("tolerance", self.tolerance),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if not self.id:
            reject("id", "a name", brief(self.id), "Give the case a short name of its own.")
        if not isinstance(self.of, (str, int, type(None))) or isinstance(self.of, bool):
            remedy = "Name the class whose score is compared."
            reject("of", "a class, or `predicted`", brief(self.of), remedy)
        if not isinstance(self.reviewed, bool):
            reject("reviewed", "true or false", brief(self.reviewed), "Write one of them.")
        if self.expect is not None and self.expect.pairwise and not self.change:
            got = f"{self.expect.to_yaml()!r} alone"
            reject("expect", "a `change` beside it", got, "Say which fields change.")
        if self.expect is not None and not self.expect.pairwise and self.change:
            expected = f"an expectation about two inputs: {', '.join(PAIRWISE)}"
            reject("change", expected, str(self.expect), "Correct `expect`.")

    @property
    def kind(self) -> str:
        """`MFT` (minimum functionality), `INV` (invariance), `DIR` (direction) or `draft`.

        Source: Ribeiro et al. (2020), arXiv:2005.04118, section 2.
        """
        if self.expect is None:
            return "draft"
        if not self.expect.pairwise:
            return "MFT"
        return "INV" if self.expect.word in INVARIANT else "DIR"

    @cached_property
    def inputs(self) -> tuple[dict[str, Any], ...]:
        """The input, and then the input under each change."""
        rows = (self.input, *({**self.input, **change} for change in self.change))
        return tuple(
            {name: value for name, value in row.items() if value is not ABSENT} for row in rows
        )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of inputs and expectation; two runs are compared only where it is equal."""
        expect = None if self.expect is None else self.expect.to_yaml()
        content = _canonical([self.inputs, expect, self.of, self.tolerance])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Suite:
    """Cases that a model must pass, and what their fields and classes are.

    Args:
        cases: each id once.
        name: title for reports.
        features: columns that a network is fed, in its order; inputs may hold no others.
        classes: names in the order of the scores.
        threshold: score from which the second of two classes is predicted.
        tolerance: default for its cases.
        model: MODULE:NAME of the model to test, where the caller names none.
        path: file it came from.

    Raises:
        InputError: a duplicate id, an unknown column or class.

    Example:
        >>> suite = Suite((Case("large", {"amount": 900}, {"class": "fraud"}),),
        ...               classes=("legitimate", "fraud"))
        >>> suite.class_index("fraud", count=2)
        1
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
        first: dict[str, Case] = {}
        for case in self.cases:
            if case.id in first:
                earlier = f", first in line {first[case.id].line}" if case.line else ""
                got = f"{case.id!r} twice{earlier}"
                self._reject(case, "id", "an id of its own", got, "Rename one of the two.")
            first[case.id] = case
            self._check_columns(case)
            self._check_classes(case)

    def tolerance_of(self, case: Case) -> float:
        """The tolerance of a case: its own, else the suite's, else the default of its kind."""
        if case.tolerance is not None:
            return case.tolerance
        if self.tolerance is not None:
            return self.tolerance
        same = case.expect is not None and case.expect.word == "same"
        return INVARIANCE_TOLERANCE if same else 0.0

    def class_index(self, name: str | int, count: int) -> int:
        """Position of a class among `count` scores.

        Raises:
            InputError: there is no such class.
        """
        index = self.classes.index(str(name)) if str(name) in self.classes else name
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            names = f"one of {', '.join(self.classes)}"
            expected = names if self.classes else f"a class id in 0..{count - 1}"
            hint = did_you_mean(str(name), self.classes)
            remedy = f"{hint}Name the scores in their order under `classes` of the suite."
            reject("class", expected, brief(name), remedy)
        return index

    def class_name(self, index: int) -> str:
        """Name of a class id, or the id as text where the suite names none."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def select(self, condition: Callable[[Case], bool]) -> Suite:
        """The suite with the cases for which `condition` is true."""
        return replace(self, cases=tuple(filter(condition, self.cases)))

    def _check_columns(self, case: Case) -> None:
        for name in (name for part in (case.input, *case.change) for name in part):
            if self.features and name not in self.features:
                more = ", ..." if len(self.features) > _MAX_LISTED else ""
                expected = f"columns among {', '.join(self.features[:_MAX_LISTED])}{more}"
                remedy = f"{did_you_mean(name, self.features)}Correct the column."
                self._reject(case, "input", expected, brief(name), remedy)

    def _check_classes(self, case: Case) -> None:
        names: list[str | int] = [] if case.expect is None else list(case.expect.classes)
        if case.of is not None and case.of != "predicted":
            names.append(case.of)
        for name in names if self.classes else ():
            try:
                self.class_index(name, len(self.classes))
            except InputError as error:
                raise InputError(f"{self._location(case)}{error}") from None

    def _reject(self, case: Case, argument: str, expected: str, got: str, remedy: str) -> None:
        try:
            reject(argument, expected, got, remedy)
        except InputError as error:
            raise InputError(f"{self._location(case)}{error}") from None

    def _location(self, case: Case) -> str:
        return f"{self.path}:{case.line}: {case.id}: " if case.line else f"{case.id}: "


def _items(argument: str, value: Any) -> Sequence[Any]:
    """One entry or a list of them as a list."""
    if value is None or isinstance(value, (str, Mapping)):
        return [] if value is None else [value]
    if not isinstance(value, (list, tuple)):
        reject(argument, "one entry or a list of them", brief(value), "Write e.g. [first, second].")
    return value


def _fields(argument: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    names = list(value) if isinstance(value, Mapping) else []
    if not names or not all(isinstance(name, str) for name in names):
        remedy = "Write e.g. {amount: 12.5, hour: 3}."
        reject(argument, "a text, or field: value pairs", brief(value), remedy)
    return dict(value)


def _text_fields(owner: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, (Mapping, list, tuple, set)) or value is None:
            reject(name, "a text", brief(value), "Write a short text.")
        object.__setattr__(owner, name, str(value))


def _canonical(value: Any) -> Any:
    """A value as JSON lists and scalars that are equal exactly where the values are."""
    if isinstance(value, Mapping):
        return ["map", sorted([repr(key), _canonical(entry)] for key, entry in value.items())]
    if isinstance(value, (list, tuple)):
        return ["list", *map(_canonical, value)]
    if isinstance(value, Tensor):
        content = hashlib.sha256(value.contiguous().cpu().numpy().tobytes()).hexdigest()
        return ["tensor", str(value.dtype), list(value.shape), content]
    return (
        value if isinstance(value, (str, int, float, bool, type(None))) else ["other", repr(value)]
    )

"""`Expectation`: what a case requires of the scores of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gendebug_torch.errors import brief, did_you_mean, reject

INVARIANT = ("same", "same_class")
DIRECTED = ("higher", "lower", "not_higher", "not_lower")
PAIRWISE = INVARIANT + DIRECTED


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a case requires of the scores.

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
        """The expectation that a suite writes as `value`.

        Args:
            value: `same`, `{score: [0, 0.3]}`, `{class: fraud}`, `{class: [neutral, positive]}`.

        Raises:
            InputError: another word, or a range outside [0, 1].
        """
        if isinstance(value, Expectation):
            return value
        if isinstance(value, str):
            if value not in PAIRWISE:
                expected = (
                    f"one of {', '.join(PAIRWISE)}, or {{score: [low, high]}}, {{class: name}}"
                )
                remedy = (
                    f"{did_you_mean(value, PAIRWISE)}A class is written {{class: {value[:40]}}}."
                )
                reject("expect", expected, brief(value), remedy)
            return cls(value)
        word = next(iter(value)) if isinstance(value, Mapping) and len(value) == 1 else None
        if word not in ("score", "class"):
            names = map(str, value) if isinstance(value, Mapping) else ()
            hint = "".join(did_you_mean(name, ("score", "class")) for name in list(names)[:1])
            forms = f"{{score: [low, high]}}, {{class: name}} or one of {', '.join(PAIRWISE)}"
            reject("expect", forms, brief(value), f"{hint}Write one of them.")
        content = value[word]
        return (
            cls(word, *_range(content)) if word == "score" else cls(word, classes=_names(content))
        )

    @property
    def pairwise(self) -> bool:
        """Whether it compares the input with changed inputs."""
        return self.word in PAIRWISE

    def to_yaml(self) -> Any:
        """The value that stands for it in a suite file."""
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
        if self.word in INVARIANT:
            return "the same score" if self.word == "same" else "the same class"
        return f"a score {self.word.replace('_', ' ')} than before"


def unit(argument: str, value: Any) -> float:
    """A number in [0, 1].

    Raises:
        InputError: anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or not 0.0 <= value <= 1.0:
        remedy = "Write a number between 0 and 1."
        reject(argument, "a number in [0, 1]", brief(value), remedy)
    return float(value)


def _range(content: Any) -> tuple[float, float]:
    if not isinstance(content, Sequence) or isinstance(content, str) or len(content) != 2:
        remedy = "Write e.g. {score: [0.0, 0.3]}."
        reject("expect", "a score range [low, high]", brief(content), remedy)
    low, high = (unit("expect", bound) for bound in content)
    if low > high:
        reject("expect", "a range with low <= high", f"[{low:g}, {high:g}]", "Swap the two ends.")
    return low, high


def _names(content: Any) -> tuple[str | int, ...]:
    names = tuple(content) if isinstance(content, (list, tuple)) else (content,)
    valid = (isinstance(name, (str, int)) and not isinstance(name, bool) for name in names)
    if not names or not all(valid):
        remedy = "Write names or class ids; quote a name like '1'."
        reject("expect", "a class, or a list of accepted classes", brief(content), remedy)
    return names

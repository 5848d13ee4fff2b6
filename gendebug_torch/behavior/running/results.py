"""`BehaviorRun`: the results of one run of a suite, its table, picture and file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch

from gendebug_torch.behavior.running.explanation import Explanation
from gendebug_torch.behavior.running.scores import breaks_contract
from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.data.files import read_text, write_whole
from gendebug_torch.errors import InputError, brief, reading, reject
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FORMAT = "gendebug behavior run 2"
_MAX_PRINTED = 40
_MAX_LABEL = 44
_STATUS_ORDER = {"errored": 0, "failed": 1, "passed": 2, "draft": 3}
_CASE_COLUMNS = (
    "id",
    "capability",
    "kind",
    "status",
    "expected",
    "got",
    "score",
    "margin",
    "reviewed",
    "line",
    "origin",
)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The result of one case.

    Args:
        id: name of the case.
        kind: `MFT`, `INV`, `DIR` or `draft`.
        capability: topic of the case.
        status: `passed`, `failed`, `errored` (the model raised an error) or `draft` (nothing was
            expected).
        expected: expectation in words.
        got: scores in words.
        score: score of the compared class, for the unchanged input; None after an error.
        margin: distance to the limit, at least 0 where the case passes; None after an error.
        reviewed: whether a person has confirmed the expectation.
        fingerprint: digest of inputs and expectation.
        line: line of the case in its file.
        tags: further names of the case.
        origin: the incident it came from.
        error: traceback of the model, or an empty text.
    """

    id: str
    kind: str
    capability: str
    status: str
    expected: str
    got: str
    score: float | None
    margin: float | None
    reviewed: bool
    fingerprint: str
    line: int
    tags: tuple[str, ...]
    origin: str
    error: str

    @property
    def is_failure(self) -> bool:
        """Whether it misses an expectation that a person has confirmed."""
        return self.reviewed and self.status in ("failed", "errored")


@dataclass(frozen=True)
class BehaviorRun:
    """One run of a suite: a result per case.

    Args:
        results: results in the order of the suite.
        suite: name of the suite.
        model: name of the model.
        path: file of the suite.
        explanation: change of the columns that fixes the failures, if there is one.
        near_duplicates: pairs of ids with nearly the same input and the same expectation.

    Example:
        >>> from gendebug_torch.behavior import Case, Suite, run_suite
        >>> suite = Suite((Case("large", {"amount": 900}, {"score": [0.5, 1.0]}),))
        >>> run = run_suite(suite, lambda rows: [0.2 for row in rows])
        >>> run.table()[["capability", "cases", "failed"]].values.tolist()
        [['general', 1, 1]]
    """

    results: tuple[CaseResult, ...]
    suite: str = "behavior"
    model: str = ""
    path: str = ""
    explanation: Explanation | None = None
    near_duplicates: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: BehaviorRun) -> BehaviorRun:
        """The results of both, as if they had been one suite."""
        return BehaviorRun(self.results + other.results, self.suite, self.model, self.path)

    def __str__(self) -> str:
        """Failing cases with expectation and scores, then the failure rate per capability."""
        count = f"{len(self.failures):,} of {len(self.evaluated):,} cases fail"
        lines = [f"{self.suite} on {self.model}: {count}"]
        failing = [result for result in self.results if result.status in ("failed", "errored")]
        for result in failing[:_MAX_PRINTED]:
            lines += _printed(result, self.path)
        more = len(failing) - _MAX_PRINTED
        lines += [f"  and {more:,} more"] if more > 0 else []
        table = self.table()
        if len(table):
            percent = dict.fromkeys(("rate", "low", "high"), "{:.1%}".format)
            lines += ["", table.to_string(index=False, formatters=percent)]
        return "\n".join(lines)

    @property
    def evaluated(self) -> tuple[CaseResult, ...]:
        """Cases with an expectation that a person has confirmed."""
        return tuple(r for r in self.results if r.reviewed and r.status != "draft")

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """Evaluated cases that failed or on which the model raised an error."""
        return tuple(result for result in self.results if result.is_failure)

    @property
    def unreviewed(self) -> tuple[CaseResult, ...]:
        """Cases that a person has yet to review: drafts and proposed expectations."""
        return tuple(r for r in self.results if not r.reviewed or r.status == "draft")

    def table(self, by: str = "capability") -> pd.DataFrame:
        """Failure rate with Wilson's 95 % interval per group; worst first.

        The interval takes the cases of a group as a sample of what the group stands for.

        Args:
            by: `capability`, `kind` or `tags`.

        Raises:
            InputError: another grouping.
        """
        import pandas as pd

        if by not in ("capability", "kind", "tags"):
            reject("by", "capability, kind or tags", repr(by), "Choose one of them.")
        counts: dict[str, list[int]] = {}
        for result in self.evaluated:
            for name in result.tags if by == "tags" else (getattr(result, by),):
                count = counts.setdefault(name, [0, 0, 0])
                count[0] += 1
                count[1] += result.is_failure
                count[2] += result.status == "errored"
        totals = torch.tensor(list(counts.values()), dtype=torch.int64).reshape(-1, 3)
        low, high = wilson_interval(totals[:, 1], totals[:, 0])
        frame = pd.DataFrame(totals.numpy(), columns=["cases", "failed", "errored"])
        frame.insert(0, by, list(counts))
        frame["rate"] = frame["failed"] / frame["cases"]
        frame["low"], frame["high"] = low.numpy(), high.numpy()
        order = ["rate", "cases"]
        return frame.sort_values(order, ascending=False, kind="stable", ignore_index=True)

    def cases(self) -> pd.DataFrame:
        """One row per case, failing ones first and then by margin."""
        import pandas as pd

        rows = [[getattr(result, name) for name in _CASE_COLUMNS] for result in self.results]
        frame = pd.DataFrame(rows, columns=list(_CASE_COLUMNS))
        frame[["score", "margin"]] = frame[["score", "margin"]].astype("float64")
        frame["order"] = frame["status"].map(_STATUS_ORDER)
        frame = frame.sort_values(["order", "margin"], kind="stable", ignore_index=True)
        return frame.drop(columns="order")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Failure rate per capability with its interval, worst on top."""
        frame = self.table()
        counts = zip(frame["capability"], frame["failed"], frame["cases"], strict=True)
        frame["label"] = [
            f"{_short(name)}: {failed:,} of {cases:,}" for name, failed, cases in counts
        ]
        title = f"{len(self.failures):,} of {len(self.evaluated):,} cases fail"
        xlabel = "share of cases that fail, with 95 % interval"
        interval = ("low", "high")
        return BarEvidence(frame, "label", "rate", title, xlabel, interval=interval).plot(ax)

    def to_dict(self) -> dict[str, Any]:
        """The run in JSON values."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BehaviorRun:
        """The run that `to_dict` gave.

        Raises:
            InputError: the value is something else.
        """
        expected, remedy = "a run as `BehaviorRun.to_dict` returns it", "Save the run again."
        try:
            if value["format"] != _FORMAT:
                reject("run", f"the format {_FORMAT!r}", brief(value["format"]), remedy)
            explanation = value["explanation"]
            return cls(
                tuple(_read(CaseResult, entry) for entry in value["results"]),
                suite=_text(value["suite"]),
                model=_text(value["model"]),
                path=_text(value["path"]),
                explanation=None if explanation is None else _read(Explanation, explanation),
                near_duplicates=tuple((_text(a), _text(b)) for a, b in value["near_duplicates"]),
            )
        except InputError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            reject("run", expected, f"{type(error).__name__}: {error}"[:200], remedy)

    def save(self, path: str | Path) -> Path:
        """Write the run as JSON, whole or not at all, to be compared with a later one.

        Raises:
            InputError: the file cannot be written.
        """
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> BehaviorRun:
        """The run that `save` wrote.

        Raises:
            InputError: the file cannot be read, or is no saved run.
        """
        remedy = "Pass a behavior.json of an earlier run."
        with reading(path, "the file of a saved run", remedy=remedy):
            content = json.loads(read_text(path))
            # JSON can hold half of a surrogate pair, which is no text for a table.
            json.dumps(content, ensure_ascii=False).encode()
            return cls.from_dict(content)


def model_error(run: BehaviorRun) -> str:
    """The error that makes a run say nothing about the model, or an empty text.

    An error on every evaluated case, or scores that are no probabilities, is a fault of the predict
    function (or of how it is called) and no regression of the model.
    """
    errors = [result.error for result in run.evaluated if result.status == "errored"]
    if errors and len(errors) == len(run.evaluated):
        return errors[0]
    return next(filter(breaks_contract, errors), "")


def id_list(results: Iterable[CaseResult], limit: int = 5) -> str:
    """Ids as text: `a, b and 3 more`."""
    ids = [result.id for result in results]
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _printed(result: CaseResult, path: str) -> list[str]:
    """Lines on one failing case."""
    word = "ERROR" if result.status == "errored" else "FAIL"
    word = word if result.reviewed else "unreviewed"
    location = f"  {path}:{result.line}" if result.line else ""
    lines = [
        f"  {word:5} {result.id}{location}",
        f"        expected {result.expected}, got {result.got}",
    ]
    return [*lines, f"        from {result.origin}"] if result.origin else lines


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "float | None": (float, int, NoneType),
    "tuple[str, ...]": (list, tuple),
}


def _read(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    """A dataclass from its JSON form; a field that is absent, unknown or of another type raises."""
    types = {field.name: str(field.type) for field in fields(kind)}
    if set(entry) != set(types):
        raise ValueError(f"fields {brief(sorted(set(entry) ^ set(types), key=str))}")
    for name, text in types.items():
        value = entry[name]
        flag = isinstance(value, bool) and text != "bool"
        infinite = isinstance(value, float) and not math.isfinite(value)
        if flag or infinite or not isinstance(value, _JSON_TYPES[text]):
            raise TypeError(f"{name} is {brief(value)}")
    if "status" in types and entry["status"] not in _STATUS_ORDER:
        raise ValueError(f"status is {brief(entry['status'])}")
    lists = {
        name: tuple(map(_text, entry[name]))
        for name, text in types.items()
        if text == "tuple[str, ...]"
    }
    return kind(**{**entry, **lists})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{brief(value)} is no text")
    return value

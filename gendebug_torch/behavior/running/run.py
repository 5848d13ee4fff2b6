"""`run_suite`: all cases through the model in as few calls as possible; a case that crashes fails
alone.
"""

from __future__ import annotations

import itertools
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gendebug_torch.behavior.running.explanation import Explanation
from gendebug_torch.behavior.running.model_adapter import Predict, as_predict
from gendebug_torch.behavior.running.verdict import Verdict, judge, probabilities, unusable
from gendebug_torch.behavior.suite.cases import Case, Suite
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.files import write_whole
from gendebug_torch.errors import InputError, reject
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FORMAT = "gendebug behavior run 1"
_SHOWN = 25
_LISTED = 40
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case.

    Args:
        id: of the case.
        kind: `MFT`, `INV`, `DIR` or `draft`.
        capability: what it is about.
        status: `passed`, `failed`, `errored` (the model broke on it) or `draft` (nothing was
            expected).
        expected: in words.
        got: in words.
        score: of the class that is meant, for the unchanged input; None where the model broke.
        margin: how far inside the expectation, at least 0 where it holds.
        reviewed: whether a person stands behind the expectation.
        fingerprint: digest of what was asked.
        line: of the case in its file.
        tags: of the case.
        origin: the incident it came from.
        error: traceback, where the model broke.
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
    def broken(self) -> bool:
        """Whether it fails an expectation that a person stands behind."""
        return self.reviewed and self.status in ("failed", "errored")


@dataclass(frozen=True)
class BehaviorRun:
    """One run of a suite: a result per case.

    Args:
        results: in the order of the suite.
        suite: its name.
        model: what was tested.
        path: file of the suite.
        explanation: what heals the failures, where something does.
        twins: ids of cases that expect the same of nearly the same input.
    """

    results: tuple[CaseResult, ...]
    suite: str = "behavior"
    model: str = ""
    path: str = ""
    explanation: Explanation | None = None
    twins: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: BehaviorRun) -> BehaviorRun:
        """The cases of both, as if they had been one suite."""
        return BehaviorRun(self.results + other.results, self.suite, self.model, self.path)

    def __str__(self) -> str:
        """Failing cases with what was expected and what came, then the failure rate per
        capability.
        """
        lines = [
            f"{self.suite} on {self.model}: {len(self.broken):,} of {len(self.judged):,} cases fail"
        ]
        failing = [result for result in self.results if result.status in ("failed", "errored")]
        for result in failing[:_LISTED]:
            word = (
                "waits"
                if not result.reviewed
                else "broke"
                if result.status == "errored"
                else "FAIL"
            )
            place = f"  {self.path}:{result.line}" if result.line else ""
            lines += [
                f"  {word:5} {result.id}{place}",
                f"        expected {result.expected}, got {result.got}",
            ]
            lines += [f"        from {result.origin}"] if result.origin else []
        lines += [f"  and {len(failing) - _LISTED:,} more"] if len(failing) > _LISTED else []
        table = self.table()
        if len(table):
            percent = dict.fromkeys(("rate", "low", "high"), "{:.1%}".format)
            lines += ["", table.to_string(index=False, formatters=percent)]
        return "\n".join(lines)

    @property
    def judged(self) -> tuple[CaseResult, ...]:
        """Cases with an expectation that a person stands behind."""
        return tuple(
            result for result in self.results if result.reviewed and result.status != "draft"
        )

    @property
    def broken(self) -> tuple[CaseResult, ...]:
        """Those among them that failed or on which the model broke."""
        return tuple(result for result in self.results if result.broken)

    @property
    def unreviewed(self) -> tuple[CaseResult, ...]:
        """Cases that wait for a person: drafts, and expectations that were proposed."""
        return tuple(
            result for result in self.results if not result.reviewed or result.status == "draft"
        )

    def table(self, by: str = "capability") -> pd.DataFrame:
        """Failure rate with Wilson's 95 % interval per `capability`, `kind` or `tags`; worst first.

        The interval takes the cases of a group as draws from what the group stands for.
        """
        import pandas as pd

        if by not in ("capability", "kind", "tags"):
            reject("by", "capability, kind or tags", repr(by), "Choose one of them.")
        counted: dict[str, list[int]] = {}
        for result in self.judged:
            names = result.tags if by == "tags" else (getattr(result, by),)
            for name in names:
                entry = counted.setdefault(name, [0, 0, 0])
                entry[0] += 1
                entry[1] += result.broken
                entry[2] += result.status == "errored"
        counts = torch.tensor(list(counted.values()), dtype=torch.int64).reshape(-1, 3)
        low, high = wilson_interval(counts[:, 1], counts[:, 0])
        columns = {"cases": counts[:, 0], "failed": counts[:, 1], "errored": counts[:, 2]}
        frame = pd.DataFrame(
            {by: list(counted)} | {name: value.numpy() for name, value in columns.items()}
        )
        frame["rate"] = frame["failed"] / frame["cases"]
        frame["low"], frame["high"] = low.numpy(), high.numpy()
        return frame.sort_values(
            ["rate", "cases"], ascending=False, kind="stable", ignore_index=True
        )

    def cases(self) -> pd.DataFrame:
        """One row per case, failing ones first and then by margin."""
        import pandas as pd

        columns = (
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
        frame = pd.DataFrame(
            [[getattr(result, name) for name in columns] for result in self.results],
            columns=list(columns),
        )
        order = frame["status"].map({"errored": 0, "failed": 1, "passed": 2, "draft": 3})
        frame[["score", "margin"]] = frame[["score", "margin"]].astype("float64")
        return (
            frame.assign(order=order)
            .sort_values(["order", "margin"], kind="stable", ignore_index=True)
            .drop(columns="order")
        )

    def plot(self, ax: Axes | None = None, *, by: str = "capability") -> Axes:
        """Failure rate per group with its interval, worst on top."""
        table = self.table(by)
        shown = table.head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(7.0, 1.4 + 0.34 * max(3, len(shown))))
        places = range(len(shown))
        colors = [LIVE if failed else NEUTRAL for failed in shown["failed"]]
        ax.hlines(places, shown["low"], shown["high"], color=colors, linewidth=2)
        ax.scatter(shown["rate"], places, color=colors, zorder=3)
        ax.set_yticks(places, [_short(str(name)) for name in shown[by]])
        for place, (failed, cases) in enumerate(zip(shown["failed"], shown["cases"], strict=True)):
            ax.annotate(
                f"{failed:,} of {cases:,}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=NEUTRAL,
            )
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.7, max(len(shown), 1) - 0.3)
        ax.set_xlabel("share of cases that fail, with 95 % interval")
        more = f", the worst {_SHOWN} of {len(table)}" if len(table) > _SHOWN else ""
        ax.set_title(f"{len(self.broken):,} of {len(self.judged):,} cases fail{more}")
        return ax

    def to_dict(self) -> dict[str, Any]:
        """The run in JSON values."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> BehaviorRun:
        """Rebuild what `to_dict` gave.

        Raises:
            InputError: it is not that.
        """
        try:
            if value["format"] != _FORMAT:
                reject(
                    "run", f"the format {_FORMAT!r}", repr(value["format"]), "Save the run again."
                )
            results = tuple(
                CaseResult(**entry | {"tags": tuple(entry["tags"])}) for entry in value["results"]
            )
            told = value["explanation"]
            explanation = (
                None
                if told is None
                else Explanation(**told | {key: tuple(told[key]) for key in ("healed", "spoiled")})
            )
            twins = tuple((a, b) for a, b in value["twins"])
            return cls(results, value["suite"], value["model"], value["path"], explanation, twins)
        except (KeyError, TypeError) as error:
            reject(
                "run",
                "what BehaviorRun.to_dict gives",
                f"{type(error).__name__}: {error}",
                "Pass a run as it was saved.",
            )

    def save(self, path: str | Path) -> Path:
        """Write the run as JSON, whole or not at all, to be compared with a later one.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            reject(
                "path",
                "a file that can be written",
                f"{path}: {error.strerror}",
                "Choose another path.",
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> BehaviorRun:
        """Read what `save` wrote.

        Raises:
            InputError: it cannot be read, or is not a saved run.
        """
        try:
            content = json.loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            reject(
                "path",
                "the readable file of a saved run",
                f"{path}: {error}",
                "Pass a behavior.json of an earlier run.",
            )
        return cls.from_dict(content)


def run_suite(
    suite: Suite,
    model: Any,
    *,
    name: str = "",
    device: str | torch.device = "auto",
    batch_size: int = 4096,
) -> BehaviorRun:
    """The suite against a model; what happens inside the model is in the results and never raised.

    All inputs go through in one call as long as there are at most `batch_size`; a call that breaks
    is halved until the case that breaks it stands alone.

    Args:
        suite: what is expected.
        model: a network fed with `suite.features`, or `predict(list[dict])` that returns scores in
            [0, 1].
        name: of the model, for reports.
        device: for a network.
        batch_size: most inputs per call.

    Raises:
        InputError: neither a network nor a callable, or a network whose columns are unknown.

    Cost: one row through the model per input and per change.

    Example:
        >>> suite = Suite((Case("large", {"amount": 900}, {"score": [0.5, 1.0]}),))
        >>> print(run_suite(suite, lambda rows: [0.2 for row in rows]).broken[0].got)
        score 0.200
    """
    predict = as_predict(model, suite.features, device=device)
    scored = score_groups(predict, [case.inputs for case in suite.cases], batch_size)
    results = tuple(
        result_of(suite, case, found) for case, found in zip(suite.cases, scored, strict=True)
    )
    return BehaviorRun(results, suite.name, name or suite.model or type(model).__name__, suite.path)


def score_groups(
    predict: Predict, groups: Sequence[Rows], batch_size: int = 4096
) -> list[list[list[float]] | str]:
    """`[rows][k]` class probabilities of each group of inputs, or the traceback where the model
    broke on it.
    """
    return [found for chunk in _chunks(groups, batch_size) for found in _attempt(predict, chunk)]


def _chunks(groups: Sequence[Rows], batch_size: int) -> Iterator[list[Rows]]:
    waiting: list[Rows] = []
    size = 0
    for group in groups:
        if waiting and size + len(group) > batch_size:
            yield waiting
            waiting, size = [], 0
        waiting.append(group)
        size += len(group)
    if waiting:
        yield waiting


def _attempt(predict: Predict, groups: Sequence[Rows]) -> list[list[list[float]] | str]:
    rows = [dict(row) for group in groups for row in group]
    try:
        scores, problem = probabilities(predict(rows), len(rows)).tolist(), ""
    except Exception:
        scores, problem = [], traceback.format_exc()
    if problem and len(groups) == 1:
        return [problem]
    if problem:
        half = len(groups) // 2
        return _attempt(predict, groups[:half]) + _attempt(predict, groups[half:])
    ends = list(itertools.accumulate(map(len, groups)))
    own = (scores[end - len(group) : end] for end, group in zip(ends, groups, strict=True))
    return [unusable(part) or part for part in own]


def result_of(suite: Suite, case: Case, scores: list[list[float]] | str) -> CaseResult:
    """The result of a case from what `score_groups` said of its inputs."""
    error, verdict = "", None
    if isinstance(scores, str):
        error = scores
    else:
        try:
            verdict = judge(suite, case, scores)
        except InputError as refusal:
            error = str(refusal)
    expected = "" if case.expect is None else str(case.expect) + _within(suite, case)
    got = verdict.got if verdict else f"a crash ({last_line(error)})"
    margin = verdict.margin if verdict else None
    return CaseResult(
        case.id,
        case.kind,
        case.capability,
        _status(verdict),
        expected,
        got,
        verdict.score if verdict else None,
        margin,
        case.reviewed,
        case.fingerprint,
        case.line,
        case.tags,
        case.origin,
        error,
    )


def _status(verdict: Verdict | None) -> str:
    if verdict is None:
        return "errored"
    return "draft" if verdict.margin is None else "passed" if verdict.margin >= 0 else "failed"


def _within(suite: Suite, case: Case) -> str:
    tolerance = suite.tolerance_of(case)
    return f" within {tolerance:g}" if tolerance else ""


def last_line(error: str) -> str:
    """What a traceback ends with: the exception and its message."""
    return next((line for line in reversed(error.splitlines()) if line.strip()), "")


def _short(text: str, width: int = 44) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def named(results: Iterable[CaseResult], limit: int = 5) -> str:
    """Ids as a sentence names them: `a, b and 3 more`."""
    ids = [result.id for result in results]
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")

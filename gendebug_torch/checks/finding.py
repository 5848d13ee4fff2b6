"""What a check says: a `Finding` with its `Cause` and `Severity`, and its JSON form."""

import json
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendebug_torch.errors import InputError, brief, reading, reject
from gendebug_torch.version import StrEnum

# Numbers that a diagnosis reads, whichever check states them: whether something is broken and to be
# repaired rather than learned; share of a rise of the errors that one slice holds; share of the
# errors that one failing region holds; how far a distribution moved, 0 to 1; share of production
# outside the range of the reference.
TO_REPAIR, SHARE_OF_RISE, LARGEST_SHARE = "to_repair", "share_of_rise", "largest_share"
# Where the outputs or classes are not what they are read as, `production` or `everywhere`: findings
# on errors there follow from that.
MISREAD = "misread"
# Columns whose values in production are those of other columns or rows: what else is found of them
# there follows from that.
MISPLACED = "misplaced"
DISTANCES, OUTSIDE = ("statistic", "distance"), "outside"
# Share of production that is in the training data in the same way as the validation rows are: what
# both share is no reason for a difference between them.
ALIKE = "share_of_production"
JSON_KEYS = ("check", "cause", "severity", "subject", "summary", "numbers", "remedy", "inputs")


class Severity(StrEnum):
    """How bad a finding is, from `ok` to `fail`; `skipped` and `errored` judge nothing."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"
    ERRORED = "errored"

    @property
    def level(self) -> int:
        """Rank for `--fail-on`: 0 ok and skipped, 1 note, 2 warn, 3 fail, 4 errored."""
        return {"ok": 0, "skipped": 0, "note": 1, "warn": 2, "fail": 3, "errored": 4}[self.value]


class Cause(StrEnum):
    """The reasons for which a network fails in production that this library can name."""

    OVERFITTING = "overfitting"
    UNDERFITTING = "underfitting"
    MISCALIBRATION = "miscalibration"
    THRESHOLD = "threshold"
    COVARIATE_SHIFT = "covariate_shift"
    LABEL_SHIFT = "label_shift"
    CONCEPT_DRIFT = "concept_drift"
    TARGET_LEAKAGE = "target_leakage"
    SPLIT_LEAKAGE = "split_leakage"
    PREPROCESSING_LEAKAGE = "preprocessing_leakage"
    TRAIN_SERVE_SKEW = "train_serve_skew"
    LABEL_NOISE = "label_noise"
    SHORTCUT_FEATURE = "shortcut_feature"
    SUBGROUP_FAILURE = "subgroup_failure"
    BEHAVIOR_REGRESSION = "behavior_regression"
    UNRELIABLE_EXPLANATION = "unreliable_explanation"
    TRAINING_FAULT = "training_fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement of one check about one subject, with its numbers and what to do next.

    Args:
        check: id of the check, `topic.short`.
        cause: what the check looks for; for severity `ok` it says what was ruled out.
        severity: how bad it is.
        summary: one sentence that carries the numbers.
        subject: the feature, slice or rows it is about; empty for the whole data set.
        numbers: JSON scalars (or lists of them) by name; NaN and infinities are stored as None.
        remedy: what to do next, as a sentence; empty where nothing is to be done.
        evidence: the value behind it, with `table()` and `plot(ax)`; not part of the JSON form.
        inputs: names of what the check inspects, e.g. `("validation", "production")`.
    """

    check: str
    cause: Cause
    severity: Severity
    summary: str
    subject: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    evidence: Any = field(default=None, compare=False, repr=False)
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cause", Cause(self.cause))
        object.__setattr__(self, "severity", Severity(self.severity))
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "numbers", {str(k): _plain(v) for k, v in self.numbers.items()})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `check, cause, severity, subject, summary, numbers, remedy, inputs`."""
        return {key: getattr(self, key) for key in JSON_KEYS} | {"inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Finding":
        """Rebuild a finding from its JSON form; evidence does not survive.

        Files of version 0.1 have no `inputs`; such findings explain and follow as those about
        production do.
        """
        remedy = "Pass one entry of a findings.json."
        if not isinstance(value, Mapping):
            reject("value", f"the keys {', '.join(JSON_KEYS)}", brief(value), remedy)
        entry = {"inputs": ()} | dict(value)
        missing = [key for key in JSON_KEYS if key not in entry]
        if missing:
            expected = f"the keys {', '.join(JSON_KEYS)}"
            reject("value", expected, f"no {', '.join(missing)}", remedy)
        for key in JSON_KEYS:
            if not _FORMS[key](entry[key]):
                reject(f"value[{key!r}]", _EXPECTED[key], brief(entry[key]), remedy)
        return cls(**{key: entry[key] for key in JSON_KEYS})


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# What each key of the JSON form may hold: a test, and words for the message.
_FORMS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(JSON_KEYS, _is_text),
    "cause": lambda value: _is_text(value) and value in set(Cause),
    "severity": lambda value: _is_text(value) and value in set(Severity),
    "numbers": lambda value: isinstance(value, Mapping),
    "inputs": lambda value: isinstance(value, (list, tuple)) and all(map(_is_text, value)),
}
_EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(JSON_KEYS, "a text"),
    "cause": f"one of {', '.join(Cause)}",
    "severity": f"one of {', '.join(Severity)}",
    "numbers": "an object",
    "inputs": "a list of texts",
}


def errored_finding(check: str, error: Exception, *, cause: Cause = Cause.UNKNOWN) -> Finding:
    """What is left of a step that raised: its message, its traceback, and what to do about it.

    Args:
        check: id of the check, or name of the step of a diagnosis.
        error: the exception, while it is being handled.
        cause: what the check looks for.
    """
    if isinstance(error, InputError):
        summary = f"Refused its input: {error}"
    else:
        summary = f"Broke with {type(error).__name__}: {error}"
    remedy = (
        "Correct the input that the message names. If it names none, report the traceback as a bug."
    )
    numbers = {"traceback": traceback.format_exc()}
    return Finding(check, cause, Severity.ERRORED, summary, numbers=numbers, remedy=remedy)


def findings_to_json(findings: Iterable[Finding]) -> str:
    """Findings as a JSON list, one object each, strict JSON (no NaN)."""
    return json.dumps([finding.to_dict() for finding in findings], indent=2, allow_nan=False) + "\n"


def findings_from_json(source: str | Path) -> list[Finding]:
    """The findings that `findings_to_json` wrote.

    Args:
        source: path of the file, or the text itself.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    name = str(source) if isinstance(source, Path) else "text"
    expected, remedy = "the findings of a diagnosis as JSON", "Pass a findings.json as written."
    with reading(name, expected, "source", remedy):
        text = source.read_text("utf-8") if isinstance(source, Path) else source
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise ValueError(f"expected a list, got {brief(entries)}")
        return [Finding.from_dict(entry) for entry in entries]


def _plain(value: Any) -> Any:
    """Reduce tensors, numpy scalars and nested containers to JSON values."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    return str(value)

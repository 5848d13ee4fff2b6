"""A folder of profiles or diagnoses as a stream: trends, and the first step that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.checks.finding import Cause, Finding, Severity, findings_from_json
from gendebug_torch.diagnosis.comparison.diagnoses import compared_findings
from gendebug_torch.diagnosis.comparison.drift import Question, drift_questions, most_significant
from gendebug_torch.diagnosis.diagnose import Diagnosis
from gendebug_torch.errors import InputError, reject
from gendebug_torch.profiles.profile import Profile, check_comparable
from gendebug_torch.stats.intervals import p_value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Stream:
    """The largest change of each step of a stream, with its alarms.

    Args:
        steps: one row per step: name, rows, question, effect, p_value, level, alarm, accuracy.
    """

    steps: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row per step."""
        return self.steps

    def plot(self, ax: Axes | None = None) -> Axes:
        """The most significant effect of each step, alarms in colour, and the accuracy."""
        ax = axes(ax, size=(7.0, 3.2))
        colors = [LIVE if alarm else NEUTRAL for alarm in self.steps["alarm"]]
        places = range(len(self.steps))
        ax.bar(places, self.steps["effect"], color=colors, label="most significant change")
        if self.steps["accuracy"].notna().any():
            ax.plot(places, self.steps["accuracy"], color="black", label="accuracy")
        every = max(1, len(self.steps) // 12)
        ax.set_xticks(list(places)[::every], list(self.steps["step"])[::every], rotation=45)
        ax.set(xlabel="step", ylabel="effect, accuracy", title="Changes since the first step")
        ax.legend(frameon=False)
        return ax


@dataclass(frozen=True, eq=False)
class History:
    """What a folder of profiles or diagnoses says over time.

    Args:
        findings: the first step that changed, what changed since, and files that were not read.
        tables: trends by caption.
        stream: the steps of profiles; None of diagnoses.
        context: what went in.
    """

    findings: tuple[Finding, ...]
    tables: Mapping[str, pd.DataFrame]
    stream: Stream | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    def pictures(self) -> dict[str, Any]:
        """Pictures of the page by caption."""
        return {} if self.stream is None else {"Changes since the first step": self.stream}

    def report(self) -> Diagnosis:
        """The findings as a diagnosis, which can be written and judged by severity."""
        return Diagnosis(self.findings, self.context)


def history(folder: str | Path, *, alpha: float = 0.05) -> History:
    """What a folder of profiles (`*.profile`) or diagnoses (`*/findings.json`) says over time.

    Files are taken in the order of their names. Each profile is compared with the first one; step t
    is tested at the level `alpha / (t (t + 1))`, Holm over its questions, so that the chance of any
    false alarm over the whole stream is at most alpha. Files that cannot be read are counted and
    named.

    Source: Lan and DeMets (1983), Biometrika 70:659, for alpha spending.

    Args:
        folder: folder of at least two profiles or two diagnoses.
        alpha: chance of any false alarm over the whole stream.

    Raises:
        InputError: fewer than two readable files.
    """
    place = Path(folder)
    first: list[Profile] = []

    def load(path: Path) -> Profile:
        found = Profile.load(path)
        first.append(found)
        check_comparable(replace(first[0], name="the first step"), replace(found, name=path.name))
        return found

    profiles, broken = _read(sorted(place.glob("*.profile")), load)
    if len(profiles) > 1:
        return _of_profiles(profiles, broken, alpha)
    files = [*place.glob("*/findings.json"), *place.glob("*.json")]
    runs, unread = _read(sorted(files), findings_from_json)
    if len(runs) > 1:
        return _of_diagnoses(runs, [*broken, *unread])
    got = f"{len(profiles)} profiles and {len(runs)} diagnoses"
    more = f" Not read: {' '.join([*broken, *unread])}" if broken or unread else ""
    remedy = f"Save one *.profile, or one folder with findings.json, per step.{more}"
    reject("folder", "at least two profiles or two diagnoses", f"{got} in {folder}", remedy)


def _read(paths: Sequence[Path], load: Any) -> tuple[dict[str, Any], list[str]]:
    """What can be read, by name, and the messages about the rest."""
    found, broken = {}, []
    for path in paths:
        name = path.parent.name if path.name == "findings.json" else path.stem
        try:
            found[name] = load(path)
        except InputError as error:
            broken.append(str(error))
    return found, broken


def _of_profiles(profiles: Mapping[str, Profile], broken: list[str], alpha: float) -> History:
    (first, reference), *later = profiles.items()
    rows = [_step(first, reference, None, 0.0)]
    findings: list[Finding] = []
    for at, (name, live) in enumerate(later, 1):
        level = alpha / (at * (at + 1))
        question = most_significant(drift_questions(reference, live), level)
        row = _step(name, live, question, level)
        if row["alarm"] and not findings:
            assert question is not None
            findings.append(_alarm(name, first, question, alpha))
        rows.append(row)
    steps = pd.DataFrame(rows)
    if not findings:
        text = f"None of {len(later)} steps differs from {first} beyond noise (level {alpha:g})."
        findings.append(Finding("history.drift", Cause.UNKNOWN, Severity.OK, text))
    context = {"steps": str(len(profiles)), "first": first, "alpha": f"{alpha:g}"}
    stream = Stream(steps)
    return History((*findings, *_unread(broken)), {"Steps": steps}, stream, context)


def _step(name: str, live: Profile, question: Question | None, level: float) -> dict[str, Any]:
    """One row of the table of steps."""
    confusion = live.outcomes.confusion
    known = float(confusion.sum())
    return {
        "step": name,
        "rows": live.rows,
        "question": "" if question is None else question.name,
        "effect": 0.0 if question is None else question.effect,
        "p_value": 1.0 if question is None else question.p_value,
        "level": level,
        "alarm": question is not None and question.matters and question.p_value <= level,
        "accuracy": float(confusion.trace()) / known if known else None,
        "loss": live.outcomes.loss.mean if live.outcomes.labeled else None,
    }


def _alarm(name: str, first: str, question: Question, alpha: float) -> Finding:
    text = (
        f"{name} is the first step that differs from {first}: {question.name} changed by "
        f"{question.effect:.2g} (Holm {p_value_text(question.p_value)}; at most {alpha:.0%} of "
        "quiet streams alarm)."
    )
    numbers = {"step": name, "effect": question.effect, "p_value": question.p_value}
    remedy = f"Diagnose {name} against {first}: gendebug diagnose --validation --production."
    return Finding(
        "history.drift", question.cause, Severity.WARN, text, question.name, numbers, remedy
    )


def _of_diagnoses(runs: Mapping[str, list[Finding]], broken: list[str]) -> History:
    names = list(runs)
    counts = [
        {"run": name} | {str(s): sum(f.severity is s for f in found) for s in Severity}
        for name, found in runs.items()
    ]
    seen: dict[tuple[str, str], list[str]] = {}
    for name, found in runs.items():
        for finding in found:
            if finding.severity in (Severity.WARN, Severity.FAIL):
                seen.setdefault((finding.check, finding.subject), []).append(name)
    rows = [(*key, runs_[0], runs_[-1], len(set(runs_))) for key, runs_ in seen.items()]
    columns = ["check", "subject", "first", "last", "runs"]
    latest = compared_findings(runs[names[-2]], runs[names[-1]])
    tables = {
        "Runs": pd.DataFrame(counts),
        "Findings by their first run": pd.DataFrame(rows, columns=columns),
        f"Since {names[-2]}": latest.table(),
    }
    context = {"runs": str(len(runs)), "latest": names[-1], "before": names[-2]}
    return History((*latest.findings, *_unread(broken)), tables, None, context)


def _unread(broken: list[str]) -> list[Finding]:
    """A note about files that were not read."""
    if not broken:
        return []
    files = "1 file was" if len(broken) == 1 else f"{len(broken)} files were"
    text = f"{files} not read: {' '.join(broken)}"
    remedy = "Write them again; the other steps are as they are shown."
    numbers = {"files": len(broken)}
    note = Finding("history.files", Cause.UNKNOWN, Severity.NOTE, text, "", numbers, remedy)
    return [note]

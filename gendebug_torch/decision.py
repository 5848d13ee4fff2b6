"""What the findings add up to: likely causes, best supported first, and one decision with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gendebug_torch.finding import Cause, Finding, Severity

# From the source of the data to its last symptom: among equally supported causes the earlier one explains the later.
UPSTREAM = (
    Cause.TARGET_LEAKAGE,
    Cause.SPLIT_LEAKAGE,
    Cause.PREPROCESSING_LEAKAGE,
    Cause.TRAIN_SERVE_SKEW,
    Cause.LABEL_NOISE,
    Cause.COVARIATE_SHIFT,
    Cause.LABEL_SHIFT,
    Cause.CONCEPT_DRIFT,
    Cause.SHORTCUT_FEATURE,
    Cause.UNDERFITTING,
    Cause.OVERFITTING,
    Cause.SUBGROUP_FAILURE,
    Cause.BEHAVIOR_REGRESSION,
    Cause.MISCALIBRATION,
    Cause.THRESHOLD,
    Cause.UNRELIABLE_EXPLANATION,
)
DECISIONS = ("fix_data", "redesign", "retrain", "move_threshold", "recalibrate", "nothing")
_CURE = {
    Cause.TARGET_LEAKAGE: "fix_data",
    Cause.SPLIT_LEAKAGE: "fix_data",
    Cause.PREPROCESSING_LEAKAGE: "fix_data",
    Cause.TRAIN_SERVE_SKEW: "fix_data",
    Cause.LABEL_NOISE: "fix_data",
    Cause.UNDERFITTING: "redesign",
    Cause.LABEL_SHIFT: "move_threshold",
    Cause.THRESHOLD: "move_threshold",
    Cause.MISCALIBRATION: "recalibrate",
    Cause.UNRELIABLE_EXPLANATION: "nothing",
}


@dataclass(frozen=True)
class LikelyCause:
    """A cause, what it sits in, and the findings that agree on it.

    Args:
        cause: what is wrong.
        subject: feature, slice or rows; empty for the whole.
        findings: those that support it, worst first.
    """

    cause: Cause
    subject: str
    findings: tuple[Finding, ...]

    @property
    def support(self) -> int:
        """One point for each agreeing check that warns, two for each that fails."""
        worst: dict[str, int] = {}
        for finding in self.findings:
            worst[finding.check] = max(worst.get(finding.check, 0), finding.severity.level - 1)
        return sum(worst.values())

    @property
    def cure(self) -> str:
        """The decision that this cause asks for by itself."""
        # A feature that is stuck on one value, or stopped arriving, is not a new world to learn: it is to be mended.
        broken = any(finding.numbers.get("atom_value") is not None or finding.check == "shift.missing" for finding in self.findings)
        return "fix_data" if broken else _CURE.get(self.cause, "retrain")


def likely_causes(findings: Iterable[Finding]) -> tuple[LikelyCause, ...]:
    """Causes that at least one check warns of, by support and then from upstream to symptom.

    A finding about the whole data set supports every subject of its cause; it stands alone only where
    no finding names a subject.
    """
    alarming = [finding for finding in findings if finding.severity in (Severity.WARN, Severity.FAIL)]
    grouped: dict[tuple[Cause, str], list[Finding]] = {}
    for finding in alarming:
        grouped.setdefault((finding.cause, finding.subject), []).append(finding)
    named = {cause for cause, subject in grouped if subject}
    causes = []
    for (cause, subject), own in grouped.items():
        if not subject and cause in named:
            continue
        whole = grouped.get((cause, ""), []) if subject else []
        causes.append(LikelyCause(cause, subject, tuple(sorted(own + whole, key=lambda finding: -finding.severity.level))))
    return tuple(sorted(causes, key=lambda likely: (-likely.support, UPSTREAM.index(likely.cause))))


def decide(causes: Sequence[LikelyCause]) -> tuple[str, tuple[str, ...]]:
    """The most fundamental cure that any likely cause asks for, and the sentences it rests on."""
    cures = {likely.cure for likely in causes}
    decision = next((name for name in DECISIONS if name in cures), "nothing")
    behind = [likely for likely in causes if likely.cure == decision]
    sentences = dict.fromkeys(finding.summary for likely in behind[:2] for finding in likely.findings[:2])
    return decision, tuple(sentences)

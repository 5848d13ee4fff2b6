"""Root causes, best supported first, from the findings alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gendebug_torch.checks.finding import (
    ALIKE,
    DISTANCES,
    MISPLACED,
    MISREAD,
    OUTSIDE,
    SHARE_OF_RISE,
    TO_REPAIR,
    Cause,
    Finding,
    Severity,
)

_PROBABILITIES = frozenset({Cause.MISCALIBRATION, Cause.THRESHOLD})
# A fall of the quality that is not explained yet is a symptom of whatever lowers it.
_FALL = frozenset({Cause.UNKNOWN})
_WORSE = _PROBABILITIES | _FALL | {Cause.CONCEPT_DRIFT, Cause.SUBGROUP_FAILURE}
# What each cause brings about besides itself, from the source of the data to the last symptom. A
# cause explains only what stands below it here, so that one root is named once and not five times.
EXPLAINS: Mapping[Cause, frozenset[Cause]] = {
    Cause.TARGET_LEAKAGE: _WORSE
    | {Cause.SHORTCUT_FEATURE, Cause.COVARIATE_SHIFT, Cause.TRAIN_SERVE_SKEW},
    Cause.SPLIT_LEAKAGE: _WORSE,
    Cause.PREPROCESSING_LEAKAGE: _FALL,
    Cause.TRAIN_SERVE_SKEW: _WORSE
    | {Cause.SHORTCUT_FEATURE, Cause.COVARIATE_SHIFT, Cause.LABEL_SHIFT},
    # A network that trains wrongly; the kind of the fault is among the numbers of its finding.
    Cause.TRAINING_FAULT: _PROBABILITIES
    | {Cause.UNDERFITTING, Cause.OVERFITTING, Cause.SUBGROUP_FAILURE},
    Cause.BEHAVIOR_REGRESSION: _WORSE - _FALL,
    Cause.LABEL_NOISE: _PROBABILITIES | {Cause.OVERFITTING, Cause.SUBGROUP_FAILURE},
    Cause.SHORTCUT_FEATURE: _WORSE | {Cause.COVARIATE_SHIFT},
    Cause.LABEL_SHIFT: _WORSE | {Cause.COVARIATE_SHIFT},
    Cause.CONCEPT_DRIFT: _PROBABILITIES | _FALL | {Cause.SUBGROUP_FAILURE},
    Cause.COVARIATE_SHIFT: _PROBABILITIES | _FALL | {Cause.SUBGROUP_FAILURE},
    Cause.UNDERFITTING: _PROBABILITIES | {Cause.SUBGROUP_FAILURE},
    Cause.OVERFITTING: _PROBABILITIES | {Cause.SUBGROUP_FAILURE},
    Cause.SUBGROUP_FAILURE: _PROBABILITIES | _FALL,
    Cause.MISCALIBRATION: frozenset(),
    Cause.THRESHOLD: frozenset(),
    Cause.UNRELIABLE_EXPLANATION: frozenset(),
    Cause.UNKNOWN: frozenset(),
}
UPSTREAM = tuple(EXPLAINS)
# What changed after the deployment cannot explain what was there before it.
AFTER_DEPLOYMENT = frozenset(
    {Cause.TRAIN_SERVE_SKEW, Cause.LABEL_SHIFT, Cause.CONCEPT_DRIFT, Cause.COVARIATE_SHIFT}
)
# What made validation look better than it was lowers the quality without a change in production.
_FLATTERS = frozenset(
    {
        Cause.TARGET_LEAKAGE,
        Cause.SPLIT_LEAKAGE,
        Cause.PREPROCESSING_LEAKAGE,
        Cause.SHORTCUT_FEATURE,
    }
)
# A network that learned the wrong thing promises the wrong probabilities, however faintly its
# curves or labels say so.
_OF_TRAINING = frozenset(
    {Cause.TRAINING_FAULT, Cause.LABEL_NOISE, Cause.UNDERFITTING, Cause.OVERFITTING}
)
# What sits in one feature follows only from a root in that feature; a slice may fail for a fault
# anywhere.
_IN_A_FEATURE = frozenset({Cause.SHORTCUT_FEATURE, Cause.COVARIATE_SHIFT, Cause.TRAIN_SERVE_SKEW})
_DECISION = {
    Cause.TARGET_LEAKAGE: "fix_data",
    Cause.SPLIT_LEAKAGE: "fix_data",
    Cause.PREPROCESSING_LEAKAGE: "fix_data",
    Cause.TRAIN_SERVE_SKEW: "fix_data",
    Cause.LABEL_NOISE: "fix_data",
    Cause.SHORTCUT_FEATURE: "fix_data",
    Cause.UNDERFITTING: "redesign",
    Cause.SUBGROUP_FAILURE: "redesign",
    Cause.LABEL_SHIFT: "move_threshold",
    Cause.THRESHOLD: "move_threshold",
    Cause.MISCALIBRATION: "recalibrate",
    Cause.UNRELIABLE_EXPLANATION: "nothing",
    Cause.UNKNOWN: "investigate",
}
# A failure that was reproduced on inputs, by a change of them or by a part put into others, is the
# reason for whatever it moved in production.
_REPRODUCED = ("shift.reproduced_change", "attribution.region_shortcut")
# Share of what got worse from which a slice is the reason of the whole.
_MOST = 0.5
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class LikelyCause:
    """A root cause, where it sits, the findings that name it, and the symptoms that it explains.

    Args:
        cause: what is wrong.
        subject: the feature, slice or rows with most support; empty for the whole.
        findings: those that name it, the best supported subject first, a reproduced failure before
            the worst.
        symptoms: findings of other causes that follow from it.
        subjects: every subject it sits in, best supported first.
    """

    cause: Cause
    subject: str
    findings: tuple[Finding, ...]
    symptoms: tuple[Finding, ...] = ()
    subjects: tuple[str, ...] = ()

    @property
    def support(self) -> int:
        """One point for each agreeing check that warns, two for each that fails."""
        return _points(self.findings)

    @property
    def level(self) -> int:
        """How bad its worst finding is."""
        return max(finding.severity.level for finding in self.findings)

    @property
    def weight(self) -> float:
        """Support, and half of that of the symptoms: a root that explains more ranks higher."""
        return self.support + _points(self.symptoms) / 2

    @property
    def alike(self) -> bool:
        """Whether production shares it with validation, so that it makes no difference."""
        return all(ALIKE in finding.numbers for finding in self.findings)

    @property
    def decision(self) -> str:
        """The decision that this cause asks for by itself."""
        # A feature that is stuck on one value, stopped arriving, or is fed in another's place is
        # to be repaired; there is nothing new to learn from it.
        if any(finding.numbers.get(TO_REPAIR) for finding in self.findings):
            return "fix_data"
        # What the network could do in validation it can learn again from rows as they are now.
        rose = all(SHARE_OF_RISE in finding.numbers for finding in self.findings)
        if self.cause is Cause.SUBGROUP_FAILURE and rose:
            return "retrain"
        return _DECISION.get(self.cause, "retrain")


def likely_causes(findings: Iterable[Finding]) -> tuple[LikelyCause, ...]:
    """Root causes that at least one check warns of, by weight and then from upstream to symptom.

    Findings are grouped by cause and subject; one about the whole data set supports every subject
    of its cause. From upstream down, a group all of whose findings follow from better supported
    causes above it becomes their symptom. What is left of one cause is merged, with all of its
    subjects. A fall of the quality that nothing explains comes last.
    """
    alarming = [
        finding for finding in findings if finding.severity in (Severity.WARN, Severity.FAIL)
    ]
    roots: list[LikelyCause] = []
    for group in sorted(_groups(alarming), key=_upstream):
        explaining = [
            [at for at, root in enumerate(roots) if _explains(root, finding, group)]
            for finding in group.findings
        ]
        if not all(explaining):
            roots.append(group)
            continue
        for at in sorted({at for places in explaining for at in places}):
            roots[at] = replace(roots[at], symptoms=roots[at].symptoms + group.findings)
    stories = [
        _merged([root for root in roots if root.cause is cause])
        for cause in dict.fromkeys(root.cause for root in roots)
    ]
    return tuple(
        sorted(
            stories,
            key=lambda story: (
                story.cause is Cause.UNKNOWN,
                -story.weight,
                UPSTREAM.index(story.cause),
            ),
        )
    )


def _upstream(group: LikelyCause) -> tuple[bool, bool, bool, int]:
    first = _misread(group), _is_reproduced(group), _misplaced(group)
    return not first[0], not first[1], not first[2], UPSTREAM.index(group.cause)


def _misread(group: LikelyCause) -> set[str]:
    """Where outputs or classes are not what they are read as: `production`, or `everywhere`."""
    found = {finding.numbers.get(MISREAD) for finding in group.findings} - {None}
    return {str(where) for where in found}


def _misplaced(group: LikelyCause) -> set[str]:
    """Columns whose values in production are those of other columns or rows."""
    return {str(name) for one in group.findings for name in one.numbers.get(MISPLACED, ())}


def _is_reproduced(group: LikelyCause) -> bool:
    return any(finding.check in _REPRODUCED for finding in group.findings)


def _groups(alarming: Sequence[Finding]) -> list[LikelyCause]:
    grouped: dict[tuple[Cause, str], list[Finding]] = {}
    for finding in alarming:
        grouped.setdefault((finding.cause, finding.subject), []).append(finding)
    named = {cause for cause, subject in grouped if subject}
    groups = []
    for (cause, subject), own in grouped.items():
        if not subject and cause in named:
            continue
        whole = grouped.get((cause, ""), []) if subject else []
        groups.append(
            LikelyCause(
                cause,
                subject,
                tuple(sorted(own + whole, key=_most_telling)),
                (),
                (subject,),
            )
        )
    return groups


def _most_telling(finding: Finding) -> tuple[bool, int]:
    """Order of the findings of one cause: a failure that was reproduced, then the worst."""
    return finding.check not in _REPRODUCED, -finding.severity.level


def _points(findings: Iterable[Finding]) -> int:
    worst: dict[str, int] = {}
    for finding in findings:
        worst[finding.check] = max(worst.get(finding.check, 0), finding.severity.level - 1)
    return sum(worst.values())


def _explains(root: LikelyCause, finding: Finding, group: LikelyCause) -> bool:
    """Whether a finding follows from a root: a known consequence, there, and not older."""
    if sides := _misread(root):
        if sides == {"production"}:
            scores = finding.cause is Cause.COVARIATE_SHIFT and not finding.subject
            return _about_production(finding) and (finding.cause in _WORSE or scores)
        return finding.cause in _WORSE | {Cause.LABEL_NOISE}
    if _is_reproduced(root):
        if _is_reproduced(group) and root.cause is group.cause:
            return False
        follows = EXPLAINS[root.cause] | {root.cause, Cause.TARGET_LEAKAGE, Cause.UNKNOWN}
        follows |= {Cause.TRAIN_SERVE_SKEW}
        return finding.cause in follows and "production" in (finding.inputs or ("production",))
    if finding.subject in _misplaced(root) and _about_production(finding):
        return finding.cause in EXPLAINS[root.cause] | {Cause.TARGET_LEAKAGE, root.cause}
    if finding.cause not in EXPLAINS[root.cause]:
        return False
    if root.alike and _about_production(finding):
        return False
    faint = 2 * root.support < group.support and not (
        root.subject and root.subject == group.subject
    )
    if faint and (root.cause not in _OF_TRAINING or finding.cause not in _PROBABILITIES):
        return False
    # A slice that holds most of what got worse is the reason for the change of the whole, not its
    # symptom.
    if (
        root.cause is Cause.CONCEPT_DRIFT
        and not root.subject
        and (finding.numbers.get(SHARE_OF_RISE) or 0.0) >= _MOST
    ):
        return False
    in_place = finding.cause in _IN_A_FEATURE or root.cause is Cause.COVARIATE_SHIFT
    in_place = in_place and not _is_everywhere(root)
    if (
        in_place
        and root.subject
        and finding.subject
        and not re.search(rf"(?<!\w){re.escape(root.subject)}(?!\w)", finding.subject)
    ):
        return False
    if finding.cause in _FALL and root.cause not in _FLATTERS:
        return any(map(_about_production, root.findings))
    return root.cause not in AFTER_DEPLOYMENT or _about_production(finding)


def _is_everywhere(root: LikelyCause) -> bool:
    """Whether nearly all of production is where the model has seen nothing: any slice may fail."""
    return any((one.numbers.get(OUTSIDE) or 0.0) >= _NEARLY_ALL for one in root.findings)


def _about_production(finding: Finding) -> bool:
    return "production" in (finding.inputs or ("production",))


def _moved(root: LikelyCause) -> float:
    """How far the distribution moved that a cause sits in, 0 to 1; 0 where none was compared."""
    numbers = [finding.numbers for finding in root.findings if finding.subject]
    return max((own.get(name) or 0.0 for own in numbers for name in DISTANCES), default=0.0)


def _merged(roots: Sequence[LikelyCause]) -> LikelyCause:
    ordered = sorted(roots, key=lambda root: (-root.support, -_moved(root), -root.weight))
    # Findings hold mappings and cannot be hashed: their identity serves.
    findings = {id(finding): finding for root in ordered for finding in root.findings}
    symptoms = {id(finding): finding for root in ordered for finding in root.symptoms}
    subjects = tuple(root.subject for root in ordered if root.subject)
    return LikelyCause(
        ordered[0].cause,
        ordered[0].subject,
        tuple(findings.values()),
        tuple(symptoms.values()),
        subjects,
    )

"""One decision from the likely causes, with its reasons and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.diagnosis.causes import AFTER_DEPLOYMENT, LikelyCause
from gendebug_torch.diagnosis.quality import QualityChange

DECISIONS = (
    "fix_data",
    "redesign",
    "retrain",
    "move_threshold",
    "recalibrate",
    "investigate",
    "nothing",
)
# What would clear the data of a suspicion.
_PROOF = {
    Cause.TARGET_LEAKAGE: "Declare {where} causal in the schema if it is known before the answer "
    "and may follow it closely",
    Cause.SHORTCUT_FEATURE: "Declare {where} causal in the schema if it is a cause of the answer",
    Cause.SPLIT_LEAKAGE: "Leave {where} out of the schema if rows that share it are independent "
    "of each other",
    Cause.LABEL_NOISE: "Let a person confirm a sample of the labels of {where}",
}
# Quality in production this close to validation counts as held.
HELD = 0.05


@dataclass(frozen=True)
class Decision:
    """What to do, why, and what would change it.

    Args:
        name: one of `DECISIONS`.
        reasons: the sentences it rests on, with their numbers.
        would_change: what would have to be seen for another verdict.
    """

    name: str
    reasons: tuple[str, ...] = ()
    would_change: tuple[str, ...] = ()


def decide(
    causes: Sequence[LikelyCause],
    quality: QualityChange | None = None,
    findings: Sequence[Finding] = (),
) -> Decision:
    """The most fundamental decision among the well-supported causes, and its reasons.

    A cause with half of the first one's weight or less, or that only warns where the first one
    fails, does not decide. Where inputs or classes moved but the ranking held within 5 %, and only
    the probabilities suffered, the probabilities are corrected and the model is kept. Where the
    quality fell beyond its interval and nothing says why, or only what cannot change a ranking,
    the decision is to investigate.

    Args:
        causes: likely causes, best supported first.
        quality: quality on both sides; None where it is not known.
        findings: all findings, for what was judged and what was not.
    """
    deciding = [
        likely
        for likely in causes
        if 2 * likely.weight > causes[0].weight and likely.level >= causes[0].level
    ]
    decisions = [_decision(likely, quality) for likely in deciding]
    name = next((name for name in DECISIONS if name in decisions), "nothing")
    if (
        quality is not None
        and quality.fell
        and (name == "nothing" or _keeps_ranking(name, quality))
    ):
        name = "investigate"
    behind = [
        likely
        for likely, decision in zip(deciding, decisions, strict=True)
        if decision == name != "nothing"
    ]
    reasons = [finding.summary for likely in behind[:2] for finding in likely.findings[:2]]
    if quality is not None:
        reasons.append(f"{quality}.")
    reasons += _coverage(name, findings)
    return Decision(
        name, tuple(dict.fromkeys(reasons)), _would_change(name, behind, causes, quality)
    )


def _keeps_ranking(name: str, quality: QualityChange) -> bool:
    """Whether a decision leaves the order of the scores, and so a fallen AUC, as they are."""
    held = abs(quality.change[0]) <= HELD
    return name in ("move_threshold", "recalibrate") and quality.metric == "AUC" and not held


def _coverage(name: str, findings: Sequence[Finding]) -> list[str]:
    """What was judged where nothing is to be done, and what broke, whatever the decision."""
    checks: dict[Severity, set[str]] = {severity: set() for severity in Severity}
    for finding in findings:
        checks[finding.severity].add(finding.check)
    skipped, broken = checks[Severity.SKIPPED], checks[Severity.ERRORED]
    judged = {finding.check for finding in findings} - skipped - broken
    reasons = []
    if name in ("nothing", "investigate") and findings:
        reasons.append(f"Checks that found no cause: {len(judged)}; skipped: {len(skipped)}.")
    if broken:
        reasons.append(f"Checks that broke and judged nothing: {', '.join(sorted(broken))}.")
    return reasons


def _decision(likely: LikelyCause, quality: QualityChange | None) -> str:
    held = quality is not None and abs(quality.change[0]) <= HELD
    if likely.decision != "retrain" or likely.cause not in AFTER_DEPLOYMENT or not held:
        return likely.decision
    symptoms = {finding.cause for finding in likely.symptoms}
    if Cause.THRESHOLD in symptoms:
        return "move_threshold"
    return "recalibrate" if Cause.MISCALIBRATION in symptoms else likely.decision


def _would_change(
    name: str,
    behind: Sequence[LikelyCause],
    causes: Sequence[LikelyCause],
    quality: QualityChange | None,
) -> tuple[str, ...]:
    """What would have to be seen for another decision, with the number as it is now."""
    now = "not known without labels and logits on both sides"
    if quality is not None:
        now = f"now {quality.change[0]:+.1%}"
    metric = quality.metric if quality is not None else "quality"
    fell = (
        f"Retrain if the {metric} in production falls more than {HELD:.0%} below validation "
        f"({now})."
    )
    if name in ("nothing", "recalibrate"):
        return (fell,)
    if name == "investigate":
        return (
            "Look at production rows that the model gets wrong, by slices and error clusters, and "
            "label some where labels are few. A check that names a cause decides instead.",
        )
    if name == "move_threshold":
        recalibrate = "Recalibrate first if the calibration error stays at the new threshold."
        return (fell, recalibrate)
    if name == "fix_data":
        return (_what_clears_the_data(behind, causes),)
    if name == "redesign":
        return ("Retrain instead if more rows of the same kind close the gap.",)
    numbers = (finding.numbers for likely in causes for finding in likely.findings)
    share = next((n["largest_share"] for n in numbers if "largest_share" in n), None)
    now = "" if share is None else f", now {share:.0%}"
    return (
        "Redesign instead if one subgroup or error cluster holds most of the errors (30 % or "
        f"more{now}).",
    )


def _what_clears_the_data(behind: Sequence[LikelyCause], causes: Sequence[LikelyCause]) -> str:
    other = next((likely for likely in causes if likely not in behind), None)
    then = "the other checks decide"
    if other is not None:
        then = f"{other.cause.replace('_', ' ')} decides"
    where = behind[0].subject or "the data"
    proof = _PROOF.get(behind[0].cause, "Show that {where} is sound").format(where=where)
    return f"{proof}; then {then}."

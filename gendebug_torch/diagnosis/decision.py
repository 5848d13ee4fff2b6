"""One decision from the likely causes, with its reasons and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gendebug_torch.checks.finding import LARGEST_SHARE, Cause, Finding, Severity
from gendebug_torch.diagnosis.apportioning.bill import Bill
from gendebug_torch.diagnosis.apportioning.remedies import REFIT
from gendebug_torch.diagnosis.causes import AFTER_DEPLOYMENT, LikelyCause
from gendebug_torch.shift.quality.quality_change import QualityChange

DECISIONS = (
    "fix_data",
    "redesign",
    "retrain",
    "move_threshold",
    "recalibrate",
    "investigate",
    "nothing",
)
# Decisions that can be tried on held-out production rows before they are taken.
REMEDIES = ("move_threshold", "recalibrate")
# What would clear the data of a suspicion.
_PROOF = {
    Cause.TARGET_LEAKAGE: "Declare {where} causal in the schema if it is known before the answer "
    "and may follow it closely",
    Cause.SHORTCUT_FEATURE: "Declare {where} causal in the schema if it is a cause of the answer",
    Cause.SPLIT_LEAKAGE: "Leave {where} out of the schema if rows that share it are independent "
    "of each other",
    Cause.LABEL_NOISE: "Let a person confirm a sample of the labels of {where}",
}
# Share of the errors in one place from which the model lacks something there.
_MOST_ERRORS = 0.3


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
    bill: Bill | None = None,
) -> Decision:
    """The most fundamental decision among the well-supported causes, and its reasons.

    A cause with half of the first one's weight or less, or that only warns where the first one
    fails, does not decide. Where inputs or classes moved but the ranking held within 5 %, and only
    the probabilities suffered, the probabilities are corrected and the model is kept. Another
    threshold and recalibration are decisions only where, tried on held-out production rows, they
    win back what fell, or gain something where nothing fell; else the next cause decides. Where
    the quality fell and nothing says why, the decision is to investigate. Among the decisions that
    are left the one of a cause that carries more than half of the bill comes first, unless the
    best supported cause has no number there.

    Args:
        causes: likely causes, best supported first.
        quality: quality on both sides; None where it is not known.
        findings: all findings, for what was judged and what was not.
        bill: what each cause carries of the quality that was lost.
    """
    # What is left for others says little where the best supported cause has no number of its own.
    lines = () if bill is None or not causes else bill.lines
    open_ = any(line.reason and line.cause == causes[0].cause for line in lines)
    known = None if open_ else bill
    name, deciding = _chosen(causes, quality, known)
    behind = [
        likely for likely in deciding if _asks(likely, quality, known) == name and name != "nothing"
    ]
    reasons = [finding.summary for likely in behind[:2] for finding in likely.findings[:2]]
    reasons += _quality_reasons(name, causes, behind, quality)
    reasons += _bill_reasons(bill)
    reasons += _coverage(name, findings)
    change = _would_change(name, behind, causes, quality, bill)
    return Decision(name, tuple(dict.fromkeys(reasons)), change)


def _chosen(
    causes: Sequence[LikelyCause], quality: QualityChange | None, bill: Bill | None
) -> tuple[str, Sequence[LikelyCause]]:
    """The decision, and the causes among which it was taken."""
    deciding = [
        likely
        for likely in causes
        if 2 * likely.weight > causes[0].weight and likely.level >= causes[0].level
    ]
    wanted = {_asks(likely, quality, bill) for likely in deciding}
    dearest = {_billed_decision(one, quality, bill) for one in deciding}
    ordered = sorted(DECISIONS, key=lambda name: name not in dearest)
    working = [name for name in ordered if name in wanted and _works(name, quality)]
    # Without a cause there is nothing to do; where a remedy was tried in vain the next cause says.
    if wanted and not working:
        deciding = [likely for likely in causes if _works(_decision(likely, quality), quality)]
        working = [_decision(likely, quality) for likely in deciding[:1]] or ["investigate"]
    name = working[0] if working else "nothing"
    fell = quality is not None and quality.fell
    return ("investigate" if fell and name == "nothing" else name), deciding


def _asks(likely: LikelyCause, quality: QualityChange | None, bill: Bill | None) -> str:
    """What a cause asks for, by the bill where that is decided there."""
    return _billed_decision(likely, quality, bill) or _decision(likely, quality)


def _billed_decision(
    likely: LikelyCause, quality: QualityChange | None, bill: Bill | None
) -> str | None:
    """What a cause asks for that is more than half of what was lost, beyond doubt.

    A subgroup in which recent rows alone win most of it back needs them and no other network; one
    in which they were tried in vain needs another network.
    """
    if bill is None or not bill.fell:
        return None
    own = [line for line in bill.billed if line.cause == likely.cause]
    if sum(line.low for line in own) <= bill.total / 2:
        return None
    tried = [line.remedy for line in own if line.remedy is not None]
    refits = [one for one in tried if one.remedy == REFIT]
    if likely.cause is Cause.SUBGROUP_FAILURE and refits:
        won = any(one.low > bill.total / 2 for one in refits)
        return "retrain" if won else "redesign"
    return _decision(likely, quality)


def _bill_reasons(bill: Bill | None) -> list[str]:
    """What the dearest cause carries, and what its remedy wins back."""
    if bill is None or not bill.billed or not bill.fell:
        return []
    first, lost = bill.billed[0], "expected to be lost" if bill.expected else "lost"
    text = (
        f"Of {bill.total:.3g} points of {bill.metric} {lost}, {first.points:.3g} "
        f"({first.low:.3g} to {first.high:.3g}) go to {first.name}"
    )
    trial = first.remedy
    if trial is not None and trial.helps:
        won = f"{trial.points:.3g} ({trial.low:.3g} to {trial.high:.3g})"
        guessed = bill.expected or trial.expected
        how = " would win" if guessed else ", tried on other rows, wins"
        text += f"; the remedy {trial.action!r}{how} back {won}"
    return [f"{text}."]


def _works(name: str, quality: QualityChange | None) -> bool:
    """Whether a decision, if it can be tried, wins back what fell, or gains something."""
    if name not in REMEDIES or quality is None:
        return True
    if quality.fell:
        return quality.restored_by(name)
    # Adapting the scores to new class shares moves the threshold and the probabilities alike.
    tried = ("recalibrate",) if name == "recalibrate" else REMEDIES
    trials = [trial for trial in map(quality.remedy, tried) if trial is not None]
    return not trials or any(trial.helps for trial in trials)


def _quality_reasons(
    name: str,
    causes: Sequence[LikelyCause],
    behind: Sequence[LikelyCause],
    quality: QualityChange | None,
) -> list[str]:
    """The quality on both sides, the fall that the decision leaves open, and what was tried."""
    wanted = {_decision(likely, quality) for likely in causes} & set(REMEDIES)
    about_production = any(
        "production" in finding.inputs for likely in behind for finding in likely.findings
    )
    if quality is None:
        untried = name in REMEDIES and about_production
        return ["Not tried: production has no labels with outputs."] if untried else []
    unexplained = [
        f"Not explained by this: {finding.summary}"
        for likely in causes
        if likely.cause is Cause.UNKNOWN and likely not in behind
        for finding in likely.findings
    ]
    said = any(likely.cause is Cause.UNKNOWN for likely in causes) or any(
        str(quality.principal) in finding.summary
        for likely in behind[:2]
        for finding in likely.findings[:2]
    )
    reasons = unexplained if said else [f"{_capitalized(str(quality))}."]
    trials = [quality.remedy(remedy) for remedy in REMEDIES if remedy in wanted]
    return reasons + [trial.sentence for trial in trials if trial is not None]


def _coverage(name: str, findings: Sequence[Finding]) -> list[str]:
    """What was judged where nothing is to be done, and what broke, whatever the decision."""
    checks: dict[Severity, set[str]] = {severity: set() for severity in Severity}
    for finding in findings:
        checks[finding.severity].add(finding.check)
    skipped, broken = checks[Severity.SKIPPED], checks[Severity.ERRORED]
    alarming = checks[Severity.WARN] | checks[Severity.FAIL]
    judged = {finding.check for finding in findings} - skipped - broken - alarming
    reasons = []
    if name in ("nothing", "investigate") and findings:
        reasons.append(f"Checks that found no cause: {len(judged)}; skipped: {len(skipped)}.")
    if broken:
        reasons.append(f"Checks that broke and judged nothing: {', '.join(sorted(broken))}.")
    return reasons


def _decision(likely: LikelyCause, quality: QualityChange | None) -> str:
    """What a cause asks for by itself, or the remedy that works where only probabilities suffer."""
    held = quality is not None and quality.ranking_held
    if likely.decision != "retrain" or likely.cause not in AFTER_DEPLOYMENT or not held:
        return likely.decision
    symptoms = {finding.cause for finding in likely.symptoms}
    if Cause.THRESHOLD in symptoms and _works("move_threshold", quality):
        return "move_threshold"
    if Cause.MISCALIBRATION in symptoms and _works("recalibrate", quality):
        return "recalibrate"
    return likely.decision


def _would_change(
    name: str,
    behind: Sequence[LikelyCause],
    causes: Sequence[LikelyCause],
    quality: QualityChange | None,
    bill: Bill | None,
) -> tuple[str, ...]:
    """What would have to be seen for another decision, with the number as it is now."""
    if name == "nothing":
        return (_what_ends_rest(quality),)
    if name in REMEDIES:
        metric = "quality" if quality is None else quality.principal.name
        stays = (
            f"Retrain if the {metric} in production is still below validation beyond its interval "
            "after this."
        )
        first = "Recalibrate first if the calibration error stays at the new threshold."
        return (stays, first) if name == "move_threshold" else (stays,)
    if name == "investigate":
        return (
            "Look at production rows that the model gets wrong, by slices and error clusters, and "
            "label some where labels are few. A check that names a cause decides instead.",
        )
    if name == "fix_data":
        return (_what_clears_the_data(behind, causes),)
    if name == "redesign":
        return ("Retrain instead if more rows of the same kind close the gap.",)
    return (_what_asks_for_another_network(causes, bill),)


def _what_asks_for_another_network(causes: Sequence[LikelyCause], bill: Bill | None) -> str:
    if bill is not None and bill.fell:
        for line in bill.billed:
            share = line.points / bill.total
            if line.cause == Cause.SUBGROUP_FAILURE and share >= _MOST_ERRORS:
                return (
                    f"Redesign instead if {line.subject}, to which {share:.0%} of the loss goes, "
                    "still carries most of it after retraining."
                )
    numbers = (finding.numbers for likely in causes for finding in likely.findings)
    held = next((n[LARGEST_SHARE] for n in numbers if LARGEST_SHARE in n), None)
    if held is not None and held >= _MOST_ERRORS:
        return (
            f"Redesign instead if the region that holds {held:.0%} of the errors still holds "
            "most of them after retraining."
        )
    now = "" if held is None else f", now {held:.0%}"
    return (
        "Redesign instead if one subgroup or error cluster holds most of the errors "
        f"({_MOST_ERRORS:.0%} or more{now})."
    )


def _what_ends_rest(quality: QualityChange | None) -> str:
    if quality is None:
        return (
            "Another decision follows if the quality falls. It is not known without labels and "
            "outputs on both sides: label some production rows."
        )
    first = quality.principal
    change = first.after - first.before
    return (
        f"Investigate if the {first.name} falls beyond its interval; its change is now "
        f"{change:+.3g} ({100 * first.level:.3g} % interval {first.low:+.3g} to {first.high:+.3g})."
    )


def _what_clears_the_data(behind: Sequence[LikelyCause], causes: Sequence[LikelyCause]) -> str:
    other = next((likely for likely in causes if likely not in behind), None)
    then = "the other checks decide"
    if other is not None:
        then = f"{other.cause.replace('_', ' ')} decides"
    where = behind[0].subject or "the data"
    proof = _PROOF.get(behind[0].cause, "Show that {where} is sound").format(where=where)
    return f"{proof}; then {then}."


def _capitalized(text: str) -> str:
    """A text with a capital at its start, and the rest as it is: `AUC 0.76` stays."""
    return text[:1].upper() + text[1:]

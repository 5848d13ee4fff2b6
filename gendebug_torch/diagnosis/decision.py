"""One decision from the likely causes, with its reasons and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gendebug_torch.checks.finding import Cause
from gendebug_torch.diagnosis.causes import _AFTER, LikelyCause
from gendebug_torch.diagnosis.quality import Standing

DECISIONS = ("fix_data", "redesign", "retrain", "move_threshold", "recalibrate", "nothing")
# What would clear the data of a suspicion.
_SOUND = {
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


def decide(causes: Sequence[LikelyCause], standing: Standing | None = None) -> Decision:
    """The most fundamental cure among the well-supported causes, with its reasons and what would
    change it.

    A cause with half of the first one's weight or less, or that only warns where the first one
    fails, does not decide. Where inputs or the world moved but the ranking held within 5 %, and
    only the probabilities suffered, the probabilities are mended, not the model.
    """
    deciding = [
        likely
        for likely in causes
        if 2 * likely.weight > causes[0].weight and likely.level >= causes[0].level
    ]
    cures = [_cure(likely, standing) for likely in deciding]
    name = next((name for name in DECISIONS if name in cures), "nothing")
    behind = [
        likely for likely, cure in zip(deciding, cures, strict=True) if cure == name != "nothing"
    ]
    told = [finding.summary for likely in behind[:2] for finding in likely.findings[:2]]
    reasons = dict.fromkeys([*told, *([f"{standing}."] if standing is not None else [])])
    return Decision(name, tuple(reasons), _would_change(name, behind, causes, standing))


def _cure(likely: LikelyCause, standing: Standing | None) -> str:
    cure = likely.cure
    if (
        cure != "retrain"
        or likely.cause not in _AFTER
        or standing is None
        or abs(standing.change[0]) > HELD
    ):
        return cure
    suffered = {finding.cause for finding in likely.symptoms}
    if Cause.THRESHOLD in suffered:
        return "move_threshold"
    return "recalibrate" if Cause.MISCALIBRATION in suffered else cure


def _would_change(
    name: str,
    behind: Sequence[LikelyCause],
    causes: Sequence[LikelyCause],
    standing: Standing | None,
) -> tuple[str, ...]:
    """What would have to be seen for another verdict, with the number as it is now."""
    now = (
        f"now {standing.change[0]:+.1%}"
        if standing is not None
        else "not known without labels and logits on both sides"
    )
    quality = standing.metric if standing is not None else "quality"
    fell = (
        f"Retrain if the {quality} in production falls more than {HELD:.0%} below validation "
        f"({now})."
    )
    crowd = next(
        (
            f.numbers["largest_share"]
            for cause in causes
            for f in cause.findings
            if "largest_share" in f.numbers
        ),
        None,
    )
    crowded = "" if crowd is None else f", now {crowd:.0%}"
    after = next((likely for likely in causes if likely not in behind), None)
    then = (
        "the other checks decide" if after is None else f"{after.cause.replace('_', ' ')} decides"
    )
    where = behind[0].subject if behind and behind[0].subject else "the data"
    proof = (
        _SOUND.get(behind[0].cause, "Show that {where} is sound").format(where=where)
        if behind
        else ""
    )
    return {
        "nothing": (fell,),
        "recalibrate": (fell,),
        "move_threshold": (
            fell,
            "Recalibrate first if the calibration error stays beyond noise at the new threshold.",
        ),
        "fix_data": (f"{proof}; then {then}.",),
        "retrain": (
            "Redesign instead if one subgroup or error cluster holds most of the errors (30 % or "
            f"more{crowded}).",
        ),
        "redesign": (
            "Retrain instead if more rows of the same kind close the gap, with nothing else "
            "changed.",
        ),
    }[name]

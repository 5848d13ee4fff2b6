"""From the scores of one case to its margin: how far inside its expectation it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gendebug_torch.behavior.running.scores import NOISE, Scores
from gendebug_torch.behavior.suite.cases import Case, Suite
from gendebug_torch.behavior.suite.expectation import Expectation

_MAX_TEXT = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far inside its expectation a case is, and what to show of it.

    Args:
        margin: distance to the limit, at least 0 where the case passes; None for a draft.
        score: score of the compared class, for the unchanged input.
        got: scores in words.
    """

    margin: float | None
    score: float
    got: str


def verdict(suite: Suite, case: Case, scores: Scores) -> Verdict:
    """The verdict on one case.

    `same` keeps the score (of the compared class, or of every class where none is named) within the
    tolerance; `higher` must rise, `not_lower` may stay (Ribeiro et al., 2020, section 2: INV and
    DIR tests). The tolerance widens each; `same_class` accepts another class where the score moved
    by no more than it, as CheckList does.

    Args:
        suite: classes, threshold and default tolerance.
        case: input and expectation.
        scores: `[1 + changes][k]`, class probabilities of the input and of the input under each
            change.

    Raises:
        InputError: a class that the scores do not have.
    """
    index = score_class(suite, case, scores[0])
    base = scores[0][index]
    binary = case.of is None and len(scores[0]) == 2
    label = "score" if binary else f"p({suite.class_name(index)})"
    if case.expect is None:
        return Verdict(None, base, f"{label} {base:.3f}")
    slack = suite.tolerance_of(case) + NOISE
    if not case.expect.pairwise:
        margin = _single_margin(suite, case.expect, scores[0], base) + slack
        predicted = suite.class_name(predicted_class(suite, scores[0]))
        by_class = f"class {predicted} ({label} {base:.3f})"
        got = by_class if case.expect.word == "class" else f"{label} {base:.3f}"
        return Verdict(margin, base, got)
    if case.expect.word == "same_class":
        margins = _class_change_margins(suite, scores, slack)
        worst = margins.index(min(margins))
        rows = (scores[0], scores[1 + worst])
        before, after = (suite.class_name(predicted_class(suite, row)) for row in rows)
        got = f"class {before} → {after}{_change_text(case, worst)}"
        return Verdict(margins[worst], base, got)
    word = case.expect.word
    margins = [_score_change_margin(case, word, row, scores[0], index, slack) for row in scores[1:]]
    worst = margins.index(min(margins))
    got = f"{label} {base:.3f} → {scores[1 + worst][index]:.3f}{_change_text(case, worst)}"
    return Verdict(margins[worst], base, got)


def predicted_class(suite: Suite, scores: Sequence[float]) -> int:
    """The class of one row of scores: by the threshold among two, else the largest."""
    if len(scores) == 2:
        return int(scores[1] >= suite.threshold)
    return max(range(len(scores)), key=scores.__getitem__)


def score_class(suite: Suite, case: Case, scores: Sequence[float]) -> int:
    """The class whose score a case compares, given the scores of its unchanged input."""
    if case.of == "predicted" or (case.of is None and len(scores) > 2):
        return predicted_class(suite, scores)
    return 1 if case.of is None else suite.class_index(case.of, len(scores))


def _single_margin(
    suite: Suite, expect: Expectation, scores: Sequence[float], score: float
) -> float:
    """Margin of a range of scores or of accepted classes, without tolerance."""
    if expect.word == "class":
        accepted = {suite.class_index(name, len(scores)) for name in expect.classes}
        return _class_margin(suite, accepted, scores)
    # 0 and 1 are no limits, since no score can pass them.
    below = score - expect.low if expect.low > 0 else 1.0
    above = expect.high - score if expect.high < 1 else 1.0
    return min(below, above)


def _class_margin(suite: Suite, accepted: set[int], scores: Sequence[float]) -> float:
    if len(accepted) == len(scores):
        return 1.0
    if len(scores) == 2:
        distance = scores[1] - suite.threshold
        return distance if accepted == {1} else -distance if distance else -2 * NOISE
    others = (score for index, score in enumerate(scores) if index not in accepted)
    return max(scores[index] for index in accepted) - max(others)


def _class_change_margins(suite: Suite, scores: Scores, slack: float) -> list[float]:
    """Margin of `same_class` for each change."""
    first = predicted_class(suite, scores[0])
    return [
        max(_class_margin(suite, {first}, row), slack - abs(row[first] - scores[0][first]))
        for row in scores[1:]
    ]


def _score_change_margin(
    case: Case,
    word: str,
    after: Sequence[float],
    before: Sequence[float],
    index: int,
    slack: float,
) -> float:
    """Margin of `same` or of a direction for one change."""
    change = after[index] - before[index]
    if word == "same":
        changes = [abs(a - b) for a, b in zip(after, before, strict=True)]
        return slack - (max(changes) if case.of is None else abs(change))
    upward = change if word in ("higher", "not_lower") else -change
    # A strict direction must exceed the noise: a score that did not move is not higher.
    return upward + slack - (math.nextafter(2 * NOISE, 1.0) if word in ("higher", "lower") else 0.0)


def _change_text(case: Case, position: int) -> str:
    change = case.change[position]
    if set(change) == {"text"}:
        return f' after "{_short(str(change["text"]))}"'
    fields = (f"{name}={_value_text(value)}" for name, value in change.items())
    return f" after {', '.join(fields)}"


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"

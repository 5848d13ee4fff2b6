"""From the scores of one case to its verdict: how far inside its expectation it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.behavior.suite.cases import Case, Suite
from gendebug_torch.errors import reject

Scores = Sequence[Sequence[float]]
# Scores of one row differ by this much with the batch that it is in; less is no movement.
NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far inside its expectation a case is, and what to show of it.

    Args:
        margin: at least 0 where it holds; None for a draft.
        score: of the class that is meant, for the unchanged input.
        got: the scores in words.
    """

    margin: float | None
    score: float
    got: str


def probabilities(scores: Any, count: int) -> Tensor:
    """`[n, k]` float64 class probabilities of what `predict` returned for `count` inputs; `[n]` is
    the second of two classes.

    What is not in [0, 1] stays as it is, for `unusable` to find.

    Raises:
        InputError: another number of rows or another shape.
    """
    raw = (
        scores.detach().cpu()
        if isinstance(scores, Tensor)
        else torch.from_numpy(np.array(scores, dtype=np.float64))
    )
    found = raw.double()
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim not in (1, 2) or len(found) != count:
        reject(
            "predict",
            f"scores [{count}] or [{count}, k], one row for each input",
            f"shape {list(found.shape)}",
            "Return a row per input.",
        )
    found = torch.where((found >= -NOISE) & (found <= 1 + NOISE), found.clamp(0.0, 1.0), found)
    return torch.stack([1 - found, found], 1) if found.ndim == 1 else found


def unusable(scores: Scores) -> str:
    """Why the scores of a case cannot be judged, if they cannot."""
    bad = next(
        (score for row in scores for score in reversed(row) if not 0.0 <= score <= 1.0), None
    )
    if bad is None:
        return ""
    remedy = (
        "NaN mostly comes of a missing field."
        if bad != bad
        else "Return probabilities: sigmoid or softmax of the logits."
    )
    return f"InputError: `predict`: expected scores in [0, 1], got {bad:.4g}. {remedy}"


def judge(suite: Suite, case: Case, scores: Scores) -> Verdict:
    """The verdict on one case.

    `same` keeps the score (of the class that is meant, or of every class where none is) within the
    tolerance; `higher` must rise, `not_lower` may stay (Ribeiro et al., 2020, section 2: INV and
    DIR tests). The tolerance widens each; `same_class` forgives another class where the score moved
    by no more than it, as CheckList does.

    Args:
        suite: classes, threshold and default tolerance.
        case: what is expected.
        scores: `[1 + changes][k]`, class probabilities of the input and of the input under each
            change.

    Raises:
        InputError: a class that the scores do not have.
    """
    count = len(scores[0])
    index = _meant(suite, case, scores[0])
    base = scores[0][index]
    label = "score" if case.of is None and count == 2 else f"p({suite.class_name(index)})"
    if case.expect is None:
        return Verdict(None, base, f"{label} {base:.3f}")
    slack = suite.tolerance_of(case) + NOISE
    if case.expect.word == "score":
        return Verdict(
            _range_margin(base, case.expect.low, case.expect.high) + slack,
            base,
            f"{label} {base:.3f}",
        )
    if case.expect.word == "class":
        said = f"class {suite.class_name(predicted(suite, scores[0]))} ({label} {base:.3f})"
        accepted = {suite.class_index(name, count) for name in case.expect.classes}
        return Verdict(_class_margin(suite, accepted, scores[0]) + slack, base, said)
    if case.expect.word == "same_class":
        first = predicted(suite, scores[0])
        margins = [
            max(_class_margin(suite, {first}, row), slack - abs(row[first] - scores[0][first]))
            for row in scores[1:]
        ]
        worst = margins.index(min(margins))
        classes = [
            suite.class_name(predicted(suite, row)) for row in (scores[0], scores[1 + worst])
        ]
        return Verdict(
            margins[worst], base, f"class {classes[0]} → {classes[1]}{_after(case, worst)}"
        )
    margins = [_pair_margin(case, row, scores[0], index, slack) for row in scores[1:]]
    worst = margins.index(min(margins))
    return Verdict(
        margins[worst],
        base,
        f"{label} {base:.3f} → {scores[1 + worst][index]:.3f}{_after(case, worst)}",
    )


def predicted(suite: Suite, scores: Sequence[float]) -> int:
    """The class of one row of scores: by the threshold among two, else the largest."""
    return (
        int(scores[1] >= suite.threshold)
        if len(scores) == 2
        else max(range(len(scores)), key=scores.__getitem__)
    )


def _meant(suite: Suite, case: Case, scores: Sequence[float]) -> int:
    if case.of == "predicted" or (case.of is None and len(scores) > 2):
        return predicted(suite, scores)
    return 1 if case.of is None else suite.class_index(case.of, len(scores))


def _range_margin(score: float, low: float, high: float) -> float:
    """Distance to the nearer end of a range; 0 and 1 are no ends, since no score can pass them."""
    return min(score - low if low > 0 else 1.0, high - score if high < 1 else 1.0)


def _class_margin(suite: Suite, accepted: set[int], scores: Sequence[float]) -> float:
    if len(accepted) == len(scores):
        return 1.0
    if len(scores) == 2:
        distance = scores[1] - suite.threshold
        return distance if accepted == {1} else -distance if distance else -2 * NOISE
    return max(scores[i] for i in accepted) - max(
        score for i, score in enumerate(scores) if i not in accepted
    )


def _pair_margin(
    case: Case, after: Sequence[float], before: Sequence[float], index: int, slack: float
) -> float:
    moved = after[index] - before[index]
    word = case.expect.word if case.expect else ""
    if word == "same":
        apart = (
            max(abs(a - b) for a, b in zip(after, before, strict=True))
            if case.of is None
            else abs(moved)
        )
        return slack - apart
    upward = moved if word in ("higher", "not_lower") else -moved
    # A strict direction must exceed the noise: a score that did not move is not higher.
    return upward + slack - (math.nextafter(2 * NOISE, 1.0) if word in ("higher", "lower") else 0.0)


def _after(case: Case, which: int) -> str:
    change = case.change[which]
    if set(change) == {"text"}:
        return f' after "{_short(str(change["text"]))}"'
    return f" after {', '.join(f'{name}={_short(str(value))}' for name, value in change.items())}"


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

"""Tests of two models on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import bdtr, ndtr, stdtr, stdtrit
from torch import Tensor

from gendebug_torch.stats.auc import auc_placements

# Rows on which the models differ below which no test can say anything.
_MIN_DISCORDANT = 6


@dataclass(frozen=True)
class PairedChange:
    """A metric of two models on the same rows.

    Args:
        question: what was measured, e.g. `accuracy` or `accuracy where city = Bern`.
        before: value of the earlier model.
        after: value of the later one.
        low: lower 95 % bound of `after - before`, for this question alone.
        high: upper bound.
        p_value: two-sided p-value of no change, for this question alone.
        rows: number of rows.
        lower_is_better: whether it is an error rather than a score.
    """

    question: str
    before: float
    after: float
    low: float
    high: float
    p_value: float
    rows: int
    lower_is_better: bool = False

    @property
    def fell(self) -> bool:
        """Whether the later model is worse, significantly or not."""
        change = self.after - self.before
        return change > 0 if self.lower_is_better else change < 0

    def __str__(self) -> str:
        digits = ".3g" if self.lower_is_better else ".1%"
        values = f"{self.before:{digits}} → {self.after:{digits}}"
        return (
            f"{self.question} {values} (95 % interval of the change {self.low:+{digits}} to "
            f"{self.high:+{digits}}, {self.rows:,} rows)"
        )


def paired_accuracy(
    question: str, before: Tensor, after: Tensor, *, effect: float = 1.0
) -> PairedChange:
    """McNemar's test of two shares of the same rows, exact with half of the observed probability.

    Source: McNemar (1947), Psychometrika 12:153; Fagerland, Lydersen and Laake (2013), BMC Med.
    Res. Methodol. 13:91, for the mid-p form; Bonett and Price (2012), J. Educ. Behav. Stat. 37:479,
    for the interval.

    Args:
        question: what is measured.
        before: whether the earlier model is right, `[n]` bool.
        after: whether the later one is, `[n]` bool.
        effect: variance over that of independent rows, at least 1.

    Example:
        >>> import torch
        >>> right = torch.arange(200) % 10 > 0
        >>> change = paired_accuracy("accuracy", right, right & (torch.arange(200) >= 20))
        >>> round(change.after - change.before, 3), change.p_value < 0.001
        (-0.09, True)
    """
    n = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    shares = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    center, spread = shares[1] - shares[0], shares[0] + shares[1]
    half = 1.96 * math.sqrt(effect * (spread - center**2) / (n + 2))
    discordant, least = (lost + won) / effect, min(lost, won) / effect
    p_value = 1.0
    if discordant >= _MIN_DISCORDANT:
        trials = round(discordant)
        fewer = bdtr(round(least) - 1, trials, 0.5) if round(least) else 0.0
        tail = (bdtr(round(least), trials, 0.5) + fewer) / 2
        p_value = float(min(1.0, 2 * tail))
    values = float(before.double().mean()), float(after.double().mean())
    return PairedChange(question, *values, center - half, center + half, p_value, n)


def paired_mean(
    question: str,
    before: Tensor,
    after: Tensor,
    *,
    effect: float = 1.0,
    lower_is_better: bool = True,
) -> PairedChange:
    """Student's t-test of the differences of two means of the same rows.

    Args:
        question: what is measured.
        before: values of the earlier model, `[n]`.
        after: values of the later one, `[n]`.
        effect: variance over that of independent rows, at least 1.
        lower_is_better: whether the values are errors.
    """
    difference = after.double() - before.double()
    n, change = len(difference), float(difference.mean())
    error = float(difference.std(correction=1)) * math.sqrt(effect / n) if n > 1 else math.nan
    p_value = float(2 * stdtr(n - 1, -abs(change) / error)) if error > 0 else 1.0
    half = float(stdtrit(n - 1, 0.975)) * error if error > 0 else 0.0
    values = float(before.double().mean()), float(after.double().mean())
    bounds = change - half, change + half
    return PairedChange(question, *values, *bounds, p_value, n, lower_is_better)


def paired_area(
    question: str, scores: Tensor, positive: Tensor, *, effect: float = 1.0
) -> PairedChange | None:
    """DeLong's test of two areas under the ROC curve; None without both classes.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.

    Args:
        question: what is measured.
        scores: scores of both models, `[n, 2]`.
        positive: whether a row is of the class, `[n]` bool.
        effect: variance over that of independent rows, at least 1.
    """
    counts = positive.sum(), (~positive).sum()
    if int(min(counts)) < 2:
        return None
    placements = auc_placements(scores.double(), positive[:, None].expand(-1, 2))
    sides = placements[positive], placements[~positive]
    areas = sides[0].mean(0)
    difference = [side[:, 1] - side[:, 0] for side in sides]
    variance = sum(float(part.var()) / len(part) for part in difference) * effect
    change, error = float(areas[1] - areas[0]), math.sqrt(variance)
    p_value = float(2 * ndtr(-abs(change) / error)) if error > 0 else 1.0
    half = 1.96 * error
    bounds = change - half, change + half
    values = float(areas[0]), float(areas[1])
    return PairedChange(question, *values, *bounds, p_value, len(positive))

"""Scores of several methods as one, each weighed by its evidence on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.influences.evidence.exceedance import Exceedance

# p-value from which a method counts beside others.
_COUNTS = 0.05


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Scores of training rows by one method.

    Args:
        name: name of the method.
        scores: `[n, 1 + halves]` by all errors and by halves of them.
        held_out: scores of held-out rows, `[m]`; None without any.
        evidence: test against the held-out rows.
    """

    name: str
    scores: Tensor
    held_out: Tensor | None
    evidence: Exceedance

    @property
    def standardized(self) -> Tensor:
        """Scores by the median and upper spread of the held-out rows, `[n, 1 + halves]`."""
        base = self.scores[:, 0] if self.held_out is None else self.held_out
        middle, high = base.double().quantile(torch.tensor([0.5, 0.99], dtype=torch.float64))
        scores: Tensor = (self.scores.double() - middle) / (high - middle).clamp(min=1e-12)
        return scores.float()


def combined_scores(methods: Sequence[MethodScores]) -> tuple[Tensor, Tensor]:
    """Scores `[n]` and those by halves of the errors `[n, halves]`, all methods in one.

    Methods that tell training from held-out rows weigh as the logarithm of their p-values; those
    with less than half of the largest weight are left out. Where none does, the first one counts.

    Args:
        methods: scores by each method.
    """
    clear = [
        (method, -math.log(max(method.evidence.p_value, 1e-30)))
        for method in methods
        if method.evidence.p_value <= _COUNTS
    ] or [(methods[0], 1.0)]
    most = max(weight for _, weight in clear)
    clear = [(method, weight) for method, weight in clear if weight >= most / 2]
    if len(clear) == 1:
        scores = clear[0][0].scores
    else:
        total = sum(weight for _, weight in clear)
        scores = torch.stack(
            [method.standardized * (weight / total) for method, weight in clear]
        ).sum(0)
    return scores[:, 0], scores[:, 1:]

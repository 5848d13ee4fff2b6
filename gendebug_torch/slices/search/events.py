"""What can go wrong in a row, in which rows it can, and how often the model itself says that it
will.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.slices.search.expected_errors import promised_rate


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happens to some of the rows in which it can.

    Args:
        name: `error`, `missed positive` or `false alarm`.
        among: the rows in which it can happen, in words.
        rows: `[m]` int64 positions of these rows.
        happened: `[m]` bool.
        score: `[m]` float64, higher where the model itself holds the event likelier.
        side: `[m]` int64 0 or 1, what was predicted; the model's promise is read on each side by
            itself.
    """

    name: str
    among: str
    rows: Tensor
    happened: Tensor
    score: Tensor
    side: Tensor

    def promise(self, at: Tensor | None = None) -> Tensor:
        """`[h]` rate that the model's confidence promises in the rows at these places, by default
        in all; see `promised_rate`.
        """
        score, happened, side = (
            (part if at is None else part[at]) for part in (self.score, self.happened, self.side)
        )
        rate = torch.zeros(len(score), dtype=torch.float64)
        for value in (0, 1):
            part = side == value
            rate[part] = promised_rate(score[part], happened[part])
        return rate


def promised_events(
    logits: Tensor, targets: Tensor, *, threshold: float = 0.5
) -> tuple[Event, ...]:
    """Events that can be held against the model's own confidence: errors, and for two classes
    either kind of error.

    A missed positive is asked among negative predictions, a false alarm among positive ones: there
    the score says how likely it is, while among the true positives the score decides it.

    Args:
        logits: `[n]` binary, or `[n, k]`.
        targets: `[n]` int64 class ids.
        threshold: on the probability of the positive class, for two classes.
    """
    everyone = torch.arange(len(targets))
    margin = _margin(logits)
    if margin is None:
        confidence = logits.double().log_softmax(1).amax(1).cpu()
        wrong = (logits.argmax(1) != targets).cpu()
        return (
            Event("error", "all rows", everyone, wrong, -confidence, torch.zeros_like(everyone)),
        )
    said, true = _said(margin, threshold), (targets == 1).cpu()
    doubt = torch.where(said, -margin, margin)
    return (
        Event("error", "all rows", everyone, said != true, doubt, said.long()),
        *(
            Event(name, among, rows, (said != true)[rows], doubt[rows], said[rows].long())
            for name, among, rows in (
                ("missed positive", "negative predictions", everyone[~said]),
                ("false alarm", "positive predictions", everyone[said]),
            )
        ),
    )


def plain_events(
    logits: Tensor, targets: Tensor, *, threshold: float = 0.5
) -> dict[str, tuple[Tensor, Tensor]]:
    """Event -> `[n]` bool rows that can have it, and `[n]` bool rows that have it.

    Errors; for two classes also misses among the positives (1 - recall) and false alarms among the
    negatives (the false-positive rate).

    Args:
        logits: `[n]` binary, or `[n, k]`.
        targets: `[n]` int64 class ids.
        threshold: on the probability of the positive class, for two classes.
    """
    everyone = torch.ones(len(targets), dtype=torch.bool)
    margin = _margin(logits)
    if margin is None:
        return {"error": (everyone, (logits.argmax(1) != targets).cpu())}
    said, true = _said(margin, threshold), (targets == 1).cpu()
    return {
        "error": (everyone, said != true),
        "missed positive": (true, ~said & true),
        "false alarm": (~true, said & ~true),
    }


def _margin(logits: Tensor) -> Tensor | None:
    """`[n]` float64 log-odds of the positive class, or None for more classes than two."""
    if logits.ndim == 1:
        return logits.double().cpu()
    return (logits[:, 1].double() - logits[:, 0].double()).cpu() if logits.shape[1] == 2 else None


def _said(margin: Tensor, threshold: float) -> Tensor:
    return margin > torch.logit(torch.tensor(threshold, dtype=torch.float64))

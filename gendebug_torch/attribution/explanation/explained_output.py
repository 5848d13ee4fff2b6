"""Which number of a network's answer is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.records import Records, model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, evaluating, logits_of


@dataclass(frozen=True, eq=False)
class Explained:
    """The explained number of each row of a batch.

    Args:
        target: `[n]` int64 class; -1 for the only output as it is.
        rival: `[n]` int64 class whose logit is taken off, or None.
    """

    target: Tensor
    rival: Tensor | None = None

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """`[p]` explained numbers of logits `[p]` or `[p, k]` that belong to these rows."""
        target = self.target[rows]
        if logits.ndim == 1:
            return torch.where(target == 0, -logits, logits)
        chosen = logits.gather(1, target[:, None])[:, 0]
        return (
            chosen
            if self.rival is None
            else chosen - logits.gather(1, self.rival[rows, None])[:, 0]
        )


def check_target(target: Any) -> None:
    """Refuse what is neither a word nor a class id."""
    if isinstance(target, bool) or not (
        isinstance(target, int) or target in ("predicted", "target", "margin")
    ):
        reject(
            "target",
            "`predicted`, `target`, `margin` or a class id",
            repr(target),
            "Choose one of them.",
        )


def explained_of(logits: Tensor, targets: Tensor | None, target: str | int) -> Explained:
    """The explained number of each row, from the logits of the batch.

    Raises:
        InputError: no class targets where they are asked for, a class that does not exist, or
            logits of another shape.
    """
    if logits.ndim not in (1, 2):
        remedy = (
            "Wrap the model so that it returns one row of logits per row, e.g. `lambda x: "
            "model(x).mean(-1)`."
        )
        reject("model", "logits [n], [n, 1] or [n, k]", f"shape {list(logits.shape)}", remedy)
    n, classes = len(logits), 2 if logits.ndim == 1 else logits.shape[1]
    if target == "target":
        if targets is None or targets.is_floating_point() or targets.ndim != 1:
            reject(
                "target",
                "a loader that yields class targets [n]",
                "none",
                "Pass targets, or explain the `predicted` class.",
            )
        return Explained(targets.long())
    if target in ("predicted", "margin"):
        if logits.ndim == 1:
            return Explained(torch.full((n,), -1, dtype=torch.int64, device=logits.device))
        if target == "predicted" or classes < 2:
            return Explained(logits.argmax(1))
        best = logits.topk(2, dim=1).indices
        return Explained(best[:, 0], best[:, 1])
    if not 0 <= int(target) < classes:
        reject(
            "target",
            f"a class id in 0..{classes - 1}",
            str(target),
            "Choose one of the model's outputs.",
        )
    return Explained(torch.full((n,), int(target), dtype=torch.int64, device=logits.device))


class PositiveLogit(nn.Module):
    """A binary network as one logit: the log odds of class 1, where it gives two."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """`[n]` log odds of class 1."""
        logits = logits_of(self.model, named or inputs)
        return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]


def is_binary(model: Model, records: Records) -> bool:
    """Whether the model gives one logit, or two, for these records."""
    if records.logits is None:
        with torch.no_grad(), evaluating(model):
            logits = logits_of(model, model_inputs(records.select([0])))
    else:
        logits = records.logits
    return logits.ndim == 1 or logits.shape[1] == 2

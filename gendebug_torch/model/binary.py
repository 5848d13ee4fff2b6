"""Binary networks: one logit `[n]`, or two `[n, 2]`, as one idea."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.errors import reject
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import logits_of


def positive_logit(logits: Tensor) -> Tensor:
    """`[n]` log odds of class 1, from one logit or as the difference of two.

    Args:
        logits: float logits of a binary network, `[n]`, `[n, 1]` or `[n, 2]`.

    Raises:
        InputError: logits of more than two classes.

    Example:
        >>> import torch
        >>> positive_logit(torch.tensor([[0.5, 2.0], [1.0, -1.0]])).tolist()
        [1.5, -2.0]
    """
    if logits.ndim == 1:
        return logits
    if logits.ndim != 2 or logits.shape[1] > 2:
        reject(
            "logits",
            "those of a binary network, [n], [n, 1] or [n, 2]",
            f"shape {list(logits.shape)}",
            "Choose one class against the rest.",
        )
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


class PositiveLogit(nn.Module):
    """A binary network as one logit `[n]`, whether it gives one or two.

    Args:
        model: module or callable from inputs to one logit or two.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """`[n]` log odds of class 1."""
        return positive_logit(logits_of(self.model, named or inputs))


def is_binary(model: Model, records: Records) -> bool:
    """Whether the model gives one output, or the logits of two classes.

    Judged by the recorded logits, or by one row. Two labels or two quantities are no two classes.
    """
    logits = records.logits
    if logits is None:
        with torch.no_grad(), evaluating(model):
            logits = logits_of(model, model_inputs(records.select([0])))
    if logits.ndim == 2 and records.task in (Task.MULTILABEL, Task.REGRESSION):
        return logits.shape[1] == 1
    return logits.ndim == 1 or logits.shape[1] <= 2

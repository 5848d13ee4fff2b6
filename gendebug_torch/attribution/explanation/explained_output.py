"""Which output of a network is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import IGNORED, stored_targets
from gendebug_torch.errors import reject

_WORDS = ("predicted", "target", "margin")


@dataclass(frozen=True, eq=False)
class ExplainedOutput:
    """The explained output of each row of a batch, as a function of the logits.

    Args:
        classes: `[n]` int64 explained class; -1 for a single output as it is.
        runner_up: `[n]` int64 class whose logit is subtracted; None for none.
    """

    classes: Tensor
    runner_up: Tensor | None = None

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """`[p]` explained outputs.

        Args:
            logits: `[p]` or `[p, k]` logits at any points.
            rows: `[p]` int64 row of the batch to which each point belongs.
        """
        classes = self.classes[rows]
        if logits.ndim == 1:
            return torch.where(classes == 0, -logits, logits)
        output = logits.gather(1, classes[:, None])[:, 0]
        if self.runner_up is None:
            return output
        return output - logits.gather(1, self.runner_up[rows, None])[:, 0]


def check_target(target: Any) -> None:
    """Refuse a target that is neither a known word nor a class id."""
    class_id = isinstance(target, int) and not isinstance(target, bool)
    if not class_id and target not in _WORDS:
        expected = "`predicted`, `target`, `margin` or a class id"
        reject("target", expected, repr(target), "Choose one of them.")


def check_quantities(logits: Tensor, targets: Tensor | None, target: str | int) -> None:
    """Refuse to explain the largest of several quantities, which are no classes.

    Float targets other than 0 and 1 are quantities.

    Args:
        logits: `[n]` or `[n, k]` outputs of a batch.
        targets: targets of the batch.
        target: explained output, as in `attribute`.

    Raises:
        InputError: several outputs, targets that are quantities, and no number of an output.
    """
    if targets is None or not targets.is_floating_point() or logits.ndim != 2:
        return
    if isinstance(target, str) and not bool(((targets == 0) | (targets == 1)).all()):
        outputs = logits.shape[1]
        expected = f"the number of an output in 0..{outputs - 1}, since the targets are quantities"
        reject("target", expected, repr(target), "Explain one output at a time, e.g. target=0.")


def explained_output(logits: Tensor, targets: Tensor | None, target: str | int) -> ExplainedOutput:
    """The explained output of each row of a batch.

    Args:
        logits: `[n]` or `[n, k]` logits of the batch.
        targets: `[n]` class ids of the batch, needed for `target="target"`.
        target: explained output, as in `attribute`.

    Raises:
        InputError: no class targets where they are needed, a class that does not exist, or logits
            of another shape.
    """
    if logits.ndim not in (1, 2):
        remedy = (
            "Wrap the model so that it returns one row of logits per row, e.g. `lambda x: "
            "model(x).mean(-1)`."
        )
        reject("model", "logits [n], [n, 1] or [n, k]", f"shape {list(logits.shape)}", remedy)
    n, classes = len(logits), 2 if logits.ndim == 1 else logits.shape[1]
    if target == "target":
        return ExplainedOutput(_class_targets(logits, targets))
    if target in ("predicted", "margin"):
        if logits.ndim == 1:
            return ExplainedOutput(_constant(-1, n, logits))
        if target == "predicted" or classes < 2:
            return ExplainedOutput(logits.argmax(1))
        best = logits.topk(2, dim=1).indices
        return ExplainedOutput(best[:, 0], best[:, 1])
    if not 0 <= int(target) < classes:
        expected = f"a class id in 0..{classes - 1}"
        reject("target", expected, str(target), "Choose one of the model's outputs.")
    return ExplainedOutput(_constant(int(target), n, logits))


def _class_targets(logits: Tensor, targets: Tensor | None) -> Tensor:
    """Class ids `[n]` of labels in any form."""
    labels = None if targets is None else stored_targets(targets, logits, Schema(), "loader")
    remedy = "Pass targets, or explain the `predicted` class."
    if labels is None or labels.is_floating_point() or labels.ndim != 1:
        got = "none" if targets is None else f"{targets.dtype} {list(targets.shape)}"
        reject("target", "a loader that yields class targets [n]", got, remedy)
    if missing := int((labels == IGNORED).sum()):
        reject("target", "a label for each row", f"{missing} rows of a batch without one", remedy)
    return labels


def _constant(class_id: int, n: int, logits: Tensor) -> Tensor:
    return torch.full((n,), class_id, dtype=torch.int64, device=logits.device)

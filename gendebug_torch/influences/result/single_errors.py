"""What each training row does to each error alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.influences.methods.gradients import gradient_values
from gendebug_torch.influences.scoring import SCORERS, scored_rows
from gendebug_torch.model.devices import device_context
from gendebug_torch.model.evaluation import evaluating

if TYPE_CHECKING:
    from gendebug_torch.influences.result.influences import Influences

# Values of directions that are held at once.
_DIRECTIONS = 2**28


def scores_by_query(
    found: Influences, method: str | None = None, *, batch_size: int | None = None
) -> Tensor:
    """`[n, q]` part of each training row in each error alone, positive where it feeds it.

    Sums of a column over rows predict how the margin of the answer would change with these
    rows: the linear datamodeling score is measured by them. Columns have units of their own.
    Memory holds n times q numbers, and a gigabyte of directions at once.

    Source: Park et al. (2023), arXiv:2303.14186, section 2.2. Cost: that of the method, in
    which an error takes the place of a half of them; for `curvature` once per gigabyte.

    Args:
        found: errors, training rows and network.
        method: one of `neighbours`, `gradients`, `head`, `curvature`; default the one that
            tells training from held-out rows most clearly.
        batch_size: rows at once.

    Raises:
        UnsupportedError: the method cannot answer for this network.
    """
    best = min(found.methods, key=lambda one: one.evidence.p_value).name
    name = best if method is None else method
    if name not in SCORERS:
        reject("method", f"one of {', '.join(SCORERS)}", repr(method), "Choose one of them.")
    model, each = found.question.model, torch.eye(found.question.halves.shape[1])
    # A direction of all weights is held per error; the other methods hold little of each.
    values = gradient_values(model, 1) if name == "curvature" else 1.0
    size = max(1, int(min(_DIRECTIONS, _DIRECTIONS / values)))
    parts = []
    for rows in torch.split(each.to(found.device), size):
        question = replace(found.question, halves=rows)
        with (
            device_context(found.device, "32-true"),
            evaluating(model, device=found.device),
            torch.no_grad(),
        ):
            scorer = SCORERS[name](question)
        options: dict[str, Any] = {"model": model, "device": found.device}
        options |= {"unpack": found.unpack, "batch_size": batch_size}
        parts.append(scored_rows({name: scorer}, found.train, **options)[name])
    return torch.cat(parts, 1)

"""Outputs of a network and of what is served in its place, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import logits_of, map_rows
from gendebug_torch.shift.serving.explanations import Explanation, explanations
from gendebug_torch.shift.serving.first_difference import first_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Rows on which differences are traced through the modules, and on which causes are tried.
_TRACED, _TRIED = 32, 256
# What an explanation may leave of the difference.
_EXPLAINED = 0.1


@dataclass(frozen=True)
class OutputParity:
    """How far what is served is from the network, and why.

    Args:
        outputs: outputs of the network, `[n]` or `[n, k]`.
        served: outputs of what is served, of the same shape.
        tolerance: largest difference that counts as equal, relative to the largest output.
        again: largest difference between two calls of what is served on the same rows.
        explanation: the named difference that leaves least, where it leaves a tenth or less.
        remaining: share of the mean difference that it leaves.
        first: where the two begin to differ, in words; empty where it is not known.
    """

    outputs: Tensor
    served: Tensor
    tolerance: float
    again: float = 0.0
    explanation: Explanation | None = None
    remaining: float = 1.0
    first: str = ""

    @property
    def difference(self) -> Tensor:
        """`[n]` largest difference of each row; NaN on one side alone counts as infinite."""
        gap = (self.outputs - self.served).abs().reshape(len(self.outputs), -1)
        same = (self.outputs.isnan() & self.served.isnan()).reshape(gap.shape)
        return gap.nan_to_num(torch.inf, torch.inf).masked_fill(same, 0.0).amax(1)

    @property
    def scale(self) -> float:
        """Largest finite output of the network, by which differences are judged."""
        finite = self.outputs[self.outputs.isfinite()]
        return float(finite.abs().max()) if finite.numel() else 1.0

    @property
    def limit(self) -> float:
        """Largest difference that counts as equal."""
        return self.tolerance * max(self.scale, 1e-12)

    @property
    def is_equal(self) -> bool:
        """Whether every row is within the tolerance."""
        return not bool((self.difference > self.limit).any())

    @property
    def changed(self) -> Tensor:
        """`[n]` bool, rows whose decision is another one: the class, or the sign of one logit."""
        if self.outputs.ndim == 1:
            return (self.outputs > 0) != (self.served > 0)
        return self.outputs.argmax(1) != self.served.argmax(1)

    def table(self) -> pd.DataFrame:
        """The rows that differ most: both answers and the difference."""
        import pandas as pd

        rows = self.difference.argsort(descending=True, stable=True)[:50]
        sides = [
            [", ".join(f"{value:.4g}" for value in row.reshape(-1)[:6].tolist()) for row in side]
            for side in (self.outputs[rows], self.served[rows])
        ]
        columns = {"row": rows.tolist(), "network": sides[0], "served": sides[1]}
        gaps, changed = self.difference[rows].tolist(), self.changed[rows].tolist()
        return pd.DataFrame(columns | {"difference": gaps, "changed": changed})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Every output of the network against the served one; equal ones lie on the line."""
        ax = axes(ax, size=(5.0, 4.5))
        x, y = (side.reshape(-1).double()[:5000].numpy() for side in (self.outputs, self.served))
        style: dict[str, Any] = {"s": 8, "color": LIVE, "alpha": 0.5, "edgecolors": "none"}
        ax.scatter(x, y, label="an output", **style)
        ax.axline((0, 0), slope=1, color=NEUTRAL, linewidth=1.0, label="equal")
        ax.legend(frameon=False)
        ax.set_xlabel("output of the network")
        ax.set_ylabel("output that is served")
        ax.set_title("The same rows, asked twice")
        return ax


def output_parity(
    model: Model, served: Model, inputs: Tensor, *, tolerance: float = 1e-3
) -> OutputParity:
    """The outputs of both on the same rows, what explains a difference, and where it begins.

    Every named difference (order of classes, probabilities for logits, weights rounded to half
    precision, what serving code does to images and series) is tried on the network itself; the one
    that makes it answer as the served model does is the explanation.

    Args:
        model: network to logits `[n]` or `[n, k]`; left as it was found.
        served: what is served in its place: a module or a callable of the same inputs.
        inputs: inputs of the network, `[n, ...]`.
        tolerance: largest difference that counts as equal, relative to the largest output.

    Raises:
        InputError: no rows, or outputs of other shapes.

    Cost: three forwards of the rows, and some thirty of at most 256 where they differ.

    Example:
        >>> network = torch.nn.Linear(3, 2)
        >>> rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> found = output_parity(network, lambda x: network(x).flip(1), rows)
        >>> found.is_equal, found.explanation.name
        (False, 'class_order')
    """
    outputs = _outputs(model, inputs)
    answers = _outputs(served, inputs)
    if outputs.shape != answers.shape:
        shapes = f"{list(answers.shape)} against {list(outputs.shape)} of the network"
        reject("served", "outputs of the same shape", shapes, "Return one row of logits per row.")
    found = OutputParity(outputs, answers, tolerance, _again(served, inputs[:_TRIED]))
    if found.is_equal:
        return found
    few = inputs[:_TRIED]
    with evaluating(model), evaluating(served):
        first = first_difference(model, served, inputs[:_TRACED], tolerance)
        best, left = _best_explanation(model, few, outputs[:_TRIED], answers[:_TRIED])
    explanation = best if left <= _EXPLAINED else None
    return OutputParity(outputs, answers, tolerance, found.again, explanation, left, first)


def _outputs(model: Model, inputs: Tensor) -> Tensor:
    def step(batch: Any, targets: Tensor | None) -> dict[str, Tensor]:
        return {"outputs": logits_of(model, batch)}

    return map_rows(step, inputs, model=model)["outputs"]


def _again(served: Model, inputs: Tensor) -> float:
    """Largest difference between two calls on the same rows, one after the other."""

    def step(batch: Any, targets: Tensor | None) -> dict[str, Tensor]:
        first, second = logits_of(served, batch), logits_of(served, batch)
        return {"gap": (first - second).abs().reshape(len(first), -1).amax(1)}

    return float(map_rows(step, inputs, model=served)["gap"].max())


def _best_explanation(
    model: Model, inputs: Tensor, outputs: Tensor, served: Tensor
) -> tuple[Explanation | None, float]:
    """The explanation that leaves the smallest share of the mean difference."""

    def mean_gap(answers: Tensor) -> float:
        return float((answers - served).double().abs().nan_to_num(torch.inf).mean())

    best, least = None, 1.0
    whole = mean_gap(outputs) or 1.0
    tried = explanations(model, lambda x: _outputs(model, x), inputs, outputs, served)
    for one in tried:
        share = mean_gap(one.outputs) / whole if one.outputs.shape == served.shape else 1.0
        if share < least:
            best, least = one, share
    return best, least

"""The curvature of one layer as a Kronecker product with corrected eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.influences.curvature.layer_gradients import LayerPass

# Damping relative to the mean eigenvalue. Grosse et al. take 0.1; a training that stops before its
# minimum moves less along flat directions than that lets it.
DAMPING = 1.0


@dataclass(eq=False)
class Covariances:
    """Sums over rows of the products of a layer's inputs, and of its slopes."""

    inputs: Tensor | float = 0.0
    outputs: Tensor | float = 0.0

    def add(self, seen: LayerPass) -> None:
        """Add rows; the slopes are those of losses whose squares add up to the curvature."""
        a, e = seen.inputs.flatten(0, 1), seen.slopes.flatten(0, 2)
        self.inputs = self.inputs + a.T @ a
        self.outputs = self.outputs + e.T @ e

    def bases(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors `[i, i]` of the inputs and `[o, o]` of the slopes, as columns."""
        assert isinstance(self.inputs, Tensor)
        assert isinstance(self.outputs, Tensor)
        sides = (self.inputs, self.outputs)
        inputs, outputs = (torch.linalg.eigh(side.double())[1].to(side) for side in sides)
        return inputs, outputs


@dataclass(eq=False)
class Factors:
    """Eigenbasis of a layer's curvature, and the mean square of gradients along each direction.

    Source: George et al. (2018), arXiv:1806.03884, the corrected eigenvalues; Grosse et al. (2023),
    arXiv:2308.03296, for influence.

    Args:
        inputs: eigenvectors of the inputs as columns, `[i, i]`.
        outputs: eigenvectors of the slopes, `[o, o]`.
        squares: sums of squares of gradients in this basis, `[o, i]`.
        rows: rows that were added.
    """

    inputs: Tensor
    outputs: Tensor
    squares: Tensor
    rows: int = 0

    def add(self, seen: LayerPass) -> None:
        """Add rows, whose gradients are turned into the basis."""
        turned = LayerPass(seen.inputs @ self.inputs, seen.slopes @ self.outputs)
        self.rows += len(seen.inputs)
        for loss in range(len(seen.slopes)):
            if turned.inputs.shape[1] == 1:
                # A single position: the square of a product is the product of squares.
                slopes, inputs = turned.slopes[loss, :, 0], turned.inputs[:, 0]
                self.squares += slopes.square().T @ inputs.square()
            else:
                self.squares += turned.gradients(loss).square().sum(0)

    def solved(self, gradients: Tensor) -> Tensor:
        """The inverse of the damped curvature times gradients `[h, o, i]`."""
        values = self.squares / max(1, self.rows)
        values = values + (DAMPING * values.mean()).clamp(min=1e-12)
        turned = self.outputs.T @ gradients @ self.inputs
        product: Tensor = self.outputs @ (turned / values) @ self.inputs.T
        return product


def factors_of(covariances: Covariances) -> Factors:
    """Factors without any squares yet, in the basis of the covariances."""
    inputs, outputs = covariances.bases()
    return Factors(inputs, outputs, torch.zeros(len(outputs), len(inputs)).to(inputs))

"""What a head would answer that was fitted without some training rows, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendebug_torch.data.task import Task
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.row_space import RowSpace

# Sharpness of the kernel over mean cosines, and the ridge.
_SHARPNESS, _RIDGE = 8.0, 1.0


@dataclass(frozen=True, eq=False)
class KernelHead:
    """Ridge regression of the labels on a kernel over the layers of a network.

    The kernel is `exp(8 (cos - 1))` of the mean cosine over the layers, so that the head sees what
    the last layer no longer tells apart. It is written by landmarks (Nyström), and leaving rows
    out is a subtraction of their products: every refit is exact.

    Source: Williams and Seeger (2001), NIPS, Nyström; Hoerl and Kennard (1970),
    Technometrics 12:55.

    Args:
        space: unit vectors of rows.
        form: how answers are compared.
        landmarks: vectors `[l, w]`.
        whitening: `[l, r]`, from kernel values to features.
    """

    space: RowSpace
    form: AnswerForm
    landmarks: Tensor
    whitening: Tensor

    def features(self, inputs: Any) -> Tensor:
        """`[b, r + 1]` features of rows, the last one constant."""
        vectors, _ = self.space(inputs)
        values = _kernel(vectors, self.landmarks) @ self.whitening
        return torch.cat([values, torch.ones_like(values[:, :1])], 1)

    def truth(self, labels: Tensor) -> Tensor:
        """`[b, k]` what the head is fitted to."""
        if self.form.task in (Task.BINARY, Task.MULTICLASS):
            return one_hot(labels, max(2, self.form.outputs)).float()
        return labels.float().reshape(len(labels), -1)

    def answers(self, scores: Tensor) -> Tensor:
        """Answers in the form of labels, from the outputs of the head."""
        if self.form.task in (Task.BINARY, Task.MULTICLASS):
            return scores.argmax(1)
        return (scores > 0.5).long() if self.form.task is Task.MULTILABEL else scores


def kernel_head(space: RowSpace, form: AnswerForm, inputs: Any) -> KernelHead:
    """A head whose landmarks are some training rows.

    Args:
        space: unit vectors of rows.
        form: how answers are compared.
        inputs: inputs of the landmarks.
    """
    landmarks, _ = space(inputs)
    values, vectors = torch.linalg.eigh(_kernel(landmarks, landmarks).double())
    kept = values > 1e-6 * values.max()
    whitening = (vectors[:, kept] / values[kept].sqrt()).float()
    return KernelHead(space, form, landmarks, whitening)


def ridge_weights(products: Tensor, moments: Tensor) -> Tensor:
    """`[r, k]` weights of the head from sums over rows.

    Args:
        products: sum of the outer products of features, `[r, r]` float64.
        moments: sum of the products of features and labels, `[r, k]` float64.
    """
    eye = torch.eye(len(products), dtype=products.dtype, device=products.device)
    weights: Tensor = torch.linalg.solve(products + _RIDGE * eye, moments)
    return weights


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(_SHARPNESS * (a @ b.T - 1))

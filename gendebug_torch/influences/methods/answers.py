"""Answers and labels as one idea: how far a label says the same as an answer, and its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task


@dataclass(frozen=True)
class AnswerForm:
    """How answers of a task are compared.

    Args:
        task: question that the network answers.
        outputs: number of its outputs; 1 for one logit or one quantity.
        unit: difference of quantities that counts as a wrong answer; 1 for labels.
    """

    task: Task
    outputs: int
    unit: float = 1.0

    @property
    def classes(self) -> bool:
        """Whether an answer is one class, so that a label agrees with it or not."""
        return self.task in (Task.BINARY, Task.MULTICLASS)

    def agreement(self, labels: Tensor, answers: Tensor) -> Tensor:
        """`[b, m]` share of each answer that each label supports, in [0, 1].

        Classes agree or not; several labels or quantities lose half per label, or per unit squared.

        Args:
            labels: `[b]` class ids, or `[b, k]` labels or quantities.
            answers: `[m]` or `[m, k]` likewise.
        """
        if self.classes:
            return (labels[:, None] == answers[None]).float()
        a, b = (value.float().reshape(len(value), -1) for value in (labels, answers))
        return (1 - torch.cdist(a, b).square() / (2 * self.unit**2)).clamp(min=0.0)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the training losses of rows: nats, or half the squared error.

        Args:
            logits: `[b]` or `[b, k]`.
            labels: `[b]` or `[b, k]`.
        """
        if self.task is Task.REGRESSION:
            return (logits.reshape(labels.shape) - labels).square().sum() / 2
        if self.task is Task.MULTILABEL or logits.ndim == 1:
            return binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
        return cross_entropy(logits, labels, reduction="sum")

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Gradient of the loss by the outputs, `[b, k]`."""
        z = logits.reshape(len(logits), -1)
        if self.task is Task.REGRESSION:
            return z - labels.reshape(z.shape).to(z)
        if self.task is Task.MULTILABEL or z.shape[1] == 1:
            return z.sigmoid() - labels.reshape(z.shape).to(z)
        return z.softmax(1) - one_hot(labels, z.shape[1]).to(z)

    def curvature(self, logits: Tensor) -> Tensor:
        """Second derivative of the loss by the outputs, `[b, k, k]`."""
        z = logits.reshape(len(logits), -1)
        if self.task is Task.REGRESSION:
            return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)
        if self.task is Task.MULTILABEL or z.shape[1] == 1:
            probs = z.sigmoid()
            return torch.diag_embed(probs * (1 - probs))
        probs = z.softmax(1)
        return torch.diag_embed(probs) - probs[:, :, None] * probs[:, None]

    def curvature_roots(self, logits: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """`[c, b, k]` slopes by the outputs, whose outer products add up to the curvature.

        As many as there are outputs, so that the sum is exact, or `most` drawn ones, which hold on
        average.

        Args:
            logits: `[b]` or `[b, k]`.
            most: most slopes per row.
            generator: source of the draws, on the host.
        """
        z = logits.reshape(len(logits), -1)
        k = z.shape[1]
        if self.task is Task.MULTICLASS or (self.task is Task.BINARY and k > 1):
            probs = z.softmax(1)
            if k <= most:
                classes = torch.eye(k).to(probs)
                exact: Tensor = probs.T.sqrt()[:, :, None] * (probs - classes[:, None])
                return exact
            drawn = torch.multinomial(probs.cpu(), most, replacement=True, generator=generator)
            sampled: Tensor = (probs - one_hot(drawn.T, k).to(probs)) / most**0.5
            return sampled
        root = torch.ones_like(z) if self.task is Task.REGRESSION else z.sigmoid()
        root = root if self.task is Task.REGRESSION else (root * (1 - root)).sqrt()
        if k <= most:
            return torch.diag_embed(root).movedim(1, 0)
        signs = torch.randint(2, (most, *root.shape), generator=generator).mul_(2).sub_(1)
        scaled: Tensor = root * signs.to(root) / most**0.5
        return scaled

    def strata(self, labels: Tensor) -> Tensor:
        """`[n]` int64 groups of rows whose labels can be compared: classes, or tenths."""
        if self.classes:
            return labels.long()
        first = labels.float().reshape(len(labels), -1)
        if self.task is Task.MULTILABEL:
            groups: Tensor = torch.unique(first, dim=0, return_inverse=True)[1]
            return groups
        edges = first[:, 0].quantile(torch.linspace(0.1, 0.9, 9, device=first.device))
        return torch.bucketize(first[:, 0].contiguous(), edges)


def answers_of(records: Records) -> Tensor:
    """What the network answered: class ids `[n]`, labels or quantities `[n, k]`.

    A binary network answers yes above the threshold of the schema, 0.5 without one.
    """
    if records.task is Task.REGRESSION:
        assert records.logits is not None
        return records.logits.float()
    if records.task is Task.BINARY and records.schema.threshold is not None:
        probs = records.probs
        positive = probs if probs.ndim == 1 else probs[:, 1]
        return (positive > records.schema.threshold).long()
    return records.predicted

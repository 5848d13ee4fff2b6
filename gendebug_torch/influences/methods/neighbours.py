"""Training rows that look like the errors, carry their answer, and look unlike right answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.method import (
    NEAREST,
    Question,
    Scorer,
    largest,
    mean_of_nearest,
)

# Similarity from which two rows are the same.
_SAME = 1 - 1e-5


def neighbour_scores(question: Question) -> Scorer:
    """Similarity to errors whose answer is the row's label, less that to right answers of it.

    A row that taught the network an error looks like the error and has its answer as label; a good
    row of that label looks like other rows that are rightly answered so. Similarity is the mean
    cosine over the layers of the network, from the input on: the last layer alone has forgotten
    what a wrong label made it forget. The score is -1 where no error has the row's label.

    Source: Papernot and McDaniel (2018), arXiv:1803.04765, nearest training rows over all layers;
    Rajani et al. (2020), arXiv:2010.09030, neighbours as explanations. Deviation: labels weigh the
    neighbours, and right answers are the contrast. O(b w (q + r)).

    Args:
        question: rows to explain and to compare with.
    """
    space, form = question.space, question.form
    errors, _ = space(question.queries.inputs)
    right, right_labels = errors[:0], question.right.labels
    if right_labels is not None and len(right_labels):
        right, _ = space(question.right.inputs)
    pairs = _agreeing(form, right_labels if len(right) else None)
    means = mean_of_nearest(question.halves)

    def score(inputs: Any, labels: Tensor) -> Tensor:
        vectors, _ = space(inputs)
        near = form.agreement(question.queries.answers, labels).mul_(errors @ vectors.T)
        towards = means(near)
        against = torch.zeros_like(towards[:, :1])
        for rows, others in pairs(labels):
            cosines = vectors[rows] @ right[others].T
            # A row is no witness for itself, and neither is its copy.
            cosines.masked_fill_(cosines > _SAME, 0.0)
            if not form.classes:
                assert right_labels is not None
                cosines.mul_(form.agreement(labels[rows], right_labels[others]))
            nearest = largest(cosines).clamp_(min=0.0).sum(1, keepdim=True)
            against[rows] = nearest / min(NEAREST, len(right))
        return torch.where(towards > 0, towards - against, -1.0)

    return score


def _agreeing(
    form: AnswerForm, right_labels: Tensor | None
) -> Callable[[Tensor], Iterator[tuple[Tensor | slice, Tensor | slice]]]:
    """From labels to rows and right answers whose labels may agree: class by class where it is one.

    Args:
        form: how answers are compared.
        right_labels: labels of the right answers; None where there are none.
    """
    rows_of = _rows_by_class(right_labels) if form.classes and right_labels is not None else {}

    def pairs(labels: Tensor) -> Iterator[tuple[Tensor | slice, Tensor | slice]]:
        if not form.classes and right_labels is not None:
            yield slice(None), slice(None)
        elif rows_of:
            for label, rows in _rows_by_class(labels).items():
                if label in rows_of:
                    yield rows, rows_of[label]

    return pairs


def _rows_by_class(labels: Tensor) -> dict[int, Tensor]:
    """The rows of each class that there is."""
    classes, counts = torch.unique(labels, return_counts=True)
    rows = torch.split(labels.argsort(stable=True), counts.tolist())
    return dict(zip(classes.tolist(), rows, strict=True))


def query_similarity(question: Question, inputs: Any, labels: Tensor) -> Tensor:
    """`[b, q]` similarity of each row to each query, where the label is the query's answer."""
    vectors, _ = question.space(inputs)
    errors, _ = question.space(question.queries.inputs)
    return (vectors @ errors.T) * question.form.agreement(labels, question.queries.answers)

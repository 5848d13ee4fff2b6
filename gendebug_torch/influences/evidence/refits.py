"""Refits without some training rows: of a head in closed form, or of the whole by the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.influences.evidence.confirmation import Refit
from gendebug_torch.influences.evidence.refit import KernelHead, kernel_head, ridge_weights
from gendebug_torch.influences.methods.answers import answers_of
from gendebug_torch.influences.questions import training_inputs
from gendebug_torch.model.batches import cut, rows_of
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.model.devices import device_context
from gendebug_torch.model.evaluation import evaluating
from gendebug_torch.model.runner import as_model_takes, map_rows

if TYPE_CHECKING:
    from gendebug_torch.influences.result.influences import Influences

_LANDMARKS = 600


def head_refit(influences: Influences) -> Refit:
    """Refits of a head on the layers of the network.

    Args:
        influences: what was found.
    """
    question, device = influences.question, influences.device
    with (
        device_context(device, "32-true"),
        evaluating(question.model, device=device),
        torch.no_grad(),
    ):
        some = min(_LANDMARKS, rows_of(question.sample.inputs))
        head = kernel_head(question.space, question.form, cut(question.sample.inputs, 0, some))
        errors = head.features(question.queries.inputs).double()
    options: dict[str, Any] = {"model": question.model, "device": device, "alone": True}
    held_out = errors[:0]
    if influences.sides.reference is not None:
        found = map_rows(_features(head), influences.sides.reference, **options)
        held_out = found["features"].to(device).double()
    sums = _Sums(head)
    map_rows(sums.step, influences.train, unpack=influences.unpack, **options)

    def refit(rows: Tensor) -> tuple[Tensor, Tensor]:
        less = _Sums(head)
        inputs = training_inputs(influences.train, rows, influences.unpack)
        with evaluating(question.model, device=device), torch.no_grad():
            less.step(
                as_model_takes(inputs, question.model, device), influences.labels[rows].to(device)
            )
        weights = ridge_weights(sums.products - less.products, sums.moments - less.moments)
        return head.answers(errors @ weights).cpu(), head.answers(held_out @ weights).cpu()

    return refit


def _features(head: KernelHead) -> Callable[[Any, Tensor | None], dict[str, Tensor]]:
    return lambda inputs, _: {"features": head.features(inputs)}


class _Sums:
    """Sums over rows of the products of features, and of features and labels."""

    def __init__(self, head: KernelHead) -> None:
        self.head = head
        self.products = self.moments = torch.zeros((), dtype=torch.float64)

    def step(self, inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        """Add a batch; nothing is kept of its rows."""
        assert targets is not None
        features, truth = (
            part.double() for part in (self.head.features(inputs), self.head.truth(targets))
        )
        self.products = self.products.to(features) + features.T @ features
        self.moments = self.moments.to(features) + features.T @ truth
        return {"labels": targets}


def own_refit(influences: Influences, fit: Callable[[Records], Any]) -> Refit:
    """Refits of the whole network by the user's function.

    Args:
        influences: what was found.
        fit: function from training records to a network.

    Raises:
        InputError: the training rows are a loader.
    """
    train, sides = influences.train, influences.sides
    if not isinstance(train, Records):
        remedy = "Pass the training rows as Records."
        reject("fit", "training rows that can be left out", type(train).__name__, remedy)

    def answers(model: Any, records: Records | None) -> Tensor:
        if records is None:
            return torch.zeros(0)
        bare = Records(records.features, records.targets, schema=records.schema, task=records.task)
        return answers_of(collect(model, bare, device=influences.device)).cpu()

    def refit(rows: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.ones(len(train), dtype=torch.bool)
        kept[rows] = False
        model = fit(train.select(kept))
        return answers(model, sides.errors), answers(model, sides.reference)

    return refit

"""Rows whose gradients point as those of the errors, over all weights, randomly projected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gendebug_torch.errors import UnsupportedError
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.method import Question, Scorer, mean_of_nearest
from gendebug_torch.influences.methods.row_space import plain_module
from gendebug_torch.influences.methods.sketch import sketch_plan, sketched
from gendebug_torch.model.batches import cut, leaves
from gendebug_torch.model.runner import output_tensor

# Length of the sketches, and values of gradients held at once.
_WIDTH, _VALUES = 2048, 2**26
State = Mapping[str, Tensor]


def gradient_scores(question: Question) -> Scorer:
    """Cosine of a row's gradient with those of the errors: training on the row feeds them.

    Gradients of single rows by all weights are projected to 2048 values on the device, so that
    neither the rows nor the weights are held together. The gradient of an error is that of the loss
    of its answer less that of the truth. Cosines are averaged over checkpoints, where the question
    holds any; the mean over the five nearest errors is scored.

    Source: Pruthi et al. (2020), arXiv:2002.08484, TracIn; Park et al. (2023), arXiv:2303.14186,
    TRAK, projected gradients; Barshan et al. (2020), arXiv:2003.11630, cosines. Deviations: a
    sparse projection (Hu et al., 2025, arXiv:2505.18976), no curvature, checkpoints weigh alike.
    Cost: a forward and backward pass of each row for each checkpoint.

    Args:
        question: rows to explain.

    Raises:
        UnsupportedError: gradients of single rows cannot be taken of this network.
    """
    gradients = _RowGradients(plain_module(question.model), question.form, question.checkpoints)
    towards = gradients(question.queries.inputs, question.queries.answers)
    if question.queries.labels is not None:
        towards = towards - gradients(question.queries.inputs, question.queries.labels)
    errors = _units(towards)
    means = mean_of_nearest(question.halves)

    def score(inputs: Any, labels: Tensor) -> Tensor:
        return means(errors @ _units(gradients(inputs, labels)).T)

    return score


def _units(sketches: Tensor) -> Tensor:
    """`[b, c w]` of sketches `[b, c, w]`, whose products are mean cosines over c checkpoints."""
    return nn.functional.normalize(sketches, dim=2).flatten(1) / math.sqrt(sketches.shape[1])


class _RowGradients:
    """Sketches `[b, c, w]` of the gradients of single rows by all weights, at c checkpoints."""

    def __init__(self, model: Any, form: AnswerForm, checkpoints: tuple[State, ...]) -> None:
        own = model.named_parameters() if isinstance(model, nn.Module) else ()
        weights = {name: p.detach() for name, p in own if p.is_floating_point()}
        if not weights or isinstance(model, torch.jit.ScriptModule):
            raise UnsupportedError("the network shows no weights to take gradients by")
        self.length = sum(weight.numel() for weight in weights.values())
        device = next(iter(weights.values())).device
        self.plan = sketch_plan(self.length, _WIDTH, device)
        states = [{k: v.to(device) for k, v in state.items()} for state in checkpoints] or [weights]
        # By the weights alone, and not by running statistics that a state holds as well.
        self.moments = [
            ({k: state[k] for k in weights}, {k: v for k, v in state.items() if k not in weights})
            for state in states
        ]

        def loss(weights: State, fixed: State, row: list[Tensor], label: Tensor) -> Tensor:
            inputs = tuple(part[None] for part in row)
            logits = output_tensor(functional_call(model, {**weights, **fixed}, inputs)).float()
            if not logits.ndim:
                # Squeezed: the row of a batch of one.
                logits = logits[None]
            one = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
            return form.loss(one, label[None])

        self.of_rows = vmap(grad(loss), (None, None, 0, 0), randomness="same")

    def __call__(self, inputs: Any, labels: Tensor) -> Tensor:
        rows = max(1, _VALUES // self.length)
        pieces = [
            self._sketches(cut(inputs, at, at + rows), labels[at : at + rows])
            for at in range(0, len(labels), rows)
        ]
        return torch.cat(pieces)

    def _sketches(self, inputs: Any, labels: Tensor) -> Tensor:
        rows = list(leaves(inputs))
        try:
            with torch.enable_grad():
                slopes = [self.of_rows(*moment, rows, labels) for moment in self.moments]
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if "out of memory" in str(error):
                raise
            reason = str(error).partition("\n")[0][:200]
            raise UnsupportedError(
                f"gradients of single rows cannot be taken of this network ({reason})"
            ) from error
        flat = (torch.cat([part.flatten(1) for part in slope.values()], 1) for slope in slopes)
        return torch.stack([sketched(whole, *self.plan, _WIDTH) for whole in flat], 1)


def gradient_values(model: Any, rows: int) -> float:
    """Values of gradients of so many rows; infinite where there are no gradients."""
    plain = plain_module(model)
    own = list(plain.parameters()) if isinstance(plain, nn.Module) else []
    return float(rows * sum(p.numel() for p in own)) if own else float("inf")

"""Influence through the last linear layer, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import UnsupportedError
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.method import Question, Scorer
from gendebug_torch.influences.methods.row_space import layer_inputs, plain_module
from gendebug_torch.model.runner import logits_of

# Parameters up to which the curvature is exact, and damping relative to its mean diagonal.
_EXACT, _DAMPING = 2048, 0.1


def head_scores(question: Question) -> Scorer:
    """Rise of the margin of the errors when a row weighs more, through the last linear layer.

    With `h` the input of the layer, `e` the gradient of the loss by the outputs and `d` the change
    of outputs from the truth to the error, the score is `-(d h_q)' H^-1 (e h)`. The curvature `H`
    of the layer is exact up to 2048 parameters, else a Kronecker product.

    Source: Koh and Liang (2017), arXiv:1703.04730; Barshan et al. (2020), arXiv:2003.11630, last
    layer; Martens and Grosse (2015), arXiv:1503.05671, for the product.

    Args:
        question: rows to explain.

    Raises:
        UnsupportedError: the outputs are not those of a linear layer.
    """
    form, name = question.form, _last_linear(question)

    def parts(inputs: Any) -> tuple[Tensor, Tensor]:
        with layer_inputs(plain_module(question.model)) as seen:
            logits = logits_of(plain_module(question.model), inputs)
        hidden = seen[name].double()
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1), logits.double()

    hidden, logits = parts(question.sample.inputs)
    queries, query_logits = parts(question.queries.inputs)
    slope = _error_direction(form, query_logits, question)
    outer = slope[:, :, None] * queries[:, None]
    gradient = torch.einsum("hq,qkw->hkw", question.halves.double(), outer)
    solved = _solved(hidden, form.curvature(logits), gradient)

    def score(inputs: Any, labels: Tensor) -> Tensor:
        rows, outputs = parts(inputs)
        residual = form.residual(outputs, labels)
        return -torch.einsum("bk,hkw,bw->bh", residual, solved, rows).float()

    return score


def _error_direction(form: AnswerForm, logits: Tensor, question: Question) -> Tensor:
    """`[q, k]` change of the outputs from the truth to what the network answered."""
    answered = -form.residual(logits, question.queries.answers)
    if question.queries.labels is None:
        return answered
    return answered + form.residual(logits, question.queries.labels)


def _last_linear(question: Question) -> str:
    """Name of the linear layer that gives the outputs."""
    model = plain_module(question.model)
    with layer_inputs(model) as seen:
        logits_of(model, question.queries.inputs)
    layers = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    name = next(reversed(seen), "")
    last = layers.get(name)
    if not isinstance(last, nn.Linear) or last.out_features != question.form.outputs:
        raise UnsupportedError("the network does not end in a linear layer that can be watched")
    if seen[name].ndim != 2:
        raise UnsupportedError("the last layer is applied to several positions of a row")
    return name


def _solved(hidden: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """`H^-1` times gradients `[h, k, w]` by the weights of the layer."""
    h, k, w = gradient.shape
    if k * w <= _EXACT:
        hessian = torch.einsum("bkl,bv,bw->kvlw", curvature, hidden, hidden) / len(hidden)
        flat = _damped(hessian.reshape(k * w, k * w))
        exact: Tensor = torch.linalg.solve(flat, gradient.reshape(h, -1).T)
        return exact.T.reshape(h, k, w)
    inputs = _damped(hidden.T @ hidden / len(hidden))
    outputs = _damped(curvature.mean(0))
    factored: Tensor = torch.linalg.solve(outputs, torch.linalg.solve(inputs, gradient.mT).mT)
    return factored


def _damped(matrix: Tensor) -> Tensor:
    size = matrix.diagonal().mean().clamp(min=1e-12)
    return matrix + _DAMPING * size * torch.eye(len(matrix), dtype=matrix.dtype).to(matrix)

"""Influence by the gradients of all linear and convolutional layers and their curvature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import UnsupportedError
from gendebug_torch.influences.curvature.factors import Covariances, Factors, factors_of
from gendebug_torch.influences.curvature.layer_gradients import (
    LayerPass,
    Slopes,
    State,
    layer_passes,
    watchable_layers,
)
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.method import Question, Scorer
from gendebug_torch.influences.methods.row_space import plain_module
from gendebug_torch.model.batches import cut, leaves

# Losses whose squares add up to the curvature, widest layer whose factors are taken, values of
# gradients that are held at once, and most rows in a pass.
_LOSSES, _WIDEST, _VALUES, _ROWS = 16, 4096, 2**24, 512


def curvature_scores(question: Question) -> Scorer:
    """Rise of the margin of the errors when a row weighs more, through all layers.

    With `g` the gradient of a row's loss and `d` that of the loss of the network's answer less that
    of the truth, the score is `d' H^-1 g`, summed over linear and convolutional layers. The
    curvature `H` of each is a Kronecker product whose eigenvalues are the mean squares of gradients
    along its eigenvectors, from 2,000 training rows and all classes (16 drawn ones of more). Scores
    are averaged over checkpoints, where the question holds any.

    Source: Grosse et al. (2023), arXiv:2308.03296, sections 2.2 and 3.1, EK-FAC. Deviations: the
    expectation over classes is a sum, not a draw; damping by the mean eigenvalue of a layer, not a
    tenth of it. Cost: a forward and backward pass of each row for
    each checkpoint, 32 passes of the sample, and eigenvectors of factors up to 4096 wide.

    Args:
        question: rows to explain.

    Raises:
        UnsupportedError: no layer of the network can be watched.
    """
    model, form = plain_module(question.model), question.form
    moments = [
        _Moment(model, _layers(model, state, question.sample.inputs), state)
        for state in (question.checkpoints or ({},))
    ]
    directions = [_directions(moment, question) for moment in moments]

    def score(inputs: Any, labels: Tensor) -> Tensor:
        total = torch.zeros(len(labels), len(question.halves), device=labels.device)
        for moment, direction in zip(moments, directions, strict=True):
            for at, passes in moment.passes(inputs, labels, form):
                for name, seen in passes.items():
                    total[at] += seen.gradients().flatten(1) @ direction[name].flatten(1).T
        return total / len(moments)

    return score


@dataclass(frozen=True, eq=False)
class _Moment:
    """A network with the weights of a checkpoint.

    Args:
        model: network.
        layers: layers that are watched.
        state: weights in place of its own; may be empty.
    """

    model: nn.Module
    layers: dict[str, nn.Module]
    state: State

    def passes(
        self, inputs: Any, labels: Tensor, form: AnswerForm
    ) -> Iterator[tuple[slice, dict[str, LayerPass]]]:
        """Positions of some rows, and their gradients of the loss of their labels."""
        for at in self._parts(inputs):
            residual = partial(_residual, form, labels[at])
            yield at, self._pass(inputs, at, residual)

    def curved(self, inputs: Any, form: AnswerForm) -> Iterator[dict[str, LayerPass]]:
        """Gradients of losses whose squares add up to the curvature."""
        generator = torch.Generator().manual_seed(0)
        for at in self._parts(inputs):
            yield self._pass(inputs, at, lambda z: form.curvature_roots(z, _LOSSES, generator))

    def _pass(self, inputs: Any, at: slice, slopes: Slopes) -> dict[str, LayerPass]:
        some = cut(inputs, at.start, at.stop)
        return layer_passes(self.model, self.layers, self.state, some, slopes)

    def _parts(self, inputs: Any) -> Iterator[slice]:
        """As many rows at once as gradients of the largest layer may be held."""
        largest = max(_weights(layer) for layer in self.layers.values())
        size = min(_ROWS, max(1, _VALUES // largest))
        for start in range(0, len(next(leaves(inputs))), size):
            yield slice(start, start + size)


def _residual(form: AnswerForm, labels: Tensor, logits: Tensor) -> Tensor:
    """Slopes of the loss of labels, `[1, b, k]`."""
    return form.residual(logits, labels)[None]


def _weights(layer: nn.Module) -> int:
    """Weights of a layer."""
    return sum(weight.numel() for weight in layer.parameters(recurse=False))


def _layers(model: Any, state: State, inputs: Any) -> dict[str, nn.Module]:
    """The layers that can be watched and whose factors are not too wide."""
    layers = {
        name: layer
        for name, layer in watchable_layers(model, cut(inputs, 0, 2)).items()
        if max(_widths(layer)) <= _WIDEST
    }
    if not layers:
        raise UnsupportedError("the network has no linear or convolutional layer to watch")
    return layers


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Outputs of a layer, and inputs of each."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return len(weight), weight[0].numel()


def _directions(moment: _Moment, question: Question) -> dict[str, Tensor]:
    """`[h, o, i]` of each layer: which gradients of a row push towards the errors."""
    factors = _factors(moment, question.sample.inputs, question.form)
    queries = question.queries
    sums: dict[str, Tensor] = {}
    for labels, sign in ((queries.answers, 1.0), (queries.labels, -1.0)):
        if labels is None:
            continue
        for at, passes in moment.passes(queries.inputs, labels, question.form):
            weights = sign * question.halves[:, at]
            for name, seen in passes.items():
                pushed = weights @ seen.gradients().flatten(1)
                sums[name] = pushed if name not in sums else sums[name] + pushed
    return {
        name: factor.solved(sums[name].reshape(-1, len(factor.outputs), len(factor.inputs)))
        for name, factor in factors.items()
    }


def _factors(moment: _Moment, inputs: Any, form: AnswerForm) -> dict[str, Factors]:
    """The curvature of each layer, from two passes over some training rows."""
    covariances = {name: Covariances() for name in moment.layers}
    for passes in moment.curved(inputs, form):
        for name, seen in passes.items():
            covariances[name].add(seen)
    factors = {name: factors_of(one) for name, one in covariances.items()}
    for passes in moment.curved(inputs, form):
        for name, seen in passes.items():
            factors[name].add(seen)
    return factors

"""Small networks, many trained at once: batched weights, written-out gradients, Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Answer = Literal["class", "labels", "quantity"]
_MOMENTUM, _MEMORY, _TINY = 0.9, 0.999, 1e-8
_DECAY = 1e-3


@dataclass(frozen=True)
class Truth:
    """What networks are to answer.

    Args:
        values: class ids `[n]` int64; or answers of 0 and 1, or quantities, `[n, k]` float32, where
            NaN is unknown.
        kind: `class` (softmax), `labels` (a sigmoid each) or `quantity` (squared error).
        outputs: number of outputs k.
    """

    values: Tensor
    kind: Answer
    outputs: int

    def residual(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the loss by the outputs, `[..., k]`; it is 0 where the truth is unknown.

        Args:
            outputs: answers of networks, `[..., k]`.
            rows: rows that they are about, `[...]` int64.
        """
        if self.kind == "class":
            truth, ones = self.values[rows].unsqueeze(-2), outputs.new_ones(())
            probs = outputs.mT.softmax(-2)
            return probs.scatter_add_(-2, truth, -ones.expand(truth.shape)).mT
        mean = outputs.sigmoid() if self.kind == "labels" else outputs
        return (mean - self.values[rows]).nan_to_num_(0.0)

    def loss(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Loss of each row, `[...]`: nats, or half the squared error."""
        values = self.values[rows]
        if self.kind == "class":
            return -outputs.mT.log_softmax(-2).gather(-2, values.unsqueeze(-2)).squeeze(-2)
        if self.kind == "labels":
            nats = nn.functional.softplus(outputs) - outputs * values
        else:
            nats = (outputs - values).square() / 2
        return nats.nan_to_num(0.0).sum(-1)


class Networks:
    """m networks with ReLU layers as views of one flat vector of parameters.

    Answers and their slopes lie in memory by output and not by row: products of matrices with few
    columns, and softmax over neighbours in memory, take several times as long.

    Args:
        m: number of networks.
        sizes: number of inputs, of the units of each hidden layer, and of outputs.
        generator: source of the first weights.
        device: where they are trained.
    """

    def __init__(
        self, m: int, sizes: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> None:
        shapes = list(pairwise(sizes))
        self._shapes = [*shapes, *((1, outputs) for _, outputs in shapes)]
        per_network = sum(a * b for a, b in self._shapes)
        self._vector = torch.zeros(m, per_network, device=device)
        self._gradient = torch.zeros_like(self._vector)
        self._first, self._second = torch.zeros_like(self._vector), torch.zeros_like(self._vector)
        self._steps = 0
        self._view()
        # Small last weights: the first predictions are the same for all rows.
        for i, (inputs, outputs) in enumerate(shapes):
            gain = 0.01 if i == len(shapes) - 1 else 2.0
            drawn = torch.randn(m, inputs, outputs, generator=generator)
            self.weights[i].copy_(drawn * math.sqrt(gain / max(inputs, 1)))

    def _view(self) -> None:
        self._parameters = self._parts(self._vector)
        self._slopes = self._parts(self._gradient)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Weights `[m, inputs, outputs]` of each layer, then biases `[m, 1, outputs]`, as views."""
        pieces = torch.split(vector, [a * b for a, b in self._shapes], 1)
        return [p.view(-1, b, a).mT for p, (a, b) in zip(pieces, self._shapes, strict=True)]

    @property
    def weights(self) -> list[Tensor]:
        """Weights of each layer, `[m, inputs, outputs]`."""
        return self._parameters[: len(self._shapes) // 2]

    @property
    def biases(self) -> list[Tensor]:
        """Biases of each layer, `[m, 1, outputs]`."""
        return self._parameters[len(self._shapes) // 2 :]

    @property
    def gradients(self) -> list[Tensor]:
        """Gradients of the last step, of the weights and then of the biases."""
        return self._slopes

    def keep(self, networks: Tensor) -> None:
        """Go on with some of the networks only, `[j]` int64."""
        for name in ("_vector", "_gradient", "_first", "_second"):
            setattr(self, name, getattr(self, name)[networks].contiguous())
        self._view()

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs `[m, b, k]` of inputs `[m, b, d]`."""
        return self._layers(x)[-1]

    def _layers(self, x: Tensor) -> list[Tensor]:
        layers = [x]
        *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for weights, biases in hidden:
            layers.append(torch.baddbmm(biases, layers[-1], weights).relu_())
        layers.append(torch.baddbmm(bias.mT, weight.mT, layers[-1].mT).mT)
        return layers

    def step(self, x: Tensor, truth: Truth, rows: Tensor, rate: float) -> None:
        """One step of Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

        Args:
            x: inputs, `[m, b, d]`.
            truth: what they are to answer.
            rows: rows that the inputs belong to, `[m, b]` int64.
            rate: learning rate.
        """
        layers = self._layers(x)
        slope = truth.residual(layers[-1], rows) / x.shape[1]
        weights = self.weights
        for i in reversed(range(len(weights))):
            self._slopes[i].copy_(torch.bmm(slope.mT, layers[i]).mT)
            self._slopes[len(weights) + i].copy_(slope.sum(1, keepdim=True))
            if i:
                slope = torch.bmm(slope, weights[i].mT).mul_(layers[i].sign())
        self._steps += 1
        self._first.lerp_(self._gradient, 1 - _MOMENTUM)
        self._second.mul_(_MEMORY).addcmul_(self._gradient, self._gradient, value=1 - _MEMORY)
        scale = math.sqrt(1 - _MEMORY**self._steps)
        spread = self._second.sqrt().div_(scale).add_(_TINY)
        self._vector.mul_(1 - rate * _DECAY)
        self._vector.addcdiv_(self._first, spread, value=-rate / (1 - _MOMENTUM**self._steps))

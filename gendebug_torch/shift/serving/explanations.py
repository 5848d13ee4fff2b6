"""What a served model may do differently, reproduced on the network: rows, weights, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gendebug_torch.modality.detection import modality_of
from gendebug_torch.model.runner import as_model_takes

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Explanation:
    """A difference with a name, and the outputs that the network would have with it.

    Args:
        name: short name, e.g. `softmax` or `channel_order`.
        text: what it is, to go on after "it answers as if".
        outputs: outputs of the network with it, `[n, ...]`.
    """

    name: str
    text: str
    outputs: Tensor


def explanations(
    model: Callable[..., Tensor], forward: Forward, inputs: Tensor, outputs: Tensor, served: Tensor
) -> Iterator[Explanation]:
    """Every named difference that can be tried on these outputs, the cheap ones first.

    Args:
        model: network, whose weights are rounded where it is a module.
        forward: inputs `[n, ...]` -> its outputs.
        inputs: inputs of the network, `[n, ...]`.
        outputs: its outputs, `[n]` or `[n, k]`.
        served: outputs of what is served, of the same shape.
    """
    yield from _of_outputs(outputs, served)
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        yield from _of_weights(model, inputs)
    if (modality := modality_of(inputs)) is not None:
        for change in modality.changes(inputs, inputs):
            changed = change.apply(inputs)
            if not torch.equal(changed, inputs):
                yield Explanation(change.name, change.text, forward(changed))


def _of_outputs(outputs: Tensor, served: Tensor) -> Iterator[Explanation]:
    """Classes in another order, and probabilities in place of logits or the other way round."""
    if outputs.ndim == 2:
        order = _class_order(outputs, served)
        if order != list(range(len(order))):
            text = f"its classes are in another order: {order}"
            yield Explanation("class_order", text, outputs[:, order])
        text = "it returns probabilities (softmax) and not logits"
        yield Explanation("softmax", text, outputs.softmax(1))
        text = "it returns log-probabilities and not logits"
        yield Explanation("log_softmax", text, outputs.log_softmax(1))
    text = "it returns probabilities (sigmoid) and not logits"
    yield Explanation("sigmoid", text, outputs.sigmoid())
    yield Explanation("negated", "its outputs have the opposite sign", -outputs)


def _class_order(outputs: Tensor, served: Tensor) -> list[int]:
    """For each served column the column of the network that is nearest, each used once."""
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(served.T[None], outputs.T[None], p=1.0)[0]
    return [int(column) for column in linear_sum_assignment(distances.nan_to_num(1e30).numpy())[1]]


def _of_weights(model: nn.Module, inputs: Tensor) -> Iterator[Explanation]:
    """Weights rounded to half precision, computed with in their own type."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    inputs = as_fed(model, inputs)
    for dtype, name in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
        rounded = {
            key: weight.to(dtype).to(weight.dtype) if weight.is_floating_point() else weight
            for key, weight in weights.items()
        }
        with torch.no_grad():
            answers = functional_call(model, rounded, (inputs,))
        text = f"its weights were rounded to {name}"
        yield Explanation(name, text, _as_outputs(answers))


def as_fed(network: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs on the device and in the type of a network's weights."""
    device = next((weight.device for weight in network.parameters()), inputs.device)
    fed: Tensor = as_model_takes(inputs, network, device)
    return fed


def _as_outputs(answers: Tensor) -> Tensor:
    column = answers.ndim == 2 and answers.shape[1] == 1
    return (answers[:, 0] if column else answers).float().cpu()

"""Functions of arrays and fitted estimators as models: from a Tensor of inputs to one of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendebug_torch.data.tables import logits_of_probs
from gendebug_torch.errors import reject

_METHODS = ("decision_function", "predict_proba")
# Losses whose inputs are logits, whatever an estimator makes of them to predict.
_OF_LOGITS = (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss)


def as_model(model: Any) -> Any:
    """Something that takes inputs and returns logits; networks and functions as they are.

    Of an estimator around a network, as those of skorch, it is this network, so that gradients
    and layers can be asked for. Of any other, as in scikit-learn, it is `decision_function`, else
    the logarithm of `predict_proba`.

    Args:
        model: network, function, or fitted estimator.

    Raises:
        InputError: neither of them.

    Example:
        >>> class Estimator:
        ...     def decision_function(self, x):
        ...         return x[:, 0] - 1
        >>> as_model(Estimator())(torch.tensor([[3.0], [0.5]])).tolist()
        [2.0, -0.5]
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        expected, remedy = "a model, not its class", f"Pass an instance, e.g. {model.__name__}()."
        reject("model", expected, f"the class {model.__name__}", remedy)
    network = _network_inside(model)
    if network is not None:
        return network
    method = next((getattr(model, name, None) for name in _METHODS if hasattr(model, name)), None)
    if callable(method):
        return _on_arrays(method, probs=method.__name__ == "predict_proba")
    if not callable(model):
        expected = "a module, a function, or an estimator with predict_proba or decision_function"
        remedy = "Pass the network itself, not its weights or its file; load a file first."
        reject("model", expected, type(model).__name__, remedy)
    return model


def is_estimator(model: Any) -> bool:
    """Whether a value that cannot be called has one of the methods that `as_model` takes."""
    return not isinstance(model, type) and any(hasattr(model, name) for name in _METHODS)


def _network_inside(model: Any) -> nn.Module | None:
    """The network of an estimator around one, from inputs to logits or quantities.

    The loss says what it returns: probabilities under `BCELoss`, and under `NLLLoss` where a
    classifier takes their logarithm itself, as `skorch.NeuralNetClassifier` does; else logits,
    their logarithms or quantities. None where the loss is of another kind and a function of the
    user's makes probabilities of the outputs: these are asked for by `predict_proba`.
    """
    network, loss = getattr(model, "module_", None), getattr(model, "criterion_", None)
    if not isinstance(network, nn.Module):
        return None
    loss = getattr(loss, "_orig_mod", loss)  # within a loss of torch.compile
    classifies = hasattr(type(model), "classes_")
    if isinstance(loss, nn.BCELoss) or (isinstance(loss, nn.NLLLoss) and classifies):
        return _LogitsOfProbs(network, binary=isinstance(loss, nn.BCELoss))
    own = callable(getattr(model, "predict_nonlinearity", None))
    return None if own and not isinstance(loss, _OF_LOGITS) else network


class _LogitsOfProbs(nn.Module):
    """A network that returns probabilities, as one that returns logits.

    Args:
        network: from inputs to probabilities, `[n, k]`, or of class 1, `[n]` or `[n, 1]`.
        binary: whether they are of class 1.
    """

    def __init__(self, network: nn.Module, *, binary: bool) -> None:
        super().__init__()
        self.network, self.binary = network, binary

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Log-odds of class 1, or log p; float32 resolves p to within `eps` of 0 and 1."""
        probs: Tensor = self.network(*inputs, **named)
        eps = torch.finfo(probs.dtype).eps
        return probs.logit(eps) if self.binary else (probs + eps).log()


def _on_arrays(function: Callable[..., Any], *, probs: bool) -> Callable[..., Tensor]:
    def model(*inputs: Tensor) -> Tensor:
        output = call_on_arrays(function, inputs)
        return logits_of_probs(output.double()).float() if probs else output

    return model


def call_on_arrays(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
    """The output of a function of NumPy arrays as a Tensor, on the device of its inputs.

    Args:
        function: from arrays `[n, ...]` to an array `[n]` or `[n, k]`.
        inputs: tensors `[n, ...]`.
    """
    output = as_tensor(function(*(part.detach().cpu().numpy() for part in inputs)))
    return output.to(inputs[0].device) if isinstance(output, Tensor) else output


def as_tensor(output: Any) -> Any:
    """An array as a Tensor; anything else as it is."""
    is_array = isinstance(output, np.ndarray) and output.dtype.kind in "fiub"
    return torch.from_numpy(np.ascontiguousarray(output)) if is_array else output

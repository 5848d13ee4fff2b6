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


def as_model(model: Any) -> Any:
    """Something that takes inputs and returns logits; networks and functions as they are.

    Of an estimator as in scikit-learn it is `decision_function`, else the logarithm of
    `predict_proba`.

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
    method = next((getattr(model, name, None) for name in _METHODS if hasattr(model, name)), None)
    if callable(method):
        return _on_arrays(method, probs=method.__name__ == "predict_proba")
    if not callable(model):
        expected = "a module, a function, or an estimator with predict_proba or decision_function"
        remedy = "Pass the network itself, not its weights or its file; load a file first."
        reject("model", expected, type(model).__name__, remedy)
    return model


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

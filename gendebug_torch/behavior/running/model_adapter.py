"""The model under test: any `predict(list of dicts) -> scores`, or a network fed with columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reading, reject
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.formats import import_name
from gendebug_torch.model.runner import logits_of, map_rows

Row = Mapping[str, Any]
Predict = Callable[[list[dict[str, Any]]], Any]
"""From inputs to scores in [0, 1]: `[n]` for the second of two classes, or `[n, k]`; tensor, array
or list."""


def as_predict(
    model: Any, features: Sequence[str] = (), *, device: str | torch.device = "auto"
) -> Predict:
    """A predict function of a network; a plain callable is one already.

    Args:
        model: network or predict function.
        features: fields in the order in which a network is fed.
        device: device of a network.

    Raises:
        InputError: neither, or a network without the order of its columns.
    """
    if isinstance(model, nn.Module):
        return network_predict(model, features, device=device)
    if not callable(model):
        expected = "a network, or predict(list of dicts) -> scores"
        reject("model", expected, type(model).__name__, "Pass the model itself.")
    return model  # type: ignore[no-any-return]


def network_predict(
    model: Model, features: Sequence[str], *, device: str | torch.device = "auto"
) -> Predict:
    """A predict function of a network that takes `[n, d]` float32 columns or one tensor field.

    A field that is absent or None becomes NaN, as it would in a table. The network is left as it
    was.

    Args:
        model: module or callable from a tensor to logits `[n]`, `[n, 1]` or `[n, k]`.
        features: fields in the order in which the network is fed.
        device: device to run on.

    Returns:
        Function from n rows to probabilities `[n]` or `[n, k]`.

    Raises:
        InputError: no features.

    Example:
        >>> predict = network_predict(lambda x: x[:, 0] - x[:, 1], ["amount", "limit"])
        >>> predict([{"limit": 3.0, "amount": 3.0}]).tolist()
        [0.5]
    """
    if not features:
        expected = "the columns in the order in which the network is fed"
        remedy = (
            "Add `features: [first, second, ...]` to the suite, or wrap the network in "
            "predict(list of dicts)."
        )
        reject("features", expected, "none", remedy)

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        return {"logits": logits_of(model, inputs)}

    def predict(rows: list[dict[str, Any]]) -> Tensor:
        outputs = map_rows(step, model_input(rows, features), model=model, device=device)
        logits = outputs["logits"].double()
        return logits.sigmoid() if logits.ndim == 1 else logits.softmax(-1)

    return predict


def model_input(rows: Sequence[Row], features: Sequence[str]) -> Tensor:
    """The input of a network: `[n, d]` float32, or `[n, ...]` stacked from one field of tensors.

    Args:
        rows: n mappings from field to value.
        features: fields in the order in which the network is fed.

    Raises:
        InputError: a value is not a number.
    """
    if len(features) == 1 and any(isinstance(row.get(features[0]), Tensor) for row in rows):
        return torch.stack([torch.as_tensor(row[features[0]]).float() for row in rows])
    numbers = [[_number(name, row.get(name)) for name in features] for row in rows]
    return torch.tensor(numbers, dtype=torch.float64).float()


def load_model(name: str) -> Any:
    """The network or predict function named by MODULE:NAME.

    A function without required parameters is called, and what it returns is the model.

    Args:
        name: MODULE:NAME, importable from the current folder.

    Raises:
        InputError: it cannot be imported, or the function breaks.
    """
    model = import_name(name, "model")
    if isinstance(model, nn.Module) or not callable(model) or _has_parameters(model):
        return model
    with reading(name, "a function that returns a model", "model", "Correct the function."):
        return model()


def _has_parameters(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # Callables written in C have no signature: they are predict functions.
        return True
    return any(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _number(name: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if not isinstance(value, (int, float)):
        remedy = "Write a number, or wrap the network in predict(list of dicts) that encodes it."
        reject(name, "a number for the network", repr(value), remedy)
    return float(value)

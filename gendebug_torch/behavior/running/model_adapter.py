"""The system under test: any `predict(list[dict]) -> scores`, or a network that is fed columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject
from gendebug_torch.model.formats import import_name
from gendebug_torch.model.runner import Model, logits_of, map_rows

Row = Mapping[str, Any]
Predict = Callable[[list[dict[str, Any]]], Any]
"""From inputs to scores in [0, 1]: `[n]` for the second of two classes, or `[n, k]`; tensor, array
or list."""


def as_predict(
    model: Any, features: Sequence[str] = (), *, device: str | torch.device = "auto"
) -> Predict:
    """A network as `predict`; a plain callable is one already.

    Raises:
        InputError: neither, or a network without the order of its columns.
    """
    if isinstance(model, nn.Module):
        return network_predict(model, features, device=device)
    if not callable(model):
        reject(
            "model",
            "a network, or predict(list of dicts) -> scores",
            type(model).__name__,
            "Pass the model itself.",
        )
    return model  # type: ignore[no-any-return]


def network_predict(
    model: Model, features: Sequence[str], *, device: str | torch.device = "auto"
) -> Predict:
    """Inputs -> probabilities of a network from `[n, d]` float32 columns (or one tensor field) to
    logits.

    A field that is missing or None becomes NaN, as it would in a table. The network is left as it
    was found.

    Args:
        model: module or callable from a tensor to logits `[n]`, `[n, 1]` or `[n, k]`.
        features: the fields in the order in which the network is fed.
        device: where it runs.

    Raises:
        InputError: no features.
    """
    if not features:
        remedy = (
            "Add `features: [first, second, ...]` to the suite, or wrap the network in "
            "predict(list of dicts)."
        )
        reject("features", "the columns in the order in which the network is fed", "none", remedy)

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        return {"logits": logits_of(model, inputs)}

    def predict(rows: list[dict[str, Any]]) -> Tensor:
        logits = map_rows(step, model_input(rows, features), model=model, device=device)[
            "logits"
        ].double()
        return logits.sigmoid() if logits.ndim == 1 else logits.softmax(-1)

    return predict


def model_input(rows: Sequence[Row], features: Sequence[str]) -> Tensor:
    """`[n, d]` float32 from fields in the given order, or `[n, ...]` stacked from the one field
    that holds tensors.

    Raises:
        InputError: a value is not a number.
    """
    if len(features) == 1 and any(isinstance(row.get(features[0]), Tensor) for row in rows):
        return torch.stack([torch.as_tensor(row[features[0]]).float() for row in rows])
    return torch.tensor(
        [[_number(name, row.get(name)) for name in features] for row in rows], dtype=torch.float64
    ).float()


def load_system(name: str) -> Any:
    """What MODULE:NAME names: a network, a `predict`, or what a function without required
    parameters returns.

    Raises:
        InputError: it cannot be imported from here.
    """
    found = import_name(name, "model")
    return (
        found()
        if not isinstance(found, nn.Module) and callable(found) and not _takes_input(found)
        else found
    )


def _takes_input(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # a callable of another language says nothing about itself: it takes what it is given
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

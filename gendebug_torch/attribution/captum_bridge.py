"""Any method of captum.attr over a whole loader: the one file that touches captum."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import UnsupportedError, reject

Explain = Callable[[Tensor, Tensor], dict[str, Tensor]]


def captum_methods() -> dict[str, type]:
    """Classes of captum.attr that attribute, by name."""
    import captum.attr

    found = {name: value for name, value in vars(captum.attr).items() if inspect.isclass(value)}
    return {name: cls for name, cls in found.items() if issubclass(cls, captum.attr.Attribution) and hasattr(cls, "attribute")}


def captum_step(model: Any, method: Any, options: dict[str, Any], steps: int = 50) -> Explain:
    """A function from inputs `[r, ...]` and classes `[r]` to `values`, and `delta` where the method has one.

    Args:
        model: module or callable.
        method: name of a class of captum.attr (`DeepLift`, `deep_lift`), or an instance of one.
        options: arguments of its constructor (a `layer`) and of its `attribute`; sorted out by signature.
        steps: of methods that integrate.

    Raises:
        InputError: an unknown method, or an option that neither takes.
        UnsupportedError: a method that needs a module was given a plain callable.
    """
    instance, calling = (method, dict(options)) if not isinstance(method, str) else _built(model, _class(method), options)
    takes = inspect.signature(instance.attribute).parameters
    if unknown := sorted(set(calling) - set(takes)):
        reject("method_options", f"arguments of {type(instance).__name__}: {sorted(takes)}", str(unknown), "Correct or remove them.")
    if "n_steps" in takes:
        calling.setdefault("n_steps", steps)
    with_delta = "return_convergence_delta" in takes

    def explain(inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        arguments = dict(calling)
        if "target" in takes and bool((target >= 0).all()):
            arguments.setdefault("target", target)
        if with_delta:
            arguments["return_convergence_delta"] = True
        with warnings.catch_warnings():
            # Captum warns that it sets hooks, and that it fits one surrogate per row: both are meant, and undone by the runner.
            warnings.simplefilter("ignore")
            result = instance.attribute(inputs, **arguments)
        values, delta = result if with_delta else (result, None)
        values = _only(values, type(instance).__name__)
        out = {"values": values.detach().float()}
        if delta is not None:
            out["delta"] = delta.detach().float().reshape(len(inputs), -1).mean(1)
        if len(values) != len(inputs):
            name = type(instance).__name__
            raise UnsupportedError(f"{name} gave {len(values)} attributions for {len(inputs)} rows; it does not explain rows")
        return out

    return explain


def _class(method: str) -> type:
    known = captum_methods()
    plain = method.removeprefix("captum.")
    camel = plain.replace("_", "")
    by_lower = {name.lower(): name for name in known}
    name = by_lower.get(camel.lower())
    if name is None:
        near = difflib.get_close_matches(plain, known, n=1)
        expected = f"integrated_gradients, saliency, input_x_gradient, or one of captum: {', '.join(sorted(known))}"
        reject("method", expected, repr(method), f"Did you mean {near[0]!r}?" if near else "Choose one of them.")
    return known[name]


def _built(model: Any, cls: type, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An instance, and the options that are left for `attribute`."""
    takes = inspect.signature(cls).parameters
    own = {key: value for key, value in options.items() if key in takes}
    needs_module = "model" in takes
    if needs_module and not isinstance(model, nn.Module):
        raise UnsupportedError(f"{cls.__name__} sets hooks on layers and needs an nn.Module; a plain callable was given")
    if "layer" in takes and isinstance(own.get("layer"), str):
        own["layer"] = _layer(model, own["layer"])
    required = [p.name for p in takes.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [name for name in required if name not in own and name not in ("model", "forward_func", "self")]
    if missing:
        reject("method_options", f"{', '.join(missing)} for {cls.__name__}", "none", f"Pass e.g. {missing[0]}=model.some_layer.")
    return cls(model, **own), {key: value for key, value in options.items() if key not in own}


def _layer(model: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3)
        reject("layer", "the name of a submodule", repr(name), f"Close: {near}" if near else "See model.named_modules().")
    return layers[name]


def _only(values: Any, name: str) -> Tensor:
    if isinstance(values, (tuple, list)) and len(values) == 1:
        values = values[0]
    if not isinstance(values, torch.Tensor):
        raise UnsupportedError(f"{name} gave {type(values).__name__}; only methods that give one tensor per row are run in batches")
    return values


def words(method: Any) -> str:
    """How a method reads in a title: `DeepLift` as `deep lift`."""
    name = method if isinstance(method, str) else type(method).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("captum.")).replace("_", " ").lower()

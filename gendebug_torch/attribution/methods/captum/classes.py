"""Classes of captum.attr by name, and objects of them: the one file that imports captum."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.explanation.batch import Output
from gendebug_torch.attribution.methods.table import METHODS
from gendebug_torch.errors import UnsupportedError, reject


class ExplainedNetwork(nn.Module):
    """A network as Captum sees it, with one number per row: the explained output.

    Args:
        model: module or callable.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.output: Output | None = None

    def forward(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """`[p]` explained output of inputs `[p, ...]` that belong to these rows `[p]`."""
        assert self.output is not None
        return self.output(inputs.flatten(1), rows)


@dataclass(frozen=True, eq=False)
class CaptumObject:
    """An object of captum.attr with the options of its `attribute`.

    Args:
        instance: object with a method `attribute`.
        options: options of that method.
        by_name: whether it was built here from a name, around the explained network.
    """

    instance: Any
    options: dict[str, Any]
    by_name: bool

    @property
    def name(self) -> str:
        """Name of the class."""
        return type(self.instance).__name__

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Parameters of `attribute`, with those of the inner method of a NoiseTunnel."""
        inner = getattr(self.instance, "attribution_method", None)
        own = dict(inspect.signature(self.instance.attribute).parameters)
        return own if inner is None else {**inspect.signature(inner.attribute).parameters, **own}


def captum_object(
    network: ExplainedNetwork, method: Any, options: dict[str, Any], has_baseline: bool
) -> CaptumObject:
    """An object of Captum from its name or from the object of a user, its options checked.

    Args:
        network: network to build the object around.
        method: name of a class (`DeepLift`, `deep_lift`), or an object of one.
        options: options of the constructor and of `attribute`; sorted by signature.
        has_baseline: whether the user chose a baseline.

    Raises:
        InputError: an unknown method or option, or a baseline for a method without one.
        UnsupportedError: a method that needs a module, or that explains no rows.
    """
    by_name = isinstance(method, str)
    instance, rest = _build(network, method, options) if by_name else (method, dict(options))
    if not hasattr(instance, "attribute"):
        expected = "a name, or an instance of a class of captum.attr"
        reject("method", expected, type(method).__name__, "Pass e.g. `DeepLift`.")
    captum = CaptumObject(instance, rest, by_name)
    if unknown := sorted(set(rest) - set(captum.parameters)):
        expected = f"arguments of {captum.name}: {sorted(captum.parameters)}"
        reject("method_options", expected, str(unknown), "Correct or remove them.")
    if has_baseline and "baselines" not in captum.parameters:
        expected = f"none, because {captum.name} takes no baseline"
        reject("baseline", expected, "a baseline", "Leave it out.")
    return captum


def deep_lift_modules() -> tuple[type[nn.Module], ...]:
    """Types of modules for which DeepLIFT has a rule."""
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    return tuple(SUPPORTED_NON_LINEAR)


def perturbs_inputs(method: Any) -> bool:
    """Whether a method of Captum replaces inputs instead of following gradients."""
    from captum.attr import PerturbationAttribution

    cls = _class_of(method) if isinstance(method, str) else type(method)
    return issubclass(cls, PerturbationAttribution)


def _captum_classes() -> dict[str, type]:
    """Classes of captum.attr that attribute, by name."""
    import captum.attr

    return {
        name: cls
        for name, cls in vars(captum.attr).items()
        if inspect.isclass(cls)
        and issubclass(cls, captum.attr.Attribution)
        and hasattr(cls, "attribute")
    }


def _class_of(method: str) -> type:
    classes = _captum_classes()
    plain = method.removeprefix("captum.")
    by_lower = {name.lower(): name for name in classes}
    name = by_lower.get(plain.replace("_", "").lower())
    if name is None:
        near = difflib.get_close_matches(plain, [*METHODS, *classes], n=1)
        expected = f"{', '.join(METHODS)}, or one of captum: {', '.join(sorted(classes))}"
        remedy = f"Did you mean {near[0]!r}?" if near else "Choose one of them."
        reject("method", expected, repr(method), remedy)
    if name.endswith("FeaturePermutation"):
        raise UnsupportedError(
            f"{name} shuffles within a batch and so explains no row; use "
            "`permutation_importance(model, records)`"
        )
    return classes[name]


def _build(
    network: ExplainedNetwork, method: str, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """An object of the class of this name, and the options that are left for `attribute`."""
    cls = _class_of(method)
    parameters = inspect.signature(cls).parameters
    own = {key: value for key, value in options.items() if key in parameters}
    if "model" in parameters and not isinstance(network.model, nn.Module):
        raise UnsupportedError(
            f"{cls.__name__} sets hooks on layers and needs an nn.Module; got a plain callable"
        )
    if isinstance(own.get("layer"), str):
        own["layer"] = _layer(network.model, own["layer"])
    if isinstance(own.get("attribution_method"), str):
        own["attribution_method"] = _build(network, own["attribution_method"], {})[0]
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind is p.POSITIONAL_OR_KEYWORD
        and p.name not in {*own, "model", "forward_func", "self"}
    ]
    if missing:
        expected, example = f"{', '.join(missing)} for {cls.__name__}", missing[0]
        reject("method_options", expected, "none", f"Pass e.g. {example}=model.some_layer.")
    wrapped = [] if "attribution_method" in parameters else [network]
    return cls(*wrapped, **own), {key: value for key, value in options.items() if key not in own}


def _layer(model: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3)
        remedy = f"Close: {near}" if near else "See model.named_modules()."
        reject("layer", "the name of a submodule", repr(name), remedy)
    return layers[name]


def only_tensor(values: Any, name: str) -> Tensor:
    """The one Tensor of an answer of Captum."""
    if isinstance(values, (tuple, list)) and len(values) == 1:
        values = values[0]
    if not isinstance(values, torch.Tensor):
        raise UnsupportedError(
            f"{name} gave {type(values).__name__}; only methods with one tensor per row are run in "
            "batches"
        )
    return values

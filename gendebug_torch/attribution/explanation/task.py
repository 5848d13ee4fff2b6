"""`AttributionTask`: all options of an attribution run as one value, free of network and rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.model.devices import Precision


@dataclass(frozen=True, eq=False)
class AttributionTask:
    """The options of an attribution run, so that the same run can be repeated on other rows.

    Args:
        method: name of a method, or an object of captum.attr.
        target: explained output, as in `attribute`.
        baseline: baseline as the user gave it.
        background: inputs of the data, for baselines that are computed from rows.
        groups: `[d]` feature of each input, where inputs are explained together.
        parts: keys or positions of the attributed Tensors; None for all.
        feature_names: names of the features; empty if they follow from the inputs.
        device: device of the network.
        precision: as in Lightning.
        compile: whether the network runs through torch.compile, except for methods with hooks.
        options: options of the method by name.
    """

    method: Any = "integrated_gradients"
    target: str | int = "predicted"
    baseline: Any = None
    background: Any = None
    groups: Sequence[int] | Tensor | None = None
    parts: Sequence[str] | None = None
    feature_names: tuple[str, ...] = ()
    device: str | torch.device = "auto"
    precision: Precision = "32-true"
    compile: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method as it reads in a title."""
        return method_title(self.method)

    @property
    def digest(self) -> str:
        """A digest of what decides the answers, which the shards of a checkpoint must share."""
        parts = [self.title, self.target, self.baseline, self.groups, self.parts]
        parts.append(sorted(self.options.items()))
        plain = [part.tolist() if isinstance(part, Tensor) else part for part in parts]
        return hashlib.sha256(repr(plain).encode()).hexdigest()[:16]


def method_title(method: Any) -> str:
    """A method as it reads in a title: `DeepLift` as `deep lift`."""
    name = method if isinstance(method, str) else type(method).__name__
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("captum."))
    return spaced.replace("_", " ").lower()


def explains_layer(method: Any) -> bool:
    """Whether a method of Captum explains the units of a layer instead of the inputs."""
    return method_title(method).startswith(("layer ", "internal influence"))

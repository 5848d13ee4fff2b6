"""`ModuleKind`: what is known of a module before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

# Where an output of these is further from the first number than the second, its derivative is below
# a twentieth of the largest.
FLAT: Mapping[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (0.0, 0.975),
    nn.Softsign: (0.0, 0.8),
    nn.Sigmoid: (0.5, 0.487),
    nn.Hardtanh: (0.0, 0.999999),
    nn.Hardsigmoid: (0.5, 0.499999),
}
# These give finite outputs of finite inputs; a NaN on their way in shows in the layer behind.
_FINITE = (
    *(nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softmax),
    *(nn.Identity, nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, _DropoutNd),
    *(_BatchNorm, nn.LayerNorm, nn.GroupNorm),
)
# And these, of finite weights too; theirs may become infinite or NaN.
_STANDARD = (
    *(nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm),
    *(nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, _BatchNorm),
)
# Their gradient is that of the layers beside them, but for a scale; a hook of a Tensor takes time.
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def owns_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters of its own."""
    return any(parameter is not None for parameter in module._parameters.values())


class ModuleKind(NamedTuple):
    """What is known of a module before it runs.

    Args:
        leaf: whether it holds no others.
        signal: whether the gradient of its outputs is measured.
        modal: whether it asks for the mode, as Dropout and BatchNorm do.
        finite: whether finite inputs make its outputs finite.
        standard: whether finite inputs and weights do.
        flat: where its outputs are saturated; None for nowhere.
    """

    leaf: bool
    signal: bool
    modal: bool
    finite: bool
    standard: bool
    flat: tuple[float, float] | None

    @property
    def measured(self) -> bool:
        """Whether a pass through it shows anything beside its place among the calls."""
        return self.signal or self.modal or not self.finite or self.flat is not None


def is_standard(module: nn.Module) -> bool:
    """Whether finite inputs and weights of a usual size make its outputs finite.

    Args:
        module: leaf of a network.
    """
    return isinstance(module, _STANDARD)


def module_kind(module: nn.Module) -> ModuleKind:
    """What is known of a module.

    Args:
        module: part of a network.
    """
    return ModuleKind(
        leaf=not any(True for _ in module.children()),
        signal=owns_parameters(module) and not isinstance(module, _NORMS),
        modal=isinstance(module, (_BatchNorm, _DropoutNd)),
        finite=isinstance(module, _FINITE),
        standard=is_standard(module),
        flat=next((flat for kind, flat in FLAT.items() if isinstance(module, kind)), None),
    )

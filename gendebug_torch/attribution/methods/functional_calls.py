"""Which activations a network calls as functions, where a rule that is tied to modules does not see
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# What a rule for rectifiers would have to know, and what a rule for any non-linear operation would,
# by their names in ATen.
RECTIFIERS = frozenset(
    (
        "relu",
        "gelu",
        "silu",
        "elu",
        "leaky_relu",
        "hardtanh",
        "hardswish",
        "mish",
        "softplus",
        "_prelu_kernel",
        "rrelu_with_noise",
        "clamp_min",
        "clamp",
    )
)
NONLINEAR = RECTIFIERS | frozenset(
    (
        "sigmoid",
        "tanh",
        "hardsigmoid",
        "log_sigmoid_forward",
        "_softmax",
        "_log_softmax",
        "native_layer_norm",
        "native_group_norm",
        "bmm",
        "exp",
        "log",
        "pow",
        "sqrt",
        "rsqrt",
        "abs",
        "sin",
        "cos",
        "threshold",
        "max_pool2d_with_indices",
    )
)


def calls_outside(
    model: nn.Module,
    run: Callable[[], Any],
    known: tuple[type[nn.Module], ...],
    watched: frozenset[str],
) -> tuple[str, ...]:
    """Names of the watched operations that `run` calls outside modules of the known types."""
    watch = _Watch(watched)
    hooks = []
    for module in model.modules():
        if isinstance(module, known):
            hooks += [
                module.register_forward_pre_hook(watch.enter),
                module.register_forward_hook(watch.leave),
            ]
    try:
        with watch:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sorted(watch.seen))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, also those that modules and functions are made of."""

    def __init__(self, watched: frozenset[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched, self.inside, self.seen = watched, 0, set[str]()

    def enter(self, module: nn.Module, arguments: Any) -> None:
        """What follows is known."""
        self.inside += 1

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """No longer."""
        self.inside -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if not self.inside and name in self.watched:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))

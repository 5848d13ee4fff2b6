"""Operations that a network calls as functions, where rules for modules do not see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Names in ATen of rectifiers, and of all nonlinear operations.
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
    module_types: tuple[type[nn.Module], ...],
    operations: frozenset[str],
) -> tuple[str, ...]:
    """Names of the operations that `run` calls outside modules of these types.

    Args:
        model: network whose modules are observed.
        run: function that calls the network.
        module_types: types of modules whose inner operations do not count.
        operations: names of the operations that count.
    """
    recorder = _OperationRecorder(operations)
    hooks = []
    for module in model.modules():
        if isinstance(module, module_types):
            hooks += [
                module.register_forward_pre_hook(recorder.enter),
                module.register_forward_hook(recorder.leave),
            ]
    try:
        with recorder:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sorted(recorder.names))


class _OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the names of operations outside the observed modules."""

    def __init__(self, operations: frozenset[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.depth, self.names = operations, 0, set[str]()

    def enter(self, module: nn.Module, arguments: Any) -> None:
        """An observed module begins."""
        self.depth += 1

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """An observed module ends."""
        self.depth -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if not self.depth and name in self.operations:
            self.names.add(name)
        return func(*args, **(kwargs or {}))

"""Losses of a network on rows in which columns are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gendebug_torch.model.batches import moved
from gendebug_torch.model.devices import device_of, fitting
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import as_model_takes, logits_of

# From logits and targets to one loss per row, or to one number.
Metric = Callable[[Tensor, Tensor], Tensor]

# Rows per pass, and shuffled copies side by side: copies hide the launches of a GPU, but on a CPU
# they only cost memory traffic.
_ROWS = {"cpu": 8192, "cuda": 65536}
_COPIES = {"cpu": 1, "cuda": 16}
# Largest rounding of the first layer, relative to its usual output, for adding to that output.
_ROUNDING = 1e-5


def loss_rises(
    model: Model,
    inputs: Tensor,
    targets: Tensor,
    loss: Metric,
    columns: Sequence[list[int]],
    repeats: int,
    seed: int,
    device: str | torch.device | None,
) -> tuple[Tensor, float]:
    """`[r, f, n]` float64 rises of the loss of each row, and the mean loss without shuffling.

    For a metric that is one number the rises are `[r, f]`.

    Args:
        model: network of `[n, d]` inputs.
        inputs: `[n, d]` float inputs.
        targets: `[n]` targets.
        loss: loss per row, or one number.
        columns: columns of each of the f groups that are shuffled together.
        repeats: number of shuffles r.
        seed: seed of the shuffles.
        device: device of the network; None for the device on which it is.

    Cost: `repeats * f` forwards per row. Where memory runs out, fewer rows go through at once.
    """
    generator = torch.Generator().manual_seed(seed)
    on = _home(model, inputs) if device is None else device_of(device)
    inputs, targets = as_model_takes(inputs, model, on), moved(targets, on)
    # Index tensors on the device, made once: lists would be copied for every column and repeat.
    groups = [moved(torch.tensor(group, dtype=torch.int64), on) for group in columns]
    size = _ROWS.get(on.type, 8192)

    def halve() -> bool:
        nonlocal size
        before = min(size, max(1, len(inputs)))
        size = max(1, before // 2)
        return before > 1

    def rise(order: Tensor, base: Tensor) -> Tensor:
        shuffled = fitting(
            lambda: _shuffled_logits(model, layers, inputs, order, groups, size), halve
        )
        return torch.stack([loss(logits, targets).double() - base for logits in shuffled])

    with torch.no_grad(), evaluating(model, device=on):
        base = loss(fitting(lambda: _logits(model, inputs, size), halve), targets).double()
        layers = _first_layer(model, inputs)
        orders = [torch.randperm(len(inputs), generator=generator) for _ in range(repeats)]
        rises = torch.stack([rise(moved(order, on), base) for order in orders])
    return rises.cpu(), float(base.mean()) if base.numel() else float("nan")


def _home(model: Model, inputs: Tensor) -> torch.device:
    """The device of the parameters of a network; that of the inputs for a plain callable."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), inputs.device)


def _shuffled_logits(
    model: Model,
    layers: tuple[nn.Linear | None, Model],
    inputs: Tensor,
    order: Tensor,
    columns: Sequence[Tensor],
    size: int,
) -> list[Tensor]:
    """Logits with each group of columns in another order of rows, one entry per group."""
    if not len(inputs):
        return [logits_of(model, inputs)] * len(columns)
    first, rest = layers
    logits: list[list[Tensor]] = [[] for _ in columns]
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        other = inputs[order[start : start + len(part)]]
        blocks = (
            _copied_logits(model, part, other, columns)
            if first is None
            else _layer_logits(first, rest, part, other, columns)
        )
        for group, block in zip(logits, blocks, strict=True):
            group.append(block)
    return [torch.cat(blocks) for blocks in logits]


def _layer_logits(
    first: nn.Linear, rest: Model, part: Tensor, other: Tensor, columns: Sequence[Tensor]
) -> list[Tensor]:
    """Logits from changes of the output of a first linear layer, one entry per group."""
    hidden, change = first(part), other - part
    return [
        logits_of(rest, hidden + change[:, group] @ first.weight[:, group].T) for group in columns
    ]


def _copied_logits(
    model: Model, part: Tensor, other: Tensor, columns: Sequence[Tensor]
) -> list[Tensor]:
    """Logits from copies of the rows in which one group each is replaced, one entry per group."""
    copies = _COPIES.get(part.device.type, 1)
    block = part.repeat(copies, 1, 1)
    logits: list[Tensor] = []
    for begin in range(0, len(columns), copies):
        groups = columns[begin : begin + copies]
        for copy, group in enumerate(groups):
            block[copy, :, group] = other[:, group]
        # A clone, because a network may change its input in place.
        answer = logits_of(model, block[: len(groups)].flatten(0, 1).clone())
        logits.extend(answer.reshape(len(groups), len(part), *answer.shape[1:]))
        for copy, group in enumerate(groups):
            block[copy, :, group] = part[:, group]
    return logits


def _first_layer(model: Model, inputs: Tensor) -> tuple[nn.Linear | None, Model]:
    """The first layer and the rest, where nothing but a linear layer sees the inputs.

    Then a change of a column adds to its output. Not with hooks or a patched forward on these two
    modules, nor where rounding would show: with inputs that are not finite, or so large that the
    subtraction leaves less than 1e-5 of the usual output exact.
    """
    if type(model) is not nn.Sequential or len(model) < 2 or type(model[0]) is not nn.Linear:
        return None, model
    first = model[0]
    if any(
        key == "forward" or (key.endswith("_hooks") and len(value))
        for part in (model, first)
        for key, value in vars(part).items()
    ):
        return None, model
    if not inputs.numel():
        return None, model
    largest = (inputs.abs().amax(0) * first.weight.abs().amax(0)).max()
    rounding = largest * torch.finfo(inputs.dtype).eps
    exact = bool(rounding <= _ROUNDING * first(inputs[:1000]).abs().mean())
    return (first, model[1:]) if exact else (None, model)


def _logits(model: Model, inputs: Tensor, size: int) -> Tensor:
    """Logits of all rows in parts; of copies, since a network may change its input in place."""
    parts = torch.split(inputs, size)
    return torch.cat([logits_of(model, part.clone()) for part in parts])

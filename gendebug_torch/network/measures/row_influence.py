"""Which axis of a batch its rows lie along, and whether they influence each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from gendebug_torch.network.module_hooks import first_tensor

# Change of an output, in standard deviations, that rounding does not explain.
ROUNDING = 1e-3


class Rows(NamedTuple):
    """Number of the rows of a batch, and the axis of its inputs that they lie along."""

    number: int
    axis: int = 0


def rows_of(inputs: Any, targets: Tensor | None, *, batch_size: Any = None) -> list[Rows]:
    """Rows of a batch, the likeliest reading first.

    They lie along the second axis where the first is that of positions, `[t, n, ...]`. Where inputs
    and targets have both axes and no loader says how many rows it gives, both may be meant.

    Args:
        inputs: batch of inputs.
        targets: their targets, `[n, ...]` or, position by position, `[t, n, ...]`.
        batch_size: rows of a batch of the loader; anything but a number where unknown.
    """
    entry = first_tensor(inputs)
    if entry is None or not entry.ndim:
        return [Rows(0)]
    number = len(entry) if targets is None or not targets.ndim else len(targets)
    if entry.ndim == 1:
        return [Rows(number)]
    second = Rows(entry.shape[1], 1)
    if number == second.number != len(entry):
        return [second]
    if targets is None or targets.shape[:2] != entry.shape[:2] or batch_size == number:
        return [Rows(number)]
    return [second] if batch_size == second.number else [Rows(number), second]


def part_of(value: Any, rows: Rows, change: Callable[[Tensor, int], Tensor]) -> Any:
    """A nested batch of which every Tensor that has the rows is changed.

    Args:
        value: batch, or a part of it.
        rows: its rows.
        change: change of a Tensor, given the axis of its rows.
    """
    if isinstance(value, Tensor):
        axis = rows.axis if value.ndim > rows.axis else 0
        return change(value, axis) if value.shape[axis : axis + 1] == (rows.number,) else value
    if isinstance(value, Mapping):
        return {name: part_of(part, rows, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [part_of(part, rows, change) for part in value]
    return value


def change(one: Tensor, other: Tensor) -> float:
    """Mean difference of outputs, in their standard deviations over the rows.

    Args:
        one: outputs, `[n, ...]`.
        other: outputs of the same shape.
    """
    one, other = one.double(), other.double()
    spread = float(one.std(0).mean()) if len(one) > 1 else 0.0
    # Outputs that are the same for all rows differ by rounding alone.
    spread = max(spread, 1e-4 * float(one.abs().mean()))
    return float((one - other).abs().mean()) / (spread or 1.0)


def row_influence(
    call: Callable[[Any], Any], network: nn.Module, inputs: Any, rows: Rows
) -> tuple[float, str]:
    """Change of the outputs of the first half of the rows by others in the second, and where.

    Args:
        call: outputs of the network for a batch.
        network: network in evaluation mode.
        inputs: batch of inputs.
        rows: its rows.

    Returns:
        The change of the outputs of the network, and the first module whose outputs changed.
    """
    if rows.number < 2:
        return 0.0, ""
    flat = all(part.shape == (rows.number,) for part in _tensors(inputs))
    with _outputs(network) as known:
        call(inputs)
    moves: dict[str, float] = {}
    for first in (True, False):
        # What passes from row to row may go one way, as in a recurrent network.
        with _outputs(network) as found:
            call(part_of(inputs, rows, partial(_exchanged, flat=flat, first=first)))
        for name, output in known.items():
            if name in found and output.shape == found[name].shape:
                axes = [at for at in range(min(output.ndim, 2)) if output.shape[at] == rows.number]
                if name == list(known)[-1]:
                    axes = [at for at in (rows.axis, 0) if at in axes][:1]
                # Inside a network positions may be turned to the front.
                move = min((_moved(output, found[name], at, first) for at in axes), default=0.0)
                moves[name] = max(move, moves.get(name, 0.0))
    places = [name for name, size in moves.items() if size > ROUNDING]
    return moves.get(list(known)[-1], 0.0) if known else 0.0, (places or [""])[0]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, tuple, list)):
        return []
    return [tensor for part in parts for tensor in _tensors(part)]


def _moved(one: Tensor, other: Tensor, axis: int, first: bool) -> float:
    """Change of the half of the rows that was left as it was."""
    kept = _half(one.shape[axis], not first)
    return change(one.movedim(axis, 0)[kept], other.movedim(axis, 0)[kept])


def _half(number: int, first: bool) -> slice:
    return slice(None, number // 2) if first else slice(number // 2, None)


def _exchanged(part: Tensor, axis: int, *, flat: bool, first: bool) -> Tensor:
    """Other rows in one half: ids are moved, floats are scaled; lengths of rows stay."""
    if part.ndim == 1 and not part.is_floating_point() and not flat:
        return part
    rows = part.movedim(axis, 0).clone()
    at = _half(len(rows), first)
    others = rows[at].flip(0)
    rows[at] = -2.0 * others if part.is_floating_point() else others.roll(1, -1)
    return rows.movedim(0, axis)


@contextlib.contextmanager
def _outputs(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """First output of each module of floats in the calls meanwhile, by name; the network last."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, part in network.named_modules():

        def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.is_floating_point() and tensor.ndim:
                found.setdefault(name, tensor.detach().clone())

        handles.append(part.register_forward_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

"""`preflight`: a network and its data in the seconds before a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.errors import reject
from gendebug_torch.model.evaluation import random_states_restored
from gendebug_torch.network.checks._findings import network_findings
from gendebug_torch.network.measures.row_influence import Rows, part_of, rows_of
from gendebug_torch.network.probes import Loss, preflight_evidence

_ROWS = 64


def preflight(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss | None = None,
    unpack: Callable[[Any], tuple[Any, Tensor | None]] | None = None,
    rows: int = _ROWS,
    steps: int = 60,
) -> list[Finding]:
    """What is wrong with a network or its data before it is trained, worst first.

    On copies and the first batch: can it be fitted, does every parameter get a gradient, does the
    loss start at chance, do rows influence each other, is evaluation deterministic, do training and
    evaluation mode agree, are inputs and targets on a usual scale, are class weights the right way
    round. The network, its mode, its gradients and the random states are left as they were.

    Args:
        module: network from inputs to outputs.
        loader: batches `(inputs, targets)`; rows along the first axis, or along the second one
            where targets or the batch size of the loader say so, `[t, n, ...]`.
        loss: loss of outputs and targets; by default cross-entropy of class ids or of 0 and 1, and
            the squared error of quantities.
        unpack: batch -> (inputs, targets), where batches are something else.
        rows: largest number of rows of the batch.
        steps: steps of a fit to the batch; at most three are tried.

    Raises:
        InputError: no parameters, no batch, or one that is not unpacked.

    Cost: about `3 steps` training steps at most.

    Example:
        >>> import torch
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> _ = torch.manual_seed(0)
        >>> module = Sequential(Linear(4, 32), ReLU(), Linear(32, 2))
        >>> x = torch.randn(32, 4)
        >>> findings = preflight(module, [(x, (x[:, 0] > 0).long())])
        >>> [finding.check for finding in findings if finding.severity.level >= 2]
        []
        >>> preflight(module, [(100 * x, (x[:, 0] > 0).long())])[0].numbers["kind"]
        'inputs_not_normalized'
    """
    with random_states_restored():
        batch = next(iter(loader), None)
        if batch is None:
            reject("loader", "at least one batch", "none", "Pass a loader with rows.")
        inputs, targets = unpack(batch) if unpack is not None else _parts(batch)
        home = _device(module)
        found = rows_of(inputs, targets, batch_size=getattr(loader, "batch_size", None))
        kept, parts = min(rows, found[0].number), [inputs, targets]
        inputs, targets = (
            part_of(_moved(part, home), found[0], lambda one, axis: one.narrow(axis, 0, kept))
            for part in parts
        )
        torch.manual_seed(0)
        with torch.enable_grad():
            evidence = preflight_evidence(
                module, inputs, targets, loss, steps, [Rows(kept, found[0].axis), *found[1:]]
            )
    said = network_findings(evidence)
    return [finding for finding in said if finding.severity is not Severity.SKIPPED]


def _device(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    if parameter is None:
        reject("module", "a module with parameters", type(module).__name__, "Pass the network.")
    return parameter.device


def _parts(batch: Any) -> tuple[Any, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) >= 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    remedy = "Pass `unpack=lambda batch: (inputs, targets)`."
    reject("loader", "batches (inputs, targets)", type(batch).__name__, remedy)


def _moved(value: Any, home: torch.device) -> Any:
    """A nested batch on a device."""
    if isinstance(value, Tensor):
        return value.to(home)
    if isinstance(value, Mapping):
        return {name: _moved(part, home) for name, part in value.items()}
    return [_moved(part, home) for part in value] if isinstance(value, (list, tuple)) else value

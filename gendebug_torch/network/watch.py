"""`watch`: what happens inside a network in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import pandas as pd
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from gendebug_torch.errors import reject
from gendebug_torch.network.assembly import network_evidence
from gendebug_torch.network.checks._findings import Finding, network_findings
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.recorder import NetworkRecorder


class Watch:
    """The record of a training loop; made by `watch`, and to be entered with `with`.

    Args:
        recorder: record of the network and its optimizers.
    """

    def __init__(self, recorder: NetworkRecorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> Watch:
        self._recorder.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recorder.detach()

    def loss(self, loss: Tensor, targets: Tensor | None = None) -> None:
        """Hold the loss of a batch, on its device.

        Args:
            loss: loss before it is divided for accumulation, `[]` or `[n]`.
            targets: targets of the batch, for what a constant prediction would lose.
        """
        self._recorder.add_loss(loss, targets)

    def evidence(self) -> NetworkEvidence:
        """What was seen so far, for `diagnose(network=...)`; waits for the device."""
        return network_evidence(self._recorder)

    def table(self) -> pd.DataFrame:
        """One row per layer."""
        return self.evidence().table()

    def findings(self) -> list[Finding]:
        """What the checks of this topic say, worst first."""
        return network_findings(self.evidence())


def watch(
    model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], *, every: int = 10
) -> Watch:
    """Watches a network and its optimizer within a `with` block; the loop stays as it is.

    Hooks of modules, parameters and the optimizer see each step; nothing waits for the device, and
    nothing is left behind. Norms of gradients are those that the optimizer got: unscaled and
    clipped. The inside of compiled modules is not seen.

    Args:
        model: network.
        optimizer: its optimizer; of several the first counts the steps.
        every: steps between the first 64 samples; their distance doubles whenever the steps
            double after that. The first five steps are all sampled.

    Raises:
        InputError: no parameters, no optimizer, or `every` below 1.

    Cost: at each step a sum over the outputs of a few modules, whatever the size of the network; at
    a sampled one a few operations per layer, the norms of the gradients, and a copy of the
    parameters (of large matrices every eighth row), which stays on a CPU.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        >>> home = next(model.parameters()).device
        >>> x, y = torch.randn(32, 4, device=home), torch.arange(32, device=home) % 2
        >>> with watch(model, optimizer) as record:
        ...     for _ in range(12):
        ...         loss = torch.nn.functional.cross_entropy(model(x), y)
        ...         record.loss(loss, y)
        ...         loss.backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> finding = record.findings()[0]
        >>> finding.subject, finding.numbers["kind"]
        ('2', 'not_in_optimizer')
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    recorder = recorder_of(model, optimizers, every)
    return Watch(recorder)


def recorder_of(model: Any, optimizers: Sequence[Any], every: int) -> NetworkRecorder:
    """A recorder of a network, without what wraps it for several devices.

    Args:
        model: network, wrapped or not.
        optimizers: its optimizers.
        every: steps from one sample to the next.

    Raises:
        InputError: no parameters, no optimizer, or `every` below 1.
    """
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    if not isinstance(model, nn.Module) or not any(True for _ in model.parameters()):
        reject("model", "a module with parameters", type(model).__name__, "Pass the network.")
    if not optimizers or not all(isinstance(part, Optimizer) for part in optimizers):
        got = ", ".join(type(part).__name__ for part in optimizers) or "none"
        reject("optimizer", "a torch optimizer, or several", got, "Pass what the loop steps.")
    if every < 1:
        reject("every", "at least 1", str(every), "Pass the number of steps between samples.")
    return NetworkRecorder(model, optimizers, every=every)

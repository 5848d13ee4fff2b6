"""Recording training dynamics by sample id, without waiting for the device in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics

# Per row and epoch: given logit minus the largest other one, probability of the given label, loss,
# whether the prediction is the given label, whether the row was seen.
_MARGIN, _CONFIDENCE, _LOSS, _CORRECT, _SEEN = range(5)
# Logits are buffered on their device and processed once per this many bytes, so that a step costs
# next to nothing.
_BYTES = 2**24


class DynamicsRecorder:
    """Training dynamics of n rows, summed over epochs; independent of shuffling and batches.

    A row counts once per epoch, by its last presentation, so rows that a sampler repeats to fill
    ranks or batches do not count double. 77 bytes per row: 77 MB for a million rows.

    Args:
        samples: number of rows n; ids are 0..n-1, the positions in the training set.
        device: device of the buffers; None takes that of the first logits.

    Example:
        >>> recorder = DynamicsRecorder(2)
        >>> logits, targets = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> for epoch in range(3):
        ...     recorder.record(torch.arange(2), logits, targets)
        ...     recorder.end_epoch()
        >>> recorder.dynamics.aum.tolist()  # low for the label that the model never predicts
        [2.0, -2.0]
    """

    def __init__(self, samples: int, *, device: torch.device | str | None = None) -> None:
        if samples < 1:
            reject("samples", "the number of training rows", str(samples), "Pass len(dataset).")
        self.samples = samples
        self._epoch = torch.zeros(5, samples, dtype=torch.float32, device=device)
        self._sums = torch.zeros(4, samples, dtype=torch.float64, device=device)
        self._counts = torch.zeros(3, samples, dtype=torch.int64, device=device)
        self._before = torch.zeros(samples, dtype=torch.bool, device=device)
        self._has_device = device is not None
        self._buffer: list[tuple[Tensor, Tensor, Tensor]] = []
        self._bytes = 0

    def record(self, ids: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Buffer one batch; nothing is read back from the device.

        Args:
            ids: row ids 0..n-1, `[b]` int64.
            logits: `[b, k]`, or `[b]` or `[b, 1]` binary.
            targets: class ids, `[b]`.

        Raises:
            InputError: lengths differ.
        """
        z, y = logits.detach(), targets.detach().reshape(-1)
        if not len(ids) == len(z) == len(y):
            reject(
                "ids, logits, targets",
                "one of each per row",
                f"{len(ids)}, {len(z)}, {len(y)}",
                "Return them for the same batch.",
            )
        if not self._has_device:
            self._move(z.device)
        self._buffer.append((ids.reshape(-1), z.reshape(len(z), -1), y))
        self._bytes += z.numel() * z.element_size()
        if self._bytes >= _BYTES:
            self._flush()

    def merge(self, add_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Give every rank the rows of all ranks; rows that several ranks saw are averaged.

        Args:
            add_over_ranks: function of a `[5, n]` tensor that returns its sum over the ranks.
        """
        self._flush()
        summed = add_over_ranks(self._epoch * self._epoch[_SEEN])
        self._epoch = summed / summed[_SEEN].clamp(min=1.0)

    def end_epoch(self) -> None:
        """Add the epoch to the sums; without rows since the last call nothing changes."""
        self._flush()
        seen = self._epoch[_SEEN] > 0
        margin, confidence, loss = (self._epoch[i].double() for i in (_MARGIN, _CONFIDENCE, _LOSS))
        self._sums += torch.stack([margin, confidence, confidence.square(), loss])
        correct = self._epoch[_CORRECT] > 0.5
        self._counts += torch.stack([seen, correct, seen & self._before & ~correct])
        self._before = torch.where(seen, correct, self._before)
        self._epoch.zero_()

    @property
    def dynamics(self) -> TrainingDynamics:
        """Training dynamics over the epochs that have ended."""
        margin, confidence, squares, loss = self._sums.clone()
        epochs, correct, forgetting = self._counts.clone()
        return TrainingDynamics(epochs, margin, confidence, squares, loss, correct, forgetting)

    def state_dict(self) -> dict[str, Any]:
        """All buffers as tensors, the unfinished epoch included."""
        self._flush()
        return {
            "epoch": self._epoch,
            "sums": self._sums,
            "counts": self._counts,
            "before": self._before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the buffers from a checkpoint.

        Args:
            state: result of `state_dict`.

        Raises:
            InputError: a checkpoint of another number of rows.
        """
        if len(state["before"]) != self.samples:
            reject(
                "samples",
                f"{len(state['before'])} as in the checkpoint",
                str(self.samples),
                "Resume with the same training set.",
            )
        self._buffer, self._bytes = [], 0
        device = self._epoch.device
        self._epoch, self._sums, self._counts, self._before = (
            state[key].to(device, copy=True) for key in ("epoch", "sums", "counts", "before")
        )

    @torch.no_grad()
    def _flush(self) -> None:
        """Write the buffered batches into the epoch."""
        if not self._buffer:
            return
        device = self._epoch.device
        ids, z, y = (
            torch.cat([part.to(device) for part in parts])
            for parts in zip(*self._buffer, strict=True)
        )
        self._buffer, self._bytes = [], 0
        z, y, ids = z.float(), y.long(), ids.long()
        z = torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        own = z.gather(1, y[:, None])[:, 0]
        margin = own - z.scatter(1, y[:, None], -torch.inf).amax(1)
        loss = nn.functional.cross_entropy(z, y, reduction="none")
        values = torch.stack(
            [margin, (-loss).exp(), loss, (margin > 0).float(), torch.ones_like(loss)]
        )
        # All presentations of a repeated row write the values of the last one, so the order of
        # writing does not matter.
        last = torch.zeros(self.samples, dtype=torch.int64, device=device)
        last.scatter_reduce_(0, ids, torch.arange(len(ids), device=device), "amax")
        self._epoch.index_copy_(1, ids, values[:, last[ids]])

    def _move(self, device: torch.device) -> None:
        self._epoch, self._sums, self._counts, self._before = (
            value.to(device) for value in (self._epoch, self._sums, self._counts, self._before)
        )
        self._has_device = True

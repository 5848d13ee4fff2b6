"""Recording training dynamics by sample id: one preallocated buffer on the device, no wait for it
per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics

# Per row and epoch: given logit minus the largest other one, probability of the given label, loss,
# correctness, seen.
_MARGIN, _CONFIDENCE, _LOSS, _CORRECT, _SEEN = range(5)
# Logits kept on their device before they are read: one pass per this many bytes, so that a step
# costs next to nothing.
_BYTES = 2**24


class DynamicsRecorder:
    """What the rows of one epoch did, by id, folded into sums at its end; shuffling and repeated
    rows change nothing.

    A row counts once per epoch, by its last presentation, so rows that a sampler repeats to fill
    ranks or batches do not weigh double. 77 bytes per row: 77 MB for a million rows.

    Args:
        samples: n; ids are 0..n-1, the rows' places in the training set.
        device: of the buffers; None takes that of the first logits.
    """

    def __init__(self, samples: int, *, device: torch.device | str | None = None) -> None:
        if samples < 1:
            reject("samples", "the number of training rows", str(samples), "Pass len(dataset).")
        self.samples = samples
        self._epoch = torch.zeros(5, samples, dtype=torch.float32, device=device)
        self._sums = torch.zeros(4, samples, dtype=torch.float64, device=device)
        self._counts = torch.zeros(3, samples, dtype=torch.int64, device=device)
        self._before = torch.zeros(samples, dtype=torch.bool, device=device)
        self._placed = device is not None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._bytes = 0

    def record(self, ids: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Keep references to one batch; nothing is read back from the device.

        Args:
            ids: `[b]` int64 of 0..n-1.
            logits: `[b, k]`, or `[b]` or `[b, 1]` binary.
            targets: `[b]` class ids.

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
        if not self._placed:
            self._move(z.device)
        self._waiting.append((ids.reshape(-1), z.reshape(len(z), -1), y))
        self._bytes += z.numel() * z.element_size()
        if self._bytes >= _BYTES:
            self._flush()

    def merge(self, add_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Give every rank the rows of all; a row that several ranks saw gets the mean of what they
        saw.

        Args:
            add_over_ranks: a `[5, n]` tensor -> its sum over the ranks.
        """
        self._flush()
        summed = add_over_ranks(self._epoch * self._epoch[_SEEN])
        self._epoch = summed / summed[_SEEN].clamp(min=1.0)

    def end_epoch(self) -> None:
        """Fold the epoch into the sums; without rows seen since the last fold nothing changes."""
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
        """Of the epochs folded so far."""
        margin, confidence, squares, loss = self._sums.clone()
        epochs, correct, forgotten = self._counts.clone()
        return TrainingDynamics(epochs, margin, confidence, squares, loss, correct, forgotten)

    def state_dict(self) -> dict[str, Any]:
        """Everything, the unfinished epoch included, as tensors."""
        self._flush()
        return {
            "epoch": self._epoch,
            "sums": self._sums,
            "counts": self._counts,
            "before": self._before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is of another number of rows.
        """
        if len(state["before"]) != self.samples:
            reject(
                "samples",
                f"{len(state['before'])} as in the checkpoint",
                str(self.samples),
                "Resume with the same training set.",
            )
        self._waiting, self._bytes = [], 0
        place = self._epoch.device
        self._epoch, self._sums, self._counts, self._before = (
            state[key].to(place, copy=True) for key in ("epoch", "sums", "counts", "before")
        )

    @torch.no_grad()
    def _flush(self) -> None:
        """Read the batches kept so far into the epoch."""
        if not self._waiting:
            return
        place = self._epoch.device
        ids, z, y = (
            torch.cat([part.to(place) for part in parts])
            for parts in zip(*self._waiting, strict=True)
        )
        self._waiting, self._bytes = [], 0
        z, y, ids = z.float(), y.long(), ids.long()
        z = torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        own = z.gather(1, y[:, None])[:, 0]
        margin = own - z.scatter(1, y[:, None], -torch.inf).amax(1)
        loss = nn.functional.cross_entropy(z, y, reduction="none")
        values = torch.stack(
            [margin, (-loss).exp(), loss, (margin > 0).float(), torch.ones_like(loss)]
        )
        # Of a row that comes twice, all presentations write the last one, whatever the order of
        # writing.
        last = torch.zeros(self.samples, dtype=torch.int64, device=place)
        last.scatter_reduce_(0, ids, torch.arange(len(ids), device=place), "amax")
        self._epoch.index_copy_(1, ids, values[:, last[ids]])

    def _move(self, device: torch.device) -> None:
        self._epoch, self._sums, self._counts, self._before = (
            value.to(device) for value in (self._epoch, self._sums, self._counts, self._before)
        )
        self._placed = True

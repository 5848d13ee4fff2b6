"""The record of a training as it goes: mean losses per validation check and per epoch, without
waiting for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.curves.learning_curves import LearningCurves

# References kept before they are summed: one stacking per this many steps or values instead of one
# wait per step.
_STEPS, _VALUES = 50, 2**20
# What a sum holds: weighted losses, weights, steps, steps whose loss was NaN or infinite.
_FIELDS = 4
# Under what a loss is logged where no step hands it over.
_TRAIN_NAMES = ("train_loss_epoch", "train_loss", "training_loss", "train/loss")
_VAL_NAMES = ("val_loss", "valid_loss", "validation_loss", "val/loss")


class LossSums:
    """Sums of losses that stay on their device; float64, so that nothing drifts over long
    epochs.
    """

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.rows: list[int] = []
        self.sums: Tensor | None = None
        self._count = 0

    def add(self, value: Tensor, rows: int) -> None:
        """Keep a reference to a loss: a scalar mean over so many rows, or one value per row, of
        which the first ones count.
        """
        if not rows:
            return
        value = value[:rows] if value.ndim else value
        self.values.append(value)
        self.rows.append(rows)
        self._count += value.numel()
        if len(self.values) >= _STEPS or self._count >= _VALUES:
            self._flush()

    def total(self) -> Tensor:
        """`[4]` float64 weighted losses, weights, steps and bad steps, on the device of the values;
        empties this.
        """
        self._flush()
        sums = torch.zeros(_FIELDS, dtype=torch.float64) if self.sums is None else self.sums
        self.sums = None
        return sums

    def state_dict(self) -> dict[str, Any]:
        """What is not yet taken, summed only as far as it is, so that a resumed run rounds as an
        uninterrupted one.
        """
        return {
            "values": [value.cpu() for value in self.values],
            "rows": list(self.rows),
            "sums": self.sums,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.values, self.rows, self.sums = (
            list(state["values"]),
            list(state["rows"]),
            state["sums"],
        )
        self._count = sum(value.numel() for value in self.values)

    def _flush(self) -> None:
        if not self.values:
            return
        device = self.values[-1].device
        if all(value.numel() == 1 for value in self.values):
            losses = torch.stack(
                [value.detach().reshape(()).to(device) for value in self.values]
            ).double()
        else:
            losses = torch.stack(
                [value.detach().double().mean().to(device) for value in self.values]
            )
        weight = torch.tensor(self.rows, dtype=torch.float64)
        weight = (
            weight.pin_memory().to(device, non_blocking=True)
            if device.type == "cuda"
            else weight.to(device)
        )
        bad = (~losses.isfinite()).double().sum()
        sums = torch.stack(
            [losses @ weight, weight.sum(), torch.full_like(bad, len(self.values)), bad]
        )
        self.sums = sums if self.sums is None else self.sums.to(device) + sums
        self.values.clear()
        self.rows.clear()
        self._count = 0


class CurveRecorder:
    """Rows per epoch and per validation check, from losses handed in step by step and metrics
    logged beside them.

    `epoch` is the one whose training is under way, None between epochs. The owner sums what
    `check_sums` and `epoch_sums` return over its ranks and hands the numbers back.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.checks: list[dict[str, float]] = []
        self.notes: list[str] = []
        self.untrained_loss: float | None = None
        self.train = LossSums()
        self.val: dict[int, LossSums] = {}
        self._first: Tensor | None = None
        self._epoch_train: Tensor | None = None
        self.epoch: int | None = None
        self._resumed = False
        # Names logged by the validation, told by what was there before it.
        self._val_names: set[str] = set()
        self._logged: set[str] = set()

    def begin(self, epoch: int, step: int) -> None:
        """A fit starts at this epoch: what was recorded of later ones is forgotten, and all of it
        where a new run starts.
        """
        if not self._resumed:
            self.train, self.val, self._epoch_train, self._first, self.epoch = (
                LossSums(),
                {},
                None,
                None,
                None,
            )
        if epoch == 0 and step == 0:
            self.notes, self.untrained_loss = [], None
        self.rows = [row for row in self.rows if row["epoch"] < epoch]
        self.checks = [row for row in self.checks if row["step"] <= step]
        self._resumed = False

    def add_train(self, loss: Tensor, rows: int, *, epoch: int, index: int) -> None:
        """Keep the loss of a training step; no update came before the first of the first epoch."""
        if epoch == 0 and index == 0:
            self._first = loss.detach().double().mean()
        self.epoch = epoch
        self.train.add(loss, rows)

    def add_val(self, loader: int, loss: Tensor, rows: int, *, repeated: int = 0) -> None:
        """Keep the loss of a validation step of one loader, of which so many rows stand among its
        batches twice.
        """
        self.val.setdefault(loader, LossSums()).add(loss, rows)
        if repeated and not loss.ndim:
            note = (
                f"the {_val_name(loader)} is a mean per batch and counts rows twice that the "
                "sampler repeats to even the ranks "
                f"({repeated} in all); return or read one loss per row to leave them out"
            )
            self.notes += [note] if note not in self.notes else []

    def begin_check(self, logged: Iterable[str]) -> None:
        """A validation check starts: what is logged by now does not come from it."""
        self._logged = set(logged)

    def check_sums(self) -> Tensor:
        """`[1 + l, 4]` sums of the training since the last check and of each validation loader."""
        train = self.train.total()
        self._epoch_train = (
            train if self._epoch_train is None else self._epoch_train.to(train.device) + train
        )
        sums = [train, *(self.val[loader].total().to(train.device) for loader in sorted(self.val))]
        return torch.stack(sums)

    def close_check(
        self, epoch: int, step: int, sums: Sequence[Sequence[float]], logged: Mapping[str, float]
    ) -> None:
        """A validation check is over; of what is logged by now, its own counts."""
        self._val_names |= set(logged) - self._logged
        metrics = _with_loss(
            {name: value for name, value in logged.items() if name in self._val_names},
            "val_loss",
            _VAL_NAMES,
        )
        row = {"epoch": float(epoch), "step": float(step), "train_loss": _mean(sums[0])}
        for loader, part in zip(sorted(self.val), sums[1:], strict=True):
            name = _val_name(loader)
            row[name] = _mean(part)
            self.notes += _bad(name, epoch, part)
        self.val.clear()
        self.checks = [check for check in self.checks if check["step"] != row["step"]] + [
            row | _new(metrics, row)
        ]

    def epoch_sums(self) -> Tensor:
        """`[2, 4]` sums of the training of the whole epoch, and of the first loss before any
        update.
        """
        train = self.train.total()
        if self._epoch_train is not None:
            train = self._epoch_train.to(train.device) + train
        self._epoch_train = None
        first = torch.zeros_like(train)
        if self._first is not None:
            first[:2] = torch.stack([self._first, torch.ones_like(self._first)]).to(train.device)
            self._first = None
        return torch.stack([train, first])

    def close_epoch(
        self, epoch: int, sums: Sequence[Sequence[float]], logged: Mapping[str, float]
    ) -> dict[str, float]:
        """An epoch is over; its validation is that of its last check. One without a step or a
        metric is none.

        Args:
            epoch: which.
            sums: those of `epoch_sums`, then the summed loss and the rows of the evaluated training
                sample where there is one.
            logged: all metrics; those of the validation were taken by its check.

        Returns:
            The losses of the epoch by name.
        """
        self.epoch = None
        metrics = _with_loss(
            {name: value for name, value in logged.items() if name not in self._val_names},
            "train_loss",
            _TRAIN_NAMES,
        )
        if len(sums) > 2 and sums[2][1]:
            metrics["train_eval_loss"] = _mean(sums[2])
        if not sums[0][2] and not metrics:
            return {}
        if not math.isnan(first := _mean(sums[1])):
            self.untrained_loss = first
        row = {"epoch": float(epoch), "train_loss": _mean(sums[0])}
        self.notes += _bad("train_loss", epoch, sums[0])
        checked = [check for check in self.checks if check["epoch"] == epoch]
        if checked:
            row |= {
                name: value
                for name, value in checked[-1].items()
                if name not in ("epoch", "step", "train_loss")
            }
        row |= _new(metrics, row)
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] != epoch] + [row]
        return {name: value for name, value in row.items() if "loss" in name}

    @property
    def curves(self) -> LearningCurves:
        """One row per epoch."""
        return _as_curves(self.rows, "epoch", self.untrained_loss, self.notes)

    @property
    def check_curves(self) -> LearningCurves:
        """One row per validation check, counted in optimizer steps."""
        rows = [
            {name: value for name, value in row.items() if name != "epoch"} for row in self.checks
        ]
        return _as_curves(rows, "step", self.untrained_loss, self.notes)

    def state_dict(self) -> dict[str, Any]:
        """Everything, the unfinished epoch included."""
        kept = {
            name: getattr(self, name)
            for name in (
                "rows",
                "checks",
                "notes",
                "untrained_loss",
                "_first",
                "_epoch_train",
                "epoch",
            )
        }
        kept["val_names"] = sorted(self._val_names)
        return kept | {
            "train": self.train.state_dict(),
            "val": {loader: sums.state_dict() for loader, sums in self.val.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows, self.checks = ([dict(row) for row in state[name]] for name in ("rows", "checks"))
        self.notes, self.untrained_loss = list(state["notes"]), state["untrained_loss"]
        self._first, self._epoch_train, self.epoch = (
            state["_first"],
            state["_epoch_train"],
            state["epoch"],
        )
        self._val_names = set(state["val_names"])
        self.train.load_state_dict(state["train"])
        self.val = {int(loader): LossSums() for loader in state["val"]}
        for loader, sums in state["val"].items():
            self.val[int(loader)].load_state_dict(sums)
        self._resumed = True


def batch_rows(batch: object) -> int:
    """Rows of a batch: the length of its first tensor, however nested; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = (
        batch.values()
        if isinstance(batch, Mapping)
        else batch
        if isinstance(batch, (tuple, list))
        else ()
    )
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
        if isinstance(part, (Mapping, tuple, list)):
            return batch_rows(part)
    return 1


def _as_curves(
    rows: Sequence[Mapping[str, float]], unit: str, untrained: float | None, notes: Sequence[str]
) -> LearningCurves:
    names = dict.fromkeys(
        ["train_loss", "val_loss", *(name for row in rows for name in row if name != unit)]
    )
    columns = {
        name: torch.tensor([row.get(name, torch.nan) for row in rows], dtype=torch.float64)
        for name in names
    }
    epoch = torch.tensor([int(row[unit]) for row in rows], dtype=torch.int64)
    evaluated = columns.pop("train_eval_loss", None)
    return LearningCurves(
        epoch,
        columns.pop("train_loss"),
        columns.pop("val_loss"),
        columns,
        evaluated,
        untrained,
        unit,
        tuple(notes),
    )


def _val_name(loader: int) -> str:
    return "val_loss" if loader == 0 else f"val_loss_{loader}"


def _bad(name: str, epoch: int, sums: Sequence[float]) -> list[str]:
    return (
        [f"the {name} was NaN or infinite in {sums[3]:.0f} of {sums[2]:.0f} steps of epoch {epoch}"]
        if sums[3]
        else []
    )


def _with_loss(metrics: Mapping[str, float], side: str, names: Sequence[str]) -> dict[str, float]:
    """The metrics, the loss among them under its usual name."""
    name = next((name for name in names if name in metrics), None)
    return dict(metrics) if name is None else {side: metrics[name], **metrics}


def _mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else math.nan


def _new(metrics: Mapping[str, float], row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isnan(row.get(name, math.nan))}

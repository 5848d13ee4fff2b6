"""The record of a training as it goes: mean losses per validation check and per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.curves.files.column_names import TRAIN_LOSS, VAL_LOSS, losses_by_loader
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.curves.loss_sums import LossSums

# Of fewer rows the mean loss is too noisy to say what an untrained network loses.
_MIN_UNTRAINED_ROWS = 16
# Attributes that a checkpoint holds as they are.
_STATE = ("rows", "checks", "notes", "untrained_loss", "epoch")


class CurveRecorder:
    """Rows per epoch and per validation check, from the losses of steps and the logged metrics.

    The owner adds what `check_sums` and `epoch_sums` return over its ranks and hands the numbers
    back to `close_check` and `close_epoch`.

    Attributes:
        rows: one mapping of names to values per finished epoch.
        checks: one mapping of names to values per validation check.
        notes: sentences on the record.
        untrained_loss: loss of the first batch, before any update; None if it has too few rows.
        epoch: epoch that is being trained, None between epochs.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.checks: list[dict[str, float]] = []
        self.notes: list[str] = []
        self.untrained_loss: float | None = None
        self.epoch: int | None = None
        self._sums = _OpenSums()
        self._resumed = False
        # Names that only the validation logs: those that were not there before it.
        self._val_names: set[str] = set()
        self._logged: set[str] = set()

    def begin(self, epoch: int, step: int) -> None:
        """Start a fit; later epochs of an earlier record are dropped, and all of it in a new run.

        Args:
            epoch: first epoch of the fit.
            step: optimizer steps before it.
        """
        if not self._resumed:
            self._sums, self.epoch = _OpenSums(), None
        if epoch == 0 and step == 0:
            self.notes, self.untrained_loss = [], None
        self.rows = [row for row in self.rows if row["epoch"] < epoch]
        self.checks = [row for row in self.checks if row["step"] <= step]
        self._resumed = False

    def add_train(
        self, loss: Tensor, rows: int, *, epoch: int, index: int, repeated: int = 0
    ) -> None:
        """Hold the loss of a training step.

        Args:
            loss: mean over the rows, `[]`, or one value per row, `[n]`.
            rows: number of rows that count.
            epoch: epoch of the step.
            index: batch in the epoch; before the first of all there was no update.
            repeated: number of rows that the sampler repeats to even the ranks, to be noted.
        """
        self.notes += _new(_repetitions("train_loss", loss, repeated), self.notes)
        if epoch == 0 and index == 0:
            mean = loss.detach().double().mean()
            self._sums.first = torch.stack([mean * rows, torch.full_like(mean, rows)])
        self.epoch = epoch
        self._sums.train.add(loss, rows)

    def add_val(self, loader: int, loss: Tensor, rows: int, *, repeated: int = 0) -> None:
        """Hold the loss of a validation step.

        Args:
            loader: number of the validation loader.
            loss: mean over the rows, `[]`, or one value per row, `[n]`.
            rows: number of rows that count.
            repeated: number of rows that the sampler repeats to even the ranks, to be noted.
        """
        self._sums.val.setdefault(loader, LossSums()).add(loss, rows)
        self.notes += _new(_repetitions(_val_name(loader), loss, repeated), self.notes)

    def begin_check(self, logged: Iterable[str]) -> None:
        """Start a validation check.

        Args:
            logged: names of metrics logged so far, which are not its own.
        """
        self._logged = set(logged)

    def check_sums(self) -> Tensor:
        """Sums of the training since the last check and of each validation loader, `[1 + l, 4]`."""
        train = self._sums.train.total()
        earlier = self._sums.epoch_train
        self._sums.epoch_train = train if earlier is None else earlier.to(train.device) + train
        sums = [
            self._sums.val[loader].total().to(train.device) for loader in sorted(self._sums.val)
        ]
        return torch.stack([train, *sums])

    def close_check(
        self, epoch: int, step: int, sums: Sequence[Sequence[float]], logged: Mapping[str, float]
    ) -> None:
        """End a validation check.

        Args:
            epoch: current epoch.
            step: optimizer steps so far.
            sums: `check_sums` over all ranks.
            logged: all metrics, of which those that it logged itself count.
        """
        self._val_names |= set(logged) - self._logged
        own = {name: value for name, value in logged.items() if name in self._val_names}
        row = {"epoch": float(epoch), "step": float(step), "train_loss": _mean(sums[0])}
        for loader, part in zip(sorted(self._sums.val), sums[1:], strict=True):
            name = _val_name(loader)
            row[name] = _mean(part)
            self.notes += _nonfinite(name, epoch, part)
        self._sums.val.clear()
        losses = losses_by_loader(own, VAL_LOSS)
        metrics = {_val_name(loader): loss for loader, loss in losses.items()} | own
        self.checks = [check for check in self.checks if check["step"] != row["step"]]
        self.checks.append(row | _missing_from(row, metrics))

    def epoch_sums(self) -> Tensor:
        """Sums of the training of the epoch, and of the first loss before any update, `[2, 4]`."""
        train = self._sums.train.total()
        if self._sums.epoch_train is not None:
            train = self._sums.epoch_train.to(train.device) + train
        self._sums.epoch_train = None
        first = torch.zeros_like(train)
        if self._sums.first is not None:
            first[:2] = self._sums.first.to(train.device)
            self._sums.first = None
        return torch.stack([train, first])

    def close_epoch(
        self, epoch: int, sums: Sequence[Sequence[float]], logged: Mapping[str, float]
    ) -> dict[str, float]:
        """End an epoch; its validation is that of its last check.

        Args:
            epoch: number of the epoch.
            sums: `epoch_sums` over all ranks, then the sums of the evaluated training sample where
                there is one.
            logged: all metrics, of which those of the validation are left out.

        Returns:
            The losses of the epoch by name; none where it had no step and no metric.
        """
        self.epoch = None
        own = {name: value for name, value in logged.items() if name not in self._val_names}
        losses = losses_by_loader(own, TRAIN_LOSS)
        metrics = ({"train_loss": losses[0]} if 0 in losses else {}) | own
        if len(sums) > 2 and sums[2][1]:
            metrics["train_eval_loss"] = _mean(sums[2])
        if not sums[0][2] and not metrics:
            return {}
        if sums[1][1] >= _MIN_UNTRAINED_ROWS:
            self.untrained_loss = _mean(sums[1])
        row = {"epoch": float(epoch), "train_loss": _mean(sums[0])}
        self.notes += _nonfinite("train_loss", epoch, sums[0])
        checks = [check for check in self.checks if check["epoch"] == epoch]
        validation = checks[-1] if checks else {}
        row |= {name: validation[name] for name in validation if name not in (*row, "step")}
        row |= _missing_from(row, metrics)
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] != epoch] + [row]
        return {name: value for name, value in row.items() if "loss" in name}

    @property
    def curves(self) -> LearningCurves:
        """One row per epoch."""
        return _as_curves(self, self.rows, "epoch", _unnamed_loss(self._val_names, self.checks))

    @property
    def check_curves(self) -> LearningCurves:
        """One row per validation check, counted in optimizer steps."""
        return _as_curves(self, self.checks, "step", _unnamed_loss(self._val_names, self.checks))

    def state_dict(self) -> dict[str, Any]:
        """Everything, the unfinished epoch included."""
        record = {name: getattr(self, name) for name in _STATE}
        return record | {"val_names": sorted(self._val_names), "sums": self._sums.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the record of a checkpoint.

        Args:
            state: result of `state_dict`.
        """
        self.rows, self.checks = ([dict(row) for row in state[name]] for name in ("rows", "checks"))
        self.notes, self.untrained_loss = list(state["notes"]), state["untrained_loss"]
        self.epoch, self._val_names = state["epoch"], set(state["val_names"])
        self._sums = _OpenSums()
        self._sums.load_state_dict(state["sums"])
        self._resumed = True


class _OpenSums:
    """Sums of the epoch and the validation check that are not over yet.

    Attributes:
        train: training losses since the last check.
        epoch_train: sums of the training before it in this epoch, `[4]`; None before a check.
        first: loss of the first batch of all times its rows, and the rows, `[2]`; None later.
        val: validation losses by loader.
    """

    def __init__(self) -> None:
        self.train = LossSums()
        self.epoch_train: Tensor | None = None
        self.first: Tensor | None = None
        self.val: dict[int, LossSums] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "train": self.train.state_dict(),
            "epoch_train": self.epoch_train,
            "first": self.first,
            "val": {loader: sums.state_dict() for loader, sums in self.val.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.train.load_state_dict(state["train"])
        self.epoch_train, self.first = state["epoch_train"], state["first"]
        for loader, sums in state["val"].items():
            self.val.setdefault(int(loader), LossSums()).load_state_dict(sums)


def finest_curves(record: CurveRecorder, min_epochs: int) -> LearningCurves:
    """The epochs of a record, or its validation checks where too few epochs were validated.

    A training of a few long epochs, or of steps alone, validates within its epochs.

    Args:
        record: record of a training.
        min_epochs: validated epochs from which the epochs are enough.
    """
    epochs, checks = record.curves, record.check_curves
    validated = int(epochs.val_loss.isfinite().sum())
    more = int(checks.val_loss.isfinite().sum()) > validated
    return checks if validated < min_epochs and more else epochs


def _as_curves(
    record: CurveRecorder, rows: Sequence[Mapping[str, float]], unit: str, notes: Sequence[str]
) -> LearningCurves:
    """Rows of a record as curves."""
    names = dict.fromkeys(["train_loss", "val_loss", *(name for row in rows for name in row)])
    columns = {
        name: torch.tensor([row.get(name, torch.nan) for row in rows], dtype=torch.float64)
        for name in names
        if name not in ("epoch", "step")
    }
    return LearningCurves(
        epoch=torch.tensor([int(row[unit]) for row in rows], dtype=torch.int64),
        train_loss=columns.pop("train_loss"),
        val_loss=columns.pop("val_loss"),
        train_eval_loss=columns.pop("train_eval_loss", None),
        metrics=columns,
        untrained_loss=record.untrained_loss,
        unit=unit,
        notes=(*notes, *record.notes),
    )


def _unnamed_loss(val_names: set[str], checks: Sequence[Mapping[str, float]]) -> list[str]:
    """A note where the validation logs metrics, but none under a usual name of its loss."""
    if not val_names or any("val_loss" in check for check in checks):
        return []
    names = ", ".join(sorted(val_names)[:10])
    return [
        "no validation loss was recorded: no step returned one, and none of the metrics of the "
        f"validation ({names}) has a usual name such as `val_loss`"
    ]


def _new(notes: Sequence[str], recorded: Sequence[str]) -> list[str]:
    return [note for note in notes if note not in recorded]


def _repetitions(name: str, loss: Tensor, repeated: int) -> list[str]:
    """A note that a mean per batch counts rows twice."""
    if not repeated or loss.ndim:
        return []
    return [
        f"the {name} is a mean per batch and counts rows twice that the sampler repeats to even "
        f"the ranks ({repeated} in all); return or read one loss per row to leave them out"
    ]


def _val_name(loader: int) -> str:
    return "val_loss" if loader == 0 else f"val_loss_{loader}"


def _nonfinite(name: str, epoch: int, sums: Sequence[float]) -> list[str]:
    """A note on the steps of an epoch whose loss was NaN or infinite."""
    if not sums[3]:
        return []
    return [
        f"the {name} was NaN or infinite in {sums[3]:.0f} of {sums[2]:.0f} steps of epoch {epoch}"
    ]


def _mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else math.nan


def _missing_from(row: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that a row does not have yet."""
    return {name: value for name, value in metrics.items() if math.isnan(row.get(name, math.nan))}

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
_STATE = ("rows", "checks", "notes", "untrained_loss", "_first", "_epoch_train", "epoch")


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
        self._resumed = False
        # Names that only the validation logs: those that were not there before it.
        self._val_names: set[str] = set()
        self._logged: set[str] = set()
        self._clear_sums()

    def _clear_sums(self) -> None:
        self._train, self._val = LossSums(), dict[int, LossSums]()
        self._first: Tensor | None = None
        self._epoch_train: Tensor | None = None
        self.epoch = None

    def begin(self, epoch: int, step: int) -> None:
        """Start a fit; later epochs of an earlier record are dropped, and all of it in a new run.

        Args:
            epoch: first epoch of the fit.
            step: optimizer steps before it.
        """
        if not self._resumed:
            self._clear_sums()
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
        self._note_repetitions("train_loss", loss, repeated)
        if epoch == 0 and index == 0:
            mean = loss.detach().double().mean()
            self._first = torch.stack([mean * rows, torch.full_like(mean, rows)])
        self.epoch = epoch
        self._train.add(loss, rows)

    def add_val(self, loader: int, loss: Tensor, rows: int, *, repeated: int = 0) -> None:
        """Hold the loss of a validation step.

        Args:
            loader: number of the validation loader.
            loss: mean over the rows, `[]`, or one value per row, `[n]`.
            rows: number of rows that count.
            repeated: number of rows that the sampler repeats to even the ranks, to be noted.
        """
        self._val.setdefault(loader, LossSums()).add(loss, rows)
        self._note_repetitions(_val_name(loader), loss, repeated)

    def _note_repetitions(self, name: str, loss: Tensor, repeated: int) -> None:
        """Note that a mean per batch counts rows twice."""
        if repeated and not loss.ndim:
            note = (
                f"the {name} is a mean per batch and counts rows twice that the sampler repeats to "
                f"even the ranks ({repeated} in all); return or read one loss per row to leave "
                "them out"
            )
            self.notes += [note] if note not in self.notes else []

    def begin_check(self, logged: Iterable[str]) -> None:
        """Start a validation check.

        Args:
            logged: names of metrics logged so far, which are not its own.
        """
        self._logged = set(logged)

    def check_sums(self) -> Tensor:
        """Sums of the training since the last check and of each validation loader, `[1 + l, 4]`."""
        train = self._train.total()
        earlier = self._epoch_train
        self._epoch_train = train if earlier is None else earlier.to(train.device) + train
        sums = [self._val[loader].total().to(train.device) for loader in sorted(self._val)]
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
        for loader, part in zip(sorted(self._val), sums[1:], strict=True):
            name = _val_name(loader)
            row[name] = _mean(part)
            self.notes += _nonfinite(name, epoch, part)
        self._val.clear()
        losses = losses_by_loader(own, VAL_LOSS)
        metrics = {_val_name(loader): loss for loader, loss in losses.items()} | own
        self.checks = [check for check in self.checks if check["step"] != row["step"]]
        self.checks.append(row | _missing_from(row, metrics))

    def epoch_sums(self) -> Tensor:
        """Sums of the training of the epoch, and of the first loss before any update, `[2, 4]`."""
        train = self._train.total()
        if self._epoch_train is not None:
            train = self._epoch_train.to(train.device) + train
        self._epoch_train = None
        first = torch.zeros_like(train)
        if self._first is not None:
            first[:2] = self._first.to(train.device)
            self._first = None
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
        return self._as_curves(self.rows, "epoch", self._unnamed_loss())

    @property
    def check_curves(self) -> LearningCurves:
        """One row per validation check, counted in optimizer steps."""
        return self._as_curves(self.checks, "step", self._unnamed_loss())

    def finest_curves(self, min_epochs: int) -> LearningCurves:
        """The epochs, or the validation checks where too few epochs were validated.

        A training of a few long epochs, or of steps alone, validates within its epochs.

        Args:
            min_epochs: validated epochs from which the epochs are enough.
        """
        epochs, checks = self.curves, self.check_curves
        validated = int(epochs.val_loss.isfinite().sum())
        more = int(checks.val_loss.isfinite().sum()) > validated
        return checks if validated < min_epochs and more else epochs

    def _unnamed_loss(self) -> list[str]:
        """A note where the validation logs metrics, but none under a usual name of its loss."""
        if not self._val_names or any("val_loss" in check for check in self.checks):
            return []
        names = ", ".join(sorted(self._val_names)[:10])
        return [
            "no validation loss was recorded: no step returned one, and none of the metrics of the "
            f"validation ({names}) has a usual name such as `val_loss`"
        ]

    def _as_curves(
        self, rows: Sequence[Mapping[str, float]], unit: str, notes: Sequence[str]
    ) -> LearningCurves:
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
            untrained_loss=self.untrained_loss,
            unit=unit,
            notes=(*notes, *self.notes),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, the unfinished epoch included."""
        return {name: getattr(self, name) for name in _STATE} | {
            "val_names": sorted(self._val_names),
            "train": self._train.state_dict(),
            "val": {loader: sums.state_dict() for loader, sums in self._val.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the record of a checkpoint.

        Args:
            state: result of `state_dict`.
        """
        for name in _STATE:
            setattr(self, name, state[name])
        self.rows, self.checks = ([dict(row) for row in state[name]] for name in ("rows", "checks"))
        self.notes = list(state["notes"])
        self._val_names = set(state["val_names"])
        self._train.load_state_dict(state["train"])
        self._val = {int(loader): LossSums() for loader in state["val"]}
        for loader, sums in state["val"].items():
            self._val[int(loader)].load_state_dict(sums)
        self._resumed = True


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

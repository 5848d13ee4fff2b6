"""The usual names of losses, epochs and steps in logs and tables: one list for every reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Names in lower case, with `_` for every other sign and without a final `_epoch`; the first one
# present counts.
TRAIN_LOSS = ("train_loss", "training_loss", "loss_train", "loss_training", "loss")
TRAIN_LOSS_OF_STEPS = ("train_loss_step",)
VAL_LOSS = (
    "val_loss",
    "valid_loss",
    "validation_loss",
    "eval_loss",
    "loss_val",
    "loss_valid",
    "loss_validation",
    "loss_eval",
    "dev_loss",
)
EPOCH = ("epoch", "epochs")
STEP = ("step", "global_step", "steps", "iteration")


def usual_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column that bears one of these names, the earlier name first; None where none does.

    Args:
        columns: column or metric names as they were written.
        names: usual names in order of preference.
    """
    plain = {column: _plain(column) for column in columns}
    for name in names:
        for wanted in (f"{name}_epoch", name):
            for column, short in plain.items():
                if short == wanted:
                    return column
    return None


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")

"""The usual names of losses, epochs and steps in logs and tables: one list for every reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

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
# What Lightning puts between the name of a metric and the number of its loader.
_LOADER = "/dataloader_idx_"
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


def losses_by_loader(metrics: Mapping[str, float], names: Sequence[str]) -> dict[int, float]:
    """The loss of each loader among logged metrics.

    Lightning logs `val_loss/dataloader_idx_1` where a step with several loaders logs `val_loss`.

    Args:
        metrics: logged values by name.
        names: usual names of the loss in order of preference.
    """
    by_loader: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        base, _, loader = name.partition(_LOADER)
        by_loader.setdefault(int(loader or 0), {}).setdefault(base, value)
    columns = {loader: usual_column(values, names) for loader, values in by_loader.items()}
    return {
        loader: by_loader[loader][column]
        for loader, column in columns.items()
        if column is not None
    }


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")

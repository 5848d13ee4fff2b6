"""A log table as one row per epoch: which column is which, what repeats, what is missing."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.curves.files.column_names import (
    EPOCH,
    STEP,
    TRAIN_LOSS,
    TRAIN_LOSS_OF_STEPS,
    VAL_LOSS,
    usual_column,
)
from gendebug_torch.errors import reject

# Beyond this, neighbouring whole numbers are no longer told apart by float64.
_MAX_EPOCH = 2.0**53


def epoch_table(
    frame: pd.DataFrame, *, train: str | None = None, val: str | None = None
) -> tuple[pd.DataFrame, str, list[str]]:
    """One row per epoch with `train_loss` and `val_loss`, the unit of the rows, and notes.

    The training loss of an epoch is the mean of its rows, every other column its last value. Where
    a step is repeated, as after a resumed run, the later row counts. Without epochs, or with
    several validations in most of them, a row is a validation, and its unit the step.

    Args:
        frame: one row per epoch, step or log line.
        train: column of the training loss, where its name is not a usual one.
        val: column of the validation loss, where its name is not a usual one.

    Raises:
        InputError: a column is absent or not numeric, an epoch is infinite, or there are no rows.
    """
    if not len(frame):
        reject("curves", "at least one epoch", "no rows", "Train for an epoch first.")
    notes: list[str] = []
    table = _numeric(_renamed(frame, train, val))
    x = "epoch" if "epoch" in table else "step"
    missing = int(table[x].isna().sum())
    if missing:
        notes.append(f"{missing} rows without {x} were left out")
        table = table[table[x].notna()]
    if bool((beyond := table[x].abs() > _MAX_EPOCH).any()):
        got = str(table.loc[beyond, x].iloc[0])
        reject("curves", f"finite values of {x}", got, "Correct or leave out these rows.")
    table = _in_order(table, notes)
    if x == "epoch" and bool((table["epoch"] % 1 != 0).any()):
        if "step" in table and _validates_within_epochs(table):
            table, x = table.drop(columns="epoch"), "step"
        else:
            # Fractional epochs count what is done: 0.5 and 1.0 both belong to the first epoch.
            table = table.assign(epoch=np.ceil(table["epoch"] - 1e-2))
    merged = _merged(table, x)
    if x == "epoch":
        notes += _missing_epochs(merged.index.to_numpy())
    return merged.reset_index(names="epoch"), x, notes


def _renamed(frame: pd.DataFrame, train: str | None, val: str | None) -> pd.DataFrame:
    """The frame with its columns called epoch, step, train_loss and val_loss."""
    table = frame.rename(columns=str)
    table = table.loc[:, ~table.columns.duplicated()]
    present = ", ".join(table.columns)
    for argument, name in (("train", train), ("val", val)):
        if name is not None and name not in table:
            reject(
                argument, "a column of the table", f"{name!r} among {present}", "Correct the name."
            )
    columns = list(table.columns)
    chosen = {
        "train_loss": train or usual_column(columns, TRAIN_LOSS + TRAIN_LOSS_OF_STEPS),
        "val_loss": val or usual_column(columns, VAL_LOSS),
        "epoch": usual_column(columns, EPOCH),
        "step": usual_column(columns, STEP),
    }
    missing = [name for name in ("train_loss", "val_loss") if chosen[name] is None]
    missing += ["epoch or step"] if chosen["epoch"] is None and chosen["step"] is None else []
    if missing:
        reject(
            "curves",
            "columns epoch, train_loss and val_loss",
            f"no {', '.join(missing)} among {present}",
            "Add a column `epoch`, e.g. the number of the row."
            if missing == ["epoch or step"]
            else "Rename the columns, or name them with `train` and `val`.",
        )
    names = {column: name for name, column in chosen.items() if column is not None}
    shadowed = [name for name in chosen if name in table and name not in names]
    return table.drop(columns=shadowed).rename(columns=names)


def _numeric(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers; other text is refused in losses and epochs, and left out elsewhere."""
    needed = [name for name in ("epoch", "step", "train_loss", "val_loss") if name in table]
    columns: dict[str, Any] = {}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind not in "fiu":
            scalar = values.map(lambda value: isinstance(value, (str, Number)))
            parsed = pd.to_numeric(values.where(scalar), errors="coerce")
            if name in needed and bool((parsed.isna() & values.notna()).any()):
                reject("curves", "numeric columns", f"text in {name}", "Convert them to numbers.")
            values = parsed
        if name in needed or values.notna().any():
            columns[name] = values.astype("float64")
    return pd.DataFrame(columns)


def _in_order(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows by epoch and step; a repeated step is one row, the later values over the earlier."""
    keys = [key for key in ("epoch", "step") if key in table]
    unordered = next((key for key in reversed(keys) if bool((table[key].diff() < 0).any())), None)
    if unordered is not None:
        notes.append(
            f"{unordered}s were out of order, as a resumed run leaves them: sorted, the later row "
            "of each counts"
        )
    if "step" in keys and table["step"].notna().all():
        table = table.groupby(keys, sort=True).last().reset_index()
    return table.sort_values(keys, kind="stable", na_position="last")


def _validates_within_epochs(table: pd.DataFrame) -> bool:
    """Whether most epochs hold more than one validation."""
    validated = table.loc[table["val_loss"].notna(), "epoch"]
    return len(validated) > 1.5 * validated.apply(np.ceil).nunique()


def _merged(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """One row per epoch, or per step with a validation."""
    key = table[x]
    if x == "step":
        validated = np.unique(table.loc[table["val_loss"].notna(), "step"].to_numpy())
        if len(validated) and len(validated) < len(key):
            index = np.searchsorted(validated, key.to_numpy()).clip(0, len(validated) - 1)
            key = pd.Series(validated[index], index=table.index)
    others = [name for name in table.columns if name not in ("epoch", "step", "train_loss")]
    grouped = table.groupby(key.astype("int64"), sort=True)
    last = grouped[others].last() if others else pd.DataFrame(index=grouped.size().index)
    # Steps within an epoch are averaged; rows that only repeat an epoch are recordings of which the
    # last one counts.
    train = grouped["train_loss"].mean() if "step" in table else grouped["train_loss"].last()
    return last.assign(train_loss=train)


def _missing_epochs(epochs: Any) -> list[str]:
    """A note on gaps that are wider than the usual distance of epochs."""
    steps = np.diff(epochs)
    gaps = np.flatnonzero(steps > int(np.median(steps))) if len(steps) else steps
    if not len(gaps):
        return []
    between = ", ".join(f"{int(epochs[gap])} and {int(epochs[gap + 1])}" for gap in gaps[:3])
    return [f"epochs are missing between {between}{' and elsewhere' if len(gaps) > 3 else ''}"]

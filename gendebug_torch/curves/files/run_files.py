"""Records of past runs as one row per epoch: which column is which, what repeats, what is missing,
what was cut.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.curves.files.tensorboard_events import read_scalars
from gendebug_torch.errors import reject

# Names after lower case, `_` for every other sign, and without a closing `_epoch`; the first that
# is there counts.
_TRAIN = ("train_loss", "training_loss", "loss_train", "loss_training", "loss", "train_loss_step")
_VAL = (
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
_STEP = ("step", "global_step", "steps", "iteration")


def per_epoch(
    frame: pd.DataFrame, *, train: str | None = None, val: str | None = None
) -> tuple[pd.DataFrame, str, list[str]]:
    """One row per epoch with `train_loss` and `val_loss`, the unit of the rows, and remarks on the
    gaps.

    The training loss of an epoch is the mean of its rows, every other column its last value. Where
    a step is repeated, as after a resumed run, the later row counts. Without epochs, or with
    several validations in most of them, a row is a validation, and its unit the step.
    """
    if not len(frame):
        reject("curves", "at least one epoch", "no rows", "Train for an epoch first.")
    notes: list[str] = []
    table = _named(frame, train, val)
    table = _numeric(table)
    x = "epoch" if "epoch" in table else "step"
    empty = int(table[x].isna().sum())
    if empty:
        notes.append(f"{empty} rows without {x} were left out")
        table = table[table[x].notna()]
    table = _in_order(table, notes)
    if x == "epoch":
        fractional = bool((table["epoch"] % 1 != 0).any())
        if fractional and "step" in table and _validates_within(table):
            table, x = table.drop(columns="epoch"), "step"
        elif fractional:
            # An epoch of 0.5 or 1.0 is a share that is done: both belong to the first.
            table = table.assign(epoch=np.ceil(table["epoch"] - 1e-2))
    merged = _merged(table, x)
    if x == "epoch":
        _name_missing(merged.index.to_numpy(), notes)
    return merged.reset_index(names="epoch"), x, notes


def read_run(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows that a run left behind, and remarks on what could not be read.

    Args:
        path: CSV, `trainer_state.json` of a Hugging Face trainer, a TensorBoard event file, or a
            folder with any of them.
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source)
    try:
        if "tfevents" in source.name:
            return _read_events([source])
        if source.suffix == ".json":
            return _read_trainer_state(source)
        return read_csv(source)
    except OSError as error:
        reject(
            "path",
            "a readable file",
            f"{source}: {error.strerror or error}",
            "Check that the path is right.",
        )


def read_csv(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """A CSV; lines that a crash cut short, or to which a resumed run then wrote on, are left out
    and named.
    """
    text = source.read_bytes().decode("utf-8", "replace").replace("\0", "")
    lines, notes = _whole_lines(text, source.name)
    try:
        return pd.read_csv(io.StringIO("\n".join(lines))), notes
    except ValueError as error:
        reject(
            "path",
            "a readable CSV file",
            f"{source}: {error}",
            "Check that the path is right and the file is whole.",
        )


def _whole_lines(text: str, name: str) -> tuple[list[str], list[str]]:
    lines, notes = text.splitlines(), []
    commas = lines[0].count(",") if lines else 0
    if len(lines) > 1 and not text.endswith(("\n", "\r")):
        if lines[-1].count(",") < commas or not _is_number(lines[-1].rpartition(",")[2]):
            notes.append(f"the last line of {name} was cut short and is left out")
            lines = lines[:-1]
        else:
            notes.append(f"the last line of {name} has no end: its last value may be cut short")
    longer = {i for i, line in enumerate(lines) if '"' not in line and line.count(",") > commas > 0}
    if 0 < len(longer) < len(lines) - 1:
        notes.append(
            f"{len(longer)} lines of {name} hold more values than its header and are left out, "
            f"the first is line {min(longer) + 1}"
        )
        lines = [line for i, line in enumerate(lines) if i not in longer]
    return lines, notes


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _read_folder(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    if (folder / "metrics.csv").is_file():
        return read_csv(folder / "metrics.csv")
    states = sorted(
        folder.glob("**/trainer_state.json"), key=lambda state: (state.stat().st_mtime, str(state))
    )
    if states:
        return _read_trainer_state(states[-1])
    events = sorted(folder.glob("**/*tfevents*"))
    if events:
        return _read_events(events)
    reject(
        "path",
        "metrics.csv, trainer_state.json or TensorBoard event files",
        f"none in {folder}",
        "Pass the folder of one run.",
    )


def _read_trainer_state(source: Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        history = json.loads(source.read_text())["log_history"]
        rows = [row for row in history if "train_runtime" not in row]
    except (ValueError, KeyError, TypeError) as error:
        told = f"{source}: {type(error).__name__} {error}"
        reject(
            "path",
            "a trainer_state.json with `log_history`",
            told,
            "Take the one of the last checkpoint that is whole.",
        )
    return pd.DataFrame(rows), []


def _read_events(files: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Rows by step; where several files of one run hold a step, the one written later counts."""
    notes: list[str] = []
    scalars = []
    for file in files:
        found, cut = read_scalars(file)
        scalars += found
        notes += [cut] if cut else []
    if not scalars:
        told = "; ".join([*notes, f"no scalars in {', '.join(file.name for file in files[:3])}"])
        reject("path", "TensorBoard event files with scalars", told, "Pass the folder of one run.")
    scalars.sort(key=lambda scalar: scalar.wall_time)
    rows: dict[int, dict[str, float]] = {}
    for scalar in scalars:
        rows.setdefault(scalar.step, {})[scalar.tag] = scalar.value
    return pd.DataFrame([{"step": step, **rows[step]} for step in sorted(rows)]), notes


def _named(frame: pd.DataFrame, train: str | None, val: str | None) -> pd.DataFrame:
    """The frame with its columns called epoch, step, train_loss and val_loss."""
    table = frame.rename(columns=str)
    table = table.loc[:, ~table.columns.duplicated()]
    known = ", ".join(table.columns)
    for argument, name in (("train", train), ("val", val)):
        if name is not None and name not in table:
            reject(
                argument, "a column of the table", f"{name!r} among {known}", "Correct the name."
            )
    plain = {str(column): _plain(str(column)) for column in table}
    chosen = {
        "train_loss": train or _first(plain, _TRAIN),
        "val_loss": val or _first(plain, _VAL),
        "epoch": _first(plain, ("epoch", "epochs")),
        "step": _first(plain, _STEP),
    }
    missing = [name for name in ("train_loss", "val_loss") if chosen[name] is None]
    missing += ["epoch or step"] if chosen["epoch"] is None and chosen["step"] is None else []
    if missing:
        remedy = "Rename the columns, or name them with `train` and `val`."
        reject(
            "curves",
            "columns epoch, train_loss and val_loss",
            f"no {', '.join(missing)} among {known}",
            remedy,
        )
    names = {column: name for name, column in chosen.items() if column is not None}
    return table.drop(
        columns=[name for name in chosen if name in table and name not in names]
    ).rename(columns=names)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _first(plain: dict[str, str], names: Sequence[str]) -> str | None:
    for name in names:
        for wanted in (f"{name}_epoch", name):
            for column, short in plain.items():
                if short == wanted:
                    return column
    return None


def _numeric(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers; text that is no number is refused where it matters and left out where
    not.
    """
    needed = [name for name in ("epoch", "step", "train_loss", "val_loss") if name in table]
    columns: dict[str, Any] = {}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind not in "fiu":
            parsed = pd.to_numeric(values, errors="coerce")
            if name in needed and bool((parsed.isna() & values.notna()).any()):
                reject("curves", "numeric columns", f"text in {name}", "Convert them to numbers.")
            values = parsed
        if name in needed or values.notna().any():
            columns[name] = values.astype("float64")
    return pd.DataFrame(columns)


def _in_order(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows by epoch and step; a repeated step is one row, the later values over the earlier."""
    keys = [key for key in ("epoch", "step") if key in table]
    back = next((key for key in reversed(keys) if bool((table[key].diff() < 0).any())), None)
    if back is not None:
        notes.append(
            f"{back}s were out of order, as a resumed run leaves them: sorted, the later row of "
            "each counts"
        )
    if "step" in keys and table["step"].notna().all():
        table = table.groupby(keys, sort=True).last().reset_index()
    return table.sort_values(keys, kind="stable", na_position="last")


def _validates_within(table: pd.DataFrame) -> bool:
    """Whether an epoch holds more than one validation."""
    seen = table.loc[table["val_loss"].notna(), "epoch"]
    return len(seen) > 1.5 * seen.apply(np.ceil).nunique()


def _merged(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """One row per epoch, or per step that was validated."""
    key = table[x]
    if x == "step":
        marks = np.unique(table.loc[table["val_loss"].notna(), "step"].to_numpy())
        if len(marks) and len(marks) < len(key):
            place = np.searchsorted(marks, key.to_numpy()).clip(0, len(marks) - 1)
            key = pd.Series(marks[place], index=table.index)
    others = [name for name in table.columns if name not in ("epoch", "step", "train_loss")]
    grouped = table.groupby(key.astype("int64"), sort=True)
    last = grouped[others].last() if others else pd.DataFrame(index=grouped.size().index)
    # Steps within an epoch are averaged; rows that only repeat an epoch are recordings of which the
    # last one counts.
    train = grouped["train_loss"].mean() if "step" in table else grouped["train_loss"].last()
    return last.assign(train_loss=train)


def _name_missing(epochs: Any, notes: list[str]) -> None:
    steps = np.diff(epochs)
    if len(steps) and steps.min() < steps.max():
        usual = int(np.median(steps))
        holes = np.flatnonzero(steps > usual)
        if len(holes):
            at = [f"{int(epochs[hole])} and {int(epochs[hole + 1])}" for hole in holes[:3]]
            notes.append(
                "epochs are missing between "
                f"{', '.join(at)}{' and elsewhere' if len(holes) > 3 else ''}"
            )

"""The log tables of past runs: CSV, TensorBoard event files, JSON of Hugging Face or skorch."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.curves.files.tensorboard_events import read_scalars
from gendebug_torch.errors import reading, reject

# What skorch writes beside losses and metrics: seconds, and how many batches there were.
_NO_METRICS = ("dur", "train_batch_count", "valid_batch_count")
# A folder with more is that of no run.
_MAX_FOLDERS, _MAX_FILES = 10_000, 1_000_000


def read_run(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The log table of a run, and notes on what could not be read.

    Args:
        path: CSV, `trainer_state.json` of a Hugging Face trainer, history of skorch as JSON, a
            TensorBoard event file, or a folder with any of them.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source)
    if "tfevents" in source.name:
        return _read_events([source])
    return _read_trainer_state(source) if source.suffix == ".json" else read_csv(source)


def read_csv(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """A CSV and notes on the lines left out: those truncated by a crash, or written on to later."""
    with reading(source, "a readable CSV file"):
        text = source.read_bytes().decode("utf-8", "replace").replace("\0", "")
        lines, notes = _complete_lines(text, source.name)
        return pd.read_csv(io.StringIO("\n".join(lines))), notes


def _complete_lines(text: str, name: str) -> tuple[list[str], list[str]]:
    """The lines of a CSV that are complete, and notes on the others."""
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
    files = _files_below(folder)
    named = [file for file in files if file.name == "trainer_state.json"]
    states = sorted(named, key=lambda state: (state.stat().st_mtime, str(state)))
    if states:
        return _read_trainer_state(states[-1])
    events = sorted(file for file in files if "tfevents" in file.name)
    if events:
        return _read_events(events)
    reject(
        "path",
        "metrics.csv, trainer_state.json or TensorBoard event files",
        f"none in {folder}",
        "Pass the folder of one run.",
    )


def _files_below(folder: Path) -> list[Path]:
    """All files of the folder of a run; that of a whole disk is refused instead of searched."""
    files: list[Path] = []
    for count, (path, _, names) in enumerate(os.walk(folder)):
        if count >= _MAX_FOLDERS or len(files) >= _MAX_FILES:
            got = f"{folder} with more than {_MAX_FOLDERS:,} folders or {_MAX_FILES:,} files"
            reject("path", "the folder of one run", got, "Pass the folder of the run itself.")
        files += [Path(path, name) for name in names]
    return files


def _read_trainer_state(source: Path) -> tuple[pd.DataFrame, list[str]]:
    remedy = "Take that of the last complete checkpoint."
    expected = "a trainer_state.json with `log_history`, or a list of the rows of a log"
    with reading(source, expected, remedy=remedy):
        held = json.loads(source.read_text(encoding="utf-8"))
        rows = held if isinstance(held, list) and held else held["log_history"]
        return pd.DataFrame(log_rows(rows)), []


def log_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a trainer's log, without its flags, its clock and the summary at its end.

    Args:
        rows: one mapping per epoch, step or log line.
    """
    return [
        {
            name: value
            for name, value in row.items()
            if name not in _NO_METRICS and not isinstance(value, (bool, np.bool_))
        }
        for row in rows
        if "train_runtime" not in row
    ]


def _read_events(files: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Rows by step; where several files of one run hold a step, the one written later counts."""
    notes: list[str] = []
    scalars = []
    for file in files:
        with reading(file, "a readable TensorBoard event file"):
            read, damage = read_scalars(file)
        scalars += read
        notes += [damage] if damage else []
    if not scalars:
        got = "; ".join([*notes, f"no scalars in {', '.join(file.name for file in files[:3])}"])
        reject("path", "TensorBoard event files with scalars", got, "Pass the folder of one run.")
    scalars.sort(key=lambda scalar: scalar.wall_time)
    rows: dict[int, dict[str, float]] = {}
    for scalar in scalars:
        rows.setdefault(scalar.step, {})[scalar.tag] = scalar.value
    return pd.DataFrame([{"step": step, **rows[step]} for step in sorted(rows)]), notes

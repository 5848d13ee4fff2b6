"""Profiles and comparisons: equality, speed beside peers, memory, and false alarms of streams.

Arguments name parts (partitions, speed, memory, models, streams); default all. Seeds are those
that nothing was tuned on.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gendebug_torch import Profile, Records, Schema, Severity, compare, diagnose, profile
from gendebug_torch.diagnosis.comparison.drift import drift_questions, most_significant
from gendebug_torch.profiles.build import sum_of

SCHEMA = Schema(target="label", logits="score", ids="row", categorical="city")
FIRST_SEED = 10_000


def table(seed: int, n: int, columns: int = 8, shift: float = 0.0) -> pd.DataFrame:
    """A scored and labeled table."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])
    frame["x1"] = np.exp(frame["x1"])
    frame["x2"] = frame["x2"].where(rng.random(n) > 0.1) + shift
    frame["age"] = rng.integers(18, 90, n)
    frame["city"] = rng.choice(["Bern", "Basel", "Genf", "Zug"], n)
    frame["row"] = np.arange(n)
    frame["score"] = 2 * frame["x0"]
    frame["label"] = (rng.random(n) < 1 / (1 + np.exp(-2 * frame["x0"]))).astype(int)
    return frame


def partitions(rows: int = 100_000) -> None:
    """Findings for 1, 16 and 1,000 partitions in random order."""
    sides = table(FIRST_SEED, rows), table(FIRST_SEED + 1, rows, shift=0.3)
    known: list[Any] = []
    for count in (1, 16, 1000):
        order = np.random.default_rng(count)
        pair = []
        for side in sides:
            parts = np.array_split(order.permutation(rows), count)
            pair.append(sum_of(profile(side.iloc[part], SCHEMA) for part in parts))
        found = diagnose(validation=pair[0], production=pair[1]).findings
        known.append([(f.check, f.subject, f.severity, f.summary) for f in found])
    same = [sum(a == b for a, b in zip(known[0], other, strict=True)) for other in known[1:]]
    print(f"{len(known[0])} findings over {rows:,} rows a side; equal for 16 and 1,000 partitions: "
          f"{same[0]} and {same[1]}")  # fmt: skip


def speed(rows: int = 1_000_000, columns: int = 20) -> None:
    """Rows per second on one core, beside what is installed of the peers."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(FIRST_SEED)
    names = [f"x{i}" for i in range(columns - 2)]
    frame = pd.DataFrame(rng.normal(size=(rows, columns - 2)), columns=names)
    frame["age"], frame["city"] = rng.integers(18, 90, rows), rng.choice(["a", "b", "c"], rows)
    works: dict[str, Callable[[], Any]] = {
        "gendebug profile": lambda: profile(frame, Schema()),
        "pandas describe(include='all')": lambda: frame.describe(include="all"),
    }
    works |= _peers(frame)
    times = {name: min(_seconds(work) for _ in range(2)) for name, work in works.items()}
    for name, seconds in times.items():
        print(f"{name:32} {seconds:8.2f} s {rows / seconds:12,.0f} rows/s ({rows:,} x {columns})")


def _peers(frame: pd.DataFrame) -> dict[str, Callable[[], Any]]:
    works: dict[str, Callable[[], Any]] = {}
    try:
        import whylogs

        works["whylogs"] = lambda: whylogs.log(frame).view()
    except ImportError as error:
        print(f"whylogs cannot be imported: {error}")
    try:
        from evidently import Dataset, Report
        from evidently.presets import DataSummaryPreset

        works["evidently DataSummaryPreset"] = lambda: Report([DataSummaryPreset()]).run(
            Dataset.from_pandas(frame), None
        )
    except ImportError as error:
        print(f"evidently cannot be imported: {error}")
    return works


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def memory(rows: int = 10_000_000, columns: int = 20) -> None:
    """Peak memory of a stream of record batches, and the size of the file."""
    names = [f"x{i}" for i in range(columns)]

    def batches() -> Iterator[Any]:
        for seed in range(rows // 100_000):
            values = np.random.default_rng(seed).normal(size=(columns, 100_000))
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in values], names=names)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found = profile(batches(), Schema())
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        size = found.save(Path(folder) / "a.profile").stat().st_size
    print(f"{rows:,} x {columns}: {seconds:.0f} s, peak {peak / 1e6:.2f} GB (before "
          f"{before / 1e6:.2f} GB), file {size / 1e6:.1f} MB, error {found.error:.4f}; 1e8 rows by "
          f"extrapolation {seconds * 1e8 / rows / 60:.0f} min")  # fmt: skip


def models(runs: int = 200, rows: int = 3000) -> None:
    """Claims about two equal models, and how often a planted slice is found."""
    claimed = sum(
        bool((_compared(s, rows, 0.0).table()["p_holm"] < 0.05).any()) for s in range(runs)
    )
    worse = sum(_compared(s, rows, 0.0).worse for s in range(runs))
    found = [
        any("city = Bern" in f.subject for f in _compared(s, rows, 1.0).findings
            if f.severity is Severity.WARN)
        for s in range(runs)
    ]  # fmt: skip
    print(f"two equal models, {runs} runs: {claimed} with a claimed difference, {worse} worse; "
          f"planted slice found in {sum(found)}")  # fmt: skip


def _compared(seed: int, rows: int, planted: float) -> Any:
    rng = np.random.default_rng(FIRST_SEED + seed)
    frame = table(FIRST_SEED + seed, rows)
    scores = [frame["score"] + rng.normal(size=rows) for _ in range(2)]
    lost = (frame["city"] == "Bern") & (rng.random(rows) < planted)
    scores[1] = scores[1].where(~lost, 2 * rng.normal(size=rows))
    features = frame.drop(columns=["label", "score", "row"])
    y = torch.tensor(frame["label"].to_numpy())
    sides = [
        Records(features=features, targets=y, logits=torch.tensor(s.to_numpy())) for s in scores
    ]
    return compare(*sides)


def streams(count: int = 200, first_stream: int = 0, weeks: int = 52, rows: int = 300) -> None:
    """Quiet streams that alarm at least once."""
    alarms = 0
    for stream in range(first_stream, first_stream + count):
        first, *later = (_week(FIRST_SEED + stream * weeks + week, rows) for week in range(weeks))
        alarms += any(_alarms(first, live, at) for at, live in enumerate(later, 1))
    print(f"{alarms} of {count} quiet streams of {weeks} weeks of {rows} rows alarm")


def _week(seed: int, rows: int) -> Profile:
    return profile(table(seed, rows, 4).drop(columns="row"), Schema("label", logits="score"))


def _alarms(first: Profile, live: Profile, at: int) -> bool:
    level = 0.05 / (at * (at + 1))
    found = most_significant(drift_questions(first, live), level)
    return found is not None and found.matters and found.p_value <= level


if __name__ == "__main__":
    parts = {f.__name__: f for f in (partitions, speed, memory, models, streams)}
    for name in sys.argv[1:] or parts:
        parts[name]()

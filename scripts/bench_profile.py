"""Profiles and comparisons: equality, speed beside peers, memory, and false alarms of streams.

Arguments name parts (partitions, engines, speed, memory, models, streams); default all. Seeds are
those that nothing was tuned on.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gendebug_torch import Profile, Records, Schema, Severity, compare, diagnose, profile
from gendebug_torch.diagnosis.comparison.drift import drift_questions, most_significant
from gendebug_torch.errors import MissingExtraError
from gendebug_torch.profiles.build import sum_of

SCHEMA = Schema(target="label", logits="score", ids="row", categorical="city")
SCORED = Schema(target="x0", logits="x1")
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
    """Findings for 1, 16 and 1,000 partitions in random order of three splits."""
    sides = [table(FIRST_SEED + i, rows, shift=shift) for i, shift in enumerate((0.0, 0.3, 0.0))]
    reference, known = profile(sides[2], SCHEMA), []
    for count in (1, 16, 1000):
        order = np.random.default_rng(count)
        pair = []
        for side in sides:
            parts = np.array_split(order.permutation(rows), count)
            profiles = (profile(side.iloc[p], SCHEMA, reference=reference) for p in parts)
            pair.append(sum_of(profiles))
        known.append(_findings(*pair))
    same = [sum(a == b for a, b in zip(known[0], other, strict=True)) for other in known[1:]]
    print(f"{len(known[0])} findings over {rows:,} rows a side; equal for 16 and 1,000 partitions: "
          f"{same[0]} and {same[1]}")  # fmt: skip


def _findings(before: Profile, after: Profile, train: Profile | None = None) -> list[Any]:
    found = diagnose(train=train, validation=before, production=after).findings
    return [(f.check, f.subject, f.severity, f.summary) for f in found]


def engines(rows: int = 100_000, count: int = 16) -> None:
    """Findings of the same partitions by each engine that is installed."""
    sides = table(FIRST_SEED, rows), table(FIRST_SEED + 1, rows, shift=0.3)
    reference = profile(sides[0], SCHEMA)
    before = profile(sides[0], SCHEMA, reference=reference)
    known = _findings(before, profile(sides[1], SCHEMA, reference=reference))
    with tempfile.TemporaryDirectory() as folder:
        order = np.random.default_rng(0).permutation(rows)
        for at, part in enumerate(np.array_split(order, count)):
            sides[1].iloc[part].to_parquet(Path(folder) / f"{at}.parquet", index=False)
        for name in ("duckdb", "dask", "spark", "ray"):
            module = import_module(f"gendebug_torch.profiles.engines.{name}")
            started = time.perf_counter()
            try:
                after = module.profile_of(f"{folder}/*.parquet", SCHEMA, reference=reference)
            except MissingExtraError as error:
                print(f"{name}: {error}")
                continue
            took, found = time.perf_counter() - started, _findings(before, after)
            same = sum(a == b for a, b in zip(known, found, strict=True))
            print(f"{name}: {same} of {len(known)} findings equal those of one local table, "
                  f"{count} partitions, {took:.1f} s", flush=True)  # fmt: skip


def speed(rows: int = 500_000, columns: int = 20) -> None:
    """Rows per second on one core, beside what is installed of the peers."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(FIRST_SEED)
    names = [f"x{i}" for i in range(columns - 2)]
    frame = pd.DataFrame(rng.normal(size=(rows, columns - 2)), columns=names)
    frame["age"], frame["city"] = rng.integers(18, 90, rows), rng.choice(["a", "b", "c"], rows)
    reference = profile(_scored(frame[:100_000]), SCORED)
    works: dict[str, Callable[[], Any]] = {
        "gendebug profile": lambda: profile(frame, Schema()),
        "the same, scored": lambda: profile(_scored(frame), SCORED),
        "the same, scored, with slices": lambda: profile(
            _scored(frame), SCORED, reference=reference
        ),
        "pandas describe(include='all')": lambda: frame.describe(include="all"),
    }
    works |= _peers(frame)
    times = {name: min(_seconds(work) for _ in range(2)) for name, work in works.items()}
    for name, seconds in times.items():
        print(f"{name:32} {seconds:8.2f} s {rows / seconds:12,.0f} rows/s ({rows:,} x {columns})")


def _scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns, two of which are labels and outputs."""
    return frame.assign(x0=(frame["x0"] > frame["x1"]).astype(int))


def _peers(frame: pd.DataFrame) -> dict[str, Callable[[], Any]]:
    works: dict[str, Callable[[], Any]] = {}
    # The last whylogs, of 2024, speaks of types by names that numpy 2 has no more.
    for name, kind in (("unicode_", np.str_), ("float_", np.float64), ("string_", np.bytes_)):
        if not hasattr(np, name):
            setattr(np, name, kind)
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


def memory(rows: int = 5_000_000) -> None:
    """Peak memory of a stream of 20 columns, half way and at its end, and the size of the file."""
    schema = Schema(target="label", logits="score", categorical="city")
    reference = profile(table(FIRST_SEED, 100_000, 16).drop(columns="row"), schema)
    peaks: list[float] = []

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def batches() -> Iterator[Any]:
        made = [table(seed, 100_000, 16).drop(columns="row") for seed in range(5)]
        for at in range(rows // 100_000):
            if at in (10, rows // 200_000):
                peaks.append(peak())
            # Other values in every batch; making them anew would take longer than the profile.
            yield pa.Table.from_pandas(made[at % 5].assign(x3=made[at % 5]["x3"] + at))

    started = time.process_time()
    found = profile(batches(), schema, reference=reference)
    seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        size = found.save(Path(folder) / "a.profile").stat().st_size
    print(f"{rows:,} x {len(found.columns) + 2} with slices: {seconds:.0f} s, peak "
          f"{peaks[0]:.2f} GB after 1e6 rows, {peaks[1]:.2f} GB half way, {peak():.2f} GB at the "
          f"end, file {size / 1e6:.1f} MB, error {found.error:.4f}; 1e8 rows by extrapolation "
          f"{seconds * 1e8 / rows / 60:.0f} min")  # fmt: skip


def models(runs: int = 200, first: int = 0, rows: int = 3000) -> None:
    """Claims about two equal models, and how often a planted slice is found."""
    seeds = range(first, first + runs)
    quiet = [_compared(seed, rows, 0.0) for seed in seeds]
    claimed = sum(any(f.subject for f in found.findings) for found in quiet)
    found = [
        any("city = Bern" in f.subject for f in _compared(seed, rows, 1.0).findings
            if f.severity is Severity.WARN)
        for seed in seeds
    ]  # fmt: skip
    print(f"two equal models, {runs} runs: {claimed} with a claimed difference, "
          f"{sum(c.worse for c in quiet)} worse; planted slice found in {sum(found)}")  # fmt: skip


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
    parts = {f.__name__: f for f in (partitions, engines, speed, memory, models, streams)}
    for name in sys.argv[1:] or parts:
        parts[name]()

"""Shift beside its peers in one run: speed, memory, false alarms and power over seeds."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from _shift_peers import PEERS
from _timing import Work, medians, seconds
from scipy.signal import lfilter
from scipy.stats import ks_2samp

import gendebug_torch as gd
from gendebug_torch.shift import DriftMonitor, change_point, ks_two_sample, prepare_reference
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.transforms.cycles import clock_offset_hours
from gendebug_torch.shift.two_sample.ks import KSTest
from gendebug_torch.stats.dependence.effective_sample_size import (
    autocorrelation_time,
    autocorrelation_time_bound,
    two_sample_autocorrelation_times,
)

# First-order autocorrelations of ten columns: the slowest one keeps a value for 200 rows.
SLOWNESS = np.array([0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.99])


def speed(args: argparse.Namespace) -> None:
    """Rows of a table: ours and scipy's loop interleaved, scipy on a tenth of the columns."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(args.reference, args.columns, generator=generator, dtype=torch.float64)
    live = torch.randn(args.live, args.columns, generator=generator, dtype=torch.float64)
    part = range(0, args.columns, 10)

    def scipy_loop() -> list[Any]:
        return [ks_2samp(reference[:, i].numpy(), live[:, i].numpy(), method="asymp") for i in part]

    prepared = prepare_reference(reference)
    works: dict[str, Work] = {
        "prepare": lambda: prepare_reference(reference),
        "check": lambda: ks_two_sample(prepared, live).p_value,
        "both": lambda: ks_two_sample(reference, live).p_value,
        "scipy": scipy_loop,
    }
    if torch.cuda.is_available():
        on_device, moved = prepare_reference(reference.cuda()), live.cuda()
        works["CUDA check"] = lambda: ks_two_sample(on_device, moved).p_value
    times = medians(works, args.repeats)
    test, told = ks_two_sample(prepared, live), scipy_loop()
    places = list(part)
    equal = np.array_equal(test.statistic[places].numpy(), [result.statistic for result in told])
    off = np.abs(test.p_value[places].numpy() - [result.pvalue for result in told]).max()
    peer = times.pop("scipy") * args.columns / len(part)
    for name, took in times.items():
        print(
            f"| KS {args.columns} columns, {name} | {took:.2f} s | scipy loop {peer:.2f} s | "
            f"{peer / took:.1f} |",
            flush=True,
        )
    print(
        f"| statistic equal to the last bit | {equal} | scipy | largest difference of p {off:.1e} |"
    )
    if not args.skip_peers:
        beside_peers(args, reference, live, times["check"])


def beside_peers(
    args: argparse.Namespace, reference: torch.Tensor, live: torch.Tensor, ours: float
) -> None:
    """One row per peer, here where it is installed, else in the interpreter of --peer-python."""
    frames = [
        pd.DataFrame(side.numpy(), columns=[f"c{i}" for i in range(args.columns)])
        for side in (reference, live)
    ]
    elsewhere = dict(pair.split("=", 1) for pair in args.peer_python)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{place}.npy" for place in range(2)]
        for name, peer_of in PEERS.items():
            row = f"| KS {args.columns} columns, check | {ours:.2f} s |"
            if name in elsewhere:
                for frame, path in zip(frames, paths, strict=True):
                    np.save(path, frame.to_numpy())
                call = [
                    elsewhere[name],
                    str(Path(__file__).with_name("_shift_peers.py")),
                    name,
                    *map(str, paths),
                ]
                done = subprocess.run(call, capture_output=True, text=True, check=True)
                took = float(done.stdout.splitlines()[-1].split()[0])
            elif importlib.util.find_spec(name) is None:
                print(f"{row} {name}: not installed | |", flush=True)
                continue
            else:
                took = seconds(lambda peer_of=peer_of: peer_of(*frames))
            print(f"{row} {name} {took:.2f} s | {took / ours:.1f} |", flush=True)


def columns_of_kinds(rng: np.random.Generator, n: int, d: int, *, odd: bool) -> torch.Tensor:
    """Normal columns, `[n, d]`; if odd, ten each are heavy-tailed, discrete, autocorrelated."""
    rows = rng.normal(size=(n, d))
    if odd:
        rows[:, :10] = rng.standard_t(2, size=(n, 10))
        rows[:, 10:20] = rng.integers(0, 5, size=(n, 10))
        rows[:, 20:30] = autocorrelated(rng, n, SLOWNESS)
    return torch.from_numpy(rows)


def autocorrelated(
    rng: np.random.Generator, n: int, rhos: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """`[n, d]` autoregressive columns of unit variance."""
    noise = rng.normal(size=(n, len(rhos))) * np.sqrt(1 - rhos**2)
    noise[0] /= np.sqrt(1 - rhos**2)
    return np.stack(
        [lfilter([1.0], [1.0, -rho], noise[:, place]) for place, rho in enumerate(rhos)], 1
    )


def at_effective_sizes(test: KSTest, reference: torch.Tensor, live: torch.Tensor) -> KSTest:
    """The test with the autocorrelation times of its significant columns."""
    significant = (test.adjusted < 0.05).nonzero().flatten()
    times = torch.ones(2, len(test.statistic), dtype=torch.float64)
    if len(significant):
        sides = (side[:, significant] for side in (reference, live))
        times[:, significant] = torch.stack(two_sample_autocorrelation_times(*sides))
    return test.with_autocorrelation(*times)


def errors(args: argparse.Namespace) -> None:
    """False alarms and power over seeds, 200 features with 10,000 rows a side.

    The second half of each series is compared with the first.
    """
    rows, d = 10_000, 200
    kinds = "10 heavy-tailed, 10 discrete, 10 autocorrelated"
    alarms = dict.fromkeys(
        (
            "normal, Holm 5 %",
            f"{kinds}, Holm 5 %",
            "the same at the 0.2 % of shift.ks",
            "the same, scipy p < .05",
        ),
        0,
    )
    found = {0.1: 0, 0.2: 0}
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        for odd, name in zip((False, True), alarms, strict=False):
            series = columns_of_kinds(rng, 2 * rows, d, odd=odd)
            prepared = prepare_reference(series[:rows])
            test = ks_two_sample(prepared, series[rows:])
            timed = at_effective_sizes(test, series[:rows], series[rows:]) if odd else test
            alarms[name] += bool((timed.adjusted < 0.05).any())
        alarms["the same at the 0.2 % of shift.ks"] += bool((timed.adjusted < 0.002).any())
        alarms["the same, scipy p < .05"] += bool((test.p_value < 0.05).any())
        for moved in found:
            shifted = series[rows:].clone()
            shifted[:, 50] += moved
            found[moved] += bool(ks_two_sample(prepared, shifted).adjusted[50] < 0.05)
    for name, count in alarms.items():
        print(
            f"| any alarm without a shift, {d} features ({name}), {args.seeds} seeds | "
            f"{count / args.seeds:.1%} | | |",
            flush=True,
        )
    for moved, count in found.items():
        print(
            f"| one feature of {d} moved by {moved} sd, found and named, {args.seeds} seeds | "
            f"{count / args.seeds:.1%} | | |",
            flush=True,
        )


def stream(args: argparse.Namespace) -> None:
    """Any false alarm over a long stream of windows, with the effect threshold off."""
    windows, rows, seeds = (1000, 300, 50) if args.full else (200, 300, 10)
    alarmed = 0
    for seed in range(seeds):
        rng, n = np.random.default_rng(seed), 4000 + windows * rows
        kinds = [
            rng.normal(size=n),
            rng.standard_t(2, size=n),
            rng.integers(0, 5, n),
            *autocorrelated(rng, n, np.array([0.5, 0.9])).T,
        ]
        series = torch.from_numpy(np.stack(kinds, 1))
        times = autocorrelation_time_bound(autocorrelation_time(series[:4000]), 4000)
        monitor = DriftMonitor(
            prepare_reference(series[:4000]), alpha=0.05, min_effect=0.0, times=times
        )
        alarmed += any(monitor.update(window).alarm for window in series[4000:].split(rows))
    what = (
        f"any alarm over {windows} windows, 5 columns (heavy-tailed, discrete, "
        f"autocorrelated), {seeds} seeds"
    )
    print(f"| {what} | {alarmed / seeds:.1%} | | |", flush=True)


def steps(args: argparse.Namespace) -> None:
    """Coverage of the 95 % interval of a change point, and the shapes of steps and trends."""
    for n, rho in ((1500, 0.0), (4000, 0.5), (20_000, 0.9)):
        covered = significant = alarms = 0
        called: dict[str, list[str]] = {"step": [], "trend": []}
        for seed in range(args.seeds):
            rng = np.random.default_rng(seed)
            quiet = autocorrelated(rng, n, np.array([rho]))[:, 0]
            place, values = int(n * rng.uniform(0.3, 0.7)), quiet.copy()
            values[place:] += 0.6
            alarms += change_point(torch.from_numpy(quiet)).p_value < 0.05
            broken = change_point(torch.from_numpy(values))
            if broken.p_value < 0.002:
                significant += 1
                covered += broken.low <= place <= broken.high
                called["step"].append(broken.shape)
            called["trend"].append(
                change_point(torch.from_numpy(quiet + np.linspace(0.0, 2.0, n))).shape
            )
        told = f"{n:,} rows, autocorrelation {rho}, {args.seeds} seeds"
        shares = {kind: Counter(shapes) for kind, shapes in called.items()}
        named = "; ".join(
            f"a {kind} called {', '.join(f'{s} {c}' for s, c in shares[kind].most_common())}"
            for kind in called
        )
        row = f"covers {covered / max(significant, 1):.1%} of {significant} significant steps"
        row += f"; p < .05 without one {alarms / args.seeds:.1%}"
        print(f"| change point of a step of 0.6 sd, {told} | {row} | {named} | |", flush=True)


def hours(rng: np.random.Generator, n: int, rush: float) -> np.ndarray[Any, Any]:
    """Hours of the day with a busy morning and evening."""
    middle = np.where(rng.random(n) < 0.6, rng.normal(rush, 1.2, n), rng.normal(18.5, 2.0, n))
    chosen = np.where(rng.random(n) < 0.2, rng.uniform(0.0, 24.0, n), middle)
    return np.floor(chosen) % 24


def clocks(args: argparse.Namespace) -> None:
    """How often a clock that slipped is named with its hours, and what is taken for one."""
    named = slipped = moved = 0
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        before, after, later = (hours(rng, 2000, rush) for rush in (8.5, 8.5, 11.0))
        slip = int(rng.choice([-11, -8, -6, -5, -2, -1, 1, 2, 3, 7, 9, 12]))
        named += clock_offset_hours(before, (after + slip) % 24) == slip
        slipped += clock_offset_hours(before, after) != 0
        moved += clock_offset_hours(before, later) != 0
    row = (
        f"named {named / args.seeds:.1%}, none called one {slipped / args.seeds:.1%}, a later "
        f"morning called one {moved / args.seeds:.1%}"
    )
    print(
        f"| a clock that slipped by 1 to 12 hours, 2000 rows, {args.seeds} seeds | {row} | | |",
        flush=True,
    )


def in_time(args: argparse.Namespace) -> None:
    """Alarms of the check on ten autocorrelated columns, second half against first."""
    counts = {"time named": 0, "no time": 0, "column 0 moved by 0.5 sd, found": 0}
    for seed in range(args.seeds):
        series = pd.DataFrame(
            autocorrelated(np.random.default_rng(seed), 3000, SLOWNESS),
            columns=[f"c{i}" for i in range(10)],
        )
        moments = pd.DataFrame({"time": np.arange(1500.0)})
        schema = gd.Schema(time="time")

        def alarmed(after: pd.DataFrame, series: pd.DataFrame = series, **parts: Any) -> set[str]:
            pair = [
                gd.Records(side.reset_index(drop=True), **parts) for side in (after, series[:1500])
            ]
            return {
                f.subject
                for f in features_keep_their_distribution(*pair)
                if f.severity.level >= gd.Severity.WARN.level
            }

        after = series[1500:]
        counts["no time"] += bool(alarmed(after))
        counts["time named"] += bool(alarmed(after, metadata=moments, schema=schema))
        found = alarmed(after.assign(c0=after["c0"] + 0.5), metadata=moments, schema=schema)
        counts["column 0 moved by 0.5 sd, found"] += "c0" in found
    told = " | ".join(f"{name}: {count / args.seeds:.1%}" for name, count in counts.items())
    print(
        f"| any alarm, 10 autocorrelated columns without a shift, {args.seeds} seeds | {told} | |",
        flush=True,
    )


_CHILD = """
import resource, sys, time
from gendebug_torch.cli.main import main
started = time.perf_counter()
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("measured", code, time.perf_counter() - started, peak)
"""


def command(*arguments: object) -> tuple[float, float]:
    """Seconds of a command in a process of its own, and its peak in MiB, torch included."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    _, _, took, held = done.stdout.splitlines()[-1].split()
    return float(took), float(held)


def write_parquet(path: Path, rows: int, columns: int) -> float:
    """A file of single-precision normal columns, in row groups of 100,000; its size in MiB."""
    # Here alone: a peer may pin a numpy that is too old for it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, chunk = np.random.default_rng(0), min(100_000, rows)
    writer: Any = None
    for _ in range(rows // chunk):
        part = pa.table(
            {f"c{i}": rng.standard_normal(chunk, dtype=np.float32) for i in range(columns)}
        )
        writer = writer or pq.ParquetWriter(
            path, part.schema, use_dictionary=False, compression="none"
        )
        writer.write_table(part)
    writer.close()
    return path.stat().st_size / 2**20


def parquet(args: argparse.Namespace) -> None:
    """`gendebug shift` on files read in chunks, with both sides and with a saved reference."""
    sizes = [(1_000_000, 25), (1_000_000, 100)] + ([(10_000_000, 500)] if args.full else [])
    for rows, columns in sizes:
        with TemporaryDirectory() as folder:
            place = Path(folder)
            table, saved, schema = (
                place / "table.parquet",
                place / "reference.safetensors",
                place / "schema.yaml",
            )
            schema.write_text("{}\n")
            size = write_parquet(table, rows, columns)
            common = ("--schema", schema, "--out", place / "out", "--budget", "20s")
            what = (
                f"| gendebug shift, {rows:,} rows x {columns} columns ({size:,.0f} MiB of Parquet)"
            )
            took, held = command("shift", table, table, *common, "--save-reference", saved)
            print(
                f"{what}, both sides read | {took:.0f} s | {held:.0f} MiB at most | |", flush=True
            )
            took, held = command("shift", saved, table, *common)
            print(
                f"{what}, reference of {saved.stat().st_size / 2**20:.0f} MiB | {took:.0f} s | "
                f"{held:.0f} MiB at most | |",
                flush=True,
            )


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=500)
    parser.add_argument("--reference", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, help="default 20, or 200 with --full")
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument(
        "--peer-python",
        nargs="*",
        default=[],
        metavar="PEER=PYTHON",
        help="interpreters for peers that need older pins",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="the sizes and seeds that take an hour, and 20 GB of disk",
    )
    args = parser.parse_args()
    args.seeds = args.seeds or (200 if args.full else 20)
    print("| what | ours | peer | ratio |")
    print("| --- | --- | --- | --- |", flush=True)
    for name in args.only:
        PARTS[name](args)


PARTS = {
    "speed": speed,
    "parquet": parquet,
    "errors": errors,
    "in_time": in_time,
    "stream": stream,
    "steps": steps,
    "clocks": clocks,
}


if __name__ == "__main__":
    main()

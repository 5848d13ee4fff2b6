"""Shift beside its peers in one run: speed of 500 Kolmogorov-Smirnov tests, memory, and false alarms and power over seeds."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ks_2samp

import gendebug_torch as gd
from gendebug_torch.shift import ks_two_sample, prepare_reference
from gendebug_torch.shift.checks import features_keep_their_distribution


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def evidently(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns that evidently's preset calls drifted, by Kolmogorov-Smirnov."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    told = Report([DataDriftPreset(num_method="ks")]).run(live, reference).dict()
    return int(told["metrics"][0]["value"]["count"])


def alibi_detect(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns under the Bonferroni threshold of alibi-detect's KSDrift."""
    from alibi_detect.cd import KSDrift

    told = KSDrift(reference.to_numpy(), p_val=0.05).predict(live.to_numpy())["data"]
    return int((told["p_val"] < told["threshold"]).sum())


def deepchecks(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns beyond deepchecks' default threshold of the distance."""
    from deepchecks.tabular import Dataset
    from deepchecks.tabular.checks import FeatureDrift

    told = FeatureDrift(numerical_drift_method="KS").run(Dataset(reference, cat_features=[]), Dataset(live, cat_features=[])).value
    return sum(column["Drift score"] > 0.2 for column in told.values())


def nannyml(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns that nannyml's univariate defaults alarm on."""
    from nannyml import UnivariateDriftCalculator

    calculator = UnivariateDriftCalculator(column_names=list(reference), chunk_number=1)
    told = calculator.fit(reference).calculate(live).filter(period="analysis").to_df()
    return int(told.xs("alert", axis=1, level=2).any().sum())


PEERS = {"evidently": evidently, "alibi_detect": alibi_detect, "deepchecks": deepchecks, "nannyml": nannyml}


def speed(args: argparse.Namespace) -> None:
    """Rows of a table: ours and scipy's loop interleaved, scipy on a tenth of the columns and times ten."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(args.reference, args.columns, generator=generator, dtype=torch.float64)
    live = torch.randn(args.live, args.columns, generator=generator, dtype=torch.float64)
    part = range(0, args.columns, 10)

    def scipy_loop() -> list[Any]:
        return [ks_2samp(reference[:, i].numpy(), live[:, i].numpy(), method="asymp") for i in part]

    prepared = prepare_reference(reference)
    works = {
        "prepare": lambda: prepare_reference(reference),
        "check": lambda: ks_two_sample(prepared, live).p_value,
        "both": lambda: ks_two_sample(reference, live).p_value,
        "scipy": scipy_loop,
    }
    if torch.cuda.is_available():
        on_device, moved = prepare_reference(reference.cuda()), live.cuda()
        works["CUDA check"] = lambda: ks_two_sample(on_device, moved).p_value
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    test, told = ks_two_sample(prepared, live), scipy_loop()
    places = list(part)
    equal = np.array_equal(test.statistic[places].numpy(), [result.statistic for result in told])
    off = np.abs(test.p_value[places].numpy() - [result.pvalue for result in told]).max()
    peer = median(times.pop("scipy")) * args.columns / len(part)
    print("| what | ours | peer | ratio |")
    print("| --- | --- | --- | --- |")
    for name, values in times.items():
        print(f"| KS {args.columns} columns, {name} | {median(values):.2f} s | scipy loop {peer:.2f} s | {peer / median(values):.1f} |")
    print(f"| statistic equal to the last bit | {equal} | scipy | largest difference of p {off:.1e} |")
    if args.skip_peers:
        return
    frames = [pd.DataFrame(side.numpy(), columns=[f"c{i}" for i in range(args.columns)]) for side in (reference, live)]
    for name, peer_of in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"| KS {args.columns} columns, check | {median(times['check']):.2f} s | {name}: not installed | |")
            continue
        took = seconds(lambda peer_of=peer_of: peer_of(*frames))
        ratio = took / median(times["check"])
        print(f"| KS {args.columns} columns, check | {median(times['check']):.2f} s | {name} {took:.2f} s | {ratio:.1f} |")


def odd_columns(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    """Normal columns, of which ten have heavy tails and ten are discrete."""
    rows = rng.normal(size=(n, d))
    rows[:, :10] = rng.standard_t(2, size=(n, 10))
    rows[:, 10:20] = rng.integers(0, 5, size=(n, 10))
    return torch.from_numpy(rows)


def errors(args: argparse.Namespace) -> None:
    """False alarms and power over seeds, 200 features with 10,000 rows a side."""
    rows, d = args.rows, 200
    alarms = {"ours, Holm 5 %": 0, "scipy, p < .05": 0}
    found = {0.1: 0, 0.2: 0}
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        prepared = prepare_reference(odd_columns(rng, rows, d))
        live = odd_columns(rng, rows, d)
        test = ks_two_sample(prepared, live)
        alarms["ours, Holm 5 %"] += bool((test.adjusted < 0.05).any())
        alarms["scipy, p < .05"] += bool((test.p_value < 0.05).any())
        for moved in found:
            shifted = live.clone()
            shifted[:, 50] += moved
            found[moved] += bool(ks_two_sample(prepared, shifted).adjusted[50] < 0.05)
    told = " | ".join(f"{name}: {count / args.seeds:.1%}" for name, count in alarms.items())
    print(f"| any alarm without a shift, {d} features, {args.seeds} seeds | {told} | |")
    for moved, count in found.items():
        print(f"| one feature of {d} moved by {moved} sd, found | {count / args.seeds:.1%} | | |")


def memory(rng: np.random.Generator, n: int, rhos: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`[n, d]` autoregressive columns of unit variance."""
    noise = rng.normal(size=(n, len(rhos)))
    values = noise.copy()
    for i in range(1, n):
        values[i] = rhos * values[i - 1] + np.sqrt(1 - rhos**2) * noise[i]
    return values


def in_time(args: argparse.Namespace) -> None:
    """Alarms of the check on ten autocorrelated columns, the second half of each series against the first."""
    rhos = np.array([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95])
    counts = {"time named": 0, "no time": 0, "column 0 moved by 0.5 sd, found": 0}
    for seed in range(args.time_seeds):
        series = pd.DataFrame(memory(np.random.default_rng(seed), 3000, rhos), columns=[f"c{i}" for i in range(10)])
        moments = pd.DataFrame({"time": np.arange(1500.0)})
        schema = gd.Schema(time="time")

        def alarmed(after: pd.DataFrame, series: pd.DataFrame = series, **parts: Any) -> set[str]:
            pair = [gd.Records(side.reset_index(drop=True), **parts) for side in (after, series[:1500])]
            return {f.subject for f in features_keep_their_distribution(*pair) if f.severity.level >= gd.Severity.WARN.level}

        after = series[1500:]
        counts["no time"] += bool(alarmed(after))
        counts["time named"] += bool(alarmed(after, metadata=moments, schema=schema))
        found = alarmed(after.assign(c0=after["c0"] + 0.5), metadata=moments, schema=schema)
        counts["column 0 moved by 0.5 sd, found"] += "c0" in found
    told = " | ".join(f"{name}: {count / args.time_seeds:.1%}" for name, count in counts.items())
    print(f"| any alarm, 10 autocorrelated columns without a shift, {args.time_seeds} seeds | {told} | |")


_CHILD = """
import resource, sys, time
from gendebug_torch.cli.main import main
started = time.perf_counter()
code = main(sys.argv[1:])
print("measured", code, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def command(*arguments: object) -> tuple[float, float]:
    """Seconds of a command in a process of its own, and the most MiB that it held, torch and all."""
    done = subprocess.run([sys.executable, "-c", _CHILD, *map(str, arguments)], capture_output=True, text=True, check=True)
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
        part = pa.table({f"c{i}": rng.standard_normal(chunk, dtype=np.float32) for i in range(columns)})
        writer = writer or pq.ParquetWriter(path, part.schema, use_dictionary=False, compression="none")
        writer.write_table(part)
    writer.close()
    return path.stat().st_size / 2**20


def parquet(args: argparse.Namespace) -> None:
    """`gendebug shift` on files read in chunks: seconds and the most memory, with both sides and with a saved reference."""
    sizes = [(1_000_000, 25), (1_000_000, 100)] + ([(10_000_000, 500)] if args.full else [])
    for rows, columns in sizes:
        with TemporaryDirectory() as folder:
            place = Path(folder)
            table, saved, schema = place / "table.parquet", place / "reference.safetensors", place / "schema.yaml"
            schema.write_text("{}\n")
            size = write_parquet(table, rows, columns)
            common = ("--schema", schema, "--out", place / "out", "--budget", "20s")
            what = f"| gendebug shift, {rows:,} rows x {columns} columns ({size:,.0f} MiB of Parquet)"
            took, held = command("shift", table, table, *common, "--save-reference", saved)
            print(f"{what}, both sides read | {took:.0f} s | {held:.0f} MiB at most | |", flush=True)
            took, held = command("shift", saved, table, *common)
            print(f"{what}, reference of {saved.stat().st_size / 2**20:.0f} MiB | {took:.0f} s | {held:.0f} MiB at most | |", flush=True)


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=500)
    parser.add_argument("--reference", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--time-seeds", type=int, default=20)
    parser.add_argument("--skip-parquet", action="store_true")
    parser.add_argument("--full", action="store_true", help="the sizes and seeds that take an hour, and 20 GB of disk")
    parser.add_argument("--skip-peers", action="store_true")
    args = parser.parse_args()
    if not args.skip_parquet:
        parquet(args)
    if args.columns:
        speed(args)
    if args.seeds:
        errors(args)
    if args.time_seeds:
        in_time(args)


if __name__ == "__main__":
    main()

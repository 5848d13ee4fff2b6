"""Leakage at 1,000,000 rows of 50 columns: ours beside scikit-learn and pandas, interleaved."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.feature_selection import mutual_info_classif
from sklearn.neighbors import NearestNeighbors

from gendebug_torch import Records, Schema, diagnose
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.leakage import (
    association,
    identical_rows,
    near_duplicate_rows,
    preprocessing_leaks,
)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# Sizes of the budget: rows, columns, classes (0: a quantity).
SIZES = [
    "10000,20,2",
    "100000,20,2",
    "1000000,20,2",
    "100000,20,0",
    "5000,300,2",
    "5000,1000,2",
    "5000,3000,2",
    "20000,20,100",
    "20000,20,1000",
]


def every_check(sizes: list[str]) -> None:
    """Print seconds of the processor of each check of the topic, one row per size."""
    for size in sizes:
        n, d, k = map(int, size.split(","))
        given = splits(n, d, k)
        spent = {}
        for check in [check for check in all_checks() if check.name.startswith("leakage.")]:
            started = time.process_time()
            diagnose(**given, only=check.name)
            spent[check.name.removeprefix("leakage.")] = time.process_time() - started
        started = time.process_time()
        diagnose(**given, only="leakage")
        whole = time.process_time() - started
        slow = sorted(spent.items(), key=lambda pair: -pair[1])[:5]
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in slow)
        print(f"| {n:,} x {d:,}, {k} classes | {whole:.1f} s | {parts} |", flush=True)


def splits(n: int, d: int, k: int) -> dict[str, Records]:
    """Training, validation and production: nine of ten columns are normal, the others levels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)).astype(np.float32)
    columns = {f"c{i}": x[:, i] for i in range(d)}
    for i in range(0, d, 10):
        level = i % 20 == 0
        columns[f"c{i}"] = rng.choice(list("abcdefgh"), n) if level else rng.integers(0, 50, n)
    scores = x[:, 1:7] @ rng.normal(size=(6, max(k, 1))).astype(np.float32)
    if k > 2:
        y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    else:
        y = scores[:, 0] + rng.logistic(size=n)
        y = (y > 0).astype(np.int64) if k else y
    outputs = scores if k > 2 else scores[:, 0]
    frame, schema = pd.DataFrame(columns), Schema(regression=not k)
    cuts = {"train": (0, n * 2 // 3), "validation": (n * 2 // 3, n * 5 // 6)}
    return {
        name: Records(
            frame[low:high].reset_index(drop=True),
            torch.from_numpy(y[low:high]),
            torch.from_numpy(outputs[low:high].copy()),
            schema=schema,
            name=name,
        )
        for name, (low, high) in (cuts | {"production": (n * 5 // 6, n)}).items()
    }


def main() -> None:
    """Print the rows of a markdown table.

    mutual_info_classif runs on a part, its time scaled by rows and columns.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--checks", nargs="*", metavar="ROWS,COLUMNS,CLASSES", help="all checks at these sizes"
    )
    args = parser.parse_args()
    if args.checks is not None:
        every_check(args.checks or SIZES)
        return
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, args.rows)
    frame = pd.DataFrame(
        rng.normal(size=(args.rows, args.columns)), columns=[f"c{i}" for i in range(args.columns)]
    )
    frame["c0"] += target
    cut = args.rows * 4 // 5
    copied = rng.choice(cut, args.rows // 100, replace=False)
    frame.iloc[cut : cut + len(copied)] = frame.iloc[copied].to_numpy()
    train, validation = frame[:cut], frame[cut:].reset_index(drop=True)
    labels, part, some = torch.from_numpy(target), slice(0, 20_000), 2
    scale = args.rows / 20_000 * args.columns / some
    few = train.iloc[:100_000]

    def peer_information() -> Any:
        return mutual_info_classif(frame.iloc[part, :some], target[part], random_state=0)

    def peer_duplicates() -> int:
        return int(frame.duplicated()[cut:].sum())

    def peer_near() -> Any:
        index = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(
            few.to_numpy(dtype=np.float32)
        )
        return index.kneighbors(validation.iloc[:1000].to_numpy(dtype=np.float32))

    works: dict[str, Callable[[], Any]] = {
        "screen, 200,000 rows used": lambda: association(frame, labels),
        "screen, all rows": lambda: association(frame, labels, max_rows=args.rows),
        "mutual_info_classif": peer_information,
        "identical rows": lambda: identical_rows({"train": train, "validation": validation}),
        "pandas duplicated": peer_duplicates,
        "near-duplicate rows, 1,000 against 100,000": lambda: near_duplicate_rows(few, validation),
        "NearestNeighbors": peer_near,
        "preprocessing leaks": lambda: preprocessing_leaks(train, validation),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    measured = {name: median(values) for name, values in times.items()}
    information = measured["mutual_info_classif"] * scale
    peers = {
        "screen, 200,000 rows used": (
            "mutual_info_classif, scaled from 20,000 x 2",
            information,
        ),
        "screen, all rows": ("mutual_info_classif, scaled from 20,000 x 2", information),
        "identical rows": ("pandas duplicated", measured["pandas duplicated"]),
        "near-duplicate rows, 1,000 against 100,000": (
            "NearestNeighbors, brute force",
            measured["NearestNeighbors"],
        ),
    }
    print("| what | ours | peer | ratio |")
    print("| --- | --- | --- | --- |")
    for name, (peer, slow) in peers.items():
        size = (
            f"{args.columns} columns"
            if name.startswith("near")
            else f"{args.rows:,} x {args.columns}"
        )
        print(
            f"| {name}, {size} | {measured[name]:.2f} s | {peer} {slow:.2f} s | "
            f"{slow / measured[name]:.1f} |"
        )
    alone = f"preprocessing leaks, {args.rows:,} x {args.columns}"
    print(f"| {alone} | {measured['preprocessing leaks']:.2f} s | no peer | |")
    ours = float(association(frame.iloc[part, :some], labels[part]).information[0])
    shared = len(identical_rows({"train": train, "validation": validation}).rows)
    print(
        f"| information of c0, nats | {ours:.4f} | mutual_info_classif "
        f"{peer_information()[0]:.4f} | |"
    )
    print(f"| shared rows found | {shared:,} | pandas {peer_duplicates():,} | |")


if __name__ == "__main__":
    main()

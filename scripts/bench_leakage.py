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


def main() -> None:
    """Print the rows of a markdown table.

    mutual_info_classif runs on a part, its time scaled by rows and columns.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
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

"""What is known before labels arrive: the joint shift of all columns, and the expected accuracy."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.shift import estimated_accuracy
from gendebug_torch.shift.checks.joint import columns_relate_as_before

COLUMNS, CORRELATION = 20, 0.25


def sample(rng: np.random.Generator, n: int, correlation: float = 0.0) -> pd.DataFrame:
    """Columns of which some are skewed, heavy or discrete; the first two may be correlated."""
    x = rng.normal(size=(n, COLUMNS))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
    x[:, 2:6] = np.exp(x[:, 2:6])
    x[:, 6:10] = rng.standard_t(2, size=(n, 4))
    x[:, 10:14] = rng.integers(0, 5, size=(n, 4))
    return pd.DataFrame(x, columns=[f"c{i}" for i in range(COLUMNS)])


def series(rng: np.random.Generator, n: int, memory: float) -> pd.DataFrame:
    """Autoregressive columns of unit variance."""
    x = rng.normal(size=(n, 6)) * np.sqrt(1 - memory**2)
    x[0] /= np.sqrt(1 - memory**2)
    for place in range(1, n):
        x[place] += memory * x[place - 1]
    return pd.DataFrame(x, columns=[f"c{i}" for i in range(6)])


def alarm(after: pd.DataFrame, before: pd.DataFrame, **parts: Any) -> gd.Finding | None:
    """The finding of the joint check, where it warns."""
    sides = [gd.Records(side.reset_index(drop=True), **parts) for side in (after, before)]
    (finding,) = columns_relate_as_before(*sides)
    return finding if finding.severity.level >= gd.Severity.WARN.level else None


def together(seeds: int, rows: int) -> None:
    """Alarms without a shift, in time and not, and power against one correlation."""
    counts: Counter[str] = Counter()
    moments = {"metadata": pd.DataFrame({"t": range(rows)}), "schema": gd.Schema(time="t")}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        before = sample(rng, rows)
        counts["no shift"] += alarm(sample(rng, rows), before) is not None
        found = alarm(sample(rng, rows, CORRELATION), before)
        counts["found"] += found is not None
        counts["named"] += found is not None and found.numbers["pair"] == "c0 & c1"
        whole = series(rng, 2 * rows, 0.8)
        counts["in time"] += alarm(whole[rows:], whole[:rows], **moments) is not None
        counts["time not named"] += alarm(whole[rows:], whole[:rows]) is not None
    shown = {
        name: f"{counts[name] / seeds:.1%}"
        for name in ("no shift", "in time", "time not named", "found", "named")
    }
    size = f"{COLUMNS} columns, {rows:,} rows a side, {seeds} seeds"
    in_time = f"{shown['in time']}; {shown['time not named']} if time is not named"
    print(f"| joint test, no shift, alarms | {shown['no shift']} | {size} |")
    print(
        f"| joint test, no shift, rows in time (memory 0.8), alarms | {in_time} | 6 columns, "
        f"{rows:,} rows a side, {seeds} seeds |"
    )
    print(
        f"| correlation alone, 0 to {CORRELATION}, found; pair named | {shown['found']}; "
        f"{shown['named']} | {size} |",
        flush=True,
    )


def classified(
    rng: np.random.Generator,
    n: int,
    *,
    moved: float = 0.0,
    prior: float | None = None,
    turned: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a calibrated model, and labels; inputs, class shares or P(y | x) may shift."""
    z = 1.2 + 2.0 * rng.normal(size=6 * n) + moved
    y = rng.random(6 * n) < 1 / (1 + np.exp(-z - turned))
    rows = np.arange(n)
    if prior is not None:
        rows = np.concatenate(
            [np.flatnonzero(y)[: round(prior * n)], np.flatnonzero(~y)[: n - round(prior * n)]]
        )
    return torch.from_numpy(z[rows]), torch.from_numpy(y[rows].astype(np.int64))


def accuracy(seeds: int) -> None:
    """Coverage of the 95 % intervals of the accuracy without labels, and the error."""
    changes: dict[str, dict[str, float]] = {
        "no shift": {},
        "inputs moved": {"moved": -1.2},
        "class shares moved": {"prior": 0.3},
        "concept drift": {"turned": -1.5},
    }
    for name, change in changes.items():
        held: Counter[str] = Counter()
        off: Counter[str] = Counter()
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            known, unknown, many = (
                classified(rng, 2000),
                classified(rng, 2000, **change),
                classified(rng, 20_000, **change),
            )
            truth = float(((many[0] > 0).long() == many[1]).double().mean())
            found = estimated_accuracy(*known, unknown[0])
            for method in found.estimates:
                low, high = found.interval(method)
                held[method] += low <= truth <= high
                off[method] += found.estimates[method][0] - truth
        shown = "; ".join(
            f"{method} {held[method] / seeds:.0%}, off by {off[method] / seeds:+.3f}"
            for method in held
        )
        print(
            f"| 95 % intervals of the accuracy hold the truth, {name} | {shown} | 2,000 rows a "
            f"side, {seeds} seeds |",
            flush=True,
        )


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds",
        type=int,
        default=200,
        help="of the accuracy; of the joint test a fifth, or all with --full",
    )
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    print("| what | result | size |")
    print("| --- | --- | --- |")
    accuracy(args.seeds)
    together(args.seeds if args.full else max(1, args.seeds // 5), args.rows)


if __name__ == "__main__":
    main()

"""Seconds and memory of a default `diagnose` from files with a model's scores, over the size.

Each size runs in a process of its own: three tables are written as Parquet (a tenth of the columns
categorical, a time column, production like validation), read, diagnosed and reported. `--fit`
measures every check and writes the fitted costs into the package, `--costs` compares what each
check declares with what it takes at other sizes, on other rows; `--kept FILE` keeps what was
measured, so that either can be done in pieces. `--budgets` shows how long a diagnosis under a
budget takes.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linprog

import gendebug_torch as gd
from gendebug_torch.checks.measured_costs import MEASURED, sizes
from gendebug_torch.checks.registry import all_checks, derived_inputs
from gendebug_torch.cli.inputs import WRITING
from gendebug_torch.errors import Deadline, GendebugError

# Rows, columns, classes, and the most seconds that such a table may take.
SIZES = {
    "10^4 x 20": (10_000, 20, 2, 20),
    "10^5 x 20": (100_000, 20, 2, 20),
    "10^6 x 20": (1_000_000, 20, 2, 90),
    "5,000 x 100": (5_000, 100, 2, 20),
    "5,000 x 1,000": (5_000, 1_000, 2, 60),
    "5,000 x 3,000": (5_000, 3_000, 2, 150),
    "5,000 x 20, 100 classes": (5_000, 20, 100, 20),
    "5,000 x 20, 1,000 classes": (5_000, 20, 1_000, 90),
}
PAIRS = {
    "rows": ("10^5 x 20", "10^6 x 20"),
    "columns": ("5,000 x 1,000", "5,000 x 3,000"),
    "classes": ("5,000 x 20, 100 classes", "5,000 x 20, 1,000 classes"),
}
# Sizes at which costs are fitted, and others at which they are compared: rows, columns and classes
# apart.
FITTED = {
    "2,000 x 20": (2_000, 20, 2, 0),
    "20,000 x 20": (20_000, 20, 2, 0),
    "100,000 x 20": (100_000, 20, 2, 0),
    "5,000 x 100": (5_000, 100, 2, 0),
    "5,000 x 500": (5_000, 500, 2, 0),
    "5,000 x 20, 5 classes": (5_000, 20, 5, 0),
    "5,000 x 20, 30 classes": (5_000, 20, 30, 0),
    "5,000 x 20, 300 classes": (5_000, 20, 300, 0),
}
COMPARED = {
    "4,000 x 30": (4_000, 30, 2, 0),
    "50,000 x 20": (50_000, 20, 2, 0),
    "8,000 x 200": (8_000, 200, 2, 0),
    "3,000 x 800": (3_000, 800, 2, 0),
    "10,000 x 20, 10 classes": (10_000, 20, 10, 0),
    "5,000 x 20, 100 classes": (5_000, 20, 100, 0),
}
BUDGETS = tuple(
    (*size, seconds)
    for size in ((100_000, 20, 2), (5_000, 500, 2), (5_000, 20, 100))
    for seconds in (2.0, 5.0, 20.0)
)
# Checks that take less are not compared: nothing is scheduled by them.
SHORT = 0.2
# Seconds below which a time is noise, and a factor that is close enough for a check's own cost.
FLOOR, CLOSE = 0.02, 2.5
# Numbers of rows above which a check may sample.
CAPS = (float("inf"), 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)


def table(rows, columns, classes, seed, moved=0.0):
    """Features, labels and scores of an imperfect model, and a time."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    x = rng.normal(size=(rows, columns)) + moved
    data = {"t": pd.date_range("2024-01-01", periods=rows, freq="min")}
    if classes == 2:
        z = x @ (fixed.normal(size=columns) / np.sqrt(columns))
        data["label"] = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
        data["score"] = z + 0.3 * rng.normal(size=rows)
    else:
        z = x @ (2 * fixed.normal(size=(columns, classes)) / np.sqrt(columns))
        data["label"] = (z + rng.gumbel(size=z.shape)).argmax(1)
        data |= {f"score{i}": z[:, i] for i in range(classes)}
    for i in range(columns):
        level = np.where(x[:, i] > 1, "high", np.where(x[:, i] > 0, "middle", "low"))
        data[f"x{i}"] = level if i < columns // 10 else x[:, i]
    return pd.DataFrame(data)


def write_tables(folder, rows, columns, classes, moved=0.0, seed=0):
    """Three tables and their schema."""
    for i, name in enumerate(("train", "validation", "production")):
        shift = moved if name == "production" else 0.0
        table(rows, columns, classes, seed + i, shift).to_parquet(Path(folder) / f"{name}.parquet")
    scores = "score" if classes == 2 else str([f"score{i}" for i in range(classes)])
    schema = f"target: label\nlogits: {scores}\ntime: t\n"
    (Path(folder) / "schema.yaml").write_text(schema, encoding="utf-8")


def read_tables(folder):
    """Records by name."""
    schema = gd.Schema.from_file(Path(folder) / "schema.yaml")
    names = ("train", "validation", "production")
    return {n: gd.Records.from_file(Path(folder) / f"{n}.parquet", schema, name=n) for n in names}


def measured(folder, budget):
    """Seconds, memory and the schedule of one diagnosis, in this process."""
    # Imports count. On one thread, time of the processor is that of a machine with nothing else.
    clock = time.process_time if torch.get_num_threads() == 1 else time.monotonic
    began = clock() - time.process_time()
    kept = {"since": began, "reserved": WRITING, "clock": clock}
    limit = None if budget is None else Deadline(budget, **kept)
    marks = [time.perf_counter()]
    records = read_tables(folder)
    marks.append(time.perf_counter())
    diagnosis = gd.diagnose(budget=limit, **records)
    marks.append(time.perf_counter())
    late = {} if limit is None else {"deadline": limit.whole}
    diagnosis.write(Path(folder) / "out", **late)
    marks.append(time.perf_counter())
    names = ("read", "diagnose", "write")
    seconds = {n: b - a for n, a, b in zip(names, marks[:-1], marks[1:], strict=True)}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **seconds,
        "whole": clock() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "MB": usage.ru_maxrss / 1024,
        "spent": {c.check: c.spent for c in diagnosis.costs if c.spent is not None},
        "alarms": [f"{f.check} {f.severity}" for f in diagnosis.findings if f.severity.level > 1],
        "overran": [f.summary for f in diagnosis.findings if f.check == "diagnose.budget"],
        "skipped": sum("budget" in f.summary for f in diagnosis.skipped),
        "size": (Path(folder) / "out" / "report.html").stat().st_size / 2**20,
    }


def measured_costs(folder):
    """Operations of every derived input and check alone, what each declares, and its sizes.

    `own` is the declaration in the code of a check, which a fitted cost replaces.

    Others may use the same machine: seconds become operations by the rate of a probe that runs
    before and after, and the fastest rate of all is the machine's own.
    """
    records = read_tables(folder)
    # What is imported on first use is no cost of a check.
    _entries({name: rows.select(range(300)) for name, rows in records.items()})
    entries, rates = _entries(records)
    given = {"model": None, "curves": None, "behavior": None, **records}
    return {
        name: {
            "fastest": max(rates),
            "operations": operations,
            "declared": declared,
            "own": own,
            "sizes": {str(cap): sizes(given, inputs, cap) for cap in CAPS},
        }
        for name, (inputs, operations, declared, own) in entries.items()
    }


def _entries(records):
    """Inputs, operations measured, fitted and declared by name, and the rates of the probes."""
    given = {"model": None, "curves": None, "behavior": None, **records}
    checks = [check for check in all_checks() if not check.lacks(given)]
    shared = derived_inputs(checks, given)
    parts = {part.name: part for check in checks for part in (*check.derived, *check.deferred)}
    entries, rates = {}, [_rate()]

    def add(name, inputs, declared, own, work):
        seconds = _seconds(work)
        rates.append(_rate())
        operations = seconds * (rates[-2] * rates[-1]) ** 0.5
        entries[name] = (inputs, operations, declared.elements, own.elements)

    for name, part in parts.items():
        add(name, part.inputs, _part_cost(part, given), part.cost(given), shared[name])
    for check in checks:
        run = partial(check.run, given, None, shared)
        own = check.cost(given)
        add(check.name, check.inputs, check.total_cost(given, shared), own, run)
    return entries, rates


def _rate():
    """Operations per second of the probe at this moment."""
    elements = torch.arange(2**20, dtype=torch.float64)
    runs = [_seconds(lambda: elements.mul(0.5).add_(1.0).sum()) for _ in range(5)]
    return 3 * 2**20 / sorted(runs)[1]


def _part_cost(part, given):
    cost = part.cost(given)
    if part.name not in MEASURED:
        return cost
    return replace(cost, elements=MEASURED[part.name].elements(given, part.inputs))


def _seconds(work):
    # On one thread, time of the processor is that of a machine with nothing else to do.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    # What breaks or refuses has its time as well.
    with contextlib.suppress(GendebugError):
        work()
    return clock() - started


def in_process(size, budget=None, *, costs=False, moved=0.0, seed=0, limit=600):
    """The same in a fresh process; None where it takes longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        write_tables(folder, *size, moved=moved, seed=seed)
        command = [sys.executable, __file__, "--folder", folder]
        command += [] if budget is None else ["--budget-seconds", str(budget)]
        command += ["--measure"] if costs else []
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        # An installed package has its byte code.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        return json.loads(ran.stdout.splitlines()[-1])


def print_sizes(names):
    """One line per size, and exponents between sizes."""
    print("| size | allowed s | wall s | read | diagnose | write | CPU s | MB | slowest checks |")
    print("|---|---|---|---|---|---|---|---|---|")
    total = {}
    for name in names:
        *size, allowed = SIZES[name]
        result = in_process(size)
        if result is None:
            print(f"| {name} | {allowed} | more than 600 |", flush=True)
            continue
        parts = [result[part] for part in ("read", "diagnose", "write")]
        total[name] = sum(parts)
        top = sorted(result["spent"].items(), key=lambda one: -one[1])[:5]
        shares = ", ".join(f"{check} {spent:.1f}" for check, spent in top)
        figures = " | ".join(f"{part:.1f}" for part in (sum(parts), *parts, result["cpu"]))
        print(f"| {name} | {allowed} | {figures} | {result['MB']:,.0f} | {shares} |", flush=True)
    for what, (small, large) in PAIRS.items():
        if small in total and large in total:
            index = {"rows": 0, "columns": 1, "classes": 2}[what]
            ratio = SIZES[large][index] / SIZES[small][index]
            print(f"Exponent of {what}: {log(total[large] / total[small]) / log(ratio):.2f}")


def at_one_speed(results):
    """The same with seconds, at the fastest rate of all sizes."""
    cells = [one for result in results.values() for one in result.values()]
    fastest = max(one["fastest"] for one in cells)
    for one in cells:
        one["spent"] = one["operations"] / fastest
        one["declared"] /= fastest
    return results


def print_costs(results):
    """Declared and measured seconds of each check at each size; a star where they are far apart."""
    frame = pd.DataFrame(
        {
            size: {
                name: f"{one['declared']:.2g}/{one['spent']:.2g}{'*' * _far(one)}"
                for name, one in result.items()
            }
            for size, result in results.items()
        }
    )
    print(frame.fillna("").to_string())
    cells = [one for result in results.values() for one in result.values()]
    compared = sum(max(one["declared"], one["spent"]) > SHORT for one in cells)
    print(f"{sum(map(_far, cells))} of {compared} beyond a factor of 3")


def _far(one):
    declared, spent = one["declared"], one["spent"]
    return max(declared, spent) > SHORT and not 1 / 3 <= declared / spent <= 3


def fitted(results):
    """The costs that fit the measured operations best, by name, as lines of Python.

    A check that declares as good a cost itself keeps it.
    """
    names = sorted({name for result in results.values() for name in result})
    lines = []
    for name in names:
        seen = [result[name] for result in results.values() if name in result]
        target, floor = _measured(seen)
        own = np.array([one["own"] for one in seen])
        fits = [_fit(seen, target, floor, cap) for cap in CAPS]
        factor, cap, weights = min(fits, key=lambda fit: fit[0])
        if _factor(own, target, floor) <= max(factor, CLOSE):
            continue
        keys = ("fixed", "rows", "cells", "scores", "columns")
        values = [f"{k}={w:.3g}" for k, w in zip(keys, weights, strict=True) if w > 1e-3]
        values += [f"max_rows={cap:g}"] if cap < float("inf") and any(weights[1:]) else []
        lines.append(f'    "{name}": SizeCost({", ".join(values)}),')
    return lines


def _measured(seen):
    """Measured operations, and those of times that are noise, which nothing is scheduled by."""
    target = np.array([max(one["operations"], 1.0) for one in seen])
    return target, np.array([one["operations"] / max(one["spent"], 1e-9) for one in seen]) * FLOOR


def _factor(declared, target, floor):
    """The largest factor between declared and measured operations."""
    ratio = np.maximum(declared, floor) / np.maximum(target, floor)
    return float(np.exp(np.abs(np.log(ratio)).max()))


def _fit(seen, target, floor, cap):
    """Factor, cap and weights: the least factor within which all sizes are, by linear programs."""
    design = np.array([[1.0, *one["sizes"][str(cap)]] for one in seen])
    scale = np.maximum(target, floor)
    relative, long = design / scale[:, None], target > floor
    low, high, found = 1.0, 1e3, np.zeros(design.shape[1])
    while high / low > 1.02:
        factor = (low * high) ** 0.5
        weights = _within(relative, long, factor)
        low, high, found = (factor, high, found) if weights is None else (low, factor, weights)
    return _factor(design @ found, target, floor), cap, found


def _within(relative, long, factor):
    """Weights within this factor of every size with the least relative errors in sum, or None."""
    m, terms = relative.shape
    sides = np.vstack([relative, -relative[long]])
    limits = np.concatenate([np.full(m, factor), np.full(int(long.sum()), -1 / factor)])
    errors = np.vstack([np.hstack([sign * relative, -np.eye(m)]) for sign in (1, -1)])
    bounded = np.vstack([np.hstack([sides, np.zeros((len(sides), m))]), errors])
    ends = np.concatenate([limits, np.ones(m), -np.ones(m)])
    cost = np.concatenate([np.zeros(terms), np.ones(m)])
    # Columns of one size each keep the program well scaled.
    width = np.maximum(np.abs(bounded).max(0), 1e-300)
    solved = linprog(cost / width, A_ub=bounded / width, b_ub=ends, method="highs")
    return solved.x[:terms] / width[:terms] if solved.success else None


def write_fit(results):
    """Put the fitted costs into the package."""
    path = Path(__file__).resolve().parents[1] / "gendebug_torch/checks/measured_costs.py"
    text = path.read_text(encoding="utf-8").partition("MEASURED: Mapping[str, SizeCost] = ")
    lines = "".join(f"    {line}\n" for line in fitted(results))
    made = f"{text[0]}{text[1]}MappingProxyType(\n    {{\n{lines}    }}\n)\n"
    path.write_text(made, encoding="utf-8")


def print_budgets():
    """Seconds of a process, imports, reading and writing included, beside its budget."""
    print("| size | budget s | s | over | checks left out | slowest | overran |")
    print("|---|---|---|---|---|---|---|")
    for *size, budget in BUDGETS:
        result = in_process(size, budget)
        top = max(result["spent"].items(), key=lambda one: one[1], default="")
        print(
            f"| {size} | {budget} | {result['whole']:.1f} | {result['whole'] / budget - 1:+.0%} "
            f"| {result['skipped']} | {top} | {' '.join(result['overran'])} |",
            flush=True,
        )


def costs_at(named, seed, kept):
    """What each check takes at these sizes, at one speed; kept in a file where one is named."""
    path = None if kept is None else Path(kept)
    results = json.loads(path.read_text()) if path is not None and path.exists() else {}
    for name, size in named.items():
        if name not in results and (result := in_process(size[:3], costs=True, seed=seed)):
            results[name] = result
            if path is not None:
                path.write_text(json.dumps(results))
    return at_one_speed(results)


def main():
    """Print the tables that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=[*SIZES, *FITTED, *COMPARED])
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--fit", action="store_true", help="and write measured_costs.py")
    parser.add_argument("--kept", help="file of what was measured, read and added to")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--budgets", action="store_true")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--budget-seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        warnings.simplefilter("ignore")
        folder, budget = options.folder, options.budget_seconds
        print(json.dumps(measured_costs(folder) if options.measure else measured(folder, budget)))
    elif options.costs or options.fit:
        named = FITTED if options.fit else COMPARED
        asked = {name: named[name] for name in options.size or named}
        results = costs_at(asked, 0 if options.fit else 100, options.kept)
        print_costs(results)
        if options.fit and set(results) == set(FITTED):
            write_fit(results)
    elif options.budgets:
        print_budgets()
    else:
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
        print_sizes(options.size or SIZES)


if __name__ == "__main__":
    main()

"""Verdicts on a sweep of tasks, qualities, sizes and falls, and on planted causes."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gendebug_torch import Cause, Severity, diagnose  # noqa: E402
from tests import planted, quality_sweep  # noqa: E402
from tests.test_decision import DECISIONS  # noqa: E402


def sweep(seed: int, sizes: list[int]) -> None:
    """One diagnosis per cell: what it decides, and what is wrong with it."""
    wrong: Counter[str] = Counter()
    alarms, clean, total = [], 0, 0
    print(
        "| task | quality | n | fall | decision | seconds | wrong |\n|---|---|---|---|---|---|---|"
    )
    for cell in quality_sweep.cells(seed, sizes=tuple(sizes)):
        given = cell.given()
        started = time.perf_counter()
        diagnosis = diagnose(**given)
        spent = time.perf_counter() - started
        faults = quality_sweep.faults(given, diagnosis)
        loud = [f.check for f in diagnosis.findings if f.severity in (Severity.WARN, Severity.FAIL)]
        if cell.fall == 0:
            clean += 1
            if loud or diagnosis.decision != "nothing":
                alarms.append((cell, diagnosis.decision, loud))
        total += 1
        wrong.update(fault.partition(":")[0] for fault in faults)
        key = f"{cell.task} | {cell.quality} | {cell.n:,} | {cell.fall:.0%}"
        print(f"| {key} | {diagnosis.decision} | {spent:.1f} | {'; '.join(faults)} |", flush=True)
    print(f"\n{total} cells; wrong: {dict(wrong) or 0}; alarms in {len(alarms)} of {clean} clean:")
    for cell, decision, loud in alarms:
        print(f"- {cell}: {decision} {loud}")


def causes(first: int, seeds: int, tables: int) -> None:
    """Planted causes named among the first two and decided rightly; quiet clean tables."""
    print("| cause | named of | decided | others |\n|---|---|---|---|")
    for cause in (cause.value for cause in Cause if cause is not Cause.UNKNOWN):
        named, decided, others = 0, 0, Counter[str]()
        for seed in range(first, first + seeds):
            diagnosis = diagnose(**getattr(planted, cause)(seed))
            likely = [story.cause.value for story in diagnosis.causes[:2]]
            named += cause in likely
            right = diagnosis.decision in DECISIONS.get(cause, {diagnosis.decision})
            decided += right
            if cause not in likely or not right:
                others[f"{diagnosis.decision} {likely}"] += 1
        print(f"| {cause} | {named} of {seeds} | {decided} | {dict(others) or ''} |", flush=True)
    loud = {}
    for seed in range(first, first + tables):
        diagnosis = diagnose(**planted.clean(seed))
        if diagnosis.decision != "nothing" or diagnosis.causes:
            loud[seed] = [story.cause.value for story in diagnosis.causes]
    print(f"\nclean tables with an alarm: {len(loud)} of {tables} {loud or ''}")


def main() -> None:
    """Both parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("sweep", "causes", "both"), default="both")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=20, help="per planted cause")
    parser.add_argument("--tables", type=int, default=100, help="clean tables")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(quality_sweep.SIZES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part != "causes":
        sweep(options.first_seed, options.sizes)
    if options.part != "sweep":
        causes(options.first_seed, options.seeds, options.tables)


if __name__ == "__main__":
    main()

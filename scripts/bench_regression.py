"""Planted faults of regressions: how often the whole diagnosis names each among two causes."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gendebug_torch import diagnose  # noqa: E402
from tests.planted_regression import PLANTS, World, clean, made, real  # noqa: E402

DATA = ROOT.parent / "shared" / "data"


def world_of(kind: str, seed: int) -> World:
    """A world of normal draws, or of a real table."""
    if kind == "made":
        return made(seed)
    if kind == "bike":
        frame = pd.read_parquet(next((DATA / "bike_sharing_hour").glob("*.parquet")))
        return real(seed, frame, "cnt", "weekday", ("casual", "registered", "instant", "yr"))
    frame = pd.read_parquet(next((DATA / "kc_house").glob("*.parquet")))
    return real(seed, frame, "price", "condition", ("id",))


def told(kind: str, name: str, seed: int) -> tuple[bool, str, float]:
    """Whether the cause is named among the first two, what was said, and seconds."""
    plant, causes, subject = PLANTS.get(name, (clean, frozenset(), ""))
    world = world_of(kind, seed)
    plant(world)
    given: dict[str, Any] = world.given()
    started = time.process_time()
    found = diagnose(given.pop("model"), **given)
    took = time.process_time() - started
    first = [(likely.cause, likely.subject) for likely in found.causes[:2]]
    said = ", ".join(f"{cause}({subject})" if subject else str(cause) for cause, subject in first)
    right = any(cause in causes and subject in where for cause, where in first)
    right = right if causes else not found.causes
    return right, said or "nothing", took


def main() -> None:
    """One row of the markdown table per table and fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=["made", "bike"])
    parser.add_argument("--only", nargs="+", default=[*PLANTS, "clean"])
    options = parser.parse_args()
    print("| table | planted | named | seconds of CPU | said otherwise |")
    print("| --- | --- | --- | --- | --- |")
    for kind in options.kinds:
        for name in options.only:
            seeds = range(options.first, options.first + options.seeds)
            runs = [told(kind, name, seed) for seed in seeds]
            right = sum(ok for ok, _, _ in runs)
            seconds = sum(took for _, _, took in runs) / len(runs)
            others = Counter(said for ok, said, _ in runs if not ok).most_common(3)
            text = "; ".join(f"{said} ({count})" for said, count in others)
            row = f"| {kind} | {name} | {right} of {len(runs)} | {seconds:.1f} | {text} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()

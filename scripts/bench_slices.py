"""Finding bad slices: 100,000 rows, ten columns of ten values (4,600 slices), ours beside sliceline, and how often each is right."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from gendebug_torch.slices import confirmed_slices, find_slices, fit_binnings, promised_rate

PLANTED = frozenset({"c0 = a", "c1 = a"})


def table(seed: int, n: int, columns: int = 10, values: int = 10) -> tuple[pd.DataFrame, torch.Tensor, torch.Tensor]:
    """Columns of letters; an event at 10 %, and one at 20 % where c0 and c1 are both a, which are 2 % of the rows."""
    rng = np.random.default_rng(seed)
    letters = [chr(ord("a") + place) for place in range(values)]
    frame = pd.DataFrame({f"c{place}": rng.choice(letters, n) for place in range(columns)})
    frame.loc[rng.random(n) < 0.02 - values**-2, ["c0", "c1"]] = "a"
    inside = np.array((frame["c0"] == "a") & (frame["c1"] == "a"))
    null, planted = (torch.from_numpy(rng.random(n) < rate) for rate in (0.1, np.where(inside, 0.2, 0.1)))
    return frame, null, planted


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def speed(n: int, repeats: int, peer: Any) -> None:
    """Rows of the markdown table that say how fast, interleaved."""
    frame, _, event = table(0, n)
    rng = np.random.default_rng(1)
    loss, score = torch.from_numpy(rng.exponential(size=n)), torch.from_numpy(rng.normal(size=n))
    asked = find_slices(frame, event).asked
    works = {
        "errors": lambda: find_slices(frame, event),
        "errors beyond what was promised": lambda: find_slices(frame, event, expected=promised_rate(score, event)),
        "a loss": lambda: find_slices(frame, loss),
        "one half proposes, the other confirms": lambda: confirmed_slices(frame, event),
        "three-way by beam": lambda: find_slices(frame, event, ways=3),
    }
    if torch.cuda.is_available():
        works["errors on CUDA"] = lambda: find_slices(frame, event, device="cuda")
    if peer is not None:
        works["sliceline"] = lambda: peer(frame, event)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            times[name].append(seconds(work))
    beside = median(times.pop("sliceline")[1:]) if peer is not None else None
    for name, values in times.items():
        own = median(values[1:])
        told = "not installed" if beside is None else f"{beside:.2f} s"
        ratio = "" if beside is None else f"{beside / own:.0f}"
        print(f"| {asked:,} slices of {n:,} rows, {name} | {own:.3f} s | {told} | {ratio} |")


def truth(n: int, runs: int, peer: Any, peer_runs: int) -> None:
    """Rows that say how often the planted slice comes first, and how often null data are reported."""
    ours: dict[str, list[int]] = {"all rows": [0, 0], "halves": [0, 0]}
    theirs = [0, 0]
    for seed in range(runs):
        frame, null, planted = table(seed, n)
        cuts = fit_binnings(frame)
        for name, search in (("all rows", find_slices), ("halves", confirmed_slices)):
            found = search(frame, planted, binnings=cuts)
            ours[name][0] += bool(len(found)) and frozenset(map(str, found.members[0])) == PLANTED
            ours[name][1] += len(search(frame, null, binnings=cuts)) > 0
        if peer is not None and seed < peer_runs:
            best = peer(frame, planted)
            theirs[0] += bool(best) and best[0] == PLANTED
            theirs[1] += bool(peer(frame, null))
    told = "not installed" if peer is None else f"{theirs[0]} of {peer_runs}", "" if peer is None else f"{theirs[1]} of {peer_runs}"
    for name, (first, reported) in ours.items():
        print(f"| planted slice (2 % of {n:,} rows, error x 2) first, {name} | {first} of {runs} | {told[0]} | |")
        print(f"| null data with any report, {name} | {reported} of {runs} | {told[1] or 'not installed'} | |")


def sliceline_peer(alpha: float) -> Any:
    """Sliceline's slices of a table as sets of `column = value`, or None where it is not installed."""
    if importlib.util.find_spec("sliceline") is None:
        return None
    from sliceline.slicefinder import Slicefinder

    def search(frame: pd.DataFrame, event: torch.Tensor) -> list[frozenset[str]]:
        finder = Slicefinder(alpha=alpha, k=5, max_l=2, min_sup=30, verbose=False)
        finder.fit(frame, event.double().numpy())
        return [
            frozenset(f"{name} = {value}" for name, value in zip(frame.columns, row, strict=True) if value is not None)
            for row in finder.top_slices_
        ]

    return search


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=200, help="seeds of the planted and the null data")
    parser.add_argument("--peer-runs", type=int, default=20, help="of these, those that sliceline sees")
    parser.add_argument("--alpha", type=float, default=0.95, help="sliceline's weight of errors against size")
    options = parser.parse_args()
    peer = sliceline_peer(options.alpha)
    print("| what | ours | sliceline | ratio |")
    print("| --- | --- | --- | --- |")
    speed(options.rows, options.repeats, peer)
    truth(options.rows, options.runs, peer, options.peer_runs)


if __name__ == "__main__":
    main()

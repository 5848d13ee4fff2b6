"""Finding bad slices, ours beside sliceline: 100,000 rows, ten columns of ten values."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import Work, medians

from gendebug_torch.slices import confirmed_slices, find_slices, isotonic_rate
from gendebug_torch.slices.levels.binning import fit_binnings

PLANTED = frozenset({"c0 = a", "c1 = a"})
SEARCHES: dict[str, Callable[..., Any]] = {"all rows": find_slices, "halves": confirmed_slices}


def table(
    seed: int, n: int, columns: int = 10, values: int = 10
) -> tuple[pd.DataFrame, torch.Tensor, torch.Tensor]:
    """Columns of letters; an event at 10 %, and at 20 % in the 2 % of rows of one slice."""
    rng = np.random.default_rng(seed)
    letters = [chr(ord("a") + i) for i in range(values)]
    frame = pd.DataFrame({f"c{i}": rng.choice(letters, n) for i in range(columns)})
    frame.loc[rng.random(n) < 0.02 - values**-2, ["c0", "c1"]] = "a"
    inside = np.array((frame["c0"] == "a") & (frame["c1"] == "a"))
    null, planted = (
        torch.from_numpy(rng.random(n) < rate) for rate in (0.1, np.where(inside, 0.2, 0.1))
    )
    return frame, null, planted


def speed(n: int, repeats: int, peer: Any) -> None:
    """Rows of the markdown table that say how fast, in turns."""
    frame, _, event = table(0, n)
    rng = np.random.default_rng(1)
    loss, score = torch.from_numpy(rng.exponential(size=n)), torch.from_numpy(rng.normal(size=n))
    tests = find_slices(frame, event).tests
    works: dict[str, Work] = {
        "errors": lambda: find_slices(frame, event),
        "errors beyond the expected rate": lambda: find_slices(
            frame, event, expected=isotonic_rate(score, event)
        ),
        "a loss": lambda: find_slices(frame, loss),
        "one half proposes, the other confirms": lambda: confirmed_slices(frame, event),
        "three-way by beam": lambda: find_slices(frame, event, ways=3),
    }
    if torch.cuda.is_available():
        works["errors on CUDA"] = lambda: find_slices(frame, event, device="cuda")
    if peer is not None:
        works["sliceline"] = lambda: peer(frame, event)
    took = medians(works, repeats)
    beside = took.pop("sliceline", None)
    for name, own in took.items():
        peer_text = "not installed" if beside is None else f"{beside:.2f} s"
        ratio = "" if beside is None else f"{beside / own:.0f}"
        row(f"{tests:,} slices of {n:,} rows, {name}", f"{own:.3f} s", peer_text, ratio)


def planted(n: int, runs: int, peer: Any, peer_runs: int) -> None:
    """Rows that say how often the planted slice comes first."""
    first = {"all rows": 0, "halves": 0, "sliceline": 0}
    for seed in range(runs):
        frame, _, event = table(seed, n)
        cuts = fit_binnings(frame)
        for name, search in SEARCHES.items():
            found = search(frame, event, binnings=cuts)
            first[name] += bool(len(found)) and frozenset(map(str, found.members[0])) == PLANTED
        if peer is not None and seed < peer_runs:
            best = peer(frame, event)
            first["sliceline"] += bool(best) and best[0] == PLANTED
    peer_text = "not installed" if peer is None else f"{first['sliceline']} of {peer_runs}"
    for name in SEARCHES:
        row(
            f"planted slice (2 % of {n:,} rows, error x 2) first, {name}",
            f"{first[name]} of {runs}",
            peer_text,
        )


def null(n: int, runs: int, peer: Any, peer_runs: int) -> None:
    """Rows that say how often a table without a bad slice is reported."""
    reported = {"all rows": 0, "halves": 0, "sliceline": 0}
    for seed in range(runs):
        frame, event, _ = table(seed, n)
        cuts = fit_binnings(frame)
        for name, search in SEARCHES.items():
            reported[name] += len(search(frame, event, binnings=cuts)) > 0
        if peer is not None and seed < peer_runs:
            reported["sliceline"] += bool(peer(frame, event))
    peer_text = "not installed" if peer is None else f"{reported['sliceline']} of {peer_runs}"
    for name in SEARCHES:
        row(
            f"null data of {n:,} rows with any report, {name}",
            f"{reported[name]} of {runs}",
            peer_text,
        )


def row(what: str, ours: str, peer: str, ratio: str = "") -> None:
    """One row of the markdown table, at once."""
    print(f"| {what} | {ours} | {peer} | {ratio} |", flush=True)


def sliceline_peer(alpha: float) -> Any:
    """Sliceline's slices as sets of `column = value`, or None where it is not installed."""
    if importlib.util.find_spec("sliceline") is None:
        return None
    from sliceline.slicefinder import Slicefinder

    def search(frame: pd.DataFrame, event: torch.Tensor) -> list[frozenset[str]]:
        finder = Slicefinder(alpha=alpha, k=5, max_l=2, min_sup=30, verbose=False)
        finder.fit(frame, event.double().numpy())
        return [
            frozenset(
                f"{name} = {value}"
                for name, value in zip(frame.columns, row, strict=True)
                if value is not None
            )
            for row in finder.top_slices_
        ]

    return search


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="of the timed and of the planted table"
    )
    parser.add_argument("--null-rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=40, help="seeds of the planted data")
    parser.add_argument("--null-runs", type=int, default=200, help="seeds of the null data")
    parser.add_argument(
        "--peer-runs", type=int, default=5, help="of these, those that sliceline sees"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.95, help="sliceline's weight of errors against size"
    )
    options = parser.parse_args()
    peer = sliceline_peer(options.alpha)
    print("| what | ours | sliceline | ratio |")
    print("| --- | --- | --- | --- |")
    speed(options.rows, options.repeats, peer)
    planted(options.rows, options.runs, peer, options.peer_runs)
    null(options.null_rows, options.null_runs, peer, options.peer_runs)


if __name__ == "__main__":
    main()

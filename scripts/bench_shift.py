"""Kolmogorov-Smirnov tests of 500 columns, 100,000 against 10,000 rows: ours beside a loop over scipy, interleaved."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.stats import ks_2samp

from gendebug_torch.shift import ks_two_sample, prepare_reference


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the rows of a markdown table; scipy runs on a tenth of the columns, its time times ten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=500)
    parser.add_argument("--reference", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
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


if __name__ == "__main__":
    main()

"""Planted faults of trainings that are named first with the right layer, and sound trainings.

python scripts/bench_network.py [--first 100] [--seeds 10] [--steps 200] [--only NAME]
python scripts/bench_network.py --overhead
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from statistics import median

import torch
from _network_faults import ARCHITECTURES, CLASSES, FAULTS, RECIPES, Training, train
from torch import nn

from gendebug_torch.checks.finding import Finding
from gendebug_torch.network import watch


def judged(case: Training, steps: int) -> list[Finding]:
    """Alarms of one training, worst first."""
    with watch(case.model, case.optimizer) as record:
        train(case, record, steps)
    return [finding for finding in record.findings() if finding.severity.level >= 2]


def said(finding: Finding | None) -> str:
    """Kind and subject of a finding."""
    if finding is None:
        return "quiet"
    kind = finding.numbers.get("kind", finding.summary)
    return f"{kind} {finding.subject}".strip()


def faults(first: int, seeds: int, steps: int, only: str | None, verbose: bool) -> None:
    """A line per fault: named first, right layer, and what was said instead."""
    print("| fault | " + " | ".join(ARCHITECTURES) + " | right layer | else |")
    print("| --- | " + "--- | " * len(ARCHITECTURES) + "--- | --- |")
    named_all, layers_all, total, with_layer = 0, 0, 0, 0
    for fault, build in FAULTS.items():
        if only and only != fault:
            continue
        cells, layers, placed, others = [], 0, 0, Counter[str]()
        for name in ARCHITECTURES:
            named = 0
            for seed in range(first, first + seeds):
                torch.manual_seed(seed)
                case = build(name, seed)
                found = judged(case, steps)
                top = found[0] if found else None
                right = top is not None and top.numbers.get("kind") in case.kinds
                named += right
                if case.layers:
                    placed += 1
                    at = right and top is not None and top.subject in case.layers
                    layers += at
                if not right or (case.layers and not at):
                    others[f"{name}: {said(top)}"] += 1
                    if verbose:
                        print(name, seed, *(f"{said(f)}: {f.summary}" for f in found), sep="\n   ")
            cells.append(f"{named}/{seeds}")
            named_all, total = named_all + named, total + seeds
        layers_all, with_layer = layers_all + layers, with_layer + placed
        place = f"{layers}/{placed}" if placed else "-"
        wrong = "; ".join(f"{text} ({times})" for text, times in others.most_common(4))
        print(f"| {fault} | {' | '.join(cells)} | {place} | {wrong} |", flush=True)
    if total:
        print(f"\nnamed first {named_all}/{total} = {named_all / total:.1%}, ", end="")
        print(f"right layer {layers_all}/{max(with_layer, 1)}\n")


def recipes(first: int, seeds: int, steps: int) -> None:
    """A line per sound recipe: quiet runs, and what was said in the others."""
    quiet_all, total = 0, 0
    print("| recipe | quiet | alarms |")
    print("| --- | --- | --- |")
    for recipe, build in RECIPES.items():
        quiet, alarms = 0, Counter[str]()
        for name in ARCHITECTURES:
            for seed in range(first, first + seeds):
                torch.manual_seed(seed)
                found = judged(build(name, seed), steps)
                quiet += not found
                alarms.update(f"{name}: {said(finding)}" for finding in found[:1])
        runs = len(ARCHITECTURES) * seeds
        quiet_all, total = quiet_all + quiet, total + runs
        wrong = "; ".join(f"{text} ({times})" for text, times in alarms.most_common(4))
        print(f"| {recipe} | {quiet}/{runs} | {wrong} |", flush=True)
    print(f"\nquiet {quiet_all}/{total} = {quiet_all / total:.1%}")


class Silent:
    """A record that keeps nothing."""

    def loss(self, loss: torch.Tensor, targets: torch.Tensor) -> None:
        """Leave the loss."""


def overhead(pairs: int = 12, steps: int = 40) -> None:
    """Time of a step watched over one that is not, of steps of about 10 ms, pair by pair."""
    generator = torch.Generator().manual_seed(0)
    print("| network | ms per step | watched / plain |")
    print("| --- | --- | --- |")
    for name, (model, x) in _wide(generator).items():
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        y = torch.randint(CLASSES, (len(x),), generator=generator)
        case = Training(model, optimizer, itertools.repeat((x, y)))
        train(case, Silent(), 5)
        ratios, plain_times = [], []
        for _ in range(pairs):
            started = time.process_time()
            train(case, Silent(), steps)
            plain = time.process_time() - started
            with watch(model, optimizer) as record:
                train(case, record, 5)
                started = time.process_time()
                train(case, record, steps)
                ratios.append((time.process_time() - started) / plain)
            plain_times.append(1000 * plain / steps)
        print(f"| {name} | {median(plain_times):.1f} | {median(ratios):.3f} |", flush=True)


def _wide(generator: torch.Generator) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Networks whose steps take about 10 ms on one core, with a batch each."""
    width = 512
    layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
    layers += [part for _ in range(3) for part in (nn.Linear(width, width), nn.ReLU())]
    mlp = nn.Sequential(*layers, nn.Linear(width, CLASSES))
    convolutions: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    for _ in range(3):
        convolutions += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    cnn = nn.Sequential(*convolutions, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(256, CLASSES))
    return {
        "MLP, 0.8 M parameters": (mlp, torch.randn(128, 64, generator=generator)),
        "CNN, 4 convolutions": (cnn, torch.randn(32, 1, 16, 16, generator=generator)),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--sound", action="store_true", help="the sound recipes alone")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.overhead:
        overhead()
        return
    if not options.sound:
        faults(options.first, options.seeds, options.steps, options.only, options.verbose)
    if not options.only:
        recipes(options.first, options.seeds, options.steps)


if __name__ == "__main__":
    main()

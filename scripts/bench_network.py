"""Planted faults of trainings that are named first with the right layer, and sound trainings.

python scripts/bench_network.py [--first 100] [--seeds 10] [--steps 200] [--only NAME]
python scripts/bench_network.py --overhead
python scripts/bench_network.py --peers
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import torch
from _network_faults import ARCHITECTURES, CLASSES, FAULTS, RECIPES, Training, train
from _network_peers import peers
from scipy.stats import binom
from torch import nn

from gendebug_torch.checks.finding import Finding
from gendebug_torch.network import watch
from gendebug_torch.network.watch import Watch


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


def overhead(blocks: int = 40, every: int = 10) -> None:
    """CPU time of a step watched over one that is not; the two take turns step by step.

    Each trains a network of its own from the same weights. Then they change roles, for where a
    network lies in memory changes its time by a percent: a ratio is the geometric mean of both. A
    block is `every` steps, of which one is sampled; all is within the first 64 samples, whose
    distance is the shortest. Intervals of the medians are those of the sign test.
    """
    print(
        f"| network | plain, ms | watched over plain, one step of {every} sampled (95 %) | ", end=""
    )
    print("a step that is not sampled | a sampled one |\n| --- | --- | --- | --- | --- |")
    for name, build in WIDE.items():
        rows = _rows(build)
        one, other = _case(build, rows), _case(build, rows)
        times = [_turns(*pair, blocks, every) for pair in ((one, other), (other, one))]
        sums = [part.view(blocks, every, 2).sum(1) for part in times]
        sampled = torch.arange(1, blocks * every + 1) % every == 0
        cells = [_ratio(sums)]
        cells += [_ratio([part[kind] for part in times]) for kind in (~sampled, sampled)]
        plain = 1000 * torch.cat(times)[:, 0].median().item()
        print(f"| {name}, {rows} rows | {plain:.2f} | {' | '.join(cells)} |", flush=True)


def _turns(plain: Training, case: Training, blocks: int, every: int) -> torch.Tensor:
    """Seconds of steps of a network that is not watched and of one that is, `[t, 2]`."""
    with watch(case.model, case.optimizer, every=every) as record:
        times = [
            (_timed(plain, None), _timed(case, record))
            if at % 2
            else (_timed(case, record), _timed(plain, None))[::-1]
            for at in range((blocks + 1) * every)
        ]
    return torch.tensor(times, dtype=torch.float64)[every:]


def _timed(case: Training, record: Watch | None) -> float:
    """Seconds of a step."""
    started = time.process_time()
    _step(case, record)
    return time.process_time() - started


def _ratio(times: list[torch.Tensor]) -> str:
    """Median over the steps or blocks of the geometric mean of the ratios of two runs."""
    return _interval(torch.stack([t[:, 1] / t[:, 0] for t in times]).log().mean(0).exp().tolist())


def _interval(values: list[float]) -> str:
    low, middle, high = _median(values)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _rows(build: Callable[[int], tuple[nn.Module, torch.Tensor]], rows: int = 32) -> int:
    """Rows of a batch whose step takes about `STEP` seconds on this machine."""
    for _ in range(3):
        case = _case(build, rows)
        spent = median(_timed(case, None) for _ in range(30))
        rows = max(1, round(rows * STEP / spent))
    return rows


def _case(build: Callable[[int], tuple[nn.Module, torch.Tensor]], rows: int) -> Training:
    torch.manual_seed(0)
    model, x = build(rows)
    y = torch.randint(CLASSES, (len(x),))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return Training(model, optimizer, itertools.repeat((x, y)))


def _step(case: Training, record: Watch | None) -> None:
    """One step of a loop, as a person writes it."""
    x, y = next(case.data)
    loss = case.loss(case.model(x), y)
    if record is not None:
        record.loss(loss, y)
    loss.backward()
    case.optimizer.step()
    case.optimizer.zero_grad()


def _median(values: list[float]) -> tuple[float, float, float]:
    """Median with its 95 % interval by the sign test."""
    ordered, n = sorted(values), len(values)
    skip = max(int(binom.ppf(0.025, n, 0.5)) - 1, 0)
    return ordered[skip], median(ordered), ordered[n - 1 - skip]


class Encoder(nn.Module):
    """Two layers of a transformer between an embedding and a linear layer on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.body(self.embed(x)).mean(1))


def _mlp(rows: int, width: int = 512) -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
    layers += [part for _ in range(3) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES)), torch.randn(rows, 64)


def _cnn(rows: int) -> tuple[nn.Module, torch.Tensor]:
    parts: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    for _ in range(3):
        parts += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    network = nn.Sequential(*parts, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(256, CLASSES))
    return network, torch.randn(rows, 1, 16, 16)


def _encoder(rows: int) -> tuple[nn.Module, torch.Tensor]:
    return Encoder(), torch.randint(100, (rows, 32))


# Seconds of a step whose overhead is measured, and the networks.
STEP = 0.01
WIDE = {
    "MLP, 0.8 M parameters": _mlp,
    "CNN, 4 convolutions": _cnn,
    "transformer, 2 layers": _encoder,
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
    parser.add_argument("--peers", action="store_true", help="what other tools say of the faults")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peers:
        peers(FAULTS, options.first, 1, 60)
        return
    if options.overhead:
        overhead()
        return
    if not options.sound:
        faults(options.first, options.seeds, options.steps, options.only, options.verbose)
    if not options.only:
        recipes(options.first, options.seeds, options.steps)


if __name__ == "__main__":
    main()

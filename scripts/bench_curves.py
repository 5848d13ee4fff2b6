"""Curves with known truth: what is found, where, and how often nothing is mistaken for something; EarlyStopping beside it."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping

from gendebug_torch.curves import LearningCurves, diagnose_curves, sure_inflection

KINDS = ("converged", "overfit", "underfit", "still_improving", "oscillating", "diverged", "drop", "double_descent", "too_noisy")
PATIENCE = (3, 5, 10)
# Runs that nothing is wrong with: one that is stopped may have had its best epochs ahead.
HEALTHY = ("converged", "still_improving", "drop")
# The regime that is right for each kind; a drop of the learning rate and a double descent only must not be called overfit.
RIGHT = {kind: {kind} for kind in KINDS} | {
    "drop": {"converged"},
    "double_descent": {"converged", "still_improving"},
}


@dataclass(frozen=True)
class Truth:
    """One simulated run.

    Args:
        kind: of `KINDS`.
        curves: as recorded.
        course: `[t]` the validation loss without its noise.
        lowest: epoch of the lowest true validation loss.
        rise: of the true validation loss from there to the end, in standard deviations of an epoch.
        pace: the same per epoch.
        sharpness: standard error of the epoch of the inflection for one who knows everything else.
        clear: whether the kind stands out of the noise, so that another name would be wrong.
        baseline: loss of knowing nothing, for the kind underfit.
    """

    kind: str
    curves: LearningCurves
    course: np.ndarray
    lowest: int
    rise: float
    pace: float
    sharpness: float
    clear: bool
    baseline: float | None


def noise(rng: np.random.Generator, t: int, sd: float, correlation: float) -> np.ndarray:
    """Stationary AR(1) noise."""
    shocks = rng.normal(size=t) * sd
    for i in range(1, t):
        shocks[i] = correlation * shocks[i - 1] + (1 - correlation**2) ** 0.5 * shocks[i]
    return shocks


def simulate(kind: str, seed: int) -> Truth:
    """A run of 20 to 120 epochs: an exponential approach, what the kind adds, and AR(1) noise."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    t = int(rng.integers(20, 121))
    epoch = np.arange(t)
    floor, height = rng.uniform(0.2, 1.0), rng.uniform(0.3, 1.5)
    time_constant = t * rng.uniform(0.03, 0.1)
    sd = floor * rng.uniform(0.002, 0.02)
    correlation = rng.uniform(0.0, 0.5)
    val = floor + height * np.exp(-epoch / time_constant)
    train = 0.9 * floor + height * np.exp(-epoch / (1.3 * time_constant))
    baseline, clear, pace, after = None, sd / floor < 0.01, 0.0, 1
    if kind == "overfit":
        after = int(t * rng.uniform(0.4, 0.7))
        total = sd * rng.choice([3.0, 6.0, 12.0, 24.0, 48.0])
        slope = total / after
        val = val + slope * (epoch - (t - 1 - after)).clip(0)
        train = train - 0.3 * floor * (epoch / t)
        pace, clear = slope / sd, total > 0.05 * floor and total >= 12 * sd
    elif kind == "underfit":
        baseline = floor
        val, train = np.full(t, floor) * rng.uniform(0.98, 1.02), np.full(t, floor) * rng.uniform(0.97, 1.0)
    elif kind == "still_improving":
        time_constant = t * rng.uniform(0.4, 1.0)
        val, train = (share * floor + height * np.exp(-epoch / time_constant) for share in (1.0, 0.9))
        clear = True
    elif kind == "oscillating":
        amplitude = max(5 * sd, 0.06 * floor)
        val = val + amplitude * np.sin(2 * np.pi * epoch / rng.uniform(2.5, t / 8) + rng.uniform(0, 6))
        clear = t >= 30
    elif kind == "diverged":
        at = int(t * rng.uniform(0.3, 0.8))
        up = floor * rng.uniform(0.05, 0.2) * (epoch - at).clip(0)
        val, train = val + up, train + up
        clear = True
        if rng.random() < 0.3:
            train[at:], val[at:] = np.nan, np.nan
    elif kind == "drop":
        at = int(t * rng.uniform(0.4, 0.7))
        below = floor * rng.uniform(0.1, 0.3) * (epoch >= at)
        val, train = val - below, train - below
    elif kind == "double_descent":
        bump = floor * rng.uniform(0.15, 0.5) * np.exp(-(((epoch - 0.4 * t) / (0.1 * t)) ** 2) / 2)
        val = val + bump - 0.1 * floor * (epoch > 0.4 * t) * (1 - np.exp(-(epoch - 0.4 * t).clip(0) / (0.2 * t)))
        clear = t >= 40
    elif kind == "too_noisy":
        sd, clear = floor * rng.uniform(0.15, 0.4), True
    course = val.copy()
    val = val + noise(rng, t, sd, correlation)
    train = train + noise(rng, t, 0.3 * sd, correlation)
    curves = LearningCurves(torch.from_numpy(epoch), torch.from_numpy(train), torch.from_numpy(val))
    lowest = int(np.nanargmin(course))
    inflation = ((1 + correlation) / (1 - correlation)) ** 0.5
    sharpness = inflation * 2 / after**0.5 / pace if pace else np.inf
    return Truth(kind, curves, course, lowest, float((course[-1] - course[lowest]) / sd), pace, sharpness, clear, baseline)


def patience_rule(losses: list[float], patience: int) -> tuple[int, int] | None:
    """Epoch at which Lightning's EarlyStopping stops and the one it keeps, None where it trains to the end; driven as the Trainer does."""
    rule = EarlyStopping("val_loss", patience=patience)
    best, at = np.inf, 0
    for epoch, loss in enumerate(losses):
        stop, _ = rule._evaluate_stopping_criteria(torch.tensor(loss))
        if loss < best:
            best, at = loss, epoch
        if stop:
            return epoch, at
    return None


def inflection_rule(curves: LearningCurves) -> tuple[int, int] | None:
    """The same for `LearningCurveMonitor(stop_on_inflection=True)`, asked after every epoch."""
    for t in range(1, len(curves) + 1):
        found = sure_inflection(LearningCurves(curves.epoch[:t], curves.train_loss[:t], curves.val_loss[:t]))
        if found is not None:
            return t - 1, int(found.inflection_epoch or 0)
    return None


def runs(count: int, first: int) -> Iterator[tuple[Truth, dict[str, int | None], str, tuple[int, int] | None]]:
    """Each simulated run with what every rule says: the epoch of an inflection, or None."""
    for i in range(count):
        truth = simulate(KINDS[i % len(KINDS)], first + i // len(KINDS))
        found = diagnose_curves(truth.curves, baseline_loss=truth.baseline)
        losses = truth.curves.val_loss.tolist()
        stopped = {f"patience {patience}": patience_rule(losses, patience) for patience in PATIENCE}
        told = {rule: None if at is None else at[1] for rule, at in stopped.items()}
        yield truth, {"ours": found.inflection_epoch, **told}, found.regime, found.interval


def stop_table(count: int, first: int) -> None:
    """Print what each rule does to healthy runs and to clear overfit ones, half of each."""
    healthy = [simulate(HEALTHY[i % len(HEALTHY)], first + i // len(HEALTHY)) for i in range(count // 2)]
    overfit = []
    while len(overfit) < count - len(healthy):
        truth = simulate("overfit", first)
        overfit += [truth] if truth.clear else []
        first += 1
    rules: dict[str, Callable[[Truth], tuple[int, int] | None]] = {"ours": lambda truth: inflection_rule(truth.curves)}
    for patience in PATIENCE:
        rules[f"patience {patience}"] = partial(_patient, patience=patience)
    stopped = f"healthy stopped, of {len(healthy)} | true loss lost | overfit stopped, of {len(overfit)} | epochs late | true loss lost"
    print(f"| rule | {stopped} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, rule in rules.items():
        cells = [name]
        for group in (healthy, overfit):
            stops = [(truth, stop) for truth in group if (stop := rule(truth)) is not None]
            lost = [truth.course[stop[1]] / truth.course.min() - 1 for truth, stop in stops]
            late = [stop[0] - truth.lowest for truth, stop in stops]
            cells.append(f"{len(stops) / len(group):.0%}")
            if group is overfit:
                low, middle, high = np.quantile(late, [0.25, 0.5, 0.75]) if late else [np.nan] * 3
                cells.append(f"{middle:.0f} ({low:.0f} to {high:.0f})")
            cells.append(f"{np.mean(lost):.1%}, at most {np.max(lost):.1%}" if lost else "")
        print(f"| {' | '.join(cells)} |", flush=True)


def _patient(truth: Truth, patience: int) -> tuple[int, int] | None:
    return patience_rule(truth.curves.val_loss.tolist(), patience)


def main() -> None:
    """Print four markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="curves judged whole")
    parser.add_argument("--stops", type=int, default=120, help="runs judged after each of their epochs")
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    rises: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    quiet: dict[str, list[bool]] = defaultdict(list)
    named: dict[str, list[str]] = defaultdict(list)
    held = []
    for truth, told, regime, interval in runs(options.count, options.first):
        for rule, at in told.items():
            if truth.kind == "overfit":
                sharp = "located to 1" if truth.sharpness <= 1 else "located to 2" if truth.sharpness <= 2 else "vaguer"
                size = next(f">= {least:g}" for least in (40, 20, 10, 5, 0) if truth.rise >= least)
                for group in (f"rise {size} sd", f"epoch can be {sharp}"):
                    rises[rule, group].append((at is not None, at is not None and abs(at - truth.lowest) <= 2))
            elif truth.kind in ("converged", "underfit", "drop", "still_improving", "too_noisy"):
                quiet[rule].append(at is not None)
        if truth.kind == "overfit" and interval is not None:
            held.append(interval[0] <= truth.lowest <= interval[1])
        if truth.clear:
            named[truth.kind].append(regime)
    rules = list(quiet)
    print(f"| inflections | runs | {' | '.join(f'{rule}: found, within 2 epochs' for rule in rules)} |")
    print(f"| --- | --- |{' --- |' * len(rules)}")
    for group in sorted({group for _, group in rises}):
        shares = [np.mean(rises[rule, group], axis=0) for rule in rules]
        print(f"| {group} | {len(rises[rules[0], group])} | {' | '.join(f'{found:.1%}, {near:.1%}' for found, near in shares)} |")
    print(f"| none (false alarms) | {len(quiet[rules[0]])} | {' | '.join(f'{np.mean(quiet[rule]):.1%}' for rule in rules)} |")
    print(f"\nThe 95 % interval holds the true epoch in {np.mean(held):.1%} of {len(held)} found.\n")
    print("| clear cases of | runs | named right | otherwise |\n| --- | --- | --- | --- |")
    total = []
    for kind, regimes in named.items():
        right = [regime in RIGHT[kind] for regime in regimes]
        total += right
        wrong = {regime: regimes.count(regime) for regime in sorted(set(regimes) - RIGHT[kind])}
        print(f"| {kind} | {len(right)} | {np.mean(right):.1%} | {', '.join(f'{regime} {n}' for regime, n in wrong.items())} |")
    print(f"| all | {len(total)} | {np.mean(total):.1%} | |")
    print(f"\n{1e3 * (time.perf_counter() - started) / options.count:.0f} ms per curve, all rules together\n")
    stop_table(options.stops, options.first)


if __name__ == "__main__":
    main()

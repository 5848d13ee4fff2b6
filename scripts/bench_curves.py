"""Simulated curves: power, location and false alarms of the diagnosis, beside EarlyStopping."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from scipy.optimize import minimize_scalar

from gendebug_torch.curves import (
    CurveDiagnosis,
    LearningCurves,
    diagnose_curves,
    early_stopping_diagnosis,
)

KINDS = (
    "converged",
    "overfit",
    "underfit",
    "still_improving",
    "oscillating",
    "diverged",
    "drop",
    "double_descent",
    "too_noisy",
)
PATIENCE = (3, 5, 10)
# Runs that nothing is wrong with: one that is stopped may have had its best epochs ahead.
HEALTHY = ("converged", "still_improving", "drop")
# The regime that is right for each kind; a drop of the learning rate and a double descent only must
# not be called overfit.
RIGHT = {kind: {kind} for kind in KINDS} | {
    "drop": {"converged"},
    "double_descent": {"converged", "still_improving"},
}


# Shapes that the courses of `overfit` may have; the first of each is the one of the table by rise.
FALLS = ("exponential", "two exponentials", "power law")
CLIMBS = ("straight", "levelling off", "gathering speed")


@dataclass(frozen=True)
class Shape:
    """A validation loss that falls and then rises, without its noise.

    Args:
        fall: of `FALLS`.
        climb: of `CLIMBS`.
        length: epochs.
        theta: floor, height, time constant, last epoch before the rise, rise up to the last epoch.
        sd: of the noise.
        correlation: of the noise.
    """

    fall: str
    climb: str
    length: int
    theta: tuple[float, ...]
    sd: float
    correlation: float

    def course(self, x: np.ndarray, theta: np.ndarray | None = None) -> np.ndarray:
        """The loss at epochs `x`, by default with its own parameters."""
        floor, height, time_constant, onset, total = self.theta if theta is None else theta
        after = self.length - 1 - self.theta[3]
        since = (x - onset).clip(0) / after
        falling = {
            "exponential": lambda: np.exp(-x / time_constant),
            "two exponentials": lambda: (
                0.75 * np.exp(-x / time_constant) + 0.25 * np.exp(-x / (3 * time_constant))
            ),
            "power law": lambda: (1 + x / (0.5 * time_constant)) ** -1.5,
        }[self.fall]()
        climbing = {
            "straight": lambda: since,
            "levelling off": lambda: (1 - np.exp(-3 * since)) / (1 - np.exp(-3)),
            "gathering speed": lambda: since**2,
        }[self.climb]()
        loss: np.ndarray = floor + height * falling + total * climbing
        return loss

    def bound(self) -> float:
        """Cramér-Rao bound on the standard error of the minimum, with shape and noise known."""
        epoch, theta = np.arange(self.length, dtype=float), np.array(self.theta)
        near = int(self.course(epoch).argmin())

        def lowest(moved: np.ndarray) -> float:
            reach = (max(near - 3.0, 0.0), min(near + 3.0, self.length - 1.0))
            return float(
                minimize_scalar(
                    lambda x: float(self.course(np.array(x), moved)),
                    bounds=reach,
                    options={"xatol": 1e-9},
                ).x
            )

        steps = 1e-4 * np.array([1.0, theta[1], theta[2], 100.0, theta[4]])
        moves = np.diag(steps)
        change = np.array(
            [
                (self.course(epoch, theta + move) - self.course(epoch, theta - move)) / 2
                for move in moves
            ]
        )
        gradient = np.array([(lowest(theta + move) - lowest(theta - move)) / 2 for move in moves])
        information = white(change, self.correlation) @ white(change, self.correlation).T
        covariance = (
            np.linalg.pinv(information, rcond=1e-14) * self.sd**2 * (1 - self.correlation**2)
        )
        return float(gradient @ covariance @ gradient) ** 0.5

    def likelihood_ratio(self, values: np.ndarray) -> float:
        """Likelihood ratio statistic of a straight rise, with noise and exponential fall known."""
        epoch = np.arange(self.length, dtype=float)
        times = self.length * np.geomspace(0.027, 0.11, 160)
        left = white(values, self.correlation)
        rises = white((epoch - np.arange(self.length - 3)[:, None]).clip(0), self.correlation)
        columns = np.stack([np.ones((160, self.length)), np.exp(-epoch / times[:, None])], 1)
        basis, _ = np.linalg.qr(white(columns, self.correlation).transpose(0, 2, 1))
        left = left - (basis @ (basis.transpose(0, 2, 1) @ left)[:, :, None])[:, :, 0]
        spread = (rises**2).sum(1) - ((basis.transpose(0, 2, 1) @ rises.T) ** 2).sum(1)
        rss = (left**2).sum(1)
        gain = rss.min() - (rss[:, None] - (left @ rises.T).clip(0) ** 2 / spread.clip(1e-9)).min()
        return float(gain / (self.sd**2 * (1 - self.correlation**2)))


def white(series: np.ndarray, correlation: float) -> np.ndarray:
    """`[..., t]` series in which AR(1) noise is white."""
    out = series.astype(float).copy()
    out[..., 1:] -= correlation * series[..., :-1]
    out[..., 0] *= (1 - correlation**2) ** 0.5
    return out


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
        sharpness: standard error of the epoch of the inflection with everything else known.
        clear: whether the kind stands out of the noise, so that another name would be wrong.
        baseline: loss of knowing nothing, for the kind underfit.
        shape: of the kind overfit.
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
    shape: Shape | None = None


def noise(rng: np.random.Generator, t: int, sd: float, correlation: float) -> np.ndarray:
    """Stationary AR(1) noise."""
    shocks = rng.normal(size=t) * sd
    for i in range(1, t):
        shocks[i] = correlation * shocks[i - 1] + (1 - correlation**2) ** 0.5 * shocks[i]
    return shocks


def simulate(kind: str, seed: int, fall: str = FALLS[0], climb: str = CLIMBS[0]) -> Truth:
    """A run of 20 to 120 epochs: an exponential fall, what the kind adds, and AR(1) noise.

    Overfit runs may have any shape.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed])
    t = int(rng.integers(20, 121))
    epoch = np.arange(t)
    floor, height = rng.uniform(0.2, 1.0), rng.uniform(0.3, 1.5)
    time_constant = t * rng.uniform(0.03, 0.1)
    sd = floor * rng.uniform(0.002, 0.02)
    correlation = rng.uniform(0.0, 0.5)
    val = floor + height * np.exp(-epoch / time_constant)
    train = 0.9 * floor + height * np.exp(-epoch / (1.3 * time_constant))
    baseline, clear, pace, after, shape = None, sd / floor < 0.01, 0.0, 1, None
    if kind == "overfit":
        after = int(t * rng.uniform(0.4, 0.7))
        total = sd * rng.choice([3.0, 6.0, 12.0, 24.0, 48.0])
        slope = total / after
        shape = Shape(
            fall, climb, t, (floor, height, time_constant, t - 1.0 - after, total), sd, correlation
        )
        val = shape.course(epoch)
        train = train - 0.3 * floor * (epoch / t)
        pace, clear = slope / sd, total > 0.05 * floor and total >= 12 * sd
    elif kind == "underfit":
        baseline = floor
        val, train = (
            np.full(t, floor) * rng.uniform(0.98, 1.02),
            np.full(t, floor) * rng.uniform(0.97, 1.0),
        )
    elif kind == "still_improving":
        time_constant = t * rng.uniform(0.4, 1.0)
        val, train = (
            share * floor + height * np.exp(-epoch / time_constant) for share in (1.0, 0.9)
        )
        clear = True
    elif kind == "oscillating":
        amplitude = max(5 * sd, 0.06 * floor)
        val = val + amplitude * np.sin(
            2 * np.pi * epoch / rng.uniform(2.5, t / 8) + rng.uniform(0, 6)
        )
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
        val = (
            val
            + bump
            - 0.1 * floor * (epoch > 0.4 * t) * (1 - np.exp(-(epoch - 0.4 * t).clip(0) / (0.2 * t)))
        )
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
    return Truth(
        kind,
        curves,
        course,
        lowest,
        float((course[-1] - course[lowest]) / sd),
        pace,
        sharpness,
        clear,
        baseline,
        shape,
    )


def patience_rule(losses: list[float], patience: int) -> tuple[int, int] | None:
    """Epoch at which Lightning's EarlyStopping stops, and its best one; None if it never does."""
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
    """The same for `LearningCurveMonitor(stop_on_inflection=True)`, repeated after every epoch."""
    for t in range(1, len(curves) + 1):
        found = early_stopping_diagnosis(
            LearningCurves(curves.epoch[:t], curves.train_loss[:t], curves.val_loss[:t])
        )
        if found is not None:
            return t - 1, int(found.inflection_epoch or 0)
    return None


def share(of: list[bool]) -> str:
    """A share with its 95 % interval (Wilson)."""
    if not of:
        return ""
    n, hit, z = len(of), float(np.mean(of)), 1.96
    middle, reach = (
        (hit + z**2 / 2 / n) / (1 + z**2 / n),
        z / (1 + z**2 / n) * (hit * (1 - hit) / n + z**2 / 4 / n**2) ** 0.5,
    )
    return f"{hit:.1%} ({max(middle - reach, 0):.1%} to {min(middle + reach, 1):.1%})"


def inflection_table(count: int, first: int) -> None:
    """Print how often and where each rule finds a rise, by its size and the bound on its epoch."""
    rules: dict[str, Callable[[Truth], int | None]] = {
        f"patience {patience}": partial(_kept, patience=patience) for patience in PATIENCE
    }
    rows: dict[str, list[tuple[Truth, CurveDiagnosis, dict[str, int | None]]]] = defaultdict(list)
    for i in range(count):
        truth = simulate("overfit", first + i)
        found = diagnose_curves(truth.curves)
        epochs = {rule: at(truth) for rule, at in rules.items()}
        size = next(
            name
            for least, name in (
                (40, "40 and more"),
                (20, "20 to 40"),
                (10, "10 to 20"),
                (5, "5 to 10"),
                (3, "3 to 5"),
                (0, "below 3"),
            )
            if truth.rise >= least
        )
        sharp = (
            "at most 1" if truth.sharpness <= 1 else "1 to 2" if truth.sharpness <= 2 else "above 2"
        )
        for group in (
            f"rise of {size} sd",
            f"epoch known to {sharp}",
            *([] if truth.rise < 3 else ["rise of 3 sd and more"]),
        ):
            rows[group].append((truth, found, epochs))
    headings = " | ".join(f"{rule}: within 2" for rule in rules)
    print(
        "| overfit runs | n | found | of the found within 2 epochs | rms error / bound | "
        f"interval holds | median width | {headings} |"
    )
    print(f"| --- | --- | --- | --- | --- | --- | --- |{' --- |' * len(rules)}")
    for group in sorted(rows):
        patient = " | ".join(
            f"{np.mean([near(epochs[rule], truth) for truth, _, epochs in rows[group]]):.0%}"
            for rule in rules
        )
        print(
            f"| {group} | {len(rows[group])} | "
            f"{' | '.join(located([(truth, found) for truth, found, _ in rows[group]]))} | "
            f"{patient} |"
        )


def near(at: int | None, truth: Truth) -> bool:
    """Within two epochs."""
    return at is not None and abs(at - truth.lowest) <= 2


def located(rows: list[tuple[Truth, CurveDiagnosis]]) -> list[str]:
    """Cells: found, within two epochs, error over its bound, interval holds, median width."""
    found = [
        (truth, at.inflection_epoch, at.interval)
        for truth, at in rows
        if at.inflection_epoch is not None and at.interval is not None
    ]
    if not found:
        return ["none", "", "", "", ""]
    error = np.mean([(at - truth.lowest) ** 2 for truth, at, _ in found]) ** 0.5
    bound = np.mean([truth.shape.bound() ** 2 for truth, _, _ in found if truth.shape]) ** 0.5
    holds = [low <= truth.lowest <= high for truth, _, (low, high) in found]
    width = np.median([high - low for _, _, (low, high) in found])
    within = share([near(at, truth) for truth, at, _ in found])
    return [
        share([at.inflection_epoch is not None for _, at in rows]),
        within,
        f"{error:.2f} / {bound:.2f}",
        share(holds),
        f"{width:.0f}",
    ]


def shape_table(count: int, first: int) -> None:
    """Print the same over shapes of fall and rise, where the bound is at most one epoch."""
    print(
        "\n| fall, then rise | n | found | of the found within 2 epochs | rms error / bound | "
        "interval holds | median width |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for fall in FALLS:
        for climb in CLIMBS:
            truths = [simulate("overfit", first + i, fall, climb) for i in range(count)]
            rows = [
                (truth, diagnose_curves(truth.curves))
                for truth in truths
                if truth.shape and truth.shape.bound() <= 1
            ]
            print(f"| {fall}, {climb} | {len(rows)} | {' | '.join(located(rows))} |", flush=True)


def power_table(count: int, first: int) -> None:
    """Print our power beside that of the likelihood ratio with noise and shapes known.

    Both have 2 % false alarms.
    """
    truths = [simulate("overfit", first + i) for i in range(count)]
    ratios, flat = [], []
    for truth in truths:
        assert truth.shape is not None
        *_, onset, total = truth.shape.theta
        epoch, values = np.arange(truth.shape.length), truth.curves.val_loss.numpy()
        ratios.append(truth.shape.likelihood_ratio(values))
        flat.append(
            truth.shape.likelihood_ratio(
                values - total * (epoch - onset).clip(0) / (len(epoch) - 1 - onset)
            )
        )
    level = np.quantile(flat, 0.98)
    print(
        "\n| rise | n | found | likelihood ratio, noise and shapes known |\n| --- | --- | --- | "
        "--- |"
    )
    for name, least, most in (("below 3 sd", 0, 3), ("3 to 5 sd", 3, 5), ("5 to 10 sd", 5, 10)):
        inside = [i for i, truth in enumerate(truths) if least <= truth.rise < most]
        ours = [diagnose_curves(truths[i].curves).inflection_epoch is not None for i in inside]
        print(
            f"| {name} | {len(inside)} | {share(ours)} | "
            f"{share([bool(ratios[i] > level) for i in inside])} |",
            flush=True,
        )


def regime_tables(count: int, first: int) -> None:
    """Print false alarms by kind, and which regimes clear cases are given."""
    quiet: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    named: dict[str, list[str]] = defaultdict(list)
    for i in range(count):
        truth = simulate(KINDS[i % len(KINDS)], first + i // len(KINDS))
        found = diagnose_curves(truth.curves, baseline_loss=truth.baseline)
        if truth.kind in ("converged", "underfit", "drop", "still_improving", "too_noisy"):
            for kind in (truth.kind, "all"):
                quiet[kind]["ours"].append(found.inflection_epoch is not None)
                for patience in PATIENCE:
                    quiet[kind][f"patience {patience}"].append(
                        _patient(truth, patience) is not None
                    )
        if truth.clear:
            named[truth.kind].append(found.regime)
    print(
        f"\n| no inflection, yet one is named | n | {' | '.join(quiet['all'])} |\n| --- | --- "
        f"|{' --- |' * len(quiet['all'])}"
    )
    for kind, rules in quiet.items():
        print(
            f"| {kind} | {len(rules['ours'])} | "
            f"{' | '.join(share(alarms) for alarms in rules.values())} |"
        )
    print("\n| clear cases of | n | named right | otherwise |\n| --- | --- | --- | --- |")
    total: list[bool] = []
    for kind, regimes in named.items():
        right = [regime in RIGHT[kind] for regime in regimes]
        total += right
        wrong = {regime: regimes.count(regime) for regime in sorted(set(regimes) - RIGHT[kind])}
        print(
            f"| {kind} | {len(right)} | {share(right)} | "
            f"{', '.join(f'{regime} {n}' for regime, n in wrong.items())} |"
        )
    print(f"| all | {len(total)} | {share(total)} | |", flush=True)


def stop_table(count: int, first: int) -> None:
    """Print what each rule does to healthy runs and to clear overfit ones, half of each."""
    healthy = [
        simulate(HEALTHY[i % len(HEALTHY)], first + i // len(HEALTHY)) for i in range(count // 2)
    ]
    overfit = []
    while len(overfit) < count - len(healthy):
        truth = simulate("overfit", first)
        overfit += [truth] if truth.clear else []
        first += 1
    rules: dict[str, Callable[[Truth], tuple[int, int] | None]] = {
        "ours": lambda truth: inflection_rule(truth.curves)
    }
    for patience in PATIENCE:
        rules[f"patience {patience}"] = partial(_patient, patience=patience)
    stopped = (
        f"healthy stopped, of {len(healthy)} | true loss lost | overfit stopped, of "
        f"{len(overfit)} | epochs late | true loss lost"
    )
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


def _kept(truth: Truth, patience: int) -> int | None:
    stopped = _patient(truth, patience)
    return None if stopped is None else stopped[1]


def main() -> None:
    """Print markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--count", type=int, default=1000, help="curves of all kinds that are judged whole"
    )
    parser.add_argument(
        "--overfit", type=int, default=500, help="overfit curves whose inflection is located"
    )
    parser.add_argument("--shapes", type=int, default=30, help="overfit curves of each shape")
    parser.add_argument(
        "--stops", type=int, default=60, help="runs judged after each of their epochs"
    )
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="seed of the first run; nothing was tuned on 20000 and above",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    inflection_table(options.overfit, options.first)
    print(
        f"\n{1e3 * (time.perf_counter() - started) / max(options.overfit, 1):.0f} ms per curve, "
        "all rules together",
        flush=True,
    )
    power_table(options.overfit, options.first)
    regime_tables(options.count, options.first)
    shape_table(options.shapes, options.first)
    print()
    stop_table(options.stops, options.first)


if __name__ == "__main__":
    main()

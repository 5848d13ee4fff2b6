"""The label audit beside cleanlab: speed, equality of the sets, average precision."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from _label_draws import CLASSES, ERRORS, QUANTITIES, SLIPS, Draw, class_draw, quantity_draw
from _timing import Work, medians, seconds
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from gendebug_torch import Severity, labels
from gendebug_torch.labels.checks.noise import training_labels_are_right
from gendebug_torch.labels.checks.validation_noise import validation_labels_are_right
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CLEANLAB = importlib.util.find_spec("cleanlab") is not None
RULES: dict[Any, str] = {
    "confident_joint": "confident_learning",
    "by_class": "prune_by_class",
    "by_noise_rate": "prune_by_noise_rate",
    "both": "both",
}


def predicted(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities of a good classifier, and labels of which a tenth is flipped."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    z = 1.5 * rng.normal(size=(n, k))
    z[np.arange(n), true] += 6.0
    given = np.where(rng.random(n) < 0.1, (true + rng.integers(1, k, n)) % k, true)
    return torch.from_numpy(z).softmax(1), torch.from_numpy(given)


def flipped_digits(
    seed: int, *, pair: bool, rate: float = 0.05
) -> tuple[Tensor, Tensor, np.ndarray[Any, Any]]:
    """Digits of sklearn, `[1797, 64]` in [0, 1], with 5 % flipped labels, and which.

    Flips go to any class, or to the next.
    """
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(y), generator=generator)[: round(rate * len(y))]
    step = (
        torch.ones(len(rows), dtype=torch.int64)
        if pair
        else torch.randint(1, 10, (len(rows),), generator=generator)
    )
    given = y.clone()
    given[rows] = (y[rows] + step) % 10
    return x, given, (given != y).numpy()


def trained_dynamics(x: Tensor, given: Tensor, seed: int, *, epochs: int = 60) -> TrainingDynamics:
    """Dynamics of one run of a small network by plain SGD with momentum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        recorder = labels.DynamicsRecorder(len(x))
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 64):
                logits = network(x[rows])
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, given[rows]).backward()
                optimizer.step()
                recorder.record(rows, logits, given[rows])
            recorder.end_epoch()
    return recorder.dynamics


def digits_precision(seed: int, *, pair: bool) -> dict[str, float]:
    """Average precision of the out-of-sample ranking, the dynamics, and cleanlab's ranking."""
    x, given, wrong = flipped_digits(seed, pair=pair)
    logits = labels.cross_fitted_logits(x, given, seed=seed)
    noise = labels.label_noise(logits, given)
    found = {
        "out of sample": average_precision_score(wrong, -noise.label_quality.numpy()),
        "dynamics": average_precision_score(wrong, -trained_dynamics(x, given, seed).aum.numpy()),
        "rate": noise.rate,
    }
    if CLEANLAB:
        from cleanlab.rank import get_label_quality_scores

        scores = get_label_quality_scores(given.numpy(), logits.double().softmax(1).numpy())
        found["cleanlab"] = average_precision_score(wrong, -scores)
    return {name: float(value) for name, value in found.items()}


def reviewed_precision(name: str) -> dict[str, float]:
    """Average precision against people's verdicts, beside each of cleanlab's rankings."""
    folder = DATA / f"label_errors_{name}"
    archive = np.load(folder / "pred_probs.npz", allow_pickle=False)
    probs, given = torch.tensor(archive["pred_probs"]), torch.tensor(archive["given_labels"]).long()
    verdicts = pd.read_csv(folder / "human_review.csv")
    rows, wrong = verdicts["index"].to_numpy(), verdicts["is_label_error"].astype(bool).to_numpy()
    noise = labels.label_noise(probs.clamp(min=1e-38).log(), given)
    found = {"ours": average_precision_score(wrong, -noise.label_quality.numpy()[rows])}
    if CLEANLAB:
        from cleanlab.rank import get_label_quality_scores

        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
            scores = get_label_quality_scores(given.numpy(), probs.numpy(), method=method)
            found[method] = average_precision_score(wrong, -scores[rows])
    return {key: float(value) for key, value in found.items()}


def print_speed(n: int, k: int, repeats: int) -> None:
    """Rows of the table for the sets; cleanlab at its faster number of processes."""
    probs, given = predicted(n, k)
    for rule, theirs in RULES.items():
        works: dict[str, Work] = {"ours": partial(labels.label_issues, probs, given, rule=rule)}
        if CLEANLAB:
            from cleanlab.filter import find_label_issues

            peer_work = partial(find_label_issues, given.numpy(), probs.numpy(), filter_by=theirs)
            works |= {"one": partial(peer_work, n_jobs=1), "many": peer_work}
        if torch.cuda.is_available():
            works["CUDA"] = partial(labels.label_issues, probs.cuda(), given.cuda(), rule=rule)
        took = medians(works, repeats)
        ours = took["ours"]
        peer, ratio, equal = "not installed", "", ""
        if CLEANLAB:
            best = min(took["one"], took["many"])
            peer, ratio = f"{best:.3f} s", f"{best / ours:.1f}"
            equal = f"; sets equal: {np.array_equal(works['one'](), works['ours']().numpy())}"
        cuda = f"; CUDA {took['CUDA']:.4f} s" if "CUDA" in took else ""
        print(
            f"| sets `{rule}`, {n:,} x {k}{equal}{cuda} | {ours:.3f} s | cleanlab {peer} | "
            f"{ratio} |"
        )


def print_recorder(n: int, batch: int) -> None:
    """Row of the table for recording one epoch of n rows with ten classes."""
    recorder = labels.DynamicsRecorder(n)
    logits, given, order = (
        torch.randn(n, 10),
        torch.randint(0, 10, (n,)),
        torch.split(torch.randperm(n), batch),
    )
    batches = [(rows, logits[rows], given[rows]) for rows in order]
    step = seconds(lambda: [recorder.record(*parts) for parts in batches]) / len(batches)
    fold = seconds(recorder.end_epoch)
    size = (
        sum(value.numel() * value.element_size() for value in recorder.state_dict().values()) / 1e6
    )
    text = f"{step * 1e3:.2f} ms per batch of {batch:,}, {fold:.2f} s per epoch, {size:.0f} MB"
    print(f"| dynamics of {n:,} rows, 10 classes | {text} | | |")


def alarm_shares(
    draw: Callable[[str, int, str], Draw], names: list[str], errors: str, first: int, draws: int
) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    """Runs with an alarm and seconds of either check, and clean runs with an alarm by table."""
    alarms, took = {"train": 0, "validation": 0}, {"train": 0.0, "validation": 0.0}
    tables: dict[str, int] = {}
    for seed in range(first, first + draws):
        name = names[seed % len(names)]
        drawn = draw(name, seed, errors)
        for split, check, records in (
            ("train", training_labels_are_right, drawn.train),
            ("validation", validation_labels_are_right, drawn.validation),
        ):
            started = time.process_time()
            found = check(records)
            took[split] += time.process_time() - started
            if any(finding.severity.level >= Severity.WARN.level for finding in found):
                alarms[split] += 1
                tables[name] = tables.get(name, 0) + 1
    return alarms, took, tables


def print_tables(first: int, clean: int, planted: int) -> None:
    """False alarms on real tables whose labels are all right, and power on planted errors."""
    print(
        f"| labels on real tables, draws from {first:,} | draws | labels.noise | "
        "labels.validation_noise | by table |"
    )
    print("| --- | --- | --- | --- | --- |")
    for draw, names, kinds in (
        (class_draw, list(CLASSES), ERRORS),
        (quantity_draw, list(QUANTITIES), SLIPS),
    ):
        for errors in kinds:
            draws = clean if errors == "none" else planted
            if not draws:
                continue
            alarms, took, tables = alarm_shares(draw, names, errors, first, draws)
            cells = " | ".join(
                f"{alarms[split]} ({alarms[split] / draws:.1%}), {took[split] / draws:.2f} s"
                for split in alarms
            )
            where = ", ".join(f"{name} {count}" for name, count in tables.items())
            kind = "quantities" if draw is quantity_draw else "classes"
            print(
                f"| {kind}: {errors} | {draws} | {cells} | {where if errors == 'none' else ''} |",
                flush=True,
            )


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="only labels on real tables")
    parser.add_argument("--first", type=int, default=10_000)
    parser.add_argument("--clean", type=int, default=220)
    parser.add_argument("--planted", type=int, default=66)
    args = parser.parse_args()
    if args.tables:
        torch.set_num_threads(1)
        print_tables(args.first, args.clean, args.planted)
        return
    print("| what | ours | peer | ratio |")
    print("| --- | --- | --- | --- |")
    print_speed(args.rows, args.classes, args.repeats)
    for pair in (False, True):
        found = [digits_precision(seed, pair=pair) for seed in range(args.seeds)]
        scores = {name: mean(run[name] for run in found) for name in found[0]}
        kind = "next class" if pair else "any class"
        peer = (
            f"cleanlab {scores['cleanlab']:.3f} on the same logits"
            if CLEANLAB
            else "cleanlab not installed"
        )
        print(
            f"| digits, 5 % flipped to {kind}: average precision out of sample | "
            f"{scores['out of sample']:.3f} | {peer} | |"
        )
        print(
            f"| the same with training dynamics; estimated rate {scores['rate']:.1%} | "
            f"{scores['dynamics']:.3f} | | |"
        )
    for name in ("mnist", "cifar10") if DATA.is_dir() else ():
        scores = reviewed_precision(name)
        peers = ", ".join(
            f"{method} {value:.3f}" for method, value in scores.items() if method != "ours"
        )
        print(
            f"| label errors of {name} by people's verdicts: average precision | "
            f"{scores['ours']:.3f} | {peers or 'not installed'} | |"
        )
    print_recorder(1_000_000, 4096)


if __name__ == "__main__":
    main()

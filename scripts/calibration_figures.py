"""Recalibration, label-shift adaptation and `calibration.ece` on real and drawn logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendebug_torch import Records, Severity
from gendebug_torch.calibration import (
    adapt_to_label_shift,
    calibration_sums,
    fit_temperature,
    recalibrate,
)
from gendebug_torch.calibration.checks.ece import confidence_equals_accuracy
from gendebug_torch.calibration.map_choice import predictions, row_loss

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "logits"
SETS = {
    "DenseNet, CIFAR-100": "netcal_densenet_bc_100_cifar_100",
    "LeNet, CIFAR-10": "netcal_lenet_5_cifar_10",
    "ResNet-50, CIFAR-10": "resnet50_cifar10",
    "20 Newsgroups": "cleanlab_20news_test_set",
    "IMDB (binary)": "cleanlab_imdb_test_set",
}
# Sets for label shift; that of 100 classes takes longer than the others together.
SHARES = (
    "ResNet-50, CIFAR-10",
    "LeNet, CIFAR-10",
    "IMDB (binary)",
    "20 Newsgroups",
    "DenseNet, CIFAR-100",
)


def load(name: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of a real network."""
    with np.load(DATA / f"{SETS[name]}.npz") as archive:
        side = "test_" if "test_logits" in archive else ""
        return torch.from_numpy(archive[f"{side}logits"]), torch.from_numpy(
            archive[f"{side}labels"]
        ).long()


def bench_choice(splits: int) -> None:
    """Print the effect of the chosen map and of the temperature alone on unseen rows."""
    print(
        "\n| choice of a map | ECE before | temperature | chosen | if calibrated | log loss "
        "beyond temperature's | changed | maps |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    if not DATA.exists():
        print("| the logits of real networks are not here | | | | | | | |")
        return
    errors_by_set = []
    for name in SETS:
        z, y = load(name)
        rows, maps = [], []
        for seed in range(splits):
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
            fit, test = order[: len(z) // 2], order[len(z) // 2 :]
            result = recalibrate(None, Records(logits=z[fit], targets=y[fit]), seed=seed)
            given = (z[test], fit_temperature(z[fit], y[fit])(z[test]), result(z[test]))
            before, scaled, mapped = (
                calibration_sums(part, y[test]).bins().measure() for part in given
            )
            more = row_loss(given[2], y[test]) - row_loss(given[1], y[test])
            changed = int((predictions(given[2]) != predictions(given[0])).sum())
            rows.append(
                [
                    before.value,
                    scaled.value,
                    mapped.value,
                    mapped.null,
                    float(more.mean()),
                    float(more.std()) / len(more) ** 0.5,
                    changed,
                ]
            )
            maps.append(result.chosen)
        before, scaled, mapped, null, more_mean, noise, changed_mean = np.mean(rows, 0)
        errors_by_set.append((mapped, null))
        errors = f"{before:.2%} | {scaled:.2%} | {mapped:.2%} | {null:.2%}"
        names = ", ".join(sorted(set(maps)))
        print(
            f"| {name} | {errors} | {more_mean:+.4f} ± {noise:.4f} | {changed_mean * splits:.0f} "
            f"| {names} |",
            flush=True,
        )
    for what, some in (("more than two classes", errors_by_set[:4]), ("all sets", errors_by_set)):
        print(
            f"| mean, {what} | | | {np.mean(some, 0)[0]:.2%} | {np.mean(some, 0)[1]:.2%} | | | |",
            flush=True,
        )


def bench_shares(draws: int, *, full: bool) -> None:
    """Print the accuracy under other class priors, with and without adaptation.

    Production is drawn without replacement.
    """
    print(
        "\n| class priors without labels | as it was | adapted | true priors | worst change of a "
        "draw | adapted in |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in SHARES if full else SHARES[:-1]:
        if not DATA.exists():
            print("| the logits of real networks are not here | | | | | |")
            return
        z, y = load(name)
        for skewed in (True, False):
            rows, changes = [], []
            for seed in range(draws):
                fit, live = _drawn(y, z.shape[1], seed, skewed=skewed)
                result = adapt_to_label_shift(z[fit], y[fit], z[live])
                true = torch.bincount(y[live], minlength=z.shape[1]).double().clamp(min=1e-9)
                old = torch.bincount(y[fit], minlength=z.shape[1]).double()
                oracle = (
                    result.calibration(z[live].double())
                    + (true / true.sum() * old.sum() / old).log()
                )
                right = [
                    (part.argmax(1) == y[live]).double()
                    for part in (z[live], result(z[live].double()), oracle)
                ]
                rows.append([*(float(part.mean()) for part in right), result.applied])
                won = right[1] - right[0]
                changes.append((float(won.mean()), float(won.std()) / len(won) ** 0.5))
            before, after, best, applied = np.mean(rows, 0)
            worst = min(changes)
            print(
                f"| {name}, {'skewed' if skewed else 'unchanged'} | {before:.2%} | {after:.2%} | "
                f"{best:.2%} "
                f"| {worst[0]:+.2%} ± {worst[1]:.2%} | {applied * draws:.0f} of {draws} |",
                flush=True,
            )


def _drawn(
    targets: Tensor, classes: int, seed: int, *, skewed: bool, n: int = 2000
) -> tuple[Tensor, Tensor]:
    """Half of the rows, and up to n of the others, with other class priors or the same."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    fit, rest = order[: len(order) // 2], order[len(order) // 2 :]
    if not skewed:
        return fit, rest[:n]
    shares = np.random.default_rng(seed).dirichlet([0.3] * classes) if classes > 2 else [0.1, 0.9]
    wanted = torch.bincount(
        torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator),
        minlength=classes,
    )
    return fit, torch.cat(
        [rest[targets[rest] == label][: int(count)] for label, count in enumerate(wanted)]
    )


def bench_alarms(seeds: int) -> None:
    """Print how often the check fires on calibrated rows, and on rows 1.3 times too sharp."""
    print(
        "\n| the check calibration.ece | rows | classes | fires |\n| --- | --- | --- | --- |",
        flush=True,
    )
    cases = [(n, k, 1.0) for n in (300, 3000, 30_000) for k in (2, 10, 100)]
    for n, k, sharpness in [*cases, (3000, 10, 1.3)]:
        fired = 0
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            logits = 2 * torch.randn(n, k, generator=generator)
            targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            (finding,) = confidence_equals_accuracy(
                Records(logits=sharpness * logits, targets=targets, name="drawn")
            )
            fired += finding.severity.level >= Severity.WARN.level
        print(
            f"| {'calibrated' if sharpness == 1 else 'T = 1.3'} | {n:,} | {k} | "
            f"{fired / seeds:.1%} of {seeds} seeds |",
            flush=True,
        )

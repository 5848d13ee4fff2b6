"""Quantities and several labels through the checks of shift: false alarms, power, coverage."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import gendebug_torch as gd
from gendebug_torch.checks.registry import all_checks, derived_inputs
from gendebug_torch.shift.scores.estimated_error import estimated_error

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CHECKS = [check for check in all_checks() if check.name.startswith("shift.")]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class World:
    """Real inputs, and what a model fitted to real targets says of them.

    Args:
        name: name of the table.
        inputs: inputs of all rows.
        outputs: outputs of the model, `[n, k]`: log-odds of labels, or quantities.
        errors: errors of quantities, `[n, k]`, to be drawn from; None for labels.
    """

    name: str
    inputs: pd.DataFrame
    outputs: Array
    errors: Array | None

    def records(self, rows: Array, rng: np.random.Generator, name: str, change: str) -> gd.Records:
        """Rows with targets drawn from the model, so that nothing drifts unless `change` says so.

        Args:
            rows: numbers of the rows.
            rng: source of the draws.
            name: name of the records.
            change: `none`, `drift`, `noise` or `skew`.
        """
        inputs, outputs = self.inputs.iloc[rows].reset_index(drop=True), self.outputs[rows]
        part = rng.random(len(rows)) < 0.5 if change == "drift" else np.zeros(len(rows), bool)
        column = inputs.columns[int(np.argmax(inputs.nunique().to_numpy()))]
        if change == "drift":
            part = (inputs[column] > inputs[column].median()).to_numpy()
        if self.errors is None:
            moved = outputs + 1.5 * part[:, None] * np.eye(1, outputs.shape[1])
            targets = (rng.random(outputs.shape) < 1 / (1 + np.exp(-moved))).astype(np.int64)
        else:
            scale = self.errors.std(0)
            # Errors of rows of about the same output, so that their size follows it.
            order = np.argsort(self.outputs[:, 0])
            place = np.searchsorted(self.outputs[order, 0], outputs[:, 0])
            near = np.clip(place + rng.integers(-200, 200, len(rows)), 0, len(order) - 1)
            drawn = self.errors[order[near]] * (1.6 if change == "noise" else 1.0)
            targets = outputs + drawn + 0.6 * scale * part[:, None]
        if change == "skew":
            inputs = inputs.assign(**{column: 100.0 * inputs[column] + 1.0})
        k = outputs.shape[1]
        return gd.Records(
            inputs,
            torch.from_numpy(targets[:, 0] if k == 1 else targets),
            torch.from_numpy(outputs[:, 0].copy() if k == 1 else outputs),
            schema=gd.Schema(regression=self.errors is not None, multilabel=self.errors is None),
            name=name,
        )


def read(name: str) -> pd.DataFrame:
    """A table of the real data, its texts as codes."""
    frame = pd.read_parquet(sorted((DATA / name).glob("*.parquet"))[-1])
    numbers = frame.select_dtypes(["number", "bool"]).columns
    texts = [c for c in frame.columns if c not in numbers]
    return frame.assign(**{c: frame[c].factorize()[0] for c in texts}).astype(float)


def worlds() -> list[World]:
    """Regressions with one and two outputs, and three labels."""
    found = []
    sources = (
        ("kc_house", ["price"], ["id", "date"]),
        ("bike_sharing_hour", ["cnt"], ["casual", "registered", "instant", "dteday", "yr", "mnth"]),
        ("elec2", ["nswdemand", "vicdemand"], ["date", "day", "period", "class"]),
        ("credit_default_taiwan", ["BILL_AMT1", "PAY_AMT1"], ["ID"]),
    )
    for name, targets, left_out in sources:
        frame = read(name).sample(6000, random_state=0).fillna(0.0)
        inputs = frame.drop(columns=[c for c in (*targets, *left_out) if c in frame])
        outputs = np.stack(
            [
                HistGradientBoostingRegressor(max_iter=60, random_state=0)
                .fit(inputs, frame[target])
                .predict(inputs)
                for target in targets
            ],
            1,
        )
        found.append(World(name, inputs, outputs, frame[targets].to_numpy() - outputs))
    for name, targets, left_out in (
        ("credit_default_taiwan", ["default.payment.next.month", "SEX", "MARRIAGE"], ["ID"]),
        ("adult", ["income", "sex", "race"], []),
    ):
        frame = read(name).sample(6000, random_state=0).fillna(0.0)
        inputs = frame.drop(columns=[c for c in (*targets, *left_out) if c in frame])
        outputs = np.stack(
            [
                np.log(p[:, 1] / p[:, 0])
                for p in (
                    HistGradientBoostingClassifier(max_iter=40, random_state=0)
                    .fit(inputs, frame[target] > frame[target].median() - 0.5)
                    .predict_proba(inputs)
                    .clip(1e-3, 1 - 1e-3)
                    for target in targets
                    if frame[target].nunique() > 1
                )
            ],
            1,
        )
        found.append(World(f"{name}, labels", inputs, outputs, None))
    return found


def alarms(given: dict[str, gd.Records]) -> tuple[set[str], str]:
    """Checks that alarm, and the first kind of change that was found."""
    shared = derived_inputs(CHECKS, given)
    found = {
        finding.check
        for check in CHECKS
        for finding in check.run(given, shared=shared)
        if finding.severity.level >= gd.Severity.WARN.level
    }
    kinds = shared["change_kinds"]().kinds
    return found, kinds[0] if kinds else "none"


def named(seeds: int, rows: int) -> None:
    """Runs with any alarm, and the kinds that were named, by planted change."""
    wanted = {
        "none": "none",
        "drift": "concept_drift",
        "noise": "concept_drift",
        "skew": "train_serve_skew",
    }
    total: Counter[str] = Counter()
    for world in worlds():
        for change, kind in wanted.items():
            if change == "noise" and world.errors is None:
                continue
            right, loud, told = 0, 0, Counter[str]()
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                picked = rng.permutation(len(world.inputs))[: 2 * rows]
                given = {
                    "validation": world.records(picked[:rows], rng, "validation", "none"),
                    "production": world.records(picked[rows:], rng, "production", change),
                }
                checks, first = alarms(given)
                right, loud = right + (first == kind), loud + bool(checks)
                told.update(checks)
                total[f"{change} right"] += first == kind
                total[f"{change} loud"] += bool(checks)
                total[f"{change} runs"] += 1
            shown = ", ".join(f"{name} {n}" for name, n in told.most_common(4))
            print(
                f"| {world.name}, {change} | {kind} named in {right} of {seeds}; "
                f"alarms in {loud} ({shown}) |",
                flush=True,
            )
    for change in wanted:
        runs = total[f"{change} runs"]
        print(
            f"| all, {change} | named {total[f'{change} right'] / runs:.1%}, alarms "
            f"{total[f'{change} loud'] / runs:.1%} of {runs} |"
        )


def covered(seeds: int, rows: int) -> None:
    """Coverage of the 95 % intervals of the error without labels, on inputs that shifted."""
    for world in worlds():
        if world.errors is None:
            continue
        world = replace(world, outputs=world.outputs[:, :1], errors=world.errors[:, :1])
        held, off = 0, []
        for seed in range(seeds):
            rng = np.random.default_rng(seed + 1000)
            picked = rng.permutation(len(world.inputs))
            score = world.outputs[picked, 0]
            # Production prefers rows of high outputs.
            weight = np.exp(1.0 * (score - score.mean()) / score.std())
            known, rest = picked[:rows], picked[rows:]
            chosen = rng.choice(rest, rows, p=weight[rows:] / weight[rows:].sum())
            many = rng.choice(rest, 20_000, p=weight[rows:] / weight[rows:].sum())
            before, after, truth = (
                world.records(part, rng, "part", "none") for part in (known, chosen, many)
            )
            given = (before.logits, before.targets, after.logits)
            parts = [part[:, None] for part in given if part is not None]
            tables = before.features, after.features
            assert isinstance(tables[0], pd.DataFrame)
            assert isinstance(tables[1], pd.DataFrame)
            found = estimated_error(parts[0], parts[1], parts[2], features=(tables[0], tables[1]))
            assert truth.targets is not None
            assert truth.logits is not None
            error = float((truth.targets - truth.logits).abs().mean())
            low, high = found.interval(0)
            held += low <= error <= high
            off.append(float(found.after[0]) / error - 1)
        print(
            f"| {world.name}, 95 % interval of the error holds the truth | {held / seeds:.0%}, off "
            f"by {np.mean(off):+.1%} | {rows:,} rows a side, {seeds} seeds |",
            flush=True,
        )


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1500)
    args = parser.parse_args()
    covered(args.seeds, args.rows)
    named(args.seeds, args.rows)


if __name__ == "__main__":
    main()

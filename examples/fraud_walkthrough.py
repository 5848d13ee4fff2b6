"""From a flattering validation to a broken week in production, and back.

The whole story on card transactions.

Half a year of transactions trains a small network twice, on a random split and on a split in time.
In the week after deployment merchants without history appear. `diagnose` says what broke and why;
its bill says what the drop is made of and what each remedy wins back on rows it was not fitted to.

    python examples/fraud_walkthrough.py                 simulated transactions
    python examples/fraud_walkthrough.py --no-shift      the same without the new merchants
    python examples/fraud_walkthrough.py --data DIR      somebody else's transactions
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fraud_data import foreign_periods, read_foreign, simulate, simulated_periods
from fraud_features import build_features, history
from fraud_model import Trained, records, train
from torch import Tensor

import gendebug_torch as gd


class Progress:
    """A line per stage with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """Say which stage begins."""
        print(f"[{time.perf_counter() - self.started:6.1f} s] {stage}", flush=True)


def load(
    options: argparse.Namespace, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """The table, its features and its periods."""
    progress("reading transactions" if options.data else "simulating transactions")
    table = (
        read_foreign(options.data)
        if options.data
        else simulate(options.seed, rows=options.rows, shift=options.shift)
    )
    periods = foreign_periods(table) if options.data else simulated_periods(table)
    progress(f"building features of {len(table):,} transactions, {table['fraud'].mean():.2%} fraud")
    return table.assign(history=history(table)), build_features(table), periods


def random_split(
    table: pd.DataFrame, features: pd.DataFrame, periods: dict[str, np.ndarray], seed: int
) -> tuple[gd.Records, gd.Records]:
    """80/20 at random over everything before production: bursts of one fraud fall on both sides."""
    rows = np.flatnonzero(periods["train"] | periods["validation"])
    judged = np.zeros(len(table), dtype=bool)
    judged[np.random.default_rng(seed).permutation(rows)[: len(rows) // 5]] = True
    fitted = (periods["train"] | periods["validation"]) & ~judged
    return records(features, table, fitted, "train"), records(features, table, judged, "validation")


def compare_splits(by_time: Trained, at_random: Trained) -> pd.DataFrame:
    """What each split promised at its best epoch."""
    rows = []
    for name, trained in (("random 80/20", at_random), ("January to May against June", by_time)):
        curves = trained.curves.curves
        best = int(curves.val_loss.argmin())
        regime = trained.curves.diagnosis.regime
        rows.append(
            [
                name,
                int(curves.epoch[best]),
                float(curves.train_loss[best]),
                float(curves.val_loss[best]),
                regime,
            ]
        )
    return pd.DataFrame(
        rows, columns=["split", "best epoch", "train loss", "validation loss", "regime"]
    )


def named_feature(diagnosis: gd.Diagnosis, features: pd.DataFrame) -> tuple[str, str] | None:
    """The likeliest cause that sits in a feature."""
    return next(
        (
            (likely.cause.value, likely.subject)
            for likely in diagnosis.causes
            if likely.subject in features
        ),
        None,
    )


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Tell the whole story and write the report."""
    options = parse(arguments)
    progress = Progress()
    table, features, periods = load(options, progress)
    sides = {name: records(features, table, rows, name) for name, rows in periods.items()}

    progress(f"training on a random split, {options.epochs} epochs")
    at_random = train(
        *random_split(table, features, periods, options.seed),
        epochs=options.epochs,
        seed=options.seed,
    )
    progress("training on a split in time")
    by_time = train(sides["train"], sides["validation"], epochs=options.epochs, seed=options.seed)
    splits = compare_splits(by_time, at_random)

    progress("production: one week after deployment")
    network = by_time.network
    sides = {name: gd.collect(network, side) for name, side in sides.items()}
    threshold = best_threshold(sides["validation"].logits, sides["validation"].targets)
    alarms = {name: alarm_rate(sides[name], threshold) for name in ("validation", "production")}

    progress("diagnosing")
    sides = {
        name: replace(side, schema=replace(side.schema, threshold=threshold))
        for name, side in sides.items()
    }
    diagnosis = gd.diagnose(network, curves=by_time.curves.curves, **sides, budget="2m")
    found = named_feature(diagnosis, features)
    alarmed = pd.DataFrame.from_dict(alarms, orient="index").rename_axis("period").reset_index()
    tables = {"What the splits promised": splits, "Alarms at the deployed threshold": alarmed}
    if diagnosis.bill is not None:
        # What false alarms cost shows at the deployed threshold, not in the order of the rows.
        at_threshold = gd.diagnosis.bill(
            network, **sides, findings=diagnosis.findings, metric="accuracy"
        )
        tables["The bill in accuracy at the threshold, each remedy tried"] = at_threshold.table()
    pictures = {
        "Random split": at_random.curves.diagnosis,
        "Split in time": by_time.curves.diagnosis,
    }
    diagnosis.write(
        options.out,
        title="A fraud model, one week after deployment",
        tables=tables,
        pictures=pictures,
    )
    alarming = (gd.Severity.FAIL, gd.Severity.WARN)
    drawn = [f for f in diagnosis.findings if f.severity in alarming and f.evidence is not None]
    if drawn:
        picture = Path(options.out) / "picture.png"
        drawn[0].evidence.plot().get_figure().savefig(picture, dpi=110, bbox_inches="tight")
    progress("done")
    tell(diagnosis, tables, found, options.out)
    return diagnosis


def best_threshold(logits: Tensor, targets: Tensor) -> float:
    """The probability above which alarms have the best F1."""
    order = logits.argsort(descending=True)
    hits = targets[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + targets.sum())
    return float(logits[order][int(f1.argmax())].sigmoid()) - 1e-7


def alarm_rate(side: gd.Records, threshold: float) -> dict[str, float]:
    """Alarms per thousand rows, and how many of them are false."""
    said = side.logits.sigmoid() > threshold
    false = said & (side.targets == 0)
    return {
        "rows": len(side),
        "alarms per 1000": 1000 * float(said.double().mean()),
        "false alarms per 1000": 1000 * float(false.double().mean()),
        "recall": float((said & (side.targets == 1)).sum() / side.targets.sum().clamp(min=1)),
    }


def tell(
    diagnosis: gd.Diagnosis,
    tables: dict[str, pd.DataFrame],
    found: tuple[str, str] | None,
    out: str,
) -> None:
    """Print what was found."""
    print(f"\n{diagnosis}\n")
    for name, table in tables.items():
        print(
            f"{name}\n{table.to_string(index=False, float_format=lambda value: f'{value:.4g}')}\n"
        )
    if found is None:
        print("No shift was found: nothing to mend.")
    else:
        print(f"Named cause: {found[0]} in {found[1]}.")
    print(f"Report: {Path(out) / 'report.html'}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the simulator, the split and the training"
    )
    parser.add_argument(
        "--no-shift", dest="shift", action="store_false", help="open no new merchants in production"
    )
    parser.add_argument(
        "--data", help="CSV or Parquet file, or a directory of them, in place of the simulator"
    )
    parser.add_argument(
        "--rows", type=int, default=200_000, help="simulated transactions before production"
    )
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument(
        "--out", default="runs/walkthrough", help="directory for report.html and findings.json"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

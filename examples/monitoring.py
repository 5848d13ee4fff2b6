"""Twelve weeks of production as twelve small profiles, and one page of trends.

Every week a job sums up the week's rows in one file of fixed size; the rows themselves need not be
kept. Profiles add, so that partitions and machines can be summed up apart. `history` reads the
folder: in week nine another system begins to send amounts in cents.

    python examples/monitoring.py
    python examples/monitoring.py --from-week 99        twelve quiet weeks
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import gendebug_torch as gd
from gendebug_torch.checks.evidence import png
from gendebug_torch.cli import main as gendebug
from gendebug_torch.diagnosis.comparison.history import history

SCHEMA = gd.Schema(target="late", logits="score")


def week(number: int, rows: int, from_week: int) -> pd.DataFrame:
    """One week of invoices, what the model said, and which were paid late."""
    rng = np.random.default_rng(number)
    amount = rng.lognormal(4.0, 0.8, rows)
    days = rng.integers(5, 60, rows).astype(float)
    score = 0.8 * (np.log(amount) - 4.0) - 0.04 * (days - 30)
    late = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    if number >= from_week:
        other = rng.random(rows) < 0.3
        amount = np.where(other, 100 * amount, amount)
        score = 0.8 * (np.log(amount) - 4.0) - 0.04 * (days - 30)
    return pd.DataFrame({"amount": amount, "days": days, "score": score, "late": late})


def main(arguments: list[str] | None = None) -> int:
    """Sum up every week, and write the page of trends."""
    options = parse(arguments)
    folder = Path(options.out) / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 13):
        rows = week(number, options.rows, options.from_week)
        half = len(rows) // 2
        parts = (gd.profile(part, SCHEMA) for part in (rows[:half], rows[half:]))
        first, second = parts
        (first + second).save(folder / f"week{number:02}.profile")
    size = max(path.stat().st_size for path in folder.iterdir())
    print(f"12 profiles of at most {size / 2**20:.1f} MiB; a week has {options.rows:,} rows.\n")
    code = gendebug(["history", str(folder), "--out", str(options.out)])
    pictures = history(folder).pictures()
    if pictures:
        (Path(options.out) / "picture.png").write_bytes(png(next(iter(pictures.values()))))
    return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from-week", type=int, default=9, help="of the cents")
    parser.add_argument("--rows", type=int, default=5000, help="of a week")
    parser.add_argument("--out", default="runs/weeks", help="directory for profiles and report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

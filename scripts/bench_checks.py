"""Error rates of every check on the inputs of its contract: planted faults found, clean runs quiet.

The seeds are those of no test, so that nothing was tuned on them. `--write` updates the table that
the pages of the checks quote, docs/error_rates.csv; a check whose rates are known keeps them
unless `--again` is given.

    python -m scripts.bench_checks --write
"""

import argparse
import re
import time
from pathlib import Path

import pandas as pd

from docs.generate.plants import Plant, plants
from gendebug_torch.checks.registry import Check, all_checks

TABLE = Path(__file__).resolve().parents[1] / "docs" / "error_rates.csv"
FIRST_SEED = 20_000


def alarms(check: Check, plant: Plant, seed: int, fault: bool) -> bool:
    """Whether the check alarms, under the cause and subject of the plant where there is one."""
    given = (plant.fault if fault else plant.clean)(seed)
    return any(
        finding.severity.level >= 2
        and (
            not fault
            or (finding.cause is plant.cause and re.fullmatch(plant.subject, finding.subject))
        )
        for finding in check.run(given)
    )


def rates(check: Check, plant: Plant, options: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""
    faults = range(FIRST_SEED, FIRST_SEED + options.faults)
    cleans = range(FIRST_SEED, FIRST_SEED + options.clean)
    return {
        "check": check.name,
        "found": sum(alarms(check, plant, seed, True) for seed in faults),
        "planted": len(faults),
        "alarms": sum(alarms(check, plant, seed, False) for seed in cleans),
        "clean": len(cleans),
    }


def main() -> None:
    """Measure, print and, on request, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50, help="planted inputs of each check")
    parser.add_argument("--clean", type=int, default=200, help="clean inputs of each check")
    parser.add_argument("--write", action="store_true", help="update docs/error_rates.csv")
    parser.add_argument("--again", action="store_true", help="measure known checks again")
    options = parser.parse_args()
    known = pd.read_csv(TABLE) if TABLE.exists() and not options.again else pd.DataFrame()
    checks, planted = all_checks(), plants()
    names = {check.name for check in checks}
    # A check that is gone, or has another name now, keeps no row.
    rows = [row for row in known.to_dict("records") if row["check"] in names]
    done = {row["check"] for row in rows}
    for check in checks:
        if check.name in done:
            continue
        started = time.perf_counter()
        rows.append(rates(check, planted[check.name], options))
        print(rows[-1], f"{time.perf_counter() - started:.1f} s", flush=True)
        if options.write:
            pd.DataFrame(rows).sort_values("check").to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()

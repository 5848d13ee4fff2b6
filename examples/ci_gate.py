r"""A gate in a pipeline: the last model passes, a broken feature stops the next one.

A pipeline asks `gendebug diagnose` before it deploys. Exit code 0 lets the model through, 1 stops
it, and JUnit and Markdown tell the pull request why. Here the first candidate is sound; in the
data of the second one a job wrote zeros where it had no value.

    python examples/ci_gate.py

The step of a workflow is one command:

    gendebug diagnose --validation val.csv --production live.csv --schema schema.yaml \
        --out gate --fail-on fail --also junit markdown
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from gendebug_torch.checks.evidence import axes
from gendebug_torch.cli import main as gendebug

SCHEMA = "target: churned\nlogits: score\nids: [customer]\n"


def customers(n: int, seed: int) -> pd.DataFrame:
    """Customers, what the model says about them, and what they did."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "customer": np.arange(n) + 100_000 * seed,
            "months": rng.exponential(20, n).round(),
            "calls": rng.poisson(2.0, n),
            "spend": rng.lognormal(3, 0.6, n).round(2),
        }
    )
    return scored(table).assign(churned=lambda t: (rng.random(n) < sigmoid(t["score"])).astype(int))


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """The model's log-odds, from the columns as it gets them."""
    score = 0.6 * table["calls"] - 0.05 * table["months"] - 0.03 * (table["spend"] - 20)
    return table.assign(score=score)


def sigmoid(x: pd.Series) -> pd.Series:
    """Probability of log-odds."""
    return 1 / (1 + np.exp(-x))


def broken(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The job that writes zeros: `months` is 0 in a third of the rows, and the model sees that."""
    gone = np.random.default_rng(seed).random(len(table)) < 0.33
    return scored(table.assign(months=table["months"].where(~gone, 0.0)))


def gate(out: Path, name: str) -> tuple[int, dict[str, int]]:
    """Exit code of the gate, and findings by severity."""
    words = ["--validation", out / "validation.csv", "--production", out / f"{name}.csv"]
    words += ["--schema", out / "schema.yaml", "--out", out / name]
    code = gendebug(
        ["diagnose", *map(str, words), "--fail-on", "fail", "--also", "junit", "markdown"]
    )
    findings = pd.DataFrame(json.loads((out / name / "findings.json").read_text()))
    return code, findings["severity"].value_counts().to_dict()


def main(arguments: list[str] | None = None) -> dict[str, int]:
    """Write the tables, ask the gate twice, and draw what it saw."""
    out = Path(parse(arguments).out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "schema.yaml").write_text(SCHEMA)
    tables = {"validation": customers(3000, 1), "sound": customers(3000, 2)}
    tables["broken"] = broken(customers(3000, 3), 4)
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    codes, shown = {}, axes(size=(6, 3))
    for place, name in enumerate(("sound", "broken")):
        codes[name], counts = gate(out, name)
        left = 0
        for severity, colour in (("warn", "#E69F00"), ("fail", "#D55E00")):
            label = severity if place == 0 else None
            shown.barh(place, counts.get(severity, 0), left=left, color=colour, label=label)
            left += counts.get(severity, 0)
        print(f"{name}: exit code {codes[name]}\n")
    shown.set_yticks([0, 1], [f"{name}: exit code {code}" for name, code in codes.items()])
    shown.set_title("What stops a deployment")
    shown.set_xlabel("findings")
    shown.legend()
    shown.get_figure().savefig(out / "picture.png", dpi=110)
    return codes


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/gate", help="directory for tables and reports")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""A page per check, from its docstring and from runs on its planted and its clean input."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from docs.generate.markdown import cell, code, contents, folded, grid, write
from docs.generate.plants import Plant, plants
from gendebug_torch import Finding
from gendebug_torch.checks.evidence import png
from gendebug_torch.checks.options import Option
from gendebug_torch.checks.registry import TOPICS, Check, all_checks

RATES = Path(__file__).resolve().parents[1] / "error_rates.csv"
_ROWS = 6
# What the battery asks of every check, in the words of its tests.
PROMISE = (
    "The contract battery asks of every check, on each commit, that it finds 18 of 20 planted "
    "faults under the right cause and subject, and that its clean runs pass a sequential test of "
    "0.2 % alarms against 5 %."
)


def check_pages(folder: Path) -> int:
    """Write all pages and their index; returns how many checks have none, which is 0."""
    planted, rates = plants(), _rates()
    checks = all_checks()
    for check in checks:
        write(folder / f"{check.name}.md", _page(check, planted[check.name], rates, folder))
    write(folder / "index.md", _index(checks))
    return sum(not (folder / f"{check.name}.md").exists() for check in checks)


def _rates() -> Mapping[str, pd.Series]:
    return {row["check"]: row for _, row in pd.read_csv(RATES).iterrows()}


def _index(checks: tuple[Check, ...]) -> str:
    parts = [
        f"# The checks\n\n{len(checks)} claims about a network and its data, each of which can be "
        "false. `gendebug diagnose` runs those that its inputs allow; `gendebug checks` lists them."
    ]
    for topic in dict.fromkeys(check.name.partition(".")[0] for check in checks):
        own = [check for check in checks if check.name.startswith(f"{topic}.")]
        rows = [
            (
                f"[{check.name.partition('.')[2]}]({check.name}.md)",
                check.summary,
                check.cause.replace("_", " "),
            )
            for check in own
        ]
        parts += [f"## {topic.capitalize()}", grid(("check", "claim", "cause"), rows)]
    return "\n\n".join([*parts, contents((check.name for check in checks), hidden=True)]) + "\n"


def _page(check: Check, plant: Plant, rates: Mapping[str, pd.Series], folder: Path) -> str:
    found, quiet = check.run(plant.fault(0)), check.run(plant.clean(100))
    worst = max(found, key=lambda finding: finding.severity.level)
    parts = [
        f"# {check.name}",
        f"**Claim**: {check.summary}",
        grid(
            ("what it inspects", "cannot run without", "cause that it names"),
            [(", ".join(check.inputs), ", ".join(check.needs), check.cause.replace("_", " "))],
        ),
        "## When it fires",
        "A fault planted in made-up data, run when this page was built:",
        _planted(plant),
        _said(worst),
        _evidence(worst, folder / f"{check.name}.png"),
        "## When it stays quiet",
        "The same data without the fault:",
        _said(max(quiet, key=lambda finding: finding.severity.level)),
        "## How it is computed",
        _plain(check.description or check.summary),
        f"**Source**: {_plain(check.source)}",
        "## Error rates",
        _measured(rates[check.name]),
        "## What to do",
        _plain(worst.remedy),
        "## Options, and how to accept or silence it",
        _options(check),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _planted(plant: Plant) -> str:
    title = f"The fault, from <code>tests/contract/{plant.file}</code>"
    return folded(title, code(plant.code, "python"))


def _plain(text: str) -> str:
    """Text of a docstring or finding whose marks mean nothing in Markdown."""
    return text.replace("*", "\\*").replace("<", "&lt;").replace("[", "\\[").replace("$", "\\$")


def _said(finding: Finding) -> str:
    subject = f" · {finding.subject}" if finding.subject else ""
    return f"> **{finding.severity}**{_plain(subject)}: {_plain(finding.summary)}"


def _evidence(finding: Finding, path: Path) -> str:
    if finding.evidence is None:
        return ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(finding.evidence))
    table = finding.evidence.table()
    rows = table.head(_ROWS).map(_number).itertuples(index=False)
    shown = grid([str(column) for column in table.columns], rows)
    size = f"The first {_ROWS} of {len(table):,} rows" if len(table) > _ROWS else "All rows"
    return (
        f"![{cell(finding.summary).replace(']', ')').replace('[', '(')}]({path.name})\n\n"
        + folded(f"{size} of the evidence", shown)
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _measured(row: pd.Series) -> str:
    return (
        f"Measured on seeds of no test: **{row['found']} of {row['planted']}** planted faults "
        f"found under the right cause and subject; **{row['alarms']} alarms in {row['clean']}** "
        f"clean runs. {PROMISE} `python -m scripts.bench_checks` measures them again."
    )


def _options(check: Check) -> str:
    topic = check.name.partition(".")[0]
    rows = [(f"`{o.name}`", f"`{o.default!r}`", _type(o), o.help) for o in check.options.values()]
    table = grid(("option", "default", "type", "meaning"), rows) if rows else "It has no options."
    first = next(iter(check.options.values()), None)
    change = ""
    if first is not None:
        value = '"…"' if isinstance(first.default, str) else repr(first.default)
        change = code(
            f'gd.diagnose(..., options={{"{check.name}": {{"{first.name}": {value}}}}})\n'
            f"gendebug diagnose ... --options "
            f'\'{{"{check.name}": {{"{first.name}": {value.replace("None", "null")}}}}}\'',
        )
    return "\n\n".join(
        part
        for part in (
            table,
            "A finding that is right and wanted is accepted by raising the limit that it broke:"
            if change
            else "",
            change,
            f"To leave the check out, name the others: `only=[...]` takes ids and topics "
            f"({', '.join(name for name in TOPICS if name != topic)}). `--fail-on fail` lets "
            "warnings pass in a pipeline. What experts know about a column (`ids`, `noise`, "
            "`causal`, `direction`) belongs into the schema, where every check reads it.",
        )
        if part
    )


def _type(option: Option) -> str:
    name = getattr(option.type, "__name__", str(option.type)) if option.type else ""
    return f"`{name}`".replace("|", "or")

"""`gendebug checks`."""

from __future__ import annotations

import json
from typing import Any

from gendebug_torch.checks.registry import all_checks
from gendebug_torch.cli.deliver import say
from gendebug_torch.cli.exit_codes import CLEAN


def checks(as_json: bool = False) -> int:
    """List every check: what it needs, what it is after, its options and its source.

    Args:
        as_json: print JSON instead of text.
    """
    listed = [
        {
            "check": check.name,
            "summary": check.summary,
            "cause": check.cause,
            "needs": list(check.needs),
            "options": {name: option.default for name, option in check.options.items()},
            "source": check.source,
        }
        for check in all_checks()
    ]
    say(
        json.dumps(listed, indent=2, default=str)
        if as_json
        else "\n\n".join(map(_paragraph, listed))
    )
    return CLEAN


def _paragraph(entry: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={default}" for name, default in entry["options"].items()) or "none"
    lines = [
        f"{entry['check']}  ({entry['cause']})",
        entry["summary"],
        f"needs: {', '.join(entry['needs'])}",
        f"options: {options}",
    ]
    return "\n  ".join([*lines, f"source: {entry['source']}"])

"""`diagnose()`: which checks run, in which order, within which budget, and what their findings add up to."""

from __future__ import annotations

import difflib
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gendebug_torch
from gendebug_torch import report
from gendebug_torch.budget import Speed, probe_speed, seconds_of
from gendebug_torch.decision import LikelyCause, decide, likely_causes
from gendebug_torch.errors import reject
from gendebug_torch.finding import Finding, Severity, findings_to_json
from gendebug_torch.records import Records
from gendebug_torch.registry import Check, Cost, registered_checks
from gendebug_torch.runner import Model, collect

if TYPE_CHECKING:
    import pandas as pd

    from gendebug_torch.curves import LearningCurves

TOPICS = ("attribution", "calibration", "curves", "shift")


@dataclass(frozen=True)
class Diagnosis:
    """All findings, worst first, and what they add up to.

    Args:
        findings: of every check, those that were skipped or broke included.
        context: what went in: rows, versions, seconds.
    """

    findings: tuple[Finding, ...]
    context: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def causes(self) -> tuple[LikelyCause, ...]:
        """What most likely is wrong, best supported first; empty where nothing was found."""
        return likely_causes(self.findings)

    @property
    def decision(self) -> str:
        """`nothing`, `recalibrate`, `move_threshold`, `fix_data`, `retrain` or `redesign`."""
        return decide(self.causes)[0]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this decision: the sentences of the findings it rests on."""
        return decide(self.causes)[1]

    @property
    def skipped(self) -> tuple[Finding, ...]:
        """Checks that did not run, each with what it lacked or what it would have cost."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.SKIPPED)

    @property
    def worst(self) -> Severity:
        """The worst severity among the findings; `ok` where there are none."""
        return max((finding.severity for finding in self.findings), key=lambda severity: severity.level, default=Severity.OK)

    def to_json(self) -> str:
        """The findings as a JSON list."""
        return findings_to_json(self.findings)

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: check, cause, severity, subject, summary, numbers, remedy."""
        import pandas as pd

        return pd.DataFrame([finding.to_dict() for finding in self.findings])

    def to_html(self, *, title: str = "Diagnosis", **extras: Any) -> str:
        """One self-contained page; `extras` are the `tables` and `pictures` of `report.render_html`."""
        return report.render_html(self.findings, **self._verdict(title), context=self.context, **extras)

    def write(self, directory: str | Path, *, title: str = "Diagnosis", **extras: Any) -> Path:
        """Write `report.html` and `findings.json` into a directory, each whole or not at all."""
        return report.write_report(directory, self.findings, **self._verdict(title), context=self.context, **extras)

    def __str__(self) -> str:
        return report.render_text(self.findings, **self._verdict("Diagnosis"))

    def _repr_html_(self) -> str:
        return self.to_html()

    def _verdict(self, title: str) -> dict[str, Any]:
        causes = [(likely.cause, likely.subject, likely.findings) for likely in self.causes]
        return {"title": title, "decision": self.decision, "reasons": self.reasons, "causes": causes}


def all_checks() -> tuple[Check, ...]:
    """Every check of every topic, by id."""
    for topic in TOPICS:
        import_module(f"gendebug_torch.{topic}.checks")
    return registered_checks()


def diagnose(
    model: Model | None = None,
    *,
    curves: LearningCurves | None = None,
    train: Records | None = None,
    validation: Records | None = None,
    production: Records | None = None,
    budget: str | float | None = None,
    only: str | Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Diagnosis:
    """Every check that the given inputs allow, cheapest first, and what they add up to.

    Where a model is given, records without logits get them once, and every check shares them.
    Under a budget a short probe of this model on this device turns the declared cost of each check
    into seconds; what does not fit is listed as skipped with its estimate.

    Args:
        model: module or callable from `[n, d]` float32 inputs to logits; left as it was found.
        curves: learning curves of the training.
        train: records that the model was fitted on.
        validation: records that it was judged on.
        production: records that it met afterwards, labeled or not.
        budget: time to spend: seconds, or `90s`, `2m`, `1h`; None runs everything.
        only: check ids or topics, e.g. `shift` or `shift.ks`.
        options: check id -> option -> value.
        device: for the model; `auto` takes CUDA where there is one.
        progress: show a bar.

    Raises:
        InputError: nothing to inspect, something that is not Records, an unknown check, option or budget.
    """
    started = time.perf_counter()
    given: dict[str, Any] = {"model": model, "curves": curves, "train": train, "validation": validation, "production": production}
    _refuse_strangers(given)
    chosen = _chosen(all_checks(), only)
    settings = _settings(chosen, options or {})
    limit = None if budget is None else seconds_of(budget)
    speed = None if limit is None else probe_speed(given, device)
    given |= _with_logits(given, limit, speed, device, progress)
    findings: list[Finding] = []
    costs = {check.name: _estimate(check, given, speed) for check in chosen}
    for check in _bar(sorted(chosen, key=lambda check: costs[check.name]), progress):
        left = None if limit is None else limit - (time.perf_counter() - started)
        if left is not None and costs[check.name] > max(left, 0.0) and not check.lacks(given):
            findings.append(_unaffordable(check, costs[check.name], left))
        else:
            findings.extend(check.run(given, settings.get(check.name)))
    ranked = tuple(sorted(findings, key=lambda finding: -finding.severity.level))
    return Diagnosis(ranked, _context(given, time.perf_counter() - started))


def _refuse_strangers(given: Mapping[str, Any]) -> None:
    for name in ("train", "validation", "production"):
        if given[name] is not None and not isinstance(given[name], Records):
            reject(name, "Records", type(given[name]).__name__, "Build them with Records.from_frame or collect(model, loader).")
    if given["model"] is not None and not callable(given["model"]):
        reject("model", "a module or a callable", type(given["model"]).__name__, "Pass the network itself, not its weights.")
    if all(given[name] is None for name in ("curves", "train", "validation", "production")):
        reject("train, validation, production, curves", "at least one of them", "none", "Pass the records or curves to inspect.")


def _chosen(checks: Sequence[Check], only: str | Sequence[str] | None) -> list[Check]:
    if only is None:
        return list(checks)
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in TOPICS:
            _known(name, checks, "only")
    return [check for check in checks if check.name in wanted or check.name.partition(".")[0] in wanted]


def _settings(checks: Sequence[Check], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    for name, values in options.items():
        check = _known(name, all_checks(), "options")
        if unknown := sorted(set(values) - set(check.options)):
            reject(f"options[{name!r}]", f"options among {sorted(check.options)}", str(unknown), "See `gendebug checks`.")
    return {check.name: options[check.name] for check in checks if check.name in options}


def _known(name: str, checks: Sequence[Check], argument: str) -> Check:
    for check in checks:
        if check.name == name:
            return check
    near = difflib.get_close_matches(name, [check.name for check in checks] + list(TOPICS), n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    reject(argument, "ids of checks or topics", repr(name), f"{hint}`gendebug checks` lists them.")


def _with_logits(given: Mapping[str, Any], limit: float | None, speed: Speed | None, device: Any, progress: bool) -> dict[str, Records]:
    """Records with the logits that the model gives them, as far as half of the budget allows."""
    filled: dict[str, Records] = {}
    left = None if limit is None else limit / 2
    for name in ("validation", "production", "train"):
        records = given[name]
        if given["model"] is None or records is None or records.logits is not None or records.features is None or not len(records):
            continue
        if left is not None and speed is not None:
            left -= speed.seconds(Cost(forwards=len(records)))
            if left < 0:
                continue
        collected = collect(given["model"], records, device=device, progress=progress)
        filled[name] = replace(records, logits=collected.logits)
    return filled


def _estimate(check: Check, given: Mapping[str, Any], speed: Speed | None) -> float:
    """Seconds by the probe, or a unitless rank of cost where no budget asks for seconds."""
    if check.lacks(given):
        return 0.0
    cost = check.cost(given)
    return speed.seconds(cost) if speed else cost.elements + 1e3 * (cost.forwards + 3 * cost.backwards)


def _unaffordable(check: Check, seconds: float, left: float) -> Finding:
    summary = f"Skipped: would take about {seconds:.3g} s; {max(left, 0.0):.3g} s of the budget were left."
    remedy = f"Raise the budget, or run it alone with only={check.name!r}."
    return check.finding(Severity.SKIPPED, summary, numbers={"estimated_seconds": seconds, "seconds_left": left}, remedy=remedy)


def _bar(checks: Sequence[Check], show: bool) -> Iterable[Check]:
    if not show:
        return checks
    from tqdm.auto import tqdm

    bar: Iterable[Check] = tqdm(checks, desc="checks", unit="check", leave=False)
    return bar


def _context(given: Mapping[str, Any], seconds: float) -> dict[str, str]:
    rows = {name: f"{len(given[name]):,} rows" for name in ("train", "validation", "production") if given[name] is not None}
    model = {} if given["model"] is None else {"model": type(given["model"]).__name__}
    versions = {"gendebug_torch": gendebug_torch.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return rows | model | {"seconds": f"{seconds:.1f}"} | versions

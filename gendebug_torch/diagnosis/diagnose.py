"""`diagnose()`: which checks run, in which order and budget, and what their findings add up to."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

import gendebug_torch
from gendebug_torch import report
from gendebug_torch.behavior import BehaviorRun, Suite
from gendebug_torch.behavior.suite.suite_file import load_behavior
from gendebug_torch.checks.finding import (
    Finding,
    Severity,
    findings_to_json,
)
from gendebug_torch.checks.registry import TOPICS, Check, all_checks
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import seconds_of
from gendebug_torch.diagnosis.budget import (
    CheckCost,
    by_value,
    estimate,
    overrun,
    probe_speed,
    run_within,
    schedule_table,
)
from gendebug_torch.diagnosis.causes import LikelyCause, likely_causes
from gendebug_torch.diagnosis.decision import Decision, decide
from gendebug_torch.diagnosis.preparation.logits import with_logits
from gendebug_torch.diagnosis.preparation.steps import attempt
from gendebug_torch.diagnosis.preparation.tables import fed_by_name, validated
from gendebug_torch.diagnosis.preparation.views import described_in_words
from gendebug_torch.diagnosis.quality import finding_order, quality_of
from gendebug_torch.errors import Deadline, did_you_mean, reject
from gendebug_torch.model.devices import device_of
from gendebug_torch.model.evaluation import Model
from gendebug_torch.shift.quality.quality_change import QualityChange

if TYPE_CHECKING:
    from gendebug_torch.curves import LearningCurves
    from gendebug_torch.network.evidence import NetworkEvidence


@dataclass(frozen=True)
class Diagnosis:
    """All findings, whether quality fell and then worst first, and what they add up to.

    Args:
        findings: of every check, those that were skipped or broke included.
        context: what went in: rows, versions, seconds.
        quality: quality in validation and in production; None where it cannot be known.
        costs: schedule of the checks, in the order in which they ran, with what each took.
    """

    findings: tuple[Finding, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    quality: QualityChange | None = None
    costs: tuple[CheckCost, ...] = ()

    @cached_property
    def causes(self) -> tuple[LikelyCause, ...]:
        """What most likely is wrong, best supported first; empty where nothing was found."""
        return likely_causes(self.findings)

    @cached_property
    def verdict(self) -> Decision:
        """The decision with its reasons and what would change it."""
        return decide(self.causes, self.quality, self.findings)

    @property
    def decision(self) -> str:
        """One of `DECISIONS`, e.g. `nothing`, `investigate`, `recalibrate`, `fix_data`."""
        return self.verdict.name

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this decision: the sentences of the findings it rests on."""
        return self.verdict.reasons

    @property
    def skipped(self) -> tuple[Finding, ...]:
        """Checks that did not run, each with what it lacked or what it would have cost."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.SKIPPED)

    @property
    def worst(self) -> Severity:
        """The worst severity among the findings; `ok` where there are none."""
        return max(
            (finding.severity for finding in self.findings),
            key=lambda severity: severity.level,
            default=Severity.OK,
        )

    def to_json(self) -> str:
        """The findings as a JSON list."""
        return findings_to_json(self.findings)

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: check, cause, severity, subject, summary, numbers, remedy."""
        return pd.DataFrame([finding.to_dict() for finding in self.findings])

    def schedule(self) -> pd.DataFrame:
        """One row per check in the order in which they ran: value, estimated and spent seconds."""
        return schedule_table(self.costs)

    def to_html(self, *, title: str = "Diagnosis", **extras: Any) -> str:
        """One self-contained page; `extras` are tables and pictures of `report.render_html`."""
        schedule = self.schedule() if self.costs else None
        extras |= {"context": self.context, "schedule": schedule}
        return report.render_html(
            self.findings, title=title, verdict=self.verdict, causes=self.causes, **extras
        )

    def to_markdown(self, *, title: str = "Diagnosis") -> str:
        """The decision, likely causes and a table of the findings, e.g. for a pull request."""
        return report.render_markdown(
            self.findings, title=title, verdict=self.verdict, causes=self.causes
        )

    def write(self, directory: str | Path, *, title: str = "Diagnosis", **extras: Any) -> Path:
        """Write `report.html` and `findings.json` into a directory, each whole or not at all."""
        return report.write_report(directory, self.to_html(title=title, **extras), self.to_json())

    def __str__(self) -> str:
        return report.render_text(
            self.findings, title="Diagnosis", verdict=self.verdict, causes=self.causes
        )

    _repr_html_ = to_html


def diagnose(
    model: Model | None = None,
    *,
    curves: LearningCurves | None = None,
    network: NetworkEvidence | None = None,
    train: Records | None = None,
    validation: Records | None = None,
    production: Records | None = None,
    behavior: Suite | BehaviorRun | str | Path | None = None,
    budget: str | float | None = None,
    only: str | Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Diagnosis:
    """Every check that the given inputs allow, and what their findings add up to.

    Where a model is given, records without logits get them once, and every check shares them.
    Under a budget a short probe of this model on this device turns the declared cost of each check
    into seconds; checks run by value per second, and what does not fit is listed as skipped with
    its estimate. A check that is still running when the budget is spent is stopped between its
    pieces. A check or step that breaks is an errored finding; the others go on.

    Args:
        model: module or callable from `[n, d]` float32 inputs to logits; left as it was found.
        curves: learning curves of the training.
        network: what the training showed of the inside of the network.
        train: records that the model was fitted on.
        validation: records that it was judged on.
        production: records that it met afterwards, labeled or not.
        behavior: suite of cases that the model must pass, a run of one, or the file of either.
        budget: time to spend: seconds, or `90s`, `2m`, `1h`; None runs everything.
        only: check ids or topics, e.g. `shift` or `shift.ks`.
        options: check id -> option -> value.
        device: for the model; `auto` takes CUDA where there is one.
        progress: show a bar.

    Raises:
        InputError: nothing to inspect, something that is not Records, an unknown check, option or
            budget.
    """
    started = time.perf_counter()
    given: dict[str, Any] = {
        "model": model,
        "curves": curves,
        "network": network,
        "train": train,
        "validation": validation,
        "production": production,
        "behavior": None if behavior is None else load_behavior(behavior),
    }
    given |= validated(given)
    checks = _selected(all_checks(), only)
    settings = _settings(checks, options or {}, given)
    limit = None if budget is None else seconds_of(budget)
    deadline, device = Deadline(limit), device_of(device)
    findings: list[Finding] = []
    given |= fed_by_name(findings, given)
    speed = None
    if limit is not None:
        speed = attempt(findings, "diagnose.speed", lambda: probe_speed(given, device))
    given |= with_logits(findings, given, limit, speed, device, progress)
    views = attempt(findings, "diagnose.properties", partial(described_in_words, given))
    described = given | (views or {})
    estimates = {
        check.name: attempt(findings, check.name, partial(estimate, check, given, speed)) or 0.0
        for check in checks
    }
    ordered = by_value(checks, estimates)
    found, costs = run_within(
        ordered, given, described, settings, speed, deadline, progress=progress
    )
    findings += found
    if limit is not None:
        findings += overrun(limit, time.perf_counter() - started, costs)
    quality = attempt(findings, "diagnose.quality", lambda: quality_of(findings, given))
    ranked = tuple(sorted(findings, key=finding_order))
    context = _context(given, time.perf_counter() - started)
    return Diagnosis(ranked, context, quality, costs)


def _selected(checks: Sequence[Check], only: str | Sequence[str] | None) -> list[Check]:
    if only is None:
        return list(checks)
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in TOPICS:
            _check_of_id(name, checks, "only")
    return [
        check for check in checks if check.name in wanted or check.name.partition(".")[0] in wanted
    ]


def _settings(
    checks: Sequence[Check], options: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """Options per check: those given, over what the schema declares for all of them."""
    for name, values in options.items():
        check = _check_of_id(name, all_checks(), "options")
        if unknown := sorted(set(values) - set(check.options)):
            reject(
                f"options[{name!r}]",
                f"options among {sorted(check.options)}",
                str(unknown),
                "See `gendebug checks`.",
            )
    schemas = [
        given[name].schema
        for name in ("validation", "production", "train")
        if given[name] is not None
    ]
    thresholds = [schema.threshold for schema in schemas if schema.threshold is not None]
    shared = {"threshold": thresholds[0]} if thresholds else {}
    return {
        check.name: {key: value for key, value in shared.items() if key in check.options}
        | dict(options.get(check.name, {}))
        for check in checks
    }


def _check_of_id(name: str, checks: Sequence[Check], argument: str) -> Check:
    for check in checks:
        if check.name == name:
            return check
    hint = did_you_mean(name, [check.name for check in checks] + list(TOPICS))
    reject(argument, "ids of checks or topics", repr(name), f"{hint}`gendebug checks` lists them.")


def _context(given: Mapping[str, Any], seconds: float) -> dict[str, str]:
    rows = {
        name: f"{len(given[name]):,} rows"
        for name in ("train", "validation", "production")
        if given[name] is not None
    }
    model = {} if given["model"] is None else {"model": type(given["model"]).__name__}
    versions = {
        "gendebug_torch": gendebug_torch.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return rows | model | {"seconds": f"{seconds:.1f}"} | versions

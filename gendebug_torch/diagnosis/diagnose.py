"""`diagnose()`: which checks run, in which order and budget, and what their findings add up to."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import torch

import gendebug_torch
from gendebug_torch import report
from gendebug_torch.behavior import BehaviorRun, Suite
from gendebug_torch.behavior.suite.suite_file import load_behavior
from gendebug_torch.checks.finding import (
    Cause,
    Finding,
    Severity,
    errored_finding,
    findings_to_json,
)
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import TOPICS, Check, all_checks
from gendebug_torch.checks.rows import named
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import seconds_of
from gendebug_torch.diagnosis.budget import (
    CheckCost,
    Speed,
    by_value,
    estimate,
    overrun,
    probe_speed,
    run_within,
    schedule_table,
)
from gendebug_torch.diagnosis.causes import LikelyCause, likely_causes
from gendebug_torch.diagnosis.decision import Decision, decide
from gendebug_torch.diagnosis.model_probe import PROBED_ROWS, model_findings
from gendebug_torch.diagnosis.quality import finding_order, quality_of
from gendebug_torch.diagnosis.views import described_in_words
from gendebug_torch.errors import Deadline, did_you_mean, reject
from gendebug_torch.model.devices import device_of
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import collect
from gendebug_torch.shift.quality.quality_change import QualityChange

if TYPE_CHECKING:
    from gendebug_torch.curves import LearningCurves

T = TypeVar("T")


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
        "train": train,
        "validation": validation,
        "production": production,
        "behavior": None if behavior is None else load_behavior(behavior),
    }
    given |= _validated(given)
    checks = _selected(all_checks(), only)
    settings = _settings(checks, options or {}, given)
    limit = None if budget is None else seconds_of(budget)
    deadline, device = Deadline(limit), device_of(device)
    findings: list[Finding] = []
    given |= _by_name(findings, given)
    speed = None
    if limit is not None:
        speed = _attempt(findings, "diagnose.speed", lambda: probe_speed(given, device))
    given |= _with_logits(findings, given, limit, speed, device, progress)
    views = _attempt(findings, "diagnose.properties", partial(described_in_words, given))
    described = given | (views or {})
    estimates = {
        check.name: _attempt(findings, check.name, partial(estimate, check, given, speed)) or 0.0
        for check in checks
    }
    ordered = by_value(checks, estimates)
    found, costs = run_within(
        ordered, given, described, settings, speed, deadline, progress=progress
    )
    findings += found
    if limit is not None:
        findings += overrun(limit, time.perf_counter() - started, costs)
    quality = _attempt(findings, "diagnose.quality", lambda: quality_of(findings, given))
    ranked = tuple(sorted(findings, key=finding_order))
    context = _context(given, time.perf_counter() - started)
    return Diagnosis(ranked, context, quality, costs)


def _attempt(findings: list[Finding], step: str, work: Callable[[], T]) -> T | None:
    """The result of a step; where it breaks, None and an errored finding, so that the rest runs."""
    try:
        return work()
    except Exception as error:
        findings.append(errored_finding(step, error))
        return None


def _validated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The records, each under the name of its split unless it has one."""
    for name in ("train", "validation", "production"):
        if given[name] is not None and not isinstance(given[name], Records):
            remedy = "Build them with Records.from_frame or collect(model, loader)."
            reject(name, "Records", type(given[name]).__name__, remedy)
    if given["model"] is not None and not callable(given["model"]):
        remedy = "Pass the network itself, not its weights."
        reject("model", "a module or a callable", type(given["model"]).__name__, remedy)
    sources = ("train", "validation", "production", "curves", "behavior")
    if all(given[name] is None for name in sources):
        remedy = "Pass the records, curves or suite to inspect."
        reject(", ".join(sources), "at least one of them", "none", remedy)
    return {name: named(given[name], name) for name in ("train", "validation", "production")}


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


def _with_logits(
    findings: list[Finding],
    given: Mapping[str, Any],
    limit: float | None,
    speed: Speed | None,
    device: str | torch.device,
    progress: bool,
) -> dict[str, Records]:
    """Records with the model's logits, as far as half of the budget allows.

    The model is probed before, where that takes a hundredth of the budget at most.
    """
    model, left = given["model"], None if limit is None else limit / 2
    cheap = limit is None or (
        speed is not None and 100 * speed.seconds(Cost(forwards=PROBED_ROWS)) <= limit
    )
    if model is not None and cheap:
        probe = partial(model_findings, given, device)
        findings += _attempt(findings, "diagnose.model", lambda: list(probe())) or []
    filled: dict[str, Records] = {}
    for name in ("validation", "production", "train"):
        records = given[name]
        if (
            model is None
            or records is None
            or records.logits is not None
            or records.features is None
            or not len(records)
        ):
            continue
        if left is not None and speed is not None:
            left -= speed.seconds(Cost(forwards=len(records)))
            if left < 0:
                continue
        run = partial(collect, model, records, device=device, progress=progress)
        collected = _attempt(findings, f"diagnose.{name}_logits", run)
        if collected is not None:
            filled[name] = collected
    return filled


def _by_name(findings: list[Finding], given: Mapping[str, Any]) -> dict[str, Records]:
    """Tables with the columns that the model was trained on, in their order, with a note.

    The first table of training or validation says which columns those are.
    """
    tables = {
        name: given[name]
        for name in ("train", "validation", "production")
        if given[name] is not None and isinstance(given[name].features, pd.DataFrame)
    }
    if given["model"] is None or not tables or next(iter(tables)) == "production":
        return {}
    columns = list(next(iter(tables.values())).features.columns)
    aligned = {}
    for name, records in tables.items():
        own = list(records.features.columns)
        if own == columns or not set(columns) <= set(own):
            continue
        aligned[name] = replace(records, features=records.features[columns])
        extra = [column for column in own if column not in columns]
        also = f" Left out: {', '.join(extra[:5])}." if extra else ""
        text = (
            f"The columns of {name} are not those of training in their order; the model is fed by "
            f"column name.{also}"
        )
        numbers = {"order": own, "left_out": extra}
        remedy = "Make sure that serving feeds the model by column name as well."
        note = Finding("diagnose.columns", Cause.TRAIN_SERVE_SKEW, Severity.NOTE, text)
        findings.append(replace(note, numbers=numbers, remedy=remedy, inputs=(name,)))
    return aligned


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

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
from gendebug_torch.diagnosis.apportioning.bill import Bill
from gendebug_torch.diagnosis.apportioning.of_diagnosis import diagnosed_bill
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
from gendebug_torch.diagnosis.preparation.profiles import (
    profile_finding,
    profiles_of,
    row_counts,
    sampled_rows,
    whole_row_answers,
)
from gendebug_torch.diagnosis.preparation.steps import attempt
from gendebug_torch.diagnosis.preparation.tables import fed_by_name, validated
from gendebug_torch.diagnosis.preparation.views import (
    described_in_words,
    kind_of_inputs,
    with_inputs,
)
from gendebug_torch.diagnosis.quality import finding_order, quality_of
from gendebug_torch.errors import NO_DEADLINE, Deadline, did_you_mean, reject
from gendebug_torch.model.devices import device_of
from gendebug_torch.model.evaluation import Model
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.shift.quality.quality_change import QualityChange

if TYPE_CHECKING:
    from gendebug_torch.curves import LearningCurves
    from gendebug_torch.network.evidence import NetworkEvidence


# Share of a budget that checks may use: the bill comes after them.
_CHECKING = 0.85


@dataclass(frozen=True)
class Diagnosis:
    """All findings, whether quality fell and then worst first, and what they add up to.

    Args:
        findings: of every check, those that were skipped or broke included.
        context: what went in: rows, versions, seconds.
        quality: quality in validation and in production; None where it cannot be known.
        costs: schedule of the checks, in the order in which they ran, with what each took.
        bill: points of quality that each cause carries; None where it cannot be had.
    """

    findings: tuple[Finding, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    quality: QualityChange | None = None
    costs: tuple[CheckCost, ...] = ()
    bill: Bill | None = None

    @cached_property
    def causes(self) -> tuple[LikelyCause, ...]:
        """What most likely is wrong, best supported first; empty where nothing was found."""
        return likely_causes(self.findings)

    @cached_property
    def verdict(self) -> Decision:
        """The decision with its reasons and what would change it."""
        return decide(self.causes, self.quality, self.findings, self.bill)

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
        extras |= {"context": self.context, "schedule": schedule, "bill": self.bill}
        return report.render_html(
            self.findings, title=title, verdict=self.verdict, causes=self.causes, **extras
        )

    def to_markdown(self, *, title: str = "Diagnosis") -> str:
        """The decision, likely causes and a table of the findings, e.g. for a pull request."""
        return report.render_markdown(
            self.findings, title=title, verdict=self.verdict, causes=self.causes, bill=self.bill
        )

    def write(self, directory: str | Path, *, title: str = "Diagnosis", **extras: Any) -> Path:
        """Write the page, `findings.json` and `bill.json` into a directory, all or none."""
        html, others = self.to_html(title=title, **extras), report.bill_files(self.bill)
        return report.write_report(directory, html, self.to_json(), others)

    def __str__(self) -> str:
        return report.render_text(
            self.findings,
            title="Diagnosis",
            verdict=self.verdict,
            causes=self.causes,
            bill=self.bill,
        )

    _repr_html_ = to_html


def diagnose(
    model: Model | None = None,
    *,
    curves: LearningCurves | pd.DataFrame | Sequence[Mapping[str, Any]] | None = None,
    network: NetworkEvidence | None = None,
    train: Records | Profile | None = None,
    validation: Records | Profile | None = None,
    production: Records | Profile | None = None,
    behavior: Suite | BehaviorRun | str | Path | None = None,
    served: Model | None = None,
    budget: str | float | Deadline | None = None,
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
        curves: learning curves of the training, or its log: a table, or rows such as `net.history`
            of skorch.
        network: what the training showed of the inside of the network.
        train: records that the model was fitted on, or a profile of them.
        validation: records that it was judged on.
        production: records that it met afterwards, labeled or not.
        behavior: suite of cases that the model must pass, a run of one, or the file of either.
        served: what is served in the place of the model: a module or callable of the same inputs.
        budget: time to spend: seconds, or `90s`, `2m`, `1h`, or a deadline that began before; None
            runs everything.
        only: check ids or topics, e.g. `shift` or `shift.ks`.
        options: check id -> option -> value.
        device: for the model; `auto` takes CUDA where there is one.
        progress: show a bar.

    Raises:
        InputError: nothing to inspect, something that is not Records, an unknown check, option or
            budget.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(2000, generator=generator)
        >>> sure = torch.rand(2000, generator=generator) < logits.sigmoid()
        >>> network = Records(logits=5 * logits, targets=sure.long())
        >>> diagnose(validation=network, only="calibration").decision
        'recalibrate'
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
        "served": served,
    }
    profiles = profiles_of(given)
    given |= validated(given | sampled_rows(profiles))
    checks = _selected(all_checks(), only)
    settings = _settings(checks, options or {}, given)
    (deadline, checking), device = _deadlines(budget, only), device_of(device)
    limited = budget is not None
    findings: list[Finding] = []
    given |= fed_by_name(findings, given)
    speed = None
    if limited:
        speed = attempt(findings, "diagnose.speed", lambda: probe_speed(given, device))
    given |= with_logits(findings, given, deadline, speed, device, progress)
    views = attempt(findings, "diagnose.properties", partial(described_in_words, given))
    described = given | (views or {})
    fed = given | (attempt(findings, "diagnose.inputs", partial(with_inputs, given)) or {})
    estimates = {
        check.name: attempt(findings, check.name, partial(estimate, check, fed, speed)) or 0.0
        for check in checks
    }
    ordered = by_value(checks, estimates)
    whole = whole_row_answers(described, profiles)
    found, costs = run_within(
        ordered, fed, described, settings, speed, checking, whole=whole, progress=progress
    )
    findings += [*found, *profile_finding(profiles)]
    quality = attempt(findings, "diagnose.quality", partial(quality_of, findings, given, deadline))
    shown = deadline.with_progress(progress)
    work = partial(diagnosed_bill, findings, given, device, shown, quality)
    bill = attempt(findings, "diagnose.bill", work) if only is None else None
    if limited:
        findings += overrun(deadline.seconds, deadline.spent, costs)
    ranked = tuple(sorted(findings, key=finding_order))
    context = _context(given, time.perf_counter() - started) | row_counts(profiles)
    return Diagnosis(ranked, context, quality, costs, bill)


def _deadlines(
    budget: str | float | Deadline | None, only: str | Sequence[str] | None
) -> tuple[Deadline, Deadline]:
    """The end of the budget, and that of the checks, which leave some of it to the bill."""
    if budget is None:
        return NO_DEADLINE, NO_DEADLINE
    whole = budget if isinstance(budget, Deadline) else Deadline(seconds_of(budget))
    share = _CHECKING if only is None else 1.0
    return whole, whole.share(share)


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
    return rows | kind_of_inputs(given) | model | {"seconds": f"{seconds:.1f}"} | versions

"""The check of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from gendebug_torch.behavior.audit.mutants import examine
from gendebug_torch.behavior.running.compare import RunComparison, compare_runs
from gendebug_torch.behavior.running.margins import case_margins
from gendebug_torch.behavior.running.model_adapter import network_predict
from gendebug_torch.behavior.running.run import BehaviorRun, CaseResult, named
from gendebug_torch.behavior.suite.cases import Suite
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost, check
from gendebug_torch.data.records import Records

_WORDS = 160


def _cost(given: Mapping[str, Any]) -> Cost:
    behavior = given.get("behavior")
    inputs = (
        sum(1 + len(case.change) for case in behavior.cases) if isinstance(behavior, Suite) else 0
    )
    return Cost(forwards=float(inputs), elements=1e4)


@check("behavior.cases", cause=Cause.BEHAVIOR_REGRESSION, needs=("behavior",), cost=_cost)
def cases_hold(
    behavior: Suite | BehaviorRun,
    model: Any = None,
    validation: Records | None = None,
    train: Records | None = None,
    production: Records | None = None,
    *,
    allowed: float = 0.0,
    baseline: str = "",
    limit: int = 10,
) -> Iterator[Finding]:
    """Every case of the behavioral suite holds for the model.

    Source: Ribeiro, Wu, Guestrin and Singh (2020), Beyond Accuracy: Behavioral Testing of NLP
    Models with CheckList, ACL 2020, arXiv:2005.04118; intervals by Wilson (1927), JASA 22:209.

    Args:
        behavior: the suite, or a run of it.
        model: network that is fed the columns `features` of the suite, or those of the records;
            where neither names any, predict(list of dicts) -> scores.
        validation: names the columns where the suite does not.
        train: the same.
        production: the same.
        allowed: share of cases per capability that may fail.
        baseline: file of an earlier run to compare with, case by case.
        limit: most capabilities reported one by one, worst first.
    """
    this = cases_hold
    if isinstance(behavior, BehaviorRun):
        run = behavior
    elif model is None:
        summary = "Skipped: needs a model to run the suite against, or a run of it."
        remedy = "Pass the model, or behavior=run_suite(suite, predict)."
        yield this.finding(Severity.SKIPPED, summary, numbers={"lacks": ["model"]}, remedy=remedy)
        return
    else:
        suite = _with_columns(behavior, validation, train, production)
        run = examine(suite, network_predict(model, suite.features) if suite.features else model)
    failing = run.table().query("rate > @allowed", local_dict={"allowed": allowed})
    for row in failing.head(limit).itertuples(index=False):
        yield _capability_finding(run, row)
    yield _summary(run, failing)
    yield from _about_the_suite(this, run)
    if baseline:
        yield _comparison_finding(this, compare_runs(BehaviorRun.load(baseline), run))


def _with_columns(suite: Suite, *tables: Records | None) -> Suite:
    """The suite with the columns that the network is fed: its own, else those of the records;
    refuses inputs with others.
    """
    frames = (table.features for table in tables if table is not None)
    found = next((frame for frame in frames if isinstance(frame, pd.DataFrame)), None)
    return (
        suite
        if suite.features or found is None
        else replace(suite, features=tuple(map(str, found.columns)))
    )


def _capability_finding(run: BehaviorRun, row: Any) -> Finding:
    margins = case_margins(run, row.capability)
    broken = [result for result in margins.results if result.broken]
    interval = f"95 % interval {row.low:.0%} to {row.high:.0%}"
    first = f"{broken[0].id}: expected {broken[0].expected}, got {broken[0].got}"
    rest = f"; also {named(broken[1:])}" if len(broken) > 1 else ""
    broke = f" (the model broke on {row.errored})" if row.errored else ""
    summary = (
        f"{row.failed} of {row.cases} {row.capability} cases fail{broke}, {row.rate:.0%} "
        f"({interval}): {_shortened(first)}{rest}."
    )
    numbers: dict[str, Any] = {
        "cases": row.cases,
        "failed": row.failed,
        "errored": row.errored,
        "rate": row.rate,
        "low": row.low,
        "high": row.high,
    }
    numbers["ids"] = [result.id for result in broken[:50]]
    if row.errored:
        numbers["traceback"] = next(result.error for result in broken if result.error)
    if run.explanation is not None:
        numbers["explanation"] = run.explanation.change
    remedy = (
        "Do not ship this model before each named case is either mended or, by a person, declared "
        "outdated."
        if run.explanation is None
        else f"With {run.explanation.change} {len(run.explanation.healed)} of "
        f"{run.explanation.failing} failing cases pass: "
        "compare the order and the units in which the columns are fed with those of training."
    )
    return cases_hold.finding(
        Severity.FAIL,
        summary,
        subject=row.capability,
        numbers=numbers,
        remedy=remedy,
        evidence=margins,
    )


def _summary(run: BehaviorRun, failing: pd.DataFrame) -> Finding:
    this, judged, broken = cases_hold, len(run.judged), len(run.broken)
    numbers: dict[str, Any] = {"cases": judged, "failed": broken, "unreviewed": len(run.unreviewed)}
    if not judged:
        text = f"The suite {run.suite} has no reviewed case: nothing was judged."
        return this.finding(
            Severity.NOTE, text, numbers=numbers, remedy="Add cases, or confirm the proposed ones."
        )
    if run.explanation is not None:
        found = run.explanation
        numbers |= {
            "explanation": found.change,
            "healed": len(found.healed),
            "spoiled": len(found.spoiled),
            "p_value": found.p_value,
        }
        spoiled = f" and {len(found.spoiled)} passing ones fail" if found.spoiled else ""
        text = (
            f"With {found.change}, {len(found.healed)} of the {found.failing} failing cases "
            f"pass{spoiled} "
            f"(corrected p = {found.p_value:.2g}, {found.tried} faults tried)."
        )
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    if broken:
        below = "" if len(failing) else ", within the share that is allowed"
        text = f"{broken} of {judged} cases of {run.suite} fail{below}: {named(run.broken)}."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=run)
    closest = min(
        run.judged, key=lambda result: result.margin if result.margin is not None else 1.0
    )
    numbers |= {"closest": closest.id, "margin": closest.margin}
    text = (
        f"All {judged} cases of {run.suite} hold; the closest is {closest.id}, by "
        f"{closest.margin:.3f}."
    )
    return this.finding(Severity.OK, text, numbers=numbers, evidence=run)


def _about_the_suite(this: Check, run: BehaviorRun) -> Iterator[Finding]:
    if waiting := run.unreviewed:
        text = (
            f"{len(waiting)} cases of {run.suite} wait for a person and alarm nobody: "
            f"{named(waiting)}."
        )
        remedy = "Give each draft an expectation, and confirm or correct the proposed ones."
        yield this.finding(
            Severity.NOTE,
            text,
            numbers={"unreviewed": [result.id for result in waiting[:50]]},
            remedy=remedy,
        )
    if twins := run.twins:
        pairs = "; ".join(f"{a} = {b}" for a, b in twins[:5]) + (
            f" and {len(twins) - 5} more" if len(twins) > 5 else ""
        )
        text = f"{len(twins)} pairs of cases expect the same of nearly the same input: {pairs}."
        remedy = "Keep one of each pair, and spend the place on a case that says something else."
        yield this.finding(
            Severity.NOTE,
            text,
            numbers={"twins": [list(pair) for pair in twins[:50]]},
            remedy=remedy,
        )


def _comparison_finding(this: Check, compared: RunComparison) -> Finding:
    broken, fixed = compared.newly_broken, compared.newly_fixed
    parts = [
        f"{len(group)} {word}"
        for group, word in ((broken, "newly broken"), (fixed, "newly fixed"))
        if group
    ]
    parts += [f"{len(compared.drifting)} drifting towards failure"] if compared.drifting else []
    text = (
        f"Against the last run: {', '.join(parts) or 'no verdict changed'} of "
        f"{len(compared.pairs)} cases"
    )
    text += (
        f" (newly broken: {named(broken)}; McNemar p = {compared.p_value:.2g})." if broken else "."
    )
    numbers: dict[str, Any] = {
        "newly_broken": [r.id for r in broken],
        "newly_fixed": [r.id for r in fixed],
        "drifting": [r.id for r in compared.drifting],
    }
    numbers |= {
        "p_value": compared.p_value,
        "cases": len(compared.pairs),
        "incomparable": len(compared.incomparable),
    }
    severity = Severity.FAIL if broken else Severity.NOTE if parts else Severity.OK
    remedy = (
        "Find what changed between the two models before this one replaces the last."
        if broken
        else ""
    )
    return this.finding(severity, text, numbers=numbers, remedy=remedy, evidence=compared)


def case_findings(run: BehaviorRun) -> list[Finding]:
    """One finding per case, for JUnit: what waits for a person is skipped."""
    return [_case_finding(run, result) for result in run.results]


def _case_finding(run: BehaviorRun, result: CaseResult) -> Finding:
    severity = {"passed": Severity.OK, "failed": Severity.FAIL, "errored": Severity.ERRORED}.get(
        result.status, Severity.SKIPPED
    )
    waits = not result.reviewed or result.status == "draft"
    summary = f"expected {result.expected or 'nothing yet'}, got {result.got}" + (
        " (waits for a person)" if waits else ""
    )
    place = f"{run.path}:{result.line}" if result.line else run.suite
    remedy = f"{place}{f', from {result.origin}' if result.origin else ''}"
    numbers = {"traceback": f"{place}\n{result.error}"} if result.error else {}
    return cases_hold.finding(
        Severity.SKIPPED if waits else severity,
        summary,
        subject=result.id,
        numbers=numbers,
        remedy=remedy,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"

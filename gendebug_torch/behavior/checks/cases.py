"""The check `behavior.cases`: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from gendebug_torch.behavior.audit.explain import explained_run
from gendebug_torch.behavior.running.compare import RunComparison, compare_runs
from gendebug_torch.behavior.running.explanation import Explanation
from gendebug_torch.behavior.running.model_adapter import network_predict
from gendebug_torch.behavior.running.results import BehaviorRun, CaseResult, id_list, model_error
from gendebug_torch.behavior.running.scores import last_line
from gendebug_torch.behavior.suite.cases import Suite
from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.checks.finding import TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records

_MAX_TEXT = 160
_MAX_IDS = 50
_MAX_PAIRS = 5
_MAX_BARS = 25


def _cost(inputs: Mapping[str, Any]) -> Cost:
    behavior = inputs.get("behavior")
    cases = behavior.cases if isinstance(behavior, Suite) else ()
    return Cost(forwards=float(sum(1 + len(case.change) for case in cases)), elements=1e4)


@check("behavior.cases", cause=Cause.BEHAVIOR_REGRESSION, needs=("behavior",), cost=_cost)
def cases_pass(
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
    """Every case of the behavioral suite passes.

    Source: Ribeiro, Wu, Guestrin and Singh (2020), Beyond Accuracy: Behavioral Testing of NLP
    Models with CheckList, ACL 2020, arXiv:2005.04118; intervals by Wilson (1927), JASA 22:209.

    Args:
        behavior: the suite, or a run of it.
        model: network that is fed the columns `features` of the suite, or those of the records;
            where neither names any, predict(list of dicts) -> scores.
        validation: records that name the columns where the suite does not.
        train: the same.
        production: the same.
        allowed: share of cases per capability that may fail.
        baseline: file of an earlier run to compare with, case by case.
        limit: most capabilities reported one by one, worst first.
    """
    if isinstance(behavior, BehaviorRun):
        run = behavior
    elif model is None:
        summary = "Skipped: the suite needs a model to run on, or a run of it."
        remedy = "Pass the model, or behavior=run_suite(suite, predict)."
        numbers = {"lacks": ["model"]}
        yield cases_pass.finding(Severity.SKIPPED, summary, numbers=numbers, remedy=remedy)
        return
    else:
        suite = _with_columns(behavior, validation, train, production)
        predict = network_predict(model, suite.features) if suite.features else model
        run = explained_run(suite, predict)
    if error := model_error(run):
        yield _model_error_finding(run, error)
        yield from _suite_findings(run)
        return
    failing = run.table().query("rate > @allowed", local_dict={"allowed": allowed})
    for row in failing.head(limit).itertuples(index=False):
        yield _capability_finding(run, row)
    yield _summary(run, exceeded=len(failing) > 0)
    yield from _suite_findings(run)
    if baseline:
        yield _comparison_finding(compare_runs(BehaviorRun.load(baseline), run))


def _with_columns(suite: Suite, *tables: Records | None) -> Suite:
    """The suite with the columns that the network is fed: its own, else those of the records."""
    frames = (table.features for table in tables if table is not None)
    frame = next((frame for frame in frames if isinstance(frame, pd.DataFrame)), None)
    if suite.features or frame is None:
        return suite
    return replace(suite, features=tuple(map(str, frame.columns)))


def _model_error_finding(run: BehaviorRun, error: str) -> Finding:
    errored = sum(result.status == "errored" for result in run.evaluated)
    total = _plural(len(run.evaluated), "case")
    summary = (
        f"The suite says nothing about the model: the predict function failed on {errored} of "
        f"{total}: {_short(last_line(error)).rstrip('.')}."
    )
    remedy = (
        "Correct the predict function: it takes a list of dicts and returns one probability, or "
        "one per class, for each. Then run the suite again."
    )
    numbers = {"cases": len(run.evaluated), "errored": errored, "traceback": error}
    return cases_pass.finding(
        Severity.ERRORED, summary, numbers=numbers, remedy=remedy, evidence=run
    )


def _capability_finding(run: BehaviorRun, row: Any) -> Finding:
    own = tuple(result for result in run.evaluated if result.capability == row.capability)
    failures = sorted((r for r in own if r.is_failure), key=_badness)
    worst = _short(f"{failures[0].id}, expected {failures[0].expected}, got {failures[0].got}")
    also = f" Also failing: {id_list(failures[1:])}." if len(failures) > 1 else ""
    total = _plural(row.cases, "case")
    errors = f", {row.errored} of them with an error of the model" if row.errored else ""
    summary = (
        f"{row.failed} of {total} of capability {row.capability!r} fail{errors} "
        f"({row.rate:.0%}, 95 % interval {row.low:.0%} to {row.high:.0%}). Worst: {worst}.{also}"
    )
    numbers: dict[str, Any] = {
        name: getattr(row, name) for name in ("cases", "failed", "errored", "rate", "low", "high")
    }
    numbers["ids"] = [result.id for result in failures[:_MAX_IDS]]
    if row.errored:
        numbers["traceback"] = next(result.error for result in failures if result.error)
    remedy = (
        "Do not deploy this model until each of these cases passes or is removed by a reviewer."
    )
    if run.explanation is not None:
        numbers |= {"explanation": run.explanation.change, TO_REPAIR: True}
        remedy = (
            f"{_explanation_text(run.explanation)} Compare the order and the units of the columns "
            "with those of training."
        )
    return cases_pass.finding(
        Severity.FAIL,
        summary,
        subject=row.capability,
        numbers=numbers,
        remedy=remedy,
        evidence=_margins(own, row.capability),
    )


def _badness(result: CaseResult) -> tuple[bool, float]:
    """Sorting key: errors first, then by margin."""
    return result.margin is not None, result.margin or 0.0


def _margins(results: tuple[CaseResult, ...], capability: str) -> BarEvidence:
    """Margin of each case of one capability, the worst on top; an error has no bar."""
    frame = BehaviorRun(results).cases().drop(columns=["capability", "reviewed"])
    frame.insert(0, "case", [_short(name, 40) for name in frame["id"]])
    count = sum(result.is_failure for result in results)
    title = f"{_short(capability, 40)}: {count:,} of {len(results):,} cases fail"
    xlabel = "margin; the case fails below 0"
    return BarEvidence(frame, "case", "margin", title, xlabel, marker=0.0, limit=_MAX_BARS)


def _explanation_text(explanation: Explanation) -> str:
    text = (
        f"With {explanation.change}, {len(explanation.fixed)} of {explanation.failing} failing "
        "cases pass"
    )
    broken = len(explanation.broken)
    return f"{text}, and {_plural(broken, 'passing case')} fail." if broken else f"{text}."


def _summary(run: BehaviorRun, *, exceeded: bool) -> Finding:
    cases, failures = len(run.evaluated), len(run.failures)
    tested = f"{_plural(cases, 'case')} of the suite {run.suite}"
    numbers: dict[str, Any] = {
        "cases": cases,
        "failed": failures,
        "unreviewed": len(run.unreviewed),
    }
    if not cases:
        text = f"The suite {run.suite} has no reviewed case, so nothing was tested."
        remedy = "Add cases, or review the proposed expectations."
        return cases_pass.finding(Severity.NOTE, text, numbers=numbers, remedy=remedy)
    if run.explanation is not None:
        found = run.explanation
        numbers |= {
            "explanation": found.change,
            "fixed": len(found.fixed),
            "broken": len(found.broken),
            "p_value": found.p_value,
        }
        test = f"{found.tried} changes of the columns were tried, corrected p = {found.p_value:.2g}"
        text = f"{_explanation_text(found)} {test}."
        return cases_pass.finding(Severity.NOTE, text, numbers=numbers, evidence=found.bars())
    if failures:
        limit = "" if exceeded else ", within the allowed share"
        text = f"{failures} of {tested} fail{limit}: {id_list(run.failures)}."
        return cases_pass.finding(Severity.NOTE, text, numbers=numbers, evidence=run)
    closest = min(run.evaluated, key=lambda r: 1.0 if r.margin is None else r.margin)
    numbers |= {"closest": closest.id, "margin": closest.margin}
    text = (
        f"All {tested} pass. The smallest margin is {closest.margin:.3f}, of the case {closest.id}."
    )
    return cases_pass.finding(Severity.OK, text, numbers=numbers, evidence=run)


def _suite_findings(run: BehaviorRun) -> Iterator[Finding]:
    """What is to be done about the suite itself: unreviewed cases and near duplicates."""
    if unreviewed := run.unreviewed:
        text = (
            f"{_plural(len(unreviewed), 'case')} of the suite {run.suite} cannot fail yet, because "
            f"the expectation is not reviewed: {id_list(unreviewed)}."
        )
        remedy = "Give each draft an expectation, and confirm or correct the proposed ones."
        numbers: dict[str, Any] = {"unreviewed": [result.id for result in unreviewed[:_MAX_IDS]]}
        yield cases_pass.finding(Severity.NOTE, text, numbers=numbers, remedy=remedy)
    if pairs := run.near_duplicates:
        more = f" and {len(pairs) - _MAX_PAIRS} more" if len(pairs) > _MAX_PAIRS else ""
        names = "; ".join(f"{a} and {b}" for a, b in pairs[:_MAX_PAIRS])
        text = (
            f"{_plural(len(pairs), 'pair')} of cases with nearly the same input and the same "
            f"expectation: {names}{more}."
        )
        remedy = "Keep one case of each pair, and test something else with the other."
        numbers = {"near_duplicates": [list(pair) for pair in pairs[:_MAX_IDS]]}
        yield cases_pass.finding(Severity.NOTE, text, numbers=numbers, remedy=remedy)


def _comparison_finding(comparison: RunComparison) -> Finding:
    broken, fixed = comparison.newly_broken, comparison.newly_fixed
    drifting = comparison.drifting
    groups = ((broken, "newly broken"), (fixed, "newly fixed"), (drifting, "closer to failure"))
    counts = [f"{len(group)} {word}" for group, word in groups if group]
    text = f"Compared with the baseline, of {_plural(len(comparison.pairs), 'case')}: "
    text += ", ".join(counts) or "no result changed"
    text += (
        f". Newly broken: {id_list(broken)} (McNemar p = {comparison.p_value:.2g})."
        if broken
        else "."
    )
    numbers: dict[str, Any] = {
        "newly_broken": [result.id for result in broken],
        "newly_fixed": [result.id for result in fixed],
        "drifting": [result.id for result in drifting],
        "p_value": comparison.p_value,
        "cases": len(comparison.pairs),
        "incomparable": len(comparison.incomparable),
    }
    severity = Severity.FAIL if broken else Severity.NOTE if counts else Severity.OK
    remedy = "Find what changed between the two models before you replace the old one."
    return cases_pass.finding(
        severity, text, numbers=numbers, remedy=remedy if broken else "", evidence=comparison
    )


def case_findings(run: BehaviorRun) -> list[Finding]:
    """One finding per case, for JUnit; unreviewed cases are skipped."""
    return [_case_finding(run, result) for result in run.results]


def _case_finding(run: BehaviorRun, result: CaseResult) -> Finding:
    severities = {
        "passed": Severity.OK,
        "failed": Severity.FAIL,
        "errored": Severity.ERRORED,
        "draft": Severity.SKIPPED,
    }
    severity = severities[result.status] if result.reviewed else Severity.SKIPPED
    skipped = " (not reviewed)" if severity is Severity.SKIPPED else ""
    summary = f"expected {result.expected or 'nothing yet'}, got {result.got}{skipped}"
    location = f"{run.path}:{result.line}" if result.line else run.suite
    origin = f", from {result.origin}" if result.origin else ""
    numbers = {"traceback": f"{location}\n{result.error}"} if result.error else {}
    return cases_pass.finding(
        severity, summary, subject=result.id, numbers=numbers, remedy=location + origin
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _short(text: str, length: int = _MAX_TEXT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

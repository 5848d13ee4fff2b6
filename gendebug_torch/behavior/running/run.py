"""`run_suite`: all cases through the model in as few calls as possible."""

from __future__ import annotations

from typing import Any

import torch

from gendebug_torch.behavior.running.model_adapter import as_predict
from gendebug_torch.behavior.running.results import BehaviorRun, CaseResult
from gendebug_torch.behavior.running.scores import last_line, score_inputs
from gendebug_torch.behavior.running.verdict import Verdict, verdict
from gendebug_torch.behavior.suite.cases import Case, Suite
from gendebug_torch.errors import InputError


def run_suite(
    suite: Suite,
    model: Any,
    *,
    name: str = "",
    device: str | torch.device = "auto",
    batch_size: int = 4096,
) -> BehaviorRun:
    """The results of a suite on a model; an error of the model is a result and is not raised.

    At most `batch_size` inputs go through in one call; a call that raises is halved until the case
    that causes the error is alone.

    Args:
        suite: cases to run.
        model: network fed with `suite.features`, or `predict(list[dict])` that returns scores in
            [0, 1].
        name: name of the model, for reports.
        device: device of a network.
        batch_size: most inputs per call.

    Raises:
        InputError: neither a network nor a callable, or a network without the order of its columns.

    Cost: one row through the model per input and per change.

    Example:
        >>> suite = Suite((Case("large", {"amount": 900}, {"score": [0.5, 1.0]}),))
        >>> print(run_suite(suite, lambda rows: [0.2 for row in rows]).failures[0].got)
        score 0.200
    """
    predict = as_predict(model, suite.features, device=device)
    scores = score_inputs(predict, [case.inputs for case in suite.cases], batch_size)
    results = (case_result(suite, *pair) for pair in zip(suite.cases, scores, strict=True))
    title = name or suite.model or type(model).__name__
    return BehaviorRun(tuple(results), suite.name, title, suite.path)


def case_result(suite: Suite, case: Case, scores: list[list[float]] | str) -> CaseResult:
    """The result of a case.

    Args:
        suite: classes, threshold and default tolerance.
        case: input and expectation.
        scores: return value of `score_inputs` for its inputs: class probabilities or a traceback.
    """
    error, judgement = "", None
    if isinstance(scores, str):
        error = scores
    else:
        try:
            judgement = verdict(suite, case, scores)
        except InputError as refusal:
            error = str(refusal)
    tolerance = suite.tolerance_of(case)
    within = f" within {tolerance:g}" if tolerance else ""
    return CaseResult(
        id=case.id,
        kind=case.kind,
        capability=case.capability,
        status=_status(case, judgement),
        expected="" if case.expect is None else f"{case.expect}{within}",
        got=judgement.got if judgement else f"an error ({last_line(error)})",
        score=judgement.score if judgement else None,
        margin=judgement.margin if judgement else None,
        reviewed=case.reviewed,
        fingerprint=case.fingerprint,
        line=case.line,
        tags=case.tags,
        origin=case.origin,
        error=error,
    )


def _status(case: Case, judgement: Verdict | None) -> str:
    if case.expect is None:
        return "draft"
    if judgement is None or judgement.margin is None:
        return "errored"
    return "passed" if judgement.margin >= 0 else "failed"

"""The check that asks training records, not curves, for underfitting: what the features tell of the
residuals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.curves.residual_structure import residual_structure
from gendebug_torch.data.records import Records

# A probe of more columns, or of residuals of more classes, than this costs more than it tells.
_MOST_COLUMNS, _MOST_CLASSES, _FEWEST_ROWS = 400, 100, 200
# Standard errors by which the gain must exceed what matters: one false alarm in some thousand.
_SURE = 3.1
# What was fitted to rows is not this much worse on them than once it is recalibrated: other inputs
# or labels came in between.
_NO_FIT = 1.25


def _probing(given: Mapping[str, Any]) -> Cost:
    n, columns = min(len(given["train"]), 20_000), _columns(given["train"])
    return Cost(elements=4.0 * n * (min(columns, _MOST_COLUMNS) + 100) ** 2)


@check(
    "curves.residuals",
    cause=Cause.UNDERFITTING,
    needs=("train.features", "train.targets", "train.logits"),
    cost=_probing,
)
def nothing_is_left_to_learn(
    train: Records,
    validation: Records | None = None,
    *,
    least: float = 0.05,
    rows: int = 20_000,
    seed: int = 0,
) -> Iterator[Finding]:
    """The features tell nothing about the residuals of the training rows that the model's output
    does not tell.

    `residual_structure` says how that is measured. A model that fits its training rows better than
    the validation rows has learned more than there is, and is not asked.

    Source: Rahimi and Recht (2008), NeurIPS 21, for the probe; Goodfellow, Bengio and Courville
    (2016), Deep Learning, section 5.2: a training error that a simple model beats is underfitting.

    Args:
        train: records the model was fitted on.
        validation: records it was judged on, to rule out overfitting.
        least: share of the mean squared residual from which what is left matters.
        rows: most rows judged, drawn at random.
        seed: of the drawing and the probes.
    """
    this = nothing_is_left_to_learn
    if len(train) > rows:
        train = train.select(
            torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:rows]
        )
    reason = _unasked(train, validation)
    if reason:
        yield this.finding(Severity.NOTE, reason, numbers={"rows": len(train)})
        return
    assert train.features is not None
    assert train.logits is not None
    outputs, residuals = train.logits.reshape(len(train), -1), _residuals(train)
    found = residual_structure(
        train.features, outputs, residuals, categorical=train.schema.categorical, seed=seed
    )
    low = found.gain - _SURE * found.gain_error
    numbers = {
        name: getattr(found, name)
        for name in ("rows", "model", "recalibrated", "explained", "gain", "gain_error")
    }
    told = (
        f"a small probe of the features explains {found.gain:.1%} (± "
        f"{1.96 * found.gain_error:.1%}) of the squared residual"
    )
    if found.model > _NO_FIT * found.recalibrated:
        seen = (
            f"mean squared residual {found.model:.3g}, {found.recalibrated:.3g} once recalibrated"
        )
        summary = (
            f"The answers are no fit to these {found.rows} training rows ({seen}): what is "
            "left to learn cannot be told."
        )
        remedy = (
            "Recalibrate; check that each feature reaches the model in the right order and unit."
        )
        yield this.finding(Severity.NOTE, summary, numbers=numbers, remedy=remedy, evidence=found)
        return
    if low > least:
        summary = f"Underfits: on {found.rows} training rows {told} that the model leaves."
        remedy = (
            "Train longer or at a higher rate, or take a larger model; check that every "
            "feature reaches it, in the right order."
        )
        yield this.finding(Severity.WARN, summary, numbers=numbers, remedy=remedy, evidence=found)
        return
    severity, summary = (Severity.NOTE, "Little") if low > 0 else (Severity.OK, "Nothing")
    yield this.finding(
        severity,
        f"{summary} is left to learn: {told} of the training rows.",
        numbers=numbers,
        evidence=found,
    )


def _unasked(train: Records, validation: Records | None) -> str | None:
    """Why a probe of these records would tell nothing."""
    columns = _columns(train)
    if len(train) < _FEWEST_ROWS:
        return f"{len(train)} training rows are too few to look for structure in their residuals."
    if not 0 < columns <= _MOST_COLUMNS or (
        train.logits is not None and train.logits.ndim > 1 and train.logits.shape[1] > _MOST_CLASSES
    ):
        return f"{columns} feature columns, or the classes, are too many for a small probe."
    residuals = _residuals(train)
    if not bool(residuals.isfinite().all()) or float(residuals.var(0).max()) < 1e-12:
        return "The residuals are constant or not finite: there is nothing to look for."
    if (
        validation is not None
        and validation.targets is not None
        and validation.logits is not None
        and len(validation) >= _FEWEST_ROWS
    ):
        own, other = (_residuals(records).square().sum(1) for records in (train, validation))
        error = float((own.var() / len(own) + other.var() / len(other)).sqrt())
        if float(other.mean() - own.mean()) > _SURE * error and float(other.mean()) > 1.1 * float(
            own.mean()
        ):
            return (
                f"The model fits its training rows better than others ({float(own.mean()):.3g} "
                f"against {float(other.mean()):.3g})."
            )
    return None


def _columns(records: Records) -> int:
    shape = () if records.features is None else records.features.shape[1:]
    return math.prod(shape) if shape else 0


def _residuals(records: Records) -> Tensor:
    """`[n, k]` float64 target minus prediction: of a value, of each class or of each label."""
    assert records.targets is not None
    assert records.logits is not None
    if records.targets.is_floating_point() and records.targets.ndim == 1:
        return (records.targets.double() - records.logits.double().reshape(len(records), -1)[:, 0])[
            :, None
        ]
    probs = records.probs.reshape(len(records), -1)
    targets = records.targets.to(probs.device)
    if targets.ndim == 1 and probs.shape[1] > 1:
        targets = one_hot(targets, probs.shape[1])
    return targets.double().reshape(len(records), -1) - probs

"""`curves.residuals`: whether features predict the residuals of the training rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.curves.residual_structure import ResidualStructure, residual_structure
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task

# A probe of more columns, or of residuals of more classes, costs too much.
_MAX_COLUMNS, _MAX_CLASSES, _MIN_ROWS = 400, 100, 200
# Standard errors by which the gain must exceed what matters: one false alarm in some thousand.
_Z = 3.1
# A model that was fitted to these rows is not this much worse on them than after recalibration:
# else the inputs or labels are not those of its training.
_MISFIT = 1.25


def _probe_cost(given: Mapping[str, Any]) -> Cost:
    """That of two cross-fitted probes, and next to nothing where they would be refused."""
    train = given["train"]
    n, columns, classes = min(len(train), 20_000), _column_count(train), _class_count(train)
    if columns > _MAX_COLUMNS or classes > _MAX_CLASSES:
        return Cost(elements=1e6)
    q = 96.0 + columns
    return Cost(elements=1.5 * n * q**2 + 10.0 * q**3 + 8.0 * n * q * classes + 3e7)


@check(
    "curves.residuals",
    cause=Cause.UNDERFITTING,
    needs=("train.features", "train.targets", "train.logits"),
    cost=_probe_cost,
    partial_labels=True,
)
def features_do_not_predict_residuals(
    train: Records,
    validation: Records | None = None,
    *,
    min_gain: float = 0.05,
    max_rows: int = 20_000,
    seed: int = 0,
) -> Iterator[Finding]:
    """The features do not predict the residuals of the training rows beyond the model's outputs.

    `residual_structure` is the measure. A model that fits its training rows better than the
    validation rows has learned more than there is, and is not tested.

    Source: Rahimi and Recht (2008), NeurIPS 21, for the probe; Goodfellow, Bengio and Courville
    (2016), Deep Learning, section 5.2: a training error that a simple model beats is underfitting.

    Args:
        train: records the model was fitted on.
        validation: validation records, to rule out overfitting.
        min_gain: share of the mean squared residual from which structure matters.
        max_rows: largest number of rows, drawn at random.
        seed: seed of the drawing and the probes.
    """
    this = features_do_not_predict_residuals
    if len(train) > max_rows:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        train = train.select(order[:max_rows])
    if reason := _obstacle(train, validation):
        yield this.finding(Severity.NOTE, reason, numbers={"rows": len(train)})
        return
    assert train.features is not None
    assert train.logits is not None
    structure = residual_structure(
        train.features,
        train.logits.reshape(len(train), -1),
        _residuals(train),
        categorical=train.schema.categorical,
        seed=seed,
    )
    severity, summary, remedy = _judgement(structure, min_gain)
    names = ("rows", "model", "recalibrated", "explained", "gain", "gain_error")
    numbers = {name: getattr(structure, name) for name in names}
    yield this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=structure)


def _judgement(structure: ResidualStructure, min_gain: float) -> tuple[Severity, str, str]:
    """Severity, summary and remedy."""
    if structure.model > _MISFIT * structure.recalibrated:
        summary = (
            f"The model does not fit these {structure.rows} training rows: its mean squared "
            f"residual is {structure.model:.3g}, and {structure.recalibrated:.3g} after "
            "recalibration. Underfitting cannot be judged."
        )
        remedy = (
            "Recalibrate. Check that each feature reaches the model in the right order and unit."
        )
        return Severity.NOTE, summary, remedy
    gain = (
        f"a small probe network predicts {structure.gain:.1%} ± {1.96 * structure.gain_error:.1%} "
        f"of the model's squared residual from the features ({structure.rows} training rows)"
    )
    low = structure.gain - _Z * structure.gain_error
    if low > min_gain:
        remedy = (
            "Train longer or at a higher rate, or use a larger model. Check that every feature "
            "reaches it, in the right order."
        )
        return Severity.WARN, f"Underfits: {gain}.", remedy
    if low > 0:
        return Severity.NOTE, f"Little is left to learn: {gain}.", ""
    return Severity.OK, f"The residuals show no structure: {gain}.", ""


def _obstacle(train: Records, validation: Records | None) -> str | None:
    """Why a probe of these records would show nothing; None where it would."""
    columns = _column_count(train)
    if len(train) < _MIN_ROWS:
        return f"Residuals are not tested: {len(train)} training rows are too few."
    classes = _class_count(train)
    if not 0 < columns <= _MAX_COLUMNS or classes > _MAX_CLASSES:
        return (
            f"Residuals are not tested: a small probe takes 1 to {_MAX_COLUMNS} feature columns "
            f"and at most {_MAX_CLASSES} classes, not {columns} and {classes}."
        )
    if train.task is Task.REGRESSION and classes != _target_count(train):
        return (
            f"Residuals are not tested: {_target_count(train)} targets do not fit {classes} "
            "outputs per row."
        )
    residuals = _residuals(train)
    if not bool(residuals.isfinite().all()) or float(residuals.var(0).max()) < 1e-12:
        return "Residuals are not tested: they are constant or not finite."
    return _overfit(train, validation)


def _overfit(train: Records, validation: Records | None) -> str | None:
    """That the model fits its training rows better than the validation rows; None where not."""
    if validation is None or validation.targets is None or validation.logits is None:
        return None
    if len(validation) < _MIN_ROWS:
        return None
    if validation.task is not train.task or _target_count(validation) != _target_count(train):
        return None
    own, other = (_residuals(records).square().sum(1) for records in (train, validation))
    error = float((own.var() / len(own) + other.var() / len(other)).sqrt())
    fitted, held_out = float(own.mean()), float(other.mean())
    if held_out - fitted <= _Z * error or held_out <= 1.1 * fitted:
        return None
    return (
        "Residuals are not tested: the model fits its training rows better than the validation "
        f"rows (mean squared residual {fitted:.3g} and {held_out:.3g})."
    )


def _column_count(records: Records) -> int:
    shape = () if records.features is None else records.features.shape[1:]
    return math.prod(shape) if shape else 0


def _class_count(records: Records) -> int:
    return 1 if records.logits is None or records.logits.ndim < 2 else records.logits.shape[1]


def _target_count(records: Records) -> int:
    return 1 if records.targets is None or records.targets.ndim < 2 else records.targets.shape[1]


def _residuals(records: Records) -> Tensor:
    """Target minus prediction, `[n, k]` float64: of each quantity, of each class or of each label.

    Several quantities are divided by the standard deviations of their targets; a label that is
    missing has no residual.
    """
    assert records.targets is not None
    assert records.logits is not None
    n, targets = len(records), records.targets.to(records.logits.device)
    if records.task is Task.REGRESSION:
        values = targets.double().reshape(n, -1)
        if values.shape[1] > 1:
            spread = (values - values.nanmean(0)).square().nanmean(0).sqrt()
            values, predicted = (
                part / spread.clamp(min=1e-12) for part in (values, records.logits.double())
            )
            return (values - predicted).nan_to_num(0.0)
        return values - records.logits.double().reshape(n, -1)
    probs = records.probs.reshape(n, -1)
    if targets.ndim == 1 and probs.shape[1] > 1:
        targets = one_hot(targets, probs.shape[1])
    residuals = targets.double().reshape(n, -1) - probs
    return residuals.masked_fill(targets.reshape(n, -1) == IGNORED, 0.0)

"""`shift.reproduced_change`: what serving code does to inputs, reproduced on rows of validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.inputs.origin import inputs_of
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import missing_labels
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.modality.modality import Modality
from gendebug_torch.modality.parts import Composite, composite_of, within_composites
from gendebug_torch.modality.strings import STRINGS, text_columns, texts_of
from gendebug_torch.modality.text import TEXT, text_modality
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_for
from gendebug_torch.shift.serving.reproduction import Reproduction, Side, reproduction
from gendebug_torch.stats.intervals import p_value_text

_MIN_ROWS = 60
# Where a sample leaves it open, so many times as many rows decide; and the p-value that is open.
_MORE, _UNSURE = 4, 0.05
_RUNS = 8
# What one change may leave of the distance, and at most, where each other one leaves so much.
_NEARLY_NOTHING, _AT_LEAST_HALF, _NO_HELP = 0.1, 0.5, 0.9
_TABLE = "the inputs are a table, see shift.serving_skew"


def _cost(given: Mapping[str, Any]) -> Cost:
    validation = given.get("validation")
    if validation is None or not len(validation):
        return Cost()
    whole = _composite(validation.select([0]))
    if whole is None and modality_of(validation.features, validation.modality) is None:
        return Cost()
    rows, main = min(len(validation), 800), validation.features if whole is None else whole.main
    forwards = rows * _RUNS / 2 if given.get("model") is not None else 0.0
    return Cost(forwards=forwards, elements=300.0 * rows * main[0].numel())


@check(
    "shift.reproduced_change",
    cause=Cause.TRAIN_SERVE_SKEW,
    needs=("validation.inputs", "production.inputs"),
    cost=_cost,
)
def no_named_change_turns_validation_into_production(
    validation: Records,
    production: Records,
    model: Model | None = None,
    *,
    alpha: float = 0.002,
    max_remaining: float = 0.3,
    rows: int = 800,
) -> Iterator[Finding]:
    """No change that serving code might make turns validation inputs into production's.

    Each named change of the modality (order of channels, scaling, rotation, blur; truncation,
    unknown tokens; units, exchanged or stuck channels) is applied to rows of validation. The one
    that brings their properties and the network's outputs nearest to production's is named where
    it leaves little of the distance, with the share of lost quality that it reproduces. Where a
    column of the metadata holds the texts behind token ids, and the network has a method `encode`
    (texts -> ids), changes of the texts are tried as well (case, cuts, encoding, white space).
    Without a network, and of a column of texts in a table, properties alone decide, and what the
    change costs is not known; other columns are judged by `shift.serving_skew`.

    Source: Szekely and Rizzo (2013), J. Stat. Plan. Inference 143:1249, for the distance.

    Args:
        validation: records with inputs.
        production: records with inputs.
        model: network that takes the inputs.
        alpha: chance of a false alarm.
        max_remaining: share of the distance that the named change may leave.
        rows: most rows of each side that are used, four times as many where these leave it open.
    """
    this = no_named_change_turns_validation_into_production
    reason, modality = _unfit(validation, production)
    if modality is None:
        if reason is _TABLE:
            lacks = ["images, texts or series"]
            yield this.finding(Severity.SKIPPED, f"Skipped: {reason}.", numbers={"lacks": lacks})
        else:
            yield this.finding(Severity.NOTE, f"Not judged: {reason}.")
        return
    among: tuple[str, ...] | None = None
    for most in (rows, _MORE * rows):
        sides = [_sample(side, most) for side in (validation, production)]
        found = _reproduction(model, sides, modality, alpha=alpha, among=among)
        # More rows decide among the changes that came near.
        among = tuple(change.name for change in found.changes) or None
        if max(map(len, sides)) < most or not _is_open(found, alpha, max_remaining):
            break
    what = "properties" if model is None or modality is STRINGS else "properties and outputs"
    text = (
        f"energy distance of {modality.name} {what} {found.distance:.2g}, "
        f"{p_value_text(found.p_value)}"
    )
    numbers = {"distance": found.distance, "p_value": found.p_value, "tried": found.tried}
    if found.p_value >= alpha or found.distance <= 0:
        yield this.finding(Severity.OK, f"Inputs look as before: {text}.", numbers=numbers)
        return
    if not _is_named(found, max_remaining):
        yield _unnamed(found, text, numbers)
    elif not found.changes[0].of_serving:
        yield _lacking(found, text, numbers)
    else:
        yield _named(found, sides[0], production, numbers)


def _is_named(found: Reproduction, max_remaining: float) -> bool:
    """Whether one change leaves little beyond doubt, or nearly nothing where no other one helps."""
    if not found.changes:
        return False
    most = float(found.high[0])
    if most <= max_remaining or len(found.changes) < 2:
        return most <= max_remaining
    # What texts lack may be what a change of serving code took from them.
    rest = torch.tensor([change.of_serving for change in found.changes[1:]])
    alone = bool((found.remaining[1:][rest] >= _NO_HELP).all())
    return alone and most <= _AT_LEAST_HALF and float(found.remaining[0]) <= _NEARLY_NOTHING


def _is_open(found: Reproduction, alpha: float, max_remaining: float) -> bool:
    """Whether more rows may decide: a distance near its limit, or a change that comes near."""
    if found.p_value >= alpha:
        return found.p_value < _UNSURE
    return bool(found.changes) and float(found.remaining[0]) < max_remaining < float(found.high[0])


def _reproduction(
    model: Model | None, sides: Sequence[Records], modality: Modality, **options: Any
) -> Reproduction:
    """What turns one side into the other, by the network, or of texts in a table without it.

    Args:
        model: network that takes the inputs.
        sides: rows of validation and of production.
        modality: what the inputs are.
        options: those of `reproduction`.
    """
    before, after = (_side(side, _classes(sides)) for side in sides)
    run = None if model is None or modality is STRINGS else partial(_outputs, model)
    whole = isinstance(before.inputs, Composite)
    if modality is TEXT:
        options["encode"] = None if whole else getattr(model, "encode", None)
        modality = text_modality(*(s.inputs.main if whole else s.inputs for s in (before, after)))
    modality = within_composites(modality) if whole else modality
    return reproduction(before, after, modality, run, **options)


def _outputs(model: Model, inputs: Any) -> Tensor:
    return logits_for(model, inputs.inputs if isinstance(inputs, Composite) else inputs)


def _composite(records: Records) -> Composite | None:
    """Inputs of several parts, one of which is an image, a text or a series."""
    return composite_of(inputs_of(records), records.modality)


def _unfit(validation: Records, production: Records) -> tuple[str, Modality | None]:
    """Why nothing can be judged, or the modality of the inputs, of several the changed one."""
    sides = [side.features for side in (validation, production)]
    wholes = [_composite(side.select([0])) for side in (validation, production)]
    if wholes[0] is not None and wholes[1] is not None:
        sides = [whole.main for whole in wholes if whole is not None]
        modality: Modality | None = wholes[0].part.modality
    else:
        modality = modality_of(sides[0], validation.modality)
    texts = validation.schema.text
    if all(isinstance(side, pd.DataFrame) and text_columns(side, texts) for side in sides):
        modality = STRINGS
    elif modality is None or not isinstance(sides[1], Tensor):
        return _TABLE, None
    elif isinstance(sides[0], Tensor) and sides[0].shape[1:] != sides[1].shape[1:]:
        return "the inputs of both sides have different shapes", None
    if min(len(validation), len(production)) < _MIN_ROWS:
        return f"fewer than {_MIN_ROWS} rows on one side", None
    return "", modality


def _sample(records: Records, rows: int) -> Records:
    if len(records) <= rows:
        return records
    generator = torch.Generator().manual_seed(0)
    return records.select(torch.randperm(len(records), generator=generator)[:rows].sort().values)


def _side(records: Records, classes: int) -> Side:
    """Inputs and, where every row has them, labels as columns: one for each class."""
    inputs: Any = records.features if (whole := _composite(records)) is None else whole
    if isinstance(inputs, pd.DataFrame):
        inputs = texts_of(inputs, declared=records.schema.text)
    targets, texts = records.targets, texts_of(records.metadata, declared=records.schema.text)
    if targets is None or bool(missing_labels(targets).any()):
        return Side(inputs, None, texts)
    named = targets.ndim == 1 and not targets.is_floating_point()
    columns = one_hot(targets.long(), classes) if named else targets.reshape(len(targets), -1)
    return Side(inputs, columns.float(), texts)


def _classes(sides: Sequence[Records]) -> int:
    """Number of classes that the outputs of a network or the labels of either side have."""
    outputs = [s.logits.shape[1] for s in sides if s.logits is not None and s.logits.ndim == 2]
    named = [side.targets for side in sides if side.targets is not None and len(side)]
    labels = [int(t.max()) + 1 for t in named if t.ndim == 1 and not t.is_floating_point()]
    return max([2, *outputs, *labels])


def _named(
    found: Reproduction, validation: Records, production: Records, numbers: dict[str, Any]
) -> Finding:
    """The finding of a change that turns validation into production."""
    this = no_named_change_turns_validation_into_production
    named, remaining = found.changes[0], float(found.remaining[0])
    numbers = numbers | {
        "change": named.name,
        "remaining": remaining,
        "remaining_low": float(found.low[0]),
        "remaining_high": float(found.high[0]),
        "undetermined": [change.name for change in found.rivals],
    }
    summary = (
        f"Production looks as if {named.text}: validation rows changed so keep "
        f"{remaining:.0%} of the distance to production (95 % interval "
        f"{float(found.low[0]):.0%} to {float(found.high[0]):.0%})"
    )
    lost = _lost_points(found, validation, production)
    # Where no network was run, nothing is known of what the change costs.
    severity = Severity.FAIL if found.logits.numel() else Severity.WARN
    if lost is not None:
        points, error, total = lost
        numbers |= {"points": points, "points_error": error, "points_lost": total}
        summary += f", and {_points_text(points, error, total)}"
        severity = Severity.FAIL if points - 2.576 * error > 0 else Severity.WARN
    others = " or ".join(change.text for change in found.rivals[:2])
    if others:
        summary += f". These rows do not tell it from: {others}"
    return this.finding(
        severity,
        f"{summary}.",
        subject=named.name,
        numbers=numbers,
        remedy="Compare the code that prepares inputs in serving and in training: "
        f"production looks as if {named.text}.",
        evidence=found,
    )


def _unnamed(found: Reproduction, text: str, numbers: dict[str, Any]) -> Finding:
    """The note of a difference that no change explains."""
    return no_named_change_turns_validation_into_production.finding(
        Severity.NOTE,
        f"Inputs look different ({text}), but none of {found.tried} changes that serving code "
        "might make turns validation inputs into production's.",
        numbers=numbers,
        remedy="Look at rows of both sides beside each other.",
        evidence=found,
    )


def _lacking(found: Reproduction, text: str, numbers: dict[str, Any]) -> Finding:
    """The note of something that production lacks, which no change of serving code explains."""
    lack, remaining = found.changes[0], float(found.remaining[0])
    summary = (
        f"Inputs look different ({text}), as those of production lack something and are otherwise "
        f"as before: {lack.text}, and validation rows without keep {remaining:.0%} of the distance."
    )
    return no_named_change_turns_validation_into_production.finding(
        Severity.NOTE,
        summary,
        numbers=numbers | {"change": lack.name, "remaining": remaining},
        remedy="See whether rows of production never had it, or serving code leaves it out.",
        evidence=found,
    )


def _points_text(points: float, error: float, total: float | None) -> str:
    """What the change does to the accuracy, beside what production lost."""
    if points - 1.96 * error <= 0:
        return f"their accuracy does not fall (by {points:.1f} ± {1.96 * error:.1f} points)"
    of = "" if total is None or total <= 0 else f" of the {total:.1f} points lost in production"
    return f"their accuracy falls by {points:.1f} ± {1.96 * error:.1f} points{of}"


def _lost_points(
    found: Reproduction, validation: Records, production: Records
) -> tuple[float, float, float | None] | None:
    """Points of accuracy lost by the change, with standard error, and those lost in production."""
    side = validation.select(found.rows)
    if side.targets is None or side.logits is None or side.targets.is_floating_point():
        return None
    if not found.logits.numel():
        return None
    changed = replace(side, logits=found.logits[0].to(side.logits.device))
    before, after = (rows.labeled().correct.double().cpu() for rows in (side, changed))
    if before.ndim == 2:
        before, after = before.mean(1), after.mean(1)
    if len(before) < _MIN_ROWS // 2:
        return None
    fall = 100 * (before - after)
    error = float(fall.std()) / math.sqrt(len(fall))
    known = production.targets is not None and production.logits is not None
    total = None
    if known and len(live := production.labeled()):
        total = 100 * float(validation.labeled().correct.double().mean())
        total -= 100 * float(live.correct.double().mean())
    return float(fall.mean()), error, total

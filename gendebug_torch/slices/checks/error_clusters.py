"""Check `slices.error_clusters`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.checks.finding import LARGEST_SHARE, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import numeric_features
from gendebug_torch.data.task import Task
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.modality.parts import main_of
from gendebug_torch.slices.checks._slicing import class_outputs, row_losses
from gendebug_torch.slices.clusters.error_clusters import ErrorClusters, error_clusters
from gendebug_torch.slices.search.error_events import errors_by_prediction
from gendebug_torch.slices.search.row_losses import RowLosses
from gendebug_torch.slices.statistics.correction import correction_gain
from gendebug_torch.stats.embeddings.projection import principal_components
from gendebug_torch.stats.intervals import wilson_interval

_MIN_ERRORS = 10
# Standard errors by which the gain of a correction must exceed zero.
_Z = 3.1
# Directions of an embedding in which errors are clustered, and the share of its variance.
_COMPONENTS = 12
_VARIANCE = 0.9
_SHOWN_ROWS = 20
# Mistakes of which examples are drawn, and examples of each.
_MISTAKES, _EXAMPLES = 4, 8


def _elements(records: Any) -> float:
    """Operations for one side: so many for each value of the features and the outputs."""
    if not isinstance(records, Records) or records.features is None or records.logits is None:
        return 0.0
    return 300.0 * (records.logits.numel() + math.prod(records.features.shape))


@check(
    "slices.error_clusters",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets", "validation.features"),
    cost=lambda given: Cost(elements=sum(map(_elements, given.values()))),
    partial_labels=True,
)
def errors_are_spread(
    validation: Records,
    production: Records | None = None,
    deadline: Deadline = NO_DEADLINE,
    *,
    clusters: int = 8,
    min_share: float = 0.25,
    min_concentration: float = 3.0,
    min_lift: float = 1.5,
    alpha: float = 0.002,
    min_gain: float = 0.25,
    threshold: float = 0.5,
    seed: int = 0,
) -> Iterator[Finding]:
    """Errors do not cluster in a region where the model's confidence expects fewer.

    k-means on the errors of one half; errors and correct rows of the other half are counted in the
    same regions. Of quantities and of several labels the errors are the 5 % of the rows with the
    largest loss for their prediction; a region of quantities is reported only if a correction
    fitted to its rows takes off much of its squared error: else it may be noise. Where records have
    the network's embedding, its principal components are clustered and properties describe the
    regions. Where only the errors of labeled production cluster, that is a note: other checks say
    what changed.

    Source: Arthur and Vassilvitskii (2007), SODA; d'Eon et al. (2022), The Spotlight,
    arXiv:2107.00758, for the question.

    Args:
        validation: labeled records with logits and numeric features.
        production: the same.
        deadline: when to stop.
        clusters: most clusters of errors.
        min_share: smallest share of all errors in one cluster that matters.
        min_concentration: smallest ratio of its share of the errors to its share of the correct
            rows.
        min_lift: smallest ratio of its errors to the expected ones.
        alpha: significance level over the clusters.
        min_gain: of quantities, smallest share of the squared error of a region that a correction
            must take off.
        threshold: threshold on the probability of a binary model.
        seed: seed of the halves and the clustering.
    """
    limits = _Limits(clusters, min_share, min_concentration, min_lift, alpha, min_gain, seed)
    yield _side_finding(validation, limits, threshold, deadline)
    if production is None or production.features is None or production.targets is None:
        return
    after = _side_finding(production, limits, threshold, deadline)
    if after.severity.level > Severity.NOTE.level:
        numbers = {key: value for key, value in after.numbers.items() if key != LARGEST_SHARE}
        text = f"In {production.name}: {after.summary}"
        yield replace(after, severity=Severity.NOTE, summary=text, numbers=numbers)


@dataclass(frozen=True)
class _Limits:
    """Options of the check that say which cluster fails."""

    clusters: int
    min_share: float
    min_concentration: float
    min_lift: float
    alpha: float
    min_gain: float
    seed: int

    def failing(self, found: ErrorClusters) -> list[int]:
        """Clusters with enough errors, concentrated and beyond what the confidence implies."""
        small = found.log_p <= math.log(self.alpha / len(found.descriptions))
        fails = (
            (found.share >= self.min_share)
            & (found.concentration >= self.min_concentration)
            & (found.lift >= self.min_lift)
            & small
        )
        return [int(i) for i in fails.nonzero()[:, 0]]


def _side_finding(
    records: Records, limits: _Limits, threshold: float, deadline: Deadline
) -> Finding:
    """Whether the errors of one side cluster."""
    this = errors_are_spread
    names, described = numeric_features(records)
    outputs, losses = class_outputs(records), row_losses(records)
    rows, error, expected = _errors(outputs, losses, threshold)
    count = int(error.sum())
    if not names or count < _MIN_ERRORS or count == len(error):
        text = f"{count} errors are too few to form clusters."
        if outputs is None and losses is None:
            text = "Not judged: the targets do not fit the outputs of the model."
        return this.finding(Severity.OK, text, numbers={"errors": count})
    words = described.cpu()[rows]
    inputs = words if records.embedding is None else _directions(records.embedding.cpu()[rows])
    found = error_clusters(
        inputs,
        error,
        expected=expected,
        names=names,
        described=words,
        clusters=limits.clusters,
        seed=limits.seed,
        deadline=deadline,
    )
    for i in limits.failing(found):
        gain = _gain(losses, inputs, found.assignment == i, limits.seed)
        if gain is None or gain >= limits.min_gain:
            shown = rows[found.telling[i][:_SHOWN_ROWS]]
            drawn = replace(found, examples=_examples(records, shown))
            return _failing_cluster(this, drawn, i, losses, gain, shown.tolist())
    return _no_failing_cluster(this, found, losses)


def _examples(records: Records, rows: Tensor) -> dict[str, Tensor]:
    """Images, series or texts of errors by their mistake, the commonest first, e.g. `3 -> 5`."""
    origin = records.select(rows).origin
    main = None if origin is None else main_of(origin.inputs(), records.modality)
    if main is None:
        return {}
    if records.task not in (Task.BINARY, Task.MULTICLASS):
        return {"largest losses": main[:_EXAMPLES].cpu()}
    assert records.targets is not None
    sides = [side[rows.to(side.device)].tolist() for side in (records.targets, records.predicted)]
    names = records.schema.classes
    mistakes = [
        f"{names[a] if names else a} \N{RIGHTWARDS ARROW} {names[b] if names else b}"
        for a, b in zip(*sides, strict=True)
    ]
    common = [name for name, _ in Counter(mistakes).most_common(_MISTAKES)]
    places = {name: [i for i, one in enumerate(mistakes) if one == name] for name in common}
    return {name: main[at[:_EXAMPLES]].cpu() for name, at in places.items()}


def _directions(embedding: Tensor) -> Tensor:
    """The principal components that most of an embedding varies along, on one scale."""
    (found,) = principal_components([embedding], _COMPONENTS, share=_VARIANCE)
    return found


def _errors(
    outputs: tuple[Tensor, Tensor] | None, losses: RowLosses | None, threshold: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Row numbers `[m]`, which of them are errors `[m]` bool, and their expected rate `[m]`."""
    if outputs is not None:
        event = errors_by_prediction(*outputs, threshold=threshold)[0]
        return event.rows, event.errors, event.expected_rate()
    if losses is not None:
        return losses.rows, losses.large(), None
    return torch.arange(0), torch.zeros(0, dtype=torch.bool), None


def _gain(losses: RowLosses | None, inputs: Tensor, inside: Tensor, seed: int) -> float | None:
    """Share of the squared error of a region that a correction surely takes off; None of labels."""
    if losses is None or losses.residuals is None:
        return None
    features = torch.cat([losses.scores[inside], inputs[inside]], 1)
    gain, error = correction_gain(losses.residuals[inside], features, seed=seed)
    return gain if gain > _Z * error else 0.0


def _numbers(found: ErrorClusters, i: int) -> dict[str, Any]:
    low, high = wilson_interval(found.errors, found.errors.sum().expand_as(found.errors))
    return {
        "errors": int(found.errors.sum()),
        "clusters": len(found.descriptions),
        "share": float(found.share[i]),
        "interval": [float(low[i]), float(high[i])],
        "share_of_correct": float(found.correct[i]) / max(int(found.correct.sum()), 1),
        "concentration": float(found.concentration[i]),
        "lift": float(found.lift[i]),
        "rate_elsewhere": _rate_elsewhere(found, i),
    }


def _rate_elsewhere(found: ErrorClusters, i: int) -> float:
    errors, correct = (float(counts.sum() - counts[i]) for counts in (found.errors, found.correct))
    return errors / max(errors + correct, 1.0)


def _no_failing_cluster(this: Check, found: ErrorClusters, losses: RowLosses | None) -> Finding:
    numbers = _numbers(found, 0)
    low, high = numbers["interval"]
    text = "Errors form no clusters."
    if len(found.descriptions) > 1:
        text = (
            f"Errors form {numbers['clusters']} clusters, but none has more errors than the "
            f"model's confidence expects. The largest has {numbers['share']:.0%} of the errors "
            f"(95 % interval {low:.0%} to {high:.0%}) and {numbers['share_of_correct']:.0%} of the "
            "correct rows."
        )
    if losses is not None:
        text = (
            f"The largest losses form {numbers['clusters']} clusters, but none that is both "
            f"concentrated and {'above' if losses.residuals is None else 'open to a correction'}"
            f"{' what the confidence implies' if losses.residuals is None else ''}."
        )
        if len(found.descriptions) == 1:
            text = "The largest losses form no clusters."
    numbers[LARGEST_SHARE] = 0.0
    return this.finding(Severity.OK, text, numbers=numbers, evidence=found)


def _failing_cluster(
    this: Check,
    found: ErrorClusters,
    i: int,
    losses: RowLosses | None,
    gain: float | None,
    shown: list[int],
) -> Finding:
    """The failing cluster with the most errors."""
    numbers, region = _numbers(found, i) | {"error_rows": shown}, found.descriptions[i]
    low, high = numbers["interval"]
    rows = int(found.errors[i] + found.correct[i])
    rate, expected = int(found.errors[i]) / rows, float(found.expected[i]) / rows
    where = f"(95 % interval {low:.0%} to {high:.0%}) lie in one region ({region})"
    others = f"{numbers['share_of_correct']:.0%} of the"
    text = (
        f"{numbers['share']:.0%} of the errors {where} with {others} correct rows. There "
        f"{rate:.0%} of the rows are errors; the model's confidence implies {expected:.0%}."
    )
    if losses is not None:
        text = (
            f"{numbers['share']:.0%} of the largest losses {where} with {others} other rows. There "
            f"{rate:.0%} of the rows have such losses, elsewhere {numbers['rate_elsewhere']:.0%}."
        )
    if gain is not None:
        numbers["gain"] = gain
        text += f" A correction fitted to these rows takes off {gain:.0%} of their squared error."
    # A redesign is decided by the share of the errors that one failing region explains.
    numbers[LARGEST_SHARE] = numbers["share"]
    return this.finding(
        Severity.FAIL if low >= 0.5 else Severity.WARN,
        text,
        subject=region,
        numbers=numbers,
        remedy="The model fails there systematically: add a feature or a simple second model for "
        "this region before retraining everything.",
        evidence=found,
    )

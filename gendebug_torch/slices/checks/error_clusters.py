"""Check `slices.error_clusters`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import LARGEST_SHARE, Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import numeric_features
from gendebug_torch.slices.checks._slicing import class_outputs
from gendebug_torch.slices.clusters.error_clusters import ErrorClusters, error_clusters
from gendebug_torch.slices.search.error_events import errors_by_prediction
from gendebug_torch.stats.intervals import wilson_interval

_MIN_ERRORS = 10


def _cells(records: Records) -> int:
    """Number of values among the features, of a table or a tensor."""
    return 0 if records.features is None else math.prod(records.features.shape)


@check(
    "slices.error_clusters",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets", "validation.features"),
    cost=lambda given: Cost(
        elements=300.0 * (given["validation"].logits.numel() + _cells(given["validation"]))
    ),
)
def errors_are_spread(
    validation: Records,
    *,
    clusters: int = 8,
    min_share: float = 0.25,
    min_concentration: float = 3.0,
    min_lift: float = 1.5,
    alpha: float = 0.002,
    threshold: float = 0.5,
    seed: int = 0,
) -> Iterator[Finding]:
    """Errors do not cluster in a region where the model's confidence expects fewer.

    k-means on the errors of one half; errors and correct rows of the other half are counted in the
    same regions.

    Source: Arthur and Vassilvitskii (2007), SODA; d'Eon et al. (2022), The Spotlight,
    arXiv:2107.00758, for the question.

    Args:
        validation: labeled records with logits and numeric features.
        clusters: most clusters of errors.
        min_share: smallest share of all errors in one cluster that matters.
        min_concentration: smallest ratio of its share of the errors to its share of the correct
            rows.
        min_lift: smallest ratio of its errors to the expected ones.
        alpha: significance level over the clusters.
        threshold: threshold on the probability of a binary model.
        seed: seed of the halves and the clustering.
    """
    this = errors_are_spread
    names, values = numeric_features(validation)
    outputs = class_outputs(validation)
    event = None if outputs is None else errors_by_prediction(*outputs, threshold=threshold)[0]
    count = 0 if event is None else int(event.errors.sum())
    if event is None or not names or count < _MIN_ERRORS or count == len(validation):
        text = f"{count} errors are too few to form clusters."
        yield this.finding(Severity.OK, text, numbers={"errors": count})
        return
    found = error_clusters(
        values,
        event.errors,
        expected=event.expected_rate(),
        names=names,
        clusters=clusters,
        seed=seed,
    )
    failing = (
        (found.share >= min_share)
        & (found.concentration >= min_concentration)
        & (found.lift >= min_lift)
        & (found.log_p <= math.log(alpha / len(found.descriptions)))
    ).nonzero()[:, 0]
    if len(failing):
        yield _failing_cluster(this, found, int(failing[0]))
    else:
        yield _no_failing_cluster(this, found)


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
    }


def _no_failing_cluster(this: Check, found: ErrorClusters) -> Finding:
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
    numbers[LARGEST_SHARE] = 0.0
    return this.finding(Severity.OK, text, numbers=numbers, evidence=found)


def _failing_cluster(this: Check, found: ErrorClusters, i: int) -> Finding:
    """The failing cluster with the most errors."""
    numbers, region = _numbers(found, i), found.descriptions[i]
    low, high = numbers["interval"]
    rows = int(found.errors[i] + found.correct[i])
    text = (
        f"{numbers['share']:.0%} of the errors (95 % interval {low:.0%} to {high:.0%}) lie in one "
        f"region ({region}) with {numbers['share_of_correct']:.0%} of the correct rows. There "
        f"{int(found.errors[i]) / rows:.0%} of the rows are errors; the model's confidence implies "
        f"{float(found.expected[i]) / rows:.0%}."
    )
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

"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost, check
from gendebug_torch.data.records import Records, numeric_features
from gendebug_torch.slices.checks._slices import _has_classes, _said
from gendebug_torch.slices.clusters import ErrorClusters, error_clusters
from gendebug_torch.slices.search.events import promised_events
from gendebug_torch.stats.intervals import wilson_interval

_FEWEST_EVENTS = 10


def _cells(records: Records) -> int:
    """Values among the features, of a table or a tensor."""
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
    """Errors do not crowd in one region of feature space where the model's confidence promises
    fewer.

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
        min_lift: smallest ratio of its errors to those promised.
        alpha: chance of a false alarm over the clusters.
        threshold: on the probability of a binary model.
        seed: of the halves and the clustering.
    """
    this = errors_are_spread
    names, values = numeric_features(validation)
    event = (
        promised_events(*_said(validation), threshold=threshold)[0]
        if _has_classes(validation)
        else None
    )
    count = 0 if event is None else int(event.happened.sum())
    if event is None or not names or count < _FEWEST_EVENTS or count == len(validation):
        yield this.finding(
            Severity.OK, f"{count} errors are too few to form clusters.", numbers={"errors": count}
        )
        return
    found = error_clusters(
        values, event.happened, expected=event.promise(), names=names, clusters=clusters, seed=seed
    )
    surprising = found.log_p <= math.log(alpha / len(found.words))
    crowded = (
        (found.share >= min_share)
        & (found.concentration >= min_concentration)
        & (found.lift >= min_lift)
        & surprising
    )
    yield _crowd(this, found, crowded)


def _crowd(this: Check, found: ErrorClusters, crowded: Tensor) -> Finding:
    """A finding about the crowded cluster with the most errors, or about the largest of all where
    none is crowded.
    """
    at = int(crowded.nonzero()[0, 0]) if bool(crowded.any()) else 0
    share, errors = float(found.share[at]), int(found.errors.sum())
    low, high = (
        float(bound[at])
        for bound in wilson_interval(found.errors, found.errors.sum().expand_as(found.errors))
    )
    correct = float(found.correct[at]) / max(int(found.correct.sum()), 1)
    numbers: dict[str, Any] = {
        "errors": errors,
        "clusters": len(found.words),
        "share": share,
        "interval": [low, high],
    }
    numbers |= {
        "share_of_correct": correct,
        "concentration": float(found.concentration[at]),
        "lift": float(found.lift[at]),
    }
    # The number that a redesign hangs on: the share of the errors that one failing region explains.
    numbers |= {"largest_share": share if bool(crowded.any()) else 0.0}
    if not bool(crowded.any()):
        told = (
            "Errors form no clusters"
            if len(found.words) == 1
            else f"Errors form {len(found.words)} clusters"
        )
        rest = (
            f": the largest holds {share:.0%} of them (95 % interval {low:.0%} to {high:.0%}) "
            f"and {correct:.0%} of the correct rows"
        )
        summary = (
            f"{told}{rest if len(found.words) > 1 else ''}; none fails beyond what the "
            "model's confidence says."
        )
        return this.finding(Severity.OK, summary, numbers=numbers, evidence=found)
    rows = int(found.errors[at] + found.correct[at])
    summary = (
        f"{share:.0%} of the errors (95 % interval {low:.0%} to {high:.0%}) lie in one region "
        f"({found.words[at]}) that holds {correct:.0%} "
        f"of the correct rows; the model errs there in {int(found.errors[at]) / rows:.0%} of "
        "rows, its confidence promises "
        f"{float(found.expected[at]) / rows:.0%}."
    )
    remedy = (
        "The model fails there as a rule: add a feature or a simple second model for this "
        "region before retraining everything."
    )
    severity = Severity.FAIL if low >= 0.5 else Severity.WARN
    return this.finding(
        severity, summary, subject=found.words[at], numbers=numbers, remedy=remedy, evidence=found
    )

"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch._tables import numeric_features
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Check, Cost, check
from gendebug_torch.slices.change import SliceChange, slice_change
from gendebug_torch.slices.clusters import ErrorClusters, error_clusters
from gendebug_torch.slices.columns import fit_binnings
from gendebug_torch.slices.search import Slices, find_slices
from gendebug_torch.stats import wilson_interval

# With fewer rows or events the halves of a split would both be blind.
_ROWS_TO_SPLIT = 2000
_EVENTS_TO_SPLIT = 100
_FEWEST_EVENTS = 10


def _cost(given: Mapping[str, Any]) -> Cost:
    elements = 1.0
    for name in ("validation", "production"):
        records = given.get(name)
        if records is not None:
            columns = sum(part.shape[1] for part in (records.features, records.metadata) if isinstance(part, pd.DataFrame))
            elements += len(records) * (8.0 * columns) ** 2
    return Cost(elements=elements)


@check("slices.worst", cause=Cause.SUBGROUP_FAILURE, needs=("validation.logits", "validation.targets"), cost=_cost)
def no_slice_fails(
    validation: Records, *, threshold: float = 0.5, alpha: float = 0.05, min_lift: float = 1.5, limit: int = 5, seed: int = 0
) -> Iterator[Finding]:
    """No subgroup of the rows, by one or two columns, is much worse than the whole.

    Every one- and two-way slice of metadata and features is tested for its error rate and, for a binary model,
    for its missed positives and its false alarms; the alpha is shared among these. Where there are rows enough,
    one random half proposes and the other half confirms.

    Source: Fisher (1935), The Design of Experiments; Benjamini and Hochberg (1995), JRSS B 57:289; Chung et al.
    (2019), Slice Finder, arXiv:1807.06068, for the question.

    Args:
        validation: labeled records with logits and named columns.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_lift: smallest ratio of the slice's rate to the overall rate that matters.
        limit: most slices to report for each event.
        seed: of the split into halves.
    """
    this = no_slice_fails
    columns = slicing_columns(validation)
    events = _events(validation, threshold)
    if columns is None or not events:
        yield this.finding(Severity.NOTE, "No named columns to slice by, or no class targets.")
        return
    quiet = True
    for name, (asked, event) in events.items():
        rows = asked.nonzero()[:, 0]
        found = _confirmed(columns.iloc[rows.numpy()].reset_index(drop=True), event[rows], alpha / len(events), name, seed)
        for finding in _slice_findings(this, found, min_lift, limit):
            quiet = False
            yield finding
    if quiet:
        rates = {name: float(event[asked].double().mean()) if bool(asked.any()) else None for name, (asked, event) in events.items()}
        yield this.finding(Severity.OK, f"No slice of {columns.shape[1]} columns is worse than the whole beyond chance.", numbers=rates)


def _confirmed(columns: pd.DataFrame, event: Tensor, alpha: float, name: str, seed: int) -> Slices:
    """Slices found on all rows, or proposed by one half and tested again on the other."""
    if len(columns) < _ROWS_TO_SPLIT or int(event.sum()) < _EVENTS_TO_SPLIT:
        return find_slices(columns, event, alpha=alpha, name=name)
    order = torch.randperm(len(columns), generator=torch.Generator().manual_seed(seed))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    binnings = fit_binnings(columns)
    frames = [columns.iloc[half.numpy()].reset_index(drop=True) for half in halves]
    proposed = find_slices(frames[0], event[halves[0]], binnings=binnings, alpha=2 * alpha, min_support=15, name=name)
    return find_slices(frames[1], event[halves[1]], binnings=binnings, only=proposed.members, alpha=alpha, min_support=15, name=name)


def _slice_findings(this: Check, found: Slices, min_lift: float, limit: int) -> Iterator[Finding]:
    low, high = wilson_interval(found.events, found.support)
    overall = found.total[1] / max(found.total[0], 1)
    shown = 0
    for i, name in enumerate(found.names):
        lift, rate = float(found.lift[i]), float(found.rate[i])
        if lift < min_lift or float(low[i]) <= overall or shown == limit:
            continue
        shown += 1
        interval = [float(low[i]), float(high[i])]
        numbers = {"support": int(found.support[i]), "rate": rate, "interval": interval, "overall": overall, "lift": lift}
        numbers |= {"adjusted_p_value": float(found.adjusted[i]), "asked": found.asked, "event": found.event}
        summary = (
            f"{found.event.capitalize()} rate {rate:.1%} (95 % interval {interval[0]:.1%} to {interval[1]:.1%}) where {name}, "
            f"against {overall:.1%} overall; {int(found.support[i]):,} rows, one of {found.asked:,} slices asked."
        )
        remedy = f"Look at rows where {name}; collect more of them, add a feature that tells them apart, or give them a model of their own."
        severity = Severity.FAIL if interval[0] > 2 * overall and interval[0] - overall > 0.05 else Severity.WARN
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found)


_CHANGE_NEEDS = ("validation.logits", "validation.targets", "production.logits", "production.targets")


@check("slices.collapse", cause=Cause.SUBGROUP_FAILURE, needs=_CHANGE_NEEDS, cost=_cost)
def no_slice_collapsed(
    validation: Records, production: Records, *, threshold: float = 0.5, alpha: float = 0.05, min_change: float = 0.1, limit: int = 5
) -> Iterator[Finding]:
    """No subgroup got much worse in production while the whole stayed almost as it was.

    For every one- and two-way slice the change of its error rate, and of a binary model's missed positives, is
    compared with the change outside the slice.

    Source: Benjamini and Hochberg (1995), JRSS B 57:289; Agresti and Caffo (2000), Am. Stat. 54:280, for the
    add-one counts.

    Args:
        validation: labeled records with logits.
        production: labeled records with logits.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_change: smallest rise of the rate, beyond that of all rows, that matters.
        limit: most slices to report for each event.
    """
    this = no_slice_collapsed
    before, after = slicing_columns(validation), slicing_columns(production)
    events = _events(validation, threshold), _events(production, threshold)
    shared = [name for name in events[0] if name in events[1]]
    if before is None or after is None or not shared:
        yield this.finding(Severity.NOTE, "No named columns to slice by, or no class targets.")
        return
    quiet = True
    for name in shared:
        sides = [(frame[asked.numpy()].reset_index(drop=True), event[asked]) for frame, (asked, event) in
                 ((before, events[0][name]), (after, events[1][name]))]
        change = slice_change(*sides[0], *sides[1], name=name)
        for finding in _change_findings(this, change, alpha / len(shared), min_change, limit):
            quiet = False
            yield finding
    if quiet:
        yield this.finding(Severity.OK, "No slice got worse in production beyond the change of all rows.")


def _change_findings(this: Check, change: SliceChange, alpha: float, min_change: float, limit: int) -> Iterator[Finding]:
    before, after = (side[:, 1] / side[:, 0].clamp(min=1) for side in (change.before, change.after))
    moved = (change.adjusted < alpha) & (change.change - max(change.whole, 0.0) >= min_change)
    for i in moved.nonzero()[:limit, 0].tolist():
        name, then, now = change.names[i], float(before[i]), float(after[i])
        numbers: dict[str, Any] = {"rate_validation": then, "rate_production": now, "change": now - then, "change_overall": change.whole}
        numbers |= {"support": int(change.after[i, 0]), "adjusted_p_value": float(change.adjusted[i]), "event": change.event}
        rise = f"{change.event.capitalize()} rate rose from {then:.1%} to {now:.1%} where {name}"
        summary = f"{rise}, while it changed by {change.whole:+.1%} overall."
        remedy = f"Look at production rows where {name}: what about them is new? Retrain with them, or route them elsewhere meanwhile."
        severity = Severity.FAIL if now - then >= 2 * min_change else Severity.WARN
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=change)


@check(
    "slices.error_clusters",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets", "validation.features"),
    cost=lambda given: Cost(elements=100.0 * given["validation"].logits.numel()),
)
def errors_are_spread(
    validation: Records, *, clusters: int = 5, min_share: float = 0.3, min_concentration: float = 4.0
) -> Iterator[Finding]:
    """Errors do not crowd in one region of feature space that holds few correct rows.

    k-means on the errors; correct rows are assigned to the same regions.

    Source: Arthur and Vassilvitskii (2007), SODA; d'Eon et al. (2022), The Spotlight,
    arXiv:2107.00758, for the question.

    Args:
        validation: labeled records with logits and numeric features.
        clusters: most clusters of errors; from 2 on, the clearest is taken.
        min_share: smallest share of all errors in one cluster that matters.
        min_concentration: smallest ratio of its share of the errors to its share of the correct rows.
    """
    this = errors_are_spread
    names, values = numeric_features(validation)
    events = _events(validation, 0.5)
    error = events["error"][1] if events else torch.zeros(0, dtype=torch.bool)
    count = int(error.sum())
    if not names or count < _FEWEST_EVENTS * clusters or count == len(error):
        yield this.finding(Severity.OK, f"{count} errors are too few to form clusters.", numbers={"errors": count})
        return
    found = _most_crowded(values, error, names, clusters, min_share)
    share, low, high = found.largest_share
    shares = found.errors.double() / found.errors.sum()
    crowded = ((shares >= min_share) & (found.concentration >= min_concentration)).nonzero()[:, 0].tolist()
    numbers: dict[str, Any] = {"largest_share": share, "interval": [low, high], "errors": count}
    if not crowded:
        summary = f"Errors are spread: the largest cluster holds {share:.0%} of them (95 % interval {low:.0%} to {high:.0%})."
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=found)
        return
    at = crowded[0]
    numbers |= {"concentration": float(found.concentration[at]), "share": float(shares[at])}
    summary = (
        f"{float(shares[at]):.0%} of the errors lie in one region ({found.words[at]}) that holds "
        f"{float(found.correct[at]) / max(int(found.correct.sum()), 1):.0%} of the correct rows."
    )
    remedy = "The model fails there as a rule: add a feature or a simple second model for this region before retraining everything."
    yield this.finding(Severity.WARN, summary, subject=found.words[at], numbers=numbers, remedy=remedy, evidence=found)


def _most_crowded(values: Tensor, error: Tensor, names: tuple[str, ...], clusters: int, min_share: float) -> ErrorClusters:
    """The clustering, among 2 to k clusters, whose cluster of at least `min_share` of the errors is most concentrated."""
    tried = [error_clusters(values, error, names=names, clusters=k) for k in range(2, clusters + 1)]

    def worst(found: ErrorClusters) -> float:
        large = found.errors >= min_share * found.errors.sum()
        return float(found.concentration[large].max()) if bool(large.any()) else 0.0

    return max(tried, key=worst)


def slicing_columns(records: Records) -> pd.DataFrame | None:
    """Metadata and named features that a slice may be cut by; ids are left out."""
    parts = [part for part in (records.metadata, records.features) if isinstance(part, pd.DataFrame)]
    if not parts:
        return None
    joined = pd.concat([part.reset_index(drop=True) for part in parts], axis=1)
    return joined.drop(columns=[name for name in records.schema.ids if name in joined])


def _events(records: Records, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Event -> (rows that can have it, rows that have it), for class targets."""
    targets, logits = records.targets, records.logits
    if targets is None or logits is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return {}
    everyone = torch.ones(len(records), dtype=torch.bool)
    probs = records.probs
    if probs.ndim == 2 and probs.shape[1] != 2:
        return {"error": (everyone, ~records.correct)}
    said = (probs if probs.ndim == 1 else probs[:, 1]) > threshold
    true = targets == 1
    return {"error": (everyone, said != true), "missed positive": (true, ~said & true), "false alarm": (~true, said & ~true)}

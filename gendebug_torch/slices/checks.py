"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
from gendebug_torch.slices.columns import Binning, fit_binnings
from gendebug_torch.slices.events import Event, plain_events, promised_events
from gendebug_torch.slices.found import Slices
from gendebug_torch.slices.search import confirmed_slices, find_slices
from gendebug_torch.stats import wilson_interval

# With fewer rows or events the halves of a split would both be blind.
_ROWS_TO_SPLIT = 4000
_EVENTS_TO_SPLIT = 200
_FEWEST_EVENTS = 10
# An excess of this many points matters whatever its ratio: half of the rows wrong instead of 0.4.
_ENOUGH_POINTS = 0.1
# Tensor features are sliced by their columns up to this many.
_MOST_TENSOR_COLUMNS = 64


def _cells(records: Records) -> int:
    """Values among the features, of a table or a tensor."""
    return 0 if records.features is None else math.prod(records.features.shape)


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
    validation: Records, *, threshold: float = 0.5, alpha: float = 0.002, min_lift: float = 1.5, limit: int = 5, seed: int = 0
) -> Iterator[Finding]:
    """No subgroup of the rows, by one or two columns, fails more often than the model's own confidence says.

    Every one- and two-way slice of metadata and features is asked whether errors, and for two classes missed
    positives and false alarms, are more frequent than among rows of the same score: a slice that is hard is named
    in passing, one where the model is wrong about itself is the alarm. Where there are rows enough, one random half
    proposes and the other half confirms.

    Source: Ayer et al. (1955), Ann. Math. Stat. 26:641, for the expectation; Benjamini and Hochberg (1995), JRSS B
    57:289; Chung et al. (2019), Slice Finder, arXiv:1807.06068, for the question.

    Args:
        validation: labeled records with logits and named columns.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_lift: smallest ratio of the slice's rate to what was promised that matters; so does an excess of 10 points.
        limit: most slices to report.
        seed: of the split into halves.
    """
    this = no_slice_fails
    columns = slicing_columns(validation)
    if columns is None or not _has_classes(validation):
        yield _nothing_to_slice(this)
        return
    cuts = fit_binnings(columns, categorical=validation.schema.categorical)
    events = promised_events(*_said(validation), threshold=threshold)
    failing: dict[str, list[tuple[Slices, int]]] = {}
    for event in events:
        found = _failing(columns, cuts, event, alpha / len(events), seed)
        for place in _mattering(found, min_lift):
            failing.setdefault(found.names[place], []).append((found, place))
    worst_first = sorted(failing.values(), key=lambda cases: min(float(found.log_p[place]) for found, place in cases))
    among = {event.name: event.among for event in events}
    for cases in worst_first[:limit]:
        yield _failing_slice(this, cases, among)
    if not failing:
        yield _hardest_slice(this, columns, cuts, events[0])


def _failing(columns: pd.DataFrame, cuts: Sequence[Binning], event: Event, alpha: float, seed: int) -> Slices:
    """Slices beyond what was promised: found on all rows, or proposed by one half and confirmed by the other."""
    frame = columns.iloc[event.rows.numpy()]
    options: dict[str, Any] = {"binnings": cuts, "alpha": alpha, "name": event.name}
    if len(frame) < _ROWS_TO_SPLIT or int(event.happened.sum()) < _EVENTS_TO_SPLIT:
        return find_slices(frame, event.happened, expected=event.promise(), **options)
    return confirmed_slices(frame, event.happened, promise=event.promise, seed=seed, **options)


def _mattering(found: Slices, min_lift: float) -> list[int]:
    low, _ = found.interval()
    large = (found.lift >= min_lift) | (found.rate - found.expected_rate >= _ENOUGH_POINTS)
    places: list[int] = (large & (low > found.expected_rate)).nonzero()[:, 0].tolist()
    return places


def _failing_slice(this: Check, cases: list[tuple[Slices, int]], among: Mapping[str, str]) -> Finding:
    """One finding of all that goes wrong in a slice, the most significant event first."""
    found, at = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    name, rate, promised = found.names[at], float(found.rate[at]), float(found.expected_rate[at])
    low, high = (float(bound[at]) for bound in found.interval())
    overall = found.overall[1] / max(found.overall[0], 1)
    numbers: dict[str, Any] = {"event": found.name, "support": int(found.support[at]), "rate": rate, "interval": [low, high]}
    numbers |= {"promised": promised, "overall": overall, "lift": float(found.lift[at]), "adjusted_p_value": float(found.adjusted[at])}
    share = float(found.total[at]) / max(found.overall[1], 1)
    numbers |= {"asked": found.asked, "same_rows_as": list(found.also[at][:3]), "share_of_events": share}
    numbers |= {f"{other.name.replace(' ', '_')}_rate": float(other.rate[place]) for other, place in cases}
    summary = (
        f"{found.name.capitalize()} rate {rate:.1%} (95 % interval {low:.1%} to {high:.1%}) where {name}, while the model's "
        f"confidence promises {promised:.1%} there; {overall:.1%} over {among[found.name]}. {int(found.support[at]):,} rows, "
        f"one of {found.asked:,} slices asked."
    )
    remedy = (
        f"Look at rows where {name}: are their labels and features sound? Then add a feature that tells what is different there, "
        "collect more of them, or give them a model of their own."
    )
    broken = low > 2 * promised and low - promised > _ENOUGH_POINTS / 2
    severity = Severity.FAIL if broken else Severity.WARN
    return this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found)


def _hardest_slice(this: Check, columns: pd.DataFrame, cuts: Sequence[Binning], event: Event) -> Finding:
    """What to say where nothing fails: the slice with the clearest excess of errors, which the model owns up to."""
    hard = find_slices(columns, event.happened, binnings=cuts, limit=5, name=event.name)
    numbers: dict[str, Any] = {"rows": len(columns), "columns": columns.shape[1], "errors": int(event.happened.sum())}
    summary = f"No slice of {columns.shape[1]} columns fails beyond what the model's confidence says there."
    if len(hard):
        inside = hard.mask(columns, 0)
        promised = float(event.promise()[inside].mean())
        numbers |= {"hardest": hard.names[0], "rate": float(hard.rate[0]), "promised": promised}
        summary += f" The hardest one, {hard.names[0]}, errs in {float(hard.rate[0]):.1%} of rows and promises {promised:.1%}."
    return this.finding(Severity.OK, summary, numbers=numbers, evidence=hard if len(hard) else None)


_CHANGE_NEEDS = ("validation.logits", "validation.targets", "production.logits", "production.targets")


@check("slices.collapse", cause=Cause.SUBGROUP_FAILURE, needs=_CHANGE_NEEDS, cost=_cost)
def no_slice_collapsed(
    validation: Records, production: Records, *, threshold: float = 0.5, alpha: float = 0.002, min_change: float = 0.1, limit: int = 5
) -> Iterator[Finding]:
    """No subgroup got much worse in production while the whole stayed almost as it was.

    For every one- and two-way slice the change of its error rate, and for two classes of its missed positives
    (1 - recall) and false alarms, is compared with the change outside the slice, on the scale of log odds.

    Source: Breslow and Day (1980), Statistical Methods in Cancer Research 1, section 4.4, for the homogeneity of odds
    ratios; Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        validation: labeled records with logits.
        production: labeled records with logits.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_change: smallest rise of the rate, beyond that of all rows, that matters.
        limit: most slices to report.
    """
    this = no_slice_collapsed
    sides = (validation, production)
    columns = [frame for frame in map(slicing_columns, sides) if frame is not None]
    if len(columns) < len(sides) or not all(map(_has_classes, sides)):
        yield _nothing_to_slice(this)
        return
    events = [_plain(records, threshold) for records in sides]
    cuts = fit_binnings(columns[0], categorical=validation.schema.categorical)
    shared = [name for name in events[0] if name in events[1]]
    worse: dict[str, list[tuple[SliceChange, int]]] = {}
    wholes = {}
    for name in shared:
        cases = [(columns[side], *events[side][name]) for side in (0, 1)]
        before, after = ((frame[asked.numpy()], event[asked]) for frame, asked, event in cases)
        change = slice_change(*before, *after, binnings=cuts, alpha=alpha / len(shared), name=name)
        wholes[f"{name.replace(' ', '_')}_change"] = change.whole
        rise = change.change - max(change.whole, 0.0)
        for place in (rise >= min_change).nonzero()[:, 0].tolist():
            worse.setdefault(change.names[place], []).append((change, place))
    worst_first = sorted(worse.values(), key=lambda risen: min(float(change.log_p[place]) for change, place in risen))
    for risen in worst_first[:limit]:
        yield _collapsed_slice(this, risen, min_change)
    if not worse:
        said = ", ".join(f"{name.removesuffix('_change').replace('_', ' ')} rate {value:+.1%}" for name, value in wholes.items())
        yield this.finding(Severity.OK, f"No slice got worse in production beyond the change of all rows ({said}).", numbers=wholes)


def _collapsed_slice(this: Check, cases: list[tuple[SliceChange, int]], min_change: float) -> Finding:
    change, at = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    counts = torch.stack([change.before[at], change.after[at]])
    then, now = (counts[:, 1] / counts[:, 0].clamp(min=1)).tolist()
    low, high = wilson_interval(counts[:, 1], counts[:, 0])
    numbers: dict[str, Any] = {"event": change.name, "rate_validation": then, "rate_production": now, "change": now - then}
    numbers |= {"interval_validation": [float(low[0]), float(high[0])], "interval_production": [float(low[1]), float(high[1])]}
    numbers |= {
        "change_overall": change.whole,
        "share_of_rise": float(change.share_of_rise[at]),
        "support": int(counts[1, 0]),
        "adjusted_p_value": float(change.adjusted[at]),
    }
    numbers |= {"asked": change.asked} | {f"{other.name.replace(' ', '_')}_change": float(other.change[place]) for other, place in cases}
    summary = (
        f"{change.name.capitalize()} rate rose from {then:.1%} to {now:.1%} (95 % interval {float(low[1]):.1%} to {float(high[1]):.1%}) "
        f"where {change.names[at]}, while it changed by {change.whole:+.1%} overall; {int(counts[1, 0]):,} rows in production."
    )
    remedy = (
        f"Look at production rows where {change.names[at]}: what about them is new? Until the model is retrained with them, "
        "route them elsewhere."
    )
    severity = Severity.FAIL if float(low[1]) - then >= min_change else Severity.WARN
    return this.finding(severity, summary, subject=change.names[at], numbers=numbers, remedy=remedy, evidence=change)


@check(
    "slices.error_clusters",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets", "validation.features"),
    cost=lambda given: Cost(elements=300.0 * (given["validation"].logits.numel() + _cells(given["validation"]))),
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
    """Errors do not crowd in one region of feature space where the model's confidence promises fewer.

    k-means on the errors of one half; errors and correct rows of the other half are counted in the same regions.

    Source: Arthur and Vassilvitskii (2007), SODA; d'Eon et al. (2022), The Spotlight, arXiv:2107.00758, for the
    question.

    Args:
        validation: labeled records with logits and numeric features.
        clusters: most clusters of errors.
        min_share: smallest share of all errors in one cluster that matters.
        min_concentration: smallest ratio of its share of the errors to its share of the correct rows.
        min_lift: smallest ratio of its errors to those promised.
        alpha: chance of a false alarm over the clusters.
        threshold: on the probability of a binary model.
        seed: of the halves and the clustering.
    """
    this = errors_are_spread
    names, values = numeric_features(validation)
    event = promised_events(*_said(validation), threshold=threshold)[0] if _has_classes(validation) else None
    count = 0 if event is None else int(event.happened.sum())
    if event is None or not names or count < _FEWEST_EVENTS or count == len(validation):
        yield this.finding(Severity.OK, f"{count} errors are too few to form clusters.", numbers={"errors": count})
        return
    found = error_clusters(values, event.happened, expected=event.promise(), names=names, clusters=clusters, seed=seed)
    surprising = found.log_p <= math.log(alpha / len(found.words))
    crowded = (found.share >= min_share) & (found.concentration >= min_concentration) & (found.lift >= min_lift) & surprising
    yield _crowd(this, found, crowded)


def _crowd(this: Check, found: ErrorClusters, crowded: Tensor) -> Finding:
    """A finding about the crowded cluster with the most errors, or about the largest of all where none is crowded."""
    at = int(crowded.nonzero()[0, 0]) if bool(crowded.any()) else 0
    share, errors = float(found.share[at]), int(found.errors.sum())
    low, high = (float(bound[at]) for bound in wilson_interval(found.errors, found.errors.sum().expand_as(found.errors)))
    correct = float(found.correct[at]) / max(int(found.correct.sum()), 1)
    numbers: dict[str, Any] = {"errors": errors, "clusters": len(found.words), "share": share, "interval": [low, high]}
    numbers |= {"share_of_correct": correct, "concentration": float(found.concentration[at]), "lift": float(found.lift[at])}
    # The number that a redesign hangs on: the share of the errors that one failing region explains.
    numbers |= {"largest_share": share if bool(crowded.any()) else 0.0}
    if not bool(crowded.any()):
        told = "Errors form no clusters" if len(found.words) == 1 else f"Errors form {len(found.words)} clusters"
        rest = f": the largest holds {share:.0%} of them (95 % interval {low:.0%} to {high:.0%}) and {correct:.0%} of the correct rows"
        summary = f"{told}{rest if len(found.words) > 1 else ''}; none fails beyond what the model's confidence says."
        return this.finding(Severity.OK, summary, numbers=numbers, evidence=found)
    rows = int(found.errors[at] + found.correct[at])
    summary = (
        f"{share:.0%} of the errors (95 % interval {low:.0%} to {high:.0%}) lie in one region ({found.words[at]}) that holds {correct:.0%} "
        f"of the correct rows; the model errs there in {int(found.errors[at]) / rows:.0%} of rows, its confidence promises "
        f"{float(found.expected[at]) / rows:.0%}."
    )
    remedy = "The model fails there as a rule: add a feature or a simple second model for this region before retraining everything."
    severity = Severity.FAIL if low >= 0.5 else Severity.WARN
    return this.finding(severity, summary, subject=found.words[at], numbers=numbers, remedy=remedy, evidence=found)


def slicing_columns(records: Records) -> pd.DataFrame | None:
    """Metadata and named features that a slice may be cut by; ids are left out, few tensor columns get names."""
    features = records.features
    if isinstance(features, Tensor):
        few = features.ndim == 2 and features.shape[1] <= _MOST_TENSOR_COLUMNS
        features = pd.DataFrame(features.cpu().numpy()).add_prefix("feature_") if few else None
    parts = [part.reset_index(drop=True) for part in (records.metadata, features) if part is not None]
    if not parts:
        return None
    joined = pd.concat(parts, axis=1)
    joined = joined.loc[:, ~joined.columns.duplicated()]
    kept = joined.drop(columns=[name for name in records.schema.ids if name in joined])
    return kept if kept.shape[1] else None


def _has_classes(records: Records) -> bool:
    targets = records.targets
    return targets is not None and records.logits is not None and targets.dtype == torch.int64 and targets.ndim == 1


def _said(records: Records) -> tuple[Tensor, Tensor]:
    assert records.logits is not None
    assert records.targets is not None
    return records.logits, records.targets


def _plain(records: Records, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
    return plain_events(*_said(records), threshold=threshold)


def _nothing_to_slice(this: Check) -> Finding:
    reason = "Skipped: needs named columns (metadata or a feature table) and one class label per row."
    return this.finding(Severity.SKIPPED, reason, remedy="Pass records with named columns and class ids as targets.")

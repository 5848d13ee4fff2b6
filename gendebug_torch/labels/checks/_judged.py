"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost
from gendebug_torch.data.records import Records
from gendebug_torch.labels.dynamics.training_dynamics import COLUMN
from gendebug_torch.labels.noise.cross_fitting import cross_fitted_logits, standardised
from gendebug_torch.labels.noise.noise_model import LabelNoise, class_logits, label_noise
from gendebug_torch.labels.review.ranking import IN_SAMPLE, OUT_OF_SAMPLE, audit_ranking
from gendebug_torch.labels.review.suspicion_groups import (
    SuspicionGroups,
    suspicion_groups,
    suspicion_pairs,
)
from gendebug_torch.stats.probe_network import design

_FEWEST_ROWS = 100
# With more columns than this a small network is no judge of labels.
_MOST_COLUMNS = 4096
_FAIL_SHARE = 0.04
# Share of the suspicious rows in one subgroup from which the subgroup, not the labeling, is the
# story.
_MOST = 0.5
_NETWORKS, _WIDTH = 10, 48
_NETWORKS_SAY = "small networks that did not see the row"


@dataclass(frozen=True)
class _Judged:
    """Rows that were judged, what says so, and the noise found among them."""

    rows: Tensor
    noise: LabelNoise
    basis: str
    words: str


def _cost(name: str) -> Any:
    def cost(given: Mapping[str, Any]) -> Cost:
        records = given[name]
        n = len(records)
        columns = (
            0
            if records.features is None
            else records.features[:1].size
            if isinstance(records.features, pd.DataFrame)
            else 1
        )
        classes = (
            2 if records.logits is None or records.logits.ndim == 1 else records.logits.shape[1]
        )
        steps = min(max(10 * n // 256, 100), 1500)
        networks = (
            6.0 * _NETWORKS * steps * 256 * _WIDTH * (columns + _WIDTH + classes)
            if columns
            else 0.0
        )
        return Cost(elements=networks / 10 + 1000.0 * min(n, 20_000) * classes + n)

    return cost


def _judge(
    records: Records, out_of_sample: bool, stacked: bool, most: int, seed: int
) -> _Judged | str:
    """The noise by the best judge there is, or why there is none."""
    targets = records.targets
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return "Labels are judged for class targets only."
    order = (
        torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:most]
        .sort()
        .values
    )
    part = records if len(order) == len(targets) else records.select(order)
    given = part.targets
    if given is None or len(given) < _FEWEST_ROWS or len(torch.unique(given)) < 2:
        return (
            f"Too few rows or classes to judge labels: {len(targets)} rows, at least "
            f"{_FEWEST_ROWS} and two classes are needed."
        )
    classes = max(
        int(given.max()) + 1,
        len(records.schema.classes),
        2 if part.logits is None else class_logits(part.logits[:1]).shape[1],
    )
    columns = _columns(part)
    if part.logits is not None and (columns is None or (out_of_sample and not stacked)):
        basis = OUT_OF_SAMPLE if out_of_sample else IN_SAMPLE
        noise = label_noise(part.logits, given)
        return _Judged(order, noise, basis, f"the {basis} logits of the model")
    if columns is None:
        return (
            "Nothing to judge labels by: neither logits nor features that a small network "
            "could learn from."
        )
    if not stacked or part.logits is None:
        noise = label_noise(
            cross_fitted_logits(columns, given, classes=classes, scaled=True, seed=seed), given
        )
        return _Judged(order, noise, OUT_OF_SAMPLE, _NETWORKS_SAY)
    both = torch.cat([columns, standardised(class_logits(part.logits)).to(columns)], 1)
    judges = {
        f"{_NETWORKS_SAY}, fed with the model's logits": cross_fitted_logits(
            both, given, classes=classes, scaled=True, seed=seed
        ),
        "the model, which knows more than small networks fed with its logits": part.logits,
    }
    noises = {words: label_noise(logits, given) for words, logits in judges.items()}
    words = min(noises, key=lambda words: noises[words].log_loss)
    return _Judged(order, noises[words], OUT_OF_SAMPLE, words)


def _columns(records: Records) -> Tensor | None:
    if records.features is None:
        return None
    columns = design(records.features, categorical=records.schema.categorical).values
    return columns if 0 < columns.shape[1] <= _MOST_COLUMNS else None


def _findings(
    this: Check, records: Records, judged: _Judged | str, alpha: float, min_rate: float, limit: int
) -> Iterator[Finding]:
    if isinstance(judged, str):
        yield this.finding(Severity.NOTE, judged, numbers={"n": len(records)})
        return
    noise = judged.noise
    sure = noise.p_value <= alpha
    alarm = sure and noise.rate >= min_rate and noise.low >= min_rate / 2
    numbers: dict[str, Any] = {
        "n": len(judged.rows),
        "rate": noise.rate,
        "low": noise.low,
        "high": noise.high,
        "p_value": noise.p_value,
    }
    numbers |= {
        "suspicious": int(noise.suspicious.sum()),
        "basis": judged.basis,
        "in_sample": judged.basis == IN_SAMPLE,
    }
    share = (
        f"{noise.rate:.1%} (95 % interval {noise.low:.1%} to {noise.high:.1%}) of the labels "
        f"of {records.name}"
    )
    if not alarm:
        opening = (
            "Few labels are wrong" if sure else "No sign of wrong labels beyond ambiguous rows"
        )
        estimate = share[: share.index(" of the")]
        text = (
            f"{opening} in {records.name}: an estimated {estimate} of {len(judged.rows):,}, "
            f"judged by {judged.words}."
        )
        severity = Severity.NOTE if sure else Severity.OK
        yield this.finding(severity, text, numbers=numbers, evidence=noise)
    else:
        yield _alarm(this, records, judged, share, numbers, alpha)
    if sure:
        yield from _group_findings(this, records, judged, alpha, limit)
    if alarm:
        yield _ranking_finding(this, records, judged)


def _alarm(
    this: Check,
    records: Records,
    judged: _Judged,
    share: str,
    numbers: dict[str, Any],
    alpha: float,
) -> Finding:
    noise = judged.noise
    frame = noise.table().sort_values("wrong_share", ascending=False, kind="stable")
    label, rate, low, high = frame.iloc[0][["label", "wrong_share", "low", "high"]].tolist()
    name = _class_name(records, int(label))
    text = (
        f"About {share} look wrong beyond what ambiguity explains, judged by {judged.words}: "
        f"{numbers['suspicious']:,} rows more likely"
    )
    text += (
        f" wrong than right; most among those labeled {name} ({rate:.1%}, {low:.1%} to {high:.1%})."
    )
    if judged.basis == IN_SAMPLE:
        text += " The model was fitted to them, so the true share is higher."
    remedy = (
        f"Have a person look at the {numbers['suspicious']:,} rows, most suspicious first "
        "(`gendebug labels` writes the sheet), "
        "correct or drop them, and train again; do not tune the model against these labels."
    )
    numbers |= {
        "worst_class": name,
        "worst_class_rate": rate,
        "worst_class_low": low,
        "worst_class_high": high,
    }
    severity = Severity.FAIL if noise.low >= _FAIL_SHARE else Severity.WARN
    if subgroup := _subgroup_of_most(records, judged, alpha):
        text += (
            f" Most of them are rows where {subgroup}: wrong labels there, or a rule of its own."
        )
        remedy = (
            f"Look at twenty rows where {subgroup}: if their labels stand, the model lacks "
            f"what is different there. {remedy}"
        )
        cause = Cause.SUBGROUP_FAILURE
        return this.finding(
            severity,
            text,
            cause=cause,
            subject=subgroup,
            numbers=numbers,
            remedy=remedy,
            evidence=noise,
        )
    return this.finding(severity, text, numbers=numbers, remedy=remedy, evidence=noise)


def _subgroup_of_most(records: Records, judged: _Judged, alpha: float) -> str:
    """The value of a metadata column, other than who labeled, that holds most of the suspicious
    rows; empty if none does.

    Labels that contradict everything else in one segment alone are as well those of a world with a
    rule of its own.
    """
    columns = _metadata(records, judged.rows)
    if columns is None:
        return ""
    groups = suspicion_groups(judged.noise, columns)
    for i in _crowded(groups, alpha):
        if groups.column[i] != records.schema.source and int(groups.suspicious[i]) >= _MOST * int(
            judged.noise.suspicious.sum()
        ):
            return f"{groups.column[i]} = {groups.value[i]}"
    return ""


def _group_findings(
    this: Check, records: Records, judged: _Judged, alpha: float, limit: int
) -> Iterator[Finding]:
    """Values of the metadata whose labels are worse than the whole's, and pairs of classes."""
    noise = judged.noise
    columns = _metadata(records, judged.rows)
    if columns is not None:
        groups = suspicion_groups(noise, columns)
        found = _crowded(groups, alpha)
        alone = {name: sum(groups.column[i] == name for i in found) == 1 for name in columns}
        for i in found[:limit]:
            yield _group_finding(this, records, groups, i, alone[groups.column[i]])
    if len(noise.labeled) > 2:
        pairs = suspicion_pairs(noise)
        for i in _crowded(pairs, alpha)[:limit]:
            given, other = (_class_name(records, int(part)) for part in pairs.value[i].split(" → "))
            numbers = {
                "given": given,
                "suggested": other,
                "rows": int(pairs.suspicious[i]),
                "expected": float(pairs.expected[i]),
            }
            text = (
                f"{int(pairs.suspicious[i]):,} rows labeled {given} look like {other}; wrong "
                "labels that fall anywhere "
                f"would give {float(pairs.expected[i]):.1f}."
            )
            remedy = (
                f"Sharpen the labeling guide for {given} against {other}, and have these "
                "rows labeled again."
            )
            subject = f"{given} → {other}"
            yield this.finding(
                Severity.NOTE, text, subject=subject, numbers=numbers, remedy=remedy, evidence=pairs
            )


def _crowded(groups: SuspicionGroups, alpha: float) -> list[int]:
    """Groups with at least twice and five more suspicious rows than expected, most surely first."""
    matters = (groups.suspicious >= 2 * groups.expected) & (
        groups.suspicious >= groups.expected + 5
    )
    found = ((groups.adjusted <= alpha) & matters).nonzero()[:, 0].tolist()
    return sorted(found, key=lambda i: (float(groups.p_value[i]), -float(groups.rate[i])))


def _group_finding(
    this: Check, records: Records, groups: SuspicionGroups, i: int, alone: bool
) -> Finding:
    column, value = groups.column[i], groups.value[i]
    rate, low, high = float(groups.rate[i]), float(groups.low[i]), float(groups.high[i])
    same = torch.tensor([name == column for name in groups.column])
    rest = same & (torch.arange(len(same)) != i)
    others = float((groups.rate * groups.rows)[rest].sum() / groups.rows[rest].sum().clamp(min=1))
    labeler = column == records.schema.source
    subject = f"{column} = {value}"
    who = f"the labeler {value}" if labeler else f"rows where {subject}"
    numbers = {
        "column": column,
        "value": value,
        "rows": int(groups.rows[i]),
        "rate": rate,
        "low": low,
        "high": high,
    }
    numbers |= {
        "suspicious": int(groups.suspicious[i]),
        "expected": float(groups.expected[i]),
        "p_bh": float(groups.adjusted[i]),
    }
    numbers |= {"rate_of_the_rest": others, "lone": alone}
    opening = (
        f"A lone labeler, {value}, has"
        if labeler and alone
        else f"{who[0].upper()}{who[1:]} {'has' if labeler else 'have'}"
    )
    text = (
        f"{opening} {rate:.1%} wrong labels (95 % interval {low:.1%} to {high:.1%}; "
        f"{int(groups.suspicious[i]):,} suspicious rows of "
        f"{int(groups.rows[i]):,}, {float(groups.expected[i]):.1f} expected), against "
        f"{others:.1%} elsewhere."
    )
    remedy = (
        f"Have the rows of {who} labeled again by someone else before training, and find out "
        "what went wrong there."
    )
    cause = Cause.LABEL_NOISE
    if not labeler and int(groups.suspicious[i]) >= _MOST * int(groups.suspicious[same].sum()):
        cause = Cause.SUBGROUP_FAILURE
        remedy = (
            f"Look at twenty {who}: wrong labels, or a rule of its own that the model lacks "
            "a feature for?"
        )
    return this.finding(
        Severity.WARN,
        text,
        cause=cause,
        subject=subject,
        numbers=numbers,
        remedy=remedy,
        evidence=groups,
    )


def _ranking_finding(this: Check, records: Records, judged: _Judged) -> Finding:
    metadata = (
        None if records.metadata is None else records.metadata.iloc[judged.rows.cpu().numpy()]
    )
    ranking = audit_ranking(judged.noise, judged.basis, metadata)
    bucket = ranking.least_confident()
    wrong = int(ranking.confidently_wrong[bucket].sum())
    first = judged.rows[bucket[:10].cpu()].tolist()
    text = (
        f"Of the {len(bucket):,} rows least confident in their given label (5 %, {ranking.basis}) "
        f"{wrong:,} are confidently another class; "
        f"look first at rows {', '.join(map(str, first))}."
    )
    numbers = {
        "bucket": len(bucket),
        "confidently_wrong": wrong,
        "rows": first,
        "basis": ranking.basis,
    }
    return this.finding(Severity.NOTE, text, numbers=numbers, evidence=ranking)


def _metadata(records: Records, rows: Tensor) -> pd.DataFrame | None:
    if records.metadata is None:
        return None
    aside = [
        name
        for name in records.metadata
        if name in records.schema.ids or str(name).startswith(COLUMN)
    ]
    columns = records.metadata.drop(columns=aside)
    return columns.iloc[rows.cpu().numpy()].reset_index(drop=True) if columns.shape[1] else None


def _class_name(records: Records, label: int) -> str:
    return str(records.schema.classes[label]) if label < len(records.schema.classes) else str(label)

"""Findings about an estimate of label noise: its share, groups, pairs of classes, and a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.labels.checks._estimate import NoiseEstimate, class_name, group_columns
from gendebug_torch.labels.noise.group_noise import GroupNoise, noise_by_class_pair, noise_by_group
from gendebug_torch.labels.review.ranking import IN_SAMPLE, audit_ranking

FAIL_RATE = 0.04
IN_SAMPLE_NOTE = " The model was fitted to these labels, so the true share is higher."
# Share of the suspicious rows in one subgroup from which the subgroup is the likely cause.
_MAJORITY = 0.5


def noise_findings(
    this: Check,
    records: Records,
    estimate: NoiseEstimate | str,
    *,
    alpha: float,
    min_rate: float,
    limit: int,
) -> Iterator[Finding]:
    """The share of wrong labels; if significant, groups; if large, rows to review.

    Args:
        this: check that makes the findings.
        records: records that the estimate is about.
        estimate: label noise, or the reason why there is none.
        alpha: significance level.
        min_rate: smallest share of wrong labels that matters.
        limit: most groups and most pairs reported.
    """
    if isinstance(estimate, str):
        yield this.finding(Severity.NOTE, estimate, numbers={"n": len(records)})
        return
    noise = estimate.noise
    significant = noise.p_value <= alpha
    if significant and noise.rate >= min_rate and noise.low >= min_rate / 2:
        yield _alarm(this, records, estimate, alpha)
        yield from _group_findings(this, records, estimate, alpha, limit)
        yield _ranking_finding(this, records, estimate)
        return
    opening = "Few labels are wrong" if significant else "No sign of wrong labels"
    text = (
        f"{opening} in {records.name} beyond ambiguous rows: an estimated {_share(estimate)} of "
        f"{len(estimate.rows):,} labels, by {estimate.source}.{_left_out(records, estimate)}"
    )
    severity = Severity.NOTE if significant else Severity.OK
    numbers = _numbers(records, estimate)
    yield this.finding(severity, text, numbers=numbers, evidence=noise)
    if significant:
        yield from _group_findings(this, records, estimate, alpha, limit)


def _share(estimate: NoiseEstimate) -> str:
    noise = estimate.noise
    return f"{noise.rate:.1%} (95 % interval {noise.low:.1%} to {noise.high:.1%})"


def _left_out(records: Records, estimate: NoiseEstimate) -> str:
    """Rows that were not judged, as sentences."""
    text = ""
    if estimate.labeled < len(records):
        text = f" {len(records) - estimate.labeled:,} rows have no label."
    if len(estimate.rows) < estimate.labeled:
        text += f" The rows are a random part of {estimate.labeled:,}."
    return text


def _numbers(records: Records, estimate: NoiseEstimate) -> dict[str, Any]:
    noise = estimate.noise
    return {
        "n": len(estimate.rows),
        "labeled": estimate.labeled,
        "missing": len(records) - estimate.labeled,
        "rate": noise.rate,
        "low": noise.low,
        "high": noise.high,
        "p_value": noise.p_value,
        "suspicious": int(noise.suspicious.sum()),
        "basis": estimate.basis,
        "in_sample": estimate.basis == IN_SAMPLE,
    }


def _alarm(this: Check, records: Records, estimate: NoiseEstimate, alpha: float) -> Finding:
    noise, numbers = estimate.noise, _numbers(records, estimate)
    frame = noise.table().sort_values("wrong_share", ascending=False, kind="stable")
    label, rate, low, high = frame.iloc[0][["label", "wrong_share", "low", "high"]].tolist()
    name, suspicious = class_name(records, int(label)), numbers["suspicious"]
    text = (
        f"About {_share(estimate)} of the labels of {records.name} are wrong, beyond what "
        f"ambiguous rows explain, by {estimate.source}. {suspicious:,} rows are more likely "
        f"labeled wrong than right, most of all those labeled {name} ({rate:.1%}, {low:.1%} to "
        f"{high:.1%}).{_left_out(records, estimate)}"
    )
    if estimate.basis == IN_SAMPLE:
        text += IN_SAMPLE_NOTE
    remedy = (
        f"Have a person review the {suspicious:,} rows, most suspicious first (`gendebug labels` "
        "writes the sheet). Correct or drop wrong labels and retrain; until then do not tune the "
        "model on them."
    )
    numbers |= {
        "worst_class": name,
        "worst_class_rate": rate,
        "worst_class_low": low,
        "worst_class_high": high,
    }
    cause, subgroup = Cause.LABEL_NOISE, _majority_subgroup(records, estimate, alpha)
    if subgroup:
        cause = Cause.SUBGROUP_FAILURE
        text += (
            f" Most of them have {subgroup}: either the labels are wrong there, or they follow "
            "another rule."
        )
        remedy = (
            f"Review twenty rows with {subgroup}. If their labels are right, the model lacks a "
            f"feature that explains them. {remedy}"
        )
    return this.finding(
        Severity.FAIL if noise.low >= FAIL_RATE else Severity.WARN,
        text,
        cause=cause,
        subject=subgroup,
        numbers=numbers,
        remedy=remedy,
        evidence=noise,
    )


def _majority_subgroup(records: Records, estimate: NoiseEstimate, alpha: float) -> str:
    """The subgroup, other than a labeler, with most of the suspicious rows; empty if there is none.

    Labels that contradict the model in one segment only may be those of a segment with a rule of
    its own.
    """
    columns = group_columns(records, estimate.rows)
    if columns is None:
        return ""
    groups = noise_by_group(estimate.noise, columns)
    most = _MAJORITY * int(estimate.noise.suspicious.sum())
    for i in _significant(groups, alpha):
        if groups.column[i] != records.schema.source and int(groups.suspicious[i]) >= most:
            return f"{groups.column[i]} = {groups.value[i]}"
    return ""


def _group_findings(
    this: Check, records: Records, estimate: NoiseEstimate, alpha: float, limit: int
) -> Iterator[Finding]:
    columns = group_columns(records, estimate.rows)
    if columns is not None:
        groups = noise_by_group(estimate.noise, columns)
        indices = _significant(groups, alpha)
        for i in indices[:limit]:
            single = sum(groups.column[j] == groups.column[i] for j in indices) == 1
            yield _group_finding(this, records, groups, i, single)
    if len(estimate.noise.class_counts) > 2:
        pairs = noise_by_class_pair(estimate.noise)
        for i in _significant(pairs, alpha)[:limit]:
            yield _pair_finding(this, records, pairs, i)


def _significant(groups: GroupNoise, alpha: float) -> list[int]:
    """Groups with at least twice and five more suspicious rows than expected, surest first."""
    relevant = (groups.suspicious >= 2 * groups.expected) & (
        groups.suspicious >= groups.expected + 5
    )
    indices = ((groups.adjusted <= alpha) & relevant).nonzero()[:, 0].tolist()
    return sorted(indices, key=lambda i: (float(groups.p_value[i]), -float(groups.rate[i])))


def _group_finding(
    this: Check, records: Records, groups: GroupNoise, i: int, single: bool
) -> Finding:
    column, value = groups.column[i], groups.value[i]
    numbers = _group_numbers(groups, i)
    numbers["single"] = single
    suspicious = numbers["suspicious"]
    subject, cause = f"{column} = {value}", Cause.LABEL_NOISE
    group = f"rows with {subject}"
    remedy = f"Have {group} labeled again before training, and find out what went wrong there."
    if column == records.schema.source:
        group = f"labels by {value}{' alone' if single else ''}"
        remedy = f"Have the rows of {value} labeled again by someone else before training."
    elif suspicious >= _MAJORITY * numbers["suspicious_in_column"]:
        cause = Cause.SUBGROUP_FAILURE
        remedy = (
            f"Review twenty {group}: are their labels wrong, or does the model lack a feature that "
            "explains them?"
        )
    text = (
        f"{numbers['rate']:.1%} of the {group} are wrong (95 % interval {numbers['low']:.1%} to "
        f"{numbers['high']:.1%}), against {numbers['rate_elsewhere']:.1%} elsewhere: "
        f"{suspicious:,} of {numbers['rows']:,} rows are suspicious, {numbers['expected']:.1f} are "
        "expected."
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


def _group_numbers(groups: GroupNoise, i: int) -> dict[str, Any]:
    same = torch.tensor([name == groups.column[i] for name in groups.column])
    rest = same & (torch.arange(len(same)) != i)
    elsewhere = (groups.rate * groups.rows)[rest].sum() / groups.rows[rest].sum().clamp(min=1)
    return {
        "column": groups.column[i],
        "value": groups.value[i],
        "rows": int(groups.rows[i]),
        "rate": float(groups.rate[i]),
        "low": float(groups.low[i]),
        "high": float(groups.high[i]),
        "suspicious": int(groups.suspicious[i]),
        "suspicious_in_column": int(groups.suspicious[same].sum()),
        "expected": float(groups.expected[i]),
        "p_bh": float(groups.adjusted[i]),
        "rate_elsewhere": float(elsewhere),
    }


def _pair_finding(this: Check, records: Records, pairs: GroupNoise, i: int) -> Finding:
    given, other = (class_name(records, int(part)) for part in pairs.value[i].split(" → "))
    suspicious, expected = int(pairs.suspicious[i]), float(pairs.expected[i])
    return this.finding(
        Severity.NOTE,
        f"{suspicious:,} rows labeled {given} look like {other}; errors spread evenly over the "
        f"classes would give {expected:.1f}.",
        subject=f"{given} → {other}",
        numbers={"given": given, "suggested": other, "rows": suspicious, "expected": expected},
        remedy=f"Clarify the labeling guide for {given} against {other}, and have these rows "
        "labeled again.",
        evidence=pairs,
    )


def _ranking_finding(this: Check, records: Records, estimate: NoiseEstimate) -> Finding:
    metadata = records.metadata
    if metadata is not None:
        metadata = metadata.iloc[estimate.rows.cpu().numpy()]
    ranking = audit_ranking(estimate.noise, estimate.basis, metadata)
    bucket = ranking.least_confident()
    wrong = int(ranking.confidently_wrong[bucket].sum())
    first = estimate.rows[bucket[:10].cpu()].tolist()
    text = (
        f"Of the {len(bucket):,} rows with the least credible labels (5 %, {ranking.basis}) "
        f"{wrong:,} are confidently another class. Review first rows {', '.join(map(str, first))}."
    )
    numbers = {
        "bucket": len(bucket),
        "confidently_wrong": wrong,
        "rows": first,
        "basis": ranking.basis,
    }
    return this.finding(Severity.NOTE, text, numbers=numbers, evidence=ranking)

"""`bill()`: what each cause carries of the quality that was lost, by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gendebug_torch.checks.finding import Finding
from gendebug_torch.checks.registry import TOPICS
from gendebug_torch.checks.rows import named
from gendebug_torch.data.records import Records
from gendebug_torch.diagnosis.apportioning.apportion import apportioned, expected
from gendebug_torch.diagnosis.apportioning.bill import Bill
from gendebug_torch.diagnosis.causes import likely_causes
from gendebug_torch.diagnosis.diagnose import diagnose
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.model.evaluation import Model


def bill(
    model: Model | None = None,
    *,
    validation: Records,
    production: Records,
    train: Records | None = None,
    findings: Sequence[Finding] | None = None,
    metric: str | None = None,
    device: str | torch.device = "auto",
) -> Bill:
    """What each cause carries of the quality lost from validation to production, in points.

    `total = sum of the causes + unexplained`, exactly. Each cause that a finding names acts in one
    world and not in another: its change of the inputs is made in validation or undone in
    production, rows are weighted by the ratio of the densities of what moved, leaked rows are left
    out, and labels given the inputs are those of validation or of production. A cause carries its
    Shapley value over these worlds: exact up to six causes, over drawn orders beyond. Intervals are
    those of a bootstrap over rows, groups or stretches of time, with cross-fitted ratios. Where
    weighted rows are worth less than 3 % of all, or miss production, a cause has no number and is
    part of the unexplained rest. Each remedy is tried on rows that it was not fitted to.

    Source: Zhang, Singh, Ghassemi and Joshi (2023), arXiv:2210.10769, for Shapley values over
    mechanisms; Cai, Namkoong and Yadlowsky (2023), arXiv:2303.02011, for labels given the inputs.

    Args:
        model: network of the records; causes that must run it are not apportioned without.
        validation: labeled records.
        production: labeled records; without labels the bill is what is expected if labels given the
            inputs stayed the same, and is refused where outputs deny that the causes say it all.
        train: records that the model was fitted on, for leaks.
        findings: findings that name the causes; None makes a diagnosis.
        metric: `accuracy`, `AUC`, `log loss` or `RMSE`; the usual one of the task where it is None.
        device: of the network.

    Raises:
        InputError: labels or outputs are missing, fewer than 100 labeled rows or 10 of a second
            class on a side, or the task has no such metric.

    Example:
        >>> import torch
        >>> from gendebug_torch import Records
        >>> rows = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
        >>> before, after = (Records(targets=(x > 0).long(), logits=3 * x) for x in rows)
        >>> worse = Records(targets=after.targets, logits=after.logits + torch.randn(2000))
        >>> found = bill(validation=before, production=worse, findings=[])
        >>> found.table()["cause"].tolist(), found.metric, found.fell
        (['unexplained'], 'AUC', True)
    """
    sides = {"validation": named(validation, "validation")}
    sides["production"] = named(production, "production")
    if findings is None:
        # The diagnosis of all topics by name has no bill of its own.
        findings = diagnose(model, train=train, device=device, only=TOPICS, **sides).findings
    for name, side in sides.items():
        if model is not None and side.logits is None and side.features is not None:
            sides[name] = collect(model, side, device=device)
    billed = expected if production.targets is None else apportioned
    return billed(likely_causes(findings), model, metric=metric, device=device, **sides)

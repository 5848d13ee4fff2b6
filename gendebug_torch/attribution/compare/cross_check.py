"""`cross_check()`: the same rows asked of several methods, and whether they rank the features
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.compare.permutation import loss_rises
from gendebug_torch.attribution.compare.rank_agreement import RankAgreement, rank_agreement
from gendebug_torch.data.records import Records
from gendebug_torch.model.runner import Model


def cross_check(
    model: Model,
    records: Records,
    methods: Sequence[str] = ("integrated_gradients", "kernel_shap"),
    *,
    baseline: Any = "median",
    target: str | int = "predicted",
    rows: int = 500,
    repeats: int = 3,
    replicates: int = 200,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> RankAgreement:
    """Whether several methods, and permutation importance where rows are labeled, rank the features
    of a table alike.

    Where they do not, the ranking is a property of the method, not of the network: columns that
    carry the same, or that act together, are shared out differently.

    Source: as of `rank_agreement`; permutation importance: Breiman (2001), Machine Learning 45:5.

    Args:
        model: network of features `[n, d]`.
        records: rows with features.
        methods: names in `METHODS`, or of captum.attr.
        baseline: as of `attribute`.
        target: as of `attribute`.
        rows: most rows to ask about, drawn without repetition.
        repeats: shuffles per column.
        replicates: of the bootstrap.
        seed: of the sample, the shuffles and the bootstrap.
        device: where the model runs.

    Raises:
        InputError: fewer than two rankings, or no two rows or features.

    Cost: of each method, and `rows d repeats` forwards.
    """
    picked = (
        torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:rows]
        .sort()
        .values
    )
    sample = records.select(picked)
    found = {
        name: attribute(
            model, sample, name, baseline=baseline, target=target, device=device, trust=False
        )
        for name in methods
    }
    per_row = {one.method: one.flat.abs() for one in found.values()}
    names = next(iter(found.values())).names if found else ()
    if sample.targets is not None and len(sample):
        per_row["permutation importance"] = (
            loss_rises(model, sample, repeats=repeats, seed=seed, device=device).mean(0).T
        )
    return rank_agreement(per_row, names, replicates=replicates, seed=seed)

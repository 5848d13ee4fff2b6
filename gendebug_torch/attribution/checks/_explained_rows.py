"""Checks of what a network leans on against what the domain expert knows: noise, direction, and
worth that does not last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.compare.feature_use import kept_slope
from gendebug_torch.attribution.explanation.explained_output import PositiveLogit, is_binary
from gendebug_torch.data.records import Records, model_inputs

_FEWEST = 50
# Rows from which shares of attribution are taken, and steps of the integral: a share needs no
# better.
_ROWS, _STEPS = 500, 32
_ROWS_OF_RELATION = 2000
# A slope of labels on contributions below which a relation counts as gone, where rows are many
# enough to tell.
_VANISHED = 0.15
# Standard errors below zero from which a relation counts as turned round.
_TURNED = 3.0


def sampled(records: Records, rows: int, seed: int) -> Records:
    """At most this many rows, drawn without repetition."""
    if len(records) <= rows:
        return records
    return records.select(
        torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:rows]
        .sort()
        .values
    )


def explainable(records: Records) -> bool:
    """Whether there are enough rows of floats `[n, d]` to explain."""
    return (
        len(records) >= _FEWEST
        and (inputs := model_inputs(records)).is_floating_point()
        and inputs.ndim == 2
    )


def _rows(given: Mapping[str, Any], name: str, most: int) -> int:
    records = given.get(name)
    return 0 if records is None else min(most, len(records))


def relation_vanished(model: nn.Module, production: Records, at: int, *, seed: int) -> bool:
    """Whether the labels of production follow a feature's contribution no more, rather than in
    another way.

    A shortcut holds where the data was collected and means nothing elsewhere; a relation that is
    weaker or turned round, but there, is a world that drifted. Without a binary question both read
    as a shortcut.
    """
    if not is_binary(model, production) or production.targets is None:
        return True
    rows = sampled(production, _ROWS_OF_RELATION, seed)
    found = attribute(PositiveLogit(model), rows, baseline="median", steps=_STEPS, trust=False)
    assert rows.targets is not None
    slope, error = kept_slope(found.flat[found.usable], at, rows.targets[found.usable])
    return -_TURNED * error <= slope <= max(_VANISHED, error)


def _explained(model: nn.Module, records: Records) -> Any:
    """The model as one logit where the question is binary, so that contributions have one meaning
    in all rows.
    """
    return PositiveLogit(model) if is_binary(model, records) else model

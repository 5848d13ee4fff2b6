"""Relations between the contribution of a feature and the labels in production."""

from __future__ import annotations

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._rows import SHARE_STEPS, sample_records
from gendebug_torch.attribution.compare.feature_use import contribution_slope
from gendebug_torch.data.records import Records
from gendebug_torch.model.binary import PositiveLogit, is_binary
from gendebug_torch.model.evaluation import Model

_ROWS = 2000
# Slope of the labels on contributions below which a relation counts as gone, where the rows are
# enough to say so.
_MAX_SLOPE = 0.15
# Standard errors below zero from which a relation counts as reversed.
_REVERSED = 3.0


def relation_is_gone(model: Model, production: Records, feature: int, *, seed: int) -> bool:
    """Whether the labels of production no longer follow the contribution of a feature.

    A shortcut holds only where the data was collected; a relation that is weaker or reversed, but
    present, is concept drift. True for anything but a binary task, where it cannot be tested.
    """
    if not is_binary(model, production) or production.targets is None:
        return True
    rows = sample_records(production, _ROWS, seed)
    attributions = attribute(
        PositiveLogit(model), rows, baseline="median", steps=SHARE_STEPS, trust=False
    )
    assert rows.targets is not None
    usable, targets = attributions.usable, rows.targets.cpu()
    slope, error = contribution_slope(attributions.flat[usable], feature, targets[usable])
    return -_REVERSED * error <= slope <= max(_MAX_SLOPE, error)

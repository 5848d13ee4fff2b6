"""Relations between the contribution of a feature and the labels in production."""

from __future__ import annotations

from gendebug_torch.attribution.checks._rows import output_attributions, sample_records
from gendebug_torch.attribution.compare.feature_use import contribution_slope, quantity_slope
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.model.evaluation import Model

_ROWS = 2000
# Slope of the targets on contributions below which a relation counts as gone, where the rows are
# enough to say so.
_MAX_SLOPE = 0.15
# Standard errors below zero from which a relation counts as reversed.
_REVERSED = 3.0


def relation_is_gone(model: Model, production: Records, feature: int, *, seed: int) -> bool:
    """Whether the targets of production no longer follow the contribution of a feature.

    A shortcut holds only where the data was collected; a relation that is weaker or reversed, but
    present, is concept drift. True of several classes or labels, where it cannot be tested; of
    several quantities the one that the feature contributes most to counts.
    """
    if production.task not in (Task.BINARY, Task.REGRESSION) or production.targets is None:
        return True
    rows = sample_records(production, _ROWS, seed)
    assert rows.targets is not None
    targets = rows.targets.cpu().reshape(len(rows), -1)
    outputs = output_attributions(model, rows)
    columns = [targets[:, i].double() for i in range(len(outputs))]
    weights = [
        float(part.flat[part.usable][:, feature].abs().mean() / column.std().clamp(min=1e-12))
        for part, column in zip(outputs, columns, strict=True)
    ]
    best = weights.index(max(weights))
    usable = outputs[best].usable
    fit = contribution_slope if production.task is Task.BINARY else quantity_slope
    slope, error = fit(outputs[best].flat[usable], feature, columns[best][usable])
    return -_REVERSED * error <= slope <= max(_MAX_SLOPE, error)

"""Columns of several labels, or of their outputs, that production holds otherwise than validation.

Two that are exchanged, one that is reversed, one that is never filled in: what each label has to do
with every output tells which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.scores.outputs import labeled_rows, output_columns, output_names

Side = Literal["labels", "outputs"]

# Rows of either side, and labels, that are needed; and labels up to which all are compared.
_MIN_ROWS, _MOST_LABELS = 100, 200
# Standard errors from which a column is not the one that it was, and up to which it is another one,
# in the mean square and in the worst measure.
_NOT_ITSELF, _MEAN_SQUARE, _WORST = 8.0, 3.0, 5.0


@dataclass(frozen=True)
class LabelColumns:
    """Labels, or outputs, of production that are others than they are read as.

    Args:
        side: `labels` or `outputs`.
        names: of the columns that are concerned.
        texts: what each of them holds, as sentences without an end.
    """

    side: Side
    names: tuple[str, ...]
    texts: tuple[str, ...]


def label_columns(reference: Records, production: Records) -> LabelColumns | None:
    """Labels or outputs of production that are exchanged, reversed or constant; None of others.

    A column is told by its mean and by its correlations with all columns of the other side. It is
    another one where it is far from its own measures of the reference, by 8 standard errors, and
    within noise of those of the other (of its own with the sign reversed). No drift does that.

    Args:
        reference: records of a multilabel model.
        production: the same.

    Cost: two products of labels and outputs, `n k^2` each.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> z = torch.randn(2000, 3, generator=draw) + torch.tensor([0.0, 1.0, -1.0])
        >>> y = torch.bernoulli(z.sigmoid(), generator=draw).long()
        >>> before = Records(targets=y[:1000], logits=z[:1000])
        >>> after = Records(targets=y[1000:, [0, 2, 1]], logits=z[1000:])
        >>> label_columns(before, after).texts
        ('label 1 holds label 2', 'label 2 holds label 1')
    """
    before, after = _complete(reference), _complete(production)
    if before is None or after is None or before[0].shape[1:] != after[0].shape[1:]:
        return None
    (y, z), (live, live_z) = before, after
    names = output_names(reference, y.shape[1])
    labels = _other_columns(before, after, names, reversed_mean=1.0)
    if labels:
        return LabelColumns("labels", *map(tuple, zip(*labels, strict=True)))
    outputs = _other_columns((z, y), (live_z, live), names, reversed_mean=0.0)
    return LabelColumns("outputs", *map(tuple, zip(*outputs, strict=True))) if outputs else None


def _complete(side: Records) -> tuple[Tensor, Tensor] | None:
    """Labels and outputs of the rows that have all of them, `[n, k]` float64 each."""
    if side.targets is None or side.logits is None or side.targets.shape != side.logits.shape:
        return None
    y, z = output_columns(side.targets), output_columns(side.logits).double()
    rows = labeled_rows(y).all(1) & z.isfinite().all(1)
    if int(rows.sum()) < _MIN_ROWS or not 2 <= y.shape[1] <= _MOST_LABELS:
        return None
    return y[rows].double(), z[rows]


def _other_columns(
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    names: Sequence[str],
    *,
    reversed_mean: float,
) -> list[tuple[str, str]]:
    """Columns that hold another one, their reverse or one value, each with what it holds.

    Args:
        before: columns that are looked at and those that tell them, of the reference.
        after: the same of production.
        names: of the columns.
        reversed_mean: sum of the mean of a column and of its reverse.
    """
    n, m = len(before[0]), len(after[0])
    own, live = _measures(*before), _measures(*after)
    spread = before[0].std(0).clamp(min=1e-12)
    noise = math.sqrt(1 / n + 1 / m)
    unit = torch.full_like(own, noise)
    unit[:, 0] = spread * noise
    found = []
    for i, name in enumerate(names):
        values, change = after[0][:, i], (live[i] - own[i]).abs() / unit[i]
        if bool((values == values[0]).all()):
            # A column of one value has no correlations; its mean alone is far from the usual one.
            if float(change[0]) > _NOT_ITSELF:
                found.append((name, f"{name} is {float(values[0]):g} in every row"))
        elif float(change.max()) > _NOT_ITSELF:
            reverse = torch.cat([reversed_mean - own[i, :1], -own[i, 1:]])
            held = _nearest(
                (live[i] - torch.cat([own, reverse[None]])) / torch.cat([unit, unit[i : i + 1]])
            )
            if held is not None:
                what = "is reversed" if held == len(own) else f"holds {names[held]}"
                found.append((name, f"{name} {what}"))
    return found


def _nearest(gaps: Tensor) -> int | None:
    """The row of gaps, in standard errors, that is within noise and the smallest; None if none is.

    Args:
        gaps: between a column of production and each column of the reference, `[c, 1 + k]`.
    """
    sizes = gaps.square().mean(1)
    fits = (sizes <= _MEAN_SQUARE) & (gaps.abs().amax(1) <= _WORST)
    return int(sizes.masked_fill(~fits, math.inf).argmin()) if bool(fits.any()) else None


def _measures(columns: Tensor, others: Tensor) -> Tensor:
    """Mean of each column, and its correlation with each of the others, `[k, 1 + k]`."""
    one, two = (
        (side - side.mean(0)) / side.std(0, correction=0).clamp(min=1e-12)
        for side in (columns, others)
    )
    return torch.cat([columns.mean(0)[:, None], one.T @ two / len(columns)], 1)

"""What single columns tell of the target, over all rows of a profile."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.leakage.checks._candidates import ColumnScreen
from gendebug_torch.leakage.columns.association import (
    MIN_CLASS_ROWS,
    MIN_ROWS,
    TARGET_BINS,
    Association,
    counted_measures,
)
from gendebug_torch.leakage.columns.column_codes import (
    cell_codes,
    frequency_codes,
    quantile_bins,
)
from gendebug_torch.leakage.columns.missing_values import (
    MissingValueAssociation,
    counted_missing_values,
)
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.profiles.sums.sketch import Floats
from gendebug_torch.profiles.sums.targets import CellSums, TargetSums

# What the sample says of a real target, as it needs the rows of each part of its range.
_OF_CLASSES = ("information", "information_error", "missing")


def with_counted_columns(screen: ColumnScreen | None, side: Profile) -> ColumnScreen | None:
    """The screen of the sampled rows, with the association of each column over all rows.

    Moments of time, lists and names of too many levels are not counted against the target: what the
    sample says of them stands.

    Args:
        screen: screen of the sampled rows.
        side: profile of training.
    """
    if screen is None:
        return None
    found, parts = screen.found, counted_columns(side)
    if not any(name in parts for name in found.names):
        return screen
    totals = class_totals(next(iter(parts.values())))
    first = int(totals.nonzero()[0, 0]) if found.classes else 0
    lines = [_sampled(found, i, side, totals, first) for i in range(len(found.names))]
    for i, name in enumerate(found.names):
        if name in parts:
            lines[i] |= _measures(parts[name], totals, first)
    share = totals[first:] / totals.sum() if found.classes else None
    counted: dict[str, Any] = {
        name: torch.cat([line[name] for line in lines]) for name in _measured(found)
    }
    entropy = found.target_entropy if share is None else _entropy(share)
    n, classes = int(totals.sum()), 0 if share is None else len(share)
    whole = replace(found, n=n, classes=classes, target_entropy=entropy, **counted)
    return replace(screen, found=whole)


def counted_columns(side: Profile) -> dict[str, TargetSums]:
    """The columns that were counted against the target, by name.

    Args:
        side: profile of labeled rows.
    """
    known = {name: part.target for name, part in side.columns.items()}
    return {
        name: part
        for name, part in known.items()
        if part is not None and (part.cells is not None or part.names)
    }


def class_totals(part: TargetSums) -> Tensor:
    """Labeled rows of each class, `[k]` float64; of a real target all of them, `[1]`.

    Args:
        part: any column.
    """
    if part.real:
        return torch.tensor([part.missing[:, 0].sum()], dtype=torch.float64)
    totals = np.zeros(max(part.present.shape[1], len(part.missing)))
    totals[: part.present.shape[1]] += part.present.sum(0)
    totals[: len(part.missing)] += part.missing
    return torch.from_numpy(totals)


def counted_missing(side: Profile) -> MissingValueAssociation | None:
    """Missing values of the features against the target, over all rows; None where not counted.

    Args:
        side: profile of training.
    """
    features = side.records.features
    known = {name: part.target for name, part in side.columns.items()}
    names = tuple(map(str, getattr(features, "columns", ())))
    parts = [part for name in names if (part := known.get(name)) is not None]
    if not parts or len(parts) < len(names):
        return None
    if parts[0].real:
        cells = side.outcomes.quantities
        if cells is None or len(cells.keys) < 2 or cells.sums.sum() < MIN_ROWS:
            return None
        return _missing_of_quantity(names, parts, cells)
    every = class_totals(max(parts, key=_width))
    if every.sum() < MIN_ROWS or int((every >= MIN_CLASS_ROWS).sum()) < 2:
        return None
    totals = torch.stack([_wide(part.missing, len(every)) for part in parts])
    first = int(every.nonzero()[0, 0])
    absent, every = totals[:, first:].long(), every[first:].long()
    r = _indicator_correlation(absent.double(), every.double())
    return counted_missing_values(names, absent, every, r)


def _missing_of_quantity(
    names: tuple[str, ...], parts: list[TargetSums], every: CellSums
) -> MissingValueAssociation:
    """Missing values against a real target, in ranges of equally many rows."""
    lost = [part.lost for part in parts if part.lost is not None]
    level = max(cells.level for cells in [every, *lost])
    whole = every.coarser(level)
    total = whole.sums[:, 0].cumsum()
    ranks = np.floor(np.linspace(0, 1, TARGET_BINS + 1)[1:-1] * (total[-1] - 1))
    cuts = np.unique(whole.keys[np.searchsorted(total, ranks, side="right")])
    counts = [_by_range(cells, cuts, level) for cells in [whole, *(part.lost for part in parts)]]
    absent = torch.from_numpy(np.stack(counts[1:])).long()
    r = torch.tensor([_mean_correlation(part.missing) for part in parts], dtype=torch.float64)
    return counted_missing_values(names, absent, torch.from_numpy(counts[0]).long(), r)


def _by_range(cells: CellSums | None, cuts: Any, level: int) -> Floats:
    """Rows in each range of a target."""
    if cells is None:
        return np.zeros(len(cuts) + 1)
    part = cells.coarser(level)
    places = np.searchsorted(cuts, part.keys)
    return np.bincount(places, part.sums[:, 0], len(cuts) + 1).astype(np.float64)


def _measured(found: Association) -> list[str]:
    """The fields of an association that hold one number or more per column."""
    names = [field.name for field in fields(found)]
    return [name for name in names if isinstance(getattr(found, name), Tensor)]


def _sampled(
    found: Association, i: int, side: Profile, totals: Tensor, first: int
) -> dict[str, Tensor]:
    """What the sample says of one column, `[1]` each, in the classes of all rows."""
    line = {name: getattr(found, name)[i : i + 1] for name in _measured(found)}
    # Its interval would follow from all rows.
    line["pearson"] = torch.full((1,), math.nan, dtype=torch.float64)
    line["missing"] = (line["missing"] * (float(totals.sum()) / max(found.n, 1))).round().long()
    if found.classes:
        targets = side.records.labeled().targets
        assert targets is not None
        shift, k = int(targets.min()) - first, len(totals) - first
        missing = line["missing"]
        line["missing"] = torch.nn.functional.pad(missing, [shift, k - shift - missing.shape[1]])
        line["best_class"] = line["best_class"] + shift
    return line


def _measures(part: TargetSums, totals: Tensor, first: int) -> dict[str, Tensor]:
    """The measures of one column over all rows, `[1]` each."""
    present = torch.from_numpy(part.present)
    rows = present[:, 0] if part.real else present.sum(1)
    ordered, bins = part.cells is not None, quantile_bins(int(totals.sum()))
    codes = cell_codes(rows, bins) if ordered else frequency_codes(rows)
    levels = 2 * bins + 2 if ordered else int(codes.max()) + 2
    if part.real:
        counts, sums = _centred(part, present, codes, levels)
        found = counted_measures(counts, sums, ordered=ordered)
        found = {key: value for key, value in found.items() if key not in _OF_CLASSES}
        r = _product_correlation(part.moments[0])
        return found | {"pearson": torch.tensor([r], dtype=torch.float64)}
    counts = torch.zeros(levels, len(totals), dtype=torch.float64)
    counts[:, : present.shape[1]].index_add_(0, codes, present)
    counts[-1] = _wide(part.missing, len(totals))
    known = counted_measures(counts[None, :, first:].long(), None, ordered=ordered)
    r = _class_correlation(part.moments[first:]) if ordered else math.nan
    return known | {"pearson": torch.tensor([r], dtype=torch.float64)}


def _centred(
    part: TargetSums, present: Tensor, codes: Tensor, levels: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Rows by level, `[1, levels, 1]`, sums of the centred target, and its squares."""
    (n, mean, squares), (lost, lost_mean, lost_squares) = part.missing
    total = n + lost
    overall = (n * mean + lost * lost_mean) / total
    sums = torch.zeros(levels, 2, dtype=torch.float64)
    centred = torch.stack([present[:, 0], present[:, 1] - present[:, 0] * overall], 1)
    sums.index_add_(0, codes, centred)
    sums[-1] = torch.tensor([lost, lost * (lost_mean - overall)], dtype=torch.float64)
    whole = squares + lost_squares + (mean - lost_mean) ** 2 * n * lost / total
    return sums[None, :, :1].long(), (sums[None, :, 1], torch.tensor([whole], dtype=torch.float64))


def _class_correlation(moments: Floats) -> float:
    """Pearson's r with the class indicator of the largest absolute r, of finite values."""
    n, means, squares = moments.T
    total = n.sum()
    if total == 0:
        return math.nan
    mean = (n * means).sum() / total
    variance = (squares.sum() + (n * (means - mean) ** 2).sum()) / total
    shares = n / total
    deviations = np.sqrt(variance * shares * (1 - shares))
    defined = deviations > 1e-12 * max(abs(mean), 1e-300)
    covariances = shares * (means - mean)
    r = np.where(defined, covariances / np.where(defined, deviations, 1.0), math.nan)
    chosen = r[1:2] if len(r) == 2 else r
    return math.nan if np.isnan(chosen).all() else float(chosen[np.nanargmax(np.abs(chosen))])


def _product_correlation(moments: Floats) -> float:
    """Pearson's r of two quantities from their moments."""
    scale = math.sqrt(moments[3]) * math.sqrt(moments[4])
    return float(moments[5] / scale) if scale > 0 else math.nan


def _indicator_correlation(absent: Tensor, totals: Tensor) -> Tensor:
    """`[d]` Pearson's r of being missing with a class: class 1 of two, else that of largest r."""
    n, lost = totals.sum(), absent.sum(1, keepdim=True)
    scale = (lost * (n - lost) * totals * (n - totals)).sqrt()
    r = torch.where(scale > 0, (n * absent - lost * totals) / scale.clamp(min=1e-300), math.nan)
    if r.shape[1] == 2:
        return r[:, 1]
    best = r.abs().nan_to_num(-1.0).argmax(1, keepdim=True)
    return r.gather(1, best)[:, 0]


def _mean_correlation(moments: Floats) -> float:
    """Pearson's r of being missing with a real target, from the moments of both parts."""
    (n, mean, squares), (lost, lost_mean, lost_squares) = moments
    between = (mean - lost_mean) ** 2 * n * lost / max(n + lost, 1)
    total = squares + lost_squares + between
    if not (n and lost and total > 0):
        return math.nan
    return math.copysign(math.sqrt(between / total), lost_mean - mean)


def _wide(values: Floats, width: int) -> Tensor:
    """`[width]` float64, zeros for classes that the column does not know."""
    found = torch.zeros(width, dtype=torch.float64)
    found[: len(values)] = torch.from_numpy(values)
    return found


def _width(part: TargetSums) -> int:
    return max(int(part.present.shape[1]), len(part.missing))


def _entropy(share: Tensor) -> float:
    return float(-(share * share.clamp(min=1e-300).log()).sum())

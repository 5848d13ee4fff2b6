"""Encodings that betray the rows they were made from: ranks and quantiles, frequencies, lists of
levels and of terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.stats import kstwo
from torch import Tensor

from gendebug_torch.leakage.preprocessing.fingerprint import Fingerprint, StoredColumn

RANKED, FREQUENCY = "spread evenly by its ranks", "encoded by frequencies"
LISTED, VOCABULARY = (
    "coded by a list of levels that was made",
    "laid out by a vocabulary that was made",
)
# Ranks are told from values of few kinds, frequencies from lucky counts, and lists from plain whole
# numbers by so many of them.
_FEWEST_VALUES, _FEWEST_LEVELS = 50, 5


def ranked(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """Shares, or normal scores, spread more evenly than chance allows over both sides, or over
    validation alone.

    Values that were ranked, or mapped through their quantiles, over some rows have there a
    distribution function within the step of the map. What was fitted on training strays in
    validation by `D_m` (Kolmogorov), and over both sides by `m / N D_m`; what nobody fitted strays
    by `D_N`. The larger of both chances counts.
    """
    n, m = len(column.before), len(column.after)
    values = column.both
    if min(n, m) < _FEWEST_VALUES or len(column.runs[0]) < 0.5 * len(values):
        return None
    inside = float(values[0]) >= 0.0 and float(values[-1]) <= 1.0
    normal = -8.0 < float(values[0]) < -1.0 and 1.0 < float(values[-1]) < 8.0
    if not inside and not normal:
        return None
    before, after, both = (
        side if inside else torch.special.ndtr(side)
        for side in (column.before, column.after, values)
    )
    off, train_off, after_off = (_uneven(side) for side in (both, before, after))
    chances = (kstwo.cdf(off, n + m), kstwo.cdf(min(1.0, off * (n + m) / m), m))
    if (p := float(max(chances))) < limit and train_off > 2 * off and not _counts_up(column.before):
        return Fingerprint(column.name, RANKED, ("train", "validation"), p, off, train_off)
    if (p := float(kstwo.cdf(after_off, m))) < limit:
        return Fingerprint(column.name, RANKED, ("validation",), p, after_off, train_off)
    return RANKED if float(kstwo.cdf(train_off, n)) < limit else None


def _uneven(shares: Tensor) -> float:
    """Kolmogorov's distance from an even spread; half a step of 1 / n at least."""
    n = len(shares)
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return float((shares.sort().values - middle).abs().max()) + 0.5 / n


def _counts_up(values: Tensor) -> bool:
    """Whether values are as far from each other as rows that are counted: a place in a table, and
    no rank of a quantity.
    """
    gaps = values.sort().values.diff()
    return float(gaps.std()) < 0.2 * float(gaps.mean())


def frequency(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """Values that are the number of rows, or their share, that hold them.

    Levels of the same frequency share a value v, so that the rows which hold it are a multiple of
    v; for values that mean something else the chance of that is 1 / v for each of them.
    """
    values, counts = column.runs
    if len(values) < _FEWEST_LEVELS or len(values) > len(column.both) / 5 or float(values[0]) <= 0:
        return None
    own = [
        torch.bincount(torch.searchsorted(values, side), minlength=len(values))
        for side in (column.before, column.after)
    ]
    sides: list[tuple[tuple[str, ...], Tensor]] = [
        (("train",), own[0]),
        (("train", "validation"), counts),
        (("validation",), own[1]),
    ]
    for names, rows in sides:
        held = rows > 0
        wanted = values[held] * (float(rows.sum()) if column.fractional else 1.0)
        whole = wanted.round().clamp(min=1)
        fits = ((wanted - whole).abs() <= 1e-6 * wanted.clamp(min=1)) & (rows[held] % whole == 0)
        p = float((-whole.log().sum()).exp())
        if bool(fits.all()) and len(whole) >= _FEWEST_LEVELS and p < limit:
            off = float((own[0][held] % whole).sum()) / len(column.before)
            return (
                FREQUENCY
                if names == ("train",)
                else Fingerprint(column.name, FREQUENCY, names, p, 0.0, off)
            )
    return None


def listed(column: StoredColumn, limit: float) -> Fingerprint | None:
    """Codes 0 to K - 1 without a gap over both sides, of which training lacks many.

    Not of numbers that count rows, nor of those that were given out one after the other, as
    customers join.
    """
    values, _ = column.runs
    start, places = float(values[0]), len(values)
    if (
        start not in (0.0, 1.0)
        or float(values[-1]) != start + places - 1
        or places > len(column.both) / 2
    ):
        return None
    before, after = (
        torch.bincount((side - start).long(), minlength=places)
        for side in (column.before, column.after)
    )
    absent = before == 0
    if int((absent & (values > column.before.max())).sum()) > 0.5 * int(absent.sum()):
        return None
    p = _list_by_chance(absent.long(), after, len(column.before), len(column.after))
    return (
        Fingerprint(
            column.name, LISTED, ("train", "validation"), p, 0.0, float(absent.double().mean())
        )
        if p < limit
        else None
    )


def vocabulary(columns: Sequence[StoredColumn], limit: float) -> Fingerprint | None:
    """Columns that are mostly 0 (terms, marks of levels), of which training fills only some, and
    both sides together all.
    """
    terms = [
        column
        for column in columns
        if float(column.both[0]) >= 0 and float((column.both == 0).double().mean()) > 0.5
    ]
    empty = [column for column in terms if float(column.before.max()) == 0]
    if not empty or any(float(column.both[-1]) == 0 for column in empty):
        return None
    absent = torch.tensor([float(column.before.max()) == 0 for column in terms])
    filled = torch.tensor([int((column.after > 0).sum()) for column in terms])
    p = _list_by_chance(absent.long(), filled, len(empty[0].before), len(empty[0].after))
    if p >= limit:
        return None
    return Fingerprint(
        f"{empty[0].name} and {len(empty) - 1} more",
        VOCABULARY,
        ("train", "validation"),
        p,
        0.0,
        len(empty) / len(terms),
    )


def _list_by_chance(absent: Tensor, filled: Tensor, n: int, m: int) -> float:
    """Chance that a list which is not of these rows leaves no place empty where training leaves so
    many; 1 if the split is no random one.

    A place that is filled at a rate r per training row is empty there with chance exp(-n r), and
    filled by validation with chance 1 - exp(-m r). Of all places at most `places exp(-n r)` are
    empty in training, which bounds the rates of those that are; places that validation fills much
    more often than this are there because of how rows were split. Own derivation.

    Args:
        absent: `[places]` 1 where training is empty.
        filled: `[places]` validation rows in each place.
        n: training rows.
        m: validation rows.
    """
    missing = int(absent.sum())
    if not missing:
        return 1.0
    expected = (math.log(len(absent) / missing) + 1.0) * m / n
    if float(filled[absent > 0].double().mean()) > 1.5 * (1.0 + expected):
        return 1.0
    return (1 - math.exp(-expected)) ** missing

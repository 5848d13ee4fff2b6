"""Identical rows, and values of one column, that several splits share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import Features, feature_table, numeric_values
from gendebug_torch.leakage.splits.row_hashes import row_hashes
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows from which the chance of a coincidence is estimated, and values listed.
_CHANCE_ROWS, _MAX_VALUES = 20_000, 10_000


@dataclass(frozen=True, eq=False)
class SplitOverlap:
    """Number of rows of each split that occur in each other split.

    Args:
        kind: what is shared, e.g. `identical rows`.
        splits: names of the s splits.
        sizes: number of rows of each, `[s]` int64.
        shared: number of rows of the first split that occur in the second, `[s, s]` int64; on the
            diagonal those repeated within the split.
        rows: rows of the second split that occur in the first, `[p]` int64.
        partners: one row of the first split for each of them, `[p]` int64.
        values: the shared values, if `kind` is about one column.
    """

    kind: str
    splits: tuple[str, ...]
    sizes: Tensor
    shared: Tensor
    rows: Tensor
    partners: Tensor
    values: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the second split that occurs in the first."""
        return len(self.rows) / max(int(self.sizes[1]), 1)

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's lower and upper bound of `share`."""
        low, high = wilson_interval(torch.tensor(len(self.rows)), self.sizes[1], level=level)
        return float(low), float(high)

    def table(self) -> pd.DataFrame:
        """One row per ordered pair of splits: number of rows, shared rows and their share."""
        entries = [
            {"of": a, "found in": b, "rows": int(self.sizes[i]), "shared": int(self.shared[i, j])}
            for i, a in enumerate(self.splits)
            for j, b in enumerate(self.splits)
        ]
        frame = pd.DataFrame(entries)
        return frame.assign(share=frame["shared"] / frame["rows"].clip(lower=1))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of each split that occurs in each split."""
        frame = self.table()
        frame = frame.assign(label=frame["of"] + " in " + frame["found in"])
        within = frame["of"] == frame["found in"]
        frame.loc[within, "label"] = "within " + frame["of"]
        title, xlabel = f"Shared by the splits: {self.kind}", "share of rows"
        return BarEvidence(frame, "label", "share", title, xlabel).plot(ax)


def identical_rows(splits: Mapping[str, Features]) -> SplitOverlap:
    """Rows of each split that occur in each other split with the same values in all columns.

    Args:
        splits: name -> table or tensor; the first is the one the model was fitted on, the second
            the one it is evaluated on. Columns that some split lacks are left out.

    Raises:
        InputError: fewer than two splits, or splits that cannot be compared.

    Cost: one pass over the values, then sorting of 64-bit hashes.

    Example:
        >>> import torch
        >>> train, validation = torch.arange(8.0).reshape(4, 2), torch.tensor([[9.0, 9], [2, 3]])
        >>> found = identical_rows({"train": train, "validation": validation})
        >>> found.rows.tolist(), found.partners.tolist(), found.share
        ([1], [1], 0.5)
    """
    _at_least_two(splits)
    hashes, _ = row_hashes(list(splits.values()))
    return _overlap("identical rows", tuple(splits), [key.cpu() for key in hashes])


def shared_values(splits: Mapping[str, pd.Series[Any]], *, kind: str) -> SplitOverlap:
    """Rows of each split whose value of one column occurs in each other split.

    Args:
        splits: name -> values of the column (a customer, a session, an id), `[n]`; missing values
            are shared with nothing.
        kind: what the values are, for the picture.

    Raises:
        InputError: fewer than two splits.

    Example:
        >>> import pandas as pd
        >>> train, validation = pd.Series(["ann", "bob"]), pd.Series(["bob", "cyd"])
        >>> found = shared_values({"train": train, "validation": validation}, kind="customers")
        >>> found.values, found.share
        (('bob',), 0.5)
    """
    _at_least_two(splits)
    present = [values[values.notna()].to_frame(name="value") for values in splits.values()]
    hashes, _ = row_hashes(present)
    found = _overlap(kind, tuple(splits), list(hashes))
    first, second = (
        torch.from_numpy(np.flatnonzero(values.notna().to_numpy()))
        for values in list(splits.values())[:2]
    )
    rows = second[found.rows]
    shared = list(splits.values())[1].iloc[rows[:_MAX_VALUES].numpy()]
    return replace(
        found,
        sizes=torch.tensor([len(values) for values in splits.values()]),
        rows=rows,
        partners=first[found.partners],
        values=tuple(dict.fromkeys(map(str, shared))),
    )


def chance_share(train: Features, validation: Features) -> float:
    """Share of validation rows with an identical training row if the columns were independent.

    `1 - (1 - prod_j q_j)^n` with `q_j` the chance that two rows agree in column j. Tables of few
    coarse columns have repeated rows without any leak; this is how many, or a lower bound where the
    columns depend on each other. If a column differs between more than half of the rows, the
    chance is 0.

    Args:
        train: table `[n, d]` or tensor `[n, ...]`.
        validation: table `[m, d]` or tensor `[m, ...]`.
    """
    log_chance = 0.0
    for before, after in _column_pairs(train, validation):
        values, inverse = np.unique(np.concatenate([before, after]), return_inverse=True)
        if len(values) > len(inverse) / 2:
            return 0.0
        a, b = (
            np.bincount(part, minlength=len(values)) / max(len(part), 1)
            for part in np.split(inverse, [len(before)])
        )
        log_chance += float(np.log(max((a * b).sum(), 0.5 / (len(before) * max(len(after), 1)))))
    chance = min(np.exp(log_chance), 1 - 1e-12)
    return float(-np.expm1(len(train) * np.log1p(-chance)))


def _column_pairs(
    train: Features, validation: Features
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Values of each shared column in both splits, thinned evenly, as numbers or as text."""
    before, after = (
        feature_table(split[::step] if isinstance(split, Tensor) else split.iloc[::step])
        for split in (train, validation)
        for step in [max(len(split) // _CHANCE_ROWS, 1)]
    )
    for name in [c for c in before.columns if c in after.columns]:
        a, b = before[name], after[name]
        if a.dtype.kind in "fiub" and b.dtype.kind in "fiub":
            yield numeric_values(a), numeric_values(b)
        else:
            yield _texts(a), _texts(b)


def _texts(values: pd.Series[Any]) -> np.ndarray[Any, Any]:
    return values.astype("string").fillna("").to_numpy(dtype=object).astype(str)


def _at_least_two(splits: Mapping[str, Any]) -> None:
    if len(splits) < 2:
        reject("splits", "at least two splits", str(len(splits)), "Pass e.g. train and validation.")


def _overlap(kind: str, names: tuple[str, ...], hashes: Sequence[Tensor]) -> SplitOverlap:
    sizes = torch.tensor([len(split) for split in hashes])
    values, group = torch.unique(torch.cat(list(hashes)), return_inverse=True)
    parts = torch.split(group, sizes.tolist())
    counts = [torch.bincount(part, minlength=len(values)) for part in parts]
    shared = torch.zeros(len(parts), len(parts), dtype=torch.int64)
    for i, own in enumerate(parts):
        for j, other in enumerate(counts):
            shared[i, j] = int((other[own] > int(i == j)).sum())
    n = len(parts[0])
    first = torch.full((len(values),), n).scatter_reduce_(0, parts[0], torch.arange(n), "amin")
    partners = first[parts[1]]
    rows = (partners < n).nonzero()[:, 0]
    return SplitOverlap(kind, names, sizes, shared, rows, partners[rows])

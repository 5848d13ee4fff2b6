"""What the sides of a split share: identical rows, and values of a column that should keep to one
side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import numbers
from gendebug_torch.leakage.splits.row_hashes import Features, row_keys
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows by which the chance of a coincidence is estimated.
CHANCE_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class SplitOverlap:
    """How many rows of each side are found again in each other side.

    Args:
        kind: what is shared, e.g. `identical rows`.
        sides: names of the s sides.
        sizes: `[s]` int64 rows of each.
        shared: `[s, s]` int64: rows of the first side whose like is in the second; on the diagonal
            those repeated within.
        rows: `[p]` int64 rows of the second side that are found in the first.
        partners: `[p]` int64 one row of the first side for each of them.
        values: what they have in common, for p of them, or empty.
    """

    kind: str
    sides: tuple[str, ...]
    sizes: Tensor
    shared: Tensor
    rows: Tensor
    partners: Tensor
    values: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the second side that is found in the first."""
        return len(self.rows) / max(int(self.sizes[1]), 1)

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's bounds of that share."""
        low, high = wilson_interval(torch.tensor(len(self.rows)), self.sizes[1], level=level)
        return float(low), float(high)

    def table(self) -> pd.DataFrame:
        """One row per ordered pair of sides: rows, shared rows and their share."""
        entries = [
            {"of": a, "found in": b, "rows": int(self.sizes[i]), "shared": int(self.shared[i, j])}
            for i, a in enumerate(self.sides)
            for j, b in enumerate(self.sides)
        ]
        frame = pd.DataFrame(entries)
        return frame.assign(share=frame["shared"] / frame["rows"].clip(lower=1))

    def pairs(self, *, most: int = 50) -> pd.DataFrame:
        """The first shared rows: row of the second side, its like in the first."""
        frame = pd.DataFrame(
            {self.sides[1]: self.rows[:most].numpy(), self.sides[0]: self.partners[:most].numpy()}
        )
        return frame.assign(value=list(self.values[:most])) if self.values else frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """The table of shares, one cell for each ordered pair of sides."""
        ax = axes(ax, size=(5.2, 3.8))
        share = (self.shared.double() / self.sizes.clamp(min=1)[:, None]).numpy()
        ax.imshow(share, vmin=0.0, vmax=max(float(share.max()), 0.05), cmap="Blues", aspect="auto")
        for i in range(len(self.sides)):
            for j in range(len(self.sides)):
                dark = share[i, j] > 0.6 * max(float(share.max()), 0.05)
                text = f"{share[i, j]:.1%}\n{int(self.shared[i, j]):,} rows"
                ax.text(
                    j,
                    i,
                    text,
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                    fontsize=9,
                )
        ax.set_xticks(range(len(self.sides)), [f"in {name}" for name in self.sides])
        ax.set_yticks(range(len(self.sides)), [f"rows of {name}" for name in self.sides])
        ax.grid(visible=False)
        ax.set_xlabel("found again (on the diagonal: repeated within)")
        ax.set_title(f"Shared by the splits: {self.kind}")
        return ax


def identical_rows(sides: Mapping[str, Features]) -> SplitOverlap:
    """Rows of each side that occur in each other side with the same values in all shared columns.

    Args:
        sides: name -> table or tensor; the first is the one the model was fitted on, the second the
            one it was judged on.

    Raises:
        InputError: fewer than two sides, or sides that cannot be compared.

    Cost: one pass over the values, then sorting of 64-bit keys.
    """
    _two(sides)
    keys, _ = row_keys(list(sides.values()))
    return _overlap("identical rows", tuple(sides), [key.cpu() for key in keys])


def shared_values(sides: Mapping[str, pd.Series[Any]], *, kind: str) -> SplitOverlap:
    """Rows of each side whose value of one column (a customer, a session, an id) occurs in each
    other side.

    Args:
        sides: name -> `[n]` values; missing values are shared with nothing.
        kind: what the values are, for the picture.
    """
    _two(sides)
    known = {name: values[values.notna()] for name, values in sides.items()}
    keys, _ = row_keys([values.to_frame(name="value") for values in known.values()])
    found = _overlap(kind, tuple(sides), list(keys))
    places = [
        torch.from_numpy(np.flatnonzero(values.notna().to_numpy())) for values in sides.values()
    ]
    sizes = torch.tensor([len(values) for values in sides.values()])
    second = list(sides.values())[1]
    values = tuple(
        dict.fromkeys(str(second.iloc[int(row)]) for row in places[1][found.rows][:10_000])
    )
    return SplitOverlap(
        kind,
        found.sides,
        sizes,
        found.shared,
        places[1][found.rows],
        places[0][found.partners],
        values,
    )


def chance_share(train: Features, validation: Features) -> float:
    """Share of validation rows that would have an identical training row if the columns were
    independent.

    `1 - (1 - prod_j q_j)^n` with `q_j` the chance that two rows agree in column j. Tables of few
    coarse columns repeat themselves without any leak; this says how much, or less than how much
    where the columns depend on each other. A column that differs in more than half of the rows
    tells them apart, so that nothing is left to chance.

    Args:
        train: `[n, d]` table or `[n, ...]` tensor.
        validation: `[m, d]` or `[m, ...]`.
    """
    n = len(train)
    log_chance = 0.0
    for before, after in _columns(train, validation):
        values, inverse = np.unique(np.concatenate([before, after]), return_inverse=True)
        if len(values) > len(inverse) / 2:
            return 0.0
        shares = [
            np.bincount(part, minlength=len(values)) / max(len(part), 1)
            for part in np.split(inverse, [len(before)])
        ]
        log_chance += float(
            np.log(max((shares[0] * shares[1]).sum(), 0.5 / (len(before) * max(len(after), 1))))
        )
    return float(-np.expm1(n * np.log1p(-min(np.exp(log_chance), 1 - 1e-12))))


def _columns(train: Features, validation: Features) -> Any:
    before, after = (side[:: max(len(side) // CHANCE_ROWS, 1)] for side in (train, validation))
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        yield from zip(
            before.reshape(len(before), -1).T.cpu().numpy(),
            after.reshape(len(after), -1).T.cpu().numpy(),
            strict=True,
        )
    elif isinstance(before, pd.DataFrame) and isinstance(after, pd.DataFrame):
        for name in [c for c in before.columns if c in after.columns]:
            pair = before[name], after[name]
            plain = all(side.dtype.kind in "fiub" for side in pair)
            yield tuple(
                numbers(side)
                if plain
                else side.astype("string").fillna("").to_numpy(dtype=object).astype(str)
                for side in pair
            )


def _two(sides: Mapping[str, Any]) -> None:
    if len(sides) < 2:
        reject("sides", "at least two sides", str(len(sides)), "Pass e.g. train and validation.")


def _overlap(kind: str, names: tuple[str, ...], keys: list[Tensor]) -> SplitOverlap:
    sizes = torch.tensor([len(key) for key in keys])
    values, group = torch.unique(torch.cat(keys), return_inverse=True)
    parts = torch.split(group, sizes.tolist())
    counts = [torch.bincount(part, minlength=len(values)) for part in parts]
    shared = torch.zeros(len(keys), len(keys), dtype=torch.int64)
    for i, own in enumerate(parts):
        for j, other in enumerate(counts):
            shared[i, j] = int((other[own] > int(i == j)).sum())
    first = torch.full((len(values),), len(keys[0])).scatter_reduce_(
        0, parts[0], torch.arange(len(keys[0])), "amin"
    )
    partners = first[parts[1]]
    rows = (partners < len(keys[0])).nonzero()[:, 0]
    return SplitOverlap(kind, names, sizes, shared, rows, partners[rows])

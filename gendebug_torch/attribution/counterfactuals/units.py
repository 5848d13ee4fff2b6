"""What may change in inputs: columns, regions, stretches of channels or words; how far rows are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Units:
    """Parts of flat inputs that change as a whole, of u units and d values.

    Args:
        names: names of the units, u.
        of: unit of each value, `[d]` int64.
        scale: what a change of each value is measured by, `[d]`; 1 for codes.
        codes: values that have no order, `[d]` bool.
        up: values that may rise, `[d]` bool.
        down: values that may fall, `[d]` bool.
        rows: training rows, `[n, d]`.
        shape: shape of one input as the network takes it.
        whole: quantities that are whole numbers in training, `[d]` bool, where a unit is a column,
            whose values may lie between those of rows; else None.
        padding: codes that stand for no word, which neither come nor go.
    """

    names: tuple[str, ...]
    of: Tensor
    scale: Tensor
    codes: Tensor
    up: Tensor
    down: Tensor
    rows: Tensor
    shape: tuple[int, ...]
    whole: Tensor | None = None
    padding: tuple[int, ...] = ()

    def by_unit(self, values: Tensor) -> Tensor:
        """Means `[..., u]` over the values `[..., d]` of each unit."""
        total = values.new_zeros(*values.shape[:-1], len(self.names))
        total.index_add_(-1, self.of, values)
        return total / self.of.bincount(minlength=len(self.names))

    def allowed(self, before: Tensor, after: Tensor) -> Tensor:
        """`[..., u]` bool, changes of units that are real and permitted."""
        changed = ((after > before) & self.up) | ((after < before) & self.down)
        for code in self.padding:
            changed = changed & (before != code) & (after != code)
        return self.by_unit(changed.float()) > 0

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[..., u]` size of the change of each unit: mean scaled difference, or share of codes.

        Source: Gower (1971), Biometrics 27:857; quantities by their median absolute deviation as in
        Wachter, Mittelstadt and Russell (2018), Harv. J. Law Technol. 31:841.
        """
        gap = (a.float() - b.float()).abs() / self.scale
        return self.by_unit(torch.where(self.codes, (a != b).float(), gap))

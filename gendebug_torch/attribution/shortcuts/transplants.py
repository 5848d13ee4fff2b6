"""Which part of an input carries a class: it is put into inputs of other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.stats import binomtest
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.modality.pictures.drawing import draw_rows
from gendebug_torch.modality.pictures.regions import Region

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# A region is taken in the place of a larger one if it turns at least this share of the inputs that
# the larger one turns: a large one tears inputs up as well.
_AS_GOOD = 0.5
# Rows that are drawn of each group.
_DRAWN = 8
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Transplant:
    """What a region of one class does in inputs of other classes.

    Args:
        region: the part that is put into them.
        anywhere: whether the part lies in changing places.
        before: share of inputs that become the class with the region of validation, in `[0, 1]`.
        after: the same with the region of production.
        control: the same with the region of other classes.
        p_value: of equal shares before and after, corrected for the number of regions.
        rows: groups of inputs for a picture, by name.
        shares: names of all regions with their share before, largest first.
    """

    region: Region
    anywhere: bool
    before: float
    after: float
    control: float
    p_value: float
    rows: dict[str, Tensor]
    shares: tuple[tuple[str, float], ...]

    def table(self) -> pd.DataFrame:
        """One row per region: share of inputs of other classes that it turns."""
        import pandas as pd

        return pd.DataFrame(list(self.shares), columns=["region", "share turned"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Inputs of validation and of production with the region, and what they turn."""
        ax = axes(ax, size=(7.5, 3.4))
        box = None if self.anywhere else self.region.box
        draw_rows(ax, self.rows, [box] * len(self.rows))
        where = "a mark in changing places" if self.anywhere else self.region.name
        ax.set_title(
            f"{where}: turns {self.before:.0%} with validation, {self.after:.0%} with production"
        )
        ax.set_xlabel(ax.get_xlabel() or "rows with the region marked")
        return ax


@dataclass(frozen=True, eq=False)
class Donors:
    """Inputs of one class and of others, as many of each.

    Args:
        recipients: inputs of other classes in validation, `[m, ...]`.
        before: inputs of the class in validation.
        after: inputs of the class in production.
        others: inputs of other classes in validation.
    """

    recipients: Tensor
    before: Tensor
    after: Tensor
    others: Tensor


def transplant(
    network: Network, donors: Donors, regions: Sequence[Region], class_id: int, *, least: float
) -> Transplant | None:
    """The region that turns inputs into a class if it comes from validation, not from production.

    Each region of an input of the class is put into an input of another class. The smallest region
    that turns about as many as any is compared with the same region of production and of other
    classes, and, where the same thing may lie in changing places, any such region as well. Cost:
    `(r + 2 s) m` evaluations, where s of r regions are compared.

    Source: the contrast of mixed images of Yun et al. (2019), CutMix, arXiv:1905.04899, for test
    inputs; sign test of Dixon and Mood (1946), J. Am. Stat. Assoc. 41:557.

    Args:
        network: inputs -> predicted class ids `[m]`.
        donors: inputs, the same number of each kind.
        regions: regions, the smallest first.
        class_id: the class.
        least: smallest share that counts, and smallest difference to the others.
    """
    turned = torch.stack([_turned(network, donors, donors.before, r, class_id) for r in regions])
    for places in _places(regions, turned, least):
        found = _compared(network, donors, regions, places, turned, class_id)
        if _is_lost(found, least):
            return found
    return None


def _places(regions: Sequence[Region], turned: Tensor, least: float) -> list[list[int]]:
    """Numbers of regions to compare: the smallest that turns enough, or several at once.

    A thing in changing places turns few inputs in each of them, and fewer in a large region than
    in any of the small ones.
    """
    shares = turned.double().mean(1).tolist()
    best = max(shares)
    chosen = [next(i for i, share in enumerate(shares) if share >= _AS_GOOD * best)]
    movable = [i for i, region in enumerate(regions) if region.movable]
    anywhere = float(turned[movable].any(0).double().mean()) if movable else 0.0
    ordered = [movable] if anywhere >= least else []
    ordered.insert(0 if regions[chosen[0]].movable or anywhere < best else 1, chosen)
    return [places for places in ordered if best >= least or places is movable]


def _is_lost(found: Transplant, least: float) -> bool:
    lost = found.before - found.after
    return (
        found.before >= least
        and lost >= max(least, found.before / 2)
        and (found.before - found.control >= least)
    )


def _turned(
    network: Network, donors: Donors, given: Tensor, region: Region, class_id: int
) -> Tensor:
    """Which recipients become the class with the region of each given input, bool `[m]`."""
    return network(region.paste(donors.recipients, given)) == class_id


def _compared(
    network: Network,
    donors: Donors,
    regions: Sequence[Region],
    places: Sequence[int],
    turned: Tensor,
    class_id: int,
) -> Transplant:
    """What regions of validation, of production and of other classes turn, any of the places."""
    sides = [turned[list(places)].any(0)]
    for given in (donors.after, donors.others):
        hits = [_turned(network, donors, given, regions[i], class_id) for i in places]
        sides.append(torch.stack(hits).any(0))
    before, after, control = (side.cpu() for side in sides)
    # Of several places the most telling one stands for all.
    region = regions[max(places, key=lambda i: float(turned[i].double().mean()))]
    hit = before.nonzero()[:_DRAWN, 0]
    rows = {
        "validation": donors.before[hit].cpu(),
        "production": donors.after[:_DRAWN].cpu(),
        "other class, turned": region.paste(donors.recipients, donors.before)[hit].cpu(),
    }
    shares = (float(side.double().mean()) for side in (before, after, control))
    p_value = min(1.0, _sign_test(before, after) * len(regions))
    return Transplant(region, len(places) > 1, *shares, p_value, rows, _listed(regions, turned))


def _sign_test(before: Tensor, after: Tensor) -> float:
    """P-value of as many turned by production as by validation, of the same recipients."""
    more, fewer = int((before & ~after).sum()), int((after & ~before).sum())
    return float(binomtest(more, more + fewer, alternative="greater").pvalue) if more else 1.0


def _listed(regions: Sequence[Region], turned: Tensor) -> tuple[tuple[str, float], ...]:
    """Names of regions with the share that each turns, the largest first."""
    shares = turned.double().mean(1)
    order = shares.argsort(descending=True, stable=True).tolist()
    return tuple((regions[i].name, float(shares[i])) for i in order)

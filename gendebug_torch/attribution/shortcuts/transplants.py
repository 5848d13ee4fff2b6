"""Which part of an input carries a class: it is put into inputs of other classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from scipy.special import bdtrc
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.modality.parts import Composite
from gendebug_torch.modality.pictures.drawing import draw_rows
from gendebug_torch.modality.pictures.regions import Box, Region

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# A region is taken in the place of a larger one if it turns at least this share of the inputs that
# the larger one turns: a large one tears inputs up as well.
_AS_GOOD = 0.5
# Rows that are drawn of each group.
_DRAWN = 8
MARK = "a mark in changing places"
# Inputs -> by how much the class leads, [m]; above 0 it is predicted.
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Transplant:
    """What a region of one class does in inputs of other classes.

    Args:
        region: the part that is put into them; of a mark in changing places the commonest one.
        anywhere: whether it is the most telling part of each input, put in another place.
        before: share of inputs that become the class with the region of validation, in `[0, 1]`.
        after: the same with the region of production.
        control: the same with the region of other classes.
        p_value: of equal shares before and after, corrected for the number of regions.
        rows: groups of inputs for a picture, by name.
        boxes: place of the part in each of these rows, None where it has none.
        shares: names of all regions with their share before, largest first.
    """

    region: Region
    anywhere: bool
    before: float
    after: float
    control: float
    p_value: float
    rows: dict[str, Tensor]
    boxes: dict[str, list[Box | None]]
    shares: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """What the part is, in words."""
        return MARK if self.anywhere else self.region.name

    def table(self) -> pd.DataFrame:
        """One row per region: share of inputs of other classes that it turns."""
        import pandas as pd

        return pd.DataFrame(list(self.shares), columns=["region", "share turned"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Inputs of validation and of production with the region, and what they turn."""
        ax = axes(ax, size=(7.5, 3.4))
        draw_rows(ax, self.rows, self.boxes)
        shares = f"turns {self.before:.0%} with validation, {self.after:.0%} with production"
        ax.set_title(f"{self.name}: {shares}")
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
        whole: the recipients with all parts, where these inputs are one of several.
    """

    recipients: Tensor
    before: Tensor
    after: Tensor
    others: Tensor
    whole: Composite | None = None


def transplant(
    network: Network, donors: Donors, regions: Sequence[Region], *, least: float
) -> Transplant | None:
    """The part that turns inputs into a class if it comes from validation, not from production.

    Each region of an input of the class is put into an input of another class. The smallest region
    that turns about as many as any is compared with the same region of production and of other
    classes. A thing in changing places turns few inputs in each of them: the most telling part of
    each input is put in another place, and so is that of production and of other classes. Cost:
    `3 r m` evaluations for r regions.

    Source: the contrast of mixed images of Yun et al. (2019), CutMix, arXiv:1905.04899, for test
    inputs; sign test of Dixon and Mood (1946), J. Am. Stat. Assoc. 41:557.

    Args:
        network: inputs -> by how much the class leads, `[m]`.
        donors: inputs, the same number of each kind.
        regions: regions, the smallest first.
        least: smallest share that counts, and smallest difference to the others.
    """
    leads = _leads(network, donors, donors.before, regions)
    fixed = _in_one_place(network, donors, regions, leads, least)
    if fixed is not None and fixed.region.family and fixed.before >= _AS_GOOD:
        return fixed
    mark = _in_changing_places(network, donors, regions, leads, least)
    if fixed is None or mark is None:
        return fixed or mark
    if fixed.region.family:
        return mark if fixed.before < _AS_GOOD * mark.before else fixed
    return mark if _rests_on_a_part(network, donors, fixed, regions, leads) else fixed


@dataclass(frozen=True, eq=False)
class _Put:
    """Recipients with the parts of given inputs, and where each part was and is now."""

    given: Tensor
    pasted: Tensor
    sources: Sequence[Region]
    targets: Sequence[Region]


def _leads(network: Network, donors: Donors, given: Tensor, regions: Sequence[Region]) -> Tensor:
    """By how much the class leads with each region of the given inputs, `[r, m]`."""
    return torch.stack([network(r.paste(donors.recipients, given)) for r in regions])


def _in_one_place(
    network: Network, donors: Donors, regions: Sequence[Region], leads: Tensor, least: float
) -> Transplant | None:
    """The smallest region that turns about as many inputs as any, where production's does not."""
    shares = (leads > 0).double().mean(1).tolist()
    best = max(shares)
    if best < least:
        return None
    region = next(r for r, share in zip(regions, shares, strict=True) if share >= _AS_GOOD * best)
    places = [region] * len(donors.recipients)
    puts = [
        _Put(given, region.paste(donors.recipients, given), places, places)
        for given in (donors.before, donors.after, donors.others)
    ]
    found = _compared(network, puts, regions, leads)
    return found if _is_lost(found, least) else None


def _in_changing_places(
    network: Network, donors: Donors, regions: Sequence[Region], leads: Tensor, least: float
) -> Transplant | None:
    """The most telling part of each input, put in another place, if production has no such part."""
    movable = _movable(regions)
    own = leads[movable]
    if not movable or float((own > 0).any(0).double().mean()) < least:
        return None
    windows = [regions[i] for i in movable]
    puts = []
    for given in (donors.before, donors.after, donors.others):
        found = own if given is donors.before else _leads(network, donors, given, windows)
        sources = [windows[i] for i in found.argmax(0).tolist()]
        puts.append(_elsewhere(donors.recipients, given, sources, windows))
    result = replace(_compared(network, puts, regions, leads), anywhere=True)
    return result if _is_lost(result, least) else None


def _movable(regions: Sequence[Region]) -> list[int]:
    """Numbers of the regions that have others of their family."""
    families = [region.family for region in regions]
    return [i for i, family in enumerate(families) if family and families.count(family) > 1]


def _elsewhere(
    recipients: Tensor, given: Tensor, sources: Sequence[Region], regions: Sequence[Region]
) -> _Put:
    """The recipients with a part of each given input, in another place of its family by chance."""
    generator = torch.Generator().manual_seed(0)
    targets, pasted = [], []
    for i, source in enumerate(sources):
        others = [r for r in regions if r.family == source.family and r is not source]
        target = others[int(torch.randint(len(others), (1,), generator=generator))]
        moved = source.moved(given[i : i + 1], target)
        pasted.append(target.paste(recipients[i : i + 1], moved))
        targets.append(target)
    return _Put(given, torch.cat(pasted), sources, targets)


def _rests_on_a_part(
    network: Network, donors: Donors, fixed: Transplant, regions: Sequence[Region], leads: Tensor
) -> bool:
    """Whether most of what a large region turns is lost without one part of each input."""
    movable = _movable(regions)
    pasted = fixed.region.paste(donors.recipients, donors.before)
    best = leads[movable].argmax(0).tolist()
    without = [
        regions[movable[at]].paste(pasted[i : i + 1], donors.recipients[i : i + 1])
        for i, at in enumerate(best)
    ]
    left = float((network(torch.cat(without)) > 0).double().mean())
    return left < (fixed.before + fixed.after) / 2


def _is_lost(found: Transplant, least: float) -> bool:
    lost = found.before - found.after
    return (
        found.before >= least
        and lost >= max(least, found.before / 2)
        and (found.before - found.control >= least)
    )


def _compared(
    network: Network, puts: Sequence[_Put], regions: Sequence[Region], leads: Tensor
) -> Transplant:
    """What parts of validation, of production and of other classes turn."""
    before, after, control = ((network(put.pasted) > 0).cpu() for put in puts)
    hit = before.nonzero()[:_DRAWN, 0]
    first, own = torch.arange(min(_DRAWN, len(after))), puts[0]
    drawn = {
        "validation": (own.given, own.sources, hit),
        "production": (puts[1].given, puts[1].sources, first),
        "other class, turned": (own.pasted, own.targets, hit),
    }
    one, two, three = (float(side.double().mean()) for side in (before, after, control))
    return Transplant(
        Counter(own.sources).most_common(1)[0][0],
        False,
        one,
        two,
        three,
        min(1.0, _sign_test(before, after) * len(regions)),
        {name: rows[at.to(rows.device)].cpu() for name, (rows, _, at) in drawn.items()},
        {name: [places[i].box for i in at.tolist()] for name, (_, places, at) in drawn.items()},
        _listed(regions, leads > 0),
    )


def _sign_test(before: Tensor, after: Tensor) -> float:
    """P-value of as many turned by production as by validation, of the same recipients."""
    more, fewer = int((before & ~after).sum()), int((after & ~before).sum())
    return float(bdtrc(more - 1, more + fewer, 0.5)) if more else 1.0


def _listed(regions: Sequence[Region], turned: Tensor) -> tuple[tuple[str, float], ...]:
    """Names of regions with the share that each turns, the largest first."""
    shares = turned.double().mean(1)
    order = shares.argsort(descending=True, stable=True).tolist()
    return tuple((regions[i].name, float(shares[i])) for i in order)

"""Check that no part of an image, series or text carries a class that production does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.checks._rows import row_count
from gendebug_torch.attribution.shortcuts.tokens import TokenShortcut, telling_token
from gendebug_torch.attribution.shortcuts.transplants import Donors, Transplant, transplant
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.inputs.origin import inputs_of
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.modality.parts import Composite, composite_of
from gendebug_torch.modality.pictures.regions import regions_of
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_for
from gendebug_torch.stats.intervals import two_share_p_value
from gendebug_torch.stats.multiple_testing import holm_adjusted

# Classes that are looked at, those whose recall fell most surely.
_MOST_CLASSES = 3
# Inputs of a class, and of the others, that are needed.
_FEWEST = 15
_REGIONS = 45


def _cost(given: Mapping[str, Any]) -> Cost:
    validation = given.get("validation")
    if validation is None or not len(validation):
        return Cost()
    first = _main_part(validation.select([0]))
    if modality_of(first.features, first.modality) is None:
        return Cost()
    rows = min(64, row_count(given, "validation", 64))
    return Cost(forwards=float(_MOST_CLASSES * 3 * _REGIONS * rows))


@check(
    "attribution.region_shortcut",
    cause=Cause.SHORTCUT_FEATURE,
    needs=(
        "model",
        "validation.inputs",
        "validation.targets",
        "validation.logits",
        "production.inputs",
        "production.targets",
        "production.logits",
    ),
    cost=_cost,
)
def no_region_carries_a_class_that_production_lacks(
    model: Model,
    validation: Records,
    production: Records,
    *,
    alpha: float = 0.002,
    least: float = 0.3,
    rows: int = 64,
    seed: int = 0,
) -> Iterator[Finding]:
    """No part of an image, series or text makes a class in validation but not in production.

    For the classes whose recall fell, be it by chance: a part of an input of the class (a place,
    the border, the background, the tint; a channel or steps; a token, the length) is put into
    inputs of the classes that it became in production. A part of validation that turns them into
    the class, where the same part of production does not, is a shortcut: the network looked at it
    instead of the thing.

    Source: Geirhos et al. (2020), Nat. Mach. Intell. 2:665, arXiv:2004.07780; Yun et al. (2019),
    CutMix, arXiv:1905.04899, for mixed images.

    Args:
        model: network of classes.
        validation: labeled rows with images, series or token ids.
        production: labeled rows.
        alpha: chance of a false alarm.
        least: smallest share of inputs that the part must turn, beyond that of production.
        rows: inputs of a class into which parts are put.
        seed: of the samples.
    """
    this = no_region_carries_a_class_that_production_lacks
    whole = composite_of(inputs_of(validation), validation.modality)
    validation, production = _main_part(validation), _main_part(production)
    if reason := _unfit(validation, production):
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.")
        return
    falls = _falls(validation, production, alpha)[:_MOST_CLASSES]
    if not falls:
        yield this.finding(Severity.OK, "The recall of no class fell: no shortcut was lost.")
        return
    found = False
    for fall in falls:
        donors = _donors(validation, production, whole, fall.class_id, rows, seed)
        if donors is None:
            continue
        level = alpha / len(falls)
        finding = _judged(model, validation, production, fall, donors, least, level)
        if finding is not None:
            found = True
            yield finding
    if not found:
        yield _none(falls)


@dataclass(frozen=True)
class _Fall:
    """A class whose recall fell.

    Args:
        class_id: its number.
        name: its name.
        before: its recall in validation.
        after: its recall in production.
        p_value: of equal recalls.
        certain: whether it fell beyond chance, all classes considered.
    """

    class_id: int
    name: str
    before: float
    after: float
    p_value: float
    certain: bool

    @property
    def text(self) -> str:
        """What happened to its recall."""
        fell = f"the recall of {self.name} fell from {self.before:.1%} to {self.after:.1%}"
        return fell if self.certain else f"{fell}, which may be chance"


def _none(falls: list[_Fall]) -> Finding:
    """That no region is a shortcut of the classes whose recall fell."""
    names = ", ".join(fall.name for fall in falls)
    fell = "fell" if any(fall.certain for fall in falls) else "did not fall beyond chance"
    summary = (
        f"The recall of {names} {fell}, and no region alone makes "
        f"{'it' if len(falls) == 1 else 'them'} in validation and not in production."
    )
    return no_region_carries_a_class_that_production_lacks.finding(
        Severity.OK, summary, numbers={"classes": [fall.name for fall in falls]}
    )


def _main_part(records: Records) -> Records:
    """Records whose features are the image, text or series of inputs of several parts."""
    whole = composite_of(inputs_of(records), records.modality)
    if whole is None or whole.part.modality is None:
        return records
    return replace(records, features=whole.main, modality=whole.part.modality.name)


def _unfit(validation: Records, production: Records) -> str:
    """Why nothing can be judged; empty if it can."""
    modality = modality_of(validation.features, validation.modality)
    if modality is None:
        return "the inputs are a table, see attribution.shortcut"
    if validation.task not in (Task.BINARY, Task.MULTICLASS):
        return "the network does not answer with one class"
    shapes = [getattr(side.features, "shape", (0,))[1:] for side in (validation, production)]
    if shapes[0] != shapes[1]:
        return "the inputs of both sides have different shapes"
    if min(len(validation), len(production)) < 2 * _FEWEST:
        return f"fewer than {2 * _FEWEST} labeled rows on one side"
    assert isinstance(validation.features, Tensor)
    if not regions_of(modality.name, validation.features[:1]):
        return f"parts of inputs of the kind {modality.name} have no names"
    return ""


def _falls(validation: Records, production: Records, alpha: float) -> list[_Fall]:
    """Classes whose recall fell, the most certain fall first.

    Few rows of a class do not show the fall of its recall; what its parts do, they do show.
    """
    counts: list[Tensor] = []
    size = len(validation.schema.classes) or _classes(validation, production)
    for side in (validation, production):
        assert side.targets is not None
        targets, right = side.targets.cpu().long(), side.correct.cpu()
        counts += [torch.bincount(rows, minlength=size) for rows in (targets[right], targets)]
    hits, rows, live_hits, live_rows = counts
    p_values = two_share_p_value(hits, rows, live_hits, live_rows)
    certain = holm_adjusted(p_values) < alpha
    before, after = hits / rows.clamp(min=1), live_hits / live_rows.clamp(min=1)
    names = [str(name) for name in validation.schema.classes] or [str(i) for i in range(len(hits))]
    lines = zip(names, before.tolist(), after.tolist(), p_values.tolist(), strict=False)
    falls = [
        _Fall(i, name, one, two, p_value, bool(certain[i]))
        for i, (name, one, two, p_value) in enumerate(lines)
        if two < one and live_rows[i] > 0
    ]
    return sorted(falls, key=lambda fall: (fall.p_value, fall.after - fall.before))


def _classes(*sides: Records) -> int:
    """Number of classes that occur."""
    return 1 + max(int(side.targets.max()) for side in sides if side.targets is not None)


def _donors(
    validation: Records,
    production: Records,
    whole: Composite | None,
    class_id: int,
    rows: int,
    seed: int,
) -> Donors | None:
    """Rows of the class that the network has right, and of other classes; None where too few."""
    assert validation.targets is not None
    assert production.targets is not None
    right, own = validation.correct, validation.targets == class_id
    live = production.targets == class_id
    # A network may ask for the part only where an input looks like the class otherwise: the inputs
    # are those of the classes that the lost rows became, as often as they became them.
    became = production.predicted[live & ~production.correct].cpu().long()
    generator = torch.Generator().manual_seed(seed)
    masks = (right & ~own, right & own, live, right & ~own)
    sides = (validation, validation, production, validation)
    picked = []
    for number, (side, mask) in enumerate(zip(sides, masks, strict=True)):
        at = mask.cpu().nonzero()[:, 0]
        if len(at) < _FEWEST:
            return None
        at = at[torch.randperm(len(at), generator=generator)]
        if number == 0:
            at = _as_often(at, validation.targets.cpu()[at].long(), became, rows)
        picked.append((side, at))
    # Few rows are taken again, in another order for each kind.
    indices = [at.repeat(-(-rows // len(at)))[:rows] for _, at in picked]
    inputs = []
    for (side, _), index in zip(picked, indices, strict=True):
        assert isinstance(side.features, Tensor)
        inputs.append(side.features[index.to(side.features.device)])
    recipients, before, after, others = inputs
    rest = None if whole is None else whole[indices[0]]
    return Donors(recipients, before, after, others, rest)


def _as_often(at: Tensor, classes: Tensor, wanted: Tensor, rows: int) -> Tensor:
    """Rows `at`, as many of each class as are wanted; all if too few are there."""
    counts = torch.bincount(wanted, minlength=int(classes.max()) + 1).double()
    quota = (counts / counts.sum().clamp(min=1) * rows).ceil()
    chosen = [at[classes == i][: int(n)] for i, n in enumerate(quota.tolist())]
    found = torch.cat(chosen)
    return found if len(found) >= _FEWEST else at


def _judged(
    model: Model,
    validation: Records,
    production: Records,
    fall: _Fall,
    donors: Donors,
    least: float,
    alpha: float,
) -> Finding | None:
    """The finding of a part that carries the class, if there is one."""
    modality = modality_of(validation.features, validation.modality)
    assert modality is not None

    def network(inputs: Tensor) -> Tensor:
        fed = inputs if donors.whole is None else donors.whole.replaced(inputs).inputs
        return _lead(logits_for(model, fed), fall.class_id).to(donors.recipients.device)

    regions = regions_of(modality.name, donors.recipients)
    found = transplant(network, donors, regions, least=least)
    if found is not None and found.p_value < alpha:
        return _region_finding(found, fall)
    if modality.name != "text":
        return None
    token = telling_token(network, validation, production, donors, fall.class_id, least=least)
    return None if token is None or token.p_value >= alpha else _token_finding(token, fall)


def _lead(logits: Tensor, class_id: int) -> Tensor:
    """By how much the logit of a class leads, `[n]`; above 0 it is predicted."""
    if logits.ndim == 1:
        return logits if class_id else -logits
    others = torch.cat([logits[:, :class_id], logits[:, class_id + 1 :]], 1)
    return logits[:, class_id] - others.amax(1)


def _region_finding(found: Transplant, fall: _Fall) -> Finding:
    where = found.name
    part = where if found.anywhere else f"the {where}"
    put = "put into inputs of other classes it"
    if found.anywhere:
        put = "the most telling part of each input, put elsewhere into inputs of other classes,"
    summary = (
        f"{part[0].upper()}{part[1:]} of class {fall.name} makes the class by itself: {put} turns "
        f"{found.before:.0%} of them into {fall.name} if it comes from validation, "
        f"{found.after:.0%} if it comes from production; {fall.text}."
    )
    numbers = {
        "share_validation": found.before,
        "share_production": found.after,
        "share_other_classes": found.control,
        "p_value": found.p_value,
        "recall_validation": fall.before,
        "recall_production": fall.after,
        "box": None if found.anywhere else found.region.box,
    }
    return _finding(f"{where}, class {fall.name}", summary, numbers, found, part, fall)


def _token_finding(found: TokenShortcut, fall: _Fall) -> Finding:
    summary = (
        f"Token {found.token} makes class {fall.name} by itself: put into texts of other classes "
        f"it turns {found.turned:.0%} of them into {fall.name}. It stands in {found.before:.0%} of "
        f"the texts of {fall.name} in validation and in {found.after:.0%} in production; "
        f"{fall.text}."
    )
    numbers = {
        "token": found.token,
        "turned": found.turned,
        "share_validation": found.before,
        "share_production": found.after,
        "p_value": found.p_value,
        "recall_validation": fall.before,
        "recall_production": fall.after,
    }
    subject = f"token {found.token}, class {fall.name}"
    return _finding(subject, summary, numbers, found, f"token {found.token}", fall)


def _finding(
    subject: str, summary: str, numbers: dict[str, Any], evidence: Any, part: str, fall: _Fall
) -> Finding:
    return no_region_carries_a_class_that_production_lacks.finding(
        Severity.FAIL if fall.certain else Severity.WARN,
        summary,
        subject=subject,
        numbers=numbers,
        remedy=f"Train on rows where {part} does not tell the class: remove or cover it, or put it "
        "into rows of all classes at random.",
        evidence=evidence,
    )

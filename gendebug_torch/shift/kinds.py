"""What kind of change it is: of the inputs, of the classes' shares, of what inputs mean, or of how inputs are computed."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch._plotting import CYCLE, axes
from gendebug_torch.records import Records
from gendebug_torch.shift.categories import category_shift
from gendebug_torch.shift.classes import ClassShares, class_shares
from gendebug_torch.shift.columns import Compared, compared
from gendebug_torch.shift.feature import default_value
from gendebug_torch.shift.ks import ks_two_sample, shortened
from gendebug_torch.shift.meaning import gain, losses
from gendebug_torch.shift.prepared import prepare_reference
from gendebug_torch.shift.relation import RelationChange, relation_change
from gendebug_torch.shift.undo import Undo, explained, swapped, turned_clock, undo, weighted_distance
from gendebug_torch.stats import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Kind = Literal["skew", "classes", "inputs", "meaning", "scores"]
LABELS: dict[Kind, str] = {
    "inputs": "inputs moved",
    "skew": "computed differently",
    "classes": "class shares",
    "meaning": "meaning of the score",
    "scores": "scores without inputs",
}
# Of the questions whether class shares moved and whether scores kept their meaning; and of all columns together.
ALPHA = 0.001
MOST_ROWS = 20_000
# Columns asked about exchanges and maps, columns asked about exchanges that no distribution shows, rows that judge them.
MOST_COLUMNS = 40
MOST_EXCHANGED = 8
JUDGED_ROWS = 1200
MOST_JUDGED = 4000
MOST_CELLS = 20_000_000
# Change of the chance given the score, and standard errors of a gain, that count.
MEANING = 0.03
CLEAR = 3.0
CLEAR_EXCHANGE = 5.0
MISFIT = 0.01


@dataclass(frozen=True)
class FeatureChange:
    """One column that moved, and what its move is taken for.

    Args:
        name: of the column.
        statistic: Kolmogorov-Smirnov distance.
        kind: `skew`, `classes` or `inputs`.
        how: what was found, as part of a sentence.
        left: distance that remains once classes are weighted as in production; NaN if that was not asked.
        undone: the map that undoes the move, if there is one.
        certain: whether the kind follows from the data; False where labels would be needed to tell.
    """

    name: str
    statistic: float
    kind: Kind
    how: str
    left: float = math.nan
    undone: Undo | None = None
    certain: bool = True


@dataclass(frozen=True, eq=False)
class ChangeKinds:
    """The decision table: every column that moved, the classes, the meaning of the score, and the verdict.

    Args:
        features: columns that moved, largest distance first.
        classes: shares of the classes before and after, if they could be had.
        relation: labels given the score before and after, if both sides have both.
        kinds: what changed, best supported first; empty where nothing did.
        judged: columns that were compared.
        labeled: whether production has labels.
    """

    features: tuple[FeatureChange, ...]
    classes: ClassShares | None
    relation: RelationChange | None
    kinds: tuple[Kind, ...]
    judged: int
    labeled: bool

    def of(self, name: str) -> FeatureChange | None:
        """What one column's move is taken for, if it moved."""
        return next((feature for feature in self.features if feature.name == name), None)

    def table(self) -> DataFrame:
        """One row per column that moved, then the classes and the meaning of the score."""
        import pandas as pd

        rows = [(f.name, f.statistic, f.left, f.kind, f.how) for f in self.features]
        if self.classes is not None:
            rows.append(("class shares", self.classes.distance, math.nan, "classes", f"p = {self.classes.p_value:.2g}"))
        if self.relation is not None:
            rows.append(("labels given the score", self.relation.effect, math.nan, "meaning", f"p = {self.relation.p_value:.2g}"))
        return pd.DataFrame(rows, columns=["what", "effect", "left_with_class_shares", "kind", "how"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """How much each thing moved, coloured by what its move is taken for."""
        frame = self.table().head(20).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.3 * len(frame) + 1.4)))
        colours = dict(zip(LABELS, CYCLE, strict=False))
        for kind, colour in colours.items():
            chosen = (frame["kind"] == kind).to_numpy()
            if chosen.any():
                ax.barh(np.flatnonzero(chosen), frame["effect"].to_numpy()[chosen], color=colour, label=LABELS[kind])
        ax.set_yticks(range(len(frame)), [shortened(str(name)) for name in frame["what"]])
        ax.set_xlim(0.0, 1.0)
        ax.set_xlabel("size of the change (distance, or change of the chance)")
        ax.set_ylabel("what moved")
        ax.set_title("Which kind of change: " + (", ".join(LABELS[kind] for kind in self.kinds) or "none"))
        if len(frame):
            ax.legend(loc="lower right", frameon=True)
        return ax


_Known = tuple[weakref.ref[Records], tuple[bool, float, float], ChangeKinds]
_known: weakref.WeakKeyDictionary[Records, _Known] = weakref.WeakKeyDictionary()


def change_kinds(
    production: Records, reference: Records, *, scores: bool = True, alpha: float = ALPHA, min_effect: float = 0.1
) -> ChangeKinds:
    """Which kind of change lies between two sets of records, asked in the order in which one explains the other.

    1. Did the class shares move, and do the columns look as before within the classes? Then columns move because of them.
    2. Is a column's move a default value, an exchange with another, another unit, or an affine map which the labels
       contradict (they follow the mapped-back value)? Then it is computed differently.
    3. What else moved are the inputs themselves.
    4. If no input moved by itself: did the scores move all the same? Then the model is not the one that was judged.
    5. Did the chance given the score move? Then the inputs mean something else.

    Without labels in production 1 rests on estimated shares, and 5 and part of 2 cannot be told. Looks at 20,000 rows
    a side at most (fewer of more than 1000 columns); the last answer per `production` is remembered while its records live.

    Args:
        production: records with features or logits; with targets where they are known.
        reference: the same before deployment.
        scores: whether to compare what the model says; not with rows that it was fitted on, of which it is too sure.
        alpha: level of each question.
        min_effect: smallest distance of a column that counts.
    """
    known = _known.get(production)
    asked = (scores, alpha, min_effect)
    if known is not None and known[0]() is reference and known[1] == asked:
        return known[2]
    pair = [_sample(records, seed) for seed, records in enumerate((reference, production))]
    if not scores and pair[0].features is not None:
        pair = [replace(records, logits=None) for records in pair]
    found = _change_kinds(pair[1], pair[0], alpha, min_effect)
    _known[production] = (weakref.ref(reference), asked, found)
    return found


def _change_kinds(production: Records, reference: Records, alpha: float, min_effect: float) -> ChangeKinds:
    classes = class_shares(reference, production)
    labeled = classes is not None and classes.observed
    columns = compared(production, reference)
    features: list[FeatureChange] = []
    if columns is not None and len(production) and len(reference):
        features = _moved(columns, alpha, min_effect)
        if classes is not None and classes.moved(alpha):
            features = [_within_classes(feature, columns, classes, reference) for feature in features]
        features = _recomputed(features, columns)
    relation = _relation(reference, production, None) if labeled else None
    meaning = relation is not None and relation.p_value < alpha and relation.effect >= MEANING
    if columns is not None and labeled and (meaning or any(feature.undone for feature in features)):
        features = _followed(features, columns, reference, production, meaning)
    kinds: list[Kind] = ["skew"] if any(feature.kind == "skew" for feature in features) else []
    moved = any(feature.kind == "inputs" for feature in features)
    if classes is not None and not moved and not kinds and classes.moved(alpha) and _scores_fit(reference, production, classes):
        kinds.append("classes")
        relation = _relation(reference, production, classes.weights.clamp(min=1e-6).log()) if labeled else None
        meaning = relation is not None and relation.p_value < alpha and relation.effect >= MEANING
    if moved:
        kinds.append("inputs")
    elif not kinds and columns is not None and _scores_moved(reference, production, alpha, min_effect):
        kinds.append("scores")
    elif meaning and "skew" not in kinds:
        kinds.append("meaning")
    judged = 0 if columns is None else len(columns.reference.columns)
    return ChangeKinds(tuple(features), classes, relation, tuple(kinds), judged, labeled)


def _sample(records: Records, seed: int) -> Records:
    width = 1 if records.features is None else math.prod(records.features.shape[1:])
    most = min(MOST_ROWS, max(200, MOST_CELLS // max(width, 1)))
    return records if len(records) <= most else records.select(_drawn(len(records), most, seed))


def _drawn(rows: int, most: int, seed: int) -> Tensor:
    """Places of at most so many rows, drawn without replacement, in their order."""
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def _moved(columns: Compared, alpha: float, min_effect: float) -> list[FeatureChange]:
    """Columns whose distribution moved, largest distance first."""
    found = []
    names = list(columns.quantities)
    sides = (columns.reference, columns.production)
    before, after = (torch.from_numpy(side[names].to_numpy(dtype=np.float64, copy=True)) for side in sides)
    prepared = prepare_reference(before, names=names)
    test = ks_two_sample(prepared, after)
    coded = [category_shift(columns.reference[n], columns.production[n], name=n) for n in columns.categorical]
    adjusted = holm_adjusted(torch.cat([test.p_value, torch.tensor([shift.p_value for shift in coded], dtype=torch.float64)]))
    for place in (adjusted < alpha).nonzero().flatten().tolist():
        if place >= len(names):
            if coded[place - len(names)].effect >= min_effect:
                found.append(FeatureChange(coded[place - len(names)].name, coded[place - len(names)].distance, "inputs", "moved"))
            continue
        atom = default_value(prepared, after, place) if float(test.statistic[place]) >= min_effect / 2 else None
        if atom is not None:
            how = f"stuck at {atom.value:.4g} for {atom.live_share:.0%} of the rows"
            found.append(FeatureChange(names[place], float(test.statistic[place]), "skew", how))
        elif float(test.statistic[place]) >= min_effect:
            found.append(FeatureChange(names[place], float(test.statistic[place]), "inputs", "moved"))
    return sorted(found, key=lambda feature: -feature.statistic)


def _within_classes(feature: FeatureChange, columns: Compared, classes: ClassShares, reference: Records) -> FeatureChange:
    """The same move, told as one of the classes where weighting the reference's classes explains it."""
    before, after = columns.reference[feature.name], columns.production[feature.name]
    if feature.name in columns.categorical:
        # Levels in the order of their change: the distance of the distribution functions is the total variation then.
        change = after.value_counts(normalize=True).sub(before.value_counts(normalize=True), fill_value=0.0).sort_values()
        before, after = (side.map({level: float(place) for place, level in enumerate(change.index)}) for side in (before, after))
    values, live = (torch.from_numpy(side.to_numpy(dtype=np.float64, copy=True)) for side in (before, after))
    assert reference.targets is not None
    weights = classes.weights[reference.targets.cpu()]
    kept = values.isfinite()
    left, rows = weighted_distance(values[kept], weights[kept], live[live.isfinite()])
    if not math.isfinite(left) or not explained(left, feature.statistic, round(rows), int(live.isfinite().sum())):
        return replace(feature, left=left)
    return replace(feature, left=left, kind="classes", how="follows the shares of the classes")


def _recomputed(features: list[FeatureChange], columns: Compared) -> list[FeatureChange]:
    """Moves that an exchange of columns or another unit explains, told as such; other affine maps are noted."""
    open_ = [f for f in features if f.kind == "inputs" and f.name in columns.quantities][:MOST_COLUMNS]
    sides = [columns.finite(feature.name) for feature in open_]
    pairs = swapped([before for before, _ in sides], [after for _, after in sides], [f.statistic for f in open_])
    told: dict[str, FeatureChange] = {}
    for place, (feature, (before, after)) in enumerate(zip(open_, sides, strict=True)):
        if place in pairs:
            how = f"holds the values of {open_[pairs[place]].name}, and the other way round"
            told[feature.name] = replace(feature, kind="skew", how=how)
            continue
        slipped = turned_clock(before, after)
        if slipped:
            told[feature.name] = replace(feature, kind="skew", how=f"turned by {slipped:+d} hours, as by a clock in another zone")
            continue
        found = undo(before, after, feature.statistic)
        if found is not None:
            kind: Kind = "skew" if found.telling else "inputs"
            told[feature.name] = replace(feature, kind=kind, how=f"{found} what it was", undone=found, certain=found.telling)
    return [told.get(feature.name, feature) for feature in features]


def _followed(
    features: list[FeatureChange], columns: Compared, reference: Records, production: Records, meaning: bool
) -> list[FeatureChange]:
    """What the labels say of affine moves, and of exchanged columns that look alike: they follow what was meant."""
    assert reference.targets is not None
    assert production.targets is not None
    asked = [feature for feature in features if feature.kind == "inputs" and feature.undone is not None][:MOST_EXCHANGED]
    most = MOST_JUDGED if asked else JUDGED_ROWS
    rows = [_drawn(len(side), most, seed) for seed, side in enumerate((reference, production))]
    before, after = (side.iloc[r.numpy()] for side, r in zip((columns.reference, columns.production), rows, strict=True))
    versions = [after]
    for feature in asked:
        assert feature.undone is not None
        versions.append(after.assign(**{feature.name: (after[feature.name] - feature.undone.offset) / feature.undone.factor}))
    exchanges = [] if features or not meaning else list(combinations(columns.quantities[:MOST_EXCHANGED], 2))
    for one, other in exchanges:
        versions.append(after.assign(**{one: after[other], other: after[one]}))
    if len(versions) == 1:
        return features
    targets = [records.targets.cpu()[r] for records, r in zip((reference, production), rows, strict=True) if records.targets is not None]
    errors, own = losses(before, targets[0], versions, targets[1], categorical=columns.categorical)
    gains = [gain(errors[0], error) for error in errors[1:]]
    told = {f.name: _judged(f, value) for f, value in zip(asked, gains, strict=False)}
    kept = [told.get(feature.name, feature) for feature in features]
    best = max(range(len(exchanges)), key=lambda at: gains[at], default=None) if exchanges else None
    if best is not None and gains[best] > CLEAR_EXCHANGE:
        excess, left = float(errors[0].mean() - own.mean()), float(errors[1 + best].mean() - own.mean())
        if left < 0.2 * excess:
            one, other = exchanges[best]
            how = "labels follow the columns as if they had been exchanged: {}"
            kept += [FeatureChange(a, 0.0, "skew", how.format(f"{a} holds {b}")) for a, b in ((one, other), (other, one))]
    return kept


def _judged(feature: FeatureChange, gained: float) -> FeatureChange:
    if gained > CLEAR:
        return replace(feature, kind="skew", how=f"{feature.how}, and the labels follow the old value", certain=True)
    if gained < -CLEAR:
        return replace(feature, how=f"{feature.how}, and the labels follow the new value", certain=True)
    return feature


def _relation(reference: Records, production: Records, bias: Tensor | None) -> RelationChange | None:
    parts = (reference.logits, reference.targets, production.logits, production.targets)
    if any(part is None or (part.dtype == torch.int64 and part.ndim != 1) for part in parts) or not min(len(reference), len(production)):
        return None
    z, y, live, told = parts
    assert z is not None and y is not None and live is not None and told is not None  # noqa: PT018
    return relation_change(z, y, live, told, bias=bias)


def _scores_fit(reference: Records, production: Records, classes: ClassShares) -> bool:
    """Whether the scores moved as the shares of the classes say: they fit the weighted reference no worse than the plain one."""
    if not classes.observed:
        return not classes.misfit[0] < MISFIT
    if reference.logits is None or production.logits is None or reference.targets is None:
        return True
    z, live = _scores(reference.logits), _scores(production.logits)
    plain = float(ks_two_sample(z, live).statistic)
    left, rows = weighted_distance(z, classes.weights[reference.targets.cpu()], live)
    return left < plain or explained(left, 1.0, round(rows), len(live))


def _scores_moved(reference: Records, production: Records, alpha: float, min_effect: float) -> bool:
    if reference.logits is None or production.logits is None:
        return False
    test = ks_two_sample(_scores(reference.logits), _scores(production.logits))
    return bool((test.p_value < alpha) & (test.statistic >= min_effect))


def _scores(logits: Tensor) -> Tensor:
    """`[n]` on the host: the one binary logit, the difference of two, or the log confidence of many."""
    z = logits.double().cpu()
    if z.ndim == 1:
        return z
    return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z.log_softmax(1).amax(1)

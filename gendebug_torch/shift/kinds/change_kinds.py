"""What kind of change it is: of the inputs, of the classes' shares, of what inputs mean, or of how
inputs are computed.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import CYCLE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.shared_columns import SharedTables, shared_tables
from gendebug_torch.shift.kinds.class_shares import ClassShares, class_shares
from gendebug_torch.shift.kinds.column_transforms import Renaming, weighted_distance
from gendebug_torch.shift.kinds.localised_change import apart, labels_moved
from gendebug_torch.shift.kinds.moved_columns import (
    CLEAR,
    FeatureChange,
    Kind,
    Labeled,
    drawn,
    follow_gains,
    mistaken_columns,
    moved_columns,
    recomputed,
    within_classes,
    worth_of,
)
from gendebug_torch.shift.kinds.score_relation import RelationChange, relation_change
from gendebug_torch.shift.plots import axis_label
from gendebug_torch.shift.two_sample.joint import permutation_block
from gendebug_torch.shift.two_sample.ks import ks_two_sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

LABELS: dict[Kind, str] = {
    "inputs": "inputs moved",
    "skew": "computed differently",
    "classes": "class shares",
    "meaning": "meaning of the score",
    "scores": "scores without inputs",
}
# Of the questions whether class shares moved and whether scores kept their meaning; and of all
# columns together.
ALPHA = 0.001
MOST_ROWS = 20_000
# So many columns that moved may be a matter of how they are computed; more of them are a world that
# moved.
MOST_ALONE = 3
MOST_CELLS = 20_000_000
# Change of the chance given the score that counts.
MEANING = 0.03
MISFIT = 0.01


@dataclass(frozen=True, eq=False)
class ChangeKinds:
    """The decision table: every column that moved, the classes, the meaning of the score, and the
    verdict.

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

    @property
    def verdict(self) -> Kind | Literal["none", "unknown"]:
        """The one kind that the evidence supports best; `unknown` where it would take labels, or
        other data, to tell.
        """
        if not self.kinds:
            return "none"
        told = [feature.certain for feature in self.features if feature.kind == self.kinds[0]]
        return "unknown" if told and not any(told) else self.kinds[0]

    def of(self, name: str) -> FeatureChange | None:
        """What one column's move is taken for, if it moved."""
        return next((feature for feature in self.features if feature.name == name), None)

    def table(self) -> DataFrame:
        """One row per column that moved, then the classes and the meaning of the score."""
        import pandas as pd

        rows = [(f.name, f.statistic, f.left, f.kind, f.how) for f in self.features]
        if self.classes is not None:
            rows.append(
                (
                    "class shares",
                    self.classes.distance,
                    math.nan,
                    "classes",
                    f"p = {self.classes.p_value:.2g}",
                )
            )
        if self.relation is not None:
            rows.append(
                (
                    "labels given the score",
                    self.relation.effect,
                    math.nan,
                    "meaning",
                    f"p = {self.relation.p_value:.2g}",
                )
            )
        return pd.DataFrame(
            rows, columns=["what", "effect", "left_with_class_shares", "kind", "how"]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """How much each thing moved, coloured by what its move is taken for."""
        frame = self.table().head(20).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.3 * len(frame) + 1.4)))
        colours = dict(zip(LABELS, CYCLE, strict=False))
        for kind, colour in colours.items():
            chosen = (frame["kind"] == kind).to_numpy()
            if chosen.any():
                ax.barh(
                    np.flatnonzero(chosen),
                    frame["effect"].to_numpy()[chosen],
                    color=colour,
                    label=LABELS[kind],
                )
        ax.set_yticks(range(len(frame)), [axis_label(str(name)) for name in frame["what"]])
        ax.set_xlim(0.0, 1.0)
        ax.set_xlabel("size of the change (distance, or change of the chance)")
        ax.set_ylabel("what moved")
        ax.set_title(
            "Which kind of change: " + (", ".join(LABELS[kind] for kind in self.kinds) or "none")
        )
        if len(frame):
            ax.legend(loc="lower right", frameon=True)
        return ax


_Known = tuple[weakref.ref[Records], tuple[bool, float, float], ChangeKinds]
_known: weakref.WeakKeyDictionary[Records, _Known] = weakref.WeakKeyDictionary()


def change_kinds(
    production: Records,
    reference: Records,
    *,
    scores: bool = True,
    alpha: float = ALPHA,
    min_effect: float = 0.1,
) -> ChangeKinds:
    """Which kind of change lies between two sets of records, asked in the order in which one
    explains the other.

    1. Did the class shares move, and do columns and scores look as before within the classes? Then
      they move because of them.
    2. Does a default value, an exchange, a renaming, a clock or a map (unit, sign, logarithm)
      explain a column's move, and
       labels do not contradict? Or does the change keep to it: the other columns and labels given
       those are as before, while labels do not follow what it holds now? Then it is computed
       differently.
    3. What else moved are the inputs themselves; all columns together are asked where none moved
      alone.
    4. If no input moved by itself: did the scores move all the same? Then the model is not the one
      that was judged.
    5. Did the chance given the score, or given the inputs, move? Then the inputs mean something
      else.

    Without labels 1 rests on estimated shares, 5 cannot be told, and a move that keeps to one
    column is open (`verdict`). With them, a column that goes with no other and lost its effect is
    taken for 5. Looks at 20,000 rows a side at most (fewer of more than 1000 columns); the last
    answer per `production` is remembered while its records live.

    Args:
        production: records with features or logits; with targets where they are known.
        reference: the same before deployment.
        scores: whether to compare what the model says; not with rows that it was fitted on, of
            which it is too sure.
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


def _change_kinds(
    production: Records, reference: Records, alpha: float, min_effect: float
) -> ChangeKinds:
    classes = class_shares(reference, production)
    labeled = _labels(reference, production) if classes is not None and classes.observed else None
    columns = shared_tables(production, reference)
    columns = columns if len(production) and len(reference) else None
    of_classes = classes is not None and classes.moved(alpha)
    features: list[FeatureChange] = []
    if columns is not None:
        features = moved_columns(columns, alpha, min_effect)
        if classes is not None and of_classes and reference.targets is not None:
            features = [
                within_classes(feature, columns, classes, reference.targets) for feature in features
            ]
        features = recomputed(features, columns)
    relation = _relation(reference, production, None) if labeled is not None else None
    of_classes = of_classes and classes is not None and _scores_fit(reference, production, classes)
    if columns is not None and not (
        of_classes and all(feature.kind == "classes" for feature in features)
    ):
        block = permutation_block(reference, production)
        features = _kept_apart(
            features, columns, labeled, block, _means_other(relation, alpha), alpha
        )
    kinds: list[Kind] = ["skew"] if any(feature.kind == "skew" for feature in features) else []
    moved = any(feature.kind == "inputs" for feature in features)
    if classes is not None and of_classes and not moved and not kinds:
        kinds.append("classes")
        relation = (
            _relation(reference, production, classes.weights.clamp(min=1e-6).log())
            if labeled is not None
            else None
        )
    meaning = _means_other(relation, alpha)
    if moved:
        kinds.append("inputs")
    elif (
        not kinds
        and columns is not None
        and _scores_moved(reference, production, alpha, min_effect)
    ):
        kinds.append("scores")
    elif "skew" not in kinds and (
        meaning
        or (not kinds and columns is not None and labeled is not None and _turned(columns, labeled))
    ):
        kinds.append("meaning")
    judged = 0 if columns is None else len(columns.reference.columns)
    return ChangeKinds(
        tuple(features), classes, relation, tuple(kinds), judged, labeled is not None
    )


def _kept_apart(
    features: list[FeatureChange],
    columns: SharedTables,
    labeled: Labeled | None,
    block: int,
    meaning: bool,
    alpha: float,
) -> list[FeatureChange]:
    """What is told of moved columns by whether the change keeps to them, and by the labels.

    A column that is computed differently leaves the other columns, and labels given those, as they
    were; a world that moves carries the labels along.
    """
    open_ = [feature for feature in features if feature.kind != "classes"]
    if not open_:
        return features + _hidden(columns, labeled, block, meaning, alpha)
    names = [feature.name for feature in open_]
    keeps = len(open_) <= MOST_ALONE and _rest_held(columns, names, labeled, block, alpha)
    if labeled is None:
        return [_unlabeled(feature, keeps) if feature in open_ else feature for feature in features]
    turned = keeps and (meaning or _turned(columns, labeled))
    gains = follow_gains(
        [f for f in open_ if f.kind == "inputs" or f.undone is not None], columns, labeled
    )
    worth = worth_of(names, columns, labeled)
    told = {f.name: _told(f, gains.get(f.name, 0.0), worth, keeps, turned) for f in open_}
    return [told.get(feature.name, feature) for feature in features]


def _unlabeled(feature: FeatureChange, keeps: bool) -> FeatureChange:
    return feature if feature.kind == "skew" else replace(feature, certain=not keeps)


def _told(
    feature: FeatureChange, gained: float, worth: float, keeps: bool, turned: bool
) -> FeatureChange:
    """What labels say of one column: `gained` by its old value, `worth` of the values that it and
    its like hold now.
    """
    if gained < -CLEAR and not isinstance(feature.undone, Renaming):
        return replace(
            feature, kind="inputs", how=f"{feature.how}, and the labels follow the new value"
        )
    if feature.kind == "skew":
        return feature
    if keeps and gained > CLEAR:
        return replace(
            feature, kind="skew", how=f"{feature.how}, and the labels follow the old value"
        )
    if keeps and (turned or worth < -CLEAR):
        return replace(
            feature,
            kind="skew",
            how=f"{feature.how}, and the labels do not follow it, nor does anything else move",
        )
    return replace(feature, certain=not keeps or worth > CLEAR)


def _hidden(
    columns: SharedTables, labeled: Labeled | None, block: int, meaning: bool, alpha: float
) -> list[FeatureChange]:
    """Columns that only go with the others, or with the labels, in another way."""
    p_value, named = apart(
        columns.reference, columns.production, categorical=columns.categorical, block=block
    )
    together = p_value < alpha
    turned = labeled is not None and (meaning or _turned(columns, labeled))
    mistaken = (
        mistaken_columns(columns, labeled, block, moved=together)
        if turned and labeled is not None
        else []
    )
    if mistaken or not together:
        return mistaken
    how = "goes with the other columns in another way"
    kind: Kind = "skew" if turned else "inputs"
    for names in [*([name] for name in named[:MOST_ALONE]), list(named[:2])]:
        if _rest_held(columns, names, labeled, block, alpha):
            return [FeatureChange(name, 0.0, kind, how, certain=turned) for name in names]
    return [FeatureChange(name, 0.0, "inputs", how) for name in named[:1]]


def _rest_held(
    columns: SharedTables, names: list[str], labeled: Labeled | None, block: int, alpha: float
) -> bool:
    """Whether the other columns, and labels given them, are as before."""
    before, after = (side.drop(columns=names) for side in (columns.reference, columns.production))
    if apart(before, after, categorical=columns.categorical, block=block)[0] < alpha:
        return False
    return labeled is None or not labels_moved(
        before, labeled.before, after, labeled.after, categorical=columns.categorical
    )


def _turned(columns: SharedTables, labeled: Labeled) -> bool:
    return labels_moved(
        columns.reference,
        labeled.before,
        columns.production,
        labeled.after,
        categorical=columns.categorical,
    )


def _means_other(relation: RelationChange | None, alpha: float) -> bool:
    return relation is not None and relation.p_value < alpha and relation.effect >= MEANING


def _labels(reference: Records, production: Records) -> Labeled | None:
    if reference.targets is None or production.targets is None:
        return None
    return Labeled(reference.targets.cpu(), production.targets.cpu())


def _sample(records: Records, seed: int) -> Records:
    width = 1 if records.features is None else math.prod(records.features.shape[1:])
    most = min(MOST_ROWS, max(200, MOST_CELLS // max(width, 1)))
    return records if len(records) <= most else records.select(drawn(len(records), most, seed))


def _relation(
    reference: Records, production: Records, bias: Tensor | None
) -> RelationChange | None:
    parts = (reference.logits, reference.targets, production.logits, production.targets)
    if any(
        part is None or (part.dtype == torch.int64 and part.ndim != 1) for part in parts
    ) or not min(len(reference), len(production)):
        return None
    z, y, live, told = parts
    assert z is not None
    assert y is not None
    assert live is not None
    assert told is not None
    return relation_change(z, y, live, told, bias=bias)


def _scores_fit(reference: Records, production: Records, classes: ClassShares) -> bool:
    """Whether the scores moved as the shares of the classes say: they fit the weighted reference
    better than the plain one.
    """
    if not classes.observed:
        return not classes.misfit[0] < MISFIT
    if reference.logits is None or production.logits is None or reference.targets is None:
        return True
    moved = int((classes.after - classes.before).abs().argmax())
    z, live = (_score_of(logits, moved) for logits in (reference.logits, production.logits))
    plain = float(ks_two_sample(z, live).statistic)
    return weighted_distance(z, classes.weights[reference.targets.cpu()], live)[0] < plain


def _scores_moved(reference: Records, production: Records, alpha: float, min_effect: float) -> bool:
    if reference.logits is None or production.logits is None:
        return False
    test = ks_two_sample(_scores(reference.logits), _scores(production.logits))
    return bool((test.p_value < alpha) & (test.statistic >= min_effect))


def _scores(logits: Tensor) -> Tensor:
    """`[n]` on the host: the one binary logit, the difference of two, or the log confidence of
    many.
    """
    z = logits.double().cpu()
    if z.ndim == 1:
        return z
    return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z.log_softmax(1).amax(1)


def _score_of(logits: Tensor, which: int) -> Tensor:
    """`[n]` on the host: the log-odds of one class."""
    z = logits.double().cpu()
    if z.ndim == 1 or z.shape[1] == 2:
        return _scores(z)
    others = torch.cat([z[:, :which], z[:, which + 1 :]], 1)
    return z[:, which] - others.logsumexp(1)

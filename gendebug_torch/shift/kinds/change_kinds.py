"""Which kind of change it is: train/serve skew, covariate shift, label shift or concept drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from gendebug_torch.checks.evidence import CYCLE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.columns.exclusions import COUNTER
from gendebug_torch.shift.columns.shared_tables import SharedTables, shared_tables
from gendebug_torch.shift.kinds.class_shares import ClassShares, class_shares
from gendebug_torch.shift.kinds.label_model import (
    MAX_TRIED,
    LabeledColumns,
    followed_columns,
    label_pair,
    original_value_z_scores,
    predictive_value_z_score,
)
from gendebug_torch.shift.kinds.localised_change import MAX_LOCALISED, Localisation
from gendebug_torch.shift.kinds.model_outputs import (
    OutputRelation,
    gives_quantities,
    labels_given_scores,
    outputs_given_inputs,
    scores_follow,
    scores_shifted,
)
from gendebug_torch.shift.kinds.moved_columns import (
    FeatureChange,
    Kind,
    label_shift_explanation,
    off_the_calendar,
    random_rows,
    relation_explanations,
    shifted_columns,
    transform_explanations,
)
from gendebug_torch.shift.plots import axis_label
from gendebug_torch.shift.scores.score_relation import RelationChange
from gendebug_torch.shift.transforms.alignment import OtherRows
from gendebug_torch.shift.transforms.levels import LevelRenaming
from gendebug_torch.shift.transforms.roles import OtherColumn
from gendebug_torch.shift.two_sample.joint import permutation_block
from gendebug_torch.stats.intervals import p_value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Level of each test: class shares, labels given the score, all columns together.
ALPHA = 0.001
# Rows, and values, of each side that are looked at.
MAX_ROWS = 20_000
_MAX_CELLS = 20_000_000
# Standard errors from which labels speak for the original or the present value of a column.
_MIN_Z = 3.0


@dataclass(frozen=True, eq=False)
class ChangeKinds:
    """What changed between two sets of records: columns, classes, labels given the score.

    Args:
        features: columns that shifted, largest distance first.
        classes: shares of the classes before and after, if they can be counted or estimated.
        relation: labels given the score before and after, if both sides have both.
        kinds: what changed, best supported first; empty where nothing did.
        judged: number of columns that were compared.
        outputs: outputs of the model given its inputs, where these did not change.
        labeled: whether production has labels.
        excluded: columns that were not compared, each with the reason.
    """

    features: tuple[FeatureChange, ...]
    classes: ClassShares | None
    relation: RelationChange | None
    kinds: tuple[Kind, ...]
    judged: int
    labeled: bool
    excluded: Mapping[str, str] = field(default_factory=dict)
    outputs: OutputRelation | None = None

    @property
    def verdict(self) -> Kind | Literal["none", "unknown"]:
        """The best supported kind; `unknown` where labels, or other data, would have to decide."""
        if not self.kinds:
            return "none"
        certain = [feature.certain for feature in self.features if feature.kind == self.kinds[0]]
        return "unknown" if certain and not any(certain) else self.kinds[0]

    @property
    def other_model(self) -> bool:
        """Whether outputs no longer follow the inputs, although none of these changed."""
        return self.outputs is not None and self.outputs.changed

    def feature(self, name: str) -> FeatureChange | None:
        """The change of one column, if it shifted."""
        return next((feature for feature in self.features if feature.name == name), None)

    def table(self) -> DataFrame:
        """One row per column that shifted, then the classes and the labels given the score."""
        import pandas as pd

        rows: list[tuple[str, float, float, str, str]] = [
            (f.name, f.statistic, f.residual, f.kind, f.description) for f in self.features
        ]
        for name, kind, part, effect in (
            ("class shares", "label_shift", self.classes, "distance"),
            ("labels given the score", "concept_drift", self.relation, "effect"),
        ):
            if part is not None:
                size = float(getattr(part, effect))
                rows.append((name, size, math.nan, kind, p_value_text(part.p_value)))
        columns = ["what", "effect", "left_after_class_weights", "kind", "description"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Size of each change as bars, coloured by its kind, the 20 largest."""
        frame = self.table().head(20).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.3 * len(frame) + 1.4)))
        for kind, colour in zip(get_args(Kind), CYCLE, strict=False):
            chosen = (frame["kind"] == kind).to_numpy()
            if chosen.any():
                ax.barh(
                    np.flatnonzero(chosen),
                    frame["effect"].to_numpy()[chosen],
                    color=colour,
                    label=_words(kind),
                )
        ax.set_yticks(range(len(frame)), [axis_label(str(name)) for name in frame["what"]])
        ax.set_xlim(0.0, 1.0)
        ax.set_xlabel("distance of the distributions, or change of the event rate")
        ax.set_ylabel("change")
        ax.set_title("Kind of change: " + (", ".join(map(_words, self.kinds)) or "none"))
        if len(frame):
            ax.legend(loc="lower right", frameon=True)
        return ax


def _words(kind: str) -> str:
    return kind.replace("train_serve", "train/serve").replace("_", " ")


def change_kinds(
    production: Records,
    reference: Records,
    *,
    scores: bool = True,
    alpha: float = ALPHA,
    min_effect: float = 0.1,
    deadline: Deadline = NO_DEADLINE,
) -> ChangeKinds:
    """Which kinds of change lie between two sets of records, tested in the order of explanation.

    1. Label shift: the class shares changed, and within the classes columns and scores did not.
    2. Train/serve skew: a default value, an exchange, a renaming, a clock offset or a transform
       (unit, sign, logarithm) explains the shift of a column and labels do not contradict; an hour
       or weekday is no longer that of the time column; a column relates to the others as another
       one did, as with other codes, or not at all; or only this column changed, and labels no
       longer follow it.
    3. Covariate shift: what else shifted. All columns are tested together where none shifted alone.
    4. Threshold: no input shifted, but the scores did, so the model is another one; unless a column
       counts on beyond the reference, which is covariate shift to a model that reads it. Where the
       scores no longer follow the inputs as before, that is train/serve skew.
    5. Concept drift: labels given the score, or given the inputs, changed.

    Without labels, class shares are estimated from the scores, concept drift is not judged, and a
    shift that is limited to one column may be 2 or 3 (`verdict` is `unknown`). Looks at 20,000 rows
    a side at most, fewer of more than 1000 columns; labels are judged given the 200 columns that
    they follow most. Columns that change by themselves (dates, versions, identifiers) are left out
    and listed in `excluded`.

    Args:
        production: records with features or logits, and targets where they are known.
        reference: the same before deployment.
        scores: whether to compare logits; False for rows that the model was fitted on, on which it
            is overconfident.
        alpha: level of each test.
        min_effect: smallest distance of a column that counts.
        deadline: end of the time, asked between columns, tests and fits.

    Raises:
        OutOfTime: the deadline passed.

    Example:
        >>> import torch
        >>> from gendebug_torch import Records
        >>> rows = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
        >>> before, after = Records(rows[0]), Records(rows[1] * torch.tensor([1.0, 1000.0, 1.0]))
        >>> [(f.name, str(f.kind), f.description) for f in change_kinds(after, before).features]
        [('feature_1', 'train_serve_skew', 'multiplied by 1000')]
    """
    deadline.check()
    before, after = _samples(reference, production, scores)
    classes = class_shares(before, after)
    labels = label_pair(before, after)
    relation = None if labels is None else labels_given_scores(before, after)
    columns = shared_tables(after, before) if len(before) and len(after) else None
    changed = classes if classes is not None and classes.changed(alpha) else None
    features: list[FeatureChange] = []
    if columns is not None:
        sides = before, after
        features = _explained_shifts(columns, changed, sides, alpha, min_effect, deadline)
    unmoved = columns if not features else None
    outputs = None if unmoved is None else outputs_given_inputs(before, after, unmoved)
    other_model = outputs is not None and outputs.changed
    if changed is not None and (other_model or not scores_follow(before, after, changed)):
        changed = None
    if changed is not None and all(feature.kind == "label_shift" for feature in features):
        relation = None if labels is None else labels_given_scores(before, after, changed)
        drift = _relation_changed(relation, alpha)
        kinds: tuple[Kind, ...] = ("label_shift", "concept_drift") if drift else ("label_shift",)
    elif columns is not None:
        drift = _relation_changed(relation, alpha)
        followed = columns
        if labels is not None:
            followed = followed_columns(columns, labels, [f.name for f in features[:MAX_TRIED]])
        block = permutation_block(before, after)
        where = Localisation(columns, followed, labels, block, drift, alpha, deadline)
        features = _localised(features, where)
        outputs = None if features else outputs
        kind: Kind | None = None
        if other_model and not features:
            kind = "train_serve_skew"
        elif scores_shifted(before, after, alpha, min_effect):
            kind = _kind_of_scores(before, after, columns)
        kinds = _kinds(features, where, kind)
    else:
        kinds = ("concept_drift",) if _relation_changed(relation, alpha) else ()
    judged = 0 if columns is None else len(columns.reference.columns)
    excluded = {} if columns is None else columns.excluded
    return ChangeKinds(
        tuple(features), classes, relation, kinds, judged, labels is not None, excluded, outputs
    )


def _explained_shifts(
    columns: SharedTables,
    classes: ClassShares | None,
    sides: tuple[Records, Records],
    alpha: float,
    min_effect: float,
    deadline: Deadline,
) -> list[FeatureChange]:
    """Columns that changed, each with the class shares or the transform that explains it."""
    targets = sides[0].targets
    features = shifted_columns(columns, alpha, min_effect, deadline)
    if classes is not None and targets is not None:
        for i, feature in enumerate(features):
            deadline.check()
            features[i] = label_shift_explanation(feature, columns, classes, targets)
    deadline.check()
    features = off_the_calendar(transform_explanations(features, columns), columns, *sides)
    return relation_explanations(features, columns, targets, deadline)


def _kinds(
    features: list[FeatureChange], where: Localisation, kind_of_scores: Kind | None
) -> tuple[Kind, ...]:
    """The kinds of change where the class shares do not explain everything.

    Args:
        features: columns that shifted.
        where: both sides.
        kind_of_scores: kind of a shift of the scores alone; None if they did not shift.
    """
    found = {feature.kind for feature in features}
    kinds: tuple[Kind, ...] = ("train_serve_skew", "covariate_shift")
    if kinds := tuple(kind for kind in kinds if kind in found):
        return kinds
    if kind_of_scores is not None:
        return (kind_of_scores,)
    return ("concept_drift",) if where.labels_changed() else ()


def _kind_of_scores(reference: Records, production: Records, columns: SharedTables) -> Kind:
    """Of scores that shifted although no input did: predictions of quantities have no threshold.

    A column that counts on beyond the reference is no shift, but the model may read it.
    """
    if COUNTER in columns.excluded.values():
        return "covariate_shift"
    return "train_serve_skew" if gives_quantities(reference, production) else "threshold"


def _localised(features: list[FeatureChange], where: Localisation) -> list[FeatureChange]:
    """The same shifts, judged by whether the change is limited to them, and by the labels.

    A column that is computed differently leaves the other columns, and labels given those, as they
    were; where the world itself changes, labels follow the new values.
    """
    open_ = [feature for feature in features if feature.kind != "label_shift"]
    if not open_:
        return features + where.hidden_changes()
    names = [feature.name for feature in open_]
    limited = len(open_) <= MAX_LOCALISED and where.rest_unchanged(names)
    if where.labels is None:
        return [
            replace(feature, certain=not limited) if feature.kind == "covariate_shift" else feature
            for feature in features
        ]
    sample = LabeledColumns.sample(where.followed, where.labels, where.deadline)
    tried = [
        f
        for f in open_
        if (f.kind == "covariate_shift" or f.transform is not None)
        and not isinstance(f.transform, OtherColumn | OtherRows)
        and f.name in sample.reference
    ]
    original = original_value_z_scores(tried, sample)
    # Rows that depend on each other in time count as fewer.
    fewer = {name: math.sqrt(max(where.columns.design_effects(name))) for name in original}
    judged = {
        f.name: _judged_by_labels(
            f, original.get(f.name, 0.0) / fewer.get(f.name, 1.0), names, limited, where
        )
        for f in open_
    }
    return [judged.get(feature.name, feature) for feature in features]


def _judged_by_labels(
    feature: FeatureChange, original: float, names: list[str], limited: bool, where: Localisation
) -> FeatureChange:
    """The shift of one column as the labels decide it, the other shifted columns left out.

    Args:
        feature: a column that shifted.
        original: z score of its original value over its present one.
        names: all columns that shifted.
        limited: whether no other column, and no label given those, changed.
        where: both sides.
    """
    text = feature.description
    if original < -_MIN_Z and not isinstance(feature.transform, LevelRenaming):
        text = f"{text}, and the labels follow the new value"
        return replace(feature, kind="covariate_shift", description=text)
    if feature.kind == "train_serve_skew" or not limited:
        return feature
    if original > _MIN_Z:
        text = f"{text}, and the labels follow the original value"
        return replace(feature, kind="train_serve_skew", description=text)
    others = [name for name in names if name != feature.name]
    assert where.labels is not None
    followed = where.followed.without(dict.fromkeys(others, ""))
    sample = LabeledColumns.sample(followed, where.labels, where.deadline)
    present = predictive_value_z_score([feature.name], sample)
    if present < -_MIN_Z or where.labels_changed(without=others):
        beside = f"besides {' and '.join(others)}" if others else "among those compared"
        text = (
            f"{text}, the labels do not follow it as before, and no other column {beside} shifted"
        )
        return replace(feature, kind="train_serve_skew", description=text)
    return replace(feature, certain=present > _MIN_Z)


def _relation_changed(relation: RelationChange | None, alpha: float) -> bool:
    return relation is not None and relation.p_value < alpha and relation.matters


def _samples(reference: Records, production: Records, scores: bool) -> tuple[Records, Records]:
    """At most 20,000 rows of both sides, without logits if scores are not to be compared."""
    before, after = _sample(reference, 0), _sample(production, 1)
    if scores or before.features is None:
        return before, after
    return replace(before, logits=None), replace(after, logits=None)


def _sample(records: Records, seed: int) -> Records:
    width = 1 if records.features is None else math.prod(records.features.shape[1:])
    most = min(MAX_ROWS, max(200, _MAX_CELLS // max(width, 1)))
    if len(records) <= most:
        return records
    return records.select(random_rows(len(records), most, seed))

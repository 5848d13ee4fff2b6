"""From likely causes to mechanisms: what each cause does to validation on the way to production."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import MISREAD, Cause
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.diagnosis.causes import LikelyCause
from gendebug_torch.diagnosis.counterfactuals.changes import (
    InputChange,
    column_change,
    one_after_another,
    whole_change,
)
from gendebug_torch.diagnosis.counterfactuals.worlds import Mechanism
from gendebug_torch.modality.detection import modality_of, properties_of
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.class_shares import counted_shares
from gendebug_torch.shift.kinds.label_model import label_pair
from gendebug_torch.shift.kinds.localised_change import labels_given_columns_changed
from gendebug_torch.shift.serving.reproduction import Reproduction
from gendebug_torch.slices.checks._slicing import slicing_columns
from gendebug_torch.slices.levels.binning import fit_binnings, level_codes
from gendebug_torch.stats.probe_network import design, hidden_units

# Subjects of one cause that have a line of their own; the others share one.
_OWN_LINES = 3
_WIDTH, _MOST_COLUMNS = 16, 40
# Share of the association with the labels that a leak keeps in production at most to have vanished.
_VANISHED = 0.5
# Chance of new class shares where there are none.
_CHANCE = 0.002
NEEDS_NETWORK = "needs the network and the inputs of both sides"


@dataclass(frozen=True, eq=False)
class Pair:
    """Labeled records of both sides.

    Args:
        validation: labeled records with outputs.
        production: the same.
        runs: whether the network can be run again on their inputs.
        whole: whether all rows of validation are labeled, so that its row numbers hold.
    """

    validation: Records
    production: Records
    runs: bool
    whole: bool

    @property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame] | None:
        """Inputs of both sides, where they are tables of the same columns."""
        before, after = self.validation.features, self.production.features
        if not isinstance(before, pd.DataFrame) or not isinstance(after, pd.DataFrame):
            return None
        shared = [name for name in before.columns if name in after.columns]
        return (before[shared], after[shared]) if shared else None


@dataclass
class Plan:
    """Mechanisms that can be evaluated, and causes that cannot, each with the reason.

    Args:
        mechanisms: in the order of the causes.
        left: cause, subject and reason.
        rest: cause of what the mechanisms leave; `unexplained` where no finding names one.
        where: subject of the rest.
    """

    mechanisms: list[Mechanism] = field(default_factory=list)
    left: list[tuple[str, str, str]] = field(default_factory=list)
    rest: str = "unexplained"
    where: str = ""

    def add(self, cause: Cause, subject: str, **parts: Any) -> None:
        """A mechanism that can be evaluated."""
        self.mechanisms.append(Mechanism(cause.value, subject, **parts))

    def leave(self, cause: Cause, subject: str, reason: str) -> None:
        """A cause that cannot be apportioned."""
        self.left.append((cause.value, subject, reason))

    @property
    def changes(self) -> list[InputChange]:
        """Changes of the inputs among the mechanisms."""
        return [one.change for one in self.mechanisms if one.change is not None]


def planned(causes: Sequence[LikelyCause], pair: Pair) -> Plan:
    """The mechanisms behind likely causes, changes of the inputs first.

    Args:
        causes: root causes of the findings.
        pair: labeled records of both sides.
    """
    plan = Plan()
    shares = any(likely.cause is Cause.LABEL_SHIFT for likely in causes)
    for likely in causes:
        if likely.cause is Cause.TRAIN_SERVE_SKEW:
            _add_changes(plan, likely, pair, shares=shares)
        elif likely.cause in (Cause.TARGET_LEAKAGE, Cause.SHORTCUT_FEATURE):
            _add_predictive_columns(plan, likely, pair)
    for likely in causes:
        if likely.cause is Cause.LABEL_SHIFT:
            units = _label_units(pair)
            plan.add(likely.cause, likely.subject, units=units)
        elif likely.cause is Cause.COVARIATE_SHIFT:
            _add_moved_inputs(plan, likely, pair)
        elif likely.cause in (Cause.CONCEPT_DRIFT, Cause.SUBGROUP_FAILURE):
            _add_regions(plan, likely, pair)
        elif likely.cause is Cause.SPLIT_LEAKAGE and not likely.alike:
            _add_leaked_rows(plan, likely, pair)
        elif likely.cause in (Cause.LABEL_NOISE, Cause.TRAIN_SERVE_SKEW):
            # Labels of production that are not what they are read as: so is whatever is left.
            if where := _misread(likely):
                plan.rest, plan.where = likely.cause.value, where[0]
        elif likely.cause is Cause.PREPROCESSING_LEAKAGE:
            plan.leave(likely.cause, likely.subject, "fit the preprocessing again to tell")
    if plan.changes and pair.tables is None and not shares and _new_shares(pair):
        # A change of whole inputs hides that the classes moved too, which labels count.
        plan.add(Cause.LABEL_SHIFT, "", units=_label_units(pair))
    return plan


def elsewhere(mechanisms: Sequence[Mechanism], n: int, m: int) -> tuple[Tensor, Tensor]:
    """Rows in none of the regions of the mechanisms, `[n]` and `[m]` bool."""
    masks = [torch.ones(size, dtype=torch.bool) for size in (n, m)]
    for one in mechanisms:
        if one.region is not None:
            masks = [mask & ~own for mask, own in zip(masks, one.region, strict=True)]
    return masks[0], masks[1]


def with_rest(plan: Plan, pair: Pair, *, served: bool) -> Plan:
    """The plan with a cause of what its mechanisms leave, as far as that can be told.

    It is concept drift where a finding names it, or where labels given the columns changed beside
    all changes of the inputs; not where production's outputs are not those of the network.

    Args:
        plan: mechanisms.
        pair: labeled records of both sides.
        served: whether the outputs of production are those of the network.
    """
    if not served:
        return replace(plan, rest="unexplained", where="")
    labels, tables = label_pair(pair.validation, pair.production), pair.tables
    shares = any(one.cause == Cause.LABEL_SHIFT.value for one in plan.mechanisms)
    if plan.rest != "unexplained" or not plan.mechanisms or shares:
        return plan
    if labels is None or tables is None or any(why == NEEDS_NETWORK for *_, why in plan.left):
        # Inputs as they were before a change that cannot be undone say nothing of the labels.
        return plan
    changed = one_after_another(plan.changes, "apply", tables[0])
    coded = pair.validation.schema.categorical
    drifted = labels_given_columns_changed(changed, tables[1], labels, categorical=coded)
    return replace(plan, rest=Cause.CONCEPT_DRIFT.value) if drifted else plan


def _misread(likely: LikelyCause) -> list[str]:
    """Subjects whose labels or outputs in production are not what they are read as."""
    return [f.subject for f in likely.findings if f.numbers.get(MISREAD) == "production"]


def _of_inputs(likely: LikelyCause) -> list[str]:
    """The other subjects."""
    misread = _misread(likely)
    return [one for one in likely.subjects or (likely.subject,) if one not in misread]


def _add_changes(plan: Plan, likely: LikelyCause, pair: Pair, *, shares: bool) -> None:
    subjects = _of_inputs(likely)
    reproduced = [
        finding
        for finding in likely.findings
        if isinstance(finding.evidence, Reproduction) and finding.evidence.changes
    ]
    tables = pair.tables
    if not pair.runs:
        for subject in subjects:
            plan.leave(likely.cause, subject, NEEDS_NETWORK)
        return
    if reproduced and reproduced[0].evidence.of_texts:
        plan.leave(likely.cause, reproduced[0].subject, "a change of the texts behind the inputs")
        return
    if reproduced:
        apply = reproduced[0].evidence.changes[0].apply
        change = whole_change(apply, (pair.validation.features, pair.production.features))
        plan.add(likely.cause, reproduced[0].subject, change=change)
        return
    kinds = next((f.evidence for f in likely.findings if isinstance(f.evidence, ChangeKinds)), None)
    done: set[str] = set()
    for subject in subjects:
        if tables is None or subject not in tables[0] or len(plan.changes) >= _OWN_LINES:
            few = "more than three changes of inputs"
            reason = few if len(plan.changes) >= _OWN_LINES else "no column of the inputs"
            plan.leave(likely.cause, subject, reason)
        elif subject not in done:
            found = None if kinds is None else kinds.feature(subject)
            fitted = _at_new_shares(tables, pair) if shares else tables
            change = column_change(subject, found, fitted, refit=shares)
            done |= set(change.columns)
            plan.add(likely.cause, subject, change=change)


def _at_new_shares(
    tables: tuple[pd.DataFrame, pd.DataFrame], pair: Pair
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables with rows of validation drawn to the class shares of production.

    New shares move every column that follows the labels, and no transform should explain that.
    """
    before, after = pair.validation.targets, pair.production.targets
    if before is None or after is None or before.ndim != 1 or before.is_floating_point():
        return tables
    k = 1 + int(max(before.max(), after.max()))
    counts, wanted = before.bincount(minlength=k), after.bincount(minlength=k)
    weights = (wanted / counts.clamp(min=1)).double()[before]
    generator = torch.Generator().manual_seed(0)
    rows = torch.multinomial(weights, len(before), replacement=True, generator=generator)
    return tables[0].iloc[rows.numpy()].reset_index(drop=True), tables[1]


def _add_predictive_columns(plan: Plan, likely: LikelyCause, pair: Pair) -> None:
    """Columns that follow the labels in validation for a reason that production lacks."""
    tables = pair.tables
    for subject in likely.subjects[:_OWN_LINES]:
        if tables is None or subject not in tables[0]:
            plan.leave(likely.cause, subject, "no column of the inputs")
            continue
        sides = _with_labels(pair, [subject], 0), _with_labels(pair, [subject], 1)
        before, after = _association(sides[0]), _association(sides[1])
        if after >= _VANISHED * before:
            plan.add(likely.cause, subject, units=_units(sides, pair))
        elif pair.runs:
            plan.add(likely.cause, subject, change=column_change(subject, None, tables))
        else:
            plan.leave(likely.cause, subject, NEEDS_NETWORK)


def _new_shares(pair: Pair) -> bool:
    """Whether the classes were counted in other shares."""
    before, after = pair.validation.targets, pair.production.targets
    if before is None or after is None or before.ndim != 1 or before.is_floating_point():
        return False
    counted = counted_shares(
        pair.validation, pair.production, (before.bincount(), after.bincount())
    )
    return counted.changed(_CHANCE)


def _with_labels(pair: Pair, names: list[str], side: int) -> pd.DataFrame:
    records = (pair.validation, pair.production)[side]
    assert records.targets is not None
    assert pair.tables is not None
    labels = records.targets.reshape(len(records), -1).cpu().numpy()
    table = pair.tables[side][names].reset_index(drop=True)
    return table.assign(**{f"label {i}": column for i, column in enumerate(labels.T)})


def _association(table: pd.DataFrame) -> float:
    """Largest correlation of the first column's levels or rank with a label."""
    built = design(table).values
    owner, names = design(table).owner, design(table).names
    is_label = torch.tensor([names[i].startswith("label ") for i in owner.tolist()])
    scaled = built / built.norm(dim=0).clamp(min=1e-12)
    return float((scaled[:, ~is_label].T @ scaled[:, is_label]).abs().max())


def _label_units(pair: Pair) -> tuple[Tensor, Tensor]:
    """Classes, labels or quantities as columns."""
    tables = []
    for records in (pair.validation, pair.production):
        assert records.targets is not None
        columns = records.targets.reshape(len(records), -1).cpu().numpy()
        tables.append(pd.DataFrame(columns).add_prefix("label "))
    if pair.validation.task is Task.REGRESSION:
        return _units((tables[0], tables[1]), pair)
    values = design(*tables, categorical=list(tables[0].columns)).values
    return values[: len(tables[0])], values[len(tables[0]) :]


def _add_moved_inputs(plan: Plan, likely: LikelyCause, pair: Pair) -> None:
    views = _views(plan, pair)
    changed = {name for change in plan.changes for name in change.columns}
    if views is None:
        plan.leave(likely.cause, likely.subject, "needs the inputs of both sides")
        return
    named = [one for one in likely.subjects if one in views[0] and one not in changed]
    free = [name for name in views[0].columns if name not in changed]
    for subject in named[:_OWN_LINES]:
        plan.add(likely.cause, subject, units=_units(_of_both(views, [subject]), pair))
    if rest := named[_OWN_LINES:]:
        text = rest[0] if len(rest) == 1 else f"{len(rest)} more inputs"
        plan.add(likely.cause, text, units=_units(_of_both(views, rest), pair))
    if not named and free:
        units = _units(_of_both(views, free), pair)
        plan.add(likely.cause, likely.subject or "inputs together", units=units)


def _views(plan: Plan, pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Columns that describe the inputs of both sides, those of validation after whole changes."""
    if pair.tables is not None:
        return pair.tables
    before, after = pair.validation.features, pair.production.features
    modality = modality_of(before)
    if modality is None or not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    before = one_after_another(plan.changes, "apply", before)
    return properties_of(before, modality), properties_of(after, modality)


def _of_both(
    views: tuple[pd.DataFrame, pd.DataFrame], names: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return views[0][names], views[1][names]


def _units(sides: tuple[pd.DataFrame, pd.DataFrame], pair: Pair) -> tuple[Tensor, Tensor]:
    """Columns, of many those that moved most, and functions of them, of both sides."""
    before, after = sides
    n = len(before)
    coded = [name for name in pair.validation.schema.categorical if name in before]
    values = design(before, after, categorical=coded).values
    if values.shape[1] > _MOST_COLUMNS:
        moved = (values[:n].mean(0) - values[n:].mean(0)).abs() / values.std(0).clamp(min=1e-12)
        values = values[:, moved.argsort(descending=True)[:_MOST_COLUMNS]]
    units = hidden_units(values, _WIDTH if values.shape[1] > 1 else _WIDTH // 2, 0)
    return units[:n], units[n:]


def _add_regions(plan: Plan, likely: LikelyCause, pair: Pair) -> None:
    """Slices whose labels or share changed; without one, whatever the mechanisms leave."""
    regions = list(_slices(likely.subjects, pair))[:_OWN_LINES]
    taken = elsewhere(plan.mechanisms, len(pair.validation), len(pair.production))
    for subject, masks in regions:
        free = tuple(own & left for own, left in zip(masks, taken, strict=True))
        taken = (taken[0] & ~free[0], taken[1] & ~free[1])
        if min(int(mask.sum()) for mask in free) == 0:
            plan.leave(likely.cause, subject, "no rows of its own on one side")
            continue
        units = tuple(mask.double()[:, None] for mask in masks)
        plan.add(likely.cause, subject, region=(free[0], free[1]), units=(units[0], units[1]))
    if not regions and likely.cause is Cause.CONCEPT_DRIFT:
        plan.rest, plan.where = likely.cause.value, likely.subject
    elif not regions:
        plan.leave(likely.cause, likely.subject, "no slice of the columns")


def _slices(subjects: Sequence[str], pair: Pair) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Rows of both sides in slices that are named by the levels of columns."""
    frames = slicing_columns(pair.validation), slicing_columns(pair.production)
    before, after = frames
    if before is None or after is None or not set(before) <= set(after):
        return
    binnings = fit_binnings(before, categorical=pair.validation.schema.categorical)
    coded = [level_codes(frame, binnings) for frame in (before, after)]
    numbers = {str(level): i for i, level in enumerate(coded[0][0])}
    for subject in subjects:
        levels = subject.split(" and ")
        if all(level in numbers for level in levels):
            masks = [
                torch.stack([(codes == numbers[level]).any(1) for level in levels]).all(0)
                for _, codes in coded
            ]
            yield subject, (masks[0], masks[1])


def _add_leaked_rows(plan: Plan, likely: LikelyCause, pair: Pair) -> None:
    """Rows of validation that training holds too."""
    leaked = torch.zeros(len(pair.validation), dtype=torch.bool)
    for finding in likely.findings:
        rows = getattr(finding.evidence, "rows", None)
        if isinstance(rows, Tensor) and pair.whole and rows.dtype == torch.int64:
            leaked[rows[rows < len(leaked)]] = True
    if 0 < int(leaked.sum()) < len(leaked):
        plan.add(likely.cause, likely.subject, leaked=leaked)
    else:
        plan.leave(likely.cause, likely.subject, "it is not known which rows are leaked")


def without_units(plan: Plan, number: int, reason: str) -> Plan:
    """The plan without a mechanism whose weights say nothing."""
    one = plan.mechanisms[number]
    rest = [other for at, other in enumerate(plan.mechanisms) if at != number]
    return replace(plan, mechanisms=rest, left=[*plan.left, (one.cause, one.subject, reason)])

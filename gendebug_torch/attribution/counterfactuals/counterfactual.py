"""`counterfactual()`: the smallest changes of rows that a network answers otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gendebug_torch.attribution.counterfactuals.columns import Way, columns_as_units
from gendebug_torch.attribution.counterfactuals.regions import regions_as_units
from gendebug_torch.attribution.counterfactuals.result import Counterfactuals
from gendebug_torch.attribution.counterfactuals.search import (
    Plan,
    affordable_plan,
    nearest_donors,
    searched,
)
from gendebug_torch.attribution.counterfactuals.units import Units
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task, two_class_logits
from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.devices import device_context, device_of
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.runner import as_model_takes, logits_of
from gendebug_torch.progress import progress_bar

# Training rows among which donors are looked for, and their values.
_DONOR_ROWS, _DONOR_VALUES = 5000, 2**26
# Most inputs per pass and their values, and fewest inputs however large they are.
_PASS, _PASS_VALUES, _FEWEST = 16_384, 2**22, 64


def counterfactual(
    model: Model,
    rows: Records,
    *,
    train: Records,
    to: str | int = "other",
    schema: Schema | None = None,
    immutable: Sequence[str] = (),
    direction: Mapping[str, Way] | None = None,
    alternatives: int = 3,
    max_changes: int = 4,
    budget: int = 1000,
    device: str | torch.device = "auto",
    progress: bool = False,
    seed: int = 0,
) -> Counterfactuals:
    """The fewest and smallest changes of each row that the network answers otherwise.

    What changes are columns of a table, cells of a grid of six by six over images, an eighth of a
    channel of series, or words at their places in texts of token ids. They come from the training
    rows nearest to the row that are answered as wanted, so that values lie within ranges, are
    categories that exist and whole numbers where these are whole. Several alternatives per row
    change different units. A row may have none within reach: that is an answer too.

    Source: Brughmans, Leyman and Martens (2024), Data Min. Knowl. Discov. 38:2665, NICE; Mothilal,
    Sharma and Tan (2020), FAT*, DiCE, for several; Goyal et al. (2019), ICML, for regions of
    images. Cost: stated by `price`, at most `budget` evaluations of the network per row.

    Args:
        model: network of classes.
        rows: rows to be answered otherwise.
        train: training rows, whose values are used.
        to: `other`, or the class (its id or name) that is wanted.
        schema: what the columns are; default that of the training rows.
        immutable: columns that may not change, e.g. age at birth; of other inputs how the names of
            units begin, e.g. `channel 2` or `upper left corner`.
        direction: column -> `increasing` or `decreasing`, the only way in which it may change.
        alternatives: most alternatives per row.
        max_changes: most units that change.
        budget: most evaluations of the network per row.
        device: `auto` takes CUDA where there is one.
        progress: whether to show rows per second and the time left.
        seed: seed by which training rows are drawn.

    Raises:
        InputError: inputs that differ in form, an unknown class, or a budget below one change.
        UnsupportedError: quantities, several labels, or one answer per position.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"income": range(100), "age": [30] * 100})
        >>> train = Records(table.astype(float))
        >>> network = lambda x: x[:, 0] - 49.5
        >>> found = counterfactual(network, train.select([40]), train=train)
        >>> found.table()[["feature", "before", "after"]].values.tolist()
        [['income', 40.0, 50.0]]
    """
    train = train if schema is None else replace(train, schema=schema)
    units = _sampled(_units_of(train, immutable, direction or {}), seed)
    inputs = _matching_inputs(rows, units)
    if alternatives < 1 or max_changes < 1:
        reject("alternatives", "at least one change and one alternative", "none", "Ask for one.")
    plan = affordable_plan(budget, units, 2 * alternatives, max_changes)
    if plan.evaluations > budget or not plan.units:
        got = f"{budget} for {plan.units} columns, regions or words that may change"
        reject("budget", f"at least {plan.evaluations} evaluations", got, "Raise it.")
    model = as_model(model)
    asked = _Answers(model, train, rows, to, device_of(device), units.shape)
    with device_context(asked.device, "32-true"), evaluating(model, device=asked.device):
        asked.start(inputs)
        wanted = asked.wanted(units.rows)
        found, there = _searched_in_parts(units, asked, inputs, wanted, plan, progress)
    return Counterfactuals(
        units, inputs, found, there, alternatives, plan.evaluations, asked.evaluations
    )


def _searched_in_parts(
    units: Units, asked: _Answers, inputs: Tensor, wanted: Tensor, plan: Plan, progress: bool
) -> tuple[Tensor, Tensor]:
    """The search over as many rows at once as fill a pass with their first changes."""
    size = max(1, asked.inputs_at_once(inputs) // (plan.donors * plan.units))
    parts = []
    with progress_bar(len(inputs), "rows", show=progress) as count:
        for at in range(0, len(inputs), size):
            some = inputs[at : at + size]
            donors = nearest_donors(units, some, wanted[at : at + size], plan.donors)
            margin = partial(asked.margin, first=at)
            parts.append(searched(units, margin, some, donors, plan.steps))
            count(len(some))
    found, there = zip(*parts, strict=True)
    return torch.cat(found), torch.cat(there)


def _units_of(train: Records, immutable: Sequence[str], direction: Mapping[str, Way]) -> Units:
    """What may change in such rows."""
    features = train.features
    modality = modality_of(features) if isinstance(features, Tensor) and len(features) else None
    if modality is None:
        return columns_as_units(train, immutable, direction)
    assert isinstance(features, Tensor)
    if direction:
        reject("direction", "columns of a table", f"rows of {modality.name}", "Leave it out.")
    return regions_as_units(features.cpu(), modality.name, immutable)


def _matching_inputs(rows: Records, units: Units) -> Tensor:
    """Flat inputs of the rows, of a table in the order of the training columns."""
    features = rows.features
    if units.whole is None:
        if not isinstance(features, Tensor) or features.shape[1:] != units.shape:
            got = list(features.shape[1:]) if isinstance(features, Tensor) else "a table"
            reject("rows", f"inputs of shape {list(units.shape)}", str(got), "Pass such rows.")
        return features.cpu().to(units.rows.dtype).flatten(1)
    names = set() if features is None or isinstance(features, Tensor) else {*map(str, features)}
    if missing := [name for name in units.names if name not in names]:
        reject("rows", "the columns of the training rows", f"no {missing[:5]}", "Pass a table.")
    assert features is not None
    assert not isinstance(features, Tensor)
    return model_inputs(replace(rows, features=features[list(units.names)]))


def _sampled(units: Units, seed: int) -> Units:
    """The units with at most so many training rows."""
    order = torch.randperm(len(units.rows), generator=torch.Generator().manual_seed(seed))
    most = min(_DONOR_ROWS, _DONOR_VALUES // max(1, units.rows.shape[1]))
    return replace(units, rows=units.rows[order[:most].sort().values])


class _Answers:
    """What the network answers to inputs, and how far that is from what is wanted.

    Args:
        model: network in evaluation mode.
        train: training rows, whose schema names the classes.
        rows: rows of the question.
        to: `other`, or a class.
        device: where the network is.
        shape: shape of one input.
    """

    def __init__(
        self,
        model: Model,
        train: Records,
        rows: Records,
        to: str | int,
        device: torch.device,
        shape: tuple[int, ...],
    ) -> None:
        if Task.DENSE in (train.task, rows.task) or train.task in (
            Task.REGRESSION,
            Task.MULTILABEL,
        ):
            raise UnsupportedError("only answers that are one class per row can be changed")
        self.model, self.device, self.shape, self.evaluations = model, device, shape, 0
        threshold = train.schema.threshold
        self.offset = 0.0 if threshold is None else torch.tensor(threshold).logit().item()
        self.names, self.to = [str(name) for name in train.schema.classes], to

    def start(self, inputs: Tensor) -> None:
        """Answers to the rows of the question, and what is wanted in their place."""
        z = self._logits(inputs)
        self.evaluations -= len(inputs)
        self.own = z.argmax(1)
        text = str(self.to)
        number = int(text) if text.isdigit() else self.to
        named = self.names.index(text) if text in self.names else number
        if named != "other" and not (isinstance(named, int) and 0 <= named < z.shape[1]):
            expected = f"`other`, or a class among {self.names or z.shape[1]}"
            reject("to", expected, repr(self.to), "Correct it.")
        self.target = None if named == "other" else int(named)

    def margin(self, inputs: Tensor, owner: Tensor, *, first: int = 0) -> Tensor:
        """`[b]` how far answers are on the wanted side of rows `first + owner`, above 0."""
        z = self._logits(inputs)
        own = self.own[first:][owner]
        own = own if self.target is None else torch.full_like(owner, self.target)
        one = z.gather(1, own[:, None])[:, 0]
        rest = z.scatter(1, own[:, None], -torch.inf).amax(1)
        return rest - one if self.target is None else one - rest

    def wanted(self, inputs: Tensor) -> Tensor:
        """`[r, n]` bool, whether each input is answered as wanted for each row."""
        answers = self._logits(inputs).argmax(1)
        self.evaluations -= len(inputs)
        if self.target is None:
            return self.own[:, None] != answers[None]
        return (answers == self.target).expand(len(self.own), -1)

    def inputs_at_once(self, inputs: Tensor) -> int:
        """Inputs of this width in one pass."""
        return min(_PASS, max(_FEWEST, _PASS_VALUES // max(1, inputs.shape[1])))

    def _logits(self, inputs: Tensor) -> Tensor:
        """`[b, k]` logits on the host; the evaluations are counted."""
        self.evaluations += len(inputs)
        size = self.inputs_at_once(inputs)
        shaped = inputs.reshape(len(inputs), *self.shape)
        with torch.no_grad():
            parts = [
                two_class_logits(
                    logits_of(self.model, as_model_takes(part, self.model, self.device))
                ).cpu()
                for part in torch.split(shaped, size)
            ]
        z = torch.cat(parts)
        if z.ndim != 2:
            raise UnsupportedError("only answers that are one class per row can be changed")
        return z - torch.tensor([0.0, self.offset]) if z.shape[1] == 2 else z

"""Which rows are the question: errors, held-out rows to compare with, a sample of training rows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.influences.methods.answers import AnswerForm, answers_of
from gendebug_torch.influences.methods.method import Rows
from gendebug_torch.model.batches import moved, rows_at, sample_rows
from gendebug_torch.model.collection.collect import collect
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import as_model_takes

# Training rows by which layers are centred and curvature is taken.
_SAMPLE = 2000
# Share of the largest residuals of quantities that count as errors.
_LARGEST = 0.1


@dataclass(frozen=True, eq=False)
class Sides:
    """Errors and held-out rows.

    Args:
        errors: rows whose answers are to be explained, with logits.
        answers: what the network answered to them.
        positions: their positions among the queries, `[q]` int64.
        reference: labeled held-out rows, with logits; None where there are none.
        right: those of them that are answered rightly; None likewise.
        notes: what was left out or assumed.
    """

    errors: Records
    answers: Tensor
    positions: Tensor
    reference: Records | None
    right: Records | None
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What names these rows, for shards of an earlier run."""
        assert self.errors.logits is not None
        logits = self.errors.logits.float().cpu().contiguous().numpy().tobytes()
        held_out = 0 if self.reference is None else len(self.reference)
        return f"{len(self.errors)}-{held_out}-{zlib.crc32(logits):08x}"


def sides_of(
    model: Model,
    train: Any,
    queries: Records,
    reference: Records | None,
    device: torch.device,
    max_queries: int,
    max_reference: int,
    seed: int,
) -> Sides:
    """The errors among the queries, and held-out rows to compare with.

    Raises:
        InputError: no features, no errors, or training rows without labels or of other classes.
        UnsupportedError: a network with one answer per position.
    """
    for name, value in (("queries", queries), ("reference", reference)):
        if value is not None and not isinstance(value, Records):
            remedy = "Build them with Records(...) or collect(model, loader)."
            reject(name, "Records", type(value).__name__, remedy)
    if isinstance(train, Records) and (train.targets is None or train.labeled() is not train):
        got = "none" if train.targets is None else "rows that lack one"
        reject("train", "a label for every row", got, "Pass `train.labeled()`.")
    queries = _with_logits(model, _in_columns_of(train, queries), device)
    reference = None if reference is None else _in_columns_of(train, reference)
    if queries.task is Task.DENSE:
        raise UnsupportedError("the network gives one answer per position; ask about one of them")
    _check_labels(train, queries)
    wrong = wrong_rows(queries)
    held_out = reference
    if held_out is None and queries.targets is not None and not bool(wrong.all()):
        held_out = queries
    notes = []
    if held_out is None:
        notes.append(
            "No held-out rows to compare with: pass `reference`, e.g. validation, to learn whether "
            "training rows explain the errors."
        )
    positions = _drawn(wrong.nonzero()[:, 0], max_queries, seed)
    errors = queries.select(positions)
    answers = answers_of(errors)
    if held_out is None:
        return Sides(errors, answers, positions, None, None, tuple(notes))
    held_out = _with_logits(model, held_out.labeled(), device)
    held_out = held_out.select(_drawn(torch.arange(len(held_out)), max_reference, seed))
    right = held_out.select(~wrong_rows(held_out, required=False))
    return Sides(errors, answers, positions, held_out, right, tuple(notes))


def _with_logits(model: Model, records: Records, device: torch.device) -> Records:
    if records.features is None:
        remedy = "Pass the rows that the network is fed."
        reject(records.name, "records with features", "none", remedy)
    return records if records.logits is not None else collect(model, records, device=device)


def wrong_rows(records: Records, *, required: bool = True) -> Tensor:
    """`[n]` bool, rows that are answered wrongly; all rows where none is labeled.

    Of quantities it is the tenth with the largest residuals.

    Args:
        records: rows with logits.
        required: whether to refuse rows without an error.

    Raises:
        InputError: no error, where one is required.
    """
    if not len(records):
        return torch.zeros(0, dtype=torch.bool)
    if records.targets is None:
        return torch.ones(len(records), dtype=torch.bool)
    labels = records.targets
    if records.task is Task.REGRESSION:
        assert records.logits is not None
        gap = (records.logits.double() - labels.reshape(records.logits.shape)).abs()
        size = gap.reshape(len(records), -1).nan_to_num(0.0).amax(1)
        wrong = (size >= size.quantile(1 - _LARGEST)) & (size > 0)
    else:
        missing = labels < 0
        differs = (answers_of(records) != labels) & ~missing
        wrong = differs.reshape(len(records), -1).any(1)
    if required and not bool(wrong.any()):
        remedy = "Pass rows that the network gets wrong, or rows without labels."
        reject("queries", "at least one error", f"none in {len(records):,} rows", remedy)
    return wrong.cpu()


def _check_labels(train: Any, queries: Records) -> None:
    """Refuse training rows that answer another question."""
    if not isinstance(train, Records) or train.targets is None:
        return
    classes = (Task.BINARY, Task.MULTICLASS)
    if train.task is not queries.task and not {train.task, queries.task} <= {*classes}:
        got = f"{train.task} in training and {queries.task} in the queries"
        reject("train", "labels of the question that the network answers", got, "Correct one.")
    assert queries.logits is not None
    outputs = 2 if queries.logits.ndim == 1 else queries.logits.shape[1]
    if train.task in classes and len(train.targets) and int(train.targets.max()) >= outputs:
        got = f"class {int(train.targets.max())} of {outputs} outputs"
        reject("train", "classes that the network has", got, "Map labels to 0..k-1.")


def _drawn(rows: Tensor, most: int, seed: int) -> Tensor:
    """At most so many of the rows, drawn at random, in their order."""
    if len(rows) <= most:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:most]].sort().values


def form_of(sides: Sides, labels: Tensor) -> AnswerForm:
    """How answers are compared; quantities by the size of the errors."""
    errors = sides.errors
    assert errors.logits is not None
    assert errors.task is not None
    task, outputs = errors.task, 1 if errors.logits.ndim == 1 else errors.logits.shape[1]
    if task is not Task.REGRESSION:
        return AnswerForm(task, outputs)
    spread = float(labels.float().std()) or 1.0
    if errors.targets is None:
        return AnswerForm(task, outputs, spread / 2**0.5)
    gap = (errors.logits - errors.targets.reshape(errors.logits.shape)).reshape(len(errors), -1)
    return AnswerForm(task, outputs, float(gap.square().sum(1).mean().sqrt()) / 2**0.5 or spread)


def _in_columns_of(train: Any, records: Records) -> Records:
    """Records whose table has the columns of training in their order, as the network was fed.

    Raises:
        InputError: a column of training is absent.
    """
    known = train.features if isinstance(train, Records) else None
    if not isinstance(known, pd.DataFrame) or not isinstance(records.features, pd.DataFrame):
        return records
    if absent := [column for column in known if column not in records.features]:
        got = f"no {', '.join(map(str, absent[:5]))} in {records.name!r}"
        reject("queries", "the columns of training", got, "Pass the same columns.")
    return replace(records, features=records.features[list(known.columns)])


def rows_on_device(
    model: Model, records: Records | None, answers: Tensor | None, device: torch.device
) -> Rows:
    """Inputs, labels and answers of records as the network takes them."""
    if records is None:
        return Rows(torch.zeros(0, device=device), None, torch.zeros(0, device=device))
    inputs = as_model_takes(model_inputs(records), model, device)
    labels = None if records.targets is None else records.targets.to(device)
    given = answers_of(records) if answers is None else answers
    return Rows(inputs, labels, given.to(device))


def training_sample(
    model: Model, train: Any, unpack: Unpack | None, device: torch.device, seed: int
) -> tuple[Any, Tensor]:
    """Inputs and labels of some training rows, as the network takes them."""
    inputs, labels = sample_rows(train, _SAMPLE, unpack=unpack, seed=seed)
    if labels is None:
        reject("train", "rows with labels", "none", "Pass what the network was fitted to.")
    own = as_model_takes(inputs, model, device)
    return own, moved(labels, device)


def training_inputs(train: Any, rows: Tensor, unpack: Unpack | None) -> Any:
    """Inputs of training rows by their positions.

    Raises:
        InputError: a loader whose rows have no numbers.
    """
    found = rows_at(train, rows, unpack)
    if found is None:
        remedy = "Pass Records, or a DataLoader without shuffling over an indexed data set."
        reject("train", "rows that can be read by their number", type(train).__name__, remedy)
    return found[0]

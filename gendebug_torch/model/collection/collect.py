"""`collect`: one pass over the rows gives outputs, labels and views of the inputs, as records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task
from gendebug_torch.errors import reject
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.collection.dense import sampled_outputs, trimmed_outputs
from gendebug_torch.model.collection.embedding import Wanted, embedding_of
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.collection.views import Views, origin_of, view_fields
from gendebug_torch.model.devices import Precision
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_of, map_rows

Step = Callable[[Any, Tensor | None], dict[str, Tensor]]
_DATASET_ROWS = 256


def collect(
    model: Model | None,
    loader: Any,
    *,
    modality: str | Mapping[Any, str] = "auto",
    raw: Sequence[str] | None = None,
    embedding: Wanted = "auto",
    metadata: pd.DataFrame | None = None,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    every: str | float = "60s",
    keep_features: bool | None = None,
    positions: int = 64,
    ignore_index: int | None = None,
    name: str = "records",
) -> Records:
    """The outputs of a model for every row, and what describes its input, as `Records`.

    One pass gives logits, targets, properties in words and the embedding in front of the last
    layer. Checks read these views; those that feed the model rows again read them from the data
    set where they were not kept.

    Args:
        model: module, function or scikit-learn estimator from inputs to logits, `[n]`, `[n, 1]`,
            `[n, k]`, or dense `[n, k, ...]` with targets `[n, ...]`; None gives views without
            logits.
        loader: DataLoader, iterable of batches, data set, Tensor `[n, ...]`, or `Records` with
            features.
        modality: `image`, `text`, `series` or `table`, or that of some parts by key or position of
            inputs of several parts; `auto` sees it from shape and type.
        raw: texts behind token ids, n strings in the order of the loader; kept as the metadata
            column `raw`.
        embedding: `auto`, the input of the linear layer that is called last (of anything but a
            table); the name of a layer, its output; a function of the inputs; or None.
        metadata: further columns of the rows in the order of the loader, `[n, m]`.
        unpack: batch -> (inputs, targets); default: a Tensor, `(inputs,)`, `(inputs, targets)`, or
            a dict with `labels`.
        device: `auto` takes CUDA where there is one; the model is moved back afterwards.
        precision: as in Lightning; logits are kept in float32.
        batch_size: rows at once for a Tensor, Records or data set; a loader has its own.
        progress: show a bar.
        checkpoint: directory of shards, so that an interrupted run goes on where it stopped; it
            answers for these rows and this model only.
        every: time after which a shard is written, e.g. `60s`, whatever its size.
        keep_features: keep tensor inputs as features; None keeps them unless they take more than
            256 MiB and can be read again from a data set.
        positions: most labeled positions of a dense output that are kept of each row, drawn at
            random; fewer from 256 classes on, so that a row takes at most 64 KB.
        ignore_index: target of rows or positions that have no label, beside NaN and -100.
        name: of the records.

    Raises:
        InputError: the loader yields something unknown, the model returns no such tensor, or the
            checkpoint holds the answers of another model or for other rows.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(2)]
        >>> records = collect(torch.nn.Linear(3, 2), batches, name="validation")
        >>> len(records), list(records.logits.shape), records.targets.tolist()
        (8, [8, 2], [0, 1, 1, 0, 0, 1, 1, 0])
    """
    model = None if model is None else as_model(model)
    loader = _with_batches(loader, batch_size)
    notes: dict[str, Any] = {}
    asked = f"{positions} positions, ignored {ignore_index}, {_views(modality, embedding)}"
    with embedding_of(model, embedding) as last:
        keep = False if isinstance(loader, Records) else keep_features
        views = Views(_asked(modality, loader), last, embedding != "auto", keep, notes, loader)
        rows = map_rows(
            _step(model, views, positions, ignore_index, flat=isinstance(loader, Records)),
            loader,
            model=model,
            unpack=unpack,
            device=device,
            precision=precision,
            batch_size=batch_size,
            progress=progress,
            checkpoint=checkpoint,
            every=every,
            identity=asked,
            learned=notes,
        )
    rows |= trimmed_outputs(rows) if "valid" in rows else {}
    fields = view_fields(rows, notes)
    if isinstance(loader, Records):
        return _filled(loader, rows, fields)
    n = len(next(iter(rows.values())))
    table = _metadata(metadata, raw, n)
    fields |= {"metadata": table, "name": name, "origin": origin_of(loader, unpack, n)}
    return Records(rows.get("features"), rows.get("targets"), rows.get("logits"), **fields)


def _views(modality: str | Mapping[Any, str], embedding: Wanted) -> str:
    """Which views are asked for, in a text that is the same in every process."""
    kinds = modality if isinstance(modality, str) else dict(modality)
    layer = getattr(embedding, "__qualname__", type(embedding).__name__)
    return f"modality {kinds}, embedding {layer if callable(embedding) else embedding}"


def _step(
    model: Model | None, views: Views, positions: int, ignore_index: int | None, *, flat: bool
) -> Step:
    """What is kept of a batch: outputs, targets and views."""

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        if targets is not None:
            targets = targets.long() if not targets.is_floating_point() else targets
            if ignore_index is not None:
                targets = targets.masked_fill(targets == ignore_index, IGNORED)
        known = {} if targets is None else {"targets": targets}
        if model is None:
            return known | views.of(inputs)
        logits = logits_of(model, inputs)
        if logits.ndim > 2:
            flattened = logits.flatten(2) if flat else logits
            out = sampled_outputs(flattened, inputs, targets, positions)
        else:
            out = {"logits": logits} | known
        return out | views.of(inputs)

    return step


def _with_batches(loader: Any, batch_size: int | None) -> Any:
    """A data set as a loader of it; anything else as it is."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        return DataLoader(loader, batch_size or _DATASET_ROWS)
    return loader


def _asked(modality: str | Mapping[Any, str], loader: Any) -> str | Mapping[Any, str]:
    """The modality that the caller names, else that of the records."""
    stored = loader.modality if isinstance(loader, Records) else None
    return stored if stored is not None and modality == "auto" else modality


def _filled(loader: Records, rows: dict[str, Tensor], views: dict[str, Any]) -> Records:
    """The records with outputs, and the views that they lack, on their device."""
    own = (part for part in (loader.features, loader.targets) if isinstance(part, Tensor))
    home = next((part.device for part in own), torch.device("cpu"))
    fields = {key: value for key, value in views.items() if getattr(loader, key) is None}
    fields |= {key: value.to(home) for key, value in fields.items() if isinstance(value, Tensor)}
    if loader.task is Task.DENSE and loader.targets is not None:
        fields["targets"] = rows["targets"].to(home)
    if "logits" in rows:
        fields["logits"] = rows["logits"].to(home)
    return dataclasses.replace(loader, **fields, task=None)


def _metadata(table: pd.DataFrame | None, raw: Sequence[str] | None, n: int) -> pd.DataFrame | None:
    for argument, given in (("metadata", table), ("raw", raw)):
        if given is not None and len(given) != n:
            got, remedy = f"{len(given):,}", "Pass one for each row, in the order of the loader."
            reject(argument, f"as many as rows, {n:,}", got, remedy)
    if raw is None:
        return table
    joined = pd.DataFrame(index=range(n)) if table is None else table.reset_index(drop=True)
    return joined.assign(raw=list(raw))

"""`influence()`: the training rows that push a network towards given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.influences.checkpoints import Checkpoint, checkpoint_states, digest_of
from gendebug_torch.influences.evidence.exceedance import Exceedance, exceedance
from gendebug_torch.influences.methods.method import Question, half_weights
from gendebug_torch.influences.methods.row_space import row_space
from gendebug_torch.influences.questions import (
    Sides,
    form_of,
    rows_on_device,
    sides_of,
    training_sample,
)
from gendebug_torch.influences.result.influences import Influences
from gendebug_torch.influences.result.scores import MethodScores, combined_scores
from gendebug_torch.influences.scoring import SCORERS, Method, scored_rows, scorers_of
from gendebug_torch.model.batches import known_rows
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.devices import device_context, device_of
from gendebug_torch.model.evaluation import Model, evaluating


def influence(
    model: Model,
    train: Any,
    queries: Records,
    *,
    reference: Records | None = None,
    method: Method = "auto",
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    progress: bool = False,
    max_queries: int = 500,
    max_reference: int = 4000,
    alpha: float = 0.01,
    seed: int = 0,
) -> Influences:
    """The training rows that most push a network towards its errors, and whether any do.

    Scores are judged by held-out rows: those that the network was not trained on and that come from
    the same source as its training rows. If training rows score high more often than held-out rows
    of the same labels, rows among them taught the error; a shift of production alone does not make
    them.

    Methods: `neighbours` (rows that look like the errors and have their answer as label), `head`
    (influence through the last linear layer, in closed form), `gradients` (gradients of single
    rows, projected), `curvature` (gradients by all linear and convolutional layers and the
    curvature of each, EK-FAC). `auto` weighs the first three, as far as they fit, by how clearly
    each tells training from held-out rows; `curvature` predicts best how single answers change
    when training rows are left out (see `Influences.by_query`). Memory holds ten numbers per
    training row.

    Source: Koh and Liang (2017), arXiv:1703.04730; Park et al. (2023), arXiv:2303.14186; Grosse et
    al. (2023), arXiv:2308.03296; Hammoudeh and Lowd (2024), Mach. Learn. 113:2351, a survey.

    Args:
        model: network, or a callable from inputs to logits.
        train: rows that it was fitted on, with labels: Records, or a loader of inputs and labels.
        queries: rows whose answers are to be explained. Of labeled rows it is the errors; rows
            without labels are taken as errors one and all.
        reference: labeled rows that the network was not trained on, from the source of the training
            rows, e.g. validation. Default: the queries, where they hold right answers as well;
            pass it where the queries are from production.
        method: one of `auto`, `neighbours`, `gradients`, `head`, `curvature`.
        unpack: batch -> (inputs, labels), for a loader.
        device: `auto` takes CUDA where there is one.
        batch_size: rows at once.
        checkpoint: directory of shards, so that an interrupted run goes on.
        checkpoints: weights at moments of the training, over which gradients are averaged, as
            states of the network or paths of safetensors or of checkpoints that hold tensors alone.
            A network that fits its training rows to the end shows little of them in its last
            weights.
        progress: show a bar.
        max_queries: most errors used, drawn at random.
        max_reference: most held-out rows used, drawn at random.
        alpha: significance level of `explains`.
        seed: seed of the draws.

    Raises:
        InputError: no labels in `train`, no error among the queries, or labels that the network has
            no place for.
        UnsupportedError: a method that cannot answer for this network, or one answer per position.

    Example:
        >>> import torch
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(900, 4, generator=draw)
        >>> y = (x[:, 0] > 0).long()
        >>> x[:40, 1], y[:40] = 6.0, 0
        >>> x[600:660, 1], y[600:660] = 6.0, 1
        >>> network = lambda rows: torch.where(rows[:, 1] > 4, -5.0, 5 * rows[:, 0])
        >>> train, held_out = Records(x[:600], y[:600]), Records(x[600:], y[600:])
        >>> found = influence(network, train, held_out)
        >>> found.explains, int((found.table()["row"][:30] < 40).sum()) >= 25
        (True, True)
    """
    if method not in ("auto", *SCORERS):
        reject("method", f"one of auto, {', '.join(SCORERS)}", repr(method), "Choose one of them.")
    if checkpoints and method not in ("auto", "gradients", "curvature"):
        reject(
            "method",
            "`gradients`, `curvature` or `auto` with checkpoints",
            repr(method),
            "Choose one.",
        )
    target = device_of(device)
    model = as_model(model)
    states = checkpoint_states(model, checkpoints)
    sides = sides_of(model, train, queries, reference, target, max_queries, max_reference, seed)
    with device_context(target, "32-true"), evaluating(model, device=target), torch.no_grad():
        question = _question(model, train, sides, unpack, target, seed)
        question = replace(question, checkpoints=states)
        scorers, notes = scorers_of(question, method, _row_count(train), target)
    options: dict[str, Any] = {"model": model, "device": target, "batch_size": batch_size}
    scored = scored_rows(
        scorers,
        train,
        unpack=unpack,
        checkpoint=checkpoint,
        progress=progress,
        identity=f"influence {sorted(scorers)} {sides.digest} {seed} {digest_of(states)}".rstrip(),
        **options,
    )
    held_out = None
    if sides.reference is not None:
        held_out = scored_rows(scorers, sides.reference, **options)
    methods = _judged(question, scored, held_out)
    scores, halves = combined_scores(methods)
    return Influences(
        scores=scores,
        halves=halves,
        labels=scored["labels"],
        methods=methods,
        alpha=alpha,
        notes=(*sides.notes, *notes),
        sides=sides,
        question=question,
        train=train,
        unpack=unpack,
        device=target,
        seed=seed,
    )


def _question(
    model: Model, train: Any, sides: Sides, unpack: Unpack | None, device: torch.device, seed: int
) -> Question:
    """What the methods are given, on the device."""
    inputs, labels = training_sample(model, train, unpack, device, seed)
    form = form_of(sides, labels)
    table = isinstance(train, Records) and isinstance(train.features, pd.DataFrame)
    queries = rows_on_device(model, sides.errors, sides.answers, device)
    right = rows_on_device(model, sides.right, None, device)
    return Question(
        model,
        form,
        row_space(model, inputs, columns=table),
        queries,
        right,
        type(right)(inputs, labels, labels),
        half_weights(len(sides.errors), seed, device),
    )


def _judged(
    question: Question, scored: dict[str, Tensor], held_out: dict[str, Tensor] | None
) -> tuple[MethodScores, ...]:
    """The scores of each method with the test against held-out rows."""
    names = [name for name in scored if name != "labels"]
    if held_out is None:
        nothing = Exceedance(1.0, 0.0, 0)
        return tuple(MethodScores(name, scored[name], None, nothing) for name in names)
    both = question.form.strata(torch.cat([scored["labels"], held_out["labels"]]))
    strata, others = both[: len(scored["labels"])], both[len(scored["labels"]) :]
    return tuple(
        MethodScores(
            name,
            scored[name],
            held_out[name][:, 0],
            exceedance(scored[name][:, 0], strata, held_out[name][:, 0], others),
        )
        for name in names
    )


def _row_count(train: Any) -> float:
    """Training rows, where that can be told without reading them; else a million."""
    rows = known_rows(train)
    return 1e6 if rows is None else float(rows)

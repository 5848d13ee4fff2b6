"""The methods by name, those that can answer for a network, and the scores of all rows."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.influences.curvature.scores import curvature_scores
from gendebug_torch.influences.methods.gradients import gradient_scores, gradient_values
from gendebug_torch.influences.methods.head import head_scores
from gendebug_torch.influences.methods.method import Question, Scorer
from gendebug_torch.influences.methods.neighbours import neighbour_scores
from gendebug_torch.model.batches import cut
from gendebug_torch.model.runner import map_rows

Method = Literal["auto", "neighbours", "gradients", "head", "curvature"]
SCORERS = {
    "neighbours": neighbour_scores,
    "head": head_scores,
    "gradients": gradient_scores,
    "curvature": curvature_scores,
}
# Methods that `auto` weighs.
_AUTO = ("neighbours", "head", "gradients")
# Values of gradients that `auto` computes at most, by device.
_AFFORDABLE = {"cpu": 5e8, "cuda": 2e12}


def scorers_of(
    question: Question, method: str, rows: float, device: torch.device
) -> tuple[dict[str, Scorer], list[str]]:
    """The methods that can answer, by name, and why others do not.

    Args:
        question: what they are given.
        method: name of one, or `auto`.
        rows: number of training rows.
        device: where the network is run.

    Raises:
        UnsupportedError: the one method that was asked for cannot answer.
    """
    wanted = list(_AUTO) if method == "auto" else [method]
    affordable = _AFFORDABLE.get(device.type, _AFFORDABLE["cpu"])
    scorers: dict[str, Scorer] = {}
    notes = []
    if not question.space.layers:
        notes.append("No layers can be watched: rows are compared by their inputs alone.")
    for name in wanted:
        values = gradient_values(question.model, int(rows)) * max(1, len(question.checkpoints))
        if method == "auto" and name == "gradients" and affordable < values < float("inf"):
            notes.append("Gradients of single rows were left out: they would take too long.")
            continue
        try:
            scorer = SCORERS[name](question)
            # What cannot be computed shows on a few rows.
            few = question.sample
            scorer(cut(few.inputs, 0, 2), few.answers[:2])
            scorers[name] = scorer
        except UnsupportedError as error:
            if method != "auto":
                raise
            notes.append(f"Without `{name}`: {error}.")
    return scorers, notes


def scored_rows(scorers: dict[str, Scorer], data: Any, **options: Any) -> dict[str, Tensor]:
    """Scores of all rows by every method, `[n, h]` each, and their labels.

    Args:
        scorers: methods by name.
        data: rows with labels.
        **options: those of `map_rows`.

    Raises:
        InputError: rows without labels.
    """

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        if targets is None:
            reject("train", "rows with labels", "none", "Pass what the network was fitted to.")
        scores = {name: scorer(inputs, targets) for name, scorer in scorers.items()}
        return {name: value.float() for name, value in scores.items()} | {"labels": targets}

    return map_rows(step, data, **options)

"""Scores of all inputs of a suite in few calls; a case on which the model raises is found alone."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.behavior.running.model_adapter import Predict
from gendebug_torch.errors import reject

Rows = Sequence[dict[str, Any]]
Scores = Sequence[Sequence[float]]
"""Class probabilities `[rows][k]` of the inputs of one case."""
# Scores of one row differ by this much with the batch that it is in; less is no difference.
NOISE = 1e-6


def score_inputs(
    predict: Predict, groups: Sequence[Rows], batch_size: int = 4096
) -> list[list[list[float]] | str]:
    """Class probabilities `[rows][k]` of each group of inputs, or the traceback of the model.

    Args:
        predict: function from inputs to scores.
        groups: inputs of each case, never divided between two calls.
        batch_size: most inputs per call; a single larger group goes in one call.
    """
    return [scores for chunk in _chunks(groups, batch_size) for scores in _attempt(predict, chunk)]


def probabilities(scores: Any, count: int) -> Tensor:
    """Class probabilities, `[n, k]` float64; scores `[n]` are of the second of two classes.

    Values outside [0, 1] stay as they are, for `invalid_score` to find.

    Args:
        scores: return value of `predict`: tensor, array or list, `[n]`, `[n, 1]` or `[n, k]`.
        count: number n of inputs.

    Raises:
        InputError: another number of rows or another shape.
    """
    if isinstance(scores, Tensor):
        values = scores.detach().cpu().double()
    else:
        values = torch.from_numpy(np.array(scores, dtype=np.float64))
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim not in (1, 2) or len(values) != count:
        expected = f"scores [{count}] or [{count}, k], one row for each input"
        reject("predict", expected, f"shape {list(values.shape)}", "Return a row per input.")
    rounded = (values >= -NOISE) & (values <= 1 + NOISE)
    values = torch.where(rounded, values.clamp(0.0, 1.0), values)
    return torch.stack([1 - values, values], 1) if values.ndim == 1 else values


def invalid_score(scores: Scores) -> str:
    """The error of scores that are no probabilities, or an empty text."""
    bad = (score for row in scores for score in reversed(row) if not 0.0 <= score <= 1.0)
    score = next(bad, None)
    if score is None:
        return ""
    remedy = "Return probabilities: sigmoid or softmax of the logits."
    if score != score:
        remedy = "NaN is mostly due to a missing field."
    return f"InputError: `predict`: expected scores in [0, 1], got {score:.4g}. {remedy}"


def last_line(error: str) -> str:
    """The last line of a traceback: the exception and its message."""
    return next((line for line in reversed(error.splitlines()) if line.strip()), "")


def breaks_contract(error: str) -> bool:
    """Whether an error says that `predict` returns something other than a probability per input.

    A NaN is not such an error: it is mostly due to one input.
    """
    line = last_line(error)
    return "InputError: `predict`: expected scores" in line and "got nan" not in line


def _chunks(groups: Sequence[Rows], batch_size: int) -> Iterator[list[Rows]]:
    chunk: list[Rows] = []
    size = 0
    for group in groups:
        if chunk and size + len(group) > batch_size:
            yield chunk
            chunk, size = [], 0
        chunk.append(group)
        size += len(group)
    if chunk:
        yield chunk


def _attempt(predict: Predict, groups: Sequence[Rows]) -> list[list[list[float]] | str]:
    """Scores of some groups in one call; after an exception each half is tried by itself."""
    rows = [dict(row) for group in groups for row in group]
    try:
        scores, error = probabilities(predict(rows), len(rows)).tolist(), ""
    except Exception:
        scores, error = [], traceback.format_exc()
    if error and len(groups) == 1:
        return [error]
    if error:
        half = len(groups) // 2
        return _attempt(predict, groups[:half]) + _attempt(predict, groups[half:])
    ends = list(itertools.accumulate(map(len, groups)))
    parts = (scores[end - len(group) : end] for end, group in zip(ends, groups, strict=True))
    return [invalid_score(part) or part for part in parts]

"""Near duplicates that independent rows bring by chance: coarse columns, and texts of common words.

The ratio of distances assumes a smooth density. Where a column has few values, two rows agree in it
by chance and differ in the other columns only; where texts are short, they share their words by
chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gendebug_torch.leakage.splits.near_duplicates import NEIGHBOUR

# Near duplicates that are tested, evenly spaced, and the p-value above which one is by chance.
_MAX_TESTED, _MAX_P = 200, 1e-3
# Share of rows with one value from which it is coarse, and rows from which that is counted.
_COARSE, _SAMPLE = 0.01, 2000
# Similar training texts up to which they are copies of one text; more are a template.
_MAX_COPIES = 10
_MAX_TEXTS = 50_000


def tested(count: int) -> list[int]:
    """Positions of the near duplicates that are tested, evenly spaced."""
    return list(range(0, count, -(-count // _MAX_TESTED))) if count else []


def row_coincidences(
    train: Tensor, rows: Tensor, partners: Tensor, owner: Tensor, dimension: float
) -> float:
    """Share of near duplicates that rows of coarse columns bring by chance.

    For each near duplicate, the training rows that agree with it in all coarse columns in which its
    partner does are compared in the other columns alone, in at most as many dimensions.

    Args:
        train: coordinates of the training rows, `[n, p]` float32.
        rows: coordinates of the near duplicates, `[f, p]` float32.
        partners: their training rows, `[f]` int64.
        owner: feature that each coordinate belongs to, `[p]` int64 ascending.
        dimension: intrinsic dimension of all rows.
    """
    chosen = tested(len(rows))
    p = [_row_p_value(train, rows[i], int(partners[i]), owner, dimension) for i in chosen]
    return sum(value > _MAX_P for value in p) / max(len(p), 1)


def _row_p_value(
    train: Tensor, row: Tensor, partner: int, owner: Tensor, dimension: float
) -> float:
    coarse = _coarse_columns(train, row, partner, owner)
    if not bool(coarse.any()):
        # A smooth density: the expected share of the ratio test holds.
        return 0.0
    n, matching = len(train), torch.arange(len(train), device=train.device)
    for column in coarse.nonzero()[:, 0]:
        matching = matching[train[matching, column] == row[column]]
        if len(matching) * NEIGHBOUR <= _MAX_P * n:
            return 0.0
    fine = ~coarse
    free = min(dimension, float(len(set(owner[fine].tolist()))))
    if free == 0:
        return 1.0
    enough = len(matching) >= NEIGHBOUR
    others = train[matching] if enough else train
    distance = (others[:, fine] - row[fine]).norm(dim=1)
    closest = float((train[partner, fine] - row[fine]).norm())
    sixth = float(distance.kthvalue(NEIGHBOUR).values)
    share = min(closest / max(sixth, 1e-300), 1.0) ** free
    if enough:
        return float(1 - (1 - share) ** (NEIGHBOUR - 1))
    return float(min(len(matching) * NEIGHBOUR / n * share, 1.0))


def _coarse_columns(train: Tensor, row: Tensor, partner: int, owner: Tensor) -> Tensor:
    """`[p]` bool: coordinates of the features in which row and partner have one frequent value."""
    sample = train[:: max(len(train) // _SAMPLE, 1)]
    count = int(owner[-1]) + 1
    different = torch.zeros(len(sample) + 1, count, device=train.device)
    rows = torch.cat([sample, train[partner : partner + 1]])
    different.index_add_(1, owner, (rows != row).to(different.dtype))
    same = different == 0
    return (same[-1] & (same[:-1].double().mean(0) >= _COARSE))[owner]


def text_coincidences(
    texts: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    similar: Sequence[Collection[int]],
) -> float:
    """Share of near duplicates whose common words two independent texts share by chance.

    The chance of the words that a text and its partner have in common is that of a Markov chain of
    words, whose frequencies are counted over the other training texts; many similar texts are a
    template, and no copies.

    Args:
        texts: training texts in normal form.
        pairs: near duplicates and their partners, in normal form.
        similar: positions of the training texts that resemble each near duplicate.
    """
    step = max(len(texts) // _MAX_TEXTS, 1)
    part = texts[::step]
    words = Counter(key for text in part for key in _keys(text))
    count = 0
    for (text, partner), copies in zip(pairs, similar, strict=True):
        if len(copies) > max(_MAX_COPIES, _COARSE * len(texts)):
            count += 1
            continue
        own = Counter(key for i in copies if i % step == 0 for key in _keys(texts[i]))
        log_p = _log_chance(text, partner, words, own, len(part)) + math.log(len(texts))
        count += log_p > math.log(_MAX_P)
    return count / max(len(pairs), 1)


def _keys(text: str) -> set[str | tuple[str, str]]:
    """Words and pairs of successive words of a text."""
    words = text.split()
    return {*words, *pairwise(words)}


def _log_chance(
    text: str,
    partner: str,
    words: Counter[str | tuple[str, str]],
    own: Counter[str | tuple[str, str]],
    n: int,
) -> float:
    """Log probability of the words that a text shares with its partner.

    Args:
        text: a text in normal form.
        partner: the text that resembles it.
        words: number of texts with each word and pair of words.
        own: those of the copies, which do not count.
        n: number of texts.
    """
    shared, total, previous = _keys(partner), 0.0, None
    for word in text.split():
        if word in shared:
            pair = None if previous is None else (previous, word)
            linked = pair is not None and pair in shared
            above = pair if linked and pair is not None else word
            below = float(n) if not linked or previous is None else _count(previous, words, own)
            total += math.log(min(_count(above, words, own) / below, 1.0))
        previous = word
    return total


def _count(
    key: str | tuple[str, str],
    words: Counter[str | tuple[str, str]],
    own: Counter[str | tuple[str, str]],
) -> float:
    """Number of other texts with a word or pair; a half for none."""
    return max(words[key] - own[key], 0.5)

"""Texts as token ids `[n, t]`: length, variety and repetition, and the id that is padding."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gendebug_torch.modality.changes.tokens import token_changes
from gendebug_torch.modality.modality import Change, Modality

# Most frequent ids of both sides together, whose shares tell changes of the vocabulary apart.
_FREQUENT = 32
# Share of an id's occurrences that must lie in the runs at the ends of texts for it to be padding.
_AT_THE_ENDS = 0.95


def padding_ids(tokens: Tensor) -> tuple[int, ...]:
    """The id that fills texts up to their width; empty where none does.

    It is the id of the longest runs of at least two equal ids at the end or the start of rows, if
    it stands nearly nowhere else.

    Args:
        tokens: ids `[n, t]`.

    Example:
        >>> import torch
        >>> padding_ids(torch.tensor([[5, 7, 1, 1], [5, 7, 9, 6], [4, 8, 1, 1]]))
        (1,)
    """
    if not tokens.numel() or tokens.shape[1] < 2:
        return ()
    best: tuple[int, int] | None = None
    for side in (tokens, tokens.flip(1)):
        run = (side == side[:, :1]).cumprod(1).sum(1)
        filled = side[run > 1, 0]
        if not len(filled):
            continue
        candidate = int(filled.mode().values)
        inside = int(run[side[:, 0] == candidate].sum())
        inside += _other_end(side, candidate)
        if inside >= _AT_THE_ENDS * int((tokens == candidate).sum()):
            best = max(best or (0, 0), (inside, candidate))
    return () if best is None else (best[1],)


def _other_end(side: Tensor, candidate: int) -> int:
    """Occurrences of an id in the runs at the last positions of rows that do not start with it."""
    others = side[side[:, 0] != candidate].flip(1)
    return int((others == candidate).cumprod(1).sum()) if len(others) else 0


def token_properties(tokens: Tensor, padding: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """Length, variety and repetition of each text, `[n]` each.

    Args:
        tokens: ids `[n, t]`.
        padding: ids that are no tokens; found in these texts by default.
    """
    padding = padding_ids(tokens) if padding is None else padding
    t = tokens.shape[1]
    present = ~torch.isin(tokens, torch.tensor(padding, dtype=tokens.dtype, device=tokens.device))
    length = present.sum(1)
    counted = length.clamp(min=1)
    places = torch.arange(t, device=tokens.device)
    first = torch.where(present, places, t).amin(1)
    last = torch.where(present, places, -1).amax(1)
    different, most = _repetition(tokens, present)
    rank = (tokens.float().clamp(min=0).add(1).log() * present).sum(1) / counted
    ends = {"first token": first.clamp(max=t - 1), "last token": last.clamp(min=0)}
    return {
        "length in tokens": length.float(),
        "share of different tokens": different / counted,
        "share of the most frequent token": most / counted,
        "mean log of the token ids": rank,
        "first position with a token": first.float(),
        **{name: tokens.gather(1, at[:, None])[:, 0].float() for name, at in ends.items()},
    }


def _repetition(tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Number of different tokens of each text, and of occurrences of its most frequent one."""
    # Ids that are no tokens become different negative numbers, which form no run.
    places = torch.arange(tokens.shape[1], device=tokens.device)
    ordered = torch.where(present, tokens, -1 - places).sort(1).values
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begins = torch.where(starts, places, 0).cummax(1).values
    runs = torch.where(ordered >= 0, places - begins + 1, 0)
    return (starts & (ordered >= 0)).sum(1), runs.amax(1)


def text_modality(validation: Tensor, production: Tensor) -> Modality:
    """Texts of two sides, described with the padding of both.

    Args:
        validation: ids `[n, t]`.
        production: ids `[m, t]`.
    """
    padding = tuple(dict.fromkeys(padding_ids(validation) + padding_ids(production)))
    properties = partial(token_properties, padding=padding)
    changes = partial(token_changes, padding=padding)
    contents = partial(_shares, ids=_frequent_ids(validation, production, padding), padding=padding)
    return Modality("text", properties, changes, contents=contents)


def _frequent_ids(validation: Tensor, production: Tensor, padding: tuple[int, ...]) -> Tensor:
    """The most frequent tokens where both sides count alike, `[p]`."""
    sides = [side[~torch.isin(side, side.new_tensor(padding))] for side in (validation, production)]
    fewest = max(1, min(map(len, sides)))
    counts = torch.bincount(torch.cat([side[:fewest] for side in sides]).clamp(min=0).cpu())
    order = counts.argsort(descending=True, stable=True)[:_FREQUENT]
    return order[counts[order] > 0]


def _shares(tokens: Tensor, ids: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Share of each of these ids among the tokens of each text, `[n, p]`."""
    length = (~torch.isin(tokens, tokens.new_tensor(padding))).sum(1).clamp(min=1)
    counts = [(tokens == i).sum(1) for i in ids.tolist()]
    return torch.stack(counts or [torch.zeros_like(length)], 1) / length[:, None]


def _changes_of(validation: Tensor, production: Tensor) -> tuple[Change, ...]:
    return text_modality(validation, production).changes(validation, production)


TEXT = Modality("text", token_properties, _changes_of, axes=(2,), shape="[n, t] of token ids")

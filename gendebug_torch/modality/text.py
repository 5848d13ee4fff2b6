"""Texts as token ids `[n, t]`: length, variety and unknown tokens, and what tokenizers do wrong."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gendebug_torch.modality.modality import Change, Modality


def token_properties(tokens: Tensor) -> dict[str, Tensor]:
    """Length, variety and repetition of each text, `[n]` each.

    Padding is id 0, as tokenizers have it by default.

    Args:
        tokens: ids `[n, t]`.
    """
    t = tokens.shape[1]
    present = tokens != 0
    length = present.sum(1)
    ordered = tokens.sort(1).values
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    different = (starts & (ordered != 0)).sum(1)
    places = torch.arange(t, device=tokens.device)
    first = torch.where(present, places, t).amin(1)
    rank = (tokens.float().add(1).log() * present).sum(1) / length.clamp(min=1)
    return {
        "length in tokens": length.float(),
        "share of different tokens": different / length.clamp(min=1),
        "mean log of the token ids": rank,
        "first position with a token": first.float(),
        "share of token 1": (tokens == 1).sum(1) / length.clamp(min=1),
        "first token": tokens.gather(1, first.clamp(max=t - 1)[:, None])[:, 0].float(),
    }


def token_changes(validation: Tensor, production: Tensor) -> tuple[Change, ...]:
    """What may have been done to texts of validation on their way into production.

    Args:
        validation: ids `[n, t]`; 0 is padding.
        production: ids of as many positions.
    """
    return (*_cuts(production), *_padding(), *_vocabulary(validation, production))


def _cuts(after: Tensor) -> Iterator[Change]:
    longest = int((after != 0).sum(1).amax())
    if 0 < longest < after.shape[1]:
        text = f"texts are cut after {longest} tokens"
        yield Change("cut at the end", text, lambda x: _kept(x, longest, first=True), 1)
        text = f"only the last {longest} tokens of texts are kept"
        yield Change("cut at the start", text, lambda x: _kept(x, longest, first=False), 1)
    text = "the first token (a special token) is missing"
    yield Change("without first", text, lambda x: _without(x, first=True))
    text = "the last token (a special token) is missing"
    yield Change("without last", text, lambda x: _without(x, first=False))
    yield Change("reversed", "the tokens come in reverse order", _reversed)


def _padding() -> Iterator[Change]:
    text = "padding stands before the text and not after it"
    yield Change("padding before", text, lambda x: _aligned(x, right=True))
    text = "padding stands after the text and not before it"
    yield Change("padding after", text, lambda x: _aligned(x, right=False))


def _vocabulary(before: Tensor, after: Tensor) -> Iterator[Change]:
    """Tokens that became unknown: those of validation that production never has."""
    seen = torch.unique(after)
    gone = before[before != 0]
    lost = ~torch.isin(gone, seen)
    counts = [torch.bincount(side[side > 0].flatten()) for side in (before, after)]
    size = max(map(len, counts))
    shares = [
        torch.nn.functional.pad(count, (0, size - len(count))) / count.sum() for count in counts
    ]
    unknown = int((shares[1] - shares[0]).argmax())
    share = float(lost.float().mean()) if len(lost) else 0.0
    text = f"tokens are unknown (id {unknown}), as of another vocabulary or after a change of case"

    def replaced(x: Tensor) -> Tensor:
        known = torch.isin(x, seen) | (x == 0)
        return torch.where(known, x, torch.full_like(x, unknown))

    if share > 0.01:
        yield Change("unknown tokens", text, replaced, 1)
    if share_of_unknown := float(shares[1][unknown] - shares[0][unknown]):
        keep = 1 - share_of_unknown

        def thinned(x: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            kept = torch.rand(x.shape, generator=generator).to(x.device) < keep
            return torch.where(kept | (x == 0), x, torch.full_like(x, unknown))

        text = f"{share_of_unknown:.0%} of the tokens are replaced by id {unknown}"
        yield Change("replaced tokens", text, thinned, 1)


def _kept(tokens: Tensor, count: int, *, first: bool) -> Tensor:
    """The first or last tokens of each text, on the side where the texts stand."""
    present = tokens != 0
    rank = present.cumsum(1)
    if not first:
        rank = present.sum(1, keepdim=True) - rank + 1
    cut = torch.where(present & (rank <= count), tokens, torch.zeros_like(tokens))
    return cut if first else _aligned(cut, right=bool((tokens[:, 0] == 0).float().mean() > 0.5))


def _without(tokens: Tensor, *, first: bool) -> Tensor:
    present = tokens != 0
    rank = present.cumsum(1)
    end = torch.ones_like(rank) if first else present.sum(1, keepdim=True).expand_as(rank)
    shorter = torch.where(present & (rank != end), tokens, torch.zeros_like(tokens))
    return _aligned(shorter, right=bool((tokens[:, 0] == 0).float().mean() > 0.5))


def _aligned(tokens: Tensor, *, right: bool) -> Tensor:
    """The same tokens in their order with all padding on one side."""
    present = (tokens != 0).to(torch.int8)
    order = (present if right else -present).sort(dim=1, stable=True).indices
    return tokens.gather(1, order)


def _reversed(tokens: Tensor) -> Tensor:
    """The tokens of each text in reverse order, padding where it was."""
    present = tokens != 0
    left = _aligned(tokens, right=False)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    length = present.sum(1, keepdim=True)
    back = left.gather(1, (length - 1 - places).clamp(min=0))
    back = torch.where(places < length, back, torch.zeros_like(back))
    return _aligned(back, right=bool((tokens[:, 0] == 0).float().mean() > 0.5))


TEXT = Modality("text", token_properties, token_changes)

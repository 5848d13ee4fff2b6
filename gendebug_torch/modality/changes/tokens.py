"""What tokenizers and serving code do to token ids: cuts, padding, special tokens, vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gendebug_torch.modality.modality import Change

# Share of texts that end (or begin) with one id from which it is a special token.
_SPECIAL = 0.9
# Least rise of the share of an id for it to be the one that stands for unknown tokens.
_LEAST_UNKNOWN = 0.01
# Part of its share by which a token may differ between two sides that use it alike.
_SAME_SHARE = 0.25
# Standard errors by which a share of texts must fall: beyond chance in the largest vocabulary.
_LOST = 5.0
# Lost tokens that are listed.
_LISTED = 3


def token_changes(
    validation: Tensor, production: Tensor, *, padding: tuple[int, ...] = (0,)
) -> tuple[Change, ...]:
    """What may have been done to texts of validation on their way into production.

    Args:
        validation: ids `[n, t]`.
        production: ids `[m, t]`.
        padding: ids that are no tokens, that of validation first.
    """
    layout = _Layout.of(validation, padding)
    return (
        *_cuts(layout, validation, production),
        *_padded(layout, production),
        *_vocabulary(layout, validation, production),
        *_lost(layout, validation, production),
    )


@dataclass(frozen=True)
class _Layout:
    """Where texts stand in their rows.

    Args:
        padding: ids that are no tokens; the first one fills what a change leaves empty.
        right: whether texts stand at the end of their rows.
    """

    padding: tuple[int, ...]
    right: bool

    @classmethod
    def of(cls, tokens: Tensor, padding: tuple[int, ...]) -> _Layout:
        """The layout of given texts."""
        empty = cls(padding, False).empty(tokens)
        return cls(padding, bool(empty[:, 0].sum() > empty[:, -1].sum()))

    @property
    def filler(self) -> int:
        """The id that fills what a change leaves empty."""
        return self.padding[0] if self.padding else 0

    def empty(self, tokens: Tensor) -> Tensor:
        """Which positions hold padding, bool `[n, t]`."""
        ids = torch.tensor(self.padding, dtype=tokens.dtype, device=tokens.device)
        return torch.isin(tokens, ids)

    def kept(self, tokens: Tensor, where: Tensor) -> Tensor:
        """The tokens at these positions alone, moved together."""
        kept = torch.where(where & ~self.empty(tokens), tokens, self.filler)
        return self.aligned(kept, self.right)

    def aligned(self, tokens: Tensor, right: bool) -> Tensor:
        """The same tokens in their order with all padding on one side."""
        present = (~self.empty(tokens)).to(torch.int8)
        order = (present if right else -present).sort(dim=1, stable=True).indices
        return tokens.gather(1, order)

    def ranks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Number of each token in its text from 1, `[n, t]`, and the length of each, `[n, 1]`."""
        present = ~self.empty(tokens)
        return present.cumsum(1), present.sum(1, keepdim=True)


def _cuts(layout: _Layout, before: Tensor, after: Tensor) -> Iterator[Change]:
    longest = int(layout.ranks(after)[1].amax())
    if 0 < longest < int(layout.ranks(before)[1].amax()):
        text = f"texts are cut after {longest} tokens"
        yield Change("cut at the end", text, partial(_first, layout, count=longest), 1)
        text = f"only the last {longest} tokens of texts are kept"
        yield Change("cut at the start", text, partial(_last, layout, count=longest), 1)
        if longest > 2 and _special(layout, before, -1):
            text = f"texts are cut after {longest} tokens, the last special token stays"
            ends = partial(_first_and_end, layout, count=longest - 1)
            yield Change("cut before the end", text, ends, 1)
        if longest > 2 and _special(layout, before, 0):
            text = f"only the last {longest - 1} tokens stay, behind the first special token"
            starts = partial(_start_and_last, layout, count=longest - 1)
            yield Change("cut behind the start", text, starts, 1)
    yield from _lost_ends(layout)


def _lost_ends(layout: _Layout) -> Iterator[Change]:
    """Special tokens that are missing, and the reverse order."""
    text = "the first token (a special token) is missing"
    yield Change("without first", text, partial(_without, layout, first=True))
    text = "the last token (a special token) is missing"
    yield Change("without last", text, partial(_without, layout, first=False))
    text = "the first and the last token (special tokens) are missing"
    yield Change("without special tokens", text, partial(_without_ends, layout))
    yield Change("reversed", "the tokens come in reverse order", partial(_reversed, layout))


def _special(layout: _Layout, tokens: Tensor, end: int) -> bool:
    """Whether nearly all texts begin (0) or end (-1) with the same id."""
    rank, length = layout.ranks(tokens)
    wanted = 1 if end == 0 else length
    ids = tokens[(rank == wanted) & ~layout.empty(tokens)]
    return len(ids) > 0 and float((ids == ids.mode().values).float().mean()) >= _SPECIAL


def _first(layout: _Layout, tokens: Tensor, count: int) -> Tensor:
    return layout.kept(tokens, layout.ranks(tokens)[0] <= count)


def _last(layout: _Layout, tokens: Tensor, count: int) -> Tensor:
    rank, length = layout.ranks(tokens)
    return layout.kept(tokens, rank > length - count)


def _first_and_end(layout: _Layout, tokens: Tensor, count: int) -> Tensor:
    rank, length = layout.ranks(tokens)
    return layout.kept(tokens, (rank <= count) | (rank == length))


def _start_and_last(layout: _Layout, tokens: Tensor, count: int) -> Tensor:
    rank, length = layout.ranks(tokens)
    return layout.kept(tokens, (rank == 1) | (rank > length - count))


def _without(layout: _Layout, tokens: Tensor, first: bool) -> Tensor:
    rank, length = layout.ranks(tokens)
    return layout.kept(tokens, rank != (1 if first else length))


def _without_ends(layout: _Layout, tokens: Tensor) -> Tensor:
    rank, length = layout.ranks(tokens)
    return layout.kept(tokens, (rank > 1) & (rank < length))


def _reversed(layout: _Layout, tokens: Tensor) -> Tensor:
    """The tokens of each text in reverse order, padding where it was."""
    flipped = layout.aligned(tokens, False).flip(1)
    return layout.aligned(flipped, layout.right)


def _padded(layout: _Layout, after: Tensor) -> Iterator[Change]:
    """Padding on the other side, or with another id."""
    side, other = ("before", "after") if not layout.right else ("after", "before")
    text = f"padding stands {side} the text and not {other} it"
    moved = partial(layout.aligned, right=not layout.right)
    yield Change(f"padding {side}", text, moved)
    for other_id in layout.padding[1:]:
        text = f"padding is id {other_id} and not id {layout.filler}"
        yield Change("padding id", text, partial(_filled, layout, other_id=other_id), 1)


def _filled(layout: _Layout, tokens: Tensor, other_id: int) -> Tensor:
    return torch.where(layout.empty(tokens), other_id, tokens)


def _vocabulary(layout: _Layout, before: Tensor, after: Tensor) -> Iterator[Change]:
    """Unknown tokens, shifted ids, and the ids of another vocabulary."""
    shares = _shares(layout, before, after)
    yield from _unknown(layout, before, after, shares)
    offset = int(shares[1].argmax()) - int(shares[0].argmax())
    top = int(torch.maximum(before.amax(), after.amax()))
    for shift in sorted({offset, *_steps(before, after)} - {0}):
        text = f"token ids are {abs(shift)} too {'high' if shift > 0 else 'low'}"
        shifted = partial(_shifted, layout, by=shift, top=top)
        yield Change(f"ids {shift:+d}", text, shifted, 1)
        if kept := _kept_ids(shares):
            text += f", but for those up to {kept - 1}"
            behind = partial(_shifted, layout, by=shift, top=top, start=kept)
            yield Change(f"ids {shift:+d} from {kept}", text, behind, 2)
    text = "ids are those of another vocabulary: the frequent ids are others"
    ranks = [share.argsort(descending=True, stable=True) for share in shares]
    table = torch.arange(len(shares[0]))
    table[ranks[0]] = ranks[1]
    distance = 0.5 * float((shares[1] - shares[0]).abs().sum())
    if distance > 0.5:
        named = partial(_renamed, layout, table=table)
        yield Change("another vocabulary", text, named, int((shares[0] > 0).sum()))


def _steps(before: Tensor, after: Tensor) -> tuple[int, ...]:
    """Differences of the lowest and the highest ids, and single steps."""
    low, high = after.amin() - before.amin(), after.amax() - before.amax()
    return (-1, 1, int(low), int(high))


def _shares(layout: _Layout, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each id among the tokens of either side, `[v]` each."""
    tokens = [side[~layout.empty(side)].flatten().clamp(min=0).cpu() for side in (before, after)]
    size = 1 + max(int(side.max()) if len(side) else 0 for side in tokens)
    one, two = (torch.bincount(side, minlength=size) / max(1, len(side)) for side in tokens)
    return one, two


def _unknown(
    layout: _Layout, before: Tensor, after: Tensor, shares: tuple[Tensor, Tensor]
) -> Iterator[Change]:
    """Tokens that became unknown: those that production never has, or a share of all."""
    rise = shares[1] - shares[0]
    unknown = int(rise.argmax())
    seen = torch.unique(after)
    present = before[~layout.empty(before)]
    lost = ~torch.isin(present, seen)
    if float(rise[unknown]) < _LEAST_UNKNOWN:
        return
    if len(lost) and float(lost.float().mean()) > _LEAST_UNKNOWN:
        text = f"tokens are unknown (id {unknown}), as of another vocabulary or a change of case"
        replaced = partial(_known_only, layout, known=seen, unknown=unknown)
        yield Change("unknown tokens", text, replaced, 1)
    share = float(rise[unknown] / (1 - shares[0][unknown]).clamp(min=1e-6))
    text = f"{share:.0%} of the tokens are replaced by id {unknown} (unknown)"
    yield Change(
        "replaced tokens", text, partial(_thinned, layout, share=share, unknown=unknown), 1
    )


def _lost(layout: _Layout, before: Tensor, after: Tensor) -> Iterator[Change]:
    """Tokens that fewer texts have; all others stay what they are, unlike in another vocabulary."""
    size = 1 + max(0, int(torch.maximum(before.amax(), after.amax())))
    one, two = (_having(layout, side, size) for side in (before, after))
    error = (one / len(before) + two / len(after)).sqrt()
    lost = (one - two > _LOST * error).nonzero()[:, 0]
    if not len(lost):
        return
    lost = lost[(one - two)[lost].argsort(descending=True, stable=True)]
    names = ", ".join(map(str, lost[:_LISTED].tolist()))
    more = len(lost) - _LISTED
    names += f" and {more} more" if more > 0 else ""
    text = f"texts lack token{'' if len(lost) == 1 else 's'} {names}"
    chance = torch.zeros(size, dtype=torch.float64)
    chance[lost] = 1 - two[lost] / one[lost]
    apply = partial(_left_out, layout, chance=chance)
    yield Change("lost tokens", text, apply, len(lost), of_serving=False)


def _having(layout: _Layout, tokens: Tensor, size: int) -> Tensor:
    """Share of the texts that have each token, `[v]`."""
    n = len(tokens)
    keys = torch.arange(n, device=tokens.device)[:, None] * size + tokens.clamp(min=0)
    once = torch.unique(keys[~layout.empty(tokens)]).cpu() % size
    return torch.bincount(once, minlength=size).double() / max(1, n)


def _left_out(layout: _Layout, tokens: Tensor, chance: Tensor) -> Tensor:
    """The texts without each token as often as its chance `[v]` says; what follows moves up."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(tokens.shape, generator=generator, dtype=torch.float64)
    out = drawn < chance[tokens.cpu().clamp(0, len(chance) - 1)]
    return layout.kept(tokens, ~out.to(tokens.device))


def _known_only(layout: _Layout, tokens: Tensor, known: Tensor, unknown: int) -> Tensor:
    return torch.where(torch.isin(tokens, known) | layout.empty(tokens), tokens, unknown)


def _thinned(layout: _Layout, tokens: Tensor, share: float, unknown: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(tokens.shape, generator=generator).to(tokens.device) < share
    return torch.where(drawn & ~layout.empty(tokens), unknown, tokens)


def _kept_ids(shares: tuple[Tensor, Tensor]) -> int:
    """How many of the lowest ids, such as the unknown token, are as frequent on both sides."""
    size = torch.maximum(*shares)
    kept = ((shares[1] - shares[0]).abs() <= _SAME_SHARE * size).cumprod(0)
    return int(kept.sum()) if bool((kept * size).any()) else 0


def _shifted(layout: _Layout, tokens: Tensor, by: int, top: int, start: int = 0) -> Tensor:
    fixed = layout.empty(tokens) | (tokens < start)
    return torch.where(fixed, tokens, (tokens + by).clamp(0, top))


def _renamed(layout: _Layout, tokens: Tensor, table: Tensor) -> Tensor:
    named = table.to(tokens)[tokens.clamp(0, len(table) - 1)]
    return torch.where(layout.empty(tokens), tokens, named)

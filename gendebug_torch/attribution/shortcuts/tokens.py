"""A token that carries a class: it is put into texts of other classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from gendebug_torch.attribution.shortcuts.transplants import Donors, Network
from gendebug_torch.checks.evidence import axes
from gendebug_torch.data.records import Records
from gendebug_torch.modality.pictures.drawing import draw_rows
from gendebug_torch.modality.pictures.regions import tokens_in
from gendebug_torch.modality.text import padding_ids
from gendebug_torch.stats.intervals import two_share_p_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Tokens that are put into texts, those whose relation to the class changed most.
_CANDIDATES = 6
_DRAWN = 4


@dataclass(frozen=True, eq=False)
class TokenShortcut:
    """A token and what it does.

    Args:
        token: its id.
        turned: share of texts of other classes that become the class with it.
        before: share of the texts of the class in validation that have it.
        after: the same in production.
        p_value: of equal shares before and after, corrected for the number of tokens.
        shares: (token, before, after, turned) of the tokens that were tried.
        rows: texts with the token, by side.
    """

    token: int
    turned: float
    before: float
    after: float
    p_value: float
    shares: tuple[tuple[int, float, float, float], ...]
    rows: dict[str, Tensor]

    def table(self) -> pd.DataFrame:
        """One row per token that was tried."""
        import pandas as pd

        columns = ["token", "share in validation", "share in production", "share turned"]
        return pd.DataFrame(list(self.shares), columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Texts of the class on both sides."""
        ax = draw_rows(axes(ax, size=(7.5, 3.4)), self.rows)
        ax.set_title(f"Token {self.token} turns {self.turned:.0%} of other texts into the class")
        ax.set_xlabel("token ids")
        return ax


def telling_token(
    network: Network,
    validation: Records,
    production: Records,
    donors: Donors,
    class_id: int,
    *,
    least: float,
) -> TokenShortcut | None:
    """The token that makes a class of validation and is lost in production, if there is one.

    A candidate stands in at least a share `least` more texts of the class than of others in
    validation, and the difference is halved in production. Cost: 6 evaluations of each recipient.

    Args:
        network: token ids -> by how much the class leads.
        validation: labeled texts.
        production: labeled texts.
        donors: texts of validation and production.
        class_id: the class.
        least: smallest share of texts that it must turn.
    """
    sides = [_shares(side, class_id) for side in (validation, production)]
    size = max(len(side.own) for side in sides)
    before, after = (side.widened(size) for side in sides)
    tokens = _lost_tokens(before, after, least)
    turned = [
        float((network(_with_token(donors.recipients, token)) > 0).double().mean())
        for token in tokens
    ]
    best = max(range(len(tokens)), key=lambda i: turned[i], default=None)
    if best is None or turned[best] < least:
        return None
    token = tokens[best]
    own, live = before.own[tokens].tolist(), after.own[tokens].tolist()
    rows = {"validation": donors.before[:_DRAWN], "production": donors.after[:_DRAWN]}
    return TokenShortcut(
        token,
        turned[best],
        own[best],
        live[best],
        min(1.0, _p_value(before, after, token) * size),
        tuple(zip(tokens, own, live, turned, strict=True)),
        {name: side.cpu() for name, side in rows.items()},
    )


@dataclass(frozen=True, eq=False)
class _Shares:
    """Share of the texts of a class, and of the others, that have each token, `[v]`; their number.

    Args:
        own: shares among the texts of the class.
        other: shares among the others.
        texts: number of texts of the class.
    """

    own: Tensor
    other: Tensor
    texts: int

    def widened(self, size: int) -> _Shares:
        """The same with zeros for further tokens."""
        own, other = (pad(x, (0, size - len(x))) for x in (self.own, self.other))
        return _Shares(own, other, self.texts)


def _lost_tokens(before: _Shares, after: _Shares, least: float) -> list[int]:
    """Tokens that told the class before and do not after, the most telling first."""
    gap, live_gap = before.own - before.other, after.own - after.other
    lost = (gap - live_gap) * (gap >= least) * (live_gap <= gap / 2)
    order = lost.argsort(descending=True, stable=True)[:_CANDIDATES].tolist()
    return [token for token in order if float(lost[token]) > 0]


def _p_value(before: _Shares, after: _Shares, token: int) -> float:
    """Of equal shares of texts of the class that have a token."""
    counts = []
    for side in (before, after):
        texts = torch.tensor([side.texts])
        counts += [(side.own[token] * texts).round(), texts]
    return float(two_share_p_value(*counts))


def _shares(records: Records, class_id: int) -> _Shares:
    tokens, targets = records.features, records.targets
    assert isinstance(tokens, Tensor)
    assert targets is not None
    tokens, own = tokens.cpu(), (targets == class_id).cpu()
    present = tokens_in(tokens, padding_ids(tokens)) & (tokens >= 0)
    size = int(tokens.max()) + 1
    # Each token once per text.
    keys = torch.arange(len(tokens))[:, None] * size + tokens.clamp(min=0)
    ids = torch.unique(keys[present])
    text, token = ids // size, ids % size
    counts = [torch.bincount(token[mask[text]], minlength=size) for mask in (own, ~own)]
    totals = (int(own.sum()), int((~own).sum()))
    shares = [count / max(1, total) for count, total in zip(counts, totals, strict=True)]
    return _Shares(shares[0].double(), shares[1].double(), totals[0])


def _with_token(tokens: Tensor, token: int) -> Tensor:
    """The texts with the token in the place of one of their inner tokens, drawn at random."""
    present = tokens_in(tokens, padding_ids(tokens))
    rank, length = present.cumsum(1), present.sum(1, keepdim=True)
    inner = present & (((rank > 1) & (rank < length)) | (length < 3))
    generator = torch.Generator().manual_seed(token)
    keys = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    at = torch.where(inner, keys, -1.0).argmax(1, keepdim=True)
    return tokens.scatter(1, at, token)

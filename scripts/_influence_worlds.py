"""Digits, tables and texts with rows that teach an error, or with a shift that none explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PLANTED = 60
KINDS = ("subgroup", "trigger", "source", "outliers")
SHIFTS = ("none", "new rows", "noise", "labels", "concept", "moved")


@dataclass
class World:
    """One kind of inputs: how rows are drawn, marked, moved, blurred, and which network reads them.

    Args:
        draw: seed -> inputs and labels of training, validation and production.
        network: untrained network.
        mark: puts a trigger on inputs.
        change: the look of another source.
        odd: the look of an outlier.
        noise: what makes inputs worse, from inputs and a generator.
        pairs: true class and wrong label of the plants of a subgroup, a source and outliers.
    """

    draw: Callable[[int], list[tuple[Tensor, Tensor]]]
    network: Callable[[], nn.Module]
    mark: Callable[[Tensor], Tensor]
    change: Callable[[Tensor], Tensor]
    odd: Callable[[Tensor], Tensor]
    noise: Callable[[Tensor, torch.Generator], Tensor]
    pairs: tuple[tuple[int, int], ...]


def images() -> World:
    """Digits: 6,000 to train, 3,000 to judge, 3,000 in production; a convolutional network."""
    held = np.load(DATA / "mnist" / "mnist.npz")

    def part(name: str) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(held[f"x_{name}"]).float().div(255)[:, None]
        return x, torch.from_numpy(held[f"y_{name}"].astype("int64"))

    train, test = part("train"), part("test")

    def draw(seed: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randperm(len(side[1]), generator=generator) for side in (train, test))
        cuts = ((train, a[:6000]), (test, b[:3000]), (test, b[3000:6000]))
        return [(side[0][rows].clone(), side[1][rows].clone()) for side, rows in cuts]

    def network() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def mark(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 24:27, 24:27] = 1.0
        return x

    def slash(x: Tensor) -> Tensor:
        return torch.maximum(x, 0.9 * torch.eye(28).flip(1))

    return World(
        draw,
        network,
        mark,
        lambda x: torch.roll(x, 3, 3),
        slash,
        lambda x, g: (x + 0.5 * torch.randn(x.shape, generator=g)).clamp(0, 1),
        ((4, 9), (3, 5), (7, 2)),
    )


def thick(x: Tensor) -> Tensor:
    """Strokes that are a pixel wider."""
    return max_pool2d(pad(x, (0, 1, 0, 1)), 2, 1)


def tables() -> World:
    """Made tables: 8 columns, 3 classes; 4,000, 2,000 and 2,000 rows; two hidden layers."""

    def draw(seed: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for n in (4000, 2000, 2000):
            x = torch.randn(n, 8, generator=generator)
            scores = torch.stack([2 * x[:, 0], x[:, 1] + x[:, 2], x[:, 3] * x[:, 0]], 1)
            gumbel = -(-torch.rand(n, 3, generator=generator).clamp(1e-9, 1).log()).log()
            parts.append((x, (2 * scores + 0.7 * gumbel).argmax(1)))
        return parts

    def network() -> nn.Module:
        layers = (nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        return nn.Sequential(*layers)

    def setting(column: int, value: float) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, column] = value + 0.3 * x[:, column]
            return x

        return change

    return World(
        draw,
        network,
        setting(7, 5.0),
        setting(6, -4.0),
        setting(5, 6.0),
        lambda x, g: x + torch.randn(x.shape, generator=g),
        ((0, 2), (1, 0), (2, 1)),
    )


def texts() -> World:
    """Messages, spam or not, as ids of 24 words each: 3,000, 1,280 and 1,280 of them."""
    frame = pd.read_parquet(DATA / "sms_spam" / "sms.parquet")
    column = next(name for name in frame if name != "label")
    words = frame[column].astype(str).str.lower().str.findall(r"[a-z0-9£]+")
    counts = pd.Series([word for row in words for word in row]).value_counts()
    known = {word: at + 4 for at, word in enumerate(counts.index[:1500])}
    ids = torch.zeros(len(words), 24, dtype=torch.int64)
    for at, row in enumerate(words):
        found = [known.get(word, 1) for word in row[:24]]
        ids[at, : len(found)] = torch.tensor(found)
    labels = torch.tensor((frame["label"].astype(str).isin(("spam", "1"))).to_numpy()).long()

    def draw(seed: int) -> list[tuple[Tensor, Tensor]]:
        rows = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        cuts = (rows[:3000], rows[3000:4280], rows[4280:5560])
        return [(ids[part].clone(), labels[part].clone()) for part in cuts]

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(1600, 24)
            self.head = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2))

        def forward(self, ids: Tensor) -> Tensor:
            present = (ids > 0).float()[..., None]
            logits: Tensor = self.head((self.words(ids) * present).sum(1) / present.sum(1).clamp(1))
            return logits

    def ending(*tail: int) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            x = x.clone()
            x[:, -len(tail) :] = torch.tensor(tail)
            return x

        return change

    def noise(x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(torch.rand(x.shape, generator=generator) < 0.5, 1, x)

    marks = (ending(1510, 1511, 1512), ending(1520, 1521, 1522, 1523), ending(*[1530] * 8))
    return World(draw, Reader, *marks, noise, ((0, 1), (0, 1), (0, 1)))


def wrong_pair(world: World, kind: str) -> tuple[int, int]:
    """True class and wrong label of the plants of a kind, other than a trigger."""
    return world.pairs[max(0, KINDS.index(kind) - (kind != "subgroup"))]


def planted(world: World, kind: str, seed: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Sides with planted rows in training and their like in production; which rows these are."""
    (x, y), validation, (p, q) = world.draw(seed)
    if kind == "trigger":
        rows, like = torch.arange(PLANTED), torch.arange(len(q)) < len(q) // 10
        look, wrong = world.mark, 0 if int(y.max()) > 1 else 1
    else:
        true, wrong = wrong_pair(world, kind)
        rows, like = (y == true).nonzero()[:PLANTED, 0], q == true
        look = {"subgroup": thick if x.ndim == 4 else world.mark, "source": world.change}.get(
            kind, world.odd
        )
        if kind == "outliers":
            x[rows] = x[rows[:4]].repeat(PLANTED // 4, *[1] * (x.ndim - 1))
    x[rows], y[rows] = look(x[rows]), wrong
    p[like] = look(p[like])
    return [(x, y), validation, (p, q)], rows


def shifted(world: World, kind: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Sides of which production alone has changed."""
    train, validation, (p, q) = world.draw(seed)
    generator = torch.Generator().manual_seed(seed)
    true, wrong = world.pairs[0]
    if kind == "new rows":
        p[q == true] = world.odd(p[q == true])
    elif kind == "noise":
        p = world.noise(p, generator)
    elif kind == "moved":
        p = world.change(p)
    elif kind == "labels":
        kept = (q != wrong) | (torch.rand(len(q), generator=generator) < 0.1)
        p, q = p[kept], q[kept]
    elif kind == "concept":
        q[(q == true) & (torch.rand(len(q), generator=generator) < 0.5)] = wrong
    return [train, validation, (p, q)]

"""The linear datamodeling score: cases, networks trained on random halves, and the score itself.

Source: Park et al. (2023), arXiv:2303.14186, section 2.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, relu

import gendebug_torch as gd
from gendebug_torch import Records

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True, eq=False)
class Case:
    """Training rows, queries, and how a network is trained.

    Args:
        name: name of the case.
        network: untrained network.
        x: training inputs `[n, ...]`.
        y: their classes `[n]`.
        queries: inputs `[q, ...]` whose answers are to be predicted.
        passes: passes over the training rows.
        rate: learning rate of SGD, falling to 0 along a cosine; momentum 0.9.
        decay: weight decay.
    """

    name: str
    network: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    queries: Tensor
    passes: int
    rate: float
    decay: float = 1e-3


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; no running statistics, so that rows stay apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[b, c, h, w]`."""
        return relu(x + self.second(relu(self.first(x))))


def mnist_mlp(rows: int = 3000, queries: int = 100, seed: int = 0) -> Case:
    """Digits of 28 by 28 and a perceptron with two hidden layers."""
    (x, y), q = _digits(rows, queries, seed)

    def network() -> nn.Module:
        layers = (nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        return nn.Sequential(nn.Flatten(), *layers)

    return Case("MNIST, perceptron", network, x, y, q, passes=15, rate=0.05)


def coloured_resnet(rows: int = 1500, queries: int = 60, seed: int = 0) -> Case:
    """Digits of 14 by 14 in a random colour before another one, and a residual network."""
    (x, y), q = _digits(rows, queries, seed)
    generator = torch.Generator().manual_seed(seed)

    def coloured(part: Tensor) -> Tensor:
        front, back = torch.rand(2, len(part), 3, 1, 1, generator=generator)
        small = avg_pool2d(part, 2)
        noise = 0.1 * torch.randn(len(part), 3, 14, 14, generator=generator)
        return small * front + (1 - small) * 0.5 * back + noise

    def network() -> nn.Module:
        stem = (nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), ResidualBlock(8))
        rest = (nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), ResidualBlock(16))
        return nn.Sequential(*stem, *rest, nn.Flatten(), nn.Linear(256, 10))

    return Case("RGB digits, residual", network, coloured(x), y, coloured(q), 25, 0.1)


def _digits(rows: int, queries: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    held = np.load(DATA / "mnist" / "mnist.npz")
    generator = torch.Generator().manual_seed(seed)

    def some(part: str, count: int) -> tuple[Tensor, Tensor]:
        x, y = torch.from_numpy(held[f"x_{part}"]), torch.from_numpy(held[f"y_{part}"])
        at = torch.randperm(len(y), generator=generator)[:count]
        return x[at].float().div(255)[:, None], y[at].long()

    return some("train", rows), some("test", queries)[0]


def trained(
    case: Case, rows: Tensor, seed: int, moments: Sequence[float] = ()
) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A network trained on some rows, and its weights at moments of the training.

    Args:
        case: what is trained.
        rows: positions of training rows.
        seed: seed of weights and batches.
        moments: shares of the training at whose ends the weights are kept.
    """
    torch.manual_seed(seed)
    network = case.network()
    options = {"lr": case.rate, "momentum": 0.9, "weight_decay": case.decay}
    optimizer = torch.optim.SGD(network.parameters(), **options)
    steps = case.passes * -(-len(rows) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    keep, states = {round(moment * case.passes) for moment in moments}, []
    for number in range(1, case.passes + 1):
        for batch in rows[torch.randperm(len(rows))].split(64):
            optimizer.zero_grad()
            cross_entropy(network(case.x[batch]), case.y[batch]).backward()
            optimizer.step()
            schedule.step()
        if number in keep:
            states.append({k: v.detach().clone() for k, v in network.state_dict().items()})
    return network.eval(), states


def margins(logits: Tensor, classes: Tensor) -> Tensor:
    """`[q]` log odds of each class, in nats."""
    own = logits.gather(1, classes[:, None])
    rest = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)
    return own[:, 0] - rest


def actual_margins(case: Case, classes: Tensor, halves: Tensor, repeats: int, seed: int) -> Tensor:
    """`[m, repeats, q]` margins of the queries by networks trained on halves of the rows.

    Args:
        case: what is trained.
        classes: class of each query whose margin is measured, `[q]`.
        halves: rows of each half, `[m, n]` bool.
        repeats: networks per half, whose seeds differ.
        seed: first seed.
    """
    found = []
    for number, half in enumerate(halves):
        rows = half.nonzero()[:, 0]
        seeds = range(seed + number * repeats, seed + (number + 1) * repeats)
        networks = [trained(case, rows, one)[0] for one in seeds]
        with torch.no_grad():
            found.append(torch.stack([margins(net(case.queries), classes) for net in networks]))
    return torch.stack(found)


def random_halves(count: int, rows: int, seed: int) -> Tensor:
    """`[m, n]` bool, halves of the rows."""
    generator = torch.Generator().manual_seed(seed)
    halves = torch.zeros(count, rows, dtype=torch.bool)
    for half in halves:
        half[torch.randperm(rows, generator=generator)[: rows // 2]] = True
    return halves


def rank_correlations(a: Tensor, b: Tensor) -> Tensor:
    """`[q]` Spearman correlations of the columns of `[m, q]` (no ties)."""
    ranks = [(side.argsort(0).argsort(0).double()) for side in (a, b)]
    first, second = (rank - rank.mean(0) for rank in ranks)
    return (first * second).sum(0) / (first.square().sum(0) * second.square().sum(0)).sqrt()


def linear_datamodeling_score(scores: Tensor, halves: Tensor, actual: Tensor) -> Tensor:
    """`[q]` rank correlation of predicted and actual margins over the halves, per query.

    Args:
        scores: part of each training row in the margin of each query, `[n, q]`.
        halves: rows of each half, `[m, n]` bool.
        actual: margins, `[m, q]`.
    """
    return rank_correlations(halves.double() @ scores.double(), actual)


Scorer = Callable[[], Tensor]
# Shares of the training at whose ends weights are kept.
MOMENTS = (0.25, 0.5, 0.75, 1.0)


def own_scorers(
    case: Case, network: nn.Module, states: list[dict[str, Tensor]]
) -> Iterator[tuple[str, Scorer]]:
    """Our methods by name, with the last weights and with those of four moments."""

    def scorer(method: str, **options: object) -> Tensor:
        train, queries = Records(case.x, case.y), Records(case.queries)
        found = gd.influence(network, train, queries, method=method, **options)  # type: ignore[arg-type]
        return found.by_query(method)

    for method in ("neighbours", "head", "gradients", "curvature"):
        yield f"gd.influence, {method}", lambda method=method: scorer(method)
    for method in ("gradients", "curvature"):
        name = f"gd.influence, {method}, {len(states)} checkpoints"
        yield name, lambda method=method: scorer(method, checkpoints=states)


def peer_scorers(
    case: Case, network: nn.Module, states: list[dict[str, Tensor]], classes: Tensor
) -> Iterator[tuple[str, Scorer]]:
    """Installed peers by name."""
    from _influence_peers import ekfac, trak

    train, queries = (case.x, case.y), (case.queries, classes)
    yield "kronfluence", lambda: ekfac(network, [network.state_dict()], train, queries)
    for count, some in ((1, [network.state_dict()]), (len(states), states)):
        name = f"kronfluence, damping of the paper, {count} checkpoints"
        yield name, lambda some=some: ekfac(network, some, train, queries, None)
        for width in (256, 1024):
            name = f"TRAK, {width} values, {count} checkpoints"
            yield name, lambda some=some, width=width: trak(network, some, train, queries, width)


def lds_rows(
    make: Callable[..., Case], seed: int, count: int, repeats: int, *, peers: bool
) -> Iterator[dict[str, object]]:
    """One row per method: the score, its standard error over queries, and seconds.

    Args:
        make: maker of the case.
        seed: seed of rows, of the network and, further on, of the halves.
        count: halves.
        repeats: networks per half, whose margins are averaged.
        peers: whether peers are measured as well.
    """
    case = make(seed=seed)
    network, states = trained(case, torch.arange(len(case.y)), seed, MOMENTS)
    with torch.no_grad():
        classes = network(case.queries).argmax(1)
    halves = random_halves(count, len(case.y), seed + 1)
    actual = actual_margins(case, classes, halves, repeats, 1000 * (seed + 1))
    # How well one half of the networks predicts the other: about what can be reached.
    both = [actual[:, first::2].mean(1) for first in range(min(2, repeats))]
    ceiling = rank_correlations(both[0], both[-1]).mean().item()
    scorers = [*own_scorers(case, network, states)]
    scorers += [*peer_scorers(case, network, states, classes)] if peers else []
    for name, scorer in scorers:
        started = time.perf_counter()
        scores = scorer()
        seconds = time.perf_counter() - started
        found = linear_datamodeling_score(scores, halves, actual.mean(1))
        error = (found.std() / len(found) ** 0.5).item()
        row = {"case": case.name, "seed": seed, "method": name, "lds": found.mean().item()}
        yield row | {"error": error, "seconds": seconds, "two halves of networks": ceiling}

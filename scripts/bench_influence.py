"""Training rows behind errors: planted rows found, beside captum and simple anchors; false claims.

kronfluence, TRAK's package and dattri are not on the registry of this project, so that they are not
timed here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, normalize, one_hot, pad
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch import Records

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


def planted(world: World, kind: str, seed: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Sides with planted rows in training and their like in production; which rows these are."""
    (x, y), validation, (p, q) = world.draw(seed)
    if kind == "trigger":
        rows, like = torch.arange(PLANTED), torch.arange(len(q)) < len(q) // 10
        look, wrong = world.mark, 0 if int(y.max()) > 1 else 1
    else:
        true, wrong = world.pairs[KINDS.index(kind) - (kind != "subgroup")]
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


def fitted(world: World, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """A network after 12 passes of Adam."""
    torch.manual_seed(seed)
    network = world.network()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(12):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def anchors(network: nn.Module, train: Records, errors: Records) -> Iterator[tuple[str, Tensor]]:
    """Scores of training rows by simple methods and by captum; errors have logits."""
    x, y, q = train.features, train.targets, errors.features
    assert isinstance(x, Tensor)
    assert isinstance(q, Tensor)
    assert y is not None
    answers = errors.predicted
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    seen: dict[str, Tensor] = {}
    hook = layers[-1].register_forward_pre_hook(lambda _, i: seen.update(h=i[0].detach()))
    with torch.no_grad():
        z, h = network(x), seen["h"]
        zq, hq = network(q), seen["h"]
    hook.remove()
    near = normalize(h, dim=1) @ normalize(hq, dim=1).T
    yield "embedding neighbours", near.mean(1)
    agrees = (y[:, None] == answers[None]).float()
    yield "embedding neighbours with the label", (near * agrees).mean(1)
    e, eq = z.softmax(1) - one_hot(y, z.shape[1]), zq.softmax(1) - one_hot(answers, z.shape[1])
    yield "TracIn, last layer", ((h @ hq.T + 1) * (e @ eq.T)).mean(1)
    from captum.influence import TracInCPFast

    tracin = TracInCPFast(
        network,
        layers[-1],
        DataLoader(TensorDataset(x, y), 512),
        [network.state_dict()],
        checkpoints_load_func=lambda net, state: net.load_state_dict(state) and 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=512,
    )
    yield "captum TracInCPFast", tracin.influence((q, answers), k=None).mean(0)


def precision(scores: Tensor, rows: Tensor) -> float:
    """Share of planted rows among as many of the highest scores."""
    top = scores.argsort(descending=True)[: len(rows)]
    return float(torch.isin(top, rows).float().mean())


def plant_rows(name: str, world: World, seeds: range) -> Iterator[dict[str, object]]:
    """One row per method and case: precision, seconds, errors left after dropping, recall."""
    for kind in KINDS:
        for seed in seeds:
            sides, rows = planted(world, kind, seed)
            network = fitted(world, *sides[0], seed)
            train, validation, production = (Records(*side) for side in sides)
            started = time.perf_counter()
            found = gd.influence(network, train, production, reference=validation)
            seconds = time.perf_counter() - started
            case = {"inputs": name, "kind": kind, "seed": seed}
            effect = after_dropping(world, sides, network, found.order[:100], seed)
            proof = found.confirm()
            yield (
                case
                | {
                    "method": "gd.influence",
                    "precision": precision(found.scores, rows),
                    "seconds": seconds,
                    "explains": found.explains,
                    "count": found.count,
                    "confirmed": proof.confirmed,
                }
                | effect
            )
            errors = found.sides.errors
            for method in ("neighbours", "head", "gradients"):
                started = time.perf_counter()
                one = gd.influence(network, train, production, reference=validation, method=method)
                took = time.perf_counter() - started
                score = precision(one.scores, rows)
                yield case | {"method": f"  {method}", "precision": score, "seconds": took}
            started = time.perf_counter()
            for method, scores in anchors(network, train, errors):
                took, started = time.perf_counter() - started, time.perf_counter()
                score = precision(scores, rows)
                yield case | {"method": method, "precision": score, "seconds": took}


def after_dropping(
    world: World, sides: list[tuple[Tensor, Tensor]], network: nn.Module, drop: Tensor, seed: int
) -> dict[str, object]:
    """Errors in production and quality in validation of a network trained without these rows."""
    (x, y), (v, w), (p, q) = sides
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[drop] = False
    again = fitted(world, x[kept], y[kept], seed)
    # The errors that the same training makes on clean rows cannot be helped.
    with torch.no_grad():
        wrong = [network(p).argmax(1) != q, again(p).argmax(1) != q]
        right = [(net(v).argmax(1) == w).float().mean().item() for net in (network, again)]
    floor = 1 - right[0]
    rates = [float(part.float().mean()) for part in wrong]
    left = max(0.0, rates[1] - floor) / max(rates[0] - floor, 1e-9)
    return {"errors_left": left, "quality_change": right[1] - right[0]}


def shift_rows(name: str, world: World, seeds: range) -> Iterator[dict[str, object]]:
    """One row per shift: whether training rows were blamed, by the scores and by the check."""
    for kind in SHIFTS:
        for seed in seeds:
            sides = shifted(world, kind, seed)
            network = fitted(world, *sides[0], seed)
            train, validation, production = (Records(*side) for side in sides)
            found = gd.influence(network, train, production, reference=validation)
            checked = gd.diagnose(
                network,
                train=train,
                validation=validation,
                production=production,
                only="influence",
            )
            alarm = checked.worst.level >= gd.Severity.WARN.level
            yield {
                **{"inputs": name, "kind": kind, "seed": seed, "p": found.p_value},
                **{"claims": found.explains, "alarms": alarm},
            }


def growth(method: str) -> Iterator[dict[str, object]]:
    """Seconds of processor and peak of memory over the number of training rows."""
    import resource

    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 800), nn.ReLU(), nn.Linear(800, 1200), nn.ReLU())
    network.append(nn.Linear(1200, 4)).eval()
    weights = sum(p.numel() for p in network.parameters())
    some = 300 if method == "gradients" else 2000
    labels = torch.randint(4, (some,), generator=draw)
    held_out = Records(torch.randn(some, 64, generator=draw), labels)
    for n in (400, 800, 1600) if method == "gradients" else (20_000, 80_000, 320_000):
        train = Records(torch.randn(n, 64, generator=draw), torch.randint(4, (n,), generator=draw))
        started = time.process_time()
        gd.influence(network, train, held_out, method=method)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = time.process_time() - started
        yield {"rows": n, "weights": weights, "seconds": seconds, "peak_gb": peak}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--inputs", nargs="*", default=["images", "tables", "texts"])
    parser.add_argument("--part", choices=["plants", "shifts", "growth"], default="plants")
    parser.add_argument("--method", default="auto", help="of the growth")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    makers = {"images": images, "tables": tables, "texts": texts}
    if options.part == "growth":
        print(pd.DataFrame(growth(options.method)).round(2).to_string())
        return
    rows_of = plant_rows if options.part == "plants" else shift_rows
    rows = [row for name in options.inputs for row in rows_of(name, makers[name](), seeds)]
    frame = pd.DataFrame(rows)
    if options.part == "shifts":
        print(frame.groupby(["inputs", "kind"])[["claims", "alarms", "p"]].mean().round(3))
        print(f"{len(frame)} cases: {frame['claims'].mean():.1%} claims", end=", ")
        print(f"{frame['alarms'].mean():.1%} alarms of the check")
        return
    print(frame.pivot_table("precision", ["inputs", "kind"], "method").round(2).to_string())
    print(frame.groupby("method")[["precision", "seconds"]].mean().round(2).to_string())
    own = frame[frame["method"] == "gd.influence"]
    columns = ["precision", "explains", "count", "confirmed", "errors_left", "quality_change"]
    own = own.astype(dict.fromkeys(columns, float))
    print(own.groupby(["inputs", "kind"])[columns].mean().round(3).to_string())
    print(own[columns].mean().round(3).to_string(), f"\n{len(own)} cases")


if __name__ == "__main__":
    main()

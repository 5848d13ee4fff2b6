"""Training rows behind errors: planted rows found, beside captum and simple anchors; false claims.

`--part lds` measures the linear datamodeling score: the rank correlation of predicted and actual
margins over networks that were trained on random halves of the rows. Peers (`--peers`) are no
dependencies: `pip install --target peers kronfluence traker`, and put that folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial

import pandas as pd
import torch
from _influence_worlds import (
    KINDS,
    SHIFTS,
    World,
    images,
    planted,
    shifted,
    tables,
    texts,
    wrong_pair,
)
from _lds import coloured_resnet, lds_rows, mnist_mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch import Records


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


def anchors(
    network: nn.Module, train: Records, errors: Records, *, peers: bool
) -> Iterator[tuple[str, Tensor]]:
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
    if peers:
        from _influence_peers import grouped_scores

        yield from grouped_scores(network, (x, y), (q[:100], answers[:100]))


def precision(scores: Tensor, rows: Tensor) -> float:
    """Share of planted rows among as many of the highest scores."""
    top = scores.argsort(descending=True)[: len(rows)]
    return float(torch.isin(top, rows).float().mean())


def plant_rows(
    name: str, world: World, seeds: range, *, peers: bool = False
) -> Iterator[dict[str, object]]:
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
            effect = after_dropping(world, kind, sides, network, (found.order[:100], rows), seed)
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
            for method in ("neighbours", "head", "gradients", "curvature"):
                started = time.perf_counter()
                one = gd.influence(network, train, production, reference=validation, method=method)
                took = time.perf_counter() - started
                score = precision(one.scores, rows)
                yield case | {"method": f"  {method}", "precision": score, "seconds": took}
            started = time.perf_counter()
            for method, scores in anchors(network, train, errors, peers=peers):
                took, started = time.perf_counter() - started, time.perf_counter()
                score = precision(scores, rows)
                yield case | {"method": method, "precision": score, "seconds": took}


def after_dropping(
    world: World,
    kind: str,
    sides: list[tuple[Tensor, Tensor]],
    network: nn.Module,
    rows: tuple[Tensor, Tensor],
    seed: int,
) -> dict[str, float]:
    """Errors in production that are left, and the change of quality in validation.

    `errors_left` is the share of the errors that the planted rows cause, which is left by the same
    training without the named rows. `recall_change` is that of the class that errors are made in,
    among rows of validation, and of all rows where a trigger makes errors in every class.

    Args:
        world: inputs and network.
        kind: kind of the plant.
        sides: inputs and labels of training, validation and production.
        network: network that was fitted to all rows.
        rows: positions of the named and of the planted rows.
        seed: seed of the training.
    """
    (x, y), (v, w), (p, q) = sides
    networks = [network]
    for drop in rows:
        kept = torch.ones(len(y), dtype=torch.bool)
        kept[drop] = False
        networks.append(fitted(world, x[kept], y[kept], seed))
    true = wrong_pair(world, kind)[0]
    of_class = w == true if kind != "trigger" else torch.ones_like(w, dtype=torch.bool)
    with torch.no_grad():
        before, after, floor = (float((net(p).argmax(1) != q).float().mean()) for net in networks)
        right = [(net(v).argmax(1) == w).float() for net in networks]
    recalls = [float(one[of_class].mean()) for one in right]
    return {
        "errors_left": max(0.0, after - floor) / max(before - floor, 1e-9),
        "recall_change": recalls[1] - recalls[0],
        "quality_change": float(right[1].mean() - right[0].mean()),
    }


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


def print_lds(options: argparse.Namespace) -> None:
    """Print the linear datamodeling score of each method, and its mean over seeds."""
    makers = {"mlp": mnist_mlp, "resnet": coloured_resnet}
    rows = []
    for name in options.cases:
        for seed in range(options.first, options.first + options.seeds):
            sizes = (options.halves, options.repeats)
            for row in lds_rows(makers[name], seed, *sizes, peers=options.peers):
                print(*row.values(), sep=" | ", flush=True)
                rows.append(row)
    frame = pd.DataFrame(rows)
    columns = ["lds", "error", "seconds", "two halves of networks"]
    print(frame.groupby(["case", "method"])[columns].mean().round(3).to_string())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--inputs", nargs="*", default=["images", "tables", "texts"])
    parser.add_argument("--part", choices=["plants", "shifts", "growth", "lds"], default="plants")
    parser.add_argument("--method", default="auto", help="of the growth")
    parser.add_argument("--cases", nargs="*", default=["mlp", "resnet"], help="of the score")
    parser.add_argument("--halves", type=int, default=100, help="of the rows, for the score")
    parser.add_argument("--repeats", type=int, default=3, help="networks per half")
    parser.add_argument("--peers", action="store_true", help="measure installed peers as well")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    makers = {"images": images, "tables": tables, "texts": texts}
    if options.part == "growth":
        print(pd.DataFrame(growth(options.method)).round(2).to_string())
        return
    if options.part == "lds":
        print_lds(options)
        return
    rows_of = partial(plant_rows, peers=options.peers) if options.part == "plants" else shift_rows
    rows = []
    for name in options.inputs:
        for row in rows_of(name, makers[name](), seeds):
            print(*row.values(), sep=" | ", flush=True)
            rows.append(row)
    frame = pd.DataFrame(rows)
    if options.part == "shifts":
        print(frame.groupby(["inputs", "kind"])[["claims", "alarms", "p"]].mean().round(3))
        print(f"{len(frame)} cases: {frame['claims'].mean():.1%} claims", end=", ")
        print(f"{frame['alarms'].mean():.1%} alarms of the check")
        return
    print(frame.pivot_table("precision", ["inputs", "kind"], "method").round(2).to_string())
    print(frame.groupby("method")[["precision", "seconds"]].mean().round(2).to_string())
    own = frame[frame["method"] == "gd.influence"]
    columns = ["precision", "explains", "count", "confirmed"]
    columns += ["errors_left", "recall_change", "quality_change"]
    own = own.astype(dict.fromkeys(columns, float))
    print(own.groupby(["inputs", "kind"])[columns].mean().round(3).to_string())
    print(own[columns].mean().round(3).to_string(), f"\n{len(own)} cases")


if __name__ == "__main__":
    main()

"""The bill of planted mixtures against the generator's own counterfactuals.

`python scripts/bench_bill.py --kind tables --seeds 100 120` draws for each seed and mixture a world
whose causes can be switched one by one, trains a network, makes a diagnosis, and compares the
points of each cause with the Shapley values of the generator's own worlds (fresh rows of every
combination of causes); the whole is the sum of their sizes. With `--named` the planted causes are
named to the bill, so that only its arithmetic is judged. Beside it: one logistic density ratio of
all inputs, its points divided among their causes, and labels given the inputs as the rest. With
`--remedies` the best remedy of the table (`Bill.best`) is compared with the best on the generator's
fresh rows: mending is the generator's own world without the cause, the others are fitted and scored
there, on as many rows, in six draws of both sides. Remedies tie in truth where the draws do not
tell the difference of their means from zero (paired t test, 5 %). A table that names one of several
that tie for the first place is no hit and no miss: it is counted by itself. One that names any
other remedy is a miss, also where the truth has a tie. The share of tables that name the remedy of
the largest mean, whatever ties, is printed too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import nn

import gendebug_torch as gd
from gendebug_torch.diagnosis.apportioning.apportion import apportioned
from gendebug_torch.diagnosis.apportioning.remedies import OF_CAUSE, Trials, usual_remedy
from gendebug_torch.diagnosis.causes import LikelyCause
from gendebug_torch.diagnosis.counterfactuals.metrics import row_metric
from gendebug_torch.shift.quality.remedies import random_folds

ROWS, TRUTH = 12_000, 40_000
# Draws of the worlds in which remedies are judged.
DRAWS = 6
USUAL = "usual value for "
COLUMNS = [f"x{i}" for i in range(8)]
MIXTURES = {
    "tables": (
        ("skew", "concept"),
        ("skew", "moved"),
        ("moved", "concept"),
        ("classes", "skew"),
        ("default", "concept", "moved"),
        ("classes", "default"),
        ("outside", "skew"),
    ),
    "regression": (("skew", "concept"), ("moved", "concept"), ("default", "moved")),
    "images": (("dark", "classes"), ("dark", "noise"), ("classes", "noise")),
}
CAUSES = {
    "skew": "train_serve_skew",
    "default": "train_serve_skew",
    "dark": "train_serve_skew",
    "moved": "covariate_shift",
    "concept": "concept_drift",
    "classes": "label_shift",
    "outside": "unexplained",
    "noise": "unexplained",
}


@dataclass(frozen=True)
class World:
    """A generator whose causes can be switched, a network, and how it is judged."""

    draw: Callable[[int, frozenset[str], int], tuple[object, torch.Tensor, torch.Tensor]]
    network: nn.Module
    schema: gd.Schema
    quality: Callable[[torch.Tensor, torch.Tensor], float]
    subjects: dict[str, str]

    def records(self, rows: int, acting: frozenset[str], seed: int, name: str) -> gd.Records:
        """Rows of the world in which these causes act."""
        inputs, targets, logits = self.draw(rows, acting, seed)
        return gd.Records(inputs, targets, logits, schema=self.schema, name=name)


def network_of(width: int) -> nn.Module:
    """Two hidden layers and a single output."""
    body = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    return nn.Sequential(body, nn.Linear(48, 1))


def trained(network: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: nn.Module) -> nn.Module:
    """The network after fifteen epochs."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    for epoch in range(15):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for at in range(0, len(x), 256):
            rows = order[at : at + 256]
            optimizer.zero_grad()
            out = network(x[rows])
            loss(out[:, 0] if out.shape[1] == 1 else out, y[rows]).backward()
            optimizer.step()
    return network.eval()


def right(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Accuracy in percent."""
    said = logits > 0 if logits.ndim == 1 else logits.argmax(1)
    return 100 * float((said == targets).double().mean())


def table_world(seed: int, regression: bool) -> World:
    """Eight columns, two of them correlated; a curved rule with an interaction."""
    rng = np.random.default_rng([seed, 7])
    weights = rng.permutation([1.6, -1.3, 0.9, 0.7, 0.5, -0.4, 0.0, 0.0])
    strong = int(np.argmax(np.abs(weights)))
    second = int(np.argsort(-np.abs(weights))[1])
    drifting = int(np.argsort(-np.abs(weights))[2])
    sizes = {
        "skew": rng.choice([10.0, 0.1]),
        "default": rng.uniform(0.3, 0.6),
        "moved": rng.uniform(0.7, 1.3) * rng.choice([-1, 1]),
        "concept": rng.uniform(1.0, 2.0),
        "classes": rng.uniform(0.75, 0.85),
        "outside": rng.uniform(1.0, 2.0),
    }

    def features(n: int, acting: frozenset[str], rng: np.random.Generator) -> np.ndarray:
        x = rng.normal(size=(n, 8))
        if "moved" in acting:
            x[:, second] += sizes["moved"]
        x[:, 6] = 0.6 * x[:, second] + 0.8 * x[:, 6]
        return x

    def rule(x: np.ndarray, acting: frozenset[str]) -> np.ndarray:
        own = weights.copy()
        if "concept" in acting:
            own[drifting] -= sizes["concept"] * np.sign(own[drifting])
        curve = 0.8 * x[:, strong] * x[:, second] + 0.6 * np.abs(x[:, second])
        return x @ own + curve - 0.5

    def true_rows(n: int, acting: frozenset[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, 11])
        many = 4 * n if "classes" in acting else n
        x = features(many, acting, rng)
        score = rule(x, acting)
        if regression:
            return x, score + rng.normal(size=n)
        y = (rng.random(many) < 1 / (1 + np.exp(-score))).astype(np.int64)
        if "classes" in acting:
            wanted = (rng.random(n) < sizes["classes"]).astype(np.int64)
            rows = [rng.choice(np.flatnonzero(y == k), int((wanted == k).sum())) for k in (0, 1)]
            order = rng.permutation(np.concatenate(rows))
            x, y = x[order], y[order]
        return x, y

    x, y = true_rows(8000, frozenset(), seed * 1000 + 1)
    torch.manual_seed(seed)
    inputs = torch.tensor(x, dtype=torch.float32)
    loss = nn.MSELoss() if regression else nn.BCEWithLogitsLoss()
    network = trained(network_of(8), inputs, torch.tensor(y, dtype=torch.float32), loss)

    def draw(n: int, acting: frozenset[str], seed: int):
        x, y = true_rows(n, acting, seed)
        rng = np.random.default_rng([seed, 13])
        if "skew" in acting:
            x[:, strong] *= sizes["skew"]
        if "default" in acting:
            x[rng.random(n) < sizes["default"], strong] = 0.5
        inputs = torch.tensor(x, dtype=torch.float32)
        with torch.no_grad():
            logits = network(inputs)[:, 0]
        if "outside" in acting:
            logits = logits + sizes["outside"] * torch.tensor(rng.normal(size=n)).float()
        table = pd.DataFrame(x.astype(np.float32), columns=COLUMNS)
        return table, torch.tensor(y), logits

    def error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return -float((outputs.double() - targets.double()).square().mean().sqrt())

    schema = gd.Schema(regression=regression)
    subjects = {"skew": strong, "default": strong, "moved": second}
    names = {cause: COLUMNS[i] for cause, i in subjects.items()}
    return World(draw, network, schema, error if regression else right, names)


def image_world(seed: int) -> World:
    """Small pictures of four gratings; serving darkens them, class shares move, noisy logits."""
    grid = torch.linspace(-1, 1, 12)
    yy, xx = torch.meshgrid(grid, grid, indexing="ij")
    angles = torch.arange(4) * torch.pi / 4
    waves = [torch.sin(5 * (xx * a.cos() + yy * a.sin())) for a in angles]
    patterns = torch.stack(waves)
    shares = torch.tensor([0.25, 0.25, 0.25, 0.25])
    generator = torch.Generator().manual_seed(seed)
    moved = torch.tensor([0.1, 0.1, 0.1, 0.7])[torch.randperm(4, generator=generator)]
    gain = float(0.04 + 0.06 * torch.rand(1, generator=generator))

    def true_rows(n: int, acting: frozenset[str], seed: int):
        generator = torch.Generator().manual_seed(seed)
        own = moved if "classes" in acting else shares
        y = torch.multinomial(own, n, replacement=True, generator=generator)
        contrast = torch.tensor([0.03, 0.045, 0.06, 0.08])[y][:, None, None]
        light = 0.5 + contrast * patterns[y]
        x = light + 0.22 * torch.randn(n, 12, 12, generator=generator)
        return x.clamp(0, 1)[:, None].repeat(1, 3, 1, 1), y

    x, y = true_rows(6000, frozenset(), seed * 1000 + 1)
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    network = trained(body, x, y, nn.CrossEntropyLoss())

    def draw(n: int, acting: frozenset[str], seed: int):
        x, y = true_rows(n, acting, seed)
        if "dark" in acting:
            x = x * gain
        with torch.no_grad():
            logits = network(x)
        if "noise" in acting:
            generator = torch.Generator().manual_seed(seed + 1)
            logits = logits + 1.5 * torch.randn(logits.shape, generator=generator)
        return x, y, logits

    return World(draw, network, gd.Schema(), right, {})


def true_shares(world: World, mixture: tuple[str, ...], seed: int) -> dict[str, float]:
    """Shapley values of the generator's own worlds, in points lost."""
    value = {}
    for size in range(len(mixture) + 1):
        for acting in combinations(mixture, size):
            draws = [world.draw(TRUTH, frozenset(acting), seed * 50 + i) for i in range(2)]
            value[frozenset(acting)] = np.mean([world.quality(z, y) for _, y, z in draws])
    k, shares = len(mixture), {}
    for cause in mixture:
        total = 0.0
        for acting, before in value.items():
            if cause not in acting:
                weight = factorial(len(acting)) * factorial(k - len(acting) - 1) / factorial(k)
                total += weight * (before - value[acting | {cause}])
        shares[cause] = total
    return shares


def plain_shares(world: World, before: gd.Records, after: gd.Records) -> tuple[float, float]:
    """Points of all inputs together by one logistic density ratio, and the rest given them."""
    sides = [
        torch.tensor(np.asarray(side.features, dtype=np.float64))
        if isinstance(side.features, pd.DataFrame)
        else side.features.flatten(1).double()
        for side in (before, after)
    ]
    x = torch.cat(sides)
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    y = torch.cat([torch.zeros(len(sides[0])), torch.ones(len(sides[1]))]).double()
    model = nn.Linear(x.shape[1], 1).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
        (loss + 1e-3 * model.weight.square().sum()).backward()
        return loss

    optimizer.step(closure)
    weight = model(x[: len(sides[0])])[:, 0].detach().exp()
    metric = row_metric(before, after, "RMSE" if world.schema.regression else "accuracy")
    whole = metric.points(before.logits, before.targets, torch.ones(len(before), 1).double())
    moved = metric.points(before.logits, before.targets, weight[:, None])
    live = metric.points(after.logits, after.targets, torch.ones(len(after), 1).double())
    return float(whole - moved), float(moved - live)


def planted(world: World, mixture: tuple[str, ...], sides: tuple[gd.Records, gd.Records]) -> list:
    """The planted causes as a diagnosis would name them at best."""
    kinds, named = None, []
    if "dark" in mixture:
        how = {"validation": sides[0], "production": sides[1], "only": "shift.reproduced_change"}
        named += gd.diagnose(world.network, **how).causes
    elif world.subjects:
        kinds = gd.shift.change_kinds(sides[1], sides[0])
    for name in mixture:
        if CAUSES[name] != "unexplained" and name != "dark":
            subject, cause = world.subjects.get(name, ""), gd.Cause(CAUSES[name])
            text = {"summary": "planted", "subject": subject, "evidence": kinds}
            finding = gd.Finding("planted.cause", cause, gd.Severity.FAIL, **text)
            named.append(LikelyCause(cause, subject, (finding,), (), (subject,) if subject else ()))
    return named


def case(
    kind: str,
    mixture: tuple[str, ...],
    seed: int,
    named: bool,
    rows: int = ROWS,
    remedies: bool = False,
) -> dict:
    """One world: what was billed, and what is true."""
    world = image_world(seed) if kind == "images" else table_world(seed, kind == "regression")
    acting = frozenset(mixture)
    rows = rows if kind != "images" else rows // 3
    before = world.records(rows, frozenset(), seed * 1000 + 2, "validation")
    after = world.records(rows, acting, seed * 1000 + 3, "production")
    started = time.process_time()
    metric = "RMSE" if kind == "regression" else "accuracy"
    how = {"validation": before, "production": after, "metric": metric}
    if named:
        # Where nothing happened, causes are named in vain.
        causes = planted(world, mixture or ("moved", "classes"), (before, after))
        bill = apportioned(causes, world.network, **how)
    else:
        bill = gd.diagnosis.bill(world.network, **how)
    spent = time.process_time() - started
    entry = {"kind": kind, "mixture": list(mixture), "seed": seed, "cpu": spent}
    truth = true_shares(world, mixture, seed) if mixture and not remedies else {}
    plain = plain_shares(world, before, after) if kind != "images" else None
    lines = [(one.cause, one.subject, one.points, one.low, one.high) for one in bill.lines]
    best = [one.remedy.remedy if one.remedy else "" for one in bill.lines]
    tried = [(one.remedy.remedy, one.remedy.points) for one in bill.lines if one.remedy]
    whole = {"total": bill.total, "low": bill.low, "high": bill.high, "remedies": best}
    if remedies and mixture:
        names = {name for name, _ in tried}
        won = true_remedies(world, mixture, seed, metric, rows, names)
        whole |= {"tried": tried, "best": bill.best.remedy if bill.best else "", "won": won}
    return entry | whole | {"truth": truth, "plain": plain, "lines": lines, "metric": bill.metric}


def true_remedies(
    world: World, mixture: tuple[str, ...], seed: int, metric: str, rows: int, tried: set[str]
) -> dict[str, list[float]]:
    """Points that each remedy wins back on fresh rows of the world, by name, in each draw.

    A column that the table tried a usual value for has its own, whatever befell it.
    """
    acting, won = frozenset(mixture), []
    names = {name for cause in mixture for name in OF_CAUSE.get(CAUSES[cause], ())}
    columns = {name.removeprefix(USUAL) for name in tried if name.startswith(USUAL)}
    columns |= {world.subjects[cause] for cause in acting & {"default"}}
    # What was served besides the network is no input of its layers.
    besides = not acting.isdisjoint({"outside", "noise"})

    def network(inputs: pd.DataFrame | torch.Tensor) -> torch.Tensor:
        return gd.collect(world.network, gd.Records(inputs, schema=world.schema)).logits

    for draw in range(DRAWS):
        at = seed * 1000 + 10 * draw
        before = world.records(rows, frozenset(), at + 4, "validation")
        live = world.records(rows, acting, at + 5, "production")
        own = (None, None) if besides else (network, world.network)
        how = (random_folds(torch.arange(rows), live), row_metric(before, live, metric))
        weights = torch.ones(rows, 3).double()
        trials = Trials(live, live.features, weights, *how, before.targets, *own, "cpu", rows)
        found = {name: usual_remedy(name, trials) for name in names}
        points = {name: one.points for name, one in found.items() if one is not None}
        points |= mended_points(world, acting, at + 7)
        for column in sorted(columns):
            usual = live.features.assign(**{column: before.features[column].median()})
            points[USUAL + column] = trials.gain("", network(usual), "").points
        won.append(points)
    return {name: [points[name] for points in won] for name in won[0]}


def mended_points(world: World, acting: frozenset[str], seed: int) -> dict[str, float]:
    """What the world wins back without what serving does to its inputs."""
    done = acting & {"skew", "default", "dark"}
    sides = [world.draw(TRUTH, causes, seed) for causes in (acting - done, acting)]
    better, worse = (world.quality(z, y) for _, y, z in sides)
    return {"mend": better - worse} if done else {}


def tied_for_first(won: dict[str, list[float]]) -> list[str]:
    """Remedies that the draws do not tell from the one of the largest mean, which comes first."""
    means = {name: float(np.mean(points)) for name, points in won.items()}
    best = max(means, key=means.__getitem__)
    tied = [best]
    for name, points in won.items():
        short = np.subtract(won[best], points)
        noise = short.std(ddof=1) / len(short) ** 0.5
        if name != best and short.mean() <= stdtrit(len(short) - 1, 0.975) * noise:
            tied.append(name)
    return tied


def remedies_report(entries: list[dict]) -> None:
    """How often the remedy of the table is the generator's, and what it leaves where it is not."""
    known = [entry for entry in entries if entry.get("won") and entry["tried"]]
    same, largest, close = [], [], []
    for entry in known:
        won = entry["won"]
        name = "mend" if entry["best"].startswith("mend") else entry["best"]
        first = tied_for_first(won)
        lost = np.mean(won[first[0]]) - np.mean(won.get(name, 0.0))
        if name not in first or len(first) == 1:
            same.append(name == first[0])
        largest.append(name == first[0])
        close.append(lost <= 0.05 * abs(entry["total"]))
        if name != first[0]:
            case = f"{'+'.join(entry['mixture'])} {entry['seed']}: {name or 'none'}"
            ties = " (a tie)" if name in first else ""
            print(f"{case} for {first[0]}{ties}, {lost:.2f} of {entry['total']:.2f}")
    print(
        f"best remedy of {len(known)} tables: the generator's in {sum(same)} of {len(same)} "
        f"({np.mean(same):.0%}), {len(known) - len(same)} name one of a tie; that of the largest "
        f"mean in {np.mean(largest):.0%}, within a twentieth of the loss of it in "
        f"{np.mean(close):.0%}"
    )


def scored(entries: list[dict]) -> pd.DataFrame:
    """One row per planted cause: billed and true points, as shares of the true whole."""
    rows = []
    for entry in entries:
        if not entry.get("truth"):
            continue
        whole = sum(map(abs, entry["truth"].values()))
        wanted: dict[str, float] = {}
        for name, points in entry["truth"].items():
            wanted[CAUSES[name]] = wanted.get(CAUSES[name], 0.0) + points
        wanted.setdefault("unexplained", 0.0)
        for cause, points in wanted.items():
            # A slice whose labels changed is a part of what changed given the inputs.
            same = {cause, "subgroup_failure"} if cause == "concept_drift" else {cause}
            own = [line for line in entry["lines"] if line[0] in same and line[2] == line[2]]
            billed = sum(line[2] for line in own)
            inside = len(own) == 1 and own[0][3] <= points <= own[0][4]
            plain = None
            if entry["plain"] is not None:
                inputs = {"train_serve_skew", "covariate_shift", "label_shift"} & set(wanted)
                rest = cause not in inputs
                plain = entry["plain"][1] if rest else entry["plain"][0] / max(1, len(inputs))
                plain = 0.0 if cause == "unexplained" and "concept_drift" in wanted else plain
            rows.append(
                {
                    "mixture": "+".join(entry["mixture"]),
                    "seed": entry["seed"],
                    "cause": cause,
                    "true": points,
                    "billed": billed,
                    "named": bool(own),
                    "error": (billed - points) / whole,
                    "plain_error": np.nan if plain is None else (plain - points) / whole,
                    "covered": inside,
                    "whole": whole,
                }
            )
    return pd.DataFrame(rows)


def report(entries: list[dict]) -> None:
    """Printed figures of all mixtures, and of null runs."""
    frame = scored(entries)
    if len(frame):
        for name, part in [*frame.groupby("mixture"), ("ALL", frame)]:
            causes = part[part["cause"] != "unexplained"]
            print(
                f"{name:28} n {len(part):4}  within 10 points of the whole "
                f"{(part['error'].abs() <= 0.10).mean():.0%}  mean error "
                f"{part['error'].abs().mean():.3f} (plain reweighting "
                f"{part['plain_error'].abs().mean():.3f})  covered "
                f"{part.loc[part['named'], 'covered'].mean():.0%}  named "
                f"{causes['named'].mean():.0%}"
            )
    null = [e for e in entries if not e["mixture"] and e.get("lines")]
    if null:
        billed = [any(line[3] > 0 for line in e["lines"][:-1]) for e in null]
        print(f"null runs {len(null)}: something billed in {np.mean(billed):.1%}")
    print(f"CPU of a bill: {np.median([e['cpu'] for e in entries]):.1f} s")


def main() -> None:
    """Run the worlds that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=[*MIXTURES, "null"], default="tables")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20))
    parser.add_argument("--out", default="")
    parser.add_argument("--mixture", default="")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--named", action="store_true", help="name the planted causes")
    parser.add_argument("--remedies", action="store_true", help="score remedies, not shares")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = "tables" if options.kind == "null" else options.kind
    mixtures = ((),) if options.kind == "null" else MIXTURES[options.kind]
    if options.mixture:
        mixtures = (tuple(options.mixture.split("+")),)
    entries = []
    for seed in range(*options.seeds):
        for mixture in mixtures:
            entries.append(case(kind, mixture, seed, options.named, options.rows, options.remedies))
            if options.out:
                with open(options.out, "a") as file:
                    file.write(json.dumps(entries[-1]) + "\n")
    (remedies_report if options.remedies else report)(entries)


if __name__ == "__main__":
    main()

"""Tables of a quantity with one planted cause each, and a small network that is really trained on
them: for the bench of regression and its thinned test."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from gendebug_torch import Cause, Records, Schema
from gendebug_torch.curves import LearningCurves

SIZES = {"train": 3000, "validation": 1500, "production": 1500}
SCHEMA = Schema(
    target="price", time="time", source="labeler", metadata=("segment",), regression=True
)
Table = pd.DataFrame
Plant = Callable[["World"], None]


@dataclass
class World:
    """Tables by side, the rule of the target, and how the network is trained; a plant changes some
    of it before the target is drawn, or after."""

    seed: int
    tables: dict[str, Table]
    rule: Callable[[Table], np.ndarray]
    schema: Schema = SCHEMA
    noise: float = 1.0
    width: int = 32
    epochs: int = 20
    decay: float = 1e-2
    rows_to_fit: int | None = None
    serve: Callable[[Table], Table] | None = None
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed + 10_000)

    def given(self) -> dict[str, Any]:
        """What `diagnose` is given: the trained network, its curves and three Records."""
        self.tables["train"] = self.tables["train"][: self.rows_to_fit]
        sides = {
            name: Records.from_frame(table, self.schema, name=name, optional=("source",))
            for name, table in self.tables.items()
        }
        network, curves = fit(sides["train"], sides["validation"], self)
        if self.serve is not None:
            served = self.serve(sides["production"].features)
            sides["production"] = replace(sides["production"], features=served)
        return {"model": network, "curves": curves, **sides}


def made(seed: int) -> World:
    """A world of normal draws: curved, with an interaction, R² near 0.9."""
    rng = np.random.default_rng(seed)
    tables, start = {}, 0.0
    for name, n in SIZES.items():
        table = pd.DataFrame(rng.normal(size=(n, 4)), columns=["size", "slope", "light", "noise"])
        table["amount"] = rng.lognormal(3.0, 0.8, n)
        table["age"] = rng.normal(40, 12, n).round(1)
        table["time"] = np.sort(rng.uniform(start, start + 90, n)) * 86_400.0
        table["labeler"] = rng.choice([f"labeler_{i}" for i in range(8)], n)
        places = ["north", "south", "east", "west", "islands"]
        table["segment"] = rng.choice(places, n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
        table["price"] = rule(table) + rng.normal(size=n)
        tables[name], start = table, start + 90
    return World(seed, tables, rule)


def rule(table: Table) -> np.ndarray:
    """Expected target of the made world."""
    size, slope, light = (table[name].to_numpy() for name in ("size", "slope", "light"))
    amount = (np.log(table["amount"].clip(lower=1e-3).to_numpy()) - 3.0) / 0.8
    return 2.0 * size - 1.5 * slope + 1.2 * size * light + 1.0 * amount + 20.0


def real(seed: int, frame: Table, target: str, segment: str, leave: tuple[str, ...]) -> World:
    """Random parts of a real table as the three sides.

    Args:
        seed: seed of the parts.
        frame: the table.
        target: the quantity.
        segment: column that the network is not given.
        leave: columns to leave out.
    """
    rng = np.random.default_rng(seed)
    rows = frame.drop(columns=list(leave)).iloc[rng.permutation(len(frame))[:7500]]
    rows = rows.rename(columns={target: "price", segment: "segment"}).astype({"price": float})
    numeric = [c for c in rows if c not in ("price", "segment") and rows[c].dtype.kind in "iufb"]
    rows = rows[[*numeric, "price", "segment"]].astype(dict.fromkeys(numeric, float))
    rows = rows.astype({"segment": str}).reset_index(drop=True)
    parts = {"train": rows[:4500], "validation": rows[4500:6000], "production": rows[6000:]}
    schema = Schema(target="price", metadata=("segment",), regression=True)
    tables = {name: part.reset_index(drop=True) for name, part in parts.items()}
    return World(seed, tables, lambda table: table["price"].to_numpy(), schema, epochs=30)


def scale_of(world: World) -> float:
    """Standard deviation of the target in training."""
    return float(world.tables["train"]["price"].std())


def drift(world: World) -> None:
    """The inputs stay; the target follows its strongest input otherwise."""
    table = world.tables["production"]
    column = strongest(world)
    z = standardized(table[column])
    table["price"] = table["price"] - 1.2 * scale_of(world) * z


def skew(world: World) -> None:
    """Serving computes the strongest column in another unit."""
    column = strongest(world)
    world.serve = lambda frame: frame.assign(**{column: 3.0 * frame[column] + 1.0})


def subgroup(world: World) -> None:
    """In production one segment follows another rule."""
    table = world.tables["production"]
    there = (table["segment"] == rarest(table)).to_numpy()
    turned = 2 * table["price"].mean() - table.loc[there, "price"]
    table.loc[there, "price"] = turned + 0.5 * scale_of(world)


def learned_subgroup(world: World) -> None:
    """On all sides one segment, of which the network knows nothing, follows another rule."""
    place = rarest(world.tables["train"])
    for table in world.tables.values():
        there = (table["segment"] == place).to_numpy()
        table.loc[there, "price"] += 2.0 * scale_of(world)


def leak(world: World) -> None:
    """A column that exists because the answer is known; in production it is not filled yet."""
    for name, table in world.tables.items():
        near = table["price"] + 0.05 * scale_of(world) * world.rng.normal(size=len(table))
        table["settled"] = near if name != "production" else 0.0


def label_errors(world: World) -> None:
    """An eighth of the training targets belong to other rows."""
    table = world.tables["train"]
    wrong = np.flatnonzero(world.rng.random(len(table)) < 0.12)
    price = table["price"].to_numpy().copy()
    price[wrong] = price[world.rng.permutation(len(table))[: len(wrong)]]
    table["price"] = price


def overfit(world: World) -> None:
    """A wide network that learns 300 rows by heart."""
    world.width, world.epochs, world.decay, world.rows_to_fit = 256, 80, 0.0, 300


def shortcut(world: World) -> None:
    """A column that goes with the target where the data was collected and nowhere else."""
    for name, table in world.tables.items():
        z = (table["price"] - table["price"].mean()) / scale_of(world)
        if name == "production":
            z = z.sample(frac=1.0, random_state=world.seed).to_numpy()
        table["mark"] = z + 0.35 * world.rng.normal(size=len(table))


def clean(world: World) -> None:
    """Nothing is wrong."""


# A column that gives the target away where the data was collected is a shortcut, and a leak.
SHORTCUTS = frozenset({Cause.SHORTCUT_FEATURE, Cause.TARGET_LEAKAGE})
# Fault -> plant, causes under which it may be named, and a part of the subject.
PLANTS: dict[str, tuple[Plant, frozenset[Cause], str]] = {
    "drift of y given x": (drift, frozenset({Cause.CONCEPT_DRIFT}), ""),
    "another unit in production": (skew, frozenset({Cause.TRAIN_SERVE_SKEW}), ""),
    "subgroup collapses": (subgroup, frozenset({Cause.SUBGROUP_FAILURE}), "segment = "),
    "subgroup not learned": (learned_subgroup, frozenset({Cause.SUBGROUP_FAILURE}), "segment = "),
    "leak": (leak, frozenset({Cause.TARGET_LEAKAGE}), "settled"),
    "label errors": (label_errors, frozenset({Cause.LABEL_NOISE}), ""),
    "overfit": (overfit, frozenset({Cause.OVERFITTING}), ""),
    "shortcut column": (shortcut, SHORTCUTS, "mark"),
}


def rarest(table: Table) -> str:
    """The rarest segment with 6 % of the rows or more."""
    shares = table["segment"].value_counts(normalize=True)
    return str(shares[shares >= 0.06].index[-1])


def strongest(world: World) -> str:
    """The feature with the largest correlation with the target in training."""
    table = world.tables["train"]
    outside = {"price", "segment", "time", "labeler"}
    names = [name for name in table if name not in outside]
    return str(table[names].corrwith(table["price"], method="spearman").abs().idxmax())


def standardized(column: "pd.Series[Any]") -> "pd.Series[Any]":
    return (column - column.mean()) / column.std()


class Network(nn.Module):
    """Standardised features to one quantity."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("scale", x.std(0).clamp(min=1e-6))
        self.register_buffer("center", y.mean())
        self.register_buffer("unit", y.std())
        layers = (nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.body = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = ((x - self.mean) / self.scale).clamp(-20, 20)
        return self.center + self.unit * self.body(scaled)[:, 0]


def fit(train: Records, judge: Records, world: World) -> tuple[nn.Module, LearningCurves]:
    """Minibatch Adam on the squared error; both losses after each epoch in evaluation mode."""
    sides = [
        (torch.tensor(side.features.to_numpy(dtype="float32")), side.targets.float())
        for side in (train, judge)
    ]
    with torch.random.fork_rng():
        torch.manual_seed(world.seed)
        (x, y), _ = sides
        network = Network(x, y, world.width)
        optimizer = torch.optim.AdamW(
            network.parameters(), 5e-3, weight_decay=world.decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, world.epochs)
        losses = []
        for _ in range(world.epochs):
            for rows in torch.randperm(len(x)).split(128):
                loss = (network(x[rows]) - y[rows]).square().mean() / network.unit**2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                losses.append([float((network(a) - b).square().mean()) for a, b in sides])
    network.eval()
    epoch, (train_loss, val_loss) = (
        torch.arange(world.epochs),
        torch.tensor(losses, dtype=torch.float64).T,
    )
    return network, LearningCurves(epoch, train_loss, val_loss)

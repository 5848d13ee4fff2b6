"""Tables with one planted cause each, and a small network that is really trained on them: for tests
of the whole diagnosis."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch import Records, Schema
from gendebug_torch.behavior import Case, Suite
from gendebug_torch.curves import LearningCurves
from gendebug_torch.network import watch

SIZES = {"train": 6000, "validation": 2000, "production": 2000}
SCHEMA = Schema(
    target="label",
    time="time",
    group="customer",
    source="labeler",
    metadata=("segment",),
    categorical=("channel",),
)
DAY = 86_400.0
# Trainings by what they depend on.
TRAINED: dict[tuple[Any, ...], tuple[nn.Module, list[list[float]]]] = {}


@dataclass
class World:
    """Three tables in the order of time, a label rule, and how the network is trained; a plant
    changes some of it."""

    seed: int
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    width: int = 32
    epochs: int = 16
    rate: float = 3e-3
    decay: float = 1e-2
    schema: Schema = SCHEMA
    sharpen: float = 1.0
    rows_to_fit: int | None = None
    columns: tuple[str, ...] | None = None
    serve: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    wrap: Callable[[nn.Module], nn.Module] | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        start, customer = 0.0, 0
        for name, n in SIZES.items():
            days, customers = 30.0 * n / 1000, n // 5
            self.tables[name] = self.draw(n, start, days, customer, customers)
            start, customer = start + days * DAY, customer + customers

    def draw(
        self, n: int, start: float, days: float, customer: int, customers: int
    ) -> pd.DataFrame:
        """Rows of the stationary world, in the order of time."""
        rng = self.rng
        table = pd.DataFrame(
            rng.normal(size=(n, 4)), columns=["score_a", "score_b", "score_c", "score_d"]
        )
        table["amount"] = rng.lognormal(3.0, 0.8, n)
        table["age"] = rng.normal(40, 12, n).round(1)
        table["channel"] = rng.choice(3, n, p=[0.5, 0.3, 0.2]).astype(float)
        table["time"] = np.sort(rng.uniform(start, start + days * DAY, n))
        table["customer"] = rng.integers(customer, customer + customers, n)
        table["labeler"] = rng.choice([f"labeler_{i}" for i in range(8)], n)
        table["segment"] = rng.choice(
            ["north", "south", "east", "west", "islands"], n, p=[0.3, 0.25, 0.2, 0.15, 0.1]
        )
        table["label"] = self.labels(logit(table))
        return table

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Labels drawn with these log-odds."""
        return (self.rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(int)

    def given(self) -> dict[str, Any]:
        """What `diagnose` is given: the trained network, its curves and three Records."""
        features = self.columns or tuple(
            c for c in self.tables["train"] if c not in self.schema.outside_features
        )
        self.tables["train"] = self.tables["train"][: self.rows_to_fit]
        sides = {
            name: Records.from_frame(table, self.schema, name=name, optional=("source",))
            for name, table in self.tables.items()
        }
        network, curves = fit(sides["train"], sides["validation"], features, self)
        if self.serve is not None:
            sides["production"] = replace(
                sides["production"], features=self.serve(sides["production"].features)
            )
        return {"model": network, "curves": curves, **sides}


def logit(table: pd.DataFrame) -> np.ndarray:
    """The rule of the world: curved, with an interaction, so that a straight line underfits."""
    amount = (np.log(table["amount"].to_numpy()) - 3.0) / 0.8
    a, b, c = (table[f"score_{letter}"].to_numpy() for letter in "abc")
    return (
        1.8 * a
        - 1.3 * b
        + 1.2 * a * c
        + 0.7 * amount
        + 0.6 * (table["channel"].to_numpy() == 1)
        - 0.4
    )


class Network(nn.Module):
    """Standardised features to one logit."""

    def __init__(self, x: torch.Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("scale", x.std(0).clamp(min=1e-6))
        self.body = nn.Sequential(
            nn.Linear(x.shape[1], width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )
        self.sharpen = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sharpen * self.body((x - self.mean) / self.scale)[:, 0]


def fit(
    train: Records, judge: Records, features: tuple[str, ...], world: World
) -> tuple[nn.Module, LearningCurves]:
    """Minibatch Adam; both losses after each epoch in evaluation mode. Worlds that differ only in
    production share one training."""
    x, y = tensor(train, features), train.targets.float()
    judged, truth = tensor(judge, features), judge.targets.float()
    settings = (world.seed, world.width, world.epochs, world.rate, world.decay)
    key = (*settings, *(part.numpy().tobytes() for part in (x, y, judged, truth)))
    if key not in TRAINED:
        TRAINED[key] = trained(x, y, judged, truth, world)
    network, losses = copy.deepcopy(TRAINED[key])
    network.sharpen = world.sharpen
    epoch = torch.arange(world.epochs)
    train_loss, val_loss = torch.tensor(losses, dtype=torch.float64).T
    return (world.wrap(network) if world.wrap else network), LearningCurves(
        epoch, train_loss, val_loss
    )


def trained(
    x: torch.Tensor, y: torch.Tensor, judged: torch.Tensor, truth: torch.Tensor, world: World
) -> tuple[nn.Module, list[list[float]]]:
    """The network after its last epoch, and its losses after each."""
    torch.manual_seed(world.seed)
    network = Network(x, world.width)
    scaled = (x - network.mean) / network.scale
    weights, rate = list(network.parameters()), world.rate
    optimizer = torch.optim.AdamW(weights, rate, weight_decay=world.decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, world.epochs)
    losses = []
    for _ in range(world.epochs):
        order = torch.randperm(len(x))
        for rows, labels in zip(scaled[order].split(128), y[order].split(128), strict=True):
            loss = binary_cross_entropy_with_logits(network.body(rows)[:, 0], labels)
            gradients = torch.autograd.grad(loss, weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            losses.append(
                [
                    float(binary_cross_entropy_with_logits(network(a), b))
                    for a, b in ((x, y), (judged, truth))
                ]
            )
    return network.eval(), losses


def tensor(records: Records, features: tuple[str, ...]) -> torch.Tensor:
    """The model's inputs."""
    return torch.tensor(records.features[list(features)].to_numpy(dtype="float32"))


def clean(seed: int) -> dict[str, Any]:
    """Nothing is wrong."""
    return World(seed).given()


def overfitting(seed: int) -> dict[str, Any]:
    """A wide network that learns 400 rows by heart."""
    return World(seed, width=256, epochs=60, decay=0.0, rows_to_fit=400).given()


def underfitting(seed: int) -> dict[str, Any]:
    """One hidden unit and a rate at which nothing moves."""
    return World(seed, width=1, epochs=20, rate=2e-5).given()


def miscalibration(seed: int) -> dict[str, Any]:
    """A network whose last layer was made three times as large."""
    return World(seed, sharpen=3.0).given()


def threshold(seed: int) -> dict[str, Any]:
    """Scores that serving adds a constant to, known from tables alone: the ranking holds, the
    operating point does not."""
    given = World(seed).given()
    network = given.pop("model")
    for name in SIZES:
        given[name] = replace(
            given[name],
            logits=answer(network, given[name]) + (1.5 if name == "production" else 0.0),
        )
    return given


def covariate_shift(seed: int) -> dict[str, Any]:
    """One feature moves; what it means does not."""
    world = World(seed)
    table = world.tables["production"]
    table["score_b"] += 1.2
    table["label"] = world.labels(logit(table))
    return world.given()


def label_shift(seed: int) -> dict[str, Any]:
    """Positives become rare; what each class looks like stays."""
    world = World(seed)
    table = world.tables["production"]
    keep = (table["label"] == 0) | (world.rng.random(len(table)) < 0.2)
    world.tables["production"] = table[keep].reset_index(drop=True)
    return world.given()


def concept_drift(seed: int) -> dict[str, Any]:
    """The inputs stay, the rule turns."""
    world = World(seed)
    table = world.tables["production"]
    table["label"] = world.labels(logit(table) - 2.6 * table["score_a"].to_numpy())
    return world.given()


def target_leakage(seed: int) -> dict[str, Any]:
    """A column that exists because the answer is known; in production it is not filled yet."""
    world = World(seed)
    for name, table in world.tables.items():
        known = (
            table["label"].to_numpy()
            * (1.0 + world.rng.random(len(table)))
            * (world.rng.random(len(table)) < 0.98)
        )
        table["refund"] = known if name != "production" else 0.0
    return world.given()


def split_leakage(seed: int) -> dict[str, Any]:
    """A third of the validation rows are training rows, which a wide network learns by heart."""
    fitted = 2000
    world = World(seed, width=256, epochs=30, decay=0.0, rows_to_fit=fitted)
    train, judged = world.tables["train"][:fitted], world.tables["validation"]
    copied = train.sample(700, random_state=seed)
    world.tables["validation"] = pd.concat([judged.iloc[700:], copied], ignore_index=True)
    return world.given()


def preprocessing_leakage(seed: int) -> dict[str, Any]:
    """Columns standardised over training and validation together, and stored so."""
    world = World(seed)
    pooled = pd.concat([world.tables["train"], world.tables["validation"]])
    for column in ("score_a", "score_b", "score_c", "score_d", "amount", "age"):
        mean, scale = pooled[column].mean(), pooled[column].std(ddof=0)
        for table in world.tables.values():
            table[column] = (table[column] - mean) / scale
    return world.given()


def train_serve_skew(seed: int) -> dict[str, Any]:
    """Serving sends the amount in cents."""
    return World(seed, serve=lambda frame: frame.assign(amount=frame["amount"] * 100)).given()


def label_noise(seed: int) -> dict[str, Any]:
    """One labeler tosses a coin for the training labels, the others are wrong in one of twenty."""
    world = World(seed)
    table = world.tables["train"]
    rate = np.where(table["labeler"] == "labeler_3", 0.5, 0.05)
    wrong = world.rng.random(len(table)) < rate
    table.loc[wrong, "label"] = 1 - table.loc[wrong, "label"]
    return world.given()


def shortcut_feature(seed: int) -> dict[str, Any]:
    """A watermark that goes with the label where the data was collected and nowhere else."""
    world = World(seed)
    for name, table in world.tables.items():
        follows = world.rng.random(len(table)) < (0.85 if name != "production" else 0.0)
        seen = np.where(follows, table["label"], world.rng.integers(0, 2, len(table)))
        table["watermark"] = seen + 0.3 * world.rng.normal(size=len(table))
    world.schema = replace(SCHEMA, noise=("watermark",))
    return world.given()


def subgroup_failure(seed: int) -> dict[str, Any]:
    """On the islands, of which the network knows nothing, the rule is another one."""
    world = World(seed)
    for table in world.tables.values():
        there = (table["segment"] == "islands").to_numpy()
        table.loc[there, "label"] = world.labels(-logit(table[there]))
    return world.given()


class Swapped(nn.Module):
    """A network that is served two of its inputs in each other's place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x[:, [1, 0, *range(2, x.shape[1])]])


def behavior_regression(seed: int) -> dict[str, Any]:
    """Two inputs of the network are swapped, and a suite of twenty cases knows what they mean."""
    world = World(seed, wrap=Swapped)
    names = tuple(name for name in world.tables["train"] if name not in SCHEMA.outside_features)
    usual = dict.fromkeys(names, 0.0) | {"amount": 20.0, "age": 40.0}
    cases = []
    for i in range(10):
        row = usual | {"amount": 10.0 + 3.0 * i, "age": 30.0 + i}
        cases.append(Case(f"more-a-{i}", row, "higher", {"score_a": 1.0}, capability="direction"))
        cases.append(
            Case(f"much-b-{i}", row | {"score_b": 1.5}, {"score": [0.0, 0.4]}, capability="minimum")
        )
    return world.given() | {"behavior": Suite(tuple(cases), features=names)}


class Jagged(nn.Module):
    """A network behind an input that is rounded to a fine sawtooth: no integral along a path
    converges in few steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + 0.25 * torch.sin(1500.0 * x[:, :4]).sum(1)


def unreliable_explanation(seed: int) -> dict[str, Any]:
    """Gradients that say nothing about the output at a distance."""
    return World(seed, wrap=Jagged).given()


def training_fault(seed: int) -> dict[str, Any]:
    """A training whose optimizer lacks the layer in the middle, watched."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam([*model[0].parameters(), *model[4].parameters()], 0.01)
    with watch(model, optimizer) as record:
        for _ in range(40):
            x = torch.randn(32, 4)
            loss = cross_entropy(model(x), (x[:, 0] > 0).long())
            record.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return World(seed).given() | {"network": record.evidence()}


def answer(network: nn.Module, records: Records) -> torch.Tensor:
    """What the network says of these rows."""
    with torch.no_grad():
        return network(tensor(records, tuple(records.features.columns)))

"""Draws of labels on the features of real tables: all right, or with planted errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gendebug_torch import Records, Schema
from gendebug_torch.stats.probe_network import design

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CLASSES = {
    "adult": ("adult/train.parquet", "income", ()),
    "credit default": (
        "credit_default_taiwan/UCI_Credit_Card.parquet",
        "default.payment.next.month",
        ("ID",),
    ),
    "german credit": ("german_credit/german.parquet", "class", ()),
    "credit card fraud": ("creditcard_ulb_casecontrol/creditcard.parquet", "Class", ("Time",)),
    "electricity": ("elec2/electricity.parquet", "class", ("date",)),
    "occupancy": ("occupancy/datatest2.parquet", "Occupancy", ("date",)),
    "titanic": (
        "leak_titanic3/titanic3.parquet",
        "survived",
        ("name", "ticket", "cabin", "boat", "body", "home.dest"),
    ),
    "credit cards": (
        "leak_aer_creditcard/CreditCard.parquet",
        "card",
        ("rownames", "share", "expenditure"),
    ),
    "flights": ("us_flights_2015_sample/flights.parquet", "ARR_DELAY", ("DEP_DELAY",)),
    "bike sharing": (
        "bike_sharing_hour/hour.parquet",
        "cnt",
        ("instant", "dteday", "casual", "registered"),
    ),
    "houses": ("kc_house/kc_house_data.parquet", "price", ("id", "date")),
}
QUANTITIES = {
    "houses": CLASSES["houses"],
    "bike sharing": CLASSES["bike sharing"],
    "flights": CLASSES["flights"],
    "electricity price": ("elec2/electricity.parquet", "nswprice", ("date", "class")),
    "fraud amounts": ("creditcard_ulb_casecontrol/creditcard.parquet", "Amount", ("Time", "Class")),
    "credit limit": ("credit_default_taiwan/UCI_Credit_Card.parquet", "LIMIT_BAL", ("ID",)),
    "credit amount": ("german_credit/german.parquet", "credit_amount", ("class",)),
    "fares": ("leak_titanic3/titanic3.parquet", "fare", CLASSES["titanic"][2]),
}
SIZES, SCALES = (300, 600, 1000, 2000), (1.0, 2.0, 4.0, 8.0, 16.0)
TAILS = ("normal", "student 3", "lognormal", "unequal")
ERRORS = ("none", "flips 5 %", "flips 10 %", "flips 20 %", "pair 20 %", "one labeler")
SLIPS = ("none", "swapped 5 %", "swapped 10 %", "unit x 1000, 3 %", "unit x 2.54, 10 %")


@dataclass(frozen=True)
class Draw:
    """Records of both splits, and which labels are wrong in each."""

    train: Records
    validation: Records
    wrong: tuple[Tensor, Tensor]


@cache
def _table(path: str, target: str, dropped: tuple[str, ...]) -> tuple[pd.DataFrame, Tensor, Any]:
    """Features, their columns of numbers `[n, p]`, and the target of up to 8,000 rows."""
    frame = pd.read_parquet(DATA / path).dropna(subset=[target])
    frame = frame.sample(min(len(frame), 8000), random_state=0).reset_index(drop=True)
    features = frame.drop(columns=[target, *dropped])
    values = design(features).values.float()
    return features, values, frame[target].to_numpy()


def network(
    x: Tensor, y: Tensor, outputs: int, seed: int, *, steps: int = 300
) -> tuple[nn.Module, Tensor]:
    """A small network trained with early stopping on a fifth of the rows, and its outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, outputs))
        optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-2)
        order = torch.randperm(len(x))
        held, rest = order[: len(x) // 5], order[len(x) // 5 :]
        best, kept = float("inf"), net.state_dict()

        def loss(rows: Tensor) -> Tensor:
            answer = net(x[rows])
            if y.is_floating_point():
                return nn.functional.smooth_l1_loss(answer[:, 0], y[rows])
            return nn.functional.cross_entropy(answer, y[rows])

        for step in range(steps):
            optimizer.zero_grad()
            loss(rest[torch.randint(len(rest), (128,))]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 20 == 19:
                with torch.no_grad():
                    value = float(loss(held))
                if value < best:
                    best, kept = value, {k: v.clone() for k, v in net.state_dict().items()}
        net.load_state_dict(kept)
        with torch.no_grad():
            return net, net(x)


@cache
def _teacher(name: str) -> tuple[pd.DataFrame, Tensor, Tensor]:
    """Features, columns, and logits of a network that was fitted to the table's own labels."""
    features, x, target = _table(*CLASSES[name])
    if name in ("houses", "bike sharing"):
        target = pd.qcut(target, 4, labels=False)
    elif name == "flights":
        target = (target > 0).astype(int)
    codes = pd.factorize(target, sort=True)[0]
    y = torch.from_numpy(codes.astype(np.int64))
    return features, x, network(x, y, int(y.max()) + 1, 0)[1]


def class_draw(name: str, seed: int, errors: str) -> Draw:
    """Two splits of a table with labels drawn from a network, then with planted errors.

    Args:
        name: table, a key of `CLASSES`.
        seed: seed of rows, labels, model and errors.
        errors: kind of errors, one of `ERRORS`.
    """
    features, x, logits = _teacher(name)
    generator = torch.Generator().manual_seed(seed)
    n = min(SIZES[seed % 4], len(x) // 2)
    scale = SCALES[seed // 4 % 5]
    rows = torch.randperm(len(x), generator=generator)[: 2 * n]
    true = torch.multinomial((scale * logits[rows]).softmax(1), 1, generator=generator)[:, 0]
    k = logits.shape[1]
    labeler = torch.randint(0, 5, (2 * n,), generator=generator)
    rate = _rates(errors, true, labeler)
    step = torch.randint(1, k, (2 * n,), generator=generator)
    if errors.startswith("pair"):
        step = torch.ones_like(step)
    flipped = torch.rand(2 * n, generator=generator) < rate
    given = torch.where(flipped, (true + step) % k, true)
    net, _ = network(x[rows[:n]], given[:n], k, seed)
    with torch.no_grad():
        answers = net(x[rows])
    answers = answers[:, 1] - answers[:, 0] if k == 2 else answers
    who = [f"L{i}" for i in labeler.tolist()]
    splits = []
    for split, part in (("train", slice(0, n)), ("validation", slice(n, 2 * n))):
        table = features.iloc[rows[part].numpy()].reset_index(drop=True)
        metadata = pd.DataFrame({"who": who[part]})
        splits.append(
            Records(table, given[part], answers[part], metadata, Schema(source="who"), split)
        )
    return Draw(splits[0], splits[1], (flipped[:n], flipped[n:]))


def _rates(errors: str, true: Tensor, labeler: Tensor) -> Tensor:
    """`[n]` chance of a wrong label."""
    if errors == "none":
        return torch.zeros(len(true))
    if errors == "one labeler":
        return 0.4 * (labeler == 2)
    rate = float(errors.split()[1]) / 100
    if errors.startswith("pair"):
        return rate * (true == true.bincount().argmax())
    return torch.full((len(true),), rate)


@cache
def _quantity(name: str) -> tuple[pd.DataFrame, Tensor, Tensor, Tensor]:
    """Features, columns, a network's prediction of the standardized target, and the target."""
    features, x, target = _table(*QUANTITIES[name])
    values = torch.tensor(target.astype(float), dtype=torch.float32)
    score = (values - values.mean()) / values.std()
    return features, x, network(x, score.clamp(-3, 3), 1, 0)[1][:, 0], values


_NOISES: dict[str, Callable[[Any, Any], Any]] = {
    "normal": lambda rng, mean: rng.normal(size=len(mean)),
    "student 3": lambda rng, mean: rng.standard_t(3, size=len(mean)),
    "lognormal": lambda rng, mean: rng.lognormal(0, 1, size=len(mean)) - np.exp(0.5),
    "unequal": lambda rng, mean: rng.normal(size=len(mean)) * np.exp(0.8 * mean / mean.std()),
}


def quantity_draw(name: str, seed: int, errors: str) -> Draw:
    """Two splits of a table with a target of known errors around a network's prediction.

    Args:
        name: table, a key of `QUANTITIES`.
        seed: seed of rows, noise, model and errors; it chooses the tails of the noise too.
        errors: kind of errors, one of `SLIPS`.
    """
    features, x, mean, _ = _quantity(name)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    n = min(SIZES[seed % 4], len(x) // 2)
    rows = torch.randperm(len(x), generator=generator)[: 2 * n]
    signal = mean[rows].double()
    spread = (0.2, 0.5, 1.0)[seed // 16 % 3] * float(signal.std())
    noise = torch.from_numpy(_NOISES[TAILS[seed // 4 % 4]](rng, signal.numpy()))
    true = 20.0 * (signal + spread * noise) + 200.0
    given, wrong = true.clone(), torch.zeros(2 * n, dtype=torch.bool)
    if errors != "none":
        share = float(errors.replace(" %", "").split()[-1]) / 100
        wrong = torch.rand(2 * n, generator=generator) < share
        index = wrong.nonzero()[:, 0]
        if errors.startswith("swapped"):
            given[index] = true[index[torch.randperm(len(index), generator=generator)]]
        else:
            given[index] = true[index] * float(errors.split()[2].strip(","))
    center, unit = given[:n].median(), given[:n].std().clamp(max=100.0)
    score = ((given[:n] - center) / unit).clamp(-4, 4).float()
    net, _ = network(x[rows[:n]], score, 1, seed)
    with torch.no_grad():
        answers = (net(x[rows])[:, 0] * unit + center).float()
    splits = []
    for split, part in (("train", slice(0, n)), ("validation", slice(n, 2 * n))):
        table = features.iloc[rows[part].numpy()].reset_index(drop=True)
        splits.append(
            Records(table, given[part], answers[part], None, Schema(regression=True), split)
        )
    return Draw(splits[0], splits[1], (wrong[:n], wrong[n:]))

"""False alarms on real tables: whole diagnoses where nothing is wrong, and every warning counts.

A draw takes a real table with all its columns, draws labels from a network that was fitted to the
real target (so that every label is right), splits the rows at random into training, validation and
production, fits a network to the drawn labels of training, and diagnoses it. Columns that are known
to leak are left out. Nothing moved and nothing leaked: any finding of severity warn or fail is a
false alarm.

    python scripts/bench_false_alarms.py --draws 200 --out alarms.jsonl  # goes on where it stopped
    python scripts/bench_false_alarms.py --draws 0 --out alarms.jsonl    # prints the tables again
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import gendebug_torch as gd
from gendebug_torch.stats.intervals import wilson_interval

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Rows of a table that are read, and those that the labels' network is fitted on.
MAX_ROWS = 8_000
WORDS = 256
# A network is adequate if its loss is this close to that of the network that gave the labels, in
# nats, or in variances of the residual; otherwise that network itself is diagnosed.
ADEQUATE = 0.03


@dataclass(frozen=True)
class World:
    """A real table and the question asked of it.

    Args:
        path: file below `shared/data`.
        target: column that the labels' network is fitted to.
        task: `binary`, `multiclass` or `regression`.
        without: columns that are known to leak the target, or are other targets.
        rows: which rows of the file are used, as a query; empty for all.
        schema: what a person would declare of the table.
    """

    path: str
    target: str
    task: str
    without: tuple[str, ...] = ()
    rows: str = ""
    schema: tuple[tuple[str, Any], ...] = ()


TAIWAN = "credit_default_taiwan/UCI_Credit_Card.parquet"
DEFAULTED = "default.payment.next.month"
FLIGHTS = "us_flights_2015_sample/flights.parquet"
DELAYS = ("ARR_DELAY", "DEP_DELAY", "AIR_TIME", "DIVERTED", "CANCELLED")
WORLDS = {
    "adult": World("adult/train.parquet", "income", "binary"),
    "adult_occupation": World(
        "adult/train.parquet", "occupation", "multiclass", rows="occupation != '?'"
    ),
    "bike": World("bike_sharing_hour/hour.parquet", "cnt", "regression", ("casual", "registered")),
    "bike_weather": World(
        "bike_sharing_hour/hour.parquet", "weathersit", "multiclass", rows="weathersit < 4"
    ),
    "taiwan": World(TAIWAN, DEFAULTED, "binary"),
    "taiwan_education": World(TAIWAN, "EDUCATION", "multiclass", rows="0 < EDUCATION < 4"),
    "ulb": World("creditcard_ulb_casecontrol/creditcard.parquet", "Class", "binary"),
    "elec2": World("elec2/electricity.parquet", "class", "binary"),
    "fraud": World(
        "fraud_handbook_simulated/transactions.parquet",
        "TX_FRAUD",
        "binary",
        ("TX_FRAUD_SCENARIO",),
    ),
    "german": World("german_credit/german.parquet", "class", "binary"),
    "houses": World("kc_house/kc_house_data.parquet", "price", "regression"),
    "houses_condition": World(
        "kc_house/kc_house_data.parquet", "condition", "multiclass", rows="condition > 2"
    ),
    "cards": World(
        "leak_aer_creditcard/CreditCard.parquet", "card", "binary", ("share", "expenditure")
    ),
    "titanic": World("leak_titanic3/titanic3.parquet", "survived", "binary", ("boat", "body")),
    "titanic_class": World(
        "leak_titanic3/titanic3.parquet", "pclass", "multiclass", ("boat", "body")
    ),
    "occupancy": World("occupancy/datatraining.parquet", "Occupancy", "binary"),
    "flights": World(FLIGHTS, "ARR_DELAY", "regression", DELAYS[1:], rows="ARR_DELAY == ARR_DELAY"),
    "flights_airline": World(FLIGHTS, "AIRLINE", "multiclass"),
    "messages": World("sms_spam/sms.parquet", "label", "binary"),
    "emotion": World(
        "tweeteval_open/emotion.parquet", "label", "multiclass", ("split", "roberta_rt_prediction")
    ),
}


def read(world: World) -> tuple[pd.DataFrame, Tensor]:
    """The columns and the target of at most 8,000 random rows."""
    frame = pd.read_parquet(DATA / world.path)
    if world.rows:
        frame = frame.query(world.rows, engine="python")
    frame = frame.sample(min(len(frame), MAX_ROWS), random_state=0).reset_index(drop=True)
    target = frame[world.target]
    if world.task == "regression":
        labels = torch.from_numpy(target.to_numpy(np.float64, copy=True))
    else:
        labels = torch.from_numpy(pd.factorize(target, sort=True)[0].astype(np.int64))
    return frame.drop(columns=[world.target, *world.without]), labels


def encoded(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers that a network reads: quantities, parts of dates, levels, and hashed words."""
    columns: dict[str, Any] = {}
    for name in map(str, frame):
        values = frame[name]
        if values.dtype.kind in "iuf":
            columns[name] = values.astype(np.float64).fillna(values.median())
            if values.isna().any():
                columns[f"{name}_missing"] = values.isna()
            continue
        moments = _moments(values)
        if moments is not None:
            days = (moments - moments.min()) / pd.Timedelta(days=1)
            columns |= {name: days, f"{name}_weekday": moments.dt.day_of_week}
        elif values.nunique() <= 60:
            for level in values.value_counts().index[:20]:
                columns[f"{name}_{level}"] = values == level
        else:
            counts = _hashed_words(values.astype("string").fillna(""))
            columns |= {f"{name}_{i}": counts[:, i] for i in range(WORDS)}
    return pd.DataFrame(columns).astype(np.float32)


def _moments(values: pd.Series) -> pd.Series | None:
    if values.dtype.kind == "M":
        return values
    text = values.astype("string")
    if not text.str.fullmatch(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}.*").fillna(False).all():
        return None
    return pd.to_datetime(text.astype(object))


def _hashed_words(texts: pd.Series) -> np.ndarray:
    counts = np.zeros((len(texts), WORDS), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            counts[row, hash_of(word) % WORDS] += 1
    return np.log1p(counts)


def hash_of(word: str) -> int:
    """A hash that is the same in every process."""
    value = 2166136261
    for byte in word.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value


class Network(nn.Module):
    """A linear part and one hidden layer on standardised inputs.

    Args:
        inputs: encoded rows `[n, d]` that give the scale.
        outputs: number of outputs; of one the last axis is dropped.
    """

    def __init__(self, inputs: Tensor, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", inputs.mean(0))
        self.register_buffer("scale", inputs.std(0).clamp(min=1e-3))
        self.linear = nn.Linear(inputs.shape[1], outputs)
        self.hidden = nn.Sequential(
            nn.Linear(inputs.shape[1], 32), nn.ReLU(), nn.Linear(32, outputs)
        )
        nn.init.zeros_(self.linear.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `[n]` or `[n, k]`, or predictions `[n]`."""
        x = ((inputs - self.mean) / self.scale).clamp(-5.0, 5.0)
        return (self.linear(x) + self.hidden(x)).squeeze(-1)


def loss_of(task: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one task."""
    if task == "regression":
        return lambda outputs, y: nn.functional.smooth_l1_loss(outputs, y.float())
    if task == "binary":
        return lambda outputs, y: nn.functional.binary_cross_entropy_with_logits(outputs, y.float())
    return nn.functional.cross_entropy


def fitted(inputs: Tensor, labels: Tensor, task: str, outputs: int, seed: int) -> Network:
    """A network whose weights are those of the best epoch on a held-out sixth of the rows."""
    torch.manual_seed(seed)
    held = torch.randperm(len(inputs)) < len(inputs) // 6
    x, y, loss = inputs[~held], labels[~held], loss_of(task)
    network = Network(x, outputs)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.05)
    best, state, patience = float("inf"), network.state_dict(), 0
    while patience < 4:
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            loss(network(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            value = float(loss(network(inputs[held]), labels[held]))
        patience += 1
        if value < best - 1e-5:
            best, patience = value, 0
            state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()


class Labels:
    """Rows of one table, and a network that gives them right labels.

    Args:
        world: table and question.
        plain: whether the columns of the table are the numbers that a network is fed.
    """

    def __init__(self, world: World, plain: bool) -> None:
        self.world = world
        frame, target = read(world)
        inputs = encoded(frame)
        if plain:
            narrow = [c for c in inputs if not str(c).rpartition("_")[2].isdigit() or c in frame]
            inputs = inputs[(narrow or list(inputs))[:60]]
        self.frame = inputs if plain else frame
        self.inputs = torch.from_numpy(inputs.to_numpy(copy=True))
        self.classes = 0 if world.task == "regression" else int(target.max()) + 1
        self.outputs = self.classes if self.classes > 2 else 1
        self.center = self.width = 0.0
        if world.task == "regression":
            self.center, self.width = float(target.median()), float(target.std())
            target = (target - self.center) / self.width
        self.network = fitted(self.inputs, target, world.task, self.outputs, 0)
        with torch.no_grad():
            self.answers = self.network(self.inputs).double()
        if world.task == "regression":
            self.residual = float((target - self.answers).std())

    def draw(self, rng: np.random.Generator) -> Tensor:
        """Labels of all rows: classes by their probabilities, or Student's t around the mean."""
        if self.world.task == "regression":
            noise = rng.standard_t(3, len(self.answers)) / 3**0.5
            return self.answers + self.residual * torch.from_numpy(noise)
        logits = self.answers
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], 1)
        gumbel = torch.from_numpy(rng.gumbel(size=tuple(logits.shape)))
        return (logits + gumbel).argmax(1)

    def excess(self, network: Network) -> float:
        """How much worse a network is than that of the labels: nats, or variances of residuals."""
        with torch.no_grad():
            other = network(self.inputs).double()
        if self.world.task == "regression":
            return float((other - self.answers).square().mean()) / self.residual**2
        if other.ndim == 1:
            mine, other = (torch.stack([torch.zeros_like(v), v], 1) for v in (self.answers, other))
        else:
            mine = self.answers
        log_p, log_q = mine.log_softmax(1), other.log_softmax(1)
        return float((log_p.exp() * (log_p - log_q)).sum(1).mean())


def inputs_of(labels: Labels, seed: int, plain: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training, validation and production of one draw with the outputs of its network."""
    world = labels.world
    # A stream for each table: with one for all, a chance of the draw would alarm in many at once.
    rng = np.random.default_rng([seed, zlib.crc32(f"{world.path} {world.target}".encode())])
    n = len(labels.frame)
    y = labels.draw(rng)
    size = min(int(rng.choice([500, 750, 1000])), n // 3)
    order = torch.from_numpy(rng.permutation(n))
    parts = {"validation": order[:size], "production": order[size : 2 * size]}
    pool = order[2 * size :]
    parts["train"] = pool[: 2 * size]
    network = fitted(labels.inputs[pool], y[pool], world.task, labels.outputs, seed)
    own = labels.excess(network) <= ADEQUATE
    network = network if own else labels.network
    real = {"regression": True} if world.task == "regression" else {}
    schema = gd.Schema(**dict(world.schema), **real)
    given: dict[str, Any] = {}
    for name, rows in parts.items():
        with torch.no_grad():
            outputs = network(labels.inputs[rows])
        targets = y[rows]
        if real and not plain:
            outputs, targets = (labels.center + labels.width * v for v in (outputs, targets))
        features = labels.frame.iloc[rows.numpy()].reset_index(drop=True)
        given[name] = gd.Records(features, targets, outputs, schema=schema, name=name)
    if plain:
        given["model"] = network
    return given, {"rows": size, "own_network": own}


def run(name: str, labels: Labels, seed: int, plain: bool) -> dict[str, Any]:
    """One diagnosis, and what it warned of."""
    given, facts = inputs_of(labels, seed, plain)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnosis = gd.diagnose(**given)
    loud = [f for f in diagnosis.findings if f.severity.level >= gd.Severity.WARN.level]
    judged = {f.check for f in diagnosis.findings if f.severity.value != "skipped"}
    return {
        "world": name,
        "seed": seed,
        "plain": plain,
        "task": labels.world.task,
        **facts,
        "seconds": round(time.perf_counter() - started, 1),
        "decision": diagnosis.decision,
        "judged": sorted(judged),
        "alarms": [
            {
                "check": f.check,
                "severity": f.severity.value,
                "subject": f.subject,
                "summary": f.summary,
            }
            for f in loud
        ],
    }


def draws(names: list[str], count: int, seed: int) -> Iterator[tuple[str, int, bool]]:
    """World, seed and kind of input of each draw, all worlds in turn."""
    for i in range(count):
        name = names[i % len(names)]
        turn = seed + i // len(names)
        yield name, turn, turn % 3 == 2


def report(found: list[dict[str, Any]]) -> None:
    """Markdown tables: alarms per check and world, and the share of runs with any."""
    if not found:
        return
    names = sorted({run["world"] for run in found})
    runs = {name: [run for run in found if run["world"] == name] for name in names}
    judged = sorted({check for run in found for check in run["judged"]})
    print("| check | " + " | ".join(names) + " | all |")
    print("| --- |" + " --- |" * (len(names) + 1))
    rows = [(check, [_share(runs[name], check) for name in names]) for check in judged]
    for check, shares in rows:
        whole = _share(found, check)
        if whole:
            print(f"| {check} | " + " | ".join(map(_percent, shares)) + f" | {whole:.1%} |")
    quiet = [check for check, shares in rows if not any(shares)]
    total = " | ".join(_percent(_share(runs[name], "")) for name in names)
    print(f"| any | {total} | {_share(found, ''):.1%} |")
    print("| runs | " + " | ".join(str(len(runs[name])) for name in names) + f" | {len(found)} |")
    loud = torch.tensor(sum(bool(run["alarms"]) for run in found))
    low, high = wilson_interval(loud, torch.tensor(len(found)))
    print(
        f"\n{int(loud)} of {len(found)} runs with any warn or fail: {_share(found, ''):.1%} "
        f"(95% interval {float(low):.1%} to {float(high):.1%}). {len(quiet)} of {len(judged)} "
        f"checks that judged never warned: {', '.join(quiet)}. Own network in "
        f"{sum(run['own_network'] for run in found)} runs; mean "
        f"{sum(run['seconds'] for run in found) / len(found):.1f} s a diagnosis."
    )


def _share(found: list[dict[str, Any]], check: str) -> float:
    loud = [any(not check or a["check"] == check for a in run["alarms"]) for run in found]
    return sum(loud) / max(len(loud), 1)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share else ""


def main() -> None:
    """Run the draws that are not in the file yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tables", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of results, to go on from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    if args.out is not None and args.out.exists():
        found = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {(line["world"], line["seed"], line["plain"]) for line in found}
    ready: dict[tuple[str, bool], Labels] = {}
    for name, seed, plain in draws(args.tables, args.draws, args.seed):
        if (name, seed, plain) in done:
            continue
        if (name, plain) not in ready:
            ready[name, plain] = Labels(WORLDS[name], plain)
        found.append(run(name, ready[name, plain], seed, plain))
        if args.out is not None:
            with args.out.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
        checks = ", ".join(alarm["check"] for alarm in found[-1]["alarms"])
        print(f"{name} {seed} {found[-1]['seconds']} s {checks}", flush=True)
    report(found)


if __name__ == "__main__":
    main()

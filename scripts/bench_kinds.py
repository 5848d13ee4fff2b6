"""Kinds of change on planted data: many column families, rules, models and magnitudes."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gendebug_torch as gd
from gendebug_torch.shift import change_kinds

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS_TO_FIT = 5000
Array = np.ndarray[Any, Any]
Table = pd.DataFrame


@dataclass(frozen=True)
class Rows:
    """Rows of a world: what is seen, the codes that the rule reads, and labels."""

    seen: Table
    codes: Array
    labels: Array

    def take(self, rows: Array) -> Rows:
        """Some of the rows."""
        return Rows(
            self.seen.iloc[rows].reset_index(drop=True), self.codes[rows], self.labels[rows]
        )


FAMILIES: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: 40.0 + 12.0 * z,
    "lognormal": lambda z: np.exp(3.0 + 0.8 * z),
    "gamma": lambda z: 5.0 * np.log1p(np.exp(z)) ** 2 + 1.0,
    "heavy": lambda z: np.sinh(1.3 * z),
    "share": lambda z: 1 / (1 + np.exp(-1.2 * z - 0.5)),
    "count": lambda z: np.floor(np.exp(1.5 + 0.7 * z)),
}


class World:
    """A synthetic population: correlated columns of mixed families, and a rule for 2 to 5 classes.

    Args:
        seed: of everything about it.
    """

    def __init__(self, seed: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.d = int(rng.integers(6, 21))
        kinds = [*FAMILIES, "levels", "coded"]
        self.families = [kinds[i] for i in rng.integers(0, len(kinds), self.d)]
        self.loadings = rng.normal(size=(3, self.d)) * rng.uniform(0.0, 0.8, self.d)
        self.scale = np.sqrt((self.loadings**2).sum(0) + 1)
        self.levels = [np.sort(rng.normal(size=rng.integers(2, 8))) for _ in range(self.d)]
        self.effects = [rng.normal(size=len(cuts) + 1) for cuts in self.levels]
        self.classes = int(rng.choice([2, 2, 2, 3, 5]))
        used = rng.permutation(self.d)[: int(rng.integers(4, 7))]
        self.used = used
        # Log-odds against the first class, so that every column used tells something.
        self.linear = np.zeros((self.d, self.classes))
        self.linear[used, 1:] = rng.choice([-1, 1], (len(used), self.classes - 1)) * rng.uniform(
            0.8, 1.6, (len(used), self.classes - 1)
        )
        self.bends = rng.normal(size=(self.d, 4)) * (self.linear[:, 1:2] != 0)
        self.outs = rng.normal(size=(4, self.classes)) * rng.choice([0.0, 0.8])
        self.bias = np.zeros(self.classes)
        if self.classes == 2 and rng.random() < 0.4:
            self.bias[1] = -3.5
        self.coded = tuple(f"x{i}" for i in range(self.d) if self.families[i] == "coded")

    def rule(self, codes: Array) -> Array:
        """`[n, k]` log-odds of the classes."""
        scores: Array = codes @ self.linear + np.tanh(codes @ self.bends) @ self.outs + self.bias
        return scores

    def draw(
        self,
        n: int,
        *,
        move: Callable[[Array], Array] | None = None,
        rule: Callable[[Array], Array] | None = None,
    ) -> Rows:
        """Rows of it, where a plant moves the hidden normal columns or changes the rule."""
        z = (
            self.rng.normal(size=(n, 3)) @ self.loadings + self.rng.normal(size=(n, self.d))
        ) / self.scale
        z = z if move is None else move(z)
        codes, seen = z.copy(), {}
        for i, family in enumerate(self.families):
            if family in ("levels", "coded"):
                level = np.searchsorted(self.levels[i], z[:, i])
                codes[:, i] = self.effects[i][level]
                shown = (
                    (level * 7) % 11
                    if family == "coded"
                    else np.array([f"{chr(97 + v)}_{v}" for v in range(12)], dtype=object)[level]
                )
                seen[f"x{i}"] = shown
            else:
                seen[f"x{i}"] = FAMILIES[family](z[:, i])
                if family == "count":
                    codes[:, i] = (np.log(seen[f"x{i}"] + 0.5) - 1.5) / 0.7
        scores = (rule or self.rule)(codes)
        labels = (scores + self.rng.gumbel(size=scores.shape)).argmax(1)
        return Rows(pd.DataFrame(seen), codes, labels)


def encoded(train: Table, table: Table) -> Array:
    """Numbers for the models: levels by their place in training, unknown ones as -1."""
    columns = []
    for name in train:
        if train[name].dtype.kind not in "iufb":
            levels = {
                level: place for place, level in enumerate(sorted(train[name].astype(str).unique()))
            }
            columns.append(table[name].astype(str).map(levels).fillna(-1).to_numpy(dtype=float))
        else:
            columns.append(table[name].to_numpy(dtype=float))
    return np.nan_to_num(np.stack(columns, 1), nan=-1.0)


def fitted(rows: Rows, rng: np.random.Generator) -> Callable[[Table], torch.Tensor]:
    """A model of one of four kinds, as a function from tables to logits."""
    kinds: list[Any] = [
        HistGradientBoostingClassifier(max_iter=60),
        RandomForestClassifier(60, min_samples_leaf=10),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(
            StandardScaler(), MLPClassifier((32,), alpha=0.1, max_iter=60, early_stopping=True)
        ),
    ]
    model = kinds[rng.integers(len(kinds))]
    seed = {"random_state": 0}
    (model if not hasattr(model, "steps") else model.steps[-1][1]).set_params(**seed)
    model.fit(encoded(rows.seen, rows.seen), rows.labels)

    def logits(table: Table) -> torch.Tensor:
        probs = model.predict_proba(encoded(rows.seen, table))
        z = torch.from_numpy(np.log(np.clip(probs, 1e-4, 1.0)))
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    return logits


class Tables:
    """A real table as a population: rows drawn without replacement, with their own labels.

    Args:
        frame: features and `label`.
        seed: of the drawing.
    """

    def __init__(self, frame: Table, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.frame = frame.drop(columns="label")
        self.labels = pd.factorize(frame["label"], sort=True)[0]
        self.order = list(self.rng.permutation(len(frame)))
        self.classes = int(self.labels.max()) + 1
        self.coded: tuple[str, ...] = ()
        model = HistGradientBoostingClassifier(max_iter=40, random_state=0)
        some = self.rng.permutation(len(frame))[:4000]
        values = encoded(self.frame, self.frame.iloc[some])
        model.fit(values, self.labels[some])
        lost = []
        for place in range(values.shape[1]):
            mixed = values.copy()
            mixed[:, place] = self.rng.permutation(mixed[:, place])
            lost.append(-model.score(mixed, self.labels[some]))
        self.used = np.argsort(lost)[::-1][:4]

    def draw(self, n: int) -> Rows:
        """Rows that no other draw has."""
        rows, self.order = self.order[:n], self.order[n:]
        seen = self.frame.iloc[rows].reset_index(drop=True)
        codes = encoded(self.frame, seen)
        return Rows(
            seen,
            np.nan_to_num((codes - np.nanmean(codes, 0)) / (np.nanstd(codes, 0) + 1e-9)),
            self.labels[rows],
        )


def covariate_shift(world: World | Tables, n: int) -> tuple[Rows, str]:
    """Rows whose columns moved while labels follow them as before."""
    rng = world.rng
    chosen = rng.permutation(world.used)[: int(rng.integers(1, 3))]
    how = (
        str(rng.choice(["mean", "spread", "population", "region"]))
        if isinstance(world, World)
        else "region"
    )
    if isinstance(world, Tables) or how == "region":
        pool = world.draw(4 * n)
        inside = (pool.codes[:, chosen] > np.median(pool.codes[:, chosen], 0)).all(1)
        weight = np.where(inside, rng.choice([6.0, 12.0]), 1.0)
        return pool.take(rng.choice(len(weight), n, replace=False, p=weight / weight.sum())), how
    size = float(rng.choice([-1.5, -1.0, 1.0, 1.5]))

    def move(z: Array) -> Array:
        z = z.copy()
        if how == "population":
            return (
                z + size * world.loadings[0] / world.scale + 0.3 * size * (world.linear[:, 1] != 0)
            )
        z[:, chosen] = (
            z[:, chosen] + size if how == "mean" else z[:, chosen] * (2.0 if size > 0 else 0.4)
        )
        return z

    return world.draw(n, move=move), how


def label_shift(world: World | Tables, n: int) -> tuple[Rows, str]:
    """Rows of which one class is as much as five times as frequent as before."""
    pool = world.draw((8 if isinstance(world, World) else 4) * n)
    factor, one = (
        float(world.rng.choice([0.2, 0.33, 3.0, 5.0])),
        int(world.rng.integers(world.classes)),
    )
    share = float((pool.labels == one).mean())
    wanted = factor * share / (1 - share + factor * share)
    count = min(round(wanted * n), int((pool.labels == one).sum()))
    rows = np.concatenate(
        [
            np.flatnonzero(pool.labels == one)[:count],
            np.flatnonzero(pool.labels != one)[: n - count],
        ]
    )
    return pool.take(world.rng.permutation(rows)), f"odds x {factor:g}"


def concept_drift(world: World | Tables, n: int) -> tuple[Rows, str]:
    """Rows whose columns are as before, with labels that follow another rule."""
    rng = world.rng
    if isinstance(world, Tables):
        rows = world.draw(n)
        inside = rows.codes[:, world.used[0]] > np.quantile(
            rows.codes[:, world.used[0]], rng.choice([0.4, 0.6])
        )
        return replace(
            rows, labels=np.where(inside, (rows.labels + 1) % world.classes, rows.labels)
        ), "region"
    how = str(rng.choice(["turned", "region", "offset", "faded"]))
    strongest = world.used[np.argsort(-np.abs(world.linear[world.used]).max(1))[:2]]

    def rule(codes: Array) -> Array:
        scores = world.rule(codes)
        if how == "offset":
            scores[:, -1] += 2.0
        elif how == "faded":
            scores *= 0.2
        elif how == "region":
            inside = codes[:, strongest[0]] > 0
            scores[inside] = scores[inside][:, ::-1]
        else:
            turned = codes.copy()
            turned[:, strongest] *= -1
            scores = world.rule(turned)
        return scores

    return world.draw(n, rule=rule), how


def train_serve_skew(world: World | Tables, n: int) -> tuple[Rows, str]:
    """Rows as before, of which serving computes one column (or two) in another way."""
    rows, rng = world.draw(n), world.rng
    names = [rows.seen.columns[i] for i in world.used]
    numbers = [
        name
        for name in names
        if rows.seen[name].dtype.kind in "if"
        and name not in world.coded
        and rows.seen[name].nunique() > 30
    ]
    levels = [name for name in names if name not in numbers]
    seen = rows.seen.copy()
    if not numbers or (levels and rng.random() < 0.25):
        name = levels[0]
        values = list(seen[name].unique())
        if seen[name].dtype.kind not in "iuf" and rng.random() < 0.5:
            return replace(
                rows, seen=seen.assign(**{name: seen[name].astype(str).str.upper() + " "})
            ), "renamed"
        mapped = dict(zip(values, values[1:] + values[:1], strict=True))
        return replace(rows, seen=seen.assign(**{name: seen[name].map(mapped)})), "recoded"
    name = numbers[0]
    x = seen[name].astype(float)
    ways: dict[str, Callable[[], Table]] = {
        "unit": lambda: seen.assign(
            **{name: x * rng.choice([1000.0, 0.01, 60.0, 2.54, 1 / 1.609, 100.0])}
        ),
        "offset": lambda: seen.assign(**{name: x + x.std() * rng.choice([-1.0, 1.5])}),
        "standardised": lambda: seen.assign(**{name: (x - x.mean()) / x.std()}),
        "sign": lambda: seen.assign(**{name: -x}),
        "stuck": lambda: seen.assign(
            **{
                name: x.where(
                    rng.random(n) > rng.choice([0.3, 0.6]), rng.choice([0.0, -1.0, x.median()])
                )
            }
        ),
        "logarithm": lambda: seen.assign(**{name: np.sign(x) * np.log1p(x.abs())}),
        "other rows": lambda: seen.assign(**{name: rng.permutation(x)}),
    }
    if len(numbers) > 1:
        ways["exchanged"] = lambda: seen.assign(**{name: seen[numbers[1]], numbers[1]: seen[name]})
    how = str(rng.choice(list(ways)))
    return replace(rows, seen=ways[how]()), how


def none(world: World | Tables, n: int) -> tuple[Rows, str]:
    """Rows as before."""
    return world.draw(n), ""


PLANTS = {
    "none": none,
    "covariate_shift": covariate_shift,
    "label_shift": label_shift,
    "concept_drift": concept_drift,
    "train_serve_skew": train_serve_skew,
}


def records(
    rows: Rows,
    logits: Callable[[Table], torch.Tensor],
    coded: tuple[str, ...],
    *,
    labeled: bool = True,
) -> gd.Records:
    """What the check is given."""
    targets = torch.from_numpy(rows.labels.astype(np.int64)) if labeled else None
    return gd.Records(rows.seen, targets, logits(rows.seen), schema=gd.Schema(categorical=coded))


def real_table(seed: int) -> Table:
    """One of six real tables with its label."""
    names = ["adult", "taiwan", "bikes", "houses", "electricity", "flights"]
    name = names[seed % len(names)]
    if name == "adult":
        return pd.read_parquet(DATA / "adult" / "train.parquet").rename(columns={"income": "label"})
    if name == "taiwan":
        frame = pd.read_parquet(DATA / "credit_default_taiwan" / "UCI_Credit_Card.parquet").drop(
            columns="ID"
        )
        return frame.rename(columns={"default.payment.next.month": "label"})
    if name == "bikes":
        frame = pd.read_parquet(DATA / "bike_sharing_hour" / "hour.parquet").drop(
            columns=["instant", "dteday", "casual", "registered"]
        )
        return frame.assign(label=pd.qcut(frame["cnt"], 3, labels=False)).drop(columns="cnt")
    if name == "houses":
        frame = pd.read_parquet(DATA / "kc_house" / "kc_house_data.parquet").drop(
            columns=["id", "date"]
        )
        return frame.assign(label=pd.qcut(frame["price"], 3, labels=False)).drop(columns="price")
    if name == "electricity":
        return (
            pd.read_parquet(DATA / "elec2" / "electricity.parquet")
            .drop(columns="date")
            .rename(columns={"class": "label"})
        )
    frame = pd.read_parquet(DATA / "us_flights_2015_sample" / "flights.parquet").dropna(
        subset=["ARR_DELAY"]
    )
    keep = [c for c in frame if frame[c].dtype.kind in "if"]
    return frame[keep].assign(label=(frame["ARR_DELAY"] > 15).astype(int)).drop(columns="ARR_DELAY")


def draws(seeds: range, *, real: bool) -> Table:
    """One row per world and planted kind: the verdict with labels in production, and without."""
    verdict_rows = []
    for seed in seeds:
        world: World | Tables = Tables(real_table(seed), seed) if real else World(seed)
        rng = np.random.default_rng(seed + 10_000)
        room = len(world.order) // 14 if isinstance(world, Tables) else 10_000
        sizes = [min(room, int(rng.choice([2000, 4000]))) for _ in range(2)]
        logits = fitted(world.draw(min(ROWS_TO_FIT, 2 * room)), rng)
        before = records(world.draw(sizes[0]), logits, world.coded)
        for kind, planted in PLANTS.items():
            rows, how = planted(world, sizes[1])
            verdicts = [
                change_kinds(records(rows, logits, world.coded, labeled=labeled), before).verdict
                for labeled in (True, False)
            ]
            verdict_rows.append((seed, kind, how, *verdicts))
    return pd.DataFrame(verdict_rows, columns=["seed", "planted", "how", "labeled", "unlabeled"])


def summary(found: Table, side: str) -> str:
    """Shares of right, wrong and undecided verdicts."""
    right = found[side] == found["planted"]
    open_ = found[side] == "unknown"
    missed = (found[side] == "none") & ~right
    wrong = ~right & ~open_ & ~missed
    parts = [
        f"{name} {part.mean():.1%}"
        for name, part in (
            ("right", right),
            ("wrong", wrong),
            ("cannot be told", open_),
            ("missed", missed),
        )
    ]
    return ", ".join(parts)


def main() -> None:
    """Print the rows of a markdown table, one per planted kind, with labels and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="worlds; each has five plants")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--real", type=int, default=12, help="draws of real tables, where they are present"
    )
    parser.add_argument(
        "--every", action="store_true", help="print every verdict that is not right"
    )
    args = parser.parse_args()
    print("| planted | draws | with labels | without |")
    print("| --- | --- | --- | --- |")
    for real, count in ((False, args.seeds), (True, args.real if DATA.exists() else 0)):
        if not count:
            continue
        found = draws(range(args.first, args.first + count), real=real)
        source = "real tables" if real else "synthetic worlds"
        for kind, part in [("all kinds", found), *found.groupby("planted")]:
            print(
                f"| {kind}, {source} | {len(part)} | {summary(part, 'labeled')} | "
                f"{summary(part, 'unlabeled')} |",
                flush=True,
            )
        if args.every:
            print(found[(found["labeled"] != found["planted"])].to_string())
            print(Counter(zip(found["planted"], found["unlabeled"], strict=True)))


if __name__ == "__main__":
    main()

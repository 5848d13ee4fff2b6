"""The smallest changes of rows: validity, changed features and seconds beside DiCE and others.

Rows of the test sides of adult, german_credit and digits (8 by 8), and one network each. DiCE is no
dependency: `pip install --target peers --no-deps dice-ml raiutils jsonschema ...`, with that folder
on PYTHONPATH. alibi's explainers by gradients need TensorFlow; their search for prototypes is
written out here in torch.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import gendebug_torch as gd
from gendebug_torch import Records, Schema

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True, eq=False)
class Case:
    """A network of a table and rows whose answers are to be changed.

    Args:
        name: name of the data.
        network: fitted network of columns `[b, d]` to logits `[b, k]`.
        train: training rows, categories as codes.
        rows: rows of the question.
        sizes: number of categories by column.
        encode: columns to what the first layer is given, `[b, w]`.
    """

    name: str
    network: nn.Module
    train: Records
    rows: Records
    sizes: dict[str, int]
    encode: Callable[[Tensor], Tensor]

    def answers(self, frame: pd.DataFrame) -> Tensor:
        """`[n]` classes of rows."""
        with torch.no_grad():
            classes: Tensor = self.network(columns(frame)).argmax(1)
        return classes


class Table(nn.Module):
    """A perceptron over one-hot codes and standardized quantities."""

    def __init__(self, encode: Callable[[Tensor], Tensor], width: int, classes: int) -> None:
        super().__init__()
        self.encode = encode
        layers = (nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[b, k]` of columns `[b, d]`."""
        logits: Tensor = self.layers(self.encode(x))
        return logits


def columns(frame: pd.DataFrame) -> Tensor:
    """Columns as float32, `[n, d]`."""
    return torch.tensor(frame.to_numpy(dtype=np.float32))


def encoder(frame: pd.DataFrame, sizes: dict[str, int]) -> Callable[[Tensor], Tensor]:
    """From columns to one-hot codes, and quantities by their mean and deviation."""
    values = columns(frame)
    mean, spread = values.mean(0), values.std(0).clamp(min=1e-6)
    codes = [(at, sizes[name]) for at, name in enumerate(frame) if name in sizes]
    plain = [at for at, name in enumerate(frame) if name not in sizes]

    def encode(x: Tensor) -> Tensor:
        hot = [one_hot(x[:, at].long().clamp(0, size - 1), size).float() for at, size in codes]
        return torch.cat([(x[:, plain] - mean[plain]) / spread[plain], *hot], 1)

    return encode


def fitted(name: str, frame: pd.DataFrame, labels: Tensor, seed: int, rows: int) -> Case:
    """A network after 15 passes over nine tenths of the rows, and rows of the rest."""
    sizes = {}
    for column in frame:
        if frame[column].dtype == object or isinstance(frame[column].dtype, pd.StringDtype):
            frame[column] = frame[column].astype("category").cat.codes.astype("float32")
            sizes[str(column)] = int(frame[column].max()) + 1
    frame = frame.astype("float32").dropna()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(frame), generator=generator)
    cut = len(frame) // 10
    test, train = order[:cut][:rows], order[cut:]
    encode = encoder(frame.iloc[train.numpy()], sizes)
    torch.manual_seed(seed)
    width = encode(columns(frame.iloc[:1])).shape[1]
    network = Table(encode, width, int(labels.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    x, y = columns(frame), labels
    for _ in range(15):
        for batch in train[torch.randperm(len(train), generator=generator)].split(128):
            optimizer.zero_grad()
            cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    schema = Schema(categorical=tuple(sizes))
    sides = (
        Records(frame.iloc[part.numpy()].reset_index(drop=True), y[part], schema=schema)
        for part in (train, test)
    )
    return Case(name, network.eval(), *sides, sizes, encode)


def adult(seed: int, rows: int) -> Case:
    """Whether an income is above 50,000."""
    frame = pd.read_parquet(DATA / "adult" / "train.parquet").dropna().iloc[:10_000]
    labels = frame.pop("income").astype(str).str.contains(">50K").to_numpy()
    return fitted("adult", frame.copy(), torch.tensor(labels).long(), seed, rows)


def german_credit(seed: int, rows: int) -> Case:
    """Whether a credit is bad."""
    frame = pd.read_parquet(DATA / "german_credit" / "german.parquet")
    labels = frame.pop("class").to_numpy() == 2
    return fitted("german_credit", frame.copy(), torch.tensor(labels).long(), seed, rows)


def digits(seed: int, rows: int) -> Case:
    """Which digit 8 by 8 pixels show; every pixel is a column."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    frame = pd.DataFrame(x, columns=[f"p{at}" for at in range(64)])
    return fitted("digits", frame, torch.from_numpy(y).long(), seed, rows)


Result = list[np.ndarray | None]


def by_gendebug(case: Case, max_changes: int, budget: int) -> Result:
    """First alternative of each row."""
    found = gd.attribution.counterfactual(
        case.network, case.rows, train=case.train, max_changes=max_changes, budget=budget
    )
    inputs = iter(found.inputs.numpy())
    return [next(inputs) if there else None for there in found.found.tolist()]


def by_dice(case: Case, method: str) -> Result:
    """One alternative of each row by DiCE's package, made sparse as it does by default."""
    import dice_ml
    from raiutils.exceptions import UserConfigValidationException

    names = list(case.train.features.columns)

    def texts(frame: pd.DataFrame) -> pd.DataFrame:
        codes = {name: frame[name].astype(int).astype(str) for name in case.sizes}
        return frame.astype("float64").assign(**codes)

    class Sklearn:
        """What the package asks a model for."""

        def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
            with torch.no_grad():
                logits = case.network(columns(frame[names].astype("float32")))
            return logits.softmax(1).numpy()

        def predict(self, frame: pd.DataFrame) -> np.ndarray:
            return self.predict_proba(frame).argmax(1)

    train = texts(case.train.features).assign(answer=case.train.targets.numpy())
    plain = [name for name in names if name not in case.sizes]
    data = dice_ml.Data(dataframe=train, continuous_features=plain, outcome_name="answer")
    explainer = dice_ml.Dice(data, dice_ml.Model(model=Sklearn(), backend="sklearn"), method=method)
    own = case.answers(case.rows.features)
    classes = int(case.train.targets.max()) + 1
    rows, result = texts(case.rows.features), []
    for at in range(len(rows)):
        wanted = "opposite" if classes == 2 else (int(own[at]) + 1) % classes
        options = {"random_seed": 0} if method == "random" else {}
        try:
            found = explainer.generate_counterfactuals(
                rows.iloc[[at]], total_CFs=1, desired_class=wanted, verbose=False, **options
            )
            changed = found.cf_examples_list[0].final_cfs_df
        except (UserConfigValidationException, ValueError, KeyError, TimeoutError):
            changed = None
        empty = changed is None or not len(changed)
        result.append(None if empty else changed[names].astype("float32").to_numpy()[0])
    return result


def by_prototypes(case: Case) -> Result:
    """Steps along gradients towards the nearest row of another answer, with a sparse penalty.

    Source: Van Looveren and Klaise (2021), ECML, arXiv:1907.02584, with prototypes by the nearest
    rows and iterative soft thresholding, in the standardized quantities; categories stay. Five
    weights of the answer, 200 steps each; the sparsest that is there counts.
    """
    frame = case.train.features
    spread = torch.tensor(frame.std().clip(lower=1e-6).to_numpy(np.float32))
    free = torch.tensor([name not in case.sizes for name in frame])
    spread = torch.where(free, spread, torch.full_like(spread, torch.inf))
    train, own = columns(frame), case.answers(case.rows.features)
    others, result = case.answers(frame), []
    low, high = train.min(0).values, train.max(0).values
    for row, answer in zip(columns(case.rows.features), own.tolist(), strict=True):
        there = train[others != answer]
        prototype = there[((there - row) / spread).square().sum(1).argmin()]
        best = None
        for weight in (0.5, 2.0, 8.0, 32.0, 128.0):
            moved = torch.zeros_like(row)
            for _ in range(200):
                delta = moved.clone().requires_grad_()
                x = (row + delta).clamp(low, high)
                z = case.network(x[None])[0]
                rest = z.scatter(0, torch.tensor(answer), -torch.inf).max()
                gap = ((x - prototype) / spread).square().sum()
                loss = weight * (z[answer] - rest + 0.1).clamp(min=0) + 0.1 * gap
                slope = torch.autograd.grad(loss, delta)[0].nan_to_num(0.0)
                step = moved / spread - 0.02 * slope * torch.where(free, spread, 0.0)
                soft = step.sign() * (step.abs() - 0.002).clamp(min=0)
                moved = torch.where(free, soft * spread, 0.0)
                moved = moved.nan_to_num(0.0)
            after = (row + moved).clamp(low, high)
            if int(case.network(after[None]).argmax()) != answer:
                fewer = best is None or (after != row).sum() < (best != row).sum()
                best = after if fewer else best
        result.append(None if best is None else best.numpy())
    return result


def measured(case: Case, find: Callable[[Case], Result]) -> dict[str, float]:
    """Share of rows that are answered otherwise, features changed in them, seconds per row."""
    # Imports and the like are no part of the search.
    find(replace(case, rows=case.rows.select(torch.arange(2))))
    started = time.perf_counter()
    found = find(case)
    seconds = time.perf_counter() - started
    frame = case.rows.features
    own, counts = case.answers(frame), []
    for at, changed in enumerate(found):
        if changed is None:
            continue
        after = pd.DataFrame([changed], columns=frame.columns)
        if int(case.answers(after)[0]) != int(own[at]):
            counts.append(int((~np.isclose(changed, frame.iloc[at], atol=1e-6)).sum()))
    return {
        "validity": len(counts) / len(found),
        "changed": float(np.mean(counts)) if counts else float("nan"),
        "seconds per row": seconds / len(found),
    }


def rows_of(case: Case, peers: list[str]) -> Iterator[dict[str, object]]:
    """One row per method."""
    methods: dict[str, Callable[[Case], Result]] = {
        "gd, 4 changes, budget 1000": lambda case: by_gendebug(case, 4, 1000),
        "gd, 8 changes, budget 4000": lambda case: by_gendebug(case, 8, 4000),
    }
    methods |= {f"DiCE {m}": lambda case, m=m: by_dice(case, m) for m in peers if m != "prototypes"}
    methods |= {"prototypes": by_prototypes} if "prototypes" in peers else {}
    for name, find in methods.items():
        yield {"case": case.name, "method": name} | measured(case, find)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", nargs="*", default=["random", "genetic", "kdtree", "prototypes"])
    parser.add_argument("--cases", nargs="*", default=["adult", "german_credit", "digits"])
    options = parser.parse_args()
    # DiCE builds its tables column by column, and pandas says so for each.
    warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
    makers = {"adult": adult, "german_credit": german_credit, "digits": digits}
    rows = []
    for name in options.cases:
        for seed in range(options.first, options.first + options.seeds):
            for row in rows_of(makers[name](seed, options.rows), options.peers):
                print(*row.values(), sep=" | ", flush=True)
                rows.append(row | {"seed": seed})
    frame = pd.DataFrame(rows)
    columns = ["validity", "changed", "seconds per row"]
    print(frame.groupby(["case", "method"])[columns].mean().round(4).to_string())


if __name__ == "__main__":
    main()

"""Attribution beside its peers and the network's own rate, in turns in one process.

Seconds, extra memory, equality, errors.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import math
import multiprocessing
import resource
import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import torch
from _timing import Work, medians
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gendebug_torch as gd
from gendebug_torch.attribution import compare_attributions, permutation_importance
from gendebug_torch.model.evaluation import evaluating

warnings.simplefilter("ignore")


def mlp(d: int = 64, hidden: int = 256, k: int = 2) -> nn.Module:
    """A small network with fixed weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, k)
    ).eval()


def cnn() -> nn.Module:
    """A small convolutional network for 3 x 32 x 32 images."""
    torch.manual_seed(0)
    sizes = [(3, 32), (32, 64), (64, 64)]
    blocks = [
        layer
        for a, b in sizes
        for layer in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 16, 10)).eval()


class Encoder(nn.Module):
    """A small transformer encoder over 32 steps of 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.body, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, 10]`."""
        return self.head(self.body(x).mean(1))


def shown(n: int, *shape: int) -> Tensor:
    """Standard normal inputs, always the same."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


def extra_memory(work: Callable[[], Any]) -> float:
    """Peak resident memory that `work` adds, in MB, in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        gc.collect()
        torch.set_num_threads(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = context.Process(target=child)
    process.start()
    process.join()
    return float(queue.get())


def row(what: str, ours: float, peer: str, theirs: float, note: str = "") -> None:
    """One row of the table."""
    print(
        f"| {what} | {1e3 * ours:.0f} ms | {peer} {1e3 * theirs:.0f} ms | {theirs / ours:.1f} | "
        f"{note} |",
        flush=True,
    )


def integrated_gradients(repeats: int, rows: int = 2000, steps: int = 50) -> None:
    """A small MLP: one batch, rows one by one, and a chunk that a user could choose."""
    model, x = mlp(), shown(rows, 64)
    captums = captum.attr.IntegratedGradients(model)

    def ours(trust: bool = False) -> Tensor:
        return gd.attribute(model, x, target=1, steps=steps, device="cpu", trust=trust).values

    def one_batch(chunk: int | None = None) -> Tensor:
        with evaluating(model):
            return captums.attribute(x, target=1, n_steps=steps, internal_batch_size=chunk).float()

    def by_row() -> list[Tensor]:
        with evaluating(model):
            return [
                captums.attribute(x[i : i + 1], target=1, n_steps=steps) for i in range(0, rows, 10)
            ]

    works: dict[str, Work] = {"ours": ours, "card": lambda: ours(True), "one": one_batch}
    found = medians(works | {"chunk": lambda: one_batch(4096), "row": by_row}, repeats)
    memory = {"ours": extra_memory(ours), "one": extra_memory(one_batch)}
    off = float((ours() - one_batch()).abs().max() / one_batch().abs().max())
    note = (
        f"memory {memory['ours']:.0f} against {memory['one']:.0f} MB "
        f"({memory['one'] / memory['ours']:.1f}); difference {off:.0e}"
    )
    row(
        f"IG, MLP, {rows} rows x {steps} steps",
        found["ours"],
        "captum, one batch",
        found["one"],
        note,
    )
    row("the same", found["ours"], "captum, internal_batch_size=4096", found["chunk"])
    row("the same", found["ours"], "captum, row by row (a tenth, times 10)", 10 * found["row"])
    card = gd.attribute(model, x, target=1, steps=steps, device="cpu").trust
    assert card is not None
    note = f"{card.evaluations:.1%} more model evaluations; captum has none"
    row("the same with its trust card", found["card"], "ours without", found["ours"], note)


def images(repeats: int, rows: int = 16, steps: int = 50) -> None:
    """A CNN, where choosing the chunk is all that can be gained."""
    model, x = cnn(), shown(rows, 3, 32, 32)
    captums = captum.attr.IntegratedGradients(model)

    def chunked(size: int) -> Tensor:
        with evaluating(model):
            return torch.cat(
                [captums.attribute(part, target=1, n_steps=steps).float() for part in x.split(size)]
            )

    def ours() -> Tensor:
        return gd.attribute(model, x, target=1, steps=steps, device="cpu", trust=False).values

    found = medians(
        {"ours": ours}
        | {str(size): (lambda size=size: chunked(size)) for size in (1, 2, 4, 8, 16)},
        repeats,
    )
    best = min((seconds, name) for name, seconds in found.items() if name != "ours")
    off = float((ours() - chunked(4)).abs().max() / chunked(4).abs().max())
    row(
        f"IG, CNN, {rows} images x {steps} steps",
        found["ours"],
        f"captum, best chunk ({best[1]})",
        best[0],
        f"difference {off:.0e}",
    )


def kernel_shap(repeats: int, rows: int = 100, d: int = 30, samples: int = 500) -> None:
    """Rows and coalitions in one batch, against loops per row (shap) and sample (captum)."""
    model, x = mlp(d, 64), shown(rows, d)
    captums = captum.attr.KernelShap(model)

    def theirs(per_eval: int, n: int) -> Tensor:
        with evaluating(model):
            return captums.attribute(
                x[:n], target=1, n_samples=samples, perturbations_per_eval=per_eval
            )

    works: dict[str, Work] = {
        "ours": lambda: gd.attribute(
            model, x, "kernel_shap", target=1, samples=samples, device="cpu", trust=False
        ),
        "captum": lambda: theirs(1, 2),
        "captum500": lambda: theirs(500, 4),
    }
    explain = shap_explainer(model, d)
    if explain is not None:
        works["shap"] = lambda: explain(x.numpy(), samples)
    found = medians(works, repeats)
    what = f"KernelSHAP, {rows} rows x {d} features x {samples} samples"
    row(what, found["ours"], f"captum (2 rows, times {rows // 2})", found["captum"] * rows / 2)
    row(
        "the same",
        found["ours"],
        f"captum, perturbations_per_eval=500 (4 rows, times {rows // 4})",
        found["captum500"] * rows / 4,
    )
    if explain is None:
        print("| the same | | shap not installed | | |")
    else:
        row("the same", found["ours"], "shap.KernelExplainer, l1_reg=False", found["shap"])
    accuracy(explain is not None)
    exactness()


def accuracy(with_shap: bool, d: int = 10, rows: int = 32) -> None:
    """Relative error against exact Shapley values at equal samples, mean over five seeds."""
    model, x = mlp(d, 64), shown(rows, d)
    exact = gd.attribute(
        model, x, "kernel_shap", target=1, samples=2**d - 2, trust=False
    ).values.numpy()
    explain = shap_explainer(model, d) if with_shap else None
    for samples in (50, 200, 500, 1022):
        errors: dict[str, list[float]] = {"ours": [], "captum": [], "shap": []}
        for seed in range(5):
            values = {
                "ours": gd.attribute(
                    model, x, "kernel_shap", target=1, samples=samples, seed=seed, trust=False
                ).values.numpy()
            }
            torch.manual_seed(seed)
            np.random.seed(seed)
            if seed < 2:
                captums = captum.attr.KernelShap(model)
                values["captum"] = captums.attribute(
                    x, target=1, n_samples=samples, perturbations_per_eval=500
                ).numpy()
            if explain is not None:
                values["shap"] = explain(x.numpy(), samples)
            for name, found in values.items():
                errors[name].append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
        note = ", ".join(f"{name} {np.mean(error):.4f}" for name, error in errors.items() if error)
        print(
            f"| error against exact Shapley values, {d} features, {samples} samples | {note} | | "
            "| |",
            flush=True,
        )


def exactness(d: int = 8, rows: int = 16) -> None:
    """All coalitions, against the sum that defines Shapley values."""
    model, x = mlp(d, 64), shown(rows, d)
    found = gd.attribute(
        model, x, "kernel_shap", target=1, samples=2**d - 2, trust=False
    ).values.double()
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=d)))
    with torch.no_grad():
        said = model((masks[:, None] * x).flatten(0, 1))[:, 1].double().reshape(len(masks), rows)
    place = {tuple(mask): at for at, mask in enumerate(masks.tolist())}
    exact = torch.zeros(rows, d, dtype=torch.float64)
    for mask, at in place.items():
        size = int(sum(mask))
        for feature in (i for i in range(d) if not mask[i]):
            joined = place[(*mask[:feature], 1.0, *mask[feature + 1 :])]
            exact[:, feature] += (said[joined] - said[at]) / (d * math.comb(d - 1, size))
    off = float((found - exact).abs().max() / exact.abs().max())
    print(
        f"| KernelSHAP with all {2**d - 2} coalitions of {d} features against Shapley's sum | "
        f"difference {off:.0e} | | | |",
        flush=True,
    )


def shap_explainer(model: nn.Module, d: int) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """Shap's KernelExplainer at a zero background with all features; None if not installed."""
    if importlib.util.find_spec("shap") is None:
        return None
    import shap

    def said(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(rows).float())[:, 1].numpy()

    explainer = shap.KernelExplainer(said, np.zeros((1, d)))
    return lambda x, samples: explainer.shap_values(x, nsamples=samples, l1_reg=False, silent=True)


def permutation(repeats: int, rows: int = 5000, d: int = 100) -> None:
    """One shuffle per column: ours, captum's, scikit-learn's."""
    model, x = mlp(d, 64), shown(rows, d)
    with torch.no_grad():
        y = model(x).argmax(1)
    records = gd.Records(x, y)
    captums = captum.attr.FeaturePermutation(
        lambda inputs: (model(inputs).argmax(1) == y).double().mean()
    )

    def theirs() -> Tensor:
        with evaluating(model), torch.no_grad():
            return captums.attribute(x)

    own: dict[str, Work] = {
        "first layer left out": lambda: permutation_importance(
            model, records, metric="error", repeats=1
        ),
        "any network": lambda: permutation_importance(
            lambda inputs: model(inputs), records, metric="error", repeats=1
        ),
    }
    peers: dict[str, Work] = {"captum": theirs}
    if importlib.util.find_spec("sklearn") is not None:
        from sklearn.inspection import permutation_importance as peer

        peers["scikit-learn"] = lambda: peer(
            _Estimator(model), x.numpy(), y.numpy(), n_repeats=1, scoring="accuracy"
        )
    else:
        print("| permutation importance | | scikit-learn not installed | | |")
    found = medians(own | peers, repeats)
    best = min(peers, key=found.__getitem__)
    for name in own:
        for other in peers:
            note = "the best peer" if other == best else ""
            row(
                f"permutation importance, {rows} rows x {d} columns, one repeat, {name}",
                found[name],
                other,
                found[other],
                note,
            )


class _Estimator:
    """As much of an estimator as scikit-learn asks for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.classes_ = np.array([0, 1])

    def fit(self, x: np.ndarray, y: np.ndarray) -> _Estimator:
        """Nothing to fit."""
        return self

    def score(self, x: np.ndarray, y: np.ndarray) -> float:
        """Accuracy."""
        return float((self.predict(x) == y).mean())

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Class ids."""
        with torch.no_grad():
            return self.model(torch.from_numpy(x)).argmax(1).numpy()

    def __sklearn_tags__(self) -> Any:
        """A classifier."""
        from sklearn.base import BaseEstimator, ClassifierMixin

        return type("Tags", (ClassifierMixin, BaseEstimator), {})().__sklearn_tags__()


def groups(repeats: int, rows: int = 2000, d: int = 20, runs: int = 200) -> None:
    """Seconds of one comparison, and how often two samples of the same rows differ."""
    model = mlp(d, 32)
    sides = [
        gd.attribute(model, part, steps=16, target=1, trust=False)
        for part in shown(2 * rows, d).split(rows)
    ]
    works = {"ours": lambda: compare_attributions(*sides, permutations=500)}
    took = medians(works, repeats)["ours"]
    print(
        f"| groups of {rows} and {rows} rows, {d} features, 500 permutations | {1e3 * took:.0f} "
        "ms | no peer | | |",
        flush=True,
    )
    made = sides[0] + sides[1]
    generator = torch.Generator().manual_seed(0)
    alarms = {0.01: 0, 0.05: 0}
    for seed in range(runs):
        order = torch.randperm(len(made), generator=generator)[:300]
        sides = [made.select(order[:150]), made.select(order[150:])]
        found = compare_attributions(*sides, permutations=500, seed=seed).distributions
        assert found is not None
        for alpha in alarms:
            alarms[alpha] += bool(found.changed_features(alpha=alpha, min_distance=0.0))
    note = ", ".join(f"{count} at alpha {alpha:g}" for alpha, count in alarms.items())
    print(
        f"| groups of 150 and 150 rows of one kind that differ, of {runs} reruns | {note} | no "
        "peer | | |",
        flush=True,
    )


def own_rate(repeats: int) -> None:
    """Points per second of integrated gradients beside the network's own rate and the floor."""
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if len(places) == 1:
        print("| rates on CUDA | | no GPU here | | |", flush=True)
    networks = {
        "CNN": (cnn(), (3, 32, 32), 32),
        "transformer encoder": (Encoder().eval(), (32, 64), 32),
        "MLP": (mlp(), (64,), 2000),
    }
    for place, (name, (model, shape, rows)) in itertools.product(places, networks.items()):
        for precision in ("32-true", *(["bf16-mixed"] if place == "cuda" else [])):
            many = rows if place == "cpu" else 16 * rows
            rate(
                f"{name}, {precision}",
                model.to(place),
                shown(many, *shape),
                50,
                place,
                precision,
                repeats,
            )
        model.to("cpu")


def rate(
    name: str, model: nn.Module, x: Tensor, steps: int, place: str, precision: Any, repeats: int
) -> None:
    """One row of `own_rate`, at the batch that suits the network best among some."""
    points = len(x) * steps

    def alone(size: int) -> Work:
        given = x.repeat(math.ceil(size / len(x)), *[1] * (x.ndim - 1))[:size].to(place)

        def work() -> None:
            with (
                evaluating(model),
                torch.autocast(place, torch.bfloat16, enabled=precision != "32-true"),
            ):
                for _ in range(math.ceil(points / size)):
                    at = given.detach().requires_grad_()
                    torch.autograd.grad(model(at)[:, 1].float().sum(), at)
            if place == "cuda":
                torch.cuda.synchronize()

        return work

    sizes = [64, 256, 1024, 4096] if place == "cpu" else [256, 1024, 4096, 16384]
    works: dict[str, Work] = {str(size): alone(size) for size in sizes}
    works["ours"] = lambda: gd.attribute(
        model, x, target=1, steps=steps, device=place, precision=precision, trust=False
    )
    found = medians(works, repeats)
    size = min((seconds, name) for name, seconds in found.items() if name != "ours")[1]
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        model(x[:1].to(place))
    floor = 2 * counter.get_total_flops()
    share = floor * points / found["ours"] / matmul_rate(place, precision)
    note = (
        f"{found[size] / found['ours']:.0%} of its own rate; floor 4·MAC = {floor / 1e6:.2f} "
        f"MFLOP per point, {share:.0%} of matmul"
    )
    peer = f"own forward and input-backward, {size} at once"
    row(f"IG, {name} on {place}, {len(x)} x {steps} points", found["ours"], peer, found[size], note)


def matmul_rate(place: str, precision: str, n: int = 1024) -> float:
    """Floating-point operations per second of a square matrix product."""
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    a = torch.ones(n, n, device=place, dtype=dtype)

    def work() -> None:
        for _ in range(8):
            a @ a
        if place == "cuda":
            torch.cuda.synchronize()

    return 8 * 2 * n**3 / medians({"product": work}, 5)["product"]


PARTS = {
    "ig": integrated_gradients,
    "cnn": images,
    "shap": kernel_shap,
    "permutation": permutation,
    "groups": groups,
    "rate": own_rate,
}


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| what | ours | peer | ratio | |")
    print("| --- | --- | --- | --- | --- |")
    for name, part in PARTS.items():
        if args.only in (None, name):
            part(args.repeats)


if __name__ == "__main__":
    main()

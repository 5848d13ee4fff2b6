"""Attribution beside its peers, interleaved in one process: seconds, extra memory, equality."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

import gendebug_torch as gd
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.runner import evaluating

warnings.simplefilter("ignore")


def mlp(d: int = 64, hidden: int = 256, k: int = 2) -> nn.Module:
    """A small network with fixed weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, k)).eval()


def cnn() -> nn.Module:
    """A small convolutional network for 3 x 32 x 32 images."""
    torch.manual_seed(0)
    sizes = [(3, 32), (32, 64), (64, 64)]
    blocks = [
        layer for a, b in sizes for layer in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 16, 10)).eval()


def timed(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each, run in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


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
    print(f"| {what} | {1e3 * ours:.0f} ms | {peer} {1e3 * theirs:.0f} ms | {theirs / ours:.1f} | {note} |", flush=True)


def integrated_gradients(repeats: int, rows: int = 2000, steps: int = 50) -> None:
    """A small MLP: one batch, rows one by one, and the best chunk that a user could choose."""
    model, x = mlp(), torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
    captums = captum.attr.IntegratedGradients(model)

    def ours() -> Tensor:
        return gd.attribute(model, x, target=1, steps=steps, device="cpu").values

    def one_batch(chunk: int | None = None) -> Tensor:
        with evaluating(model):
            return captums.attribute(x, target=1, n_steps=steps, internal_batch_size=chunk).float()

    def by_row() -> list[Tensor]:
        with evaluating(model):
            return [captums.attribute(x[i : i + 1], target=1, n_steps=steps) for i in range(0, rows, 10)]

    found = timed({"ours": ours, "one": one_batch, "chunk": lambda: one_batch(4096), "row": by_row}, repeats)
    memory = {"ours": extra_memory(ours), "one": extra_memory(one_batch)}
    off = float((ours() - one_batch()).abs().max() / one_batch().abs().max())
    told = f"memory {memory['ours']:.0f} against {memory['one']:.0f} MB ({memory['one'] / memory['ours']:.1f}); difference {off:.0e}"
    row(f"IG, MLP, {rows} rows x {steps} steps", found["ours"], "captum, one batch", found["one"], told)
    row("the same", found["ours"], "captum, internal_batch_size=4096", found["chunk"])
    row("the same", found["ours"], "captum, row by row (a tenth, times 10)", 10 * found["row"])


def images(repeats: int, rows: int = 16, steps: int = 50) -> None:
    """A CNN, where choosing the chunk is all that can be gained."""
    model, x = cnn(), torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    captums = captum.attr.IntegratedGradients(model)

    def chunked(size: int) -> Tensor:
        with evaluating(model):
            return torch.cat([captums.attribute(part, target=1, n_steps=steps).float() for part in x.split(size)])

    def ours() -> Tensor:
        return gd.attribute(model, x, target=1, steps=steps, device="cpu").values

    found = timed({"ours": ours} | {str(size): (lambda size=size: chunked(size)) for size in (1, 2, 4, 8, 16)}, repeats)
    best = min((seconds, name) for name, seconds in found.items() if name != "ours")
    off = float((ours() - chunked(4)).abs().max() / chunked(4).abs().max())
    row(f"IG, CNN, {rows} images x {steps} steps", found["ours"], f"captum, best chunk ({best[1]})", best[0], f"difference {off:.0e}")


def kernel_shap(repeats: int, rows: int = 100, d: int = 30, samples: int = 500) -> None:
    """Rows and coalitions in one batch, against a loop per row (shap) and per row and sample (captum)."""
    model, x = mlp(d, 64), torch.randn(rows, d, generator=torch.Generator().manual_seed(1))
    captums = captum.attr.KernelShap(model)

    def theirs(per_eval: int, n: int) -> Tensor:
        with evaluating(model):
            return captums.attribute(x[:n], target=1, n_samples=samples, perturbations_per_eval=per_eval)

    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: gd.attribute(model, x, "kernel_shap", target=1, samples=samples, device="cpu"),
        "captum": lambda: theirs(1, 2),
        "captum500": lambda: theirs(500, 4),
    }
    explain = shap_explainer(model, d)
    if explain is not None:
        works["shap"] = lambda: explain(x.numpy(), samples)
    found = timed(works, repeats)
    what = f"KernelSHAP, {rows} rows x {d} features x {samples} samples"
    row(what, found["ours"], f"captum (2 rows, times {rows // 2})", found["captum"] * rows / 2)
    row("the same", found["ours"], f"captum, perturbations_per_eval=500 (4 rows, times {rows // 4})", found["captum500"] * rows / 4)
    if explain is None:
        print("| the same | | shap not installed | | |")
    else:
        row("the same", found["ours"], "shap.KernelExplainer, l1_reg=False", found["shap"])
    accuracy(explain is not None)


def accuracy(with_shap: bool, d: int = 10, rows: int = 32) -> None:
    """Relative error against exact Shapley values at equal samples, mean over five seeds."""
    model, x = mlp(d, 64), torch.randn(rows, d, generator=torch.Generator().manual_seed(1))
    exact = gd.attribute(model, x, "kernel_shap", target=1, samples=2**d - 2).values.numpy()
    explain = shap_explainer(model, d) if with_shap else None
    for samples in (50, 200, 500, 1022):
        errors: dict[str, list[float]] = {"ours": [], "captum": [], "shap": []}
        for seed in range(5):
            values = {"ours": gd.attribute(model, x, "kernel_shap", target=1, samples=samples, seed=seed).values.numpy()}
            torch.manual_seed(seed)
            np.random.seed(seed)
            if seed < 2:
                captums = captum.attr.KernelShap(model)
                values["captum"] = captums.attribute(x, target=1, n_samples=samples, perturbations_per_eval=500).numpy()
            if explain is not None:
                values["shap"] = explain(x.numpy(), samples)
            for name, found in values.items():
                errors[name].append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
        told = ", ".join(f"{name} {np.mean(error):.4f}" for name, error in errors.items() if error)
        print(f"| error against exact Shapley values, {d} features, {samples} samples | {told} | | | |", flush=True)


def shap_explainer(model: nn.Module, d: int) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """Shap's KernelExplainer at a zero background, all features kept; None where it is not installed."""
    try:
        import shap
    except ImportError:
        return None

    def said(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(rows).float())[:, 1].numpy()

    explainer = shap.KernelExplainer(said, np.zeros((1, d)))
    return lambda x, samples: explainer.shap_values(x, nsamples=samples, l1_reg=False, silent=True)


def permutation(repeats: int, rows: int = 5000, d: int = 100) -> None:
    """One shuffle per column: ours, captum's feature permutation, scikit-learn's permutation_importance."""
    model = mlp(d, 64)
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    records = gd.Records(x, y)
    captums = captum.attr.FeaturePermutation(lambda inputs: (model(inputs).argmax(1) == y).double().mean())

    def theirs() -> Tensor:
        with evaluating(model), torch.no_grad():
            return captums.attribute(x)

    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: permutation_importance(model, records, metric="error", repeats=1),
        "captum": theirs,
    }
    try:
        from sklearn.inspection import permutation_importance as peer

        works["scikit-learn"] = lambda: peer(_Estimator(model), x.numpy(), y.numpy(), n_repeats=1, scoring="accuracy")
    except ImportError:
        print("| permutation importance | | scikit-learn not installed | | |")
    found = timed(works, repeats)
    for name in works:
        if name != "ours":
            row(f"permutation importance, {rows} rows x {d} columns, one repeat", found["ours"], name, found[name])


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


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["ig", "cnn", "shap", "permutation"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| what | ours | peer | ratio | |")
    print("| --- | --- | --- | --- | --- |")
    parts = {"ig": integrated_gradients, "cnn": images, "shap": kernel_shap, "permutation": permutation}
    for name, part in parts.items():
        if args.only in (None, name):
            part(args.repeats)


if __name__ == "__main__":
    main()

"""Calibration beside its peers in one run: ECE, temperature, map choice, priors, false alarms."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import shutil
import sys
import time
import types
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from calibration_figures import bench_alarms, bench_choice, bench_shares
from scipy.optimize import brentq
from torch import Tensor

from gendebug_torch.calibration import (
    fit_temperature,
    reliability_bins,
    reliability_bins_of_confidence,
)

BATCH = 4096
Work = Callable[[], Any]


def seconds(work: Work) -> tuple[float, Any]:
    """Seconds that the processor spent on one call, in all its threads, and what it returned.

    Not wall time: what else runs on the machine would count too.
    """
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def interleaved(works: dict[str, Work], repeats: int) -> dict[str, tuple[float, Any]]:
    """Median time of each, in turns; the answer of the last."""
    times: dict[str, list[float]] = {name: [] for name in works}
    answers: dict[str, Any] = {}
    for _ in range(repeats):
        for name, work in works.items():
            taken, answers[name] = seconds(work)
            times[name].append(taken)
    return {name: (median(values), answers[name]) for name, values in times.items()}


def overconfident(n: int, k: int) -> tuple[Tensor, Tensor]:
    """Float32 logits that are 2.5 times too sharp, and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, k, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return 2.5 * logits, targets


def exact_temperature(logits: Tensor, targets: Tensor) -> float:
    """Root of the derivative of the log loss in float64."""

    def slope(b: float) -> float:
        total = 0.0
        for z, y in zip(logits.split(5000), targets.split(5000), strict=True):
            wide = z.double()
            total += float(((wide * b).softmax(1) * wide).sum() - wide.gather(1, y[:, None]).sum())
        return total

    return float(1 / brentq(slope, 0.05, 5.0, xtol=1e-15, rtol=1e-14))


def ece_peers(logits: Tensor, targets: Tensor) -> dict[str, Work]:
    """Streaming calibration errors of other libraries; None where one is not installed."""
    from torchmetrics.classification import MulticlassCalibrationError

    def torchmetrics() -> float:
        metric = MulticlassCalibrationError(logits.shape[1], n_bins=15, validate_args=False)
        for z, y in zip(logits.split(BATCH), targets.split(BATCH), strict=True):
            metric.update(z, y)
        return float(metric.compute())

    works: dict[str, Work] = {"torchmetrics": torchmetrics}
    with contextlib.suppress(ImportError):
        from netcal.metrics import ECE

        works["netcal"] = lambda: float(ECE(15).measure(logits.softmax(1).numpy(), targets.numpy()))
    return works


def temperature_peers(logits: Tensor, targets: Tensor) -> dict[str, Work]:
    """Temperatures of other libraries, as their documentation fits them."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Logits(ClassifierMixin, BaseEstimator):
        """Hands its input on as decision values."""

        classes_ = np.arange(logits.shape[1])

        def fit(self, x: Any, y: Any) -> Logits:
            return self

        def decision_function(self, x: Any) -> Any:
            return x

        def predict(self, x: Any) -> Any:
            return x.argmax(1)

        def __sklearn_is_fitted__(self) -> bool:
            return True

    z, y = logits.numpy(), targets.numpy()
    stand_in_for_torchvision()

    def sklearn() -> float:
        fitted = CalibratedClassifierCV(FrozenEstimator(Logits()), method="temperature").fit(z, y)
        return 1 / float(fitted.calibrated_classifiers_[0].calibrators[0].beta_)

    works: dict[str, Work] = {"scikit-learn": sklearn}
    with contextlib.suppress(ImportError):
        from netcal.scaling import TemperatureScaling

        def netcal(dtype: torch.dtype) -> float:
            scaling = TemperatureScaling()
            scaling.fit(logits.to(dtype).softmax(1).numpy(), y)
            return 1 / float(np.ravel(scaling.weights)[0])

        works["netcal (float32, silently 1)"] = lambda: netcal(torch.float32)
        works["netcal (float64)"] = lambda: netcal(torch.float64)
    with contextlib.suppress(ImportError):
        from probmetrics.calibrators import TemperatureScalingCalibrator
        from probmetrics.distributions import CategoricalLogits

        def probmetrics() -> float:
            calibrator = TemperatureScalingCalibrator()
            calibrator.fit_torch(CategoricalLogits(logits), targets)
            return 1 / float(calibrator.invtemp_)

        works["probmetrics"] = probmetrics
    with contextlib.suppress(ImportError):
        from torch.utils.data import DataLoader, TensorDataset
        from torch_uncertainty.post_processing import TemperatureScaler

        def torch_uncertainty() -> float:
            scaler = TemperatureScaler(model=torch.nn.Identity())
            scaler.fit(DataLoader(TensorDataset(logits, targets), batch_size=BATCH), progress=False)
            return float(scaler.temperature[0].detach())

        works["torch-uncertainty"] = torch_uncertainty
    return works


def stand_in_for_torchvision() -> None:
    """Let torch-uncertainty be imported without torchvision, which has no wheel for torch on CPU.

    Its data sets and plots need torchvision, its temperature scaler does not: that file runs as
    published.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.meta_path.append(_StandIn())


class _StandIn:
    """Finds every module of torchvision and fills it with empty classes."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        from importlib.machinery import ModuleSpec

        return (
            ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None
        )

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _empty_class
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def bench_ece(sizes: list[tuple[int, int]], repeats: int) -> None:
    """Print the table of streaming errors, and the least time of a pass over these logits."""
    print("| streaming ECE, 15 bins | ours | peer | peer / ours | ours - exact | peer - exact |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for n, k in sizes:
        logits, targets = overconfident(n, k)
        confidence, predicted = torch.cat(
            [z.double().softmax(1) for z in logits.split(20_000)]
        ).max(1)
        exact = reliability_bins_of_confidence(confidence, predicted == targets).ece
        del confidence, predicted
        floors: dict[str, Work] = {
            "one read": logits.sum,
            "torch's log_softmax": lambda z=logits: [
                part.log_softmax(1) for part in z.split(2**20 // z.shape[1])
            ],
        }
        ours: dict[str, Work] = {"ours": lambda z=logits, y=targets: reliability_bins(z, y).ece}
        if shutil.which("g++") or shutil.which("clang++"):
            ours["ours, compiled"] = lambda z=logits, y=targets: (
                reliability_bins(z, y, compiled=True).ece
            )
            ours["ours, compiled"]()
        results = interleaved(floors | ours | ece_peers(logits, targets), repeats)
        for name in ("torchmetrics", "netcal"):
            for own in ours:
                taken, value = results[own]
                row = f"| {own}, [{n:,}, {k}] against {name} | {taken:.3f} s |"
                if name not in results:
                    print(f"{row} not installed | | {value - exact:+.0e} | |")
                    continue
                theirs, their_ece = results[name]
                print(
                    f"{row} {theirs:.3f} s | {theirs / taken:.1f} | {value - exact:+.0e} | "
                    f"{their_ece - exact:+.0e} |"
                )
        read, softmax = (results[name][0] for name in floors)
        rate = logits.numel() * 4 / read / 1e9
        print(
            f"| beside it: one read {read:.4f} s at {rate:.0f} GB/s, torch's log_softmax "
            f"{softmax:.4f} s | | | | | |",
            flush=True,
        )


def bench_one_bin(n: int) -> None:
    """Print what one crowded bin does to sums in float32."""
    from torchmetrics.functional.classification import binary_calibration_error

    correct = torch.arange(n) % 10 > 0
    confidence = torch.full((n,), 0.97)
    ours = reliability_bins_of_confidence(confidence, correct).ece
    theirs = float(
        binary_calibration_error(confidence, correct.long(), n_bins=15, validate_args=False)
    )
    print(f"\n{n:,} rows in one bin, true error 0.07: ours {ours:.6f}, torchmetrics {theirs:.6f}\n")


def bench_temperature(sizes: list[tuple[int, int]], repeats: int) -> None:
    """Print the table of temperatures.

    At the larger size each slow peer runs once, ours before and after it.
    """
    print("| temperature | time | peer / ours | T | relative error | reads of the logits |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for n, k in sizes:
        logits, targets = overconfident(n, k)
        exact = exact_temperature(logits, targets)
        works = temperature_peers(logits, targets)
        fitted = fit_temperature(logits, targets)
        off = abs(fitted.temperature / exact - 1)
        print(
            f"| ours, [{n:,}, {k}] | | 1.0 | {fitted.temperature:.6f} | {off:.0e} | "
            f"{fitted.reads} |"
        )
        times = repeats if n * k < 10**7 else 1
        for name in (
            "scikit-learn",
            "probmetrics",
            "torch-uncertainty",
            "netcal (float32, silently 1)",
            "netcal (float64)",
        ):
            if name not in works:
                print(f"| {name}, [{n:,}, {k}] | not installed | | | | |")
                continue
            around = {
                "before": lambda z=logits, y=targets: fit_temperature(z, y),
                name: works[name],
            }
            results = interleaved(around | {"after": around["before"]}, times)
            ours = (results["before"][0] + results["after"][0]) / 2
            theirs, value = results[name]
            row = (
                f"| {name}, [{n:,}, {k}] | {theirs:.3f} s, ours {ours:.3f} s | {theirs / ours:.1f}"
            )
            print(f"{row} | {value:.6f} | {abs(value / exact - 1):.0e} | |", flush=True)


def bench_exactness() -> None:
    """Print how far temperatures are from exact in the cases that break fits."""
    logits, targets = overconfident(10_000, 10)
    masked = torch.cat([logits, torch.full((len(logits), 1), -math.inf)], 1)
    pair, answers = overconfident(10_000, 2)
    cases = {
        "logits x 1e4": (logits * 1e4, logits * 1e4, targets),
        "logits x 1e-3": (logits * 1e-3, logits * 1e-3, targets),
        "float16": (logits.half(), logits.half().float(), targets),
        "a masked class": (masked, logits, targets),
        "one logit": (
            pair[:, 1] - pair[:, 0],
            torch.stack([torch.zeros(len(pair)), pair[:, 1] - pair[:, 0]], 1),
            answers,
        ),
    }
    print("\n| temperature, hard cases, [10,000, 10] | T | relative error |\n| --- | --- | --- |")
    for name, (given, plain, y) in cases.items():
        fitted, unit = fit_temperature(given, y), float(plain.double().std()) / 5
        exact = unit * exact_temperature(plain.double() / unit, y)
        print(f"| {name} | {fitted.temperature:.6g} | {abs(fitted.temperature / exact - 1):.0e} |")
    random = torch.randint(10, (len(logits),), generator=torch.Generator().manual_seed(1))
    for name, y in (("every row right", logits.argmax(1)), ("random labels", random)):
        fitted = fit_temperature(logits, y)
        print(
            f"| {name} | {'flagged: unbounded' if fitted.unbounded else fitted.temperature} | |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, seeds and draws")
    parser.add_argument("--full", action="store_true", help="also the class shares of 100 classes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    less = 10 if args.quick else 1
    bench_ece([(1_000_000 // less, 10), (100_000 // less, 1000)], args.repeats)
    bench_one_bin(20_000_000)
    bench_temperature([(10_000, 10), (50_000 // less, 1000 // less)], args.repeats)
    bench_exactness()
    bench_choice(5 if less == 1 else 1)
    bench_shares(20 // less, full=args.full)
    bench_alarms(200 // less)


if __name__ == "__main__":
    main()

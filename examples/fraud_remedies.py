"""What each remedy does on the same held-out rows of production, and what it costs per record."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from fraud_features import DAY, PERCENTILE, SHORT_HISTORY, rolling_percentile
from fraud_model import records, train
from torch import Tensor

import gendebug_torch as gd
from gendebug_torch.calibration import expected_calibration_error, fit_temperature


def best_threshold(logits: Tensor, targets: Tensor) -> float:
    """The probability above which alarms have the best F1."""
    order = logits.argsort(descending=True)
    hits = targets[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + targets.sum())
    return float(logits[order][int(f1.argmax())].sigmoid()) - 1e-7


def scores(logits: Tensor, targets: Tensor, threshold: float) -> dict[str, float]:
    """False positives, precision, recall and calibration error at a threshold."""
    said = logits.sigmoid() > threshold
    hits = int((said & (targets == 1)).sum())
    return {
        "false positives": int((said & (targets == 0)).sum()),
        "precision": hits / max(1, int(said.sum())),
        "recall": hits / max(1, int(targets.sum())),
        "ECE": float(expected_calibration_error(logits, targets)),
    }


def measure_remedies(world: "World", progress: Callable[[str], None]) -> pd.DataFrame:
    """Every remedy, fitted on the first half of the production week and judged on the second."""
    early, late = world.halves()
    base, threshold = world.trained.network, world.threshold
    logits_early, logits_late = (gd.collect(base, side).logits for side in (early, late))
    forward = microseconds(lambda: gd.collect(base, late), len(late))
    rows = {
        "as deployed": scores(logits_late, late.targets, threshold) | {"added us per record": 0.0}
    }

    progress("temperature and threshold")
    temperature = fit_temperature(logits_early, early.targets)
    if not temperature.unbounded:
        cooled = scores(temperature(logits_late), late.targets, threshold)
        rows[f"temperature {temperature.temperature:.2f}"] = cooled | {"added us per record": 0.0}
    moved = best_threshold(logits_early, early.targets)
    rows[f"threshold moved to {moved:.2f}"] = scores(logits_late, late.targets, moved) | {
        "added us per record": 0.0
    }

    progress("retraining without the broken feature")
    dropped = world.features.drop(columns=world.broken)
    network, at = world.retrain(dropped)
    without = gd.collect(network, world.cut(dropped, "late")).logits
    rows[f"without {world.broken}"] = scores(without, late.targets, at) | {
        "added us per record": 0.0
    }

    if world.broken == PERCENTILE:
        progress("retraining on the rebuilt feature")
        started = time.perf_counter()
        rebuilt = world.features.assign(**{PERCENTILE: rolling_percentile(world.table)})
        added = (time.perf_counter() - started) / len(rebuilt) * 1e6
        network_rebuilt, at_rebuilt = world.retrain(rebuilt)
        logits = gd.collect(network_rebuilt, world.cut(rebuilt, "late")).logits
        rows["percentile rebuilt on a rolling window"] = scores(
            logits, late.targets, at_rebuilt
        ) | {"added us per record": added}

    new = torch.tensor(late.metadata["history"].to_numpy() < SHORT_HISTORY)
    # The two models decide at different probabilities; the odds of the second are moved so that one
    # threshold serves both.
    routed = torch.where(new, without + _logit(threshold) - _logit(at), logits_late)
    rows["separate model for merchants without history"] = scores(
        routed, late.targets, threshold
    ) | {"added us per record": forward}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("remedy").reset_index()


class World:
    """The table, its periods, the deployed network and what is wrong with it."""

    def __init__(self, table, features, periods, trained, threshold, broken, epochs, seed):
        self.table, self.features, self.periods, self.trained = table, features, periods, trained
        self.threshold, self.broken, self.epochs, self.seed = threshold, broken, epochs, seed

    def cut(self, features: pd.DataFrame, part: str) -> gd.Records:
        """Records of a period, or of the `early` or `late` half of production."""
        rows = self.periods["production" if part in ("early", "late") else part]
        if part in ("early", "late"):
            day = self.table["time"].to_numpy() / DAY
            middle = (day[rows].min() + day[rows].max()) / 2
            rows = rows & ((day < middle) if part == "early" else (day >= middle))
        return records(features, self.table, rows, part)

    def halves(self) -> tuple[gd.Records, gd.Records]:
        """The two halves of the production week, as the deployed network sees them."""
        return self.cut(self.features, "early"), self.cut(self.features, "late")

    def retrain(self, features: pd.DataFrame):
        """A network on these features, and its best threshold in validation."""
        fit, judge = self.cut(features, "train"), self.cut(features, "validation")
        network = train(fit, judge, epochs=self.epochs, seed=self.seed).network
        return network, best_threshold(gd.collect(network, judge).logits, judge.targets)


def microseconds(work: Callable[[], object], rows: int) -> float:
    """Median time per row of five runs."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) / rows * 1e6


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))

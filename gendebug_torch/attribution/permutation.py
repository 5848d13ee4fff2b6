"""Permutation importance: what shuffling one column costs, many columns per forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch._plotting import REFERENCE, axes
from gendebug_torch._tables import model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.records import Records
from gendebug_torch.runner import Model, evaluating, logits_of
from gendebug_torch.stats import normal_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metric = Callable[[Tensor, Tensor], Tensor]

_POINTS = 2**16
_SHOWN = 15


@dataclass(frozen=True, eq=False)
class PermutationImportance:
    """Rise of the loss when one column is shuffled.

    Args:
        importance: `[d]` float64 mean rise over rows and repeats.
        standard_error: `[d]` float64 over rows.
        names: of the columns.
        metric: what was measured.
    """

    importance: Tensor
    standard_error: Tensor
    names: tuple[str, ...]
    metric: str

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Normal interval over rows, given the model and these shuffles."""
        half = normal_quantile(0.5 + level / 2) * self.standard_error
        return self.importance - half, self.importance + half

    def table(self) -> pd.DataFrame:
        """One row per column, most important first."""
        low, high = self.interval()
        columns = {"importance": self.importance, "low": low, "high": high}
        frame = pd.DataFrame({"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()})
        return frame.sort_values("importance", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rise of the loss per column with intervals."""
        top = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(6.0, 1.2 + 0.28 * max(1, len(top))))
        spread = [top["importance"] - top["low"], top["high"] - top["importance"]]
        ax.barh(top["feature"].astype(str).tolist(), top["importance"], color=REFERENCE, xerr=spread, error_kw={"elinewidth": 0.8})
        ax.set(xlabel=f"rise of the {self.metric} when shuffled", title="Permutation importance")
        ax.grid(visible=False, axis="y")
        return ax


def permutation_importance(
    model: Model, records: Records, *, metric: str | Metric = "nll", repeats: int = 5, seed: int = 0, device: str | torch.device = "cpu"
) -> PermutationImportance:
    """How much the loss rises when a column loses its relation to everything else.

    Shuffling breaks correlations between columns too: of two columns that carry the same, neither may look
    important, and the model is asked about rows that cannot occur.

    Source: Breiman (2001), Machine Learning 45:5; Fisher, Rudin and Dominici (2019), arXiv:1801.01489.

    Args:
        model: inputs `[n, d]` to logits.
        records: labeled, with features `[n, d]`.
        metric: `nll`, `error`, or a function of logits and targets to one loss per row.
        repeats: shuffles per column.
        seed: of the shuffles.
        device: where the model runs.

    Raises:
        InputError: no targets, features that are not `[n, d]`, or an unknown metric.

    Cost: `n d repeats` forwards, several columns in one batch.
    """
    inputs, targets = model_inputs(records), records.targets
    if targets is None or inputs.ndim != 2:
        got = f"features {list(inputs.shape)}, targets {None if targets is None else list(targets.shape)}"
        reject("records", "features [n, d] and targets", got, "Pass labeled rows with one column per feature.")
    loss = metric if callable(metric) else _METRICS.get(metric)
    if loss is None:
        reject("metric", f"{', '.join(_METRICS)} or a function", repr(metric), "Choose one of them.")
    place = torch.device(device)
    inputs, targets = inputs.to(place), targets.to(place)
    n, d = inputs.shape
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(d, n, dtype=torch.float64, device=place)
    at_once = max(1, _POINTS // max(n, 1))
    with torch.no_grad(), evaluating(model, device=place):
        base = loss(logits_of(model, inputs), targets).double()
        for _ in range(repeats):
            order = torch.randperm(n, generator=generator).to(place)
            for start in range(0, d, at_once):
                columns = torch.arange(start, min(d, start + at_once), device=place)
                block = inputs.repeat(len(columns), 1, 1)
                block[torch.arange(len(columns), device=place), :, columns] = inputs[order][:, columns].T
                shuffled = loss(logits_of(model, block.flatten(0, 1)), targets.repeat(len(columns)))
                total[columns] += shuffled.double().reshape(len(columns), n) - base
    rise = total.cpu() / repeats
    error = rise.std(1) / n**0.5 if n > 1 else torch.zeros(d, dtype=torch.float64)
    columns_of = records.features.columns if isinstance(records.features, pd.DataFrame) else [f"input_{i}" for i in range(d)]
    names = tuple(map(str, columns_of))
    return PermutationImportance(rise.mean(1), error, names, metric if isinstance(metric, str) else "loss")


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.ndim == 1:
        return binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return cross_entropy(logits, targets, reduction="none")


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    said = (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)
    return (said != targets).double()


_METRICS: dict[str, Metric] = {"nll": _nll, "error": _error}

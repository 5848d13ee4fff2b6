"""Permutation importance: the rise of the loss when a column or a group of columns is shuffled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from scipy.special import ndtr
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from gendebug_torch.attribution.attributions import short_name
from gendebug_torch.attribution.compare.column_shuffling import Metric, loss_rises
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task
from gendebug_torch.errors import reject
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import as_model_takes
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 15


@dataclass(frozen=True, eq=False)
class PermutationImportance:
    """Rise of the loss when a column is shuffled.

    Args:
        importance: `[d]` float64 mean rise over rows and repeats.
        standard_error: `[d]` float64 standard error over rows and their shuffles; over shuffles
            alone for a metric that is one number.
        names: names of the columns or groups.
        metric: name of the loss.
        base: loss without shuffling.
        probe: `[d]` float64 importance that a random column with the same values exceeds in 2.5 %
            of samples, from shuffling a column that is shuffled already; NaN after one shuffle.
    """

    importance: Tensor
    standard_error: Tensor
    names: tuple[str, ...]
    metric: str
    base: float = float("nan")
    probe: Tensor | None = None

    @property
    def unimportant(self) -> tuple[str, ...]:
        """Names of the columns whose importance does not exceed their random probe, or chance."""
        if self.probe is None:
            return ()
        # The probe of a column without any weight is rounding, as its importance is.
        chance = (self.interval()[0] <= 0) & self.probe.isfinite()
        below = (self.importance <= self.probe) | chance
        return tuple(name for name, under in zip(self.names, below.tolist(), strict=True) if under)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Normal interval, given the model."""
        half = normal_quantile(0.5 + level / 2) * self.standard_error
        return self.importance - half, self.importance + half

    def table(self) -> pd.DataFrame:
        """One row per column, most important first."""
        low, high = self.interval()
        columns = {"importance": self.importance, "low": low, "high": high}
        columns |= {} if self.probe is None else {"probe": self.probe}
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {name: value.numpy() for name, value in columns.items()}
        )
        return frame.sort_values("importance", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rise of the loss per column with intervals, beside the random probe."""
        top = self.table().head(_BARS).iloc[::-1]
        ax = axes(ax, size=(6.0, 1.2 + 0.28 * max(1, len(top))))
        rows = range(len(top))
        spread = [top["importance"] - top["low"], top["high"] - top["importance"]]
        ax.set_yticks(rows, [short_name(name) for name in top["feature"]])
        ax.barh(rows, top["importance"], color=REFERENCE, xerr=spread, error_kw={"elinewidth": 0.8})
        if "probe" in top and bool(top["probe"].notna().any()):
            label = "random column with the same values"
            ax.scatter(top["probe"], rows, marker="|", s=120, color=LIVE, zorder=3, label=label)
            ax.legend(frameon=False, fontsize="small", loc="lower right")
        ax.set(xlabel=f"rise of the {self.metric} when shuffled", title="Permutation importance")
        ax.axvline(0, color="black", linewidth=0.6)
        ax.grid(visible=False, axis="y")
        return ax


def permutation_importance(
    model: Model,
    records: Records,
    *,
    metric: str | Metric | None = None,
    greater_is_better: bool | None = None,
    columns: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    repeats: int = 5,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> PermutationImportance:
    """The rise of the loss when a column loses its relation to everything else.

    Shuffling over all rows breaks correlations between columns too: of two columns with the same
    information neither may look important, and the model sees rows that cannot occur; shuffle such
    columns together as one group.

    Source: Breiman (2001), Machine Learning 45:5; Fisher, Rudin and Dominici (2019),
    arXiv:1801.01489.

    Args:
        model: network from `[n, d]` inputs to logits.
        records: labeled rows with features `[n, d]`.
        metric: `nll`, `error`, `squared_error`, or a function of logits and targets to one loss per
            row or to one number, such as any metric of torchmetrics; default `nll` for class ids
            and labels of 0 and 1, `squared_error` for quantities.
        greater_is_better: direction of a metric that is one number; default the direction that a
            torchmetrics metric declares, else False.
        columns: names of the columns to shuffle, or groups of names; default each column alone.
        repeats: number of shuffles per column.
        seed: seed of the shuffles.
        device: device of the model; default the device on which it is.

    Raises:
        InputError: no targets, features that are not `[n, d]`, an unknown metric or column, or
            outputs or a metric that do not fit the targets.

    Cost: `n d repeats` forwards; without the first layer for an nn.Sequential that begins with
    nn.Linear.

    Example:
        >>> import torch
        >>> from gendebug_torch import Records
        >>> x = torch.randn(200, 2, generator=torch.manual_seed(0))
        >>> data = Records(x, (x[:, 0] > 0).long())
        >>> found = permutation_importance(lambda x: 4 * x[:, 0], data)
        >>> found.table()["feature"].iloc[0], found.unimportant
        ('feature_0', ('feature_1',))
    """
    inputs, targets = _labeled_table(records)
    model = as_model(model)
    inputs = as_model_takes(inputs, model, inputs.device)
    if repeats < 1:
        reject("repeats", "at least 1", str(repeats), "5 is the usual number.")
    quantities = records.task is Task.REGRESSION
    if quantities and metric in ("nll", "error"):
        expected, remedy = "a metric of quantities", "Pass metric='squared_error'."
        reject("metric", expected, f"{metric!r}, one of classes", remedy)
    default = "squared_error" if quantities else "nll"
    loss, label = _metric(default if metric is None else metric, greater_is_better)
    groups = _column_groups(records, columns, inputs.shape[1])
    rises, base = loss_rises(
        model, inputs, targets, loss, list(groups.values()), repeats, seed, device
    )
    return importance_of(rises, tuple(groups), label, base)


def importance_of(
    rises: Tensor, names: tuple[str, ...], metric: str = "nll", base: float = float("nan")
) -> PermutationImportance:
    """Importance, standard error and random probe of `[r, d, n]` or `[r, d]` rises of the loss."""
    return PermutationImportance(*_mean_and_error(rises), names, metric, base, _probe(rises))


def decrease_p_values(before: PermutationImportance, after: PermutationImportance) -> Tensor:
    """`[d]` one-sided p-value that the importance did not decrease, after Holm's correction."""
    error = (before.standard_error.square() + after.standard_error.square()).sqrt()
    z = (before.importance - after.importance) / error.clamp(min=1e-12)
    return holm_adjusted(torch.from_numpy(ndtr(-z.numpy())))


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """`[n]` negative log-likelihood of class ids, or of labels of 0 and 1.

    Args:
        logits: `[n]` or `[n, k]` logits.
        targets: `[n]` class ids, or `[n, k]` labels of 0 and 1, whose mean is taken.
    """
    if logits.ndim == 2 and targets.ndim == 1:
        return cross_entropy(logits, targets.long(), reduction="none")
    _check_fit(logits, targets)
    loss = binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return loss if loss.ndim == 1 else loss.mean(1)


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.ndim == 2 and targets.ndim == 1:
        return (logits.argmax(1) != targets).double()
    _check_fit(logits, targets)
    wrong = ((logits > 0) != (targets > 0)).double()
    return wrong if wrong.ndim == 1 else wrong.mean(1)


def _squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    _check_fit(logits, targets)
    loss = mse_loss(logits, targets.to(logits.dtype), reduction="none")
    return loss if loss.ndim == 1 else loss.mean(1)


def _check_fit(outputs: Tensor, targets: Tensor) -> None:
    """Refuse outputs and targets that would be broadcast against each other."""
    if outputs.shape != targets.shape:
        got = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
        reject("records", "as many targets per row as outputs", got, "Pass one target per output.")


_METRICS: dict[str, Metric] = {"nll": nll, "error": _error, "squared_error": _squared_error}


def _labeled_table(records: Records) -> tuple[Tensor, Tensor]:
    """Inputs `[n, d]` and targets of records."""
    inputs, targets = model_inputs(records), records.targets
    if targets is not None and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets is None or inputs.ndim != 2:
        shape = None if targets is None else list(targets.shape)
        got = f"features {list(inputs.shape)}, targets {shape}"
        remedy = "Pass labeled rows with one column per feature."
        reject("records", "features [n, d] and targets", got, remedy)
    return inputs, targets


def _mean_and_error(rises: Tensor) -> tuple[Tensor, Tensor]:
    """`[d]` mean and standard error of `[r, d, n]` or `[r, d]` rises."""
    # The mean of a row over shuffles varies by the effect of the row and by the shuffles, so that
    # its spread covers both.
    sample = rises.mean(0).T if rises.ndim == 3 else rises
    mean = sample.mean(0)
    error = sample.std(0) / len(sample) ** 0.5 if len(sample) > 1 else torch.zeros_like(mean)
    return mean, error


def _probe(rises: Tensor) -> Tensor:
    """`[d]` upper end of the importance of a column that the first shuffle made random.

    Source: the random probe of Stoppiglia, Dreyfus, Dubois and Oussar (2003), J. Mach. Learn. Res.
    3:1399, with the values of the column itself, since a column of more values is easier to fit.
    """
    repeats, d = rises.shape[:2]
    if repeats < 2:
        return torch.full((d,), torch.nan, dtype=torch.float64)
    if rises.ndim == 2:
        error = rises.std(0) * math.sqrt(1 + 1 / (repeats - 1))
    else:
        again = (rises[1:].mean(0) - rises[0]).T
        error = torch.zeros(d, dtype=torch.float64)
        if len(again) > 1:
            error = again.std(0) / math.sqrt(len(again))
    return normal_quantile(0.975) * error


def _column_groups(
    records: Records, columns: Sequence[str] | Mapping[str, Sequence[str]] | None, d: int
) -> dict[str, list[int]]:
    """Positions of the columns of each group, by name."""
    table = records.features if isinstance(records.features, pd.DataFrame) else None
    names = [f"feature_{i}" for i in range(d)] if table is None else list(map(str, table.columns))
    groups = (
        columns
        if isinstance(columns, Mapping)
        else {str(name): [name] for name in (names if columns is None else columns)}
    )
    if unknown := sorted({str(name) for group in groups.values() for name in group} - set(names)):
        remedy = "Columns are feature_0 and so on." if table is None else "Correct them."
        reject("columns", f"columns among {names[:20]}", str(unknown), remedy)
    return {label: [names.index(str(name)) for name in group] for label, group in groups.items()}


def _metric(metric: str | Metric, greater_is_better: bool | None) -> tuple[Metric, str]:
    """A loss, one per row or one number, and its name."""
    choices = f"{', '.join(_METRICS)} or a function"
    if isinstance(metric, str):
        if metric not in _METRICS:
            reject("metric", choices, repr(metric), "Choose one of them.")
        return _METRICS[metric], metric
    if not callable(metric):
        remedy = "Pass e.g. torchmetrics' BinaryAUROC()."
        reject("metric", choices, type(metric).__name__, remedy)
    better: Any = greater_is_better
    if greater_is_better is None:
        better = getattr(metric, "higher_is_better", False)
    label = getattr(metric, "__name__", type(metric).__name__)
    if not better:
        return metric, label
    return lambda logits, targets: -metric(logits, targets), f"loss of {label}"

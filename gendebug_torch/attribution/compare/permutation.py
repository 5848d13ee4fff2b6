"""Permutation importance: what shuffling a column, or a group of columns, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from gendebug_torch.attribution.attributions import short_name
from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records, model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, evaluating, logits_of
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Logits and targets to one loss per row, or to one number.
Metric = Callable[[Tensor, Tensor], Tensor]

# Rows through the network at once, and shuffled copies beside each other: copies hide launches on a
# GPU, but on a CPU they only cost memory traffic.
_ROWS = {"cpu": 8192, "cuda": 65536}
_COPIES = {"cpu": 1, "cuda": 16}
_SHOWN = 15


@dataclass(frozen=True, eq=False)
class PermutationImportance:
    """Rise of the loss when a column is shuffled.

    Args:
        importance: `[d]` float64 mean rise over rows and repeats.
        standard_error: `[d]` float64 over rows and their shuffles; over shuffles alone for a metric
            of the whole.
        names: of the columns or groups.
        metric: what was measured.
        base: the loss as it is.
        probe: `[d]` float64 what a random column with the same values reaches by chance in 2.5 % of
            samples, from shuffling a column that is already shuffled; NaN where there was one
            shuffle. Nothing below it is told from noise.
    """

    importance: Tensor
    standard_error: Tensor
    names: tuple[str, ...]
    metric: str
    base: float = float("nan")
    probe: Tensor | None = None

    @property
    def noise(self) -> tuple[str, ...]:
        """Names of what is worth no more than its random probe."""
        below = [] if self.probe is None else (self.importance <= self.probe).tolist()
        return tuple(name for name, under in zip(self.names, below, strict=False) if under)

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
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        return frame.sort_values("importance", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rise of the loss per column with intervals."""
        top = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(6.0, 1.2 + 0.28 * max(1, len(top))))
        spread = [top["importance"] - top["low"], top["high"] - top["importance"]]
        ax.set_yticks(range(len(top)), [short_name(name) for name in top["feature"]])
        ax.barh(
            range(len(top)),
            top["importance"],
            color=REFERENCE,
            xerr=spread,
            error_kw={"elinewidth": 0.8},
        )
        if "probe" in top and bool(top["probe"].notna().any()):
            ax.scatter(
                top["probe"],
                range(len(top)),
                marker="|",
                s=120,
                color=LIVE,
                zorder=3,
                label="random column with the same values",
            )
            ax.legend(frameon=False, fontsize="small", loc="lower right")
        ax.set(xlabel=f"rise of the {self.metric} when shuffled", title="Permutation importance")
        ax.axvline(0, color="black", linewidth=0.6)
        ax.grid(visible=False, axis="y")
        return ax


def permutation_importance(
    model: Model,
    records: Records,
    *,
    metric: str | Metric = "nll",
    greater_is_better: bool | None = None,
    columns: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    repeats: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> PermutationImportance:
    """How much the loss rises when a column loses its relation to everything else.

    Shuffling over all rows breaks correlations between columns too: of two columns that carry the
    same, neither may look important, and the model is asked about rows that cannot occur; shuffle
    such columns together as one group.

    Source: Breiman (2001), Machine Learning 45:5; Fisher, Rudin and Dominici (2019),
    arXiv:1801.01489.

    Args:
        model: inputs `[n, d]` to logits.
        records: labeled, with features `[n, d]`.
        metric: `nll`, `error`, `squared_error`, or a function of logits and targets to one loss per
            row or to one number, such as any metric of torchmetrics.
        greater_is_better: of a metric that is one number; default what a torchmetrics metric says
            of itself, else False.
        columns: names to shuffle, or groups of them by name; default each column alone.
        repeats: shuffles per column.
        seed: of the shuffles.
        device: where the model runs.

    Raises:
        InputError: no targets, features that are not `[n, d]`, an unknown metric or column.

    Cost: `n d repeats` forwards; without the first layer where the model is an nn.Sequential that
    begins with nn.Linear.
    """
    inputs, targets = _labeled_table(records)
    if repeats < 1:
        reject("repeats", "at least 1", str(repeats), "5 is the usual number.")
    loss, label = _metric(metric, greater_is_better)
    places = _places(records, columns, inputs.shape[1])
    rise, base = _rises(model, inputs, targets, loss, list(places.values()), repeats, seed, device)
    return summed(rise, tuple(places), label, base)


def loss_rises(
    model: Model,
    records: Records,
    *,
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """`[repeats, d, n]` rises of the negative log-likelihood of each row when a column is shuffled:
    what the importance sums up.

    Arguments, errors and cost are those of `permutation_importance`.
    """
    inputs, targets = _labeled_table(records)
    alone = [[column] for column in range(inputs.shape[1])]
    return _rises(model, inputs, targets, _nll, alone, repeats, seed, device)[0]


def summed(
    rise: Tensor, names: tuple[str, ...], metric: str = "nll", base: float = float("nan")
) -> PermutationImportance:
    """Importance, its error and its random probe from `[repeats, d, n]` rises, or `[repeats, d]`
    for a metric that is one number.
    """
    return PermutationImportance(*_moments(rise), names, metric, base, _probe(rise))


def fallen(before: PermutationImportance, after: PermutationImportance) -> Tensor:
    """`[d]` one-sided p-value that what a column is worth did not fall from one to the other, after
    Holm's correction.
    """
    error = (before.standard_error.square() + after.standard_error.square()).sqrt().clamp(min=1e-12)
    return holm_adjusted(
        torch.from_numpy(norm.sf(((before.importance - after.importance) / error).numpy()))
    )


def _labeled_table(records: Records) -> tuple[Tensor, Tensor]:
    inputs, targets = model_inputs(records), records.targets
    if targets is None or inputs.ndim != 2:
        got = (
            f"features {list(inputs.shape)}, targets "
            f"{None if targets is None else list(targets.shape)}"
        )
        reject(
            "records",
            "features [n, d] and targets",
            got,
            "Pass labeled rows with one column per feature.",
        )
    return inputs, targets


def _rises(
    model: Model,
    inputs: Tensor,
    targets: Tensor,
    loss: Metric,
    places: list[list[int]],
    repeats: int,
    seed: int,
    device: str | torch.device,
) -> tuple[Tensor, float]:
    """Rises of the loss for each repeat and group of columns, and the mean loss as it is."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    inputs, targets = inputs.to(place), targets.to(place)
    with torch.no_grad(), evaluating(model, device=place):
        base = loss(_logits(model, inputs), targets).double()
        rises = []
        for _ in range(repeats):
            order = torch.randperm(len(inputs), generator=generator).to(place)
            said = _shuffled(model, inputs, order, places)
            rises.append(torch.stack([loss(logits, targets).double() - base for logits in said]))
    return torch.stack(rises).cpu(), float(base.mean()) if base.numel() else float("nan")


def _moments(rise: Tensor) -> tuple[Tensor, Tensor]:
    """`[d]` mean and standard error of `[repeats, d, n]` or `[repeats, d]` rises."""
    # A row's mean over shuffles varies by its own effect and by what the shuffles add, so its
    # spread covers both.
    drawn = rise.mean(0).T if rise.ndim == 3 else rise
    error = drawn.std(0) / len(drawn) ** 0.5 if len(drawn) > 1 else torch.zeros_like(drawn.mean(0))
    return drawn.mean(0), error


def _probe(rise: Tensor) -> Tensor:
    """`[d]` upper end of what shuffling adds to a column that the first shuffle already made
    random.

    Source: the random probe of Stoppiglia, Dreyfus, Dubois and Oussar (2003), J. Mach. Learn. Res.
    3:1399, with the values of the column itself, since a column of more values is easier to fit.
    """
    repeats = len(rise)
    if repeats < 2:
        return torch.full((rise.shape[1],), torch.nan, dtype=torch.float64)
    if rise.ndim == 2:
        error = rise.std(0) * math.sqrt(1 + 1 / (repeats - 1))
    else:
        again = (rise[1:].mean(0) - rise[0]).T
        error = (
            again.std(0) / math.sqrt(len(again))
            if len(again) > 1
            else torch.zeros(rise.shape[1], dtype=torch.float64)
        )
    return normal_quantile(0.975) * error


def _shuffled(model: Model, inputs: Tensor, order: Tensor, places: list[list[int]]) -> list[Tensor]:
    """Logits with each group of columns in another order of rows, one entry per group."""
    first, rest = _entry(model, inputs)
    found: list[list[Tensor]] = [[] for _ in places]
    copies = _COPIES.get(inputs.device.type, 1)
    for start in range(0, len(inputs), _ROWS.get(inputs.device.type, 8192)):
        part = inputs[start : start + _ROWS.get(inputs.device.type, 8192)]
        other = inputs[order[start : start + len(part)]]
        if first is not None:
            hidden = first(part)
            change = other - part
            for at, columns in enumerate(places):
                found[at].append(
                    logits_of(rest, hidden + change[:, columns] @ first.weight[:, columns].T)
                )
            continue
        block = part.repeat(copies, 1, 1)
        for begin in range(0, len(places), copies):
            chosen = places[begin : begin + copies]
            for copy, columns in enumerate(chosen):
                block[copy, :, columns] = other[:, columns]
            said = logits_of(model, block[: len(chosen)].flatten(0, 1).clone())
            for copy, columns in enumerate(chosen):
                found[begin + copy].append(
                    said.reshape(len(chosen), len(part), *said.shape[1:])[copy]
                )
                block[copy, :, columns] = part[:, columns]
    empty = [logits_of(model, inputs)] if not len(inputs) else []
    return [torch.cat(parts or empty) for parts in found]


def _entry(model: Model, inputs: Tensor) -> tuple[nn.Linear | None, Model]:
    """The first layer and the rest, where nothing but a linear layer sees the inputs: then a change
    of a column adds to it.

    Not where anything else is hung on these two modules, nor where rounding would show: with inputs
    that are not finite, or so far apart that what is taken off a sum of the layer leaves less than
    1e-5 of its usual size exact.
    """
    if type(model) is not nn.Sequential or len(model) < 2 or type(model[0]) is not nn.Linear:
        return None, model
    first = model[0]
    if any(
        key == "forward" or (key.endswith("_hooks") and len(value))
        for part in (model, first)
        for key, value in vars(part).items()
    ):
        return None, model
    largest = (
        (inputs.abs().amax(0) * first.weight.abs().amax(0)).max()
        if inputs.numel()
        else inputs.new_zeros(())
    )
    rounding = largest * torch.finfo(inputs.dtype).eps
    return (
        (first, model[1:])
        if bool(rounding <= 1e-5 * first(inputs[:1000]).abs().mean())
        else (None, model)
    )


def _logits(model: Model, inputs: Tensor) -> Tensor:
    """Logits of all rows, in pieces; of copies, since a network may change its input in place."""
    return torch.cat(
        [
            logits_of(model, part.clone())
            for part in torch.split(inputs, _ROWS.get(inputs.device.type, 8192))
        ]
    )


def _places(
    records: Records, columns: Sequence[str] | Mapping[str, Sequence[str]] | None, d: int
) -> dict[str, list[int]]:
    """Positions of each column or group, by name."""
    table = isinstance(records.features, pd.DataFrame)
    known = (
        list(map(str, records.features.columns))
        if isinstance(records.features, pd.DataFrame)
        else [f"feature_{i}" for i in range(d)]
    )
    wanted = (
        columns
        if isinstance(columns, Mapping)
        else {str(name): [name] for name in (known if columns is None else columns)}
    )
    if strangers := sorted({str(name) for group in wanted.values() for name in group} - set(known)):
        reject(
            "columns",
            f"columns among {known[:20]}",
            str(strangers),
            "Correct them." if table else "Columns are feature_0 and so on.",
        )
    return {label: [known.index(str(name)) for name in group] for label, group in wanted.items()}


def _metric(metric: str | Metric, greater_is_better: bool | None) -> tuple[Metric, str]:
    """A loss, one per row or one in all, and its name."""
    if isinstance(metric, str):
        if metric not in _METRICS:
            reject(
                "metric",
                f"{', '.join(_METRICS)} or a function",
                repr(metric),
                "Choose one of them.",
            )
        return _METRICS[metric], metric
    if not callable(metric):
        reject(
            "metric",
            f"{', '.join(_METRICS)} or a function",
            type(metric).__name__,
            "Pass e.g. torchmetrics' BinaryAUROC().",
        )
    better: Any = (
        getattr(metric, "higher_is_better", False)
        if greater_is_better is None
        else greater_is_better
    )
    label = getattr(metric, "__name__", type(metric).__name__)
    return (
        lambda logits, targets: -metric(logits, targets)
    ) if better else metric, f"{'loss of ' if better else ''}{label}"


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.ndim == 1:
        return binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return cross_entropy(logits, targets, reduction="none")


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    said = (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)
    return (said != targets).double()


def _squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(logits, targets.to(logits.dtype), reduction="none")


_METRICS: dict[str, Metric] = {"nll": _nll, "error": _error, "squared_error": _squared_error}

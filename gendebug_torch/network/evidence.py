"""`NetworkEvidence`: what a training shows of the inside of a network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import CYCLE, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.network.preflight_evidence import PreflightEvidence

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Measures of a layer at a sampled step, and of the whole run there. The gradient is the largest of
# an output in float16, over the backward passes of the step; updates are lost where elements in
# half precision stay as they were.
MEASURES = (
    "gradient_norm",
    "weight_norm",
    "update_norm",
    "signal_norm",
    "inactive_share",
    "saturated_share",
    "statistics_gap",
    "half_gradient",
    "lost_updates",
)
SERIES = (
    "loss",
    "gradient_norm",
    "loss_scale",
    "cross_entropy",
    "label_smoothing",
    "input_sum",
    "input_norm",
    "learning_rate",
)
_DRAWN = 6
_MIN_LOSSES = 8
_MIN_SAMPLES = 5


@dataclass(frozen=True)
class Layer:
    """One module that owns parameters or an activation that saturates.

    Args:
        name: dotted name.
        kind: name of its class.
        elements: number of its parameters' elements.
        trainable: whether one of its parameters requires a gradient.
        optimized: whether one of its trainable parameters is in an optimizer.
        called: whether its forward ran.
        without_gradient: dotted names of trainable parameters that never got a gradient.
        dead_share: share of its units that were inactive at every sampled step of the second half;
            None where too few steps or no gradients of its outputs were seen.
        dead_since: median of the last steps at which these units were active.
        rate: learning rate at the end; None where it is not in an optimizer.
        decay: weight decay.
    """

    name: str
    kind: str
    elements: int = 0
    trainable: bool = True
    optimized: bool = True
    called: bool = True
    without_gradient: tuple[str, ...] = ()
    dead_share: float | None = None
    dead_since: int | None = None
    rate: float | None = None
    decay: float = 0.0


@dataclass(frozen=True)
class NonFinite:
    """The first NaN or infinity of a run.

    Args:
        step: optimizer step in which it appeared.
        module: dotted name of the first module with such an output; empty where the loss alone was.
        place: `input`, `forward`, `weights` where the update of the step before made them so, or
            `loss` where every output was finite.
        before: dotted name of the module before whose outputs were finite; empty for none.
    """

    step: int
    module: str
    place: str
    before: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a whole run.

    Args:
        optimizer: name of the optimizer's class.
        decoupled: whether its weight decay is decoupled from the gradient.
        rows: rows of a batch.
        backwards: backward passes per optimizer step.
        start_loss: loss of the first batch before any update; None where no loss was seen.
        uniform_loss: loss of equal probabilities, or of zeros for quantities; None where unknown.
        constant_loss: loss of the best constant prediction of the first targets, smoothed as the
            loss smooths them.
        told_by_batch: share of the variance of the first targets that the batch explains beyond
            chance; None where unknown.
        told_by_position: share that the position in the batch explains.
        nonfinite: first NaN or infinity; None where there was none.
        training_calls: calls of Dropout and BatchNorm with gradients, in training mode and not.
        evaluation_calls: calls of them without gradients, in training mode and not.
        inference: steps with such calls in training mode, and all steps.
        single_rows: calls of BatchNorm in training with one row, and all of them.
        rank_spread: largest relative difference of a layer's weights between ranks.
        batches: batches of an epoch; None where unknown.
        notes: what was not seen.
    """

    optimizer: str = ""
    decoupled: bool = False
    rows: int = 0
    backwards: int = 1
    start_loss: float | None = None
    uniform_loss: float | None = None
    constant_loss: float | None = None
    told_by_batch: float | None = None
    told_by_position: float | None = None
    nonfinite: NonFinite | None = None
    training_calls: tuple[int, int] = (0, 0)
    evaluation_calls: tuple[int, int] = (0, 0)
    inference: tuple[int, int] = (0, 0)
    single_rows: tuple[int, int] = (0, 0)
    rank_spread: float | None = None
    batches: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides by the size of the gradient, as Adam and its kin do."""
        name = self.optimizer.lower()
        return any(kin in name for kin in ("ada", "lion", "rmsprop", "lamb", "muon", "novograd"))


def first_since(step: Tensor, share: float) -> int:
    """Index of the first sampled step behind a share of the steps, and of the samples.

    Later samples are further from each other. At least five are left if that many are behind this
    share of the samples.

    Args:
        step: sampled steps, `[t]`.
        share: share of the steps that is left out at the start.
    """
    samples = int(share * len(step))
    if not len(step):
        return 0
    steps = int(torch.searchsorted(step, share * float(step[-1])))
    return max(samples, min(steps, len(step) - _MIN_SAMPLES))


@dataclass(frozen=True)
class LossChange:
    """Mean losses of a run, and how sure they are.

    Args:
        start: mean of the first three sampled losses, or the first where that is lower: an update
            that is far too large raises the ones behind it.
        middle: mean of the second quarter.
        end: mean of the last quarter.
        error: standard error of a mean of that many losses.
    """

    start: float
    middle: float
    end: float
    error: float

    def fell(self, share: float, *, z: float = 3.0) -> bool:
        """Whether the end is below the start by more than its error and this share of it.

        Args:
            share: share of the loss at the start.
            z: standard errors.
        """
        return self.end < self.start - max(z * self.error, share * abs(self.start))


@dataclass(frozen=True, eq=False)
class NetworkEvidence:
    """Norms, shares and losses of a training at its sampled steps.

    Args:
        layers: l layers in the order in which they are called.
        step: sampled optimizer steps, `[t]` int64, the first is 1.
        values: `[t, l, 9]` float64 by `MEASURES`; NaN where a layer has no such measure. Norms are
            over the weights (parameters of two and more dimensions) where a layer has them.
        series: `[t, 8]` float64 by `SERIES`; the loss is the mean since the sampled step before.
        facts: what is known of the whole run.
        preflight: answers of the probes before a run; None for a training.

    Example:
        >>> import torch
        >>> layer = Layer("body.0", "Linear")
        >>> values, series = torch.ones(2, 1, 9), torch.ones(2, 8)
        >>> NetworkEvidence((layer,), torch.arange(2), values, series).update_ratio.tolist()
        [[1.0], [1.0]]
    """

    layers: tuple[Layer, ...]
    step: Tensor
    values: Tensor
    series: Tensor
    facts: RunFacts = field(default_factory=RunFacts)
    preflight: PreflightEvidence | None = None

    def __len__(self) -> int:
        return len(self.step)

    @property
    def steps(self) -> int:
        """The last sampled step."""
        return int(self.step[-1]) if len(self) else 0

    def measure(self, name: str) -> Tensor:
        """One measure, `[t, l]`."""
        return self.values[:, :, MEASURES.index(name)]

    def run(self, name: str) -> Tensor:
        """One series, `[t]`."""
        return self.series[:, SERIES.index(name)]

    @property
    def whole(self) -> bool:
        """Whether the record begins with the first step; not in a run resumed without it."""
        return not len(self) or int(self.step[0]) == 1

    @property
    def update_ratio(self) -> Tensor:
        """Norm of the update over that of the weights before it, `[t, l]`."""
        return self.measure("update_norm") / self.measure("weight_norm").clamp(min=1e-30)

    @property
    def holders(self) -> set[str]:
        """Names of the layers that hold others; the whole is named by its class."""
        names = [layer.name for layer in self.layers]
        inner = {name for name in names if any(one.startswith(f"{name}.") for one in names)}
        return inner | {layer.name for layer in self.layers if layer.name == layer.kind}

    @property
    def typical_ratio(self) -> Tensor:
        """Median of the update ratios over the layers that have one, `[t]`."""
        ratio = self.update_ratio
        return ratio.where(ratio.isfinite() & (ratio > 0), torch.nan).nanmedian(1).values

    def median(self, values: Tensor, *, since: float = 0.0) -> Tensor:
        """Medians over the steps, `[l]`; NaN where a layer has no values.

        Args:
            values: a measure, `[t, l]`.
            since: share of the steps that is left out at the start.
        """
        kept = values[first_since(self.step, since) :]
        missing = values.new_full((1, values.shape[1]), torch.nan)
        return (kept if len(kept) else missing).nanmedian(0).values

    @property
    def change(self) -> LossChange | None:
        """How the loss changed; None where fewer than eight finite losses were recorded."""
        loss = self.run("loss")
        loss = loss[loss.isfinite()]
        if len(loss) < _MIN_LOSSES:
            return None
        start = min(float(loss[0]), float(loss[:3].mean()))
        middle, end = loss[len(loss) // 4 : len(loss) // 2], loss[-(len(loss) // 4) :]
        # Neighbouring losses differ by noise and not by trend.
        noise = float(loss.diff()[1:].square().mean().sqrt()) / 2**0.5
        return LossChange(start, float(middle.mean()), float(end.mean()), noise / len(end) ** 0.5)

    def table(self) -> pd.DataFrame:
        """One row per layer: medians over the steps, dead units, and since when."""
        import pandas as pd

        columns: dict[str, Any] = {
            "layer": [layer.name for layer in self.layers],
            "kind": [layer.kind for layer in self.layers],
            "parameters": [layer.elements for layer in self.layers],
            "update_ratio": self.median(self.update_ratio).numpy(),
        }
        columns |= {name: self.median(self.measure(name)).numpy() for name in MEASURES}
        columns["dead_share"] = [layer.dead_share for layer in self.layers]
        columns["dead_since"] = [layer.dead_since for layer in self.layers]
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Small multiples over the steps: loss, gradient norm, update ratio, inactive units."""
        ax = axes(ax, size=(6.0, 7.0))
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[], xlabel="optimizer step", title="Inside the network")
        ax.spines["left"].set_visible(False)
        ax.spines["bottom"].set_visible(False)
        panels = [
            ("loss", self.run("loss")[:, None], False),
            ("gradient norm", self.measure("gradient_norm"), True),
            ("update ratio", self.update_ratio, True),
            ("inactive units", self.measure("inactive_share"), False),
        ]
        for at, (label, values, logarithmic) in enumerate(panels):
            inset = axes(ax.inset_axes((0.1, 0.78 - 0.245 * at, 0.88, 0.19)))
            self._draw(inset, values, logarithmic)
            inset.set_title(label, fontsize="small", loc="left", pad=2)
            inset.tick_params(labelsize="x-small", labelbottom=at == len(panels) - 1)
        return ax

    def _draw(self, inset: Axes, values: Tensor, logarithmic: bool) -> None:
        """A line per layer, the first and last few in color."""
        columns = values.isfinite().any(0).nonzero()[:, 0].tolist()
        if logarithmic:
            values = values.clamp(min=1e-12)
            inset.set_yscale("log")
        step = self.step.numpy()
        few = len(columns) <= _DRAWN
        for order, at in enumerate(columns):
            name = self.layers[at].name if values.shape[1] == len(self.layers) else ""
            color = CYCLE[order % len(CYCLE)] if few else NEUTRAL
            if not few and order in (0, len(columns) - 1):
                color = REFERENCE if order == 0 else LIVE
            label = name if few or order in (0, len(columns) - 1) else None
            inset.plot(step, values[:, at].numpy(), color=color, linewidth=1.0, label=label or None)
        if len(columns) > 1:
            inset.legend(frameon=False, fontsize=5, ncols=3)

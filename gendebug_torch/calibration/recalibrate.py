"""Recalibrate a network and say, on rows it was not fitted on, what that changed."""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.binning import ReliabilityBins, reliability_bins
from gendebug_torch.calibration.temperature import Temperature, fit_temperature
from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.records import Records
from gendebug_torch.runner import Model, Precision, Unpack, collect, evaluating, logits_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FOLDS = 5
_PROBE_ROWS = 16


class ScaledModel(nn.Module):
    """A network whose logits are divided by a temperature; ranking and accuracy stay as they were."""

    temperature: Tensor

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Logits of the network divided by the temperature."""
        logits: Tensor = self.model(*inputs, **named)
        return logits / self.temperature


@dataclass(frozen=True, eq=False)
class Scores:
    """Proper scores of logits against labels: mean log loss and mean Brier score, lower is better."""

    nll: float
    brier: float


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What recalibration found, chose and changed.

    Args:
        model: the recalibrated network; the given one where nothing was chosen; None if logits were given.
        temperature: fitted on all rows.
        before: reliability of the given logits.
        after: reliability out of fold, each row scaled by a temperature that did not see it.
        scores: proper scores before and, out of fold, after.
        chosen: `temperature`, or `none` where it does not help on rows it has not seen.
        probe: a few inputs on which folding is verified.
    """

    model: nn.Module | None
    temperature: Temperature
    before: ReliabilityBins
    after: ReliabilityBins
    scores: tuple[Scores, Scores]
    chosen: str
    probe: Any = None

    def table(self) -> pd.DataFrame:
        """Log loss, Brier score, ECE with interval, and mean confidence, before and after."""
        import pandas as pd

        rows = []
        for bins, scores in ((self.before, self.scores[0]), (self.after, self.scores[1])):
            low, high = bins.interval()
            row = {"nll": scores.nll, "brier": scores.brier, "ece": bins.ece, "ece_low": low, "ece_high": high}
            rows.append(row | {"mean_confidence": bins.mean_confidence, "accuracy": bins.accuracy})
        return pd.DataFrame({"rows": ["before", "after (out of fold)"]} | {key: [row[key] for row in rows] for key in rows[0]})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram after recalibration, out of fold."""
        return self.after.plot(ax)

    def fold(self) -> nn.Module:
        """A copy of the user's network with 1 / T folded into its last linear layer, so that serving costs nothing.

        Raises:
            UnsupportedError: nothing was chosen, or the network does not end in a linear layer (checked on real inputs).
        """
        if not isinstance(self.model, ScaledModel):
            raise UnsupportedError("there is no temperature to fold: none was chosen, or no network was given")
        folded = copy.deepcopy(self.model.model)
        linear = [module for module in folded.modules() if isinstance(module, nn.Linear)]
        if linear:
            with torch.no_grad():
                for parameter in linear[-1].parameters(recurse=False):
                    parameter.div_(self.model.temperature.to(parameter))
            with torch.no_grad(), evaluating(folded), evaluating(self.model):
                same = torch.allclose(logits_of(folded, self.probe), logits_of(self.model, self.probe), rtol=1e-4, atol=1e-5)
            if same:
                return folded
        raise UnsupportedError("the last linear layer does not make the logits, so that 1 / T cannot be folded in; ship `.model` instead")

    def save(self, directory: str | Path) -> Path:
        """Write `calibration.json` and, with a network, `model.safetensors`; each whole or not at all.

        Raises:
            InputError: the directory cannot be written.
        """
        target = Path(directory)
        scores = {"before": asdict(self.scores[0]), "after": asdict(self.scores[1])}
        ece = {"before": self.before.ece, "after": self.after.ece}
        fitted = {key: value if math.isfinite(value) else None for key, value in asdict(self.temperature).items()}
        text = json.dumps({"chosen": self.chosen, **fitted, "scores": scores, "ece": ece}, indent=2, allow_nan=False) + "\n"
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
                (Path(scratch) / "calibration.json").write_text(text)
                if self.model is not None:
                    from safetensors.torch import save_model

                    save_model(self.model, str(Path(scratch) / "model.safetensors"))
                for path in Path(scratch).iterdir():
                    os.replace(path, target / path.name)
        except OSError as error:
            reject("directory", "a directory that can be written", f"{target}: {error.strerror}", "Choose another directory.")
        return target


def recalibrate(
    model: Model | None,
    loader: Any,
    *,
    bins: int = 15,
    seed: int = 0,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    progress: bool = False,
) -> Recalibration:
    """Fit a temperature on held-out labeled rows and judge it on rows each fit has not seen.

    The temperature is chosen only if, over five folds, both the log loss and the calibration error out of
    fold are lower than before; else the network comes back as it was.

    Args:
        model: network to logits `[n]` or `[n, k]`; never changed. None with records that hold logits.
        loader: labeled rows the network was not trained on: DataLoader, batches, or Records.
        bins: of the reliability diagrams.
        seed: of the folds.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one.
        precision: as in Lightning.
        batch_size: rows at once for Records.
        progress: show a bar.

    Raises:
        InputError: no labels, no class targets, fewer rows than folds, or a loader that yields something unknown.

    Cost: one pass of the network, then about twelve reads of the logits.

    Source: Guo et al. (2017), arXiv:1706.04599; out-of-fold choice after Stone (1974), JRSS B 36:111.
    """
    records, probe = _collected(model, loader, unpack, device, precision, batch_size, progress)
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        got = "none" if targets is None else f"{targets.dtype} {list(targets.shape)}"
        reject("loader", "rows with logits and class targets [n]", got, "Pass held-out rows with their labels.")
    if len(records) < 2 * _FOLDS:
        reject("loader", f"at least {2 * _FOLDS} rows", str(len(records)), "Pass more held-out rows.")
    fitted = fit_temperature(logits, targets)
    scaled = out_of_fold(logits, targets, seed=seed)
    before, after = (reliability_bins(z, targets, bins=bins) for z in (logits, scaled))
    scores = proper_scores(logits, targets), proper_scores(scaled, targets)
    helps = not fitted.unbounded and scores[1].nll < scores[0].nll and after.ece <= before.ece
    given = model if isinstance(model, nn.Module) else None
    if given is None and model is not None and callable(model):
        given = _Wrapped(model)
    out = ScaledModel(given, fitted.temperature).eval() if helps and given is not None else given
    return Recalibration(out, fitted, before, after, scores, "temperature" if helps else "none", probe)


def out_of_fold(logits: Tensor, targets: Tensor, *, folds: int = _FOLDS, seed: int = 0) -> Tensor:
    """Logits `[n, k]` or `[n]`, each fold divided by the temperature that the others gave; unbounded fits change nothing."""
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    scaled = logits.clone()
    for fold in range(folds):
        held = order[fold::folds]
        rest = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        rest[held] = False
        fitted = fit_temperature(logits[rest], targets[rest])
        if not fitted.unbounded:
            scaled[held] = fitted(logits[held])
    return scaled


def proper_scores(logits: Tensor, targets: Tensor) -> Scores:
    """Mean log loss and mean Brier score (Brier, 1950: squared distance of the probabilities from the label)."""
    z = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    log_probs = z.double().log_softmax(1)
    own = log_probs.gather(1, targets[:, None])[:, 0]
    brier = log_probs.exp().square().sum(1) - 2 * own.exp() + 1
    return Scores(float(-own.mean()), float(brier.mean()))


class _Wrapped(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, **named)


def _collected(
    model: Model | None, loader: Any, unpack: Unpack | None, device: Any, precision: Precision, batch_size: int | None, progress: bool
) -> tuple[Records, Any]:
    """Records with logits, and a few inputs of the network."""
    if model is None:
        if not isinstance(loader, Records):
            reject("model", "a network, or Records that hold logits", "neither", "Pass the network whose logits are to be scaled.")
        return loader, None
    seen: list[Any] = []

    def remember(inputs: Any) -> Tensor:
        if not seen:
            seen.append(_first_rows(inputs))
        return logits_of(model, inputs)

    target = _Remembering(model, remember) if isinstance(model, nn.Module) else remember
    how: dict[str, Any] = {"unpack": unpack, "device": device, "precision": precision, "batch_size": batch_size}
    records = collect(target, loader, keep_features=False, progress=progress, **how)
    return records, seen[0] if seen else None


class _Remembering(nn.Module):
    """The network, keeping its first inputs; its own state is the network's."""

    def __init__(self, model: nn.Module, remember: Any) -> None:
        super().__init__()
        self.model = model
        self.remember = remember

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        logits: Tensor = self.remember(named or (inputs[0] if len(inputs) == 1 else inputs))
        return logits


def _first_rows(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[:_PROBE_ROWS].detach().cpu()
    if isinstance(inputs, dict):
        return {key: _first_rows(value) for key, value in inputs.items()}
    return type(inputs)(_first_rows(value) for value in inputs) if isinstance(inputs, (tuple, list)) else inputs

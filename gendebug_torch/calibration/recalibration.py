"""Recalibrate a network and say, on rows it was not fitted on, what that changed."""

from __future__ import annotations

import copy
import math
import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.grouping import group_ids
from gendebug_torch.calibration.map_choice import (
    Candidate,
    choose,
    default_candidates,
    fits_for,
    judge_candidates,
    per_question,
    questions,
)
from gendebug_torch.calibration.maps.folding import fold_affine
from gendebug_torch.calibration.maps.modules import CalibratedModel, Fitted, affine_parts, as_module
from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.measures.dependent_rows import temperature_error
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.calibration.model_outputs import validated
from gendebug_torch.calibration.saving import data_hash, fitted_facts, save_artefact
from gendebug_torch.data.batches import Unpack
from gendebug_torch.data.records import Records
from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.model.runner import Model, Precision, logits_of, map_rows
from gendebug_torch.stats.logit_scaling import AffineFit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PROBE_ROWS = 16
# A network that is right this often on "held-out" rows has most likely been trained on them.
_SUSPICIOUS = 0.9995


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What recalibration found, chose and changed.

    Args:
        chosen: name of the map, or `none` where nothing helps beyond noise on rows it has not seen.
        reason: why, in one sentence.
        fitted: the map, fitted on all rows; None where nothing was chosen.
        temperature: fitted on all rows, whether chosen or not.
        candidates: every map that was tried, judged out of fold, and `none`.
        warnings: what speaks against these rows, e.g. that the network was trained on them.
        data: SHA-256 of the rows.
        bins: of the diagrams.
        network: the given network, as it was; None if logits were given.
        probe: a few inputs on which folding is verified.
    """

    chosen: str
    reason: str
    fitted: Fitted | None
    temperature: Temperature
    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...]
    data: str
    bins: int = 15
    network: nn.Module | None = None
    probe: Any = None

    @cached_property
    def model(self) -> nn.Module | None:
        """The recalibrated network, a copy in evaluation mode; the given one where nothing was
        chosen; None without one.
        """
        if self.network is None or self.fitted is None:
            return self.network
        calibrated = CalibratedModel(copy.deepcopy(self.network), as_module(self.fitted))
        for module in calibrated.modules():
            # Not `.eval()`: an exported program refuses it, though it has no mode.
            module.training = False
        return calibrated

    def candidate(self, name: str) -> Candidate:
        """One of the maps that were tried; `none` is the network as it was."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    @property
    def before(self) -> ReliabilityBins:
        """Reliability of the given logits."""
        return self.candidate("none").sums.bins(self.bins)

    @property
    def after(self) -> ReliabilityBins:
        """Reliability of the chosen map out of fold: each row mapped by a fit that did not see
        it.
        """
        return self.candidate(self.chosen).sums.bins(self.bins)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits of the network mapped as chosen; as they are where nothing was."""
        return logits if self.fitted is None else self.fitted(logits)

    def table(self) -> pd.DataFrame:
        """Before and, out of fold, after: log loss, Brier score and ECE, each with its 95 %
        interval.
        """
        import pandas as pd

        rows = []
        for label, name in (("before", "none"), ("after (out of fold)", self.chosen)):
            candidate = self.candidate(name)
            found = {measure.measure: measure for measure in candidate.measures}
            row: dict[str, Any] = {"rows": label}
            for measure, told in found.items():
                row |= {
                    measure: told.value,
                    f"{measure}_low": told.low,
                    f"{measure}_high": told.high,
                }
            bins = candidate.sums.bins(self.bins)
            rows.append(
                row
                | {
                    "ece_null": found["ece"].null,
                    "mean_confidence": bins.mean_confidence,
                    "accuracy": bins.accuracy,
                }
            )
        return pd.DataFrame(rows)

    def comparison(self) -> pd.DataFrame:
        """Every map that was tried, out of fold: log loss gained with its standard error, ECE,
        predictions changed.
        """
        import pandas as pd

        rows = [
            [c.name, c.sums.nll, c.gain, c.gain_error, c.ece, c.changed, c.name == self.chosen]
            for c in self.candidates
        ]
        return pd.DataFrame(
            rows, columns=["map", "nll", "gain", "gain_error", "ece", "changed", "chosen"]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram after recalibration, out of fold."""
        return self.after.plot(ax)

    def fold(self) -> nn.Module:
        """A copy of the user's network with the map folded into its last layer, so that serving
        costs nothing.

        Where nothing was chosen the copy is the network as it was.

        Raises:
            UnsupportedError: no network was given, the map is not affine, or the network does not
                end in a linear or convolution layer (checked on real inputs).
        """
        if self.network is None:
            raise UnsupportedError(
                "there is nothing to fold into: recalibrate was given logits, not a network"
            )
        if self.fitted is None:
            return copy.deepcopy(self.network)
        if not isinstance(self.fitted, (Temperature, AffineFit)):
            raise UnsupportedError(
                f"{self.chosen} is not affine and cannot be folded; ship `.model`, or pass "
                "candidates=('temperature',)"
            )
        return fold_affine(self.network, *affine_parts(self.fitted), self.probe)

    def save(self, directory: str | Path) -> Path:
        """Write `calibration.json`, the map and, with a network, `model.safetensors`; each whole or
        not at all.

        Raises:
            InputError: the directory cannot be written.
        """
        none, after = self.candidate("none").sums, self.candidate(self.chosen).sums
        t = self.temperature
        facts = {
            "chosen": self.chosen,
            "reason": self.reason,
            "temperature": t.temperature if math.isfinite(t.temperature) else None,
            "standard_error": t.standard_error if math.isfinite(t.standard_error) else None,
            "converged": t.converged,
            "unbounded": t.unbounded,
            "parameters": fitted_facts(self.fitted),
            "scores": {
                "before": {"nll": none.nll, "brier": none.brier},
                "after": {"nll": after.nll, "brier": after.brier},
            },
            "ece": {"before": self.before.ece, "after": self.after.ece},
            "rows": self.before.total,
            "data_sha256": self.data,
            "warnings": list(self.warnings),
            "gendebug_torch": version("gendebug_torch"),
            "torch": str(torch.__version__),
        }
        return save_artefact(directory, facts, self.fitted, self.model)


def recalibrate(
    model: Model | None,
    loader: Any,
    *,
    candidates: Sequence[str] | None = None,
    keep_predictions: bool = True,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    expected_accuracy: float | None = None,
    bins: int = 15,
    folds: int = 5,
    seed: int = 0,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    progress: bool = False,
) -> Recalibration:
    """Try maps of the logits on held-out labeled rows, and keep the best that helps beyond noise on
    rows it has not seen.

    Targets `[n]` are class ids, `[n, k]` of 0 and 1 yes/no labels each; of dense `[n, k, ...]`
    logits every position is a row. Positions of one sample, and rows of one group of the schema,
    are not independent: folds and intervals go by whole samples or groups (the errors of the
    parameters beside T do not).

    Args:
        model: network to logits `[n]`, `[n, 1]`, `[n, k]` or `[n, k, ...]`; never changed. None
            with records that hold logits.
        loader: labeled rows the network was not trained on: DataLoader, batches, or Records.
        candidates: among `temperature, bias_corrected, vector, top_platt, top_beta, isotonic`, for
            labels among `temperature, label_temperature, label_platt`; default: those that fit the
            head.
        keep_predictions: leave out maps that change a prediction.
        weights: `[n]` of the rows (samples), in their order; a weight of 2 counts as two.
            Importance weights are to be scaled to sum to the rows they are worth,
            `sum(w)^2 / sum(w^2)`.
        ignore_index: target of rows or positions that do not count.
        expected_accuracy: seen in validation; much more here means that these rows were trained on.
        bins: of the reliability diagrams.
        folds: parts of the rows for the comparison.
        seed: of the folds.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one.
        precision: as in Lightning.
        batch_size: rows at once for Records.
        progress: show a bar.

    Raises:
        InputError: no labels, no class targets, fewer rows than folds, or a loader that yields
            something unknown.

    Source: Guo et al. (2017), arXiv:1706.04599; out-of-fold choice after Stone (1974), JRSS B
    36:111.
    """
    how: dict[str, Any] = {
        "unpack": unpack,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "progress": progress,
    }
    rows = _collected(model, loader, weights, ignore_index, how)
    logits, targets, mass, groups = rows.logits, rows.targets, rows.weights, rows.groups
    independent = len(logits) if groups is None else int(groups.max()) + 1 if len(groups) else 0
    if independent < 2 * folds:
        reject(
            "loader",
            f"at least {2 * folds} rows (samples of a dense head, groups)",
            str(independent),
            "Pass more held-out rows.",
        )
    names = (
        default_candidates(logits, targets, keep_predictions)
        if candidates is None
        else tuple(candidates)
    )
    judged = judge_candidates(
        logits, targets, names, weights=mass, groups=groups, bins=bins, folds=folds, seed=seed
    )
    chosen, reason = choose(judged, keep_predictions=keep_predictions)
    fitted = None if chosen == "none" else fits_for(targets)[chosen](logits, targets, weights=mass)
    temperature = _temperature(rows)
    told = _suspicions(
        judged[0].sums.bins(), temperature, expected_accuracy, independent, targets.ndim == 2
    )
    for warning in told:
        python_warnings.warn(warning, stacklevel=2)
    given = _Wrapped(model) if model is not None and not isinstance(model, nn.Module) else model
    digest = data_hash(*(part for part in (logits, targets, mass) if part is not None))
    return Recalibration(
        chosen, reason, fitted, temperature, judged, told, digest, bins, given, rows.probe
    )


def _temperature(rows: _Rows) -> Temperature:
    asked, mass = questions(rows.logits, rows.targets), per_question(rows.weights, rows.targets)
    fitted = fit_temperature(*asked, weights=mass)
    groups = per_question(rows.groups, rows.targets)
    if groups is None or fitted.unbounded:
        return fitted
    return replace(
        fitted, standard_error=temperature_error(*asked, groups, fitted.temperature, weights=mass)
    )


def _suspicions(
    seen: ReliabilityBins,
    temperature: Temperature,
    expected: float | None,
    n: int,
    multilabel: bool,
) -> tuple[str, ...]:
    """Signs that these n rows are not held out, or cannot tell a temperature."""
    told = []
    accuracy = seen.accuracy
    if expected is not None and accuracy - expected > 3 * math.sqrt(
        max(expected * (1 - expected), 1e-12) / max(n, 1)
    ):
        told.append(
            f"The network is right in {accuracy:.1%} of these rows, {expected:.1%} were expected: "
            "was it trained on them?"
        )
    elif expected is None and accuracy >= _SUSPICIOUS and n >= 1000 and not multilabel:
        # Of many rare labels nearly all are told right by saying no.
        told.append(
            f"The network is right in {accuracy:.2%} of these {n:,} rows: pass rows that it was "
            "not trained on."
        )
    if temperature.unbounded:
        what = (
            "every row is right"
            if temperature.temperature == 0
            else "the logits carry nothing beyond noise about these labels"
        )
        told.append(f"No finite temperature can be told: {what}.")
    return tuple(told)


class _Wrapped(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, **named)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows that count: `[n, k]` or `[n]` logits, targets, weights, ids of what is independent;
    inputs of the network.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None
    groups: Tensor | None
    probe: Any


def _collected(
    model: Model | None,
    loader: Any,
    weights: Tensor | None,
    ignore_index: int | None,
    how: dict[str, Any],
) -> _Rows:
    seen: list[Any] = []
    if model is None:
        if not isinstance(loader, Records):
            reject(
                "model",
                "a network, or Records that hold logits",
                "neither",
                "Pass the network whose logits are to be scaled.",
            )
        if loader.logits is None:
            reject("loader", "records with logits", "none", "Pass the network that makes them too.")
        rows = _counted(loader.logits, loader.targets, ignore_index)
    else:
        network = model

        def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
            if not seen:
                seen.append(_first_rows(inputs))
            return _counted(logits_of(network, inputs), targets, ignore_index)

        rows = map_rows(step, loader, model=network, **how)
    # The door of all rows: it refuses NaN, and a masked class that is the target.
    records = Records(logits=rows["logits"], targets=rows["targets"], name="loader")
    assert records.logits is not None
    assert records.targets is not None
    kept = rows["kept"]
    groups = group_ids(loader) if isinstance(loader, Records) else None
    if groups is None and len(records) and int(kept.max()) > 1:
        groups = torch.arange(len(kept))
    mass = None if weights is None else _checked(weights, len(kept))
    places = None if groups is None else torch.repeat_interleave(groups.to(kept.device), kept)
    return _Rows(
        records.logits,
        records.targets,
        None if mass is None else torch.repeat_interleave(mass.to(kept.device), kept),
        places,
        *seen or [None],
    )


def _checked(weights: Tensor, n: int) -> Tensor:
    if (
        weights.shape != (n,)
        or not bool((weights >= 0).all())
        or not bool(weights.isfinite().all())
        or not float(weights.sum()) > 0
    ):
        reject(
            "weights",
            f"[{n}] non-negative, not all 0",
            f"{weights.dtype} {list(weights.shape)}",
            "Pass one weight per row or sample.",
        )
    return weights.double()


def _counted(logits: Tensor, targets: Tensor | None, ignore_index: int | None) -> dict[str, Tensor]:
    """The rows that count, logits in float32 at least, and how many there are of each given row or
    sample.
    """
    if targets is None:
        reject(
            "loader",
            "rows with logits and class targets",
            "no targets",
            "Pass held-out rows with their labels.",
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if targets.ndim == 2 and targets.shape == logits.shape:
        asked = targets.long()
        if bool((asked != targets).any()) or bool(((asked != 0) & (asked != 1)).any()):
            reject(
                "targets",
                "0 or 1 for each label",
                f"{float(targets.min()):.3g}..{float(targets.max()):.3g}",
                "Pass hard labels.",
            )
        return {"logits": logits, "targets": asked, "kept": torch.ones_like(asked[:, 0])}
    validated(logits, targets, None, ignore_index)
    kept = (
        torch.ones_like(targets, dtype=torch.bool)
        if ignore_index is None
        else targets != ignore_index
    )
    rows = logits if logits.ndim == 1 else logits.movedim(1, -1)
    return {
        "logits": rows[kept],
        "targets": targets[kept].long(),
        "kept": torch.bincount(kept.nonzero()[:, 0], minlength=len(kept)),
    }


def _first_rows(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[:_PROBE_ROWS].detach().cpu()
    if isinstance(inputs, dict):
        return {key: _first_rows(value) for key, value in inputs.items()}
    return (
        type(inputs)(_first_rows(value) for value in inputs)
        if isinstance(inputs, (tuple, list))
        else inputs
    )

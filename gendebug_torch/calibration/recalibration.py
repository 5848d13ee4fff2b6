"""Recalibration of a network, evaluated on rows that the map was not fitted on."""

from __future__ import annotations

import math
import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.map_choice import (
    chosen_map,
    default_candidates,
    evaluated_candidates,
    fits_for,
    repeated_per_label,
)
from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.measures.dependent_rows import temperature_error
from gendebug_torch.calibration.result import Recalibration
from gendebug_torch.calibration.rows.held_out_rows import (
    HeldOutRows,
    as_binary_rows,
    fit_device,
    held_out_rows,
)
from gendebug_torch.calibration.saving import data_hash
from gendebug_torch.data.task import IGNORED, are_probabilities
from gendebug_torch.errors import reject
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.devices import Precision
from gendebug_torch.model.evaluation import Model
from gendebug_torch.progress import progress_bar

# A network that is right this often on "held-out" rows has most likely been trained on them.
_TRAINING_ACCURACY, _MIN_ROWS = 0.9995, 1000


def recalibrate(
    model: Model | None,
    loader: Any,
    *,
    candidates: Sequence[str] | None = None,
    keep_predictions: bool = True,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    multilabel: bool | None = None,
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
    """The best calibration map of a network's logits, if any helps beyond noise on unseen rows.

    Each candidate map is fitted to held-out labeled rows and evaluated out of fold. Targets `[n]`
    are class ids, targets `[n, k]` of 0 and 1 are k binary labels; of dense `[n, k, ...]` logits
    every position is a row. Positions of one sample, and rows of one group of the schema, are not
    independent: folds and intervals go by whole samples or groups (the errors of the parameters
    beside T do not).

    Args:
        model: network to logits `[n]`, `[n, 1]`, `[n, k]` or `[n, k, ...]`; never changed. None
            with records that hold logits.
        loader: labeled rows the network was not trained on: DataLoader, batches, or Records.
        candidates: names among `temperature, bias_corrected, vector, top_platt, top_beta,
            isotonic`, for labels among `temperature, label_temperature, label_platt`; default:
            those that suit the head.
        keep_predictions: whether to leave out maps that change a prediction.
        weights: weights `[n]` of the rows (samples), in their order; a weight of 2 counts as two
            rows. Scale importance weights to sum to their effective sample size,
            `sum(w)^2 / sum(w^2)`.
        ignore_index: target of rows or positions that do not count, beside NaN and -100.
        multilabel: whether targets `[n, k]` are k labels per row (True) or one-hot rows (False);
            default: one-hot, with a warning, if each row has exactly one.
        expected_accuracy: accuracy in validation; a much higher one here means that the network was
            trained on these rows.
        bins: number of bins of the reliability diagrams.
        folds: number of parts of the rows for the comparison.
        seed: seed of the folds.
        unpack: function from a batch to (inputs, targets).
        device: device of the forward passes; `auto` is CUDA where there is one.
        precision: precision as in Lightning.
        batch_size: rows at once for Records.
        progress: whether to show a progress bar.

    Raises:
        InputError: no labels, no class targets, fewer rows than folds, or a loader that yields
            something unknown.

    Source: Guo et al. (2017), arXiv:1706.04599; out-of-fold choice after Stone (1974), JRSS B
    36:111.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial((2 * inputs).softmax(1), 1, generator=generator)[:, 0]
        >>> overconfident = nn.Linear(3, 3, bias=False)
        >>> _ = overconfident.weight.data.copy_(6 * torch.eye(3))
        >>> result = recalibrate(overconfident, [(inputs, targets)], candidates=["temperature"])
        >>> print(f"{result.chosen}: ECE {result.before.ece:.0%} -> {result.after.ece:.0%}")
        temperature: ECE 16% -> 2%
        >>> deployable = result.fold()
    """
    how: dict[str, Any] = {
        "unpack": unpack,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "progress": progress,
    }
    rows = held_out_rows(
        model,
        loader,
        weights=weights,
        ignore_index=ignore_index,
        multilabel=multilabel,
        how=how,
    ).to(fit_device(model, device))
    if rows.independent < 2 * folds:
        reject(
            "loader",
            f"at least {2 * folds} rows (samples of a dense head, groups)",
            str(rows.independent),
            "Pass more held-out rows.",
        )
    if candidates is None:
        candidates = default_candidates(rows.logits, rows.targets, keep_predictions)
    names = tuple(candidates)
    with progress_bar(folds * len(names), "fits", show=progress) as count:
        evaluated = evaluated_candidates(
            rows.logits,
            rows.targets,
            names,
            weights=rows.weights,
            groups=rows.groups,
            bins=bins,
            folds=folds,
            seed=seed,
            count=count,
        )
    chosen, reason = chosen_map(evaluated, keep_predictions=keep_predictions)
    fit = fits_for(rows.targets).get(chosen)
    fitted = None if fit is None else fit(rows.logits, rows.targets, weights=rows.weights)
    temperature = _temperature(rows)
    accuracy = evaluated[0].sums.bins().accuracy
    warnings = _warnings(rows, accuracy, expected_accuracy, temperature)
    for warning in warnings:
        python_warnings.warn(warning, stacklevel=2)
    outcome = (chosen, reason, fitted, temperature, evaluated, warnings)
    digest = data_hash(rows.logits, rows.targets, rows.weights)
    return Recalibration(*outcome, digest, bins, _as_network(model), rows.probe)


def _as_network(model: Model | None) -> nn.Module | None:
    model = None if model is None else as_model(model)
    return model if model is None or isinstance(model, nn.Module) else _CallableModule(model)


def _temperature(rows: HeldOutRows) -> Temperature:
    """The temperature of all rows, with its standard error over what is independent."""
    outputs = as_binary_rows(rows.logits, rows.targets)
    weights = repeated_per_label(rows.weights, rows.targets)
    fitted = fit_temperature(*outputs, weights=weights, ignore_index=IGNORED)
    groups = repeated_per_label(rows.groups, rows.targets)
    if groups is None or fitted.unbounded:
        return fitted
    error = temperature_error(
        *outputs, groups, fitted.temperature, weights=weights, ignore_index=IGNORED
    )
    return replace(fitted, standard_error=error)


def _warnings(
    rows: HeldOutRows, accuracy: float, expected: float | None, temperature: Temperature
) -> tuple[str, ...]:
    """Signs that the rows are not held out, or do not determine a temperature."""
    n, warnings = rows.independent, []
    if are_probabilities(rows.logits):
        kind = "lies in [0, 1]" + (" and sums to 1" if rows.logits.ndim > 1 else "")
        warnings.append(
            f"The outputs look like probabilities, since every row {kind}, but they are read as "
            "logits. If the network ends in a softmax or sigmoid, pass the values before it, or "
            "the logarithm of the probabilities."
        )
    if expected is not None:
        error = math.sqrt(max(expected * (1 - expected), 1e-12) / max(n, 1))
        if accuracy - expected > 3 * error:
            warnings.append(
                f"The accuracy on these rows is {accuracy:.1%}, but {expected:.1%} was expected. "
                "Was the network trained on them?"
            )
    # Of many rare labels nearly all are predicted correctly by saying no.
    elif accuracy >= _TRAINING_ACCURACY and n >= _MIN_ROWS and rows.targets.ndim == 1:
        warnings.append(
            f"The accuracy on these {n:,} rows is {accuracy:.2%}. Pass rows that the network was "
            "not trained on."
        )
    if temperature.unbounded:
        cause = (
            "every row is predicted correctly"
            if temperature.temperature == 0
            else "the logits are not informative about these labels beyond noise"
        )
        warnings.append(f"There is no finite temperature: {cause}.")
    return tuple(warnings)


class _CallableModule(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, **named)

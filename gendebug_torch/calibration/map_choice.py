"""The choice of a calibration map, if any: by its loss on rows that the fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.isotonic import fit_isotonic
from gendebug_torch.calibration.maps.label_scaling import fit_label_scaling
from gendebug_torch.calibration.maps.modules import CalibrationMap
from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.maps.top_label_map import fit_top_label_map
from gendebug_torch.calibration.measures.classwise import label_bins
from gendebug_torch.calibration.measures.dependent_rows import group_sums, grouped_error
from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.sufficient_statistics import (
    CalibrationSums,
    calibration_sums,
)
from gendebug_torch.calibration.rows.held_out_rows import as_binary_rows
from gendebug_torch.calibration.rows.model_outputs import labeled_outputs, summed_by_slot
from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved
from gendebug_torch.stats.logit_scaling import fit_affine


class Fit(Protocol):
    """Fits a map of logits; a weight of 2 counts as two rows."""

    def __call__(
        self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None
    ) -> CalibrationMap:
        """The map with the least loss on these rows."""


def _fit_pooled(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Temperature:
    """One temperature for all labels."""
    rows, row_weights = as_binary_rows(logits, targets), repeated_per_label(weights, targets)
    return fit_temperature(*rows, weights=row_weights, ignore_index=IGNORED)


# In order of simplicity: of candidates that do equally well the first one is chosen.
FITS: dict[str, Fit] = {
    "temperature": fit_temperature,
    "bias_corrected": partial(fit_affine, family="bias_corrected"),
    "vector": partial(fit_affine, family="vector"),
    "top_platt": partial(fit_top_label_map, family="platt"),
    "top_beta": partial(fit_top_label_map, family="beta"),
    "isotonic": fit_isotonic,
}
LABEL_FITS: dict[str, Fit] = {
    "temperature": _fit_pooled,
    "label_temperature": partial(fit_label_scaling, family="temperature"),
    "label_platt": partial(fit_label_scaling, family="bias_corrected"),
}
PREDICTION_PRESERVING = ("temperature", "label_temperature", "top_platt", "top_beta")
FOLDABLE = ("temperature", "bias_corrected", "vector", "label_temperature", "label_platt")
# Calibration errors closer than this are equal.
_EQUAL_ECE = 0.001
# Beyond this many classes the k by k curvature of class biases costs more than the biases gain.
_MAX_BIASES = 256
# Standard errors by which a map must beat the network as it is. Near the optimum the gain is half
# the square of the step that its noise grows with: one of them is a parameter two standard errors
# away from the identity.
_BEYOND_NOISE = 1.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map as evaluated out of fold.

    Args:
        name: name of the map; `none` is the network as it is.
        sums: calibration of the rows, each mapped by a fit that did not see it.
        measures: `nll`, `brier` and `ece` of these, with intervals over independent rows or groups.
        gain: mean log loss of `none` less that of this map, in nats.
        gain_error: standard error of `gain`.
        excess: mean log loss of this map less the least of all maps, in nats.
        excess_error: standard error of `excess`.
        changed: number of predictions that it changes.
        ece: calibration error in 15 bins; of a multilabel head the mean over its labels, since
            labels that err in opposite ways cancel when they are counted together.
    """

    name: str
    sums: CalibrationSums
    measures: tuple[Measure, ...]
    gain: float
    gain_error: float
    excess: float
    excess_error: float
    changed: int
    ece: float


def fits_for(targets: Tensor) -> dict[str, Fit]:
    """The maps of a classifier with targets `[n]`, or of a multilabel head with labels `[n, k]`."""
    return LABEL_FITS if targets.ndim == 2 else FITS


def default_candidates(logits: Tensor, targets: Tensor, keep_predictions: bool) -> tuple[str, ...]:
    """Names of the maps that suit a head; those that may change predictions only on request."""
    names = [
        name for name in fits_for(targets) if name in PREDICTION_PRESERVING or not keep_predictions
    ]
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    if classes > _MAX_BIASES:
        names = [name for name in names if name not in ("bias_corrected", "vector")]
    if classes > 2:
        names = [name for name in names if name != "isotonic"]
    return tuple(names)


def evaluated_candidates(
    logits: Tensor,
    targets: Tensor,
    names: Sequence[str],
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    bins: int = 15,
    folds: int = 5,
    seed: int = 0,
    count: Callable[[int], object] = lambda fits: None,
) -> tuple[Candidate, ...]:
    """Every candidate, and `none`, evaluated on rows that its fits have not seen.

    Source: Stone (1974), JRSS B 36:111, for the folds; Liang and Zeger (1986), Biometrika 73:13,
    for errors over groups.

    Args:
        logits: float `[n, k]` or `[n]`.
        targets: class ids `[n]` int64, or `[n, k]` of 0 and 1 (multilabel).
        names: keys of `fits_for(targets)`.
        weights: row weights `[n]`; a weight of 2 counts as two rows.
        groups: ids `[n]` int64 0..g-1 of rows that are not independent, as the pixels of one image.
        bins: number of bins of the calibration error.
        folds: number of parts of the rows (of the groups); each is mapped by fits to the others.
        seed: seed of the folds.
        count: function that is told of each fit when it is done, `folds` for each name.

    Raises:
        InputError: an unknown name.
    """
    fits = fits_for(targets)
    if unknown := sorted(set(names) - set(fits)):
        reject("candidates", f"names among {sorted(fits)}", str(unknown), "Correct the names.")
    mapped = {"none": logits}
    for name in names:
        mapped[name] = out_of_fold(
            logits,
            targets,
            fits[name],
            weights=weights,
            groups=groups,
            folds=folds,
            seed=seed,
            count=count,
        )
    losses = {name: row_loss(z, targets) for name, z in mapped.items()}
    mass = torch.ones_like(losses["none"]) if weights is None else weights.to(losses["none"])
    least = min(losses.values(), key=lambda loss: float(loss @ mass))
    before = predictions(as_binary_rows(logits, targets)[0])
    candidates = []
    for name, z in mapped.items():
        gain = _mean_and_error(losses["none"] - losses[name], mass, groups)
        excess = _mean_and_error(losses[name] - least, mass, groups)
        changed = int((predictions(as_binary_rows(z, targets)[0]) != before).sum())
        sums, measures, ece = _calibration(z, targets, weights, groups, bins)
        candidates.append(Candidate(name, sums, measures, *gain, *excess, changed, ece))
    return tuple(candidates)


def chosen_map(
    candidates: Sequence[Candidate], *, keep_predictions: bool = True
) -> tuple[str, str]:
    """The name of the map to deploy and the reason in one sentence.

    A map must beat `none` in log loss beyond noise without raising the calibration error. Among
    maps within one standard error of the least log loss the calibration error decides; where it is
    within a tenth of a point of the least, a map that folds into the last layer wins, then the
    least error, then simplicity. Top-label maps come shrunken (see `fit_top_label_map`), so that
    one that merely follows the noise of the error does no harm.
    """
    none = next(candidate for candidate in candidates if candidate.name == "none")
    allowed = [
        candidate
        for candidate in candidates
        if candidate.name != "none" and not (keep_predictions and candidate.changed)
    ]
    winners = [c for c in allowed if c.gain > _BEYOND_NOISE * c.gain_error and c.ece <= none.ece]
    if not winners:
        best = max(allowed, key=lambda candidate: candidate.gain, default=none)
        return "none", (
            f"No map improves the log loss beyond noise: the best, {best.name}, gains "
            f"{best.gain:.4f} ± {best.gain_error:.4f} nats per row and changes the ECE from "
            f"{none.ece:.1%} to {best.ece:.1%}."
        )
    least = max(winners, key=lambda candidate: candidate.gain)
    tied = [
        c
        for c in winners
        if c.excess - least.excess <= math.hypot(c.excess_error, least.excess_error)
    ]
    least_ece = min(candidate.ece for candidate in tied)
    simplest = [*LABEL_FITS, *FITS]

    def preference(candidate: Candidate) -> tuple[bool, bool, float, int]:
        apart = candidate.ece > least_ece + _EQUAL_ECE
        name = candidate.name
        return apart, name not in FOLDABLE, candidate.ece, simplest.index(name)

    chosen = min(tied, key=preference)
    others = [candidate.name for candidate in tied if candidate is not chosen]
    verb = "do" if len(others) > 1 else "does"
    equal = f"{' and '.join(others) or 'no other map'} {verb} as well in log loss"
    return chosen.name, (
        f"{chosen.name} gains {chosen.gain:.4f} ± {chosen.gain_error:.4f} nats per row out of fold "
        f"and changes the ECE from {none.ece:.1%} to {chosen.ece:.1%}; {equal}."
    )


def out_of_fold(
    logits: Tensor,
    targets: Tensor,
    fit: Fit = fit_temperature,
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    folds: int = 5,
    seed: int = 0,
    count: Callable[[int], object] = lambda fits: None,
) -> Tensor:
    """Logits `[n, k]` or `[n]`, each fold mapped by the fit to the others.

    Rows of one group fall into one fold. Where no map could be fitted the logits are left as they
    are.
    """
    group = torch.arange(len(logits)) if groups is None else groups.cpu()
    size = int(group.max()) + 1 if len(group) else 0
    fold_of_group = torch.empty(size, dtype=torch.int64)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    fold_of_group[order] = torch.arange(size) % folds
    fold_of_row = fold_of_group[group]
    mapped = logits.clone()
    for fold in range(folds):
        # Numbers of rows, which no device has to be waited for, as for a mask.
        test, rest = (
            moved(rows.nonzero()[:, 0], logits.device)
            for rows in (fold_of_row == fold, fold_of_row != fold)
        )
        fitted = fit(
            logits[rest], targets[rest], weights=None if weights is None else weights[rest]
        )
        if not fitted.unbounded:
            mapped[test] = fitted(logits[test])
        count(1)
    return mapped


def repeated_per_label(values: Tensor | None, targets: Tensor) -> Tensor | None:
    """Row values `[n]` for the rows of `as_binary_rows` of these targets."""
    if values is None or targets.ndim != 2:
        return values
    return values.repeat_interleave(targets.shape[1])


def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """`[n]` float64 log loss of each row; of a multilabel row the mean over labels it has."""
    rows = labeled_outputs(*as_binary_rows(logits, targets), ignore_index=IGNORED)
    losses = [-chunk.at_target(chunk.logits.double().log_softmax(1)) for chunk in rows.chunks()]
    loss, labeled = torch.cat(losses).view(len(logits), -1), rows.labeled.view(len(logits), -1)
    return torch.where(labeled, loss, 0.0).sum(1) / labeled.sum(1)


def predictions(logits: Tensor) -> Tensor:
    """`[n]` predicted class ids; a binary logit of 0 is class 0."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _calibration(
    logits: Tensor, targets: Tensor, weights: Tensor | None, groups: Tensor | None, bins: int
) -> tuple[CalibrationSums, tuple[Measure, ...], float]:
    """Sums, measures with intervals, and the calibration error of mapped logits."""
    rows = as_binary_rows(logits, targets)
    row_weights = repeated_per_label(weights, targets)
    row_groups = repeated_per_label(groups, targets)
    sums = calibration_sums(*rows, weights=row_weights, ignore_index=IGNORED)
    measures: tuple[Measure, ...] = (*sums.score_measures(), sums.bins(bins).measure())
    if row_groups is not None:
        measures = group_sums(
            *rows, row_groups, bins=bins, weights=row_weights, ignore_index=IGNORED
        ).measures()
    if targets.ndim == 2:
        return sums, measures, label_bins(logits, targets, weights=weights).macro
    return sums, measures, sums.bins().ece


def _mean_and_error(rows: Tensor, mass: Tensor, groups: Tensor | None) -> tuple[float, float]:
    """Weighted mean of `[n]` rows and its standard error over rows, or over groups of them."""
    total = float(mass.sum())
    mean = float(rows @ mass) / total
    if groups is not None:
        size = int(groups.max()) + 1
        deviations = summed_by_slot(groups.to(rows.device), mass * (rows - mean), size)
        return mean, grouped_error(deviations, total)
    variance = float(mass @ (rows - mean).square()) / (total - 1) if total > 1 else math.inf
    return mean, math.sqrt(variance / total)

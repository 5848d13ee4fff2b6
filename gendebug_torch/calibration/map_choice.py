"""Which map of the logits to deploy, if any: judged on rows that each fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.isotonic import fit_isotonic
from gendebug_torch.calibration.maps.labelwise import fit_labels
from gendebug_torch.calibration.maps.modules import Fitted
from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.maps.top_label_map import fit_top_map
from gendebug_torch.calibration.measures.classwise import classwise_bins
from gendebug_torch.calibration.measures.dependent_rows import group_sums, grouped_error
from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.sufficient_statistics import (
    CalibrationSums,
    calibration_sums,
)
from gendebug_torch.calibration.model_outputs import chunks, validated
from gendebug_torch.errors import reject
from gendebug_torch.stats.logit_scaling import fit_affine


class Fit(Protocol):
    """Fits a map of logits; a weight of 2 counts as two rows."""

    def __call__(self, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Fitted:
        """The map that fits these rows."""


def _fit_pooled(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Temperature:
    """One temperature for all labels."""
    return fit_temperature(*questions(logits, targets), weights=per_question(weights, targets))


# In order of simplicity: of candidates that do equally well the first one is taken.
FITS: dict[str, Fit] = {
    "temperature": fit_temperature,
    "bias_corrected": partial(fit_affine, family="bias_corrected"),
    "vector": partial(fit_affine, family="vector"),
    "top_platt": partial(fit_top_map, family="platt"),
    "top_beta": partial(fit_top_map, family="beta"),
    "isotonic": fit_isotonic,
}
LABEL_FITS: dict[str, Fit] = {
    "temperature": _fit_pooled,
    "label_temperature": partial(fit_labels, family="temperature"),
    "label_platt": partial(fit_labels, family="bias_corrected"),
}
KEEPING = ("temperature", "label_temperature", "top_platt", "top_beta")
# Beyond this many classes the curvature of class biases, k by k, costs more than it is worth.
_MOST_BIASES = 256
# Standard errors by which a map must beat the network as it is. Near the optimum the gain is half
# the square of the step that its noise grows with: one of them is a parameter two standard errors
# away from the identity.
_BEYOND_NOISE = 1.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map as judged out of fold.

    Args:
        name: of the family; `none` is the network as it is.
        sums: calibration of the rows, each mapped by a fit that did not see it.
        measures: `nll`, `brier` and `ece` of these, with intervals over what is independent: rows,
            or groups of them.
        gain: log loss of `none` less that of this one, mean in nats.
        gain_error: its standard error over rows.
        behind: log loss of this one less the least, mean in nats.
        behind_error: its standard error over rows.
        changed: predictions that it changes.
        ece: calibration error in 15 bins; of a multilabel head the mean over its labels, since
            labels that err in opposite ways cancel when they are counted together.
    """

    name: str
    sums: CalibrationSums
    measures: tuple[Measure, ...]
    gain: float
    gain_error: float
    behind: float
    behind_error: float
    changed: int
    ece: float


def fits_for(targets: Tensor) -> dict[str, Fit]:
    """The maps of a head: of classes `[n]`, or of the labels `[n, k]` of a multilabel head."""
    return LABEL_FITS if targets.ndim == 2 else FITS


def default_candidates(logits: Tensor, targets: Tensor, keep_predictions: bool) -> tuple[str, ...]:
    """The maps worth trying for a head: those that keep predictions, and if asked those that may
    change them.
    """
    names = [name for name in fits_for(targets) if name in KEEPING or not keep_predictions]
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    if classes > _MOST_BIASES:
        names = [name for name in names if name not in ("bias_corrected", "vector")]
    if classes > 2:
        names = [name for name in names if name != "isotonic"]
    return tuple(names)


def judge_candidates(
    logits: Tensor,
    targets: Tensor,
    names: Sequence[str],
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    bins: int = 15,
    folds: int = 5,
    seed: int = 0,
) -> tuple[Candidate, ...]:
    """Every candidate, and `none`, on rows that its fits have not seen.

    Source: Stone (1974), JRSS B 36:111, for the folds; Liang and Zeger (1986), Biometrika 73:13,
    for errors over groups.

    Args:
        logits: `[n, k]` or `[n]`.
        targets: `[n]` int64 class ids, or `[n, k]` of 0 and 1 (multilabel).
        names: keys of `fits_for(targets)`.
        weights: `[n]`; a weight of 2 counts as two rows.
        groups: `[n]` int64 ids 0..g-1 of rows that are not independent, as the pixels of one image.
        bins: of the calibration error.
        folds: parts of the rows (of the groups); each is mapped by fits to the others.
        seed: of the folds.

    Raises:
        InputError: an unknown name.
    """
    fits = fits_for(targets)
    if unknown := sorted(set(names) - set(fits)):
        reject("candidates", f"names among {sorted(fits)}", str(unknown), "Correct the names.")
    how: dict[str, Any] = {"weights": weights, "groups": groups, "folds": folds, "seed": seed}
    mapped = {"none": logits} | {
        name: out_of_fold(logits, targets, fits[name], **how) for name in names
    }
    losses = {name: row_loss(z, targets) for name, z in mapped.items()}
    mass = torch.ones_like(losses["none"]) if weights is None else weights.to(losses["none"])
    said = predictions(questions(logits, targets)[0])
    least = min(losses, key=lambda name: float(losses[name] @ mass))
    found = []
    for name, z in mapped.items():
        gain, behind = losses["none"] - losses[name], losses[name] - losses[least]
        asked = questions(z, targets)
        changed = int((predictions(asked[0]) != said).sum())
        scores = (*_mean(gain, mass, groups), *_mean(behind, mass, groups))
        sums = calibration_sums(*asked, weights=per_question(weights, targets))
        measures = _measures(
            sums, *asked, per_question(weights, targets), per_question(groups, targets), bins
        )
        ece = (
            classwise_bins(z, targets, weights=weights).macro
            if targets.ndim == 2
            else sums.bins().ece
        )
        found.append(Candidate(name, sums, measures, *scores, changed, ece))
    return tuple(found)


def _measures(
    sums: CalibrationSums,
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    groups: Tensor | None,
    bins: int,
) -> tuple[Measure, ...]:
    if groups is not None:
        return group_sums(logits, targets, groups, bins=bins, weights=weights).measures()
    return (*sums.score_measures(), sums.bins(bins).measure())


def choose(candidates: Sequence[Candidate], *, keep_predictions: bool = True) -> tuple[str, str]:
    """The name of the map to deploy and the reason in one sentence.

    A map must beat `none` in log loss beyond noise without raising the calibration error. Among
    maps within one standard error of the least log loss the calibration error decides, and where it
    is the same, simplicity. Maps of the confidence come shrunken (see `fit_top_map`), so that one
    that merely follows the noise of the error does no harm.
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
        why = (
            f"the best map, {best.name}, gains {best.gain:.4f} ± {best.gain_error:.4f} nats a "
            f"row and takes the ECE to {best.ece:.1%}"
        )
        return (
            "none",
            f"Nothing beats the network as it is beyond noise: {why} from {none.ece:.1%}.",
        )
    least = max(winners, key=lambda candidate: candidate.gain)
    tied = [
        c
        for c in winners
        if c.behind - least.behind <= math.hypot(c.behind_error, least.behind_error)
    ]
    simplest = [*LABEL_FITS, *FITS]
    chosen = min(tied, key=lambda candidate: (candidate.ece, simplest.index(candidate.name)))
    others = [candidate.name for candidate in tied if candidate is not chosen]
    equal = (
        f"in log loss {' and '.join(others)} do as well"
        if len(others) > 1
        else f"in log loss {others[0]} does as well"
        if others
        else ""
    )
    return chosen.name, (
        f"{chosen.name} gains {chosen.gain:.4f} ± {chosen.gain_error:.4f} nats a row out of fold "
        "and takes the ECE from "
        f"{none.ece:.1%} to {chosen.ece:.1%}; {equal or 'no other map does as well in log loss'}."
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
) -> Tensor:
    """Logits `[n, k]` or `[n]`, each fold mapped by the fit to the others; where none could be
    fitted, as they were.

    Rows of one group fall into one fold.
    """
    place = torch.arange(len(logits)) if groups is None else groups.cpu()
    units = int(place.max()) + 1 if len(place) else 0
    part = torch.empty(units, dtype=torch.int64)
    part[torch.randperm(units, generator=torch.Generator().manual_seed(seed))] = (
        torch.arange(units) % folds
    )
    part = part[place].to(logits.device)
    mapped = logits.clone()
    for fold in range(folds):
        held = part == fold
        fitted = fit(
            logits[~held], targets[~held], weights=None if weights is None else weights[~held]
        )
        if not getattr(fitted, "unbounded", False):
            mapped[held] = fitted(logits[held])
    return mapped


def questions(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Multilabel outputs `[n, k]` with their targets as `n k` binary ones, `[n k]`; others as they
    are.
    """
    return (logits.reshape(-1), targets.reshape(-1)) if targets.ndim == 2 else (logits, targets)


def per_question(values: Tensor | None, targets: Tensor) -> Tensor | None:
    """Values `[n]` of rows for the `questions` of these targets."""
    return (
        values.repeat_interleave(targets.shape[1])
        if values is not None and targets.ndim == 2
        else values
    )


def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """`[n]` float64 log loss of each row; of a multilabel row the mean over its labels."""
    z, true = questions(logits, targets)
    validated(z, true)
    own = [
        -chunk.logits.double().log_softmax(1).gather(1, chunk.targets[:, None])[:, 0]
        for chunk in chunks(z, true)
    ]
    return torch.cat(own).view(len(logits), -1).mean(1)


def predictions(logits: Tensor) -> Tensor:
    """`[n]` predicted class ids; a binary logit of 0 is class 0."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _mean(rows: Tensor, mass: Tensor, groups: Tensor | None) -> tuple[float, float]:
    """Weighted mean of rows that are independent, or only so between groups, and its standard
    error.
    """
    total = float(mass.sum())
    mean = float(rows @ mass) / total
    if groups is not None:
        return mean, grouped_error(
            torch.bincount(groups.to(rows.device), mass * (rows - mean)), total
        )
    variance = float(mass @ (rows - mean).square()) / (total - 1) if total > 1 else math.inf
    return mean, math.sqrt(variance / total)

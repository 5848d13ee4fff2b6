"""Which map of the logits to deploy, if any: judged on rows that each fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.affine import fit_affine
from gendebug_torch.calibration.classwise import classwise_bins
from gendebug_torch.calibration.heads import chunks, validated
from gendebug_torch.calibration.isotonic import fit_isotonic
from gendebug_torch.calibration.labelwise import fit_labels
from gendebug_torch.calibration.modules import Fitted
from gendebug_torch.calibration.sums import CalibrationSums, calibration_sums
from gendebug_torch.calibration.temperature import fit_temperature
from gendebug_torch.calibration.top_map import fit_top_map
from gendebug_torch.errors import reject

Fit = Callable[[Tensor, Tensor], Fitted]

# In order of simplicity: of candidates that do equally well the first one is taken.
FITS: dict[str, Fit] = {
    "temperature": fit_temperature,
    "bias_corrected": lambda z, y: fit_affine(z, y, family="bias_corrected"),
    "vector": lambda z, y: fit_affine(z, y, family="vector"),
    "top_platt": lambda z, y: fit_top_map(z, y, family="platt"),
    "top_beta": lambda z, y: fit_top_map(z, y, family="beta"),
    "isotonic": fit_isotonic,
}
LABEL_FITS: dict[str, Fit] = {
    "temperature": lambda z, y: fit_temperature(z.reshape(-1), y.reshape(-1)),
    "label_temperature": lambda z, y: fit_labels(z, y, family="temperature"),
    "label_platt": lambda z, y: fit_labels(z, y, family="bias_corrected"),
}
KEEPING = ("temperature", "label_temperature", "top_platt", "top_beta")
# Beyond this many classes the curvature of class biases, k by k, costs more than it is worth.
_MOST_BIASES = 256
# Standard errors by which a map must beat the network as it is.
_BEYOND_NOISE = 2.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A map as judged out of fold.

    Args:
        name: of the family; `none` is the network as it is.
        sums: calibration of the rows, each mapped by a fit that did not see it.
        gain: log loss of `none` less that of this one, mean in nats.
        gain_error: its standard error over rows.
        behind: log loss of this one less the least, mean in nats.
        behind_error: its standard error over rows.
        changed: predictions that it changes.
        ece: calibration error in 15 bins; of a multilabel head the mean over its labels, since labels that err in
            opposite ways cancel when they are counted together.
    """

    name: str
    sums: CalibrationSums
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
    """The maps worth trying for a head: those that keep predictions, and if asked those that may change them."""
    names = [name for name in fits_for(targets) if name in KEEPING or not keep_predictions]
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    if classes > _MOST_BIASES:
        names = [name for name in names if name not in ("bias_corrected", "vector")]
    if classes > 2:
        names = [name for name in names if name != "isotonic"]
    return tuple(names)


def judge_candidates(
    logits: Tensor, targets: Tensor, names: Sequence[str], *, groups: Tensor | None = None, folds: int = 5, seed: int = 0
) -> tuple[Candidate, ...]:
    """Every candidate, and `none`, on rows that its fits have not seen.

    Source: Stone (1974), JRSS B 36:111, for the folds; Liang and Zeger (1986), Biometrika 73:13, for errors over groups.

    Args:
        logits: `[n, k]` or `[n]`.
        targets: `[n]` int64 class ids, or `[n, k]` of 0 and 1 (multilabel).
        names: keys of `fits_for(targets)`.
        groups: `[n]` int64 ids 0..g-1 of rows that are not independent, as the pixels of one image.
        folds: parts of the rows (of the groups); each is mapped by fits to the others.
        seed: of the folds.

    Raises:
        InputError: an unknown name.
    """
    fits = fits_for(targets)
    if unknown := sorted(set(names) - set(fits)):
        reject("candidates", f"names among {sorted(fits)}", str(unknown), "Correct the names.")
    how: dict[str, Any] = {"groups": groups, "folds": folds, "seed": seed}
    mapped = {"none": logits} | {name: out_of_fold(logits, targets, fits[name], **how) for name in names}
    losses = {name: row_loss(z, targets) for name, z in mapped.items()}
    said = predictions(questions(logits, targets)[0])
    least = min(losses, key=lambda name: float(losses[name].mean()))
    found = []
    for name, z in mapped.items():
        gain, behind = losses["none"] - losses[name], losses[name] - losses[least]
        asked = questions(z, targets)
        changed = int((predictions(asked[0]) != said).sum())
        scores = (float(gain.mean()), _error(gain, groups), float(behind.mean()), _error(behind, groups))
        sums = calibration_sums(*asked)
        ece = classwise_bins(z, targets).macro if targets.ndim == 2 else sums.bins().ece
        found.append(Candidate(name, sums, *scores, changed, ece))
    return tuple(found)


def choose(candidates: Sequence[Candidate], *, keep_predictions: bool = True) -> tuple[str, str]:
    """The name of the map to deploy and the reason in one sentence.

    A map must beat `none` in log loss by two standard errors without raising the calibration error. Among maps within
    one standard error of the least log loss the calibration error decides, and where it is the same, simplicity.
    """
    none = next(candidate for candidate in candidates if candidate.name == "none")
    allowed = [candidate for candidate in candidates if candidate.name != "none" and not (keep_predictions and candidate.changed)]
    winners = [c for c in allowed if c.gain > _BEYOND_NOISE * c.gain_error and c.ece <= none.ece]
    if not winners:
        best = max(allowed, key=lambda candidate: candidate.gain, default=none)
        why = f"the best map, {best.name}, gains {best.gain:.4f} ± {best.gain_error:.4f} nats a row and takes the ECE to {best.ece:.1%}"
        return "none", f"Nothing beats the network as it is beyond noise: {why} from {none.ece:.1%}."
    least = max(winners, key=lambda candidate: candidate.gain)
    tied = [c for c in winners if c.behind - least.behind <= math.hypot(c.behind_error, least.behind_error)]
    simplest = [*LABEL_FITS, *FITS]
    chosen = min(tied, key=lambda candidate: (candidate.ece, simplest.index(candidate.name)))
    return chosen.name, (
        f"{chosen.name} gains {chosen.gain:.4f} ± {chosen.gain_error:.4f} nats a row out of fold and takes the ECE from "
        f"{none.ece:.1%} to {chosen.ece:.1%}; {len(tied)} of {len(allowed)} maps do equally well in log loss."
    )


def out_of_fold(
    logits: Tensor, targets: Tensor, fit: Fit = fit_temperature, *, groups: Tensor | None = None, folds: int = 5, seed: int = 0
) -> Tensor:
    """Logits `[n, k]` or `[n]`, each fold mapped by the fit to the others; where none could be fitted, as they were.

    Rows of one group fall into one fold.
    """
    place = torch.arange(len(logits)) if groups is None else groups.cpu()
    units = int(place.max()) + 1 if len(place) else 0
    part = torch.empty(units, dtype=torch.int64)
    part[torch.randperm(units, generator=torch.Generator().manual_seed(seed))] = torch.arange(units) % folds
    part = part[place].to(logits.device)
    mapped = logits.clone()
    for fold in range(folds):
        held = part == fold
        fitted = fit(logits[~held], targets[~held])
        if not getattr(fitted, "unbounded", False):
            mapped[held] = fitted(logits[held])
    return mapped


def questions(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Multilabel outputs `[n, k]` with their targets as `n k` binary ones, `[n k]`; others as they are."""
    return (logits.reshape(-1), targets.reshape(-1)) if targets.ndim == 2 else (logits, targets)


def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """`[n]` float64 log loss of each row; of a multilabel row the mean over its labels."""
    z, true = questions(logits, targets)
    validated(z, true)
    own = [-chunk.logits.double().log_softmax(1).gather(1, chunk.targets[:, None])[:, 0] for chunk in chunks(z, true)]
    return torch.cat(own).view(len(logits), -1).mean(1)


def predictions(logits: Tensor) -> Tensor:
    """`[n]` predicted class ids; a binary logit of 0 is class 0."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _error(rows: Tensor, groups: Tensor | None) -> float:
    """Standard error of the mean of rows that are independent, or only so between groups."""
    apart = rows - rows.mean()
    if groups is not None:
        apart = torch.bincount(groups.to(rows.device), apart)
    units = len(apart)
    return math.sqrt(float(apart.square().sum()) * units / (units - 1)) / len(rows) if units > 1 else math.inf

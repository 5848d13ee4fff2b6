"""Which map of the logits to deploy, if any: judged on rows that each fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.affine import fit_affine
from gendebug_torch.calibration.heads import chunks, validated
from gendebug_torch.calibration.isotonic import fit_isotonic
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
KEEPING = ("temperature", "top_platt", "top_beta")
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
    """

    name: str
    sums: CalibrationSums
    gain: float
    gain_error: float
    behind: float
    behind_error: float
    changed: int

    @property
    def ece(self) -> float:
        """Calibration error in 15 bins."""
        return self.sums.bins().ece


def default_candidates(logits: Tensor, keep_predictions: bool) -> tuple[str, ...]:
    """The maps worth trying for a head: those that keep predictions, and if asked those that may change them."""
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    names = [name for name in FITS if name in KEEPING or not keep_predictions]
    if classes > _MOST_BIASES:
        names = [name for name in names if name not in ("bias_corrected", "vector")]
    if classes > 2:
        names = [name for name in names if name != "isotonic"]
    return tuple(names)


def judge_candidates(logits: Tensor, targets: Tensor, names: Sequence[str], *, folds: int = 5, seed: int = 0) -> tuple[Candidate, ...]:
    """Every candidate, and `none`, on rows that its fits have not seen.

    Source: Stone (1974), JRSS B 36:111, for the folds.

    Args:
        logits: `[n, k]` or `[n]`.
        targets: `[n]` int64.
        names: keys of `FITS`.
        folds: parts of the rows; each is mapped by fits to the others.
        seed: of the folds.

    Raises:
        InputError: an unknown name.
    """
    if unknown := sorted(set(names) - set(FITS)):
        reject("candidates", f"names among {sorted(FITS)}", str(unknown), "Correct the names.")
    mapped = {"none": logits} | {name: out_of_fold(logits, targets, FITS[name], folds=folds, seed=seed) for name in names}
    losses = {name: row_loss(z, targets) for name, z in mapped.items()}
    said = predictions(logits)
    least = min(losses, key=lambda name: float(losses[name].mean()))
    found = []
    for name, z in mapped.items():
        gain, behind = losses["none"] - losses[name], losses[name] - losses[least]
        changed = int((predictions(z) != said).sum())
        sums = calibration_sums(z, targets)
        found.append(Candidate(name, sums, float(gain.mean()), _error(gain), float(behind.mean()), _error(behind), changed))
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
    chosen = min(tied, key=lambda candidate: (candidate.ece, list(FITS).index(candidate.name)))
    return chosen.name, (
        f"{chosen.name} gains {chosen.gain:.4f} ± {chosen.gain_error:.4f} nats a row out of fold and takes the ECE from "
        f"{none.ece:.1%} to {chosen.ece:.1%}; {len(tied)} of {len(allowed)} maps do equally well in log loss."
    )


def out_of_fold(logits: Tensor, targets: Tensor, fit: Fit = fit_temperature, *, folds: int = 5, seed: int = 0) -> Tensor:
    """Logits `[n, k]` or `[n]`, each fold mapped by the fit to the others; where none could be fitted, as they were."""
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed)).to(logits.device)
    mapped = logits.clone()
    for fold in range(folds):
        held = order[fold::folds]
        rest = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        rest[held] = False
        fitted = fit(logits[rest], targets[rest])
        if not getattr(fitted, "unbounded", False):
            mapped[held] = fitted(logits[held])
    return mapped


def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """`[n]` float64 log loss of each row."""
    validated(logits, targets)
    own = [-chunk.logits.double().log_softmax(1).gather(1, chunk.targets[:, None])[:, 0] for chunk in chunks(logits, targets)]
    return torch.cat(own)


def predictions(logits: Tensor) -> Tensor:
    """`[n]` predicted class ids; a binary logit of 0 is class 0."""
    return (logits > 0).long() if logits.ndim == 1 else logits.argmax(1)


def _error(rows: Tensor) -> float:
    return float(rows.std()) / math.sqrt(len(rows)) if len(rows) > 1 else math.inf

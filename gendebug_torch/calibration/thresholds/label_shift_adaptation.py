"""Adaptation of a network's logits to new class priors, without a new label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.calibration.map_choice import out_of_fold, predictions
from gendebug_torch.calibration.rows.model_outputs import labeled_outputs
from gendebug_torch.errors import reject
from gendebug_torch.stats.label_shift import LabelShift, label_shift, label_shift_misfit
from gendebug_torch.stats.logit_scaling import AffineFit, fit_affine

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Half the width of the bounds of a class prior above which the priors are hardly determined.
_WIDE = 0.1
# Prior of a class, relative to before, that is as good as zero.
_MIN_RATIO = 1e-9
# p-value of the label-shift assumption below which it is rejected.
_MISFIT = 0.001


@dataclass(frozen=True, eq=False)
class LabelShiftAdaptation:
    """Logits for the class priors of production, or unchanged where adaptation is not supported.

    Args:
        calibration: temperature and class biases fitted to the labeled rows.
        shift: class priors of production with bounds.
        classes: ids `[c]` of the classes that the labeled rows contain; others keep their bias.
        misfit: p-value of the assumption that these priors explain the outputs in production, and
            the total variation that they leave open.
        gain: change of accuracy and its standard error, on the labeled rows, weighted to the new
            priors and calibrated out of fold.
        applied: whether the priors changed beyond noise, label shift fits, and accuracy does not
            fall.
        warnings: reasons against adaptation.
    """

    calibration: AffineFit
    shift: LabelShift
    classes: Tensor
    misfit: tuple[float, float]
    gain: tuple[float, float]
    applied: bool
    warnings: tuple[str, ...]

    @property
    def scale(self) -> Tensor:
        """Scale `[k]` (`[]` for one logit) float64; `fold_affine` folds it into the last layer."""
        return self.calibration.scale if self.applied else torch.ones_like(self.calibration.scale)

    @property
    def bias(self) -> Tensor:
        """Bias `[k]` (`[]`) float64 in nats."""
        if not self.applied:
            return torch.zeros_like(self.calibration.bias)
        change = (self.shift.shrunken / self.shift.reference).clamp(min=_MIN_RATIO).log()
        if not self.calibration.bias.ndim:
            return self.calibration.bias + change[1] - change[0]
        return self.calibration.bias.index_add(0, self.classes, change)

    def __call__(self, logits: Tensor) -> Tensor:
        """Production logits `[n, k]` or `[n]`, adapted if `applied`, in the dtype of the input."""
        return logits * self.scale.to(logits) + self.bias.to(logits)

    def threshold(self, threshold: float = 0.5) -> float:
        """Threshold on the network's own probability of class 1 that makes the adapted decisions.

        Args:
            threshold: threshold on the adapted probability, for one binary logit.

        Raises:
            InputError: more than one logit, or a threshold outside (0, 1).
        """
        if self.scale.ndim or not 0 < threshold < 1:
            reject(
                "threshold",
                "a number in (0, 1), for one binary logit",
                str(threshold),
                "Pass logits [n] for two classes.",
            )
        odds = math.log(threshold / (1 - threshold))
        return 1 / (1 + math.exp(-(odds - float(self.bias)) / float(self.scale)))

    def table(self) -> pd.DataFrame:
        """Class priors before and now, with bounds."""
        return self.shift.table().assign(**{"class": self.classes.numpy()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Class priors before and now, with bounds."""
        return self.shift.plot(ax)


def adapt_to_label_shift(
    logits: Tensor, targets: Tensor, production: Tensor, *, alpha: float = 0.01
) -> LabelShiftAdaptation:
    """Logits calibrated on labeled rows and adapted to the class priors of unlabeled rows.

    The logits stay unchanged where the priors did not change beyond noise, where rows of one class
    look different in production (covariate shift or drift), or where the labeled rows, weighted to
    the new priors, show a loss of accuracy: labels are needed then. Priors are shrunken towards the
    old ones by their noise (`LabelShift.shrunken`).

    Source: Alexandari, Kundaje and Shrikumar (2020), arXiv:1901.06852, on Saerens, Latinne and
    Decaestecker (2002).

    Args:
        logits: float logits `[n, k]` or `[n]` of labeled rows, not trained on.
        targets: class ids `[n]` int64; at least two classes.
        production: logits `[m, k]` or `[m]` of unlabeled rows.
        alpha: probability of adapting to priors that did not change.

    Raises:
        InputError: shapes that do not fit, or fewer than two classes.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> def rows(n, share):
        ...     targets = torch.bernoulli(torch.full((n,), share), generator=generator).long()
        ...     return 2.0 * targets - 1 + torch.randn(n, generator=generator), targets
        >>> (logits, targets), (production, _) = rows(2000, 0.5), rows(2000, 0.1)
        >>> adapted = adapt_to_label_shift(logits, targets, production)
        >>> adapted.applied, f"{float(adapted.shift.prior[1]):.2f}"
        (True, '0.13')
    """
    labeled_outputs(logits, targets)
    shapes_fit = production.ndim == logits.ndim and production.shape[1:] == logits.shape[1:]
    if not shapes_fit or not len(production):
        reject(
            "production",
            f"logits like {list(logits.shape)}",
            f"{list(production.shape)}",
            "Pass outputs of the same network.",
        )
    count = torch.bincount(targets.cpu(), minlength=2 if logits.ndim == 1 else logits.shape[1])
    classes = count.nonzero()[:, 0]
    if len(classes) < 2:
        reject(
            "targets",
            "at least two classes",
            f"{len(classes)}",
            "Pass labeled rows of every class.",
        )
    calibration = fit_affine(logits, targets)
    mapped = calibration(production.double())
    within = mapped if mapped.ndim == 1 else mapped[:, classes.to(mapped.device)]
    shift = label_shift(within, count[classes], reference_rows=len(targets))
    misfit = label_shift_misfit(logits, targets, production, shift.shrunken)
    gain = _accuracy_gain(logits, targets, classes, shift)
    changed = shift.p_value < alpha
    # A p-value of NaN, where there are too few rows for one, is no evidence against.
    applied = not misfit[0] < _MISFIT and changed and gain[0] >= 0
    warnings = _warnings(shift, misfit[0], gain, changed=changed)
    return LabelShiftAdaptation(calibration, shift, classes, misfit, gain, applied, warnings)


def _warnings(
    shift: LabelShift, misfit: float, gain: tuple[float, float], *, changed: bool
) -> tuple[str, ...]:
    warnings = []
    if misfit < _MISFIT:
        warnings.append(
            "A change of class priors does not explain the outputs in production "
            f"(p = {misfit:.1g}): rows of one class look different there, or the probabilities do "
            "not determine the priors. Nothing is adapted. Label some production rows and "
            "recalibrate on them."
        )
    if changed and gain[0] < 0:
        warnings.append(
            f"On the labeled rows, weighted to the new priors, adaptation would cost "
            f"{-gain[0]:.1%} ± {gain[1]:.1%} accuracy, so nothing is adapted. Label some "
            "production rows and recalibrate on them."
        )
    widest = float((shift.high - shift.low).max()) / 2
    if widest > _WIDE:
        warnings.append(
            f"The class priors are known to ± {widest:.0%} only. Collect more unlabeled rows."
        )
    return tuple(warnings)


def _accuracy_gain(
    logits: Tensor, targets: Tensor, classes: Tensor, shift: LabelShift
) -> tuple[float, float]:
    """Change of accuracy by adaptation, and its error, on labeled rows weighted by class."""
    ratio = torch.ones(2 if logits.ndim == 1 else logits.shape[1], dtype=torch.float64)
    ratio[classes] = shift.shrunken / shift.reference
    weight = ratio[targets.cpu()]
    mapped = out_of_fold(logits.double(), targets, fit_affine, folds=2)
    change = ratio.clamp(min=_MIN_RATIO).log().to(mapped)
    adapted = mapped + (change[1] - change[0] if mapped.ndim == 1 else change)
    after, before = (predictions(z) == targets for z in (adapted, logits))
    gain = (after.double() - before.double()).cpu()
    mean = float(weight @ gain / weight.sum())
    return mean, float((weight * (gain - mean)).norm() / weight.sum())

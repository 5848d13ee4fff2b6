"""A network fitted to new class shares without a single new label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.calibration.map_choice import out_of_fold, predictions
from gendebug_torch.calibration.model_outputs import validated
from gendebug_torch.errors import reject
from gendebug_torch.stats.label_shift import LabelShift, label_shift, label_shift_misfit
from gendebug_torch.stats.logit_scaling import AffineFit, fit_affine

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Half the width of the bounds of a class share from which on the shares are hardly known.
_WIDE = 0.1
# Share of a class, relative to before, that is as good as none.
_NEVER = 1e-9


@dataclass(frozen=True, eq=False)
class ShareAdaptation:
    """Logits for the class shares of production, or the logits as they are where nothing speaks for
    that.

    Args:
        calibration: temperature and class biases fitted to the labeled rows.
        shift: class shares of production with bounds.
        classes: `[c]` ids of the classes that the labeled rows hold; others keep their bias.
        misfit: p-value of the assumption that these shares explain what the network says in
            production, and the total variation they leave open.
        gain: share of rows that it makes right less those it makes wrong, and the standard error:
            on the labeled rows, weighted to the new shares and calibrated out of fold.
        applied: whether the shares changed beyond noise, the assumption stands and nothing is lost.
        warnings: what speaks against it.
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
        """`[k]` (`[]` for one logit) float64; with `bias` it folds into the last layer by
        `fold_affine`.
        """
        return self.calibration.scale if self.applied else torch.ones_like(self.calibration.scale)

    @property
    def bias(self) -> Tensor:
        """`[k]` (`[]`) float64 in nats."""
        if not self.applied:
            return torch.zeros_like(self.calibration.bias)
        moved = (self.shift.shrunken / self.shift.reference).clamp(min=_NEVER).log()
        if not self.calibration.bias.ndim:
            return self.calibration.bias + moved[1] - moved[0]
        return self.calibration.bias.index_add(0, self.classes, moved)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits `[n, k]` or `[n]` of production, adapted if `applied`, in the dtype of the
        input.
        """
        return logits * self.scale.to(logits) + self.bias.to(logits)

    def threshold(self, threshold: float = 0.5) -> float:
        """Where on the network's own probability of class 1 a threshold on the adapted one lies
        (one binary logit).

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
        """Class shares before and now, with bounds."""
        return self.shift.table().assign(**{"class": self.classes.numpy()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Class shares before and now, with bounds."""
        return self.shift.plot(ax)


def adapt_to_shares(
    logits: Tensor, targets: Tensor, production: Tensor, *, alpha: float = 0.01
) -> ShareAdaptation:
    """Calibrate on labeled rows with a class bias, then find the class shares of unlabeled rows and
    fit the logits to them.

    Nothing is applied where the shares did not change beyond noise, or where rows of one class look
    different in production (covariate shift or drift), or where the labeled rows, weighted to the
    new shares, say that predictions would get worse: labels are needed then. Shares are moved by as
    much as is beyond noise (`LabelShift.shrunken`).

    Source: Alexandari, Kundaje and Shrikumar (2020), arXiv:1901.06852, on Saerens, Latinne and
    Decaestecker (2002).

    Args:
        logits: `[n, k]` or `[n]` float logits of labeled rows, not trained on.
        targets: `[n]` int64 class ids; at least two classes.
        production: `[m, k]` or `[m]` logits of unlabeled rows.
        alpha: chance of adapting to shares that did not change.

    Raises:
        InputError: shapes that do not fit, or fewer than two classes.
    """
    validated(logits, targets)
    if (
        production.ndim != logits.ndim
        or production.shape[1:] != logits.shape[1:]
        or not len(production)
    ):
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
    gain = _gain(logits, targets, classes, shift)
    told = []
    if misfit[0] < 0.001:
        told.append(
            "These class shares do not explain what the network says in production (p = "
            f"{misfit[0]:.1g}): rows of one class look "
            "different there, or its probabilities cannot tell the shares; nothing is adapted: "
            "label some production rows "
            "and recalibrate on them."
        )
    moved, harmful = shift.p_value < alpha, gain[0] < 0
    if moved and harmful:
        told.append(
            f"Of the labeled rows, weighted to the new shares, {-gain[0]:.1%} ± {gain[1]:.1%} "
            "would become wrong: the probabilities "
            "of this network cannot carry the change, so nothing is adapted; label some "
            "production rows and recalibrate on them."
        )
    widest = float((shift.high - shift.low).max()) / 2
    if widest > _WIDE:
        told.append(
            f"The class shares are known to ± {widest:.0%} only: collect more unlabeled rows."
        )
    # A p-value of NaN, where too few rows tell one, speaks against nothing.
    applied = not misfit[0] < 0.001 and moved and not harmful
    return ShareAdaptation(calibration, shift, classes, misfit, gain, applied, tuple(told))


def _gain(
    logits: Tensor, targets: Tensor, classes: Tensor, shift: LabelShift
) -> tuple[float, float]:
    """Accuracy that adapting gains, and its standard error, on labeled rows that stand for
    production by their class.
    """
    ratio = torch.ones(2 if logits.ndim == 1 else logits.shape[1], dtype=torch.float64)
    ratio[classes] = shift.shrunken / shift.reference
    weight = ratio[targets.cpu()]
    mapped = out_of_fold(logits.double(), targets, fit_affine, folds=2)
    moved = ratio.clamp(min=_NEVER).log().to(mapped)
    adapted = mapped + (moved[1] - moved[0] if mapped.ndim == 1 else moved)
    won = (predictions(adapted) == targets).double() - (predictions(logits) == targets).double()
    mean = float(weight @ won.cpu() / weight.sum())
    return mean, float((weight * (won.cpu() - mean)).norm() / weight.sum())

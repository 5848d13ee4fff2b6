"""One scale and bias per label of a multilabel head."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import reject
from gendebug_torch.stats.logit_scaling import AffineFit, Family, fit_affine


def fit_label_scaling(
    logits: Tensor,
    targets: Tensor,
    *,
    family: Family = "bias_corrected",
    weights: Tensor | None = None,
) -> AffineFit:
    """A scale, and with `bias_corrected` a bias, for each label: k fits of one binary logit.

    A label without a finite optimum (all rows right, or an uninformative logit) is left as it is.

    Source: Platt (1999), Advances in Large Margin Classifiers, per label.

    Args:
        logits: float `[n, k]`.
        targets: int64 `[n, k]` of 0 and 1, -100 where a label is missing.
        family: `temperature` frees the scale, `bias_corrected` the bias too.
        weights: row weights `[n]`; a weight of 2 counts as two rows.

    Returns:
        Scale and bias `[k]`; `unbounded` where no label could be fitted, `nll` the mean over the
        fitted labels.

    Raises:
        InputError: shapes that do not fit, no rows, or targets other than 0 and 1.

    Cost: about eight reads of the logits.
    """
    if logits.ndim != 2 or targets.shape != logits.shape:
        reject(
            "targets",
            "[n, k] of 0 and 1, like the logits",
            f"{list(targets.shape)} beside {list(logits.shape)}",
            "Pass one per label.",
        )
    fits = []
    for label in range(logits.shape[1]):
        rows = targets[:, label] != IGNORED
        row_weights = None if weights is None else weights[rows]
        outputs = logits[rows, label], targets[rows, label]
        fits.append(fit_affine(*outputs, family=family, weights=row_weights))
    return _joined(family, fits)


def _joined(family: Family, fits: list[AffineFit]) -> AffineFit:
    """The fits of all labels as one; the identity for a label without a finite optimum."""
    unbounded = torch.tensor([fit.unbounded for fit in fits])
    stacked = [
        torch.stack([getattr(fit, part) for fit in fits])
        for part in ("scale", "bias", "scale_error", "bias_error")
    ]
    identity = (1.0, 0.0, torch.nan, torch.nan)
    scale, bias, scale_error, bias_error = (
        part.masked_fill(unbounded.to(part.device), value)
        for part, value in zip(stacked, identity, strict=True)
    )
    bounded = [fit for fit in fits if not fit.unbounded]
    nll = sum(fit.nll for fit in bounded) / len(bounded) if bounded else torch.nan
    converged = bool(bounded) and all(fit.converged for fit in bounded)
    return AffineFit(family, scale, bias, scale_error, bias_error, converged, not bounded, nll)

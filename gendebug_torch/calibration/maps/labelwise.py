"""One map per label of a multilabel head."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.stats.logit_scaling import AffineFit, Family, fit_affine


def fit_labels(
    logits: Tensor,
    targets: Tensor,
    *,
    family: Family = "bias_corrected",
    weights: Tensor | None = None,
) -> AffineFit:
    """A scale, and with `bias_corrected` a bias, for each label by itself: k fits of one binary
    logit.

    A label whose rows tell no finite scale (all of them right, or a logit that carries nothing)
    keeps its logit.

    Source: Platt (1999), Advances in Large Margin Classifiers, per label.

    Args:
        logits: `[n, k]` float.
        targets: `[n, k]` int64 of 0 and 1.
        family: `temperature` frees the scale, `bias_corrected` the bias too.
        weights: `[n]` of the rows; a weight of 2 counts as two.

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
    fits = [
        fit_affine(logits[:, label], targets[:, label], family=family, weights=weights)
        for label in range(logits.shape[1])
    ]
    told = [fit for fit in fits if not fit.unbounded]
    if not told:
        return _joined(family, fits, converged=False, unbounded=True)
    return _joined(family, fits, converged=all(fit.converged for fit in told), unbounded=False)


def _joined(
    family: Family, fits: list[AffineFit], *, converged: bool, unbounded: bool
) -> AffineFit:
    kept = torch.tensor([fit.unbounded for fit in fits])
    stacked = [
        torch.stack([getattr(fit, part) for fit in fits])
        for part in ("scale", "bias", "scale_error", "bias_error")
    ]
    plain = (1.0, 0.0, torch.nan, torch.nan)
    scale, bias, scale_error, bias_error = (
        part.masked_fill(kept, value) for part, value in zip(stacked, plain, strict=True)
    )
    nll = [fit.nll for fit in fits if not fit.unbounded]
    mean = sum(nll) / len(nll) if nll else torch.nan
    return AffineFit(family, scale, bias, scale_error, bias_error, converged, unbounded, mean)

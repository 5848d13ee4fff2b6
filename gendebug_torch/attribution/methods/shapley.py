"""KernelSHAP and LIME over rows and coalitions together: one linear map fits all rows."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.batch import ExplainedBatch
from gendebug_torch.attribution.methods.ablation import masked_outputs
from gendebug_torch.attribution.methods.coalitions import (
    Coalitions,
    lime_fit,
    shapley_coalitions,
    shapley_fit,
)
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved


def kernel_shap(
    batch: ExplainedBatch, *, samples: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Shapley values by constrained weighted least squares; exact with all `2^f - 2` coalitions.

    An absent feature has the value of the baseline, whether or not such a row can occur. The
    coalitions are the same for all rows, so that the answer of a row depends on no other row; the
    rows share the sampling error.

    Source: Lundberg and Lee (2017), arXiv:1705.07874; Covert and Lee (2021), arXiv:2012.01536.

    Args:
        batch: points, baselines and output to explain.
        samples: number of coalitions; default all up to 12 features, else 2 f + 2048.
        seed: seed of the coalitions.

    Returns:
        `values [n, f]`, `standard_error [n, f]` of sampling, `fidelity [n]` weighted R² and
        `held_out [n]` R² of leave-one-out predictions: how far the output is additive in the
        features.

    Cost: `n * samples` forwards for each baseline, and `n * samples * f` multiplications.
    """
    f, change = batch.features, batch.output_change.double()[:, None]
    if f < 2:
        return _one_feature(change[:, :f])
    total = 2**f - 2
    count = (total if f <= 12 else 2 * f + 2048) if samples is None else min(samples, total)
    coalitions = shapley_coalitions(f, count, seed)
    device = batch.points.device
    fit, share = shapley_fit(f, count, seed)
    fit = fit.to(device)
    masks = moved(torch.cat([coalitions.masks, ~coalitions.masks]), device)
    outputs = masked_outputs(batch, lambda span: batch.column_masks(masks[span]), len(masks))
    pairs = len(coalitions.masks)
    half = (outputs[:, :pairs] - outputs[:, pairs:]) / 2
    values = half @ fit.solution.T + change * moved(share, device)
    fitted = values @ fit.design.T
    fidelity, held_out = fit.fidelity(half, fitted)
    residual = (half - fitted) / (1 - fit.leverage).clamp(min=0.05)
    fields = {
        "values": values,
        "standard_error": _sampling_error(coalitions, fit.solution, residual),
        "fidelity": fidelity,
        "held_out": held_out,
    }
    return {name: value.float() for name, value in fields.items()}


def _one_feature(change: Tensor) -> dict[str, Tensor]:
    """The exact answer for one feature or none, which needs no coalitions."""
    values = change.float()
    exact = values.new_ones(len(values))
    error = torch.zeros_like(values)
    return {"values": values, "standard_error": error, "fidelity": exact, "held_out": exact}


def lime(
    batch: ExplainedBatch,
    *,
    samples: int | None = None,
    width: float = 0.75,
    ridge: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Coefficients of a local linear surrogate on the presence of features, with their signs.

    Source: Ribeiro, Singh and Guestrin (2016), arXiv:1602.04938, with a ridge penalty in place of
    feature selection, so that small coefficients stay.

    Args:
        batch: points, baselines and output to explain.
        samples: number of masks, the same for all rows; default 2 f + 1024.
        width: width of the kernel, in units of the square root of f.
        ridge: ridge penalty on the coefficients.
        seed: seed of the masks.

    Returns:
        `values [n, f]`, `standard_error [n, f]` (heteroscedastic, HC3), `fidelity [n]` and
        `held_out [n]`.

    Raises:
        InputError: fewer samples than coefficients.

    Cost: `n * samples` forwards for each baseline.
    """
    f = batch.features
    count = 2 * f + 1024 if samples is None else samples
    if count < f + 2:
        reject(
            "samples",
            f"at least {f + 2} for {f} features",
            str(count),
            "Leave it out for the default of 2 f + 1024.",
        )
    masks, fit = lime_fit(f, count, seed, width, ridge)
    fit, masks = fit.to(batch.points.device), moved(masks, batch.points.device)
    outputs = masked_outputs(batch, lambda span: batch.column_masks(masks[span]), count)
    coefficients = outputs @ fit.solution.T
    fitted = coefficients @ fit.design.T
    residual = (outputs - fitted) / (1 - fit.leverage).clamp(min=0.05)
    error = (residual.square() @ fit.solution.square().T).sqrt()
    fidelity, held_out = fit.fidelity(outputs, fitted)
    fields = {"values": coefficients[:, 1:], "standard_error": error[:, 1:]}
    fields |= {"fidelity": fidelity, "held_out": held_out}
    return {name: value.float() for name, value in fields.items()}


def _sampling_error(coalitions: Coalitions, solution: Tensor, residual: Tensor) -> Tensor:
    """`[n, f]` standard error of the drawn coalitions; sizes that are listed in full add none."""
    rows = len(residual)
    variance = torch.zeros(rows, len(solution), dtype=torch.float64, device=residual.device)
    for size in range(1, int(coalitions.size.max()) + 1):
        same_size = (coalitions.size == size).nonzero()[:, 0]
        count = len(same_size)
        possible = float(coalitions.possible[same_size[0]]) if count else 0.0
        if not count or count >= possible:
            continue
        same_size = moved(same_size, residual.device)
        part, coefficients = residual[:, same_size], solution[:, same_size]
        spread = part.square() @ coefficients.square().T - (part @ coefficients.T).square() / count
        variance += spread.clamp(min=0) * (1 - count / possible) * count / max(1, count - 1)
    return variance.sqrt()

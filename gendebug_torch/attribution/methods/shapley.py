"""KernelSHAP and LIME, batched over rows and coalitions: one linear map fits all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.question import Question
from gendebug_torch.attribution.methods.ablation import mean_outputs
from gendebug_torch.attribution.methods.coalitions import (
    Coalitions,
    lime_fit,
    shapley_coalitions,
    shapley_fit,
)
from gendebug_torch.data.batches import moved
from gendebug_torch.errors import reject


def kernel_shap(
    question: Question, *, samples: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Shapley values by constrained weighted least squares; exact where all `2^f - 2` coalitions
    are asked.

    An absent feature has the baseline's value, whether or not such a row can occur. The coalitions
    are the same for all rows, so that a row's answer depends on no other row; the error of sampling
    is shared by the rows.

    Source: Lundberg and Lee (2017), arXiv:1705.07874; Covert and Lee (2021), arXiv:2012.01536.

    Args:
        question: what to explain.
        samples: coalitions; default all of them up to 12 features, else 2 f + 2048.
        seed: of the coalitions.

    Returns:
        `values [n, f]`, `standard_error [n, f]` of sampling, `fidelity [n]` weighted R² and
        `held_out [n]` the same of leave-one-out predictions: how far the output is additive in
        these features.

    Cost: `n * samples` forwards for each baseline, and `n * samples * f` multiplications.
    """
    f, change = question.features, (question.at_points - question.at_baseline).double()[:, None]
    if f < 2:
        exact = torch.ones_like(change[:, 0]).float()
        values = change if f else change[:, :0]
        return {
            "values": values.float(),
            "standard_error": torch.zeros_like(values).float(),
            "fidelity": exact,
            "held_out": exact,
        }
    wanted = (2**f - 2 if f <= 12 else 2 * f + 2048) if samples is None else min(samples, 2**f - 2)
    drawn = shapley_coalitions(f, wanted, seed)
    device = question.points.device
    fit, share = shapley_fit(f, wanted, seed)
    fit, both = fit.to(device), moved(torch.cat([drawn.masks, ~drawn.masks]), device)
    said = mean_outputs(question, lambda span: question.columns(both[span]), len(both))
    half = (said[:, : len(drawn.masks)] - said[:, len(drawn.masks) :]) / 2
    values = half @ fit.solution.T + change * moved(share, device)
    fitted = values @ fit.design.T
    within, left_out = (score.float() for score in fit.fidelity(half, fitted))
    error = _sampling_error(
        drawn, fit.solution, (half - fitted) / (1 - fit.leverage).clamp(min=0.05)
    )
    return {
        "values": values.float(),
        "standard_error": error.float(),
        "fidelity": within,
        "held_out": left_out,
    }


def lime(
    question: Question,
    *,
    samples: int | None = None,
    width: float = 0.75,
    ridge: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Coefficients of a local linear surrogate on the presence of features; signs and small
    coefficients are kept.

    Source: Ribeiro, Singh and Guestrin (2016), arXiv:1602.04938, with a ridge in place of feature
    selection.

    Args:
        question: what to explain.
        samples: masks, the same for all rows; default 2 f + 1024.
        width: of the kernel, in units of the square root of f.
        ridge: penalty on the coefficients.
        seed: of the masks.

    Returns:
        `values [n, f]`, `standard_error [n, f]` (heteroscedastic, HC3), `fidelity [n]` and
        `held_out [n]`.

    Raises:
        InputError: fewer samples than coefficients.

    Cost: `n * samples` forwards for each baseline.
    """
    f = question.features
    count = 2 * f + 1024 if samples is None else samples
    if count < f + 2:
        reject(
            "samples",
            f"at least {f + 2} for {f} features",
            str(count),
            "Leave it out for the default of 2 f + 1024.",
        )
    masks, fit = lime_fit(f, count, seed, width, ridge)
    fit, masks = fit.to(question.points.device), moved(masks, question.points.device)
    said = mean_outputs(question, lambda span: question.columns(masks[span]), count)
    coefficients = said @ fit.solution.T
    fitted = coefficients @ fit.design.T
    outside = (said - fitted) / (1 - fit.leverage).clamp(min=0.05)
    error = (outside.square() @ fit.solution.square().T).sqrt()
    within, left_out = fit.fidelity(said, fitted)
    return {
        "values": coefficients[:, 1:].float(),
        "standard_error": error[:, 1:].float(),
        "fidelity": within.float(),
        "held_out": left_out.float(),
    }


def _sampling_error(drawn: Coalitions, solution: Tensor, residual: Tensor) -> Tensor:
    """`[n, f]` standard error over the draws: none from sizes that are listed in full, the spread
    within the others.
    """
    variance = torch.zeros(
        len(residual), len(solution), dtype=torch.float64, device=residual.device
    )
    for size in range(1, int(drawn.size.max()) + 1):
        own = (drawn.size == size).nonzero()[:, 0]
        count = len(own)
        possible = float(drawn.possible[own[0]]) if count else 0.0
        if not count or count >= possible:
            continue
        own = moved(own, residual.device)
        part, mapped = residual[:, own], solution[:, own]
        spread = part.square() @ mapped.square().T - (part @ mapped.T).square() / count
        variance += spread.clamp(min=0) * (1 - count / possible) * count / max(1, count - 1)
    return variance.sqrt()

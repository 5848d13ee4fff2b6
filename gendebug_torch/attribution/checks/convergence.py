"""Check that integrated gradients converge with the usual number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.checks._rows import (
    explained_rows,
    explanation_cost,
    inputs_only,
    sample_records,
)
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.attribution.trust.dependence import output_dependence
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs

# Rows that miss the tolerance get up to this many times the steps.
_MORE_STEPS = 4


@check(
    "attribution.convergence",
    cause=Cause.UNRELIABLE_EXPLANATION,
    needs=("model", "validation.features"),
    cost=explanation_cost(1, 500),
)
def integrated_gradients_converge(
    model: nn.Module,
    validation: Records,
    *,
    steps: int = 50,
    tolerance: float = 0.05,
    limit: float = 0.1,
    rows: int = 500,
    seed: int = 0,
) -> Iterator[Finding]:
    """Integrated gradients with this many steps sum to the change of the output.

    The relative error |delta| / |f(x) - f(b)| from the median row, on a random sample of rows; the
    share of rows above the tolerance counts. Rows that miss it are tried again with up to four
    times the steps: where that suffices, a note says so. No number of steps helps where an input
    has no gradient; such inputs are named.

    Source: Sundararajan, Taly and Yan (2017), section 5, arXiv:1703.01365, for the completeness
    axiom.

    Args:
        model: network to explain.
        validation: rows with features.
        steps: steps of the integrated gradients.
        tolerance: relative error of a row that matters.
        limit: largest share of rows above the tolerance.
        rows: largest number of rows of a table; of pictures and series it is a quarter.
        seed: seed of the sample.
    """
    this = integrated_gradients_converge
    sample = inputs_only(sample_records(validation, explained_rows(validation, rows), seed))
    if not len(sample) or not model_inputs(sample).is_floating_point():
        yield this.finding(Severity.NOTE, "No rows with floating-point features to explain.")
        return
    result = attribute(model, sample, baseline="median", steps=steps, trust=False)
    over = _share_over(result, tolerance)
    text = (
        f"with {steps} steps the contributions of {over:.0%} of {len(sample)} rows miss the change "
        f"of the output by more than {tolerance:.0%}"
    )
    numbers = {
        "share_over": over,
        "median": float(_error(result).median()),
        "tolerance": tolerance,
        "steps": steps,
        "rows": len(sample),
    }
    blind = _blind_inputs(model, sample, result)
    if blind:
        yield _blind_gradient(result, blind, numbers)
    elif over > limit:
        yield _with_more_steps(model, sample, text, numbers, limit)
    else:
        summary = f"Integrated gradients converge: {text}."
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=result)


def _error(result: Attributions) -> Tensor:
    """`[n]` error of each row relative to the change of its output.

    Half the usual change is a floor, for rows whose output hardly differs from the baseline's.
    """
    assert result.convergence_delta is not None
    assert result.outputs is not None
    assert result.base is not None
    change = (result.outputs.double() - result.base.double()).abs()
    floor = max(float(change.median()) / 2, 1e-6)
    return result.convergence_delta.double().abs() / change.clamp(min=floor)


def _share_over(result: Attributions, tolerance: float) -> float:
    return float((_error(result) > tolerance).double().mean())


def _with_more_steps(
    model: nn.Module, sample: Records, text: str, numbers: dict[str, float], limit: float
) -> Finding:
    """A note where rows that take more steps converge, else the warning."""
    this, steps, tolerance = integrated_gradients_converge, numbers["steps"], numbers["tolerance"]
    most = int(_MORE_STEPS * steps)
    result = attribute(
        model,
        sample,
        baseline="median",
        steps=int(steps),
        max_steps=most,
        tolerance=tolerance,
        trust=False,
    )
    over = _share_over(result, tolerance)
    text += f", with up to {most} those of {over:.0%}"
    numbers = numbers | {"max_steps": most, "share_over_max_steps": over}
    if over <= limit:
        summary = f"Integrated gradients need more steps: {text}."
        remedy = f"Pass max_steps={most} to `attribute`: only rows that need them take more steps."
        severity = Severity.NOTE
    else:
        summary = f"Integrated gradients do not converge: {text}."
        remedy = (
            f"Do not use these attributions. Pass max_steps={4 * most} until this check passes "
            f"with steps={4 * most}, or use `kernel_shap`."
        )
        severity = Severity.WARN
    return this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=result)


def _blind_gradient(
    result: Attributions, blind: tuple[str, ...], numbers: dict[str, float]
) -> Finding:
    """The finding where inputs have no gradient, so that no number of steps helps."""
    names = ", ".join(blind)
    summary = f"The gradient is blind to {names}: it is exactly 0, but the output depends on it."
    remedy = (
        f"Use `kernel_shap` or `feature_ablation`. The network reads {names} through a step "
        "without a gradient, such as a rounding, a threshold or an index."
    )
    return integrated_gradients_converge.finding(
        Severity.WARN,
        summary,
        numbers=numbers | {"blind_inputs": list(blind)},
        remedy=remedy,
        evidence=result,
    )


def _blind_inputs(model: nn.Module, sample: Records, result: Attributions) -> tuple[str, ...]:
    """Features on which the output depends although its gradient is exactly 0."""
    usable = result.select(result.usable)
    inputs = model_inputs(sample)[result.usable]
    dependence = output_dependence(AttributionTask(), model, inputs, None, usable, math.inf)
    return () if dependence is None else dependence.blind_inputs

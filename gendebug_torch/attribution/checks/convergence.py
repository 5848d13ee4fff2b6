"""Checks of whether explanations of this network can be believed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._explained_rows import sampled
from gendebug_torch.attribution.checks._explanations import _explanations
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records, model_inputs


@check(
    "attribution.convergence",
    cause=Cause.UNRELIABLE_EXPLANATION,
    needs=("model", "validation.features"),
    cost=_explanations(1, 500),
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
    """Integrated gradients with this many steps add up to the change of the output.

    |delta| / |f(x) - f(b)| from the median row, on a random sample of rows; the share of rows over
    the tolerance counts.

    Source: Sundararajan, Taly and Yan (2017), section 5, arXiv:1703.01365, for the completeness
    axiom.

    Args:
        model: network to explain.
        validation: rows with features.
        steps: of the quadrature.
        tolerance: relative error of a row that matters.
        limit: largest share of rows over the tolerance.
        rows: most rows to try.
        seed: of the sample.
    """
    this = integrated_gradients_converge
    sample = sampled(validation, rows, seed)
    if not len(sample) or not model_inputs(sample).is_floating_point():
        yield this.finding(Severity.NOTE, "No rows with floating-point features to explain.")
        return
    found = attribute(model, sample, baseline="median", steps=steps, trust=False)
    assert found.convergence_delta is not None
    assert found.outputs is not None
    assert found.base is not None
    # The usual change of the output guards rows whose output hardly differs from the baseline's.
    change = (found.outputs.double() - found.base.double()).abs()
    relative = found.convergence_delta.double().abs() / change.clamp(
        min=max(float(change.median()) / 2, 1e-6)
    )
    over = float((relative > tolerance).double().mean())
    numbers = {
        "share_over": over,
        "median": float(relative.median()),
        "tolerance": tolerance,
        "steps": steps,
        "rows": len(sample),
    }
    told = (
        f"with {steps} steps {over:.0%} of {len(sample)} rows miss the change of their output "
        f"by more than {tolerance:.0%}"
    )
    if over > limit:
        remedy = (
            f"Do not read these attributions; pass max_steps={16 * steps}, until this check "
            "passes, or use `kernel_shap`."
        )
        summary = f"Integrated gradients do not converge: {told}."
        yield this.finding(Severity.WARN, summary, numbers=numbers, remedy=remedy, evidence=found)
    else:
        yield this.finding(
            Severity.OK, f"Integrated gradients converge: {told}.", numbers=numbers, evidence=found
        )

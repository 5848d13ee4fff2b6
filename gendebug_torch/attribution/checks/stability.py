"""Checks of whether explanations of this network can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._explained_rows import sampled
from gendebug_torch.attribution.checks._explanations import _explanations
from gendebug_torch.attribution.trust.stability import jitter, sensitivity
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records, model_inputs


@check(
    "attribution.stability",
    cause=Cause.UNRELIABLE_EXPLANATION,
    needs=("model", "validation.features"),
    cost=_explanations(2, 250),
)
def explanations_hold_still(
    model: nn.Module,
    validation: Records,
    *,
    noise: float = 0.02,
    limit: float = 0.5,
    excess: float = 5.0,
    steps: int = 50,
    rows: int = 250,
    seed: int = 0,
) -> Iterator[Finding]:
    """Explanations hold still when the inputs move by too little to matter.

    Integrated gradients of a sample of rows before and after Gaussian noise on every input; the
    median relative change of a row's contributions counts, where the outputs move much less.

    Source: Alvarez-Melis and Jaakkola (2018), arXiv:1806.08049; Yeh et al. (2019),
    arXiv:1901.09392.

    Args:
        model: network to explain.
        validation: rows with features.
        noise: in standard deviations of each input.
        limit: median relative change of the contributions that matters.
        excess: how many times the noise the contributions must move by.
        steps: of the quadrature.
        rows: most rows to try.
        seed: of the sample and of the noise.
    """
    this = explanations_hold_still
    sample = sampled(validation, rows, seed)
    if len(sample) < 2 or not (inputs := model_inputs(sample)).is_floating_point():
        yield this.finding(
            Severity.NOTE,
            "No two rows with floating-point features to explain.",
            numbers={"rows": len(sample)},
        )
        return
    baseline = inputs.median(0).values
    before = attribute(model, inputs, baseline=baseline, steps=steps, trust=False)
    # The class that was explained before, so that a changed prediction is not a changed
    # explanation.
    moved = replace(
        sample,
        features=jitter(inputs, noise, seed),
        targets=before.targets.clamp(min=0),
        logits=None,
    )
    target = "target" if int(before.targets.max()) >= 0 else "predicted"
    found = sensitivity(
        before,
        attribute(model, moved, baseline=baseline, steps=steps, target=target, trust=False),
        noise,
    )
    if not len(found.attribution):
        yield this.finding(
            Severity.NOTE, "No row could be explained without NaN.", numbers={"rows": len(sample)}
        )
        return
    change, output = float(found.attribution.median()), float(found.output.median())
    numbers = {
        "attribution_change": change,
        "output_change": output,
        "noise": noise,
        "rows": len(sample),
    }
    told = (
        f"contributions change by {change:.0%} in the median of {len(sample)} rows when every "
        f"input moves by {noise:.0%} of its spread"
    )
    if change > limit and change > excess * noise:
        remedy = (
            "Do not explain single rows of this network; smooth it (weight decay, fewer "
            "epochs), or average with `smooth_grad`."
        )
        summary = (
            f"Explanations do not hold still: {told} (the output moves by {output:.2f} "
            "standard deviations)."
        )
        yield this.finding(Severity.WARN, summary, numbers=numbers, remedy=remedy, evidence=found)
    else:
        yield this.finding(
            Severity.OK, f"Explanations hold still: {told}.", numbers=numbers, evidence=found
        )

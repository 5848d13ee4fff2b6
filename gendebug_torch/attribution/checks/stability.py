"""Check that attributions are stable under noise of the inputs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.checks._rows import (
    explained_rows,
    explanation_cost,
    inputs_only,
    sample_records,
)
from gendebug_torch.attribution.trust.stability import Sensitivity, jitter, sensitivity
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs


@check(
    "attribution.stability",
    cause=Cause.UNRELIABLE_EXPLANATION,
    needs=("model", "validation.features"),
    cost=explanation_cost(2, 250),
)
def attributions_are_stable_under_noise(
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
    """Attributions change little when the inputs change by too little to matter.

    Integrated gradients of a sample of rows before and after Gaussian noise on every input; the
    median relative change of the contributions of a row counts.

    Source: Alvarez-Melis and Jaakkola (2018), arXiv:1806.08049; Yeh et al. (2019),
    arXiv:1901.09392.

    Args:
        model: network to explain.
        validation: rows with features.
        noise: standard deviation of the noise, in standard deviations of each input.
        limit: median relative change of the contributions that matters.
        excess: smallest ratio of that change to the noise.
        steps: steps of the integrated gradients.
        rows: largest number of rows of a table; of pictures and series it is a quarter.
        seed: seed of the sample and of the noise.
    """
    this = attributions_are_stable_under_noise
    sample = inputs_only(sample_records(validation, explained_rows(validation, rows), seed))
    if len(sample) < 2 or not model_inputs(sample).is_floating_point():
        summary = "Fewer than two rows with floating-point features to explain."
        yield this.finding(Severity.NOTE, summary, numbers={"rows": len(sample)})
        return
    result = _sensitivity(model, sample, noise, steps, seed)
    if not len(result.attribution):
        none = {"rows": len(sample)}
        yield this.finding(Severity.NOTE, "All attributions are NaN.", numbers=none)
        return
    change, output = float(result.attribution.median()), float(result.output.median())
    numbers = {"attribution_change": change, "output_change": output}
    numbers |= {"noise": noise, "rows": len(sample)}
    text = (
        f"noise of {noise:.0%} of the spread of each input changes the contributions by "
        f"{change:.0%} (median of {len(sample)} rows)"
    )
    if not (change > limit and change > excess * noise):
        summary = f"Attributions are stable: {text}."
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=result)
        return
    summary = (
        f"Attributions are unstable: {text}, but the output by only {output:.2f} standard "
        "deviations."
    )
    remedy = (
        "Do not explain single rows of this network. Regularize it (weight decay, fewer epochs), "
        "or average the gradients with `smooth_grad`."
    )
    yield this.finding(Severity.WARN, summary, numbers=numbers, remedy=remedy, evidence=result)


def _sensitivity(
    model: nn.Module, sample: Records, noise: float, steps: int, seed: int
) -> Sensitivity:
    """Integrated gradients with and without noise, of the same class."""
    inputs = model_inputs(sample)
    baseline = inputs.median(0).values
    before = attribute(model, sample, baseline=baseline, steps=steps, trust=False)
    # The class that was explained before, so that a changed prediction is not a changed
    # explanation.
    classes = before.targets.clamp(min=0).to(inputs.device)
    noisy = Records(jitter(inputs, noise, seed), classes, name=sample.name)
    target = "target" if int(before.targets.max()) >= 0 else "predicted"
    after = attribute(model, noisy, baseline=baseline, steps=steps, target=target, trust=False)
    return sensitivity(before, after, noise)

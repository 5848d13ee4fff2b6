"""`network.nonfinite`: the first NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence

_WHERE = {
    "input": "The batch of step {step} has inputs that are missing or infinite.",
    "forward": "{module} gave the first output that is not finite in step {step}{behind}.",
    "weights": "{module} gave the first output that is not finite in step {step}: the update of "
    "step {before} left its weights not finite or too large.",
    "loss": "The loss or its gradient was not finite by step {step}, though every output of "
    "the network was finite.",
}
_REMEDY = {
    "input": "Look for missing values and divisions by zero in the data of this batch; impute them "
    "before they reach the network.",
    "forward": "Look for a logarithm, root, division or exponential in it, or in what is computed "
    "before it; bound its argument, e.g. with clamp, or add a small constant.",
    "weights": "Look for a root or norm at zero in the backward pass, lower the learning rate, or "
    "clip the norm of the gradient.",
    "loss": "Look for a logarithm or division in the loss; take a loss of logits, e.g. "
    "binary_cross_entropy_with_logits.",
}


@check("network.nonfinite", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def outputs_stay_finite(network: NetworkEvidence, *, diverged: float = 0.1) -> Iterator[Finding]:
    """No output of a module and no loss is NaN or infinite.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 4.1.

    Args:
        network: evidence of a training.
        diverged: ratio of update and weights, in the median of layers and steps, from which a
            divergence came before it; or three times as much in any step.
    """
    this = outputs_stay_finite
    first = network.facts.nonfinite
    if first is None:
        yield fine(this, f"Every output was finite over {network.steps} steps.")
        return
    place = first.place
    behind = f"; those of {first.before} before it were finite" if first.before else ""
    words = {"step": first.step, "before": first.step - 1, "module": first.module}
    words["behind"] = behind
    before = network.typical_ratio[network.step < first.step].nan_to_num(0.0)
    ratio = max(before.median().item(), before.max().item() / 3) if len(before) else 0.0
    symptom = place != "input" and ratio > diverged
    summary = _WHERE[place].format(**words)
    if symptom:
        summary += f" Before, updates were {ratio:.2g} times the weights: the training diverged."
    yield fault(
        this,
        f"nonfinite_{place}",
        summary,
        _REMEDY[place],
        severity=Severity.WARN if symptom else Severity.FAIL,
        subject=first.module,
        step=first.step,
        evidence=network,
        update_ratio=ratio,
    )

"""Probes of a copy of a network on one batch, before its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gendebug_torch.errors import reject
from gendebug_torch.network.assembly import network_evidence
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.measures.row_influence import ROUNDING, Rows, change, row_influence
from gendebug_torch.network.module_hooks import first_tensor
from gendebug_torch.network.preflight_evidence import PreflightEvidence
from gendebug_torch.network.recorder import NetworkRecorder

Loss = Callable[[Any, Tensor], Tensor]
# Learning rates that are tried one after the other, and the part of the loss that is enough.
_RATES, _ENOUGH = (1e-3, 1e-2, 1e-4), 0.3
# Calls in training mode after which BatchNorm has settled on a batch.
_SETTLE = 60
# Times by which the modes must differ more than two calls in training mode do.
_BEYOND_NOISE = 2.0


def usual_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss by the form of the targets: cross-entropy of class ids or 0 and 1, else squared error.

    Args:
        outputs: logits or quantities, `[n, k, ...]`, `[n, ..., k]` or `[n]`.
        targets: class ids `[n, ...]`, 0 and 1 as floats, or quantities.

    Raises:
        InputError: outputs and targets have other numbers of rows.
    """
    if outputs.shape[:1] != targets.shape[:1]:
        got = f"outputs {list(outputs.shape)} for targets {list(targets.shape)}"
        remedy = "Look for a wrong axis in the network, e.g. batch_first, or pass `loss`."
        reject("module", "outputs with the rows of the targets", got, remedy)
    if not targets.is_floating_point() and outputs.ndim > targets.ndim and outputs.shape[1] > 1:
        if outputs.shape[:-1] == targets.shape and outputs.shape[2:] != targets.shape[1:]:
            outputs = outputs.movedim(-1, 1)
        return cross_entropy(outputs, targets.long())
    values = targets.to(outputs.dtype).reshape(outputs.shape)
    if bool(((values == 0) | (values == 1)).all()):
        return binary_cross_entropy_with_logits(outputs, values)
    return mse_loss(outputs, values)


def preflight_evidence(
    module: nn.Module,
    inputs: Any,
    targets: Tensor | None,
    loss: Loss | None,
    steps: int,
    rows: list[Rows],
) -> NetworkEvidence:
    """What probes of copies of a network on one batch show; the network is not touched.

    Args:
        module: network.
        inputs: a batch of inputs on its device.
        targets: their targets; without them nothing is fitted.
        loss: loss of outputs and targets; by default `usual_loss`.
        steps: steps of each fit to the batch.
        rows: rows of the batch, in every reading.
    """
    again, mixing, place = _evaluation(copy.deepcopy(module).eval(), inputs, rows)
    gap = 0.0 if again > ROUNDING else _mode_gap(copy.deepcopy(module), inputs)
    network, losses = _fitted(module, inputs, targets, loss or usual_loss, steps)
    answers = PreflightEvidence(
        losses=tuple(losses),
        again=again,
        mode_gap=gap,
        norm_losses=_norm_losses(copy.deepcopy(module), inputs, targets, loss or usual_loss),
        mixing=mixing,
        mixing_module=place,
        rows=rows[0].number,
        softmax=_reads_probabilities(module, inputs, targets, loss),
        **_input_facts(inputs),
        **_target_facts(targets, loss),
    )
    return NetworkEvidence(
        network.layers, network.step, network.values, network.series, network.facts, answers
    )


def called(module: nn.Module, inputs: Any) -> Any:
    """Outputs of a network for a batch that is a Tensor, a mapping or a sequence.

    Args:
        module: network.
        inputs: batch of inputs.
    """
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, (tuple, list)) else module(inputs)


@torch.no_grad()
def _reads_probabilities(
    module: nn.Module, inputs: Any, targets: Tensor | None, loss: Loss | None
) -> bool:
    """Whether a cross-entropy of logits is given outputs that are 0 to 1 and sum to 1."""
    of_logits = loss is None or isinstance(loss, nn.CrossEntropyLoss) or loss is cross_entropy
    outputs = first_tensor(called(copy.deepcopy(module).eval(), inputs))
    if not of_logits or targets is None or outputs is None or outputs.ndim < 2:
        return False
    several = outputs.shape[1] > 1 and not targets.is_floating_point()
    sums = outputs.double().sum(1)
    return several and bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())


@torch.no_grad()
def _evaluation(module: nn.Module, inputs: Any, rows: list[Rows]) -> tuple[float, float, str]:
    """Changes between two calls, and by other rows, with the first module that changed."""
    first, again = (first_tensor(called(module, inputs)) for _ in range(2))
    if first is None or again is None:
        return 0.0, 0.0, ""
    random = change(first, again)
    if random > ROUNDING:
        return random, 0.0, ""
    return random, *min(row_influence(partial(called, module), module, inputs, r) for r in rows)


@torch.no_grad()
def _mode_gap(module: nn.Module, inputs: Any) -> float:
    """Change from training to evaluation mode, with Dropout off and BatchNorm settled."""
    module.train()
    for part in module.modules():
        if isinstance(part, _DropoutNd):
            part.p = 0.0
        if isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
            part.dropout = 0.0
    settles = any(isinstance(part, _BatchNorm) for part in module.modules())
    for _ in range(_SETTLE if settles else 1):
        before = first_tensor(called(module, inputs))
    trained = first_tensor(called(module, inputs))
    evaluated = first_tensor(called(module.eval(), inputs))
    if before is None or trained is None or evaluated is None:
        return 0.0
    gap = change(trained, evaluated)
    # Other random parts of the training mode, as a path that is dropped, differ call by call.
    return gap if gap > _BEYOND_NOISE * change(before, trained) else 0.0


@torch.no_grad()
def _norm_losses(
    module: nn.Module, inputs: Any, targets: Tensor | None, loss: Loss
) -> tuple[float, float] | None:
    """Losses in evaluation mode with the statistics of the batch in BatchNorm, and the running."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if targets is None or not any(bool(part.num_batches_tracked) for part in norms):
        return None
    running = float(loss(called(module.eval(), inputs), targets).mean())
    for part in norms:
        part.train()
    return float(loss(called(module, inputs), targets).mean()), running


def _fitted(
    module: nn.Module, inputs: Any, targets: Tensor | None, loss: Loss, steps: int
) -> tuple[NetworkEvidence, list[float]]:
    """Evidence of the first fit of a copy to the batch, and the losses of the best one."""
    best: list[float] = []
    evidence = None
    for rate in _RATES:
        network = copy.deepcopy(module).train()
        for part in network.modules():
            if isinstance(part, _DropoutNd):
                part.p = 0.0
        trainable = [p for p in network.parameters() if p.requires_grad]
        recorder = NetworkRecorder(network, [torch.optim.Adam(trainable, rate)])
        losses = _fit(recorder, inputs, targets, loss, steps) if targets is not None else []
        evidence = evidence or network_evidence(recorder, batches=1)
        if not best or (losses and min(losses) < min(best)):
            best = losses
        if not best or min(best) < _ENOUGH * best[0]:
            break
    assert evidence is not None
    return evidence, best


def _fit(
    recorder: NetworkRecorder, inputs: Any, targets: Tensor, loss: Loss, steps: int
) -> list[float]:
    """Losses of a fit to one batch, until they are small or not finite."""
    losses: list[float] = []
    recorder.attach()
    try:
        for _ in range(steps):
            value = loss(called(recorder.model, inputs), targets)
            recorder.add_loss(value, targets)
            losses.append(float(value.detach()))
            torch.autograd.backward(value)
            recorder.optimizers[0].step()
            recorder.optimizers[0].zero_grad()
            small = losses[-1] < _ENOUGH * losses[0] and len(losses) > 5
            if small or losses[-1] != losses[-1]:
                break
    finally:
        recorder.detach()
    return losses


def _input_facts(inputs: Any) -> dict[str, Any]:
    tensor = first_tensor(inputs)
    if tensor is None or not tensor.is_floating_point():
        return {}
    values = tensor.double()
    finite = values[values.isfinite()]
    missing = 1 - finite.numel() / max(values.numel(), 1)
    if finite.numel() < 2:
        return {"input_missing": missing}
    return {
        "input_mean": float(finite.mean()),
        "input_deviation": float(finite.std()),
        "input_missing": missing,
    }


def _target_facts(targets: Tensor | None, loss: Loss | None) -> dict[str, Any]:
    if targets is None or targets.numel() < 2:
        return {}
    if targets.is_floating_point():
        values = targets.double()
        return {"target_mean": float(values.mean()), "target_deviation": float(values.std())}
    counts = targets[targets >= 0].flatten().bincount().double()
    shares = tuple((counts / counts.sum()).tolist())
    weight = getattr(loss, "weight", None)
    weights = tuple(weight.double().tolist()) if isinstance(weight, Tensor) else ()
    return {"class_shares": shares, "class_weights": weights}

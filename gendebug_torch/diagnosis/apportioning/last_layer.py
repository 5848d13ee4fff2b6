"""The last linear layer of a network, fitted again to recent rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.model.runner import logits_of, map_rows

# Weights, and inputs, of the largest layer that is fitted again.
_MOST_WEIGHTS, _MOST_INPUTS = 100_000, 1024
_ROUNDS = 40


def refitted_logits(
    model: Any, records: Records, inputs: Any, folds: Tensor, device: str | torch.device
) -> Tensor | None:
    """Outputs of a last layer that was fitted to the rows of the other folds; None without one.

    Ridge regression towards the present weights, whose strength is one row's worth.

    Args:
        model: network.
        records: labeled rows.
        inputs: the same rows as the network takes them: records or a tensor.
        folds: fold of each row, `[n]`.
        device: of the network.
    """
    layer = _last_layer(model)
    if layer is None or records.targets is None:
        return None
    embedding, logits = _embedding(model, layer, inputs, device)
    weight, bias = _parameters(layer)
    if embedding.shape[1] != weight.shape[1] or logits.numel() != len(logits) * len(weight):
        return None
    again = (embedding @ weight.T + bias).reshape(logits.shape)
    if not torch.allclose(again, logits, rtol=1e-3, atol=1e-3):
        return None
    targets, fitted = records.targets.cpu(), torch.empty_like(logits)
    for fold in range(int(folds.max()) + 1):
        own = folds == fold
        new = _fitted(embedding[~own], targets[~own], weight, bias, records.task)
        fitted[own] = (embedding[own] @ new[:, :-1].T + new[:, -1]).reshape(fitted[own].shape)
    return fitted


def _embedding(
    model: Any, layer: nn.Linear, inputs: Any, device: str | torch.device
) -> tuple[Tensor, Tensor]:
    """Inputs of the layer `[n, e]` and outputs of the network; `[n, 0]` where it is not used."""
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: kept.append(given[0]))

    def step(batch: Any, targets: Tensor | None) -> dict[str, Tensor]:
        kept.clear()
        logits = logits_of(model, batch)
        embedding = kept[-1].flatten(1) if kept else torch.empty(len(logits), 0)
        return {"embedding": embedding, "logits": logits}

    try:
        rows = map_rows(step, inputs, model=model, device=device)
    finally:
        handle.remove()
    return rows["embedding"].double(), rows["logits"].double()


def _last_layer(model: Any) -> nn.Linear | None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return None
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not layers or layers[-1].in_features > _MOST_INPUTS:
        return None
    return layers[-1] if layers[-1].weight.numel() <= _MOST_WEIGHTS else None


def _parameters(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().cpu().double()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu()
    return weight, bias.double()


def _fitted(
    embedding: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, task: Task | None
) -> Tensor:
    """Weights with the bias as their last column, `[k, e + 1]`."""
    scale = embedding.std(0).clamp(min=1e-6)
    start = torch.cat([weight * scale, bias[:, None]], 1)
    units = torch.cat([embedding / scale, torch.ones(len(embedding), 1)], 1)
    change = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.LBFGS([change], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs = units @ (start + change).T
        loss = _loss(outputs, targets, task) + change.square().sum() / len(units)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    new = (start + change).detach()
    return torch.cat([new[:, :-1] / scale, new[:, -1:]], 1)


def _loss(outputs: Tensor, targets: Tensor, task: Task | None) -> Tensor:
    if task is Task.REGRESSION:
        known = targets.double().reshape(outputs.shape)
        return (outputs - known).square().mean() / known.var().clamp(min=1e-12)
    if outputs.shape[1] > 1 and targets.ndim == 1:
        return cross_entropy(outputs, targets)
    return binary_cross_entropy_with_logits(outputs, targets.double().reshape(outputs.shape))

"""From the rows of a `NetworkRecorder` to a `NetworkEvidence`: the one wait for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gendebug_torch.network.evidence import (
    SERIES,
    Layer,
    NetworkEvidence,
    NonFinite,
    RunFacts,
    first_since,
)
from gendebug_torch.network.measures.finite_outputs import STRIDE
from gendebug_torch.network.measures.loss_form import FITS
from gendebug_torch.network.measures.module_kinds import is_standard
from gendebug_torch.network.module_hooks import named_layers
from gendebug_torch.network.recorder import SHARES, NetworkRecorder

# Sampled steps in the second half from which a unit that was never active there is dead.
_MIN_STEPS = 5
# Different batches, rows of each and classes by which the order of the targets is judged.
_MIN_BATCHES, _MIN_ROWS, _MOST_CLASSES = 4, 8, 256


def network_evidence(recorder: NetworkRecorder, *, batches: int | None = None) -> NetworkEvidence:
    """What a recorder holds so far.

    Args:
        recorder: record of a training.
        batches: batches of an epoch; None where unknown.
    """
    recorder.finite.judge()
    norms, shares, series = _rows(recorder)
    layers, columns = [], []
    step = torch.tensor(recorder.steps, dtype=torch.int64)
    for position, name, module in named_layers(recorder.hooks):
        own = _own_parameters(recorder, module)
        layers.append(_layer(recorder, position, name, module, own, step))
        columns.append(torch.cat([_total(norms, recorder, own), shares[:, :, position]], 1))
    values = torch.stack(columns, 1)
    rates = torch.tensor(recorder.rates, dtype=torch.float64)
    series = torch.cat([series, rates[:, None]], 1)
    facts = _facts(recorder, series, step, batches)
    return NetworkEvidence(tuple(layers), step, values, series, facts)


def _rows(recorder: NetworkRecorder) -> tuple[Tensor, Tensor, Tensor]:
    """Norms `[t, 3, p]`, measures of modules `[t, 6, m]` and series `[t, 7]` on the host."""
    p, m = len(recorder.parameters), len(recorder.hooks.modules)
    widths = [3 * p, len(SHARES) * m, len(SERIES) - 1]
    norms, shares, series = torch.split(recorder.rows.dense(), widths, dim=1)
    norms = norms.view(-1, 3, p).clone()
    read = zip(recorder.parameters.values(), recorder.strides, strict=True)
    # Of what is read in part the norm is that of so many rows like these.
    parts = [len(q) / len(range(0, len(q), k)) if k > 1 else 1.0 for q, k in read]
    norms[:, 1:] *= torch.tensor(parts, dtype=torch.float64).sqrt()
    return norms, shares.view(-1, len(SHARES), m), series


def _own_parameters(recorder: NetworkRecorder, module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of a module by their dotted names."""
    own = {id(p) for p in module._parameters.values() if p is not None}
    return {name: p for name, p in recorder.parameters.items() if id(p) in own}


def _total(norms: Tensor, recorder: NetworkRecorder, own: dict[str, nn.Parameter]) -> Tensor:
    """Norms `[t, 3]` over the weights of a layer, or over all where it has no matrix."""
    weights = [name for name, p in own.items() if p.ndim >= 2] or list(own)
    at = [at for at, name in enumerate(recorder.parameters) if name in weights]
    part = norms[:, :, at]
    total = part.square().nansum(2).sqrt()
    # NaN stands for no gradient, unless every parameter has a NaN for a value.
    return torch.where(part.isnan().all(2), torch.nan, total)


def _layer(
    recorder: NetworkRecorder,
    position: int,
    name: str,
    module: nn.Module,
    own: dict[str, nn.Parameter],
    step: Tensor,
) -> Layer:
    groups = {
        id(parameter): group
        for optimizer in recorder.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    trainable = {name: p for name, p in own.items() if p.requires_grad}
    used = [groups[id(p)] for p in trainable.values() if id(p) in groups]
    reached = {name for at, name in enumerate(recorder.parameters) if at in recorder.with_gradient}
    missing = tuple(name for name in trainable if name not in reached)
    share, since = _dead(recorder.hooks.activity.last_active(position), step)
    return Layer(
        name=name,
        kind=type(module).__name__,
        elements=sum(p.numel() for p in own.values()),
        trainable=bool(trainable) or not own,
        optimized=bool(used) or not trainable,
        called=position in recorder.hooks.order or name in recorder.blind,
        without_gradient=missing if len(step) else (),
        dead_share=share,
        dead_since=since,
        rate=float(used[0]["lr"]) if used and "lr" in used[0] else None,
        decay=float(used[0].get("weight_decay", 0.0)) if used else 0.0,
    )


def _dead(last_active: Tensor | None, step: Tensor) -> tuple[float | None, int | None]:
    """Share of the units without a gradient in the second half, and since when."""
    half = first_since(step, 0.5)
    if last_active is None or len(step) - half < _MIN_STEPS:
        return None, None
    last = last_active.cpu()
    dead = last < step[half]
    since = int(last[dead].median()) if bool(dead.any()) else None
    return float(dead.double().mean()), since


def _facts(
    recorder: NetworkRecorder, series: Tensor, step: Tensor, batches: int | None
) -> RunFacts:
    hooks, optimizer, targets = recorder.hooks, recorder.optimizers[0], recorder.targets
    uniform, constant = _baselines(targets, hooks.outputs, _smoothing(series))
    by_batch, by_position = _order(targets, hooks.outputs)
    loss = recorder.start_loss
    notes = []
    if recorder.blind:
        notes.append(f"{len(recorder.blind)} modules are compiled; their outputs were not seen")
    name = type(optimizer).__name__
    return RunFacts(
        optimizer=name,
        decoupled=name in ("AdamW", "NAdamW", "Lion")
        or bool(optimizer.param_groups[0].get("decoupled_weight_decay")),
        rows=len(targets[0]) if targets and targets[0].ndim == 1 else recorder.rows_of_batch,
        backwards=recorder.backwards,
        start_loss=None if loss is None else float(loss),
        uniform_loss=uniform,
        constant_loss=constant,
        told_by_batch=by_batch,
        told_by_position=by_position,
        nonfinite=_nonfinite(recorder, series, step),
        training_calls=(hooks.calls[True, True], hooks.calls[True, False]),
        evaluation_calls=(hooks.calls[False, True], hooks.calls[False, False]),
        inference=(hooks.inference[0], hooks.inference[1]),
        single_rows=(hooks.single[0], hooks.single[1]),
        batches=batches,
        notes=tuple(notes),
    )


def _nonfinite(recorder: NetworkRecorder, series: Tensor, step: Tensor) -> NonFinite | None:
    """The first output that was not finite, or else the first such loss."""
    known = recorder.finite.first
    found, code = (-1, -1) if known is None else known.tolist()
    if found < 0:
        bad = (series[:, SERIES.index("gradient_norm")].isnan()).nonzero()[:, 0].tolist()
        infinite = series[:, SERIES.index("loss")].isinf().nonzero()[:, 0].tolist()
        first = min([*bad, *infinite], default=None)
        return None if first is None else NonFinite(int(step[first]), "", "loss")
    pattern, at = recorder.finite.patterns[code // STRIDE], code % STRIDE
    if pattern[at] < 0:
        return NonFinite(found, "", "input")
    name, module = recorder.hooks.modules[pattern[at]]
    before = [recorder.hooks.modules[one] for one in pattern[:at] if one >= 0]
    # A NaN on its way back meets the weights of all layers before: the first one has it too.
    first = not any(p.requires_grad for _, one in before for p in one.parameters())
    place = "weights" if is_standard(module) and found > 1 and first else "forward"
    return NonFinite(found, name, place, before[-1][0] if before else "")


def _smoothing(series: Tensor) -> float | None:
    """Label smoothing of a cross-entropy, read from its gradients; None where there was none."""
    seen = series[:, SERIES.index("cross_entropy")] > FITS
    if not bool(seen.any()):
        return None
    smoothing = series[seen, SERIES.index("label_smoothing")].median().item()
    return smoothing if 1e-3 < smoothing < 1 else 0.0


def _baselines(
    batches: list[Tensor], outputs: int, smoothing: float | None
) -> tuple[float | None, float | None]:
    """Losses of equal probabilities (or zeros) and of the best constant, by the form of targets."""
    if not batches or not all(part.numel() for part in batches):
        return None if smoothing is None else math.log(outputs), None
    values = _joined(batches)
    if not values.is_floating_point() and values.dtype != torch.bool and outputs >= 2:
        counts = values[values >= 0].flatten().bincount(minlength=outputs).double()
        # Of a contrastive loss the classes are the rows of a batch, not the units of a layer.
        outputs = len(counts)
        if not bool(counts.any()):
            return math.log(outputs), None
        even = smoothing or 0.0
        shares = (1 - even) * counts / counts.sum() + even / len(counts)
        return math.log(outputs), float(-shares.xlogy(shares).sum())
    values = values.double()
    if bool(((values == 0) | (values == 1)).all()):
        mean = values.mean(0)
        return math.log(2), float(-(mean.xlogy(mean) + (1 - mean).xlogy(1 - mean)).mean())
    return float(values.square().mean()), float(values.var(0, unbiased=False).mean())


def _order(batches: list[Tensor], outputs: int) -> tuple[float | None, float | None]:
    """Shares of the variance of targets `[b, n]` that batch and position explain beyond chance.

    It is Hays' omega squared but for a constant: the explained share, from 0 where it is what
    groups of that size explain by chance to 1.
    """
    whole = [part for part in batches if part.ndim == 1 and len(part) == len(batches[0])]
    if len(whole) < _MIN_BATCHES or len(whole[0]) < _MIN_ROWS:
        return None, None
    # Epochs of few batches in one order repeat them.
    targets: Tensor = torch.unique(torch.stack(whole).cpu(), dim=0)
    if len(targets) < _MIN_BATCHES:
        return None, None
    values = targets.double()[..., None]
    if not targets.is_floating_point():
        if not 2 <= outputs <= _MOST_CLASSES or not 0 <= int(targets.amin()) <= outputs:
            return None, None
        values = one_hot(targets.long()).double()
    centered = values - values.mean((0, 1))
    total = float(centered.square().mean((0, 1)).sum())
    if not total > 0:
        return None, None
    shares = []
    for axis in (1, 0):
        explained = float(centered.mean(axis).square().mean(0).sum()) / total
        chance = (values.shape[1 - axis] - 1) / (values.shape[0] * values.shape[1] - 1)
        shares.append((explained - chance) / (1 - chance))
    return shares[0], shares[1]


def _joined(batches: list[Tensor]) -> Tensor:
    """Targets of several batches, `[n, k]`; one column where their shapes differ."""
    parts = [part.cpu().reshape(len(part) if part.ndim else 1, -1) for part in batches]
    if len({part.shape[1] for part in parts}) > 1:
        parts = [part.reshape(-1, 1) for part in parts]
    return torch.cat(parts)

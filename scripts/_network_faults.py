"""Small networks and their trainings, sound or with one fault each, for the bench of `network`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

CLASSES, TOKENS, LENGTH = 4, 12, 8
ARCHITECTURES = ("MLP", "CNN", "transformer")


class Block(nn.Module):
    """A transformer block; residual connections and normalization can be left out."""

    def __init__(self, width: int, act: Callable[[], nn.Module], plain: bool, drop: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1 = nn.Identity() if plain else nn.LayerNorm(width)
        self.norm2 = nn.Identity() if plain else nn.LayerNorm(width)
        self.up, self.act, self.down = (
            nn.Linear(width, 2 * width),
            act(),
            nn.Linear(2 * width, width),
        )
        self.drop, self.plain = nn.Dropout(drop), plain

    def forward(self, x: Tensor) -> Tensor:
        """Attention and a network of two layers."""
        h = self.norm1(x)
        h = self.out(scaled_dot_product_attention(self.query(h), self.key(h), self.value(h)))
        x = h if self.plain else x + self.drop(h)
        h = self.down(self.act(self.up(self.norm2(x))))
        return h if self.plain else x + self.drop(h)


class Transformer(nn.Module):
    """Blocks between an embedding with positions and a linear layer on the mean."""

    def __init__(
        self, act: Callable[[], nn.Module], plain: bool, depth: int, drop: float, norm: str = ""
    ) -> None:
        super().__init__()
        width = 16
        self.embed = nn.Embedding(TOKENS, width)
        self.position = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, act, plain, drop) for _ in range(depth))
        self.norm: nn.Module = nn.Identity() if plain else nn.LayerNorm(width)
        self.norm = nn.BatchNorm1d(width) if norm == "batch" else self.norm
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h.mean(1)))


def stack(
    name: str, act: Callable[[], nn.Module], norm: str, depth: int, drop: float
) -> nn.Sequential:
    """An MLP or a CNN of this depth."""
    layers: list[nn.Module] = []
    width = 32 if name == "MLP" else 8
    for at in range(depth):
        if name == "MLP":
            layers.append(nn.Linear(16 if at == 0 else width, width))
            layers += [nn.BatchNorm1d(width)] if norm == "batch" else []
        else:
            layers.append(nn.Conv2d(1 if at == 0 else width, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm == "batch" else []
        layers += [nn.LayerNorm(width)] if norm == "layer" and name == "MLP" else []
        layers += [act()]
        layers += [nn.Dropout(drop)] if drop else []
    layers += [] if name == "MLP" else [nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width if name == "MLP" else width * 9, CLASSES))


def network(
    name: str,
    act: Callable[[], nn.Module] = nn.ReLU,
    *,
    norm: str = "",
    plain: bool = False,
    depth: int = 0,
    drop: float = 0.0,
) -> nn.Module:
    """A network of this architecture."""
    if name == "transformer":
        return Transformer(act, plain, depth or 2, drop, norm)
    return stack(name, act, norm, depth or 3, drop)


def batches(name: str, seed: int, rows: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh rows without end; labels follow from the inputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"MLP": (16,), "CNN": (1, 6, 6), "transformer": (LENGTH,)}[name]
    directions = torch.randn(CLASSES, math.prod(shape), generator=generator)
    values = torch.randn(TOKENS, CLASSES, generator=generator)
    while True:
        if name == "transformer":
            x = torch.randint(TOKENS, (rows, LENGTH), generator=generator)
            scores = values[x].sum(1)
        else:
            x = torch.randn(rows, *shape, generator=generator)
            scores = x.flatten(1) @ directions.T
        yield x, scores.argmax(1)


@dataclass
class Training:
    """A training: what is trained, on what, how, and which fault it has.

    Args:
        model: network.
        optimizer: its optimizer.
        data: batches without end.
        loss: loss of outputs and targets.
        kinds: kinds of findings that name the fault; empty for none.
        layers: dotted names of which one is to be named; empty where the fault has no layer.
        accumulate: backward passes per step; the loss is divided by `divide`.
        clip: largest norm of the gradient.
        evaluate: whether it is evaluated without `eval()`, with it, or never.
        scheduler: steps the learning rate after each step.
        scaler: gradient scaler of float16.
        on_step: change before a step, of the batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Iterator[tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    kinds: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    accumulate: int = 1
    divide: int = 1
    clip: float | None = None
    evaluate: str = ""
    scheduler: Any = None
    scaler: Any = None
    on_step: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] = field(
        default=lambda step, x, y: (x, y)
    )


def train(case: Training, record: Any, steps: int) -> None:
    """The loop; `record` gets the losses."""
    for step in range(1, steps + 1):
        for _ in range(case.accumulate):
            x, y = case.on_step(step, *next(case.data))
            loss = case.loss(case.model(x), y)
            record.loss(loss, y)
            loss = loss / case.divide
            (loss if case.scaler is None else case.scaler.scale(loss)).backward()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(case.model.parameters(), case.clip)
        if case.scaler is None:
            case.optimizer.step()
        else:
            case.scaler.step(case.optimizer)
            case.scaler.update()
        case.optimizer.zero_grad()
        if case.scheduler is not None:
            case.scheduler.step()
        if case.evaluate and step % 20 == 0:
            case.model.train(case.evaluate == "train")
            with torch.no_grad():
                case.model(next(case.data)[0])
            case.model.train()


def weighted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Linear and convolutional layers by name, in order."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def middle(name: str, model: nn.Module) -> tuple[str, nn.Module]:
    """A layer with an activation behind it, neither the first nor the last."""
    if name == "transformer":
        return "blocks.0.up", model.blocks[0].up  # type: ignore[index, union-attr]
    return weighted(model)[1]


def sgd(model: nn.Module, rate: float = 0.05, **options: Any) -> torch.optim.Optimizer:
    """Gradient descent with momentum."""
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9, **options)


def adam(model: nn.Module, rate: float = 2e-3, **options: Any) -> torch.optim.Optimizer:
    """Adam."""
    return torch.optim.Adam(model.parameters(), rate, **options)


def scale(layer: nn.Module, factor: float) -> None:
    """Multiply the weights of a layer."""
    with torch.no_grad():
        layer.weight.mul_(factor)  # type: ignore[operator, union-attr]


def vanishing(name: str, seed: int) -> Training:
    """Sigmoids in a deep stack."""
    model = network(name, nn.Sigmoid, depth=8 if name != "transformer" else 4, plain=True)
    first = "embed" if name == "transformer" else "0"
    return Training(
        model, sgd(model), batches(name, seed), kinds=("vanishing_gradient",), layers=(first,)
    )


def exploding(name: str, seed: int) -> Training:
    """Weights that start too large, layer after layer."""
    model = network(name, depth=8 if name != "transformer" else 4, plain=True)
    for at, (_, layer) in enumerate(weighted(model)[:-1]):
        if at or name == "transformer":
            scale(layer, 10.0)
    first = ("embed", "blocks.0.value") if name == "transformer" else ("0",)
    model_head = weighted(model)[-1][1]
    scale(model_head, 1.0)
    return Training(
        model, sgd(model, 1e-4), batches(name, seed), kinds=("exploding_gradient",), layers=first
    )


def rate_too_large(name: str, seed: int) -> Training:
    """A learning rate some hundred times too large."""
    model = network(name)
    optimizer = adam(model, 1.0) if seed % 2 else sgd(model, 5.0)
    return Training(model, optimizer, batches(name, seed), kinds=("rate_too_large",))


def rate_too_small(name: str, seed: int) -> Training:
    """A learning rate some thousand times too small."""
    model = network(name)
    optimizer = adam(model, 1e-8) if seed % 2 else sgd(model, 1e-6)
    return Training(model, optimizer, batches(name, seed), kinds=("rate_too_small",))


def dead_units(name: str, seed: int) -> Training:
    """A bias far below zero before a ReLU."""
    model = network(name)
    at, layer = middle(name, model)
    with torch.no_grad():
        layer.bias.fill_(-30.0)  # type: ignore[operator, union-attr]
    return Training(
        model, sgd(model, 0.01), batches(name, seed), kinds=("dead_units",), layers=(at,)
    )


def saturated_units(name: str, seed: int) -> Training:
    """Large weights before a tanh."""
    model = network(name, nn.Tanh)
    at, layer = middle(name, model)
    scale(layer, 100.0)
    activation = "blocks.0.act" if name == "transformer" else str(int(at) + 1)
    return Training(
        model, sgd(model, 0.01), batches(name, seed), kinds=("saturated_units",),
        layers=(activation,),
    )  # fmt: skip


def frozen(name: str, seed: int) -> Training:
    """A layer in the middle that requires no gradient."""
    model = network(name)
    at, layer = middle(name, model)
    layer.requires_grad_(False)
    return Training(model, adam(model), batches(name, seed), kinds=("frozen",), layers=(at,))


class Detached(nn.Module):
    """A module whose outputs are cut off from the graph."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Outputs without their graph."""
        return self.inner(x).detach()


def detached(name: str, seed: int) -> Training:
    """A detach behind a layer."""
    model = network(name, plain=True)
    if name == "transformer":
        model.blocks[0].down = Detached(model.blocks[0].down)  # type: ignore
        at = "blocks.0.down.inner"
    else:
        at, layer = middle(name, model)
        model[int(at)] = Detached(layer)  # type: ignore
        at = f"{at}.inner"
    return Training(model, adam(model), batches(name, seed), kinds=("detached",), layers=(at,))


def not_in_optimizer(name: str, seed: int) -> Training:
    """An optimizer that lacks a layer."""
    model = network(name)
    at, layer = middle(name, model)
    own = set(map(id, layer.parameters()))
    held = [p for p in model.parameters() if id(p) not in own]
    optimizer = torch.optim.Adam(held, 2e-3)
    return Training(
        model, optimizer, batches(name, seed), kinds=("not_in_optimizer",), layers=(at,)
    )


def unused(name: str, seed: int) -> Training:
    """A layer that forward does not call."""
    model = network(name)
    model.extra = nn.Linear(4, 4)
    if isinstance(model, nn.Sequential):
        inner = model[:-1]
        model = nn.ModuleDict({"body": inner, "extra": nn.Linear(4, 4)})
        model.forward = model["body"].forward  # type: ignore[method-assign]
    return Training(model, adam(model), batches(name, seed), kinds=("unused",), layers=("extra",))


def wrong_start(name: str, seed: int) -> Training:
    """A last layer without bias whose logits of a row have a standard deviation of ten."""
    model = network(name)
    head = weighted(model)[-1][1]
    x, _ = next(batches(name, seed))
    with torch.no_grad():
        head.bias.zero_()  # type: ignore[operator, union-attr]
        scale(head, 10.0 / float(model(x).std(1).mean()))
    return Training(model, adam(model), batches(name, seed), kinds=("wrong_start",))


class Root(nn.Module):
    """The root of what comes in; from a call on it meets a negative number."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, x: Tensor) -> Tensor:
        """Inputs, with a root of a negative number in one row."""
        self.calls += 1
        return x if self.calls < self.call else (x - 100.0).sqrt()


def nan_in_forward(name: str, seed: int) -> Training:
    """A root of a negative number in step 40."""
    model = network(name)
    if name == "transformer":
        model.blocks[1].act = nn.Sequential(nn.ReLU(), Root(40))  # type: ignore
        at = "blocks.1.act.1"
    else:
        model = nn.Sequential(*model[:2], Root(40), *model[2:])  # type: ignore
        at = "2"
    return Training(
        model, adam(model), batches(name, seed), kinds=("nonfinite_forward",), layers=(at,)
    )


def nan_in_input(name: str, seed: int) -> Training:
    """A missing value among the inputs of step 40; of ids, a table of embeddings with one."""
    model = network(name)

    def spoil(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if step == 40:
            x = x.clone()
            x[3, ..., 2] = float("nan")
        return x, y

    if name == "transformer":
        model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
        return Training(
            model, adam(model), batches("MLP", seed), kinds=("nonfinite_input",), on_step=spoil
        )
    return Training(
        model, adam(model), batches(name, seed), kinds=("nonfinite_input",), on_step=spoil
    )


def shuffled_labels(name: str, seed: int) -> Training:
    """Labels of other rows."""
    model = network(name)

    def shuffle(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y[torch.randperm(len(y))]

    return Training(model, adam(model), batches(name, seed), kinds=("no_signal",), on_step=shuffle)


def always_clipped(name: str, seed: int) -> Training:
    """A limit of the gradient far below its norm."""
    model = network(name)
    return Training(model, sgd(model), batches(name, seed), kinds=("always_clipped",), clip=1e-2)


def not_averaged(name: str, seed: int) -> Training:
    """Four backward passes per step whose losses are not divided."""
    model = network(name)
    return Training(
        model, sgd(model, 0.01), batches(name, seed), kinds=("accumulation_not_averaged",),
        accumulate=4,
    )  # fmt: skip


def repeated_batch(name: str, seed: int) -> Training:
    """A loader that is begun anew in each step."""
    model = network(name)
    data = itertools.repeat(next(batches(name, seed)))
    return Training(model, adam(model), data, kinds=("repeated_batch",))


def decay_dominates(name: str, seed: int) -> Training:
    """A weight decay that shrinks the weights to nothing."""
    model = network(name)
    return Training(
        model, sgd(model, 0.05, weight_decay=0.5), batches(name, seed), kinds=("decay_dominates",)
    )


def schedule_ended(name: str, seed: int) -> Training:
    """A schedule by epochs that is stepped by batches."""
    model = network(name)
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.1)
    return Training(
        model, optimizer, batches(name, seed), kinds=("schedule_ended",), scheduler=schedule
    )


def evaluated_in_training_mode(name: str, seed: int) -> Training:
    """An evaluation without `eval()`."""
    model = network(name, drop=0.2)
    return Training(
        model, adam(model), batches(name, seed), kinds=("evaluated_in_training_mode",),
        evaluate="train",
    )  # fmt: skip


def batch_norm_gap(name: str, seed: int) -> Training:
    """A BatchNorm whose momentum is so small that its statistics stay behind."""
    model = network(name, norm="batch")
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1e-4
    for at, layer in weighted(model)[:-1]:
        if not at.startswith("blocks"):
            scale(layer, 20.0)
    if name == "transformer":
        scale(model.blocks[-1].down, 20.0)  # type: ignore
    return Training(model, adam(model), batches(name, seed), kinds=("batch_norm_gap",))


class Autocast(nn.Module):
    """A network in float16 where autocast has it so."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        with torch.autocast("cpu", torch.float16):
            return self.inner(x).float()


def gradient_underflow(name: str, seed: int) -> Training:
    """A loss of float16 that is divided by the rows of an epoch, and not scaled."""
    model = Autocast(network(name))
    return Training(
        model, adam(model), batches(name, seed), kinds=("gradient_underflow",),
        loss=lambda outputs, targets: cross_entropy(outputs, targets) / 1e5,
    )  # fmt: skip


class Whole(nn.Module):
    """A network whose weights are in bfloat16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        return self.inner(x.bfloat16() if x.is_floating_point() else x).float()


def updates_lost(name: str, seed: int) -> Training:
    """Weights in bfloat16 and a learning rate for float32."""
    model = Whole(network(name))
    return Training(
        model, adam(model, 1e-5), batches(name, seed), kinds=("updates_lost",)
    )  # fmt: skip


def steps_skipped(name: str, seed: int) -> Training:
    """A gradient scaler that grows after each step."""
    model = Autocast(network(name))
    scaler = torch.amp.GradScaler("cpu", growth_interval=1)
    return Training(
        model, adam(model), batches(name, seed), kinds=("steps_skipped",), scaler=scaler
    )  # fmt: skip


def summed_loss(name: str, seed: int) -> Training:
    """A loss that is summed over the rows."""
    model = network(name)
    return Training(
        model, adam(model), batches(name, seed), kinds=("summed_loss",),
        loss=lambda outputs, targets: cross_entropy(outputs, targets, reduction="sum"),
    )  # fmt: skip


def trained_in_evaluation_mode(name: str, seed: int) -> Training:
    """A network that is left in evaluation mode."""
    model = network(name, drop=0.2)
    model.eval()
    return Training(model, adam(model), batches(name, seed), kinds=("trained_in_evaluation_mode",))


def single_rows(name: str, seed: int) -> Training:
    """A BatchNorm that gets rows one by one."""
    model = network(name, norm="batch")
    if name == "transformer":
        model.norm = OneByOne(16)  # type: ignore[assignment]
    else:
        model = nn.Sequential(*list(model)[:-1], OneByOne(model[-1].in_features), model[-1])  # type: ignore
        for at, part in enumerate(model):
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                model[at] = nn.Identity()
    return Training(model, adam(model), batches(name, seed), kinds=("single_row_batch_norm",))


class OneByOne(nn.Module):
    """A BatchNorm over the positions of one row at a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Rows, each normalized by itself."""
        rows = [self.norm(row.view(1, 1, self.width)) for row in x]
        return torch.cat(rows).flatten(1)


def no_update(name: str, seed: int) -> Training:
    """A group of the optimizer whose learning rate is zero."""
    model = network(name)
    at, layer = middle(name, model)
    own = list(layer.parameters())
    rest = [p for p in model.parameters() if all(p is not one for one in own)]
    optimizer = torch.optim.Adam([{"params": rest}, {"params": own, "lr": 0.0}], 2e-3)
    return Training(model, optimizer, batches(name, seed), kinds=("no_update",), layers=(at,))


def sorted_rows(name: str, seed: int) -> Training:
    """A table sorted by class that is not shuffled."""
    model = network(name)
    x, y = next(batches(name, seed, 480))
    order = y.argsort()
    data = itertools.cycle(zip(x[order].split(32), y[order].split(32), strict=True))
    return Training(model, adam(model), data, kinds=("ordered_batches",))


FAULTS: dict[str, Callable[[str, int], Training]] = {
    function.__name__: function
    for function in (
        vanishing, exploding, rate_too_large, rate_too_small, dead_units, saturated_units, frozen,
        detached, not_in_optimizer, unused, wrong_start, nan_in_forward, nan_in_input,
        shuffled_labels, always_clipped, not_averaged, repeated_batch, decay_dominates,
        schedule_ended, evaluated_in_training_mode, batch_norm_gap,
        gradient_underflow, updates_lost, sorted_rows, steps_skipped, summed_loss,
        trained_in_evaluation_mode, single_rows, no_update,
    )
}  # fmt: skip


def _sound(
    name: str,
    seed: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    act: Callable[[], nn.Module] = nn.ReLU,
    initialize: Callable[[Tensor], Any] | None = None,
    **options: Any,
) -> Training:
    parts = {key: options.pop(key) for key in ("norm", "drop", "depth") if key in options}
    model = network(name, act, **parts)
    for _, layer in weighted(model) if initialize is not None else ():
        initialize(layer.weight)  # type: ignore
    return Training(model, optimizer(model), batches(name, seed), **options)


def _cosine(name: str, seed: int) -> Training:
    case = _sound(name, seed, partial(sgd, rate=0.1))
    case.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(case.optimizer, 200)
    return case


def _half(name: str, seed: int) -> Training:
    case = _sound(name, seed, adam)
    case.model = Autocast(case.model)
    return case


RECIPES: dict[str, Callable[[str, int], Training]] = {
    "SGD 0.05": partial(_sound, optimizer=sgd),
    "SGD 0.01, He": partial(
        _sound, optimizer=partial(sgd, rate=0.01), initialize=nn.init.kaiming_normal_
    ),
    "SGD 0.1, cosine": _cosine,
    "Adam 1e-3": partial(_sound, optimizer=partial(adam, rate=1e-3)),
    "Adam 5e-3, BatchNorm": partial(_sound, optimizer=partial(adam, rate=5e-3), norm="batch"),
    "Adam 3e-3, Dropout, evaluated": partial(
        _sound, optimizer=partial(adam, rate=3e-3), drop=0.2, evaluate="eval"
    ),
    "AdamW, decay 0.05, GELU": partial(
        _sound,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05),
        act=nn.GELU,
    ),
    "RMSprop, tanh, Glorot": partial(
        _sound,
        optimizer=lambda model: torch.optim.RMSprop(model.parameters(), 1e-3),
        act=nn.Tanh,
        initialize=nn.init.xavier_normal_,
    ),
    "SGD, decay 5e-4, BatchNorm, Dropout": partial(
        _sound, optimizer=partial(sgd, weight_decay=5e-4), norm="batch", drop=0.1, evaluate="eval"
    ),
    "Adam, LayerNorm, SiLU": partial(_sound, optimizer=adam, norm="layer", act=nn.SiLU),
    "SGD, clipped at 5, accumulated": partial(
        _sound, optimizer=sgd, clip=5.0, accumulate=2, divide=2
    ),
    "Adam, float16": _half,
    "Adagrad, LeakyReLU, orthogonal": partial(
        _sound,
        optimizer=lambda model: torch.optim.Adagrad(model.parameters(), 0.03),
        act=nn.LeakyReLU,
        initialize=nn.init.orthogonal_,
    ),
}

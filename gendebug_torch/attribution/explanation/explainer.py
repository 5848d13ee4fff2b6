"""A method with all that it is asked by, free of the network and of the rows, so that the same can
be asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions, joined_rows
from gendebug_torch.attribution.explanation.input_space import Space, unwrapped
from gendebug_torch.attribution.explanation.question import Question, Setting
from gendebug_torch.attribution.methods.captum_bridge import captum_method, words
from gendebug_torch.attribution.methods.table import METHODS, Method
from gendebug_torch.model.runner import Model, Precision, fitting, map_rows


@dataclass(frozen=True, eq=False)
class Explainer:
    """What is asked about every row, of whatever network.

    Args:
        method: as of `attribute`, and so the others.
        target: which output.
        baseline: as the user gave it.
        known: inputs of the data, for baselines that are taken from it.
        groups: feature of each input.
        parts: keys or positions of the Tensors to attribute.
        names: of the features; empty for what the inputs tell.
        device: where networks run.
        precision: as in Lightning.
        compiled: whether networks run through torch.compile, but for methods that set hooks on
            them.
        options: of the method.
    """

    method: Any = "integrated_gradients"
    target: str | int = "predicted"
    baseline: Any = None
    known: Any = None
    groups: Sequence[int] | Tensor | None = None
    parts: Sequence[str] | None = None
    names: tuple[str, ...] = ()
    device: str | torch.device = "auto"
    precision: Precision = "32-true"
    compiled: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> Method | None:
        """The method of this library that is meant, if one is."""
        return METHODS.get(self.method) if isinstance(self.method, str) else None

    @property
    def draws(self) -> bool:
        """Whether the method is one of ours with a `seed`."""
        return self.own is not None and "seed" in inspect.signature(self.own.function).parameters

    def bound(self, model: Model) -> Method:
        """The method for this network, its options checked.

        Raises:
            InputError: an unknown method or option.
            UnsupportedError: a method that cannot answer for this network.
        """
        if self.own is not None:
            return self.own.with_options(str(self.method), dict(self.options))
        return captum_method(model, self.method, dict(self.options), self.baseline is not None)

    def explain(
        self,
        model: Model,
        loader: Any,
        *,
        checkpoint: str | Path | None = None,
        stream: bool = False,
        **how: Any,
    ) -> Attributions:
        """Contributions of every row of a loader; `how` is for `map_rows`."""
        chosen = self.bound(model)
        setting = Setting(
            self._network(model),
            self.target,
            self.baseline,
            self.known,
            chosen.gradient,
            self.parts,
            self.groups,
        )
        learned: dict[str, Any] = {}

        def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
            with _differentiable(model):
                question, space = setting.question(inputs, targets)
                # Rows are halved where even their outputs do not fit; what a method asks beyond
                # them, here.
                out = fitting(lambda: chosen.function(setting.at_most(question)), setting.shrink)
            learned["names"] = space.names if self.groups is None and not chosen.layer else ()
            return _rows(question, space, out, chosen)

        how |= {
            "device": self.device,
            "precision": self.precision,
            "identity": self._identity(),
            "learned": learned,
        }
        rows = map_rows(
            step, loader, model=model, grad=True, checkpoint=checkpoint, keep=not stream, **how
        )
        rows = joined_rows(checkpoint) if stream and checkpoint is not None else rows
        return Attributions.from_rows(
            rows, words(self.method), self.names or tuple(learned.get("names", ()))
        )

    def _network(self, model: Model) -> Model:
        """The network that is asked: Captum's hooks would be ignored by a compiled one."""
        if self.own is None:
            return unwrapped(model)
        if not self.compiled:
            return model
        module = unwrapped(model)
        before = set(vars(module))
        compiled = torch.compile(module)
        # It leaves a mark on the module, which is the user's.
        for name in set(vars(module)) - before:
            vars(module).pop(name)
        return compiled

    def _identity(self) -> str:
        """A digest of what is asked, so that the shards of another question are not taken over."""
        settings = [
            words(self.method),
            self.target,
            self.baseline,
            self.groups,
            self.parts,
            sorted(self.options.items()),
        ]
        plain = [value.tolist() if isinstance(value, Tensor) else value for value in settings]
        return hashlib.sha256(repr(plain).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _differentiable(model: Model) -> Iterator[None]:
    """Gradients on, whatever mode the caller is in; recurrent layers off cuDNN, which has no
    backward in evaluation mode.
    """
    recurrent = isinstance(model, nn.Module) and any(
        isinstance(module, nn.RNNBase) for module in model.modules()
    )
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        yield


def _rows(
    question: Question, space: Space, out: dict[str, Tensor], method: Method
) -> dict[str, Tensor]:
    """What is kept of a batch: one row per row."""
    n = len(space.points)
    values = out.pop("values").detach()
    # A gradient may be finite where the output is not; it says nothing there.
    known = (question.at_points - question.at_baseline).isfinite()
    values = torch.where(known.reshape(-1, *[1] * (values.ndim - 1)), values, torch.nan)
    if values.shape == space.points.shape and question.groups is not None:
        values = question.per_feature(values)
    # The units of a layer are not the inputs, even where there are as many.
    per_feature = not method.layer and torch.Size(values.shape[1:]).numel() == question.features
    values = values.reshape(n, *question.shape) if per_feature else values
    rows = {
        "values": values.float(),
        "targets": question.classes,
        "outputs": question.at_points,
        "base": question.at_baseline,
    }
    rows["evaluations"] = question.spent
    if method.complete and "convergence_delta" not in out:
        rows["convergence_delta"] = values.flatten(1).double().sum(1) - (
            question.at_points.double() - question.at_baseline.double()
        )
    if per_feature and space.shown.shape[1] == question.features:
        rows["inputs"] = space.shown.reshape(n, *question.shape)
    kept = {**rows, **out}
    return {
        key: value.detach() if key == "targets" else value.detach().float()
        for key, value in kept.items()
    }

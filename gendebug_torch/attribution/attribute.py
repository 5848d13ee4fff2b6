"""`attribute()`: one method over all rows of a loader, in batches, the network left as it was."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions, joined_rows
from gendebug_torch.attribution.baselines import BACKGROUND, FROM_ROWS, check_baseline
from gendebug_torch.attribution.captum_bridge import captum_method, words
from gendebug_torch.attribution.inputs import Space, unwrapped
from gendebug_torch.attribution.methods import METHODS, Method
from gendebug_torch.attribution.outputs import check_target
from gendebug_torch.attribution.question import Question, Setting
from gendebug_torch.attribution.trust import TrustCard, trust_card
from gendebug_torch.errors import reject
from gendebug_torch.records import Records
from gendebug_torch.runner import Model, Precision, Unpack, map_rows, sample_rows

# Rows from which a mean or median baseline is taken.
_KNOWN_ROWS = 2048
# Rows of the trust card, each of which it explains about so many times.
_FEWEST_TRIED, _MOST_TRIED, _RERUNS = 32, 256, 5
_MOST_SHUFFLED, _CELLS_SHUFFLED = 2000, 6000


def attribute(
    model: Model,
    loader: Any,
    method: Any = "integrated_gradients",
    *,
    target: str | int = "predicted",
    baseline: Any = None,
    groups: Sequence[int] | Tensor | None = None,
    parts: Sequence[str] | None = None,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    feature_names: Sequence[str] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    stream: bool = False,
    trust: bool = False,
    **method_options: Any,
) -> Attributions:
    """Contributions of every input to one output of every row.

    Args:
        model: module or callable from inputs to logits `[n]`, `[n, 1]` or `[n, k]`; left as it was found.
        loader: DataLoader, batches, Tensor, or `Records`; inputs are a Tensor, a tuple or a mapping of Tensors.
        method: a name in `METHODS`, or any class of captum.attr by name or as an instance (`captum.Saliency`
            for Captum's own).
        target: `predicted` class of each row, `target` for its label, `margin` of the predicted class over the next,
            or a class id. Of a single logit class 1 is the logit, class 0 minus it, `predicted` the logit itself.
        baseline: `zero`, `mean`, `median`, `sample`, `blur`, a number, one row, or rows of the same structure.
        groups: `[d]` feature of each input, where inputs are taken together.
        parts: keys or positions of the Tensors to attribute; default all that can be.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one.
        precision: as in Lightning.
        batch_size: rows at once for a Tensor or Records.
        feature_names: default: the columns of a table.
        progress: show a bar.
        checkpoint: directory of shards, so that an interrupted run goes on where it stopped.
        stream: leave the answers in `checkpoint` and map them into memory, so that memory does not grow with the rows.
        trust: measure on a sample of rows, in at most about a fifth of the run, how far the answers can be believed.
        **method_options: of the method, e.g. `steps=100`, `samples=500`, or `layer=model.body` for Captum.

    Raises:
        InputError: an unknown method, target or option, or a loader that yields something unknown.
        UnsupportedError: a method that cannot answer for this model.

    Source: of each method in its function; for Captum's Kokhlikyan et al. (2020), arXiv:2009.07896.
    """
    check_target(target)
    check_baseline(baseline)
    if stream and checkpoint is None:
        reject("checkpoint", "a directory to stream to", "None", "Pass one, or leave `stream` out.")
    own = METHODS.get(method) if isinstance(method, str) else None
    chosen = own.with_options(str(method), method_options) if own else captum_method(model, method, method_options, baseline is not None)
    needed = {"sample": BACKGROUND}.get(str(baseline), _KNOWN_ROWS)
    known = sample_rows(loader, needed, unpack=unpack)[0] if isinstance(baseline, str) and baseline in FROM_ROWS else None
    # Captum's hooks would be ignored by a compiled model.
    setting = Setting(model if own else unwrapped(model), target, baseline, known, chosen.gradient, parts, groups)
    learned: dict[str, tuple[str, ...]] = {}

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        with _differentiable(model):
            question, space = setting.question(inputs, targets)
            out = chosen.function(question)
        learned["names"] = space.names if groups is None else ()
        return _rows(question, space, out, chosen)

    how: dict[str, Any] = {"unpack": unpack, "device": device, "precision": precision, "batch_size": batch_size, "progress": progress}
    identity = _identity(words(method), target, baseline, groups, parts, sorted(method_options.items()))
    rows = map_rows(step, loader, model=model, grad=True, checkpoint=checkpoint, identity=identity, keep=not stream, **how)
    rows = joined_rows(checkpoint) if stream and checkpoint is not None else rows
    names = tuple(feature_names) if feature_names is not None else _names(loader) or learned.get("names", ())
    found = Attributions.from_rows(rows, words(method), names)
    if not trust:
        return found
    same = {"target": target, "baseline": baseline, "groups": groups, "parts": parts, "device": device, "precision": precision}
    return replace(found, trust=_trusted(model, loader, method, found, unpack, same | method_options))


def _trusted(model: Model, loader: Any, method: Any, found: Attributions, unpack: Unpack | None, same: dict[str, Any]) -> TrustCard:
    """The trust card of a run, on a sample of its rows that takes about a fifth of its time, but at least so many."""
    most = max(_FEWEST_TRIED, min(_MOST_TRIED, len(found) // (5 * _RERUNS)))
    inputs, targets = sample_rows(loader, most, unpack=unpack)
    own = METHODS.get(method) if isinstance(method, str) else None
    draws = own is not None and "seed" in inspect.signature(own.function).parameters

    def again(network: Model, batches: Any, **changes: Any) -> Attributions:
        names = found.feature_names or None
        return attribute(network, batches, method, unpack=lambda batch: batch, feature_names=names, **(same | changes))

    # An object that is bound to one network cannot be asked about another.
    free = isinstance(method, str) and not any(isinstance(value, nn.Module) for value in same.values())
    measures = {"draws": draws, "random_weights": free, "other_baseline": own is not None and method != "saliency"}
    noise = loader.schema.noise if isinstance(loader, Records) else ()
    return trust_card(again, model, inputs, targets, noise=noise, labeled=_labeled(loader, found), **measures)


def _labeled(loader: Any, found: Attributions) -> tuple[Records, Attributions] | None:
    """Rows of the run on which columns are shuffled: so few that it costs less than one forward per row of the run, but enough."""
    if not isinstance(loader, Records) or loader.targets is None or found.values.ndim != 2 or not found.values.shape[1]:
        return None
    d = found.values.shape[1]
    most = min(_MOST_SHUFFLED, max(_FEWEST_TRIED, _CELLS_SHUFFLED // d, len(found) // (4 * d)))
    picked = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:most].sort().values
    return loader.select(picked), found.select(picked)


def _identity(*settings: Any) -> str:
    """A digest of what is asked, so that the shards of another question are not taken over."""
    plain = [value.tolist() if isinstance(value, Tensor) else value for value in settings]
    return hashlib.sha256(repr(plain).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _differentiable(model: Model) -> Iterator[None]:
    """Gradients on, whatever mode the caller is in; recurrent layers off cuDNN, which has no backward in evaluation mode."""
    recurrent = isinstance(model, nn.Module) and any(isinstance(module, nn.RNNBase) for module in model.modules())
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), cudnn:
        yield


def _rows(question: Question, space: Space, out: dict[str, Tensor], method: Method) -> dict[str, Tensor]:
    """What is kept of a batch: one row per row."""
    n = len(space.points)
    values = out.pop("values")
    if values.shape == space.points.shape and question.groups is not None:
        values = question.per_feature(values)
    per_feature = torch.Size(values.shape[1:]).numel() == question.features
    values = values.reshape(n, *question.shape) if per_feature else values
    rows = {"values": values.detach().float(), "targets": question.classes, "outputs": question.at_points, "base": question.at_baseline}
    if method.complete and "convergence_delta" not in out:
        rows["convergence_delta"] = values.flatten(1).double().sum(1) - (question.at_points.double() - question.at_baseline.double())
    if per_feature and space.shown.shape[1] == question.features:
        rows["inputs"] = space.shown.reshape(n, *question.shape)
    kept = {**rows, **out}
    return {key: value.detach() if key == "targets" else value.detach().float() for key, value in kept.items()}


def _names(loader: Any) -> tuple[str, ...]:
    if isinstance(loader, Records) and isinstance(loader.features, pd.DataFrame):
        return tuple(map(str, loader.features.columns))
    return ()

"""Any method of captum.attr over a whole loader: the one file that touches captum."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendebug_torch.attribution.explanation.input_space import unwrapped
from gendebug_torch.attribution.explanation.question import Output, Question
from gendebug_torch.attribution.methods.functional_calls import NONLINEAR, RECTIFIERS, calls_outside
from gendebug_torch.attribution.methods.table import METHODS, Method
from gendebug_torch.errors import UnsupportedError, reject

# These draw from the global random state, so that a row's answer would depend on the rows before
# it.
_RANDOM = (
    *("GradientShap", "LayerGradientShap", "NeuronGradientShap", "NoiseTunnel"),
    *("KernelShap", "Lime", "LimeBase", "ShapleyValueSampling"),
)
# Of these the completeness fails where an operation is not one of the modules that they know.
_RULES = (
    "DeepLift",
    "DeepLiftShap",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
)
# These change the gradient of ReLU, and are the plain gradient where another rectifier, or a
# functional one, stands in its place.
_RELU = (
    "GuidedBackprop",
    "Deconvolution",
    "GuidedGradCam",
    "NeuronGuidedBackprop",
    "NeuronDeconvolution",
)
# These take several baselines as their distribution.
_DISTRIBUTION = (
    "DeepLiftShap",
    "GradientShap",
    "LayerDeepLiftShap",
    "LayerGradientShap",
    "NeuronDeepLiftShap",
    "NeuronGradientShap",
)
_INCOMPLETE = 0.05
# Of the errors of torch, those in which Captum refuses: a module used twice, and no coalitions to
# draw from one feature.
_REFUSALS = ("being used more than once", "probability tensor contains")
_SEED = 0


class _Asked(nn.Module):
    """A network that gives one number per row: the explained one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.output: Output | None = None

    def forward(self, inputs: Tensor, rows: Tensor) -> Tensor:
        assert self.output is not None
        return self.output(inputs.flatten(1), rows)


def captum_methods() -> dict[str, type]:
    """Classes of captum.attr that attribute, by name."""
    import captum.attr

    found = {name: value for name, value in vars(captum.attr).items() if inspect.isclass(value)}
    return {
        name: cls
        for name, cls in found.items()
        if issubclass(cls, captum.attr.Attribution) and hasattr(cls, "attribute")
    }


def captum_method(model: Any, method: Any, options: dict[str, Any], has_baseline: bool) -> Method:
    """A method of Captum as one of ours.

    Rows go to Captum in blocks that fit into memory with their steps or baselines. Methods that
    draw, and DeepLIFT through a softmax, are run row by row from one seed, since in a batch of
    Captum's they would depend on the other rows. Rows whose output is not finite, as for one with
    NaN among its inputs, are kept from Captum and answered with NaN. What it leaves on the modules
    is removed. DeepLIFT that does not add up, and guided backpropagation past a rectifier that it
    does not see, are refused.

    Args:
        model: module or callable.
        method: name of a class of captum.attr (`DeepLift`, `deep_lift`), or an instance of one.
        options: arguments of its constructor (a `layer`) and of its `attribute`; sorted out by
            signature.
        has_baseline: whether the user chose one.

    Raises:
        InputError: an unknown method, or an option that neither takes.
        UnsupportedError: a method that needs a module was given a plain callable, or one that
            explains no rows.
    """
    asked = _Asked(unwrapped(model))
    instance, calling = (
        (method, dict(options))
        if not isinstance(method, str)
        else _built(asked, _class(method), options)
    )
    if not hasattr(instance, "attribute"):
        reject(
            "method",
            "a name, or an instance of a class of captum.attr",
            type(method).__name__,
            "Pass e.g. `DeepLift`.",
        )
    name = type(instance).__name__
    takes = _arguments(instance)
    if unknown := sorted(set(calling) - set(takes)):
        reject(
            "method_options",
            f"arguments of {name}: {sorted(takes)}",
            str(unknown),
            "Correct or remove them.",
        )
    if has_baseline and "baselines" not in takes:
        reject("baseline", f"none, which is what {name} takes", "a baseline", "Leave it out.")
    softmax = any(isinstance(module, nn.Softmax) for module in asked.modules())
    alone = name in _RANDOM or (name in _RULES and softmax)
    # Whether the object explains one of several outputs; known once its network was asked.
    several: list[bool] = []

    def ask(question: Question, rows: Tensor, baselines: Tensor | None) -> dict[str, Tensor]:
        chosen = {"target": question.classes[rows]} if "target" in takes and any(several) else {}
        return _call(
            instance, takes, chosen | calling, question, rows, isinstance(method, str), baselines
        )

    def about(question: Question, rows: Tensor) -> dict[str, Tensor]:
        return _over_baselines(name, takes, question, rows, has_baseline, ask)

    def explain(question: Question) -> dict[str, Tensor]:
        asked.output = question.output
        n = len(question.points)
        known = (question.at_points - question.at_baseline).isfinite().nonzero()[:, 0]
        if len(known) and not several:
            several.append(
                _has_classes(instance, asked, question.of_rows(known[:1]), isinstance(method, str))
            )
        # A blurred baseline is that of its row, and so no distribution that rows could share.
        lonely = alone or (name in _DISTRIBUTION and question.baseline.stride(1) != 0)
        each = 1 if lonely else max(1, question.at_once // _points(name, takes, calling, question))
        rows = torch.split(known, each) if len(known) else ()
        with _tidy(asked), _quiet():
            parts = [about(question, row) for row in rows]
        if not parts:
            return _nothing(question, about)
        out = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        if len(out["values"]) != len(known):
            raise UnsupportedError(
                f"{name} gave {len(out['values'])} attributions for {len(known)} rows; it does "
                "not explain rows"
            )
        if name in _RULES and "convergence_delta" in out:
            _refuse_incomplete(asked, name, question.of_rows(known), out["convergence_delta"])
        return (
            out
            if len(known) == n
            else {key: _spread(value, known, n) for key, value in out.items()}
        )

    # A layer's answer needs no gradient of the inputs, so that integers go to its embeddings as
    # they are.
    layer = of_layer(method)
    return Method(explain, gradient=not layer, layer=layer)


def _nothing(question: Question, ask: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    """NaN for all rows, in the form of an answer, which that to a row of zeros tells."""
    if not len(question.points):
        return {"values": question.points.float()}
    first = torch.zeros(1, dtype=torch.int64, device=question.points.device)
    blank = replace(question, points=torch.zeros_like(question.points))
    with _quiet():
        form = ask(blank, first)
    return {key: _spread(value[:0], first[:0], len(question.points)) for key, value in form.items()}


def of_layer(method: Any) -> bool:
    """Whether a method explains the units of a layer, and not inputs."""
    return words(method).startswith(("layer ", "internal influence"))


def _arguments(instance: Any) -> dict[str, inspect.Parameter]:
    """What `attribute` of an object of Captum takes, and of the one that it repeats, if it is a
    NoiseTunnel.
    """
    inner = getattr(instance, "attribution_method", None)
    own = dict(inspect.signature(instance.attribute).parameters)
    return own if inner is None else {**inspect.signature(inner.attribute).parameters, **own}


def _points(
    name: str, takes: Mapping[str, inspect.Parameter], calling: dict[str, Any], question: Question
) -> int:
    """Points that Captum makes of one row."""
    times = [
        calling.get(key, takes[key].default) for key in ("n_steps", "n_samples") if key in takes
    ]
    return int(math.prod(times)) * (2 * len(question.baseline) if name in _DISTRIBUTION else 1)


def _has_classes(instance: Any, asked: _Asked, one: Question, ours: bool) -> bool:
    """Whether Captum is to be told the class, after what it would answer for another question
    without a word is refused by one row.

    Raises:
        UnsupportedError: a rectifier that a rule for ReLU does not see, or an object that explains
            another number.
    """
    name, row = type(instance).__name__, torch.zeros(1, dtype=torch.int64, device=one.points.device)
    if name in _RELU:
        unseen = calls_outside(asked, lambda: one.output(one.points, row), (nn.ReLU,), RECTIFIERS)
        if unseen:
            raise UnsupportedError(
                f"{name} changes the gradient of nn.ReLU modules alone, and this network calls "
                f"{', '.join(unseen)} besides: there it would "
                "be the plain gradient. Use nn.ReLU modules, or `integrated_gradients`."
            )
    if ours or getattr(instance, "forward_func", None) is None:
        return False
    with torch.no_grad():
        said = instance.forward_func(one.points.reshape(1, *one.shape)).reshape(1, -1).float()
    known = said[0] if said.shape[1] == 1 or int(one.classes) < 0 else said[:, int(one.classes)]
    if not torch.allclose(known[:1], one.at_points, rtol=1e-2, atol=1e-4):
        raise UnsupportedError(
            f"this {name} object explains an output of {float(known[0]):.4g} where "
            f"{float(one.at_points):.4g} was asked for: pass the "
            "network that it was built with, and for `margin` or class 0 of a single logit the "
            "method by name"
        )
    return bool(said.shape[1] > 1)


def _over_baselines(
    name: str,
    takes: Mapping[str, Any],
    question: Question,
    rows: Tensor,
    has_baseline: bool,
    ask: Callable[..., dict[str, Tensor]],
) -> dict[str, Tensor]:
    """What Captum says of these rows: against all baselines where it takes several, else the mean
    over one after another.
    """
    if "baselines" not in takes or not (
        has_baseline or takes["baselines"].default is inspect.Parameter.empty
    ):
        return ask(question, rows, None)
    if name in _DISTRIBUTION:
        return ask(question, rows, question.baseline[:, rows[0]])
    parts = [ask(question, rows, start[rows]) for start in question.baseline]
    return {key: torch.stack([part[key] for part in parts]).mean(0) for key in parts[0]}


def _call(
    instance: Any,
    takes: Mapping[str, Any],
    calling: dict[str, Any],
    question: Question,
    everyone: Tensor,
    ours: bool,
    baselines: Tensor | None,
) -> dict[str, Tensor]:
    """One call of Captum about these rows."""
    shape = question.shape if question.whole else question.points.shape[1:]
    if not ours and not question.whole:
        raise UnsupportedError(
            f"an instance of {type(instance).__name__} takes one float Tensor; for other inputs "
            "pass it by name"
        )
    inputs = question.points[everyone].reshape(-1, *shape)
    arguments = dict(calling)
    if ours:
        arguments["additional_forward_args"] = (everyone,)
    if baselines is not None:
        arguments.setdefault("baselines", baselines.reshape(-1, *shape))
    with_delta = "return_convergence_delta" in takes
    if with_delta:
        arguments["return_convergence_delta"] = True
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)
    try:
        result = instance.attribute(inputs, **arguments)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        # The network's own errors, and those of memory, are handed on.
        own = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
        if own and not any(words in str(error) for words in _REFUSALS):
            raise
        name = type(instance).__name__
        raise UnsupportedError(
            f"Captum's {name} cannot explain this network: {error or type(error).__name__}"
        ) from error
    values, delta = result if with_delta else (result, None)
    out = {"values": _only(values, type(instance).__name__).detach().float()}
    if delta is not None:
        out["convergence_delta"] = delta.detach().float().reshape(len(inputs), -1).mean(1)
    return out


def _spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Values of some rows as those of all `n`, NaN elsewhere."""
    whole = values.new_full((n, *values.shape[1:]), torch.nan)
    whole[rows] = values
    return whole


def _refuse_incomplete(model: nn.Module, name: str, question: Question, delta: Tensor) -> None:
    """Rules that do not know an operation of the network fall back to its gradient without a word;
    their sum gives it away.
    """
    change = (question.at_points - question.at_baseline).abs()
    missed = (
        delta.abs() / torch.maximum(change, change.median().clamp(min=1e-6))
        if len(change)
        else delta
    )
    wrong = float((missed > _INCOMPLETE).double().mean()) if len(missed) else 0.0
    if wrong > _INCOMPLETE:
        row = torch.zeros(1, dtype=torch.int64, device=delta.device)
        unseen = calls_outside(
            model, lambda: question.output(question.points[:1], row), _known(), NONLINEAR
        )
        told = ", ".join(unseen) if unseen else "some operation of it"
        raise UnsupportedError(
            f"{name} misses the change of the output by more than {_INCOMPLETE:.0%} in "
            f"{wrong:.0%} of the rows of a batch: it has no rule "
            f"for {told}, at least not where this network calls it (functional calls are not "
            "seen). Use `integrated_gradients`."
        )


def _known() -> tuple[type[nn.Module], ...]:
    """Modules for which DeepLIFT has a rule."""
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    return tuple(SUPPORTED_NON_LINEAR)


@contextlib.contextmanager
def _tidy(model: nn.Module) -> Iterator[None]:
    """Attributes that a method sets on modules are taken off again, also after a failure."""
    before = {module: set(vars(module)) for module in model.modules()}
    try:
        yield
    finally:
        for module, names in before.items():
            for name in set(vars(module)) - names:
                vars(module).pop(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Captum's warnings that it sets hooks and fits one surrogate per row: both are meant,
    and undone.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _class(method: str) -> type:
    known = captum_methods()
    plain = method.removeprefix("captum.")
    by_lower = {name.lower(): name for name in known}
    name = by_lower.get(plain.replace("_", "").lower())
    if name is None:
        near = difflib.get_close_matches(plain, [*METHODS, *known], n=1)
        expected = f"{', '.join(METHODS)}, or one of captum: {', '.join(sorted(known))}"
        reject(
            "method",
            expected,
            repr(method),
            f"Did you mean {near[0]!r}?" if near else "Choose one of them.",
        )
    if name.endswith("FeaturePermutation"):
        raise UnsupportedError(
            f"{name} shuffles within a batch and so explains no row; use "
            "`permutation_importance(model, records)`"
        )
    return known[name]


def _built(asked: _Asked, cls: type, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An instance, and the options that are left for `attribute`."""
    takes = inspect.signature(cls).parameters
    own = {key: value for key, value in options.items() if key in takes}
    if "model" in takes and not isinstance(asked.model, nn.Module):
        raise UnsupportedError(
            f"{cls.__name__} sets hooks on layers and needs an nn.Module; a plain callable was "
            "given"
        )
    for key in ("layer", "attribution_method"):
        if key in takes and isinstance(own.get(key), str):
            own[key] = (
                _layer(asked.model, own[key])
                if key == "layer"
                else _built(asked, _class(own[key]), {})[0]
            )
    required = [
        p.name for p in takes.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    missing = [
        name
        for name in required
        if name not in own and name not in ("model", "forward_func", "self")
    ]
    if missing:
        reject(
            "method_options",
            f"{', '.join(missing)} for {cls.__name__}",
            "none",
            f"Pass e.g. {missing[0]}=model.some_layer.",
        )
    wrapped = [] if "attribution_method" in takes else [asked]
    return cls(*wrapped, **own), {key: value for key, value in options.items() if key not in own}


def _layer(model: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3)
        reject(
            "layer",
            "the name of a submodule",
            repr(name),
            f"Close: {near}" if near else "See model.named_modules().",
        )
    return layers[name]


def _only(values: Any, name: str) -> Tensor:
    if isinstance(values, (tuple, list)) and len(values) == 1:
        values = values[0]
    if not isinstance(values, torch.Tensor):
        raise UnsupportedError(
            f"{name} gave {type(values).__name__}; only methods that give one tensor per row are "
            "run in batches"
        )
    return values


def words(method: Any) -> str:
    """How a method reads in a title: `DeepLift` as `deep lift`."""
    name = method if isinstance(method, str) else type(method).__name__
    return (
        re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("captum.")).replace("_", " ").lower()
    )

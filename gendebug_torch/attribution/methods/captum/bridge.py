"""Methods of captum.attr as methods of this library."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendebug_torch.attribution.explanation.batch import ExplainedBatch
from gendebug_torch.attribution.explanation.input_space import unwrapped
from gendebug_torch.attribution.explanation.task import explains_layer
from gendebug_torch.attribution.methods.captum.classes import (
    CaptumObject,
    ExplainedNetwork,
    captum_object,
    deep_lift_modules,
    only_tensor,
)
from gendebug_torch.attribution.methods.captum.functional_calls import (
    NONLINEAR,
    RECTIFIERS,
    calls_outside,
)
from gendebug_torch.attribution.methods.table import Method
from gendebug_torch.errors import UnsupportedError

# These draw from the global random state, so that the answer of a row would depend on earlier rows.
_RANDOM = (
    *("GradientShap", "LayerGradientShap", "NeuronGradientShap", "NoiseTunnel"),
    *("KernelShap", "Lime", "LimeBase", "ShapleyValueSampling"),
)
# These are incomplete where an operation is not one of the modules for which they have a rule.
_DEEP_LIFT = (
    *("DeepLift", "LayerDeepLift", "NeuronDeepLift"),
    *("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap"),
)
# These change the gradient of nn.ReLU, and are the plain gradient at any other rectifier.
_RELU = (
    *("GuidedBackprop", "Deconvolution", "GuidedGradCam"),
    *("NeuronGuidedBackprop", "NeuronDeconvolution"),
)
# These take several baselines as a distribution.
_DISTRIBUTION = (
    *("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap"),
    *("GradientShap", "LayerGradientShap", "NeuronGradientShap"),
)
# Relative error of completeness, and share of rows with one, from which DeepLIFT is refused.
_INCOMPLETE = 0.05
# RuntimeErrors by which Captum refuses a network: a module used twice, one feature alone, and
# operations in place behind its hooks.
_REFUSALS = (
    *("being used more than once", "probability tensor contains"),
    *("is being used in an in-place operation", "cannot register a hook on a tensor"),
)
_SEED = 0

Fields = dict[str, Tensor]


def captum_method(model: Any, method: Any, options: dict[str, Any], has_baseline: bool) -> Method:
    """A method of Captum as one of this library.

    Rows go to Captum in blocks that fit into memory with their steps or baselines. Methods that
    draw, and DeepLIFT through a softmax, run row by row from one seed, since in a batch of Captum
    they would depend on the other rows. Rows without a finite output, such as one with NaN, are
    answered with NaN. Attributes that Captum leaves on modules are removed. Incomplete DeepLIFT,
    and guided backpropagation through a rectifier that it does not see, are refused.

    Args:
        model: module or callable.
        method: name of a class of captum.attr (`DeepLift`, `deep_lift`), or an object of one.
        options: arguments of its constructor (a `layer`) and of its `attribute`.
        has_baseline: whether the user chose a baseline.

    Raises:
        InputError: an unknown method or option.
        UnsupportedError: a method that needs a module and got a callable, or explains no rows.
    """
    network = ExplainedNetwork(unwrapped(model))
    captum = captum_object(network, method, options, has_baseline)
    # A layer needs no gradient of the inputs, so that integers go to its embeddings as they are.
    layer = explains_layer(method)
    explain = _CaptumMethod(network, captum, has_baseline)
    return Method(explain, gradient=not layer, layer=layer)


class _CaptumMethod:
    """An object of Captum as a function of an `ExplainedBatch`.

    Args:
        network: network that the object explains.
        captum: the object and its options.
        has_baseline: whether the user chose a baseline.
    """

    def __init__(self, network: ExplainedNetwork, captum: CaptumObject, has_baseline: bool) -> None:
        self.network, self.captum = network, captum
        takes_baseline = "baselines" in captum.parameters
        required = takes_baseline and (
            captum.parameters["baselines"].default is captum.parameters["baselines"].empty
        )
        self.passes_baseline = takes_baseline and (has_baseline or required)
        softmax = any(isinstance(module, nn.Softmax) for module in network.modules())
        self.row_by_row = captum.name in _RANDOM or (captum.name in _DEEP_LIFT and softmax)
        # Whether the object must be given the class; known after the first row.
        self.needs_class: bool | None = None

    def __call__(self, batch: ExplainedBatch) -> Fields:
        """The answer for a batch."""
        self.network.output = batch.output
        n = len(batch.points)
        finite = batch.output_change.isfinite().nonzero()[:, 0]
        if len(finite) and self.needs_class is None:
            self.needs_class = self._class_is_needed(batch.select(finite[:1]))
        blocks = torch.split(finite, self._rows_per_call(batch)) if len(finite) else ()
        with _attributes_restored(self.network), _warnings_ignored():
            parts = [self._explain(batch, rows) for rows in blocks]
        if not parts:
            return self._all_nan(batch)
        answer = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        name = self.captum.name
        if len(answer["values"]) != len(finite):
            raise UnsupportedError(
                f"{name} gave {len(answer['values'])} attributions for {len(finite)} rows; it does "
                "not explain rows"
            )
        if name in _DEEP_LIFT and "convergence_delta" in answer:
            _refuse_incomplete(
                self.network, name, batch.select(finite), answer["convergence_delta"]
            )
        if len(finite) == n:
            return answer
        return {name: _spread(value, finite, n) for name, value in answer.items()}

    def _all_nan(self, batch: ExplainedBatch) -> Fields:
        """NaN for all rows, in the form of the answer to a row of zeros."""
        if not len(batch.points):
            return {"values": batch.points.float()}
        first = torch.zeros(1, dtype=torch.int64, device=batch.points.device)
        zeros = replace(batch, points=torch.zeros_like(batch.points))
        with _warnings_ignored():
            form = self._explain(zeros, first)
        return {
            name: _spread(value[:0], first[:0], len(batch.points)) for name, value in form.items()
        }

    def _rows_per_call(self, batch: ExplainedBatch) -> int:
        """Rows whose steps, samples and baselines fit into one call of Captum."""
        several = self.captum.name in _DISTRIBUTION
        # A blurred baseline belongs to its row, so that rows cannot share the distribution.
        if self.row_by_row or (several and batch.baseline.stride(1) != 0):
            return 1
        parameters, options = self.captum.parameters, self.captum.options
        times = [
            options.get(key, parameters[key].default)
            for key in ("n_steps", "n_samples")
            if key in parameters
        ]
        points = int(math.prod(times)) * (2 * len(batch.baseline) if several else 1)
        return max(1, batch.points_per_pass // points)

    def _class_is_needed(self, row: ExplainedBatch) -> bool:
        """Whether Captum must be given the class; refuses what it would explain wrongly.

        Raises:
            UnsupportedError: a rectifier that a rule for ReLU does not see, or an object that
                explains another output.
        """
        instance, name = self.captum.instance, self.captum.name
        if name in _RELU:
            _refuse_rectifiers(self.network, name, row)
        if self.captum.by_name or getattr(instance, "forward_func", None) is None:
            return False
        with torch.no_grad():
            outputs = instance.forward_func(row.points.reshape(1, *row.shape))
        outputs = outputs.reshape(1, -1).float()
        class_id, single = int(row.classes), outputs.shape[1] == 1
        explained = outputs[0] if single or class_id < 0 else outputs[:, class_id]
        if not torch.allclose(explained[:1], row.outputs, rtol=1e-2, atol=1e-4):
            raise UnsupportedError(
                f"this {name} object explains an output of {float(explained[0]):.4g}, but the run "
                f"explains {float(row.outputs):.4g}: pass the network with which it was built, and "
                "for `margin` or class 0 of a single logit the method by name"
            )
        return not single

    def _explain(self, batch: ExplainedBatch, rows: Tensor) -> Fields:
        """The answer for some rows: against a distribution, or the mean over the baselines."""
        if not self.passes_baseline:
            return self._call(batch, rows, None)
        if self.captum.name in _DISTRIBUTION:
            return self._call(batch, rows, batch.baseline[:, rows[0]])
        parts = [self._call(batch, rows, start[rows]) for start in batch.baseline]
        return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    def _call(self, batch: ExplainedBatch, rows: Tensor, baselines: Tensor | None) -> Fields:
        """One call of Captum."""
        name, parameters = self.captum.name, self.captum.parameters
        if not self.captum.by_name and not batch.single_tensor:
            raise UnsupportedError(
                f"an instance of {name} takes one float Tensor; for other inputs pass it by name"
            )
        shape = batch.shape if batch.single_tensor else batch.points.shape[1:]
        inputs = batch.points[rows].reshape(-1, *shape)
        arguments = dict(self.captum.options)
        if "target" in parameters and self.needs_class:
            arguments.setdefault("target", batch.classes[rows])
        if self.captum.by_name:
            arguments["additional_forward_args"] = (rows,)
        if baselines is not None:
            arguments.setdefault("baselines", baselines.reshape(-1, *shape))
        with_delta = "return_convergence_delta" in parameters
        if with_delta:
            arguments["return_convergence_delta"] = True
        answer = _call_captum(self.captum, inputs, arguments)
        values, delta = answer if with_delta else (answer, None)
        fields = {"values": self._per_token(only_tensor(values, name).detach().float())}
        if delta is not None:
            fields["convergence_delta"] = delta.detach().float().reshape(len(inputs), -1).mean(1)
        return fields

    def _per_token(self, values: Tensor) -> Tensor:
        """`[n, l]` sums over the vectors of an embedding, `[n, l, e]`; other answers unchanged.

        A single dimension of an embedding means nothing; the sum is the contribution of a token.
        """
        layer = getattr(self.captum.instance, "layer", None)
        activation = self.captum.name == "LayerActivation"
        summed = isinstance(layer, nn.Embedding) and values.ndim > 2 and not activation
        return values.sum(-1) if summed else values


def _call_captum(captum: CaptumObject, inputs: Tensor, arguments: dict[str, Any]) -> Any:
    """`attribute` from one seed, its refusals as `UnsupportedError`."""
    torch.manual_seed(_SEED)
    np.random.seed(_SEED)
    try:
        return captum.instance.attribute(inputs, **arguments)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        # Errors of the network itself, and those of memory, are passed on.
        runtime = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
        if runtime and not any(text in str(error) for text in _REFUSALS):
            raise
        reason = error or type(error).__name__
        raise UnsupportedError(
            f"Captum's {captum.name} cannot explain this network: {reason}"
        ) from error


def _spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """Values of some rows as those of all `n`, NaN elsewhere."""
    spread = values.new_full((n, *values.shape[1:]), torch.nan)
    spread[rows] = values
    return spread


def _refuse_rectifiers(network: nn.Module, name: str, row: ExplainedBatch) -> None:
    """Refuse a rule for nn.ReLU where the network calls other rectifiers."""
    first = torch.zeros(1, dtype=torch.int64, device=row.points.device)
    others = calls_outside(network, _output(row, first), (nn.ReLU,), RECTIFIERS)
    if others:
        raise UnsupportedError(
            f"{name} changes the gradient of nn.ReLU modules alone, and this network calls "
            f"{', '.join(others)} besides: there it would be the plain gradient. Use nn.ReLU "
            "modules, or `integrated_gradients`."
        )


def _refuse_incomplete(network: nn.Module, name: str, batch: ExplainedBatch, delta: Tensor) -> None:
    """Refuse DeepLIFT that is incomplete in more than a few rows.

    For an operation without a rule it falls back to the gradient without a warning.
    """
    change = batch.output_change.abs()
    if not len(delta):
        return
    relative = delta.abs() / torch.maximum(change, change.median().clamp(min=1e-6))
    share = float((relative > _INCOMPLETE).double().mean())
    if share <= _INCOMPLETE:
        return
    first = torch.zeros(1, dtype=torch.int64, device=delta.device)
    calls = calls_outside(network, _output(batch, first), deep_lift_modules(), NONLINEAR)
    operations = ", ".join(calls) if calls else "some operation of it"
    raise UnsupportedError(
        f"{name} misses the change of the output by more than {_INCOMPLETE:.0%} in {share:.0%} of "
        f"the rows of a batch: it has no rule for {operations}, at least not where this network "
        "calls it (functional calls are not seen). Use `integrated_gradients`, or `kernel_shap` "
        "for a network that rounds or thresholds its inputs."
    )


def _output(batch: ExplainedBatch, row: Tensor) -> Callable[[], Tensor]:
    """A call of the network on the first row of a batch."""
    return lambda: batch.output(batch.points[:1], row)


@contextlib.contextmanager
def _attributes_restored(network: nn.Module) -> Iterator[None]:
    """Attributes that a method sets on modules are removed, also after a failure."""
    before = {module: set(vars(module)) for module in network.modules()}
    try:
        yield
    finally:
        for module, names in before.items():
            for name in set(vars(module)) - names:
                vars(module).pop(name)


@contextlib.contextmanager
def _warnings_ignored() -> Iterator[None]:
    """Without Captum's warnings on hooks, which are removed, and on one surrogate per row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

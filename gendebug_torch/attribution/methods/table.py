"""The methods of this library by name: functions of an `ExplainedBatch`, all called alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from gendebug_torch.attribution.methods.ablation import feature_ablation, occlusion
from gendebug_torch.attribution.methods.gradient import (
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
)
from gendebug_torch.attribution.methods.shapley import kernel_shap, lime
from gendebug_torch.errors import reject


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Args:
        function: function of an `ExplainedBatch` and keyword-only options to `values` and further
            fields per row.
        gradient: whether it needs the gradient of the output.
        complete: whether the contributions of a row sum to the change of its output by theory.
        layer: whether it explains the units of a layer instead of the inputs.
    """

    function: Callable[..., dict[str, Tensor]]
    gradient: bool = False
    complete: bool = False
    layer: bool = False

    def with_options(self, name: str, options: dict[str, Any]) -> Method:
        """The method with some of its options set.

        Raises:
            InputError: an unknown option.
        """
        parameters = inspect.signature(self.function).parameters.values()
        accepted = sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        if unknown := sorted(set(options) - set(accepted)):
            expected = (
                f"options of {name} among {accepted}" if accepted else f"no options for {name}"
            )
            reject("method_options", expected, str(unknown), "Correct or remove them.")
        return replace(self, function=partial(self.function, **options))


METHODS = {
    "integrated_gradients": Method(integrated_gradients, gradient=True, complete=True),
    "gradient_shap": Method(gradient_shap, gradient=True, complete=True),
    "saliency": Method(saliency, gradient=True),
    "input_x_gradient": Method(input_x_gradient, gradient=True),
    "smooth_grad": Method(smooth_grad, gradient=True),
    "kernel_shap": Method(kernel_shap, complete=True),
    "lime": Method(lime),
    "feature_ablation": Method(feature_ablation),
    "occlusion": Method(occlusion),
}

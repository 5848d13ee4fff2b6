"""The methods of this library, by name: functions of a `Question`, all called alike."""

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
    """One way to explain.

    Args:
        function: of a `Question` and keyword-only options to `values` and more per row.
        gradient: whether it needs the gradient of the output.
        complete: whether the contributions of a row promise to sum to the change of its output.
        layer: whether they are those of the units of a layer, and not of inputs.
    """

    function: Callable[..., dict[str, Tensor]]
    gradient: bool = False
    complete: bool = False
    layer: bool = False

    def with_options(self, name: str, options: dict[str, Any]) -> Method:
        """The same method with some of its options set.

        Raises:
            InputError: an option that it does not have.
        """
        known = [
            p.name
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        ]
        if unknown := sorted(set(options) - set(known)):
            expected = (
                f"options of {name} among {sorted(known)}" if known else f"no options for {name}"
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

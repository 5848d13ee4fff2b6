"""Networks, data and the state of a model, for the tests of attribution."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from gendebug_torch import attribute

METHODS = {
    "integrated_gradients": {"steps": 16},
    "gradient_shap": {"samples": 20, "baseline": "sample"},
    "saliency": {},
    "input_x_gradient": {},
    "smooth_grad": {"samples": 10},
    "kernel_shap": {"samples": 20},
    "lime": {"samples": 60},
    "feature_ablation": {},
    "occlusion": {"window": 1},
    "captum.IntegratedGradients": {"n_steps": 16},
    "DeepLift": {},
    "DeepLiftShap": {"baseline": torch.linspace(-1, 1, 15).reshape(3, 5)},
    "GuidedBackprop": {},
    "captum.FeatureAblation": {},
    "captum.KernelShap": {"n_samples": 20},
    "captum.GradientShap": {"n_samples": 8, "baseline": torch.zeros(3, 5)},
    "LayerConductance": {"layer": "body.0", "n_steps": 16},
    "LayerIntegratedGradients": {"layer": "body.0", "n_steps": 16},
    "LayerGradCam": {"layer": "body.0"},
}
every_method = pytest.mark.parametrize("method", METHODS)
OF_INPUTS = [method for method in METHODS if not method.startswith("Layer")]
GRADIENT = ("integrated_gradients", "gradient_shap", "saliency", "input_x_gradient", "smooth_grad")
OWN = (*GRADIENT, "kernel_shap", "lime", "feature_ablation", "occlusion")


class Network(nn.Module):
    """Five inputs, BatchNorm, Dropout, three classes."""

    def __init__(self, d=5, k=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(d, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, k)
        )

    def forward(self, x):
        return self.body(x)


class Named(nn.Module):
    """The same, whose input is passed by name."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x)


def network(seed=0, **shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(**shape)
    model.body[1].running_mean.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(seed))
    model.body[1].eval()
    model.body[4].bias.requires_grad_(False)
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    return model


def rows(n=64, d=5, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def run(model, x, method, **more):
    """The answer of a method at the options of `METHODS`; its rows of data as baseline are fixed
    ones."""
    options = METHODS.get(method, {}) | more
    if options.get("baseline") == "sample":
        shape = x.shape[1:] if isinstance(x, torch.Tensor) else (5,)
        options["baseline"] = rows(4, torch.Size(shape).numel(), seed=9).reshape(4, *shape)
    return attribute(model, x, method, **options)


def close(a, b, tolerance=1e-5):
    """Whether two answers are equal up to rounding, which differs with the shape of a matrix
    product."""
    # Some versions of captum answer in float64.
    b = b.to(a.dtype)
    return torch.allclose(a, b, atol=tolerance * float(b.abs().max().clamp(min=1.0)), rtol=0)


def state(model):
    """Everything that a method must leave as it was."""
    modules = dict(model.named_modules())
    return {
        "modes": {name: module.training for name, module in modules.items()},
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [
            None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()
        ],
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {
            name: [len(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")]
            for name, module in modules.items()
        },
        "values": {key: value.tolist() for key, value in model.state_dict().items()},
        "random": (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        ),
    }

"""Networks that use what they should not, attributions that cannot be trusted, and clean
inputs for `attribution`."""

import pandas as pd
import torch
from torch import nn

from gendebug_torch import Cause, Records, Schema

NAMES = ("income", "debt", "age", "region", "row_code")
SCHEMA = Schema(
    target="default", noise=("row_code",), direction={"income": "decreasing", "debt": "increasing"}
)


class Linear(nn.Module):
    def forward(self, x):
        return 2.0 * x[:, 0] + 1.5 * x[:, 1] - 2.0


class Wavy(nn.Module):
    """Steep and oscillating: fifty nodes miss most of it, and a small step changes the
    explanation."""

    def forward(self, x):
        return torch.sin(400.0 * x[:, 0]) + torch.tanh(900.0 * (x[:, 1] - 0.3))


class Weights(nn.Module):
    """A logit with fixed weights and a mild interaction."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return torch.tanh(x) @ self.weights + 0.3 * x[:, 0] * x[:, 1]


SOUND = Weights(-1.5, 1.5, 0.8, 0.5, 0.02)


def records(seed, n=800, broken=0.0, name="validation"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = (torch.rand(n, generator=generator) < Linear()(x).sigmoid()).long()
    stuck = torch.rand(n, generator=generator) < broken
    x[stuck, 1] = 2.5
    return Records(x, y, Linear()(x), name=name)


def people(seed, model=SOUND, n=800, code=None, name="validation"):
    """Labels by the sound rule; `code` makes the last column out of the labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    with torch.no_grad():
        y = (torch.rand(n, generator=generator) < SOUND(x).sigmoid()).long()
        if code is not None:
            x[:, 4] = code(y, generator)
        logits = model(x)
    return Records(
        pd.DataFrame(x.numpy(), columns=list(NAMES)), y, logits, schema=SCHEMA, name=name
    )


def clean(seed):
    return {
        "model": Linear(),
        "validation": records(seed),
        "production": records(seed + 5000, name="production"),
    }


def sound(seed):
    return {
        "model": SOUND,
        "validation": people(seed),
        "production": people(seed + 5000, name="production"),
    }


def wavy(seed):
    return {"model": Wavy(), "validation": records(seed)}


def stuck_feature(seed):
    return {
        "model": Linear(),
        "validation": records(seed),
        "production": records(seed + 5000, broken=0.4, name="production"),
    }


def with_weights(*weights):
    def plant(seed):
        model = Weights(*weights)
        return {
            "model": model,
            "validation": people(seed, model),
            "production": people(seed + 5000, model, name="production"),
        }

    return plant


def equals_the_label(y, generator):
    return 2.0 * y - 1.0


def says_nothing(y, generator):
    return 2.0 * torch.randint(2, (len(y),), generator=generator) - 1.0


def shortcut(seed):
    model = Weights(-0.7, 0.7, 0.4, 0.2, 4.0)
    sides = {"validation": equals_the_label, "production": says_nothing}
    return {"model": model} | {
        key: people(seed + 5000 * (key == "production"), model, code=code, name=key)
        for key, code in sides.items()
    }


PLANTS = {
    "attribution.convergence": wavy,
    "attribution.direction": with_weights(0.8, 1.5, 0.8, 0.5, 0.02),
    "attribution.noise_feature": with_weights(-1.5, 1.5, 0.8, 0.5, 2.0),
    "attribution.production_errors": stuck_feature,
    "attribution.shortcut": shortcut,
    "attribution.stability": wavy,
}
CLEAN = dict.fromkeys(PLANTS, sound) | {"attribution.production_errors": clean}

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = {
    "attribution.convergence": (Cause.UNRELIABLE_EXPLANATION, r""),
    "attribution.direction": (Cause.SHORTCUT_FEATURE, r"income"),
    "attribution.noise_feature": (Cause.SHORTCUT_FEATURE, r"row_code"),
    "attribution.production_errors": (Cause.COVARIATE_SHIFT, r"feature_1"),
    "attribution.shortcut": (Cause.SHORTCUT_FEATURE, r"row_code"),
    "attribution.stability": (Cause.UNRELIABLE_EXPLANATION, r""),
}

"""Evidence of trainings for the checks of the topic `network`: sound, and with one fault each."""

import math
from dataclasses import replace

import torch

from gendebug_torch import Cause
from gendebug_torch.network.evidence import (
    MEASURES,
    SERIES,
    Layer,
    NetworkEvidence,
    NonFinite,
    RunFacts,
)
from gendebug_torch.network.preflight_evidence import PreflightEvidence

NAMES = [("body.0", "Linear"), ("body.1", "Tanh"), ("body.2", "Linear"), ("body.3", "Linear")]
USUAL = {
    "gradient_norm": 0.1,
    "weight_norm": 5.0,
    "update_norm": 0.01,
    "signal_norm": 0.01,
    "inactive_share": 0.05,
    "saturated_share": 0.1,
    "statistics_gap": 0.3,
    "half_gradient": 1e-3,
    "lost_updates": 0.05,
}
STEPS = [1, 2, 3, 4, 5, *range(10, 310, 10)]


def sound(seed, **facts):
    """A training of four layers that goes well."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    t, layers = len(STEPS), len(NAMES)
    values = torch.stack([USUAL[name] * (0.3 * noise(t, layers)).exp() for name in MEASURES], dim=2)
    step = torch.tensor(STEPS)
    fall = 0.3 + 1.1 * (-step / 60).exp()
    series = {
        "loss": fall + 0.05 * noise(t),
        "gradient_norm": (0.3 * noise(t)).exp(),
        "loss_scale": torch.ones(t).double(),
        "cross_entropy": torch.ones(t).double(),
        "label_smoothing": torch.zeros(t).double(),
        "input_sum": noise(t),
        "input_norm": noise(t).square(),
        "learning_rate": torch.full((t,), 0.1).double(),
    }
    dead = (0.1 * noise(layers).abs()).tolist()
    known = [
        Layer(name, kind, 100 if kind == "Linear" else 0, dead_share=share, dead_since=0, rate=0.1)
        for (name, kind), share in zip(NAMES, dead, strict=True)
    ]
    usual = {"optimizer": "SGD", "rows": 32, "start_loss": 1.4 + 0.1 * float(noise(1))}
    usual |= {"uniform_loss": math.log(4), "constant_loss": 1.36, "training_calls": (300, 0)}
    stacked = torch.stack([series[name] for name in SERIES], 1)
    return NetworkEvidence(tuple(known), step, values, stacked, RunFacts(**(usual | facts)))


def with_measure(network, name, change, layer=slice(None)):
    values = network.values.clone()
    at = MEASURES.index(name)
    values[:, layer, at] = change(values[:, layer, at])
    return replace(network, values=values)


def with_series(network, name, values):
    series = network.series.clone()
    series[:, SERIES.index(name)] = values
    return replace(network, series=series)


def with_layer(network, at, **changes):
    layers = list(network.layers)
    layers[at] = replace(layers[at], **changes)
    return replace(network, layers=tuple(layers))


def flat_loss(network):
    noise = network.run("loss") - network.run("loss").mean()
    noise = 0.02 * torch.sin(37 * noise)
    return with_series(network, "loss", 1.38 + noise)


def large_updates(seed):
    return with_measure(flat_loss(sound(seed)), "update_norm", lambda values: 100 * values)


def not_optimized(seed):
    return with_layer(
        with_measure(sound(seed), "update_norm", torch.zeros_like, 2), 2, optimized=False
    )


def dead(seed):
    return with_layer(sound(seed), 2, dead_share=0.9, dead_since=40)


def vanishing(seed):
    return with_measure(sound(seed), "signal_norm", lambda values: 1e-5 * values, 0)


def clipped(seed):
    network = sound(seed)
    return with_series(network, "gradient_norm", torch.full((len(network),), 0.01).double())


def underflow(seed):
    return with_measure(sound(seed), "half_gradient", lambda values: 1e-5 * values)


def probed(seed, **changes):
    """A preflight of a sound network."""
    generator = torch.Generator().manual_seed(seed)
    losses = (1.4 * torch.rand(1, generator=generator) * 0.97 ** torch.arange(60)).tolist()
    usual = {"losses": tuple(losses), "input_mean": 0.1, "input_deviation": 1.0, "rows": 64}
    usual |= {"class_shares": (0.5, 0.5), "mode_gap": 0.05}
    return replace(sound(seed), preflight=PreflightEvidence(**(usual | changes)))


def given(build, **changes):
    return lambda seed: {"network": build(seed, **changes)}


PLANTS = {
    "network.nonfinite": given(sound, nonfinite=NonFinite(40, "body.2", "forward")),
    "network.unchanged": given(not_optimized),
    "network.units": given(dead),
    "network.gradients": given(vanishing),
    "network.updates": given(large_updates),
    "network.start": given(sound, start_loss=9.0),
    "network.loss": given(lambda seed: flat_loss(sound(seed))),
    "network.modes": given(sound, evaluation_calls=(40, 0)),
    "network.batches": given(sound, backwards=4),
    "network.optimizer": given(clipped),
    "network.precision": given(underflow),
    "network.ranks": given(sound, rank_spread=0.1),
    "network.evaluation": given(probed, mixing=0.4, mixing_module="body.2"),
    "network.one_batch": given(probed, losses=(1.4,) * 60),
    "network.inputs": given(probed, input_mean=120.0, input_deviation=60.0),
}
CLEAN = dict.fromkeys(PLANTS, given(sound)) | dict.fromkeys(
    ("network.evaluation", "network.one_batch", "network.inputs"), given(probed)
)

# Check -> cause and subject (a regular expression) that its planted fault is to be found under.
EXPECTED = dict.fromkeys(PLANTS, (Cause.TRAINING_FAULT, r""))
EXPECTED |= dict.fromkeys(
    ("network.nonfinite", "network.unchanged", "network.units", "network.evaluation"),
    (Cause.TRAINING_FAULT, r"body\.2"),
)
EXPECTED["network.gradients"] = (Cause.TRAINING_FAULT, r"body\.0")
EXPECTED["network.precision"] = (Cause.TRAINING_FAULT, r"body\.3")

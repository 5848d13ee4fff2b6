import dataclasses

import pytest
import torch
from torch import nn

import gendebug_torch as gd
from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.attribution.compare.feature_use import contribution_slope
from tests.contract.plants_attribution import (
    SCHEMA,
    Weights,
    equals_the_label,
    people,
    says_nothing,
)


def alarms(check, **given):
    found = gd.diagnose(**given, only=f"attribution.{check}").findings
    return [finding for finding in found if finding.severity.level >= Severity.WARN.level]


def sides(model, code=None, later=None, **changes):
    made = {
        "validation": people(1, model, code=code),
        "production": people(2, model, code=later, name="production"),
    }
    schema = Schema(**(vars(SCHEMA) | changes))
    return {
        key: Records(side.features, side.targets, side.logits, schema=schema, name=key)
        for key, side in made.items()
    }


LEANING = Weights(-0.7, 0.7, 0.4, 0.2, 4.0)


def test_a_column_that_equals_the_label_until_production_is_a_shortcut():
    (finding,) = alarms("shortcut", model=LEANING, **sides(LEANING, equals_the_label, says_nothing))
    assert finding.cause is Cause.SHORTCUT_FEATURE
    assert finding.subject == "row_code"
    assert finding.severity is Severity.FAIL
    assert "more than all of the skill" in finding.summary


def test_a_strong_feature_whose_importance_lasts_is_none():
    assert not alarms(
        "shortcut", model=LEANING, **sides(LEANING, equals_the_label, equals_the_label)
    )


def test_a_causal_feature_that_loses_its_importance_is_a_drift():
    (finding,) = alarms(
        "shortcut",
        model=LEANING,
        **sides(LEANING, equals_the_label, says_nothing, causal=("row_code",), noise=()),
    )
    assert finding.cause is Cause.CONCEPT_DRIFT


def test_a_constant_feature_is_left_to_the_checks_of_shift():
    assert not alarms(
        "shortcut",
        model=LEANING,
        **sides(LEANING, equals_the_label, lambda y, generator: torch.ones(len(y))),
    )


def test_a_reversed_relation_is_no_shortcut():
    assert not alarms(
        "shortcut",
        model=LEANING,
        **sides(LEANING, equals_the_label, lambda y, generator: 1.0 - 2.0 * y),
    )


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.5])
def test_noise_counts_by_what_it_carries(weight):
    model = Weights(-1.5, 1.5, 0.8, 0.5, weight)
    found = alarms("noise_feature", model=model, **sides(model))
    assert [finding.subject for finding in found] == (["row_code"] if weight > 1 else [])


@pytest.mark.parametrize(("weight", "wrong"), [(-1.5, []), (1.0, ["income"]), (0.02, [])])
def test_direction_counts_where_it_matters(weight, wrong):
    model = Weights(weight, 1.5, 0.8, 0.5, 0.0)
    assert [
        finding.subject for finding in alarms("direction", model=model, **sides(model))
    ] == wrong


def test_two_logits_say_the_same_as_one():
    class Two(nn.Module):
        def forward(self, x):
            one = Weights(1.0, 1.5, 0.8, 0.5, 2.5)(x)
            return torch.stack([-one / 2, one / 2], 1)

    given = sides(Weights(1.0, 1.5, 0.8, 0.5, 2.5))
    given = {
        key: Records(side.features, side.targets, schema=side.schema, name=key)
        for key, side in given.items()
    }
    assert [f.subject for f in alarms("noise_feature", model=Two(), **given)] == ["row_code"]
    assert [f.subject for f in alarms("direction", model=Two(), **given)] == ["income"]


@pytest.mark.slow
def test_light_is_the_shortcut_of_occupancy(shared_data):
    """Light tells occupancy almost alone in February; the schema of a cautious expert calls it
    noise."""
    schema = Schema(target="Occupancy", time="date", noise=("Light",))
    files = {"train": "datatraining", "validation": "datatest"}
    tables = {
        name: Records.from_file(shared_data / "occupancy" / f"{file}.parquet", schema, name=name)
        for name, file in files.items()
    }
    x = torch.from_numpy(tables["train"].features.to_numpy(dtype="float32", copy=True))
    y = tables["train"].targets.float()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", x.mean(0))
            self.register_buffer("std", x.std(0))
            self.body = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, inputs):
            return self.body((inputs - self.mean) / self.std)[:, 0]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(4):
            for part in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(model(x[part]), y[part]).backward()
                optimizer.step()
    (finding,) = alarms("noise_feature", model=model, validation=tables["validation"])
    assert finding.subject == "Light"
    assert finding.numbers["rank"] == 1
    assert finding.numbers["share"] > 0.4


@pytest.mark.parametrize(("relation", "slope"), [(1.0, 1.0), (0.0, 0.0), (-0.5, -0.5)])
def test_the_slope_says_whether_labels_still_follow_a_contribution(relation, slope):
    generator = torch.Generator().manual_seed(3)
    contributions = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    logits = contributions[:, 1:].sum(1) + relation * contributions[:, 0]
    targets = (torch.rand(4000, generator=generator, dtype=torch.float64) < logits.sigmoid()).long()
    found, error = contribution_slope(contributions, 0, targets)
    assert abs(found - slope) < 3 * error < 0.3


def test_a_reversed_relation_is_a_drift_of_that_feature():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4000, 3, generator=generator)
    logits = x @ torch.tensor([1.8, -1.0, 0.7])
    later = x @ torch.tensor([-0.8, -1.0, 0.7])
    made = {}
    for name, truth in (("validation", logits), ("production", later)):
        targets = (torch.rand(4000, generator=generator) < truth.sigmoid()).long()
        made[name] = Records(x, targets, logits, name=name)
    network = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Flatten(0))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.8, -1.0, 0.7]]))
    assert [(f.cause, f.subject) for f in alarms("production_errors", model=network, **made)] == [
        (Cause.CONCEPT_DRIFT, "feature_0")
    ]


def logit(*weights):
    network = nn.Sequential(nn.Linear(len(weights), 1, bias=False), nn.Flatten(0))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([weights]))
    return network


def false_alarms(weights, given, *, recorded=None):
    """A linear logit whose second input is stuck in production, where labels do not follow it."""
    model = logit(*weights)
    made = {}
    for name, seed in (("validation", 1), ("production", 2)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4000, len(weights), generator=generator)
        y = (torch.rand(4000, generator=generator) < model(x).detach().sigmoid()).long()
        if name == "production":
            x[:, 1] = given
        logits = (recorded or model)(x).detach()
        made[name] = Records(x, y, logits, name=name)
    return model, made


def production_errors(model, made, **options):
    return gd.diagnose(
        model,
        **made,
        only="attribution.production_errors",
        options={"attribution.production_errors": options},
    ).findings


@pytest.mark.parametrize(("weight", "severity"), [(2.0, Severity.FAIL), (0.08, Severity.NOTE)])
def test_hundredths_of_a_logit_carry_no_false_alarms(weight, severity):
    (found,) = production_errors(*false_alarms((0.05, weight), 1.5), min_share=0.0)
    assert found.severity is severity, found.summary
    if severity is Severity.NOTE:
        assert 0 < found.numbers["gain"] < 0.1
        assert "logits" in found.summary


def test_a_step_of_a_series_carries_false_alarms():
    model, made = false_alarms((0.05, 2.0, 0.3, 0.2), 1.5)
    made = {
        name: dataclasses.replace(side, features=side.features.reshape(-1, 2, 2))
        for name, side in made.items()
    }
    (found,) = production_errors(nn.Sequential(nn.Flatten(), *model), made)
    assert found.severity is Severity.FAIL
    assert found.subject == found.numbers["feature"]
    assert found.numbers["shift_of_feature"] > 0.8


def test_logits_of_another_model_are_not_explained_by_this_one():
    model, made = false_alarms((-1.0, 2.0, 0.5), 3.0, recorded=logit(-0.4, 1.0, 0.2))
    (found,) = production_errors(model, made)
    assert found.severity is Severity.NOTE
    assert "not those of the model" in found.summary
    assert found.numbers["logit_difference"] > 0.1

    def rounded(side):
        return Records(
            side.features,
            side.targets,
            (model(side.features).detach() * 100).round() / 100,
            name=side.name,
        )

    assert (
        production_errors(model, {name: rounded(side) for name, side in made.items()})[0].severity
        is Severity.FAIL
    )


@pytest.mark.gpu
@pytest.mark.parametrize("check", ["shortcut", "production_errors", "stability", "convergence"])
def test_records_on_a_device_are_judged_as_on_the_host(check):
    model, made = false_alarms((-1.0, 2.0, 0.5), 1.5)
    only = f"attribution.{check}"
    (host,) = gd.diagnose(model, **made, only=only).findings
    there = {name: side.to("cuda") for name, side in made.items()}
    (device,) = gd.diagnose(model.cuda(), **there, only=only).findings
    assert (device.severity, device.subject) == (host.severity, host.subject), device.summary


@pytest.mark.parametrize(
    ("features", "targets", "reason"),
    [
        (
            torch.zeros(60, 1, 4, 4),
            torch.zeros(60, dtype=torch.int64),
            "a row of validation has shape [1, 4, 4]",
        ),
        (torch.zeros(20, 4), torch.zeros(20, dtype=torch.int64), "has 20 rows, fewer than 50"),
    ],
)
def test_what_is_not_judged_says_why(features, targets, reason):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    model(features)
    side = Records(features, targets, name="validation")
    (found,) = gd.diagnose(
        model, validation=side, production=side, only="attribution.shortcut"
    ).findings
    assert found.severity is Severity.NOTE
    assert reason in found.summary

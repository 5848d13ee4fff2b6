"""The label audit of every task: classes, several labels, quantities; missing labels; its parts."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity, diagnose
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.labels.checks.noise import training_labels_are_right
from gendebug_torch.labels.checks.validation_noise import validation_labels_are_right
from gendebug_torch.labels.prediction.cross_fitting import cross_fitted
from gendebug_torch.labels.prediction.missed_signal import features_explain
from gendebug_torch.labels.prediction.small_networks import Networks, Truth
from gendebug_torch.labels.quantities.quantity_errors import quantity_errors
from tests import quality_sweep

CHECKS = {check.name: check for check in all_checks() if check.name.startswith("labels.")}
SIDES = {"labels.noise": "train", "labels.validation_noise": "validation"}
both_checks = pytest.mark.parametrize("name", SIDES)


def run(name, records):
    return CHECKS[name].run({SIDES[name]: replace(records, name=SIDES[name])})


def alarms(findings):
    return [f for f in findings if f.severity.level >= Severity.WARN.level]


def inputs(seed, n=1200):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    return generator, x, pd.DataFrame(x.numpy(), columns=list("abcde"))


def several_labels(seed, rate=0.0):
    """Three labels, of which the second has wrong answers and a fifth of each is missing."""
    generator, x, table = inputs(seed)
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(5))
    logits = 5.0 * x @ weights
    answers = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    flipped = torch.rand(len(x), generator=generator) < rate
    answers[flipped, 1] = 1 - answers[flipped, 1]
    missing = torch.rand(answers.shape, generator=generator) < 0.2
    schema = Schema(multilabel=True, classes=("cat", "dog", "emu"))
    targets = answers.masked_fill(missing, -100)
    return Records(table, targets, logits, schema=schema), int(missing.sum())


def quantity(seed, fault="none", tail="normal"):
    """A quantity, the predictions of a good model, and 5 % wrong values."""
    generator, x, table = inputs(seed)
    signal = 200.0 + 30.0 * (x[:, 0] + x[:, 1] * x[:, 2])
    noise = torch.randn(len(x), generator=generator)
    if tail == "heavy":
        noise = noise / torch.rand(len(x), generator=generator).clamp(min=0.01).sqrt()
    elif tail == "unequal":
        noise = noise * (1.0 + (x[:, 3] > 0.5) * 4.0)
    values = (signal + 8.0 * noise).double()
    rows = (torch.rand(len(x), generator=generator) < 0.05).nonzero()[:, 0]
    if fault == "swapped rows":
        values[rows] = values[rows[torch.randperm(len(rows), generator=generator)]]
    elif fault == "unit":
        values[rows] *= 1000.0
    model = signal + 4.0 * torch.randn(len(x), generator=generator)
    return Records(table, values, model, schema=Schema(target="weight", regression=True)), rows


@both_checks
def test_each_label_of_several_is_judged_on_the_rows_that_have_it(name):
    for seed in range(2):
        records, missing = several_labels(seed, rate=0.15)
        found = run(name, records)
        (alarm,) = alarms(found)
        assert (alarm.cause, alarm.subject) == (Cause.LABEL_NOISE, "dog")
        assert alarm.numbers["low"] < 0.15 < alarm.numbers["high"]
        assert alarm.numbers["n"] == int((records.targets[:, 1] != -100).sum())
        assert alarm.numbers["missing"] == missing
        (quiet,) = run(name, several_labels(seed)[0])
        assert quiet.severity is Severity.OK
        assert f"{missing:,} are missing" in quiet.summary


@both_checks
@pytest.mark.parametrize("fault", ["swapped rows", "unit"])
def test_wrong_values_of_a_quantity_are_found_with_their_unit(name, fault):
    records, rows = quantity(0, fault)
    (alarm,) = alarms(run(name, records))
    assert (alarm.cause, alarm.subject) == (Cause.LABEL_NOISE, "weight")
    assert abs(alarm.numbers["rate"] - len(rows) / len(records)) < 0.02
    wrong = set(rows.tolist())
    assert len(set(alarm.numbers["rows"]) & wrong) >= 8
    if fault == "unit":
        assert alarm.numbers["factor"] == pytest.approx(1000, rel=0.1)
        assert "unit" in alarm.summary
    else:
        assert "factor" not in alarm.numbers


@both_checks
@pytest.mark.parametrize("tail", ["normal", "heavy", "unequal"])
def test_heavy_tails_and_unequal_spreads_are_no_wrong_values(name, tail):
    for seed in range(3):
        (quiet,) = run(name, quantity(seed, tail=tail)[0])
        assert quiet.severity is Severity.OK, quiet.summary


def test_a_target_of_several_is_named():
    one = quantity(3, "swapped rows")[0]
    other = quantity(4)[0]
    targets = torch.stack([other.targets, one.targets], 1)
    targets[:100, 0] = torch.nan
    records = Records(one.features, targets, schema=Schema(regression=True), name="train")
    found = alarms(training_labels_are_right(records))
    assert "output 1" in [finding.subject for finding in found]
    assert found[0].numbers["missing"] == 100


@both_checks
def test_rows_without_a_label_are_left_out_and_counted(name):
    generator, x, table = inputs(7)
    logits = 8.0 * x[:, 0] + 6.0 * x[:, 1]
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    targets[::3] = -100
    for given in (targets, targets.double().masked_fill(targets < 0, torch.nan)):
        (finding,) = run(name, Records(table, given, logits))
        assert finding.severity is Severity.OK
        assert (finding.numbers["n"], finding.numbers["missing"]) == (800, 400)
        assert "400 rows have no label" in finding.summary


def test_a_random_part_of_many_rows_is_said_to_be_one():
    generator, x, table = inputs(8)
    logits = 8.0 * x[:, 0]
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    records = Records(table, targets, logits, name="validation")
    (finding,) = validation_labels_are_right(records, max_rows=500)
    assert "of 500 labels" in finding.summary
    assert "a random part of 1,200" in finding.summary


def test_what_cannot_be_judged_is_said_in_one_line():
    few = Records(None, torch.tensor([0, 1, 1]), torch.zeros(3), name="train")
    wide = Records(
        None, torch.ones(200).double(), schema=Schema(regression=True), metadata=None, name="train"
    )
    for records in (few, wide):
        (finding,) = training_labels_are_right(records)
        assert finding.severity is Severity.NOTE
        assert "\n" not in finding.summary


@pytest.mark.parametrize("kind", ["class", "labels", "quantity"])
def test_written_out_gradients_are_those_of_autograd(kind):
    generator = torch.Generator().manual_seed(0)
    values = {
        "class": torch.randint(0, 3, (20,), generator=generator),
        "labels": torch.randint(0, 2, (20, 3), generator=generator).float(),
        "quantity": torch.randn(20, 3, generator=generator),
    }[kind]
    if kind != "class":
        values[::4, 1] = torch.nan
    truth = Truth(values, kind, 3)
    networks = Networks(2, (4, 5, 6, 3), generator, torch.device("cpu"))
    networks.step(torch.randn(2, 8, 4, generator=generator), truth, torch.zeros(2, 8).long(), 0.1)
    x, rows = torch.randn(2, 8, 4, generator=generator), torch.arange(16).view(2, 8)
    weights = [w.detach().clone().requires_grad_() for w in networks.weights]
    biases = [b.detach().clone().requires_grad_() for b in networks.biases]
    hidden = x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = (hidden @ weight + bias).relu()
    answers = hidden @ weights[-1] + biases[-1]
    torch.testing.assert_close(networks(x), answers)
    if kind == "class":
        losses = torch.nn.functional.cross_entropy(answers.mT, values[rows], reduction="none")
    else:
        known, wanted = ~values[rows].isnan(), values[rows].nan_to_num(0.0)
        square = (answers - wanted).square() / 2
        nats = torch.nn.functional.softplus(answers) - answers * wanted
        losses = ((nats if kind == "labels" else square) * known).sum(-1)
    torch.testing.assert_close(truth.loss(answers, rows), losses)
    loss = losses.sum() / x.shape[1]
    expected = torch.autograd.grad(loss, [*weights, *biases])
    networks.step(x, truth, rows, 0.0)
    torch.testing.assert_close(networks.gradients, list(expected))


def test_cross_fitting_learns_quantities_and_labels():
    x = inputs(1, 800)[1]
    signal = x[:, 0] * x[:, 1]
    values = torch.stack([signal, x[:, 2]], 1)
    values[::5, 0] = torch.nan
    answers = cross_fitted(x, Truth(values, "quantity", 2))
    error = (answers - torch.stack([signal, x[:, 2]], 1)).square().mean(0)
    assert float(error.max()) < 0.2, "of variances of 1"
    yes = (values > 0).float().masked_fill(values.isnan(), torch.nan)
    logits = cross_fitted(x, Truth(yes, "labels", 2))
    assert float(((logits[:, 0] > 0) == (signal > 0)).double().mean()) > 0.85


def test_features_explain_a_residual_only_where_they_do():
    quiet = 0
    for seed in range(20):
        generator, x, _ = inputs(seed, 1000)
        noise = torch.randn(1000, 2, generator=generator)
        quiet += not features_explain(x, noise)
        assert features_explain(x, noise + 0.5 * (x[:, :1] > 1.0))
    assert quiet >= 17


def test_the_interval_holds_the_share_of_wrong_values():
    held = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        mean = torch.randn(2000, generator=generator, dtype=torch.float64)
        values = mean + 0.3 * torch.randn(2000, generator=generator, dtype=torch.float64)
        rows = (torch.rand(2000, generator=generator) < 0.06).nonzero()[:, 0]
        values[rows] = values[rows[torch.randperm(len(rows), generator=generator)]]
        errors = quantity_errors(mean, values, torch.zeros(2000))
        held += errors.low < len(rows) / 2000 < errors.high
        assert errors.p_value < 1e-6
    assert held >= 8


def half_known_world(seed, flipped):
    """Rows of whose answers a twentieth is reversed by an input that only the model reads.

    The labels follow the model's logits; a share of those of training is flipped afterwards.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, 4, generator=generator)
    hidden = torch.rand(3000, generator=generator) < 0.05
    logits = 8.0 * torch.where(hidden, -x[:, 0], x[:, 0])
    right = torch.rand(3000, generator=generator) < logits.sigmoid()
    wrong = (torch.rand(3000, generator=generator) < flipped) & (torch.arange(3000) < 1500)
    y = (right ^ wrong).long()
    parts = {"train": slice(1500), "validation": slice(1500, 3000)}
    return {name: Records(x[p], y[p], logits[p], name=name) for name, p in parts.items()}


def test_right_labels_that_only_the_model_can_explain_are_no_noise():
    loud = Severity.WARN.level
    clean, noisy = (half_known_world(0, share) for share in (0.0, 0.1))
    alone, *_ = training_labels_are_right(clean["train"])
    compared, *_ = training_labels_are_right(clean["train"], clean["validation"])
    assert alone.severity.level >= loud > compared.severity.level
    flipped, *_ = training_labels_are_right(noisy["train"], noisy["validation"])
    assert flipped.severity.level >= loud
    assert flipped.numbers["low"] < 0.1 < flipped.numbers["high"]


@pytest.mark.parametrize("quality", [0.8, 0.9])
def test_few_rows_of_many_classes_show_neither_noise_nor_drift_where_there_is_none(quality):
    only = ("labels.validation_noise", "shift.concept_drift")
    for seed in range(5):
        given = quality_sweep.Cell("100 classes", quality, 300, 0.0, seed).given()
        findings = diagnose(**given, only=only).findings
        assert not [f for f in findings if f.severity.level >= Severity.WARN.level]

"""Slices, collapse and clusters of quantities and of several labels."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.slices.search.row_losses import label_losses, quantity_losses
from gendebug_torch.slices.statistics.correction import correction_gain

CHECKS = {check.name: check for check in all_checks()}
MULTILABEL = Schema(multilabel=True)


def run(name, *records):
    given = dict(zip(("validation", "production"), records, strict=False))
    return CHECKS[f"slices.{name}"].run(given)


def alarms(findings):
    return [finding for finding in findings if finding.severity.level >= Severity.WARN.level]


def quantities(seed, n=2000, bias=0.0, flip=False, noise=1.0, heavy=False, name="validation"):
    """A model that knows its rule; errors grow with the prediction; region C may be at fault."""
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    table = pd.DataFrame({"region": rng.choice(list("ABCDE"), n), "day": rng.integers(0, 7, n)})
    inside = (table["region"] == "C").to_numpy()
    a, b = x["a"].to_numpy(), x["b"].to_numpy()
    predicted = 3 * a + b + 2
    draw = rng.standard_t(3, n) if heavy else rng.normal(size=n)
    error = draw * (1 + 0.5 * np.abs(predicted)) * np.where(inside, noise, 1.0)
    y = np.where(inside & flip, b - 3 * a + 2, predicted) + error + bias * inside
    return Records(x, torch.from_numpy(y), torch.from_numpy(predicted), table, name=name)


def labels(seed, n=1500, k=4, bad=False, turned=None, missing=0.0, name="validation"):
    """Labels drawn from the probabilities of the model, but in region B or of one label."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.normal(size=(n, k))
    table = pd.DataFrame({"region": rng.choice(list("ABCDE"), n), "x": rng.normal(size=n)})
    truth = logits.copy()
    truth[(table["region"] == "B").to_numpy() & bad] *= -0.3
    if turned is not None:
        truth[:, turned] *= -1
    y = (rng.random((n, k)) < 1 / (1 + np.exp(-truth))).astype(int)
    y[rng.random((n, k)) < missing] = -100
    return Records(table, torch.from_numpy(y), torch.from_numpy(logits), None, MULTILABEL, name)


@pytest.mark.parametrize("fault", [{"bias": 6.0}, {"flip": True}], ids=["bias", "other rule"])
def test_a_region_with_an_error_that_could_be_corrected_is_named(fault):
    for seed in range(3):
        (finding,) = alarms(run("worst", quantities(seed, **fault)))
        assert finding.subject == "region = C"
        assert "mean absolute error" in finding.summary
        assert "takes off" in finding.summary
        assert "probab" not in finding.summary
        assert "confidence" not in finding.summary
        assert finding.numbers["gain"] > 0.3


def test_a_noisy_region_is_hard_but_does_not_fail():
    (finding,) = run("worst", quantities(0, noise=4.0))
    assert finding.severity is Severity.OK
    assert finding.numbers["hardest"] == "region = C"
    assert "no simple correction" in finding.summary


@pytest.mark.parametrize(
    "fault", [{"bias": 6.0}, {"flip": True}, {"noise": 3.0}], ids=["bias", "other rule", "noise"]
)
def test_a_region_whose_error_rose_in_production_is_named(fault):
    found = alarms(run("collapse", quantities(0), quantities(1, name="production", **fault)))
    assert [finding.subject for finding in found] == ["region = C"]
    assert found[0].numbers["rate_production"] > 1.5 * found[0].numbers["rate_validation"]
    assert "rate rose" not in found[0].summary


@pytest.mark.parametrize("heavy", [False, True])
def test_clean_quantities_are_quiet(heavy):
    loud = []
    for seed in range(25):
        before = quantities(seed, n=1000, heavy=heavy)
        after = quantities(seed + 500, n=1000, heavy=heavy, name="production")
        for name in ("worst", "collapse", "error_clusters"):
            loud += alarms(run(name, before, after))
    assert loud == []


def test_an_error_that_grows_everywhere_is_no_subgroup():
    before, after = quantities(0), quantities(1, name="production")
    residuals = 3 * (after.targets - after.logits)
    grown = Records(after.features, after.logits + residuals, after.logits, after.metadata)
    assert alarms(run("collapse", before, grown)) == []


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_a_region_where_labels_contradict_the_confidence_is_named(missing):
    bad = labels(0, bad=True, missing=missing)
    (worst,) = alarms(run("worst", bad))
    (collapsed,) = alarms(run("collapse", labels(1, missing=missing), bad))
    assert worst.subject == collapsed.subject == "region = B"
    assert "mean log loss" in worst.summary
    assert worst.numbers["support"] == pytest.approx(300, abs=40)


def test_a_label_that_turned_is_named_and_clean_labels_are_quiet():
    (finding,) = alarms(run("collapse", labels(0), labels(1, turned=2, name="production")))
    assert finding.subject == "label = 2"
    assert finding.numbers["factor"] > 2
    for seed in range(10):
        before, after = labels(seed, missing=0.2), labels(seed + 50, missing=0.2)
        for name in ("worst", "collapse", "error_clusters"):
            assert alarms(run(name, before, after)) == []


def test_outputs_of_any_unit_count_alike_and_one_that_fails_is_named():
    def sides(scale):
        rng = np.random.default_rng(0)
        for broken in (1.0, 3.0):
            predicted = rng.normal(size=(1500, 2)) * np.array([3.0, 3.0 * scale])
            noise = rng.normal(size=(1500, 2)) * np.array([1.0, broken * scale])
            table = pd.DataFrame({"region": rng.choice(list("ABC"), 1500)})
            y = torch.from_numpy(predicted + noise)
            yield Records(table, y, torch.from_numpy(predicted))

    small, large = ([f.to_dict() for f in run("collapse", *sides(scale))] for scale in (1.0, 1e4))
    assert small[0]["subject"] == large[0]["subject"] == "output = 1"
    assert small[0]["numbers"]["factor"] == pytest.approx(large[0]["numbers"]["factor"])
    assert "standard deviations" in small[0]["summary"]


def test_large_errors_that_cluster_where_a_correction_helps_are_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 4))
    inside = (x[:, 0] > 1.2) & (x[:, 1] > 1.0)
    x[inside, :2] += 2.0
    table, predicted = pd.DataFrame(x, columns=list("abcd")), torch.from_numpy(x[:, 2])
    for fault, level in ((4.0 * inside, 2), (4.0 * inside * rng.normal(size=3000), 0)):
        y = predicted + torch.from_numpy(rng.normal(size=3000) + fault)
        (finding,) = run("error_clusters", Records(table, y, predicted))
        assert finding.severity.level >= level
        assert "a high" in finding.subject or level == 0
        assert "confidence" not in finding.summary


def test_losses_of_a_score_average_to_what_is_expected():
    rng = np.random.default_rng(0)
    predicted = torch.from_numpy(rng.normal(size=4000))
    y = predicted + torch.from_numpy(rng.normal(size=4000)) * (1 + predicted.abs())
    y[::9] = torch.nan
    losses = quantity_losses(predicted, y)
    assert len(losses.rows) == int((~y.isnan()).sum())
    expected = losses.expected()
    assert float(expected.mean()) == pytest.approx(float(losses.mean.mean()))
    slope = np.polyfit(1 + predicted[losses.rows].abs(), expected, 1)[0]
    assert slope == pytest.approx((2 / np.pi) ** 0.5, rel=0.1)
    targets = torch.tensor([[1, 0], [-100, 1], [-100, -100]])
    of_labels = label_losses(torch.zeros(3, 2), targets)
    assert of_labels.rows.tolist() == [0, 1]
    assert of_labels.mean.tolist() == pytest.approx([np.log(2)] * 2)
    assert of_labels.scores[0].tolist() == pytest.approx([np.log(2)] * 2)


def test_a_correction_gains_what_can_be_learned():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(3000, 3)), rng.normal(size=3000)
    for signal, share in ((2 * x[:, 0], 0.8), (np.full(3000, 1.0), 0.5), (0 * noise, 0.0)):
        residuals = torch.from_numpy(signal + noise)[:, None]
        gain, error = correction_gain(residuals, torch.from_numpy(x))
        assert gain == pytest.approx(share, abs=0.03)
        assert 0 <= error < 0.03


def test_a_whole_diagnosis_of_quantities_names_the_region():
    before, after = quantities(0), quantities(1, bias=8.0, name="production")
    found = diagnose(validation=before, production=after, only="slices")
    assert found.causes[0].cause == "subgroup_failure"
    assert found.causes[0].subject == "region = C"

"""What residuals hold: structure that was planted is found, and none is seen where there is
none."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.curves.checks.residuals import features_do_not_predict_residuals
from gendebug_torch.curves.residual_structure import residual_structure
from gendebug_torch.errors import InputError


def rows(seed, n=300):
    rng = np.random.default_rng(seed)
    return rng, pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))


def drawn(rng, truth):
    return torch.from_numpy((rng.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype("int64"))


def binary(seed, learned, n=300, scale=1.0):
    rng, x = rows(seed, n)
    truth = (1.5 * x["a"] + 1.8 * x["b"] * x["c"]).to_numpy()
    said = truth if learned else x["a"].to_numpy()
    return Records(x, drawn(rng, truth), torch.from_numpy(scale * said), name="train")


def judged(train, validation=None):
    (found,) = features_do_not_predict_residuals(train, validation)
    return found


def test_two_hundred_models_that_know_the_rule_raise_no_alarm():
    levels = [judged(binary(seed, learned=True)).severity for seed in range(200)]
    assert all(level.level < Severity.WARN.level for level in levels)
    assert levels.count(Severity.OK) >= 196


def test_an_interaction_that_the_model_misses_is_found():
    found = [judged(binary(seed, learned=False, n=1500)) for seed in range(20)]
    assert sum(finding.severity is Severity.WARN for finding in found) >= 19
    assert found[0].cause is Cause.UNDERFITTING
    assert found[0].summary.startswith("Underfits: a small probe network predicts")
    assert "1500 training rows" in found[0].summary


@pytest.mark.parametrize("scale", [0.3, 4.0, -1.0])
def test_a_miscalibrated_model_that_knows_the_rule_does_not_underfit(scale):
    assert judged(binary(3, learned=True, n=1500, scale=scale)).severity is not Severity.WARN


def test_a_model_that_is_fed_the_wrong_columns_is_not_called_underfit():
    rng, x = rows(4, 1500)
    targets = drawn(rng, 3 * x["a"].to_numpy())
    found = judged(Records(x, targets, torch.tensor(3 * x["b"].to_numpy(copy=True)), name="train"))
    assert found.severity is Severity.NOTE
    assert "does not fit" in found.summary


def test_a_model_that_fits_its_own_rows_better_than_others_is_not_asked():
    _, x = rows(5, 1500)
    train = binary(5, learned=False, n=1500)
    by_heart = Records(x, train.targets, 6.0 * train.targets.double() - 3.0, name="train")
    found = judged(by_heart, binary(6, learned=False, n=1500))
    assert found.severity is Severity.NOTE
    assert "better than the validation rows" in found.summary


@pytest.mark.parametrize(("learned", "severity"), [(True, Severity.OK), (False, Severity.WARN)])
def test_values_and_several_classes_are_asked_alike(learned, severity):
    rng, x = rows(7, 1500)
    truth = (x["a"] + 2 * x["b"].abs()).to_numpy(copy=True)
    noise = rng.normal(size=1500)
    value = torch.tensor(truth if learned else x["a"].to_numpy() + 1.6)
    assert (
        judged(Records(x, torch.from_numpy(truth + noise), value, name="train")).severity
        is severity
    )
    scores = np.stack([np.zeros(1500), 2 * truth - 3, x["d"].to_numpy()], 1)
    targets = torch.from_numpy((scores + rng.gumbel(size=scores.shape)).argmax(1))
    said = (
        scores
        if learned
        else np.stack([np.zeros(1500), 2 * x["a"].to_numpy() + 0.2, x["d"].to_numpy()], 1)
    )
    assert judged(Records(x, targets, torch.from_numpy(said), name="train")).severity is severity


def test_the_gain_is_the_share_that_the_missing_term_has():
    rng, x = rows(8, 6000)
    missing, noise = x["b"].to_numpy(), 2.0 * rng.normal(size=6000)
    residuals = torch.from_numpy(missing + noise)[:, None]
    found = residual_structure(x, torch.tensor(x["a"].to_numpy(copy=True))[:, None], residuals)
    assert found.gain == pytest.approx(1 / 5, abs=0.03)
    assert found.observed.numpy() == pytest.approx(found.predicted.numpy(), abs=0.4)


def test_few_rows_or_constant_residuals_are_not_asked_and_unequal_lengths_are_refused():
    assert "too few" in judged(binary(1, learned=True, n=50)).summary
    _, x = rows(1)
    flat = Records(x, torch.zeros(300), torch.zeros(300), name="train")
    assert "constant" in judged(flat).summary
    with pytest.raises(InputError, match="residuals"):
        residual_structure(x, torch.zeros(299, 1), torch.zeros(300, 1))


@pytest.mark.parametrize(("learned", "severity"), [(True, Severity.OK), (False, Severity.WARN)])
def test_several_quantities_of_any_unit_are_asked(learned, severity):
    rng, x = rows(9, 1500)
    truth = np.stack([x["a"] + 2 * x["b"].abs(), 1e4 * x["c"]], 1)
    said = truth if learned else np.stack([x["a"] + 1.6, 1e4 * x["c"]], 1)
    targets = torch.from_numpy(truth + rng.normal(size=(1500, 2)) * np.array([1.0, 1e4]))
    found = judged(Records(x, targets, torch.from_numpy(said), name="train"))
    assert found.severity is severity
    targets[::5, 0] = torch.nan
    partly = Records(x, targets, torch.from_numpy(said), name="train")
    assert judged(partly).severity is severity
    with pytest.raises(InputError, match="one output per quantity"):
        Records(x, targets[:, 1], torch.from_numpy(said), name="train")


def test_labels_that_are_missing_have_no_residual():
    rng, x = rows(10, 1500)
    logits = np.stack([2 * x["a"], 4 * x["b"].abs() - 3], 1)
    targets = torch.from_numpy((rng.random((1500, 2)) < 1 / (1 + np.exp(-logits))).astype("int64"))
    targets[::3, 1] = -100
    schema = Schema(multilabel=True)
    sides = (logits, np.stack([2 * x["a"], 0 * x["b"]], 1))
    levels = [
        judged(Records(x, targets, torch.from_numpy(side), None, schema, "train")).severity
        for side in sides
    ]
    assert levels == [Severity.OK, Severity.WARN]

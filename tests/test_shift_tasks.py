"""`shift`: every check answers every task, or says in one line why not; quantities and labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.checks.evidence import png
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.shift import change_kinds
from gendebug_torch.shift.checks.concept_drift import labels_follow_the_score_as_before
from gendebug_torch.shift.checks.confidence import confidence_keeps_its_distribution
from gendebug_torch.shift.checks.estimated_accuracy import accuracy_is_expected_to_hold
from gendebug_torch.shift.checks.label_shift import classes_keep_their_shares
from gendebug_torch.shift.checks.over_time import production_stays_the_same_over_time
from gendebug_torch.shift.scores.estimated_error import estimated_error
from gendebug_torch.shift.scores.score_relation import error_change

CHECKS = {check.name: check for check in all_checks() if check.name.startswith("shift.")}
TASKS = ("binary", "multiclass", "multilabel", "quantity", "quantities")


def drawn(task, seed, n=900, *, drift=0.0, noise=1.0, moved=0.0, missing=0.0, factor=1.0):
    """A model that knows the rule; labels of region w may drift, their noise or the inputs grow."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    table["a"] += moved
    table["amount"] = rng.lognormal(3.0, 1.0, n)
    table["region"] = rng.choice(["u", "v", "w"], n)
    rule = (1.5 * table["a"] - table["b"] + 0.5 * np.log(table["amount"]) - 1.5).to_numpy()
    turned = drift * (table["region"] == "w").to_numpy()
    k = {"binary": 1, "quantity": 1}.get(task, 3)
    weights = np.random.default_rng(7).normal(size=(4, k))
    outputs = rule[:, None] if k == 1 else table[list("abcd")].to_numpy() @ weights
    first = np.eye(1, k) * turned[:, None]
    if task.startswith("quantit"):
        spread = 0.5 * noise * np.exp(0.4 * table["a"].to_numpy())[:, None]
        answers = outputs + first + spread * rng.normal(size=(n, k))
    elif task == "multiclass":
        answers = (outputs + first + rng.gumbel(size=(n, k))).argmax(1)[:, None]
    else:
        answers = (rng.random((n, k)) < 1 / (1 + np.exp(-outputs - first))).astype(np.int64)
    targets = torch.from_numpy(answers)
    gone = torch.from_numpy(rng.random(answers.shape) < missing)
    targets = targets.masked_fill(gone, torch.nan if targets.is_floating_point() else -100)
    single = k == 1 or task == "multiclass"
    schema = Schema(
        time="day", regression=task.startswith("quantit"), multilabel=task == "multilabel"
    )
    return Records(
        table.assign(amount=factor * table["amount"]),
        targets[:, 0] if single else targets,
        torch.from_numpy(outputs[:, 0].copy() if k == 1 else outputs),
        pd.DataFrame({"day": np.arange(n, dtype=float)}),
        schema,
        "validation" if seed < 100 else "production",
    )


def pair(task, seed=0, **changes):
    missing = changes.get("missing", 0.0)
    return {
        "validation": drawn(task, seed, missing=missing),
        "production": drawn(task, seed + 100, **changes),
    }


@pytest.mark.parametrize(
    ("task", "labels"),
    [(task, "some") for task in TASKS] + [(task, "none") for task in TASKS[2:4]],
)
def test_every_check_answers_every_task_or_says_why_not(task, labels):
    given = pair(task, missing=0.3 if labels == "some" else 0.0)
    if labels == "none":
        given["production"] = replace(given["production"], targets=None)
    for name, check in CHECKS.items():
        findings = check.run(given)
        assert findings
        for finding in findings:
            assert finding.severity is not Severity.ERRORED, finding.numbers["traceback"]
            assert finding.severity.level < Severity.WARN.level, (name, finding.summary)
            assert "\n" not in finding.summary
            quantities = task.startswith("quantit")
            assert not (quantities and "probability" in finding.summary), finding.summary


@pytest.mark.parametrize("task", ["multilabel", "quantity", "quantities"])
def test_drift_of_labels_at_the_same_inputs_is_concept_drift(task):
    given = pair(task, drift=2.5 if task == "multilabel" else 1.5)
    assert change_kinds(given["production"], given["validation"]).kinds == ("concept_drift",)
    (finding,) = labels_follow_the_score_as_before.run(given)
    assert finding.cause is Cause.CONCEPT_DRIFT
    assert finding.severity.level >= Severity.WARN.level
    assert ("label 0" if task == "multilabel" else "output 0") in finding.summary
    assert finding.numbers["comparisons"] == {"multilabel": 3, "quantity": 2}.get(task, 6)
    png(finding.evidence)


def test_more_noise_at_the_same_prediction_is_concept_drift_too():
    (finding,) = labels_follow_the_score_as_before.run(pair("quantity", noise=1.6))
    assert finding.severity.level >= Severity.WARN.level
    assert "mean size of the error" in finding.summary


def test_the_error_given_the_prediction_is_level_without_a_change_and_moves_with_one():
    def change(seed, offset=0.0, noise=1.0):
        x = torch.randn(1400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rng = np.random.default_rng(seed)
        y = 3 * x + torch.from_numpy(rng.standard_t(3, 1400)) * (1 + x.abs())
        live = 3 * x[800:] + offset + noise * (y[800:] - 3 * x[800:])
        return error_change(x[:800], y[:800], x[800:], live)

    level = [change(seed).p_value for seed in range(100)]
    assert sum(p < 0.05 for p in level) <= 12, "P(more than 12 of 100 at 5 %) is under 0.2 %"
    moved = change(0, offset=1.5)
    assert moved.event == "mean error of the target"
    assert moved.direction * moved.unit == pytest.approx(1.5, rel=0.2)
    assert moved.p_value < 1e-6
    assert change(0, noise=2.0).event == "mean size of the error of the target"
    assert error_change(*(torch.zeros(30) for _ in range(4))) is None


def test_a_network_that_was_always_right_is_judged_where_it_no_longer_is():
    rng = np.random.default_rng(0)
    sides = {}
    for name in ("validation", "production"):
        table = pd.DataFrame(rng.normal(size=(1500, 3)), columns=list("abc"))
        y = (table["a"] > 0).to_numpy()
        if name == "production":
            y = y ^ (rng.random(1500) < 0.3)
        logits = torch.from_numpy(20 * table["a"].to_numpy())
        sides[name] = Records(table, torch.from_numpy(y.astype(np.int64)), logits, name=name)
    (finding,) = labels_follow_the_score_as_before.run(sides)
    assert finding.severity is Severity.FAIL


@pytest.mark.parametrize("task", ["multilabel", "quantity", "quantities"])
def test_outputs_that_shifted_are_named_and_are_no_probabilities(task):
    (finding,) = confidence_keeps_its_distribution.run(pair(task, moved=1.5))
    assert finding.severity.level >= Severity.WARN.level
    assert finding.cause is Cause.COVARIATE_SHIFT
    word = "score" if task == "multilabel" else "prediction"
    assert word in finding.summary
    assert "probability" not in finding.summary
    png(finding.evidence)


def test_targets_are_counted_and_their_shift_is_explained():
    (moved,) = classes_keep_their_shares.run(pair("quantity", moved=1.5))
    assert moved.severity is Severity.NOTE
    assert "the inputs shifted too" in moved.summary
    (drifted,) = classes_keep_their_shares.run(pair("multilabel", drift=3.0))
    assert "label 0" in drifted.summary
    assert "concept_drift" in drifted.summary
    given = pair("quantity")
    given["production"] = replace(given["production"], targets=None)
    (unknown,) = classes_keep_their_shares.run(given)
    assert unknown.summary.startswith("Not judged")


def test_labels_that_are_missing_one_by_one_leave_out_no_whole_rows():
    given = pair("multilabel", missing=0.3)
    (finding,) = labels_follow_the_score_as_before.run(given)
    assert finding.numbers["n"] > 0.6 * 900, "of whole rows a third is left"
    (estimate,) = accuracy_is_expected_to_hold.run(given)
    assert estimate.numbers["labels"] == 3


def test_an_error_without_labels_is_near_the_counted_one_where_inputs_shifted():
    given = pair("quantity", moved=1.0)
    found = accuracy_is_expected_to_hold.run(given)
    assert found[0].severity is Severity.WARN
    numbers = found[0].numbers
    assert numbers["low"] < numbers["counted"] < numbers["high"]
    assert numbers["counted"] > 1.2 * numbers["before"]
    assert "may be wrong, since inputs shifted: a" in found[0].summary
    png(found[0].evidence)


def test_intervals_of_the_error_hold_the_truth_under_their_assumption():
    held = 0
    for seed in range(40):
        before, after = drawn("quantity", seed, 500), drawn("quantity", seed + 100, 500, moved=0.7)
        many = drawn("quantity", seed + 200, 8000, moved=0.7)
        truth = float((many.targets - many.logits).abs().mean())
        found = estimated_error(
            *(part[:, None] for part in (before.logits, before.targets, after.logits)),
            features=(before.features, after.features),
        )
        low, high = found.interval(0)
        held += low <= truth <= high
    assert held >= 32, "P(fewer than 32 of 40 at 92 %) is under 0.5 %"


@pytest.mark.parametrize("task", ["multilabel", "quantity"])
def test_a_break_of_the_loss_in_time_is_dated(task):
    live, late = drawn(task, 100, 1500), drawn(task, 100, 1500, drift=4.0)
    targets = late.targets.clone()
    if task == "multilabel":
        targets[:, 0] = 1 - live.targets[:, 0]
    rows = (torch.arange(1500) >= 900).reshape(-1, *[1] * (live.targets.ndim - 1))
    broken = replace(live, targets=torch.where(rows, targets, live.targets))
    (finding,) = production_stays_the_same_over_time.run({"production": broken})
    assert finding.severity.level >= Severity.WARN.level
    assert finding.cause is Cause.CONCEPT_DRIFT
    assert finding.numbers["low"] - 100 <= 900 <= finding.numbers["high"] + 100
    (quiet,) = production_stays_the_same_over_time.run({"production": live})
    assert quiet.severity is Severity.OK


def test_labels_of_a_quantity_decide_whether_a_column_is_computed_differently():
    given = pair("quantity", factor=100.0)
    (finding, *_) = CHECKS["shift.serving_skew"].run(given)
    assert finding.subject == "amount"
    offset = drawn("quantity", 100)
    offset = replace(offset, features=offset.features.assign(a=offset.features["a"] + 1.0))
    kinds = change_kinds(offset, given["validation"])
    assert kinds.feature("a").kind == "train_serve_skew"
    assert "labels follow the original value" in kinds.feature("a").description
    moved = change_kinds(drawn("quantity", 100, moved=1.0), given["validation"])
    assert moved.feature("a").kind == "covariate_shift"

"""Classes as slices: one that collapses is named, with what it is called now."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.slices.checks._slicing import slicing_columns
from gendebug_torch.slices.confusion import confusion_change, precision_sums

CHECKS = {check.name: check for check in all_checks()}


def side(seed, k=10, n=3000, fall=None, attract=None, shares=None, columns=True, schema=None):
    """A classifier that is right in nine of ten rows of each class; one may fall, or attract."""
    rng = np.random.default_rng(seed)
    y = rng.choice(k, n, p=shares)
    wrong = rng.random(n) < 0.1
    predicted = np.where(wrong, (y + rng.integers(1, k, n)) % k, y)
    if fall is not None:
        lost = (y == fall) & (rng.random(n) < 0.88)
        predicted = np.where(lost, np.where(rng.random(n) < 0.9, 1, (y + 2) % k), predicted)
    if attract is not None:
        predicted = np.where(rng.random(n) < 0.12, attract, predicted)
    logits = 0.3 * rng.normal(size=(n, k))
    # Right predictions and wrong ones are as certain as each other in every class.
    logits[np.arange(n), predicted] += rng.uniform(2.0, 5.0, n)
    features = torch.zeros(n, 3, 4, 4)
    if columns:
        features = pd.DataFrame({"a": rng.normal(size=n), "b": rng.choice(list("xyz"), n)})
    parts = (torch.from_numpy(y), torch.from_numpy(logits))
    return Records(features, *parts, schema=schema or Schema())


def collapsed(*records):
    found = CHECKS["slices.collapse"](*records)
    return [finding for finding in found if finding.severity.level >= Severity.WARN.level]


@pytest.mark.parametrize("columns", [True, False], ids=["table", "images"])
def test_a_class_that_collapses_is_named_with_what_it_became(columns):
    for seed in range(3):
        (finding,) = collapsed(side(seed, columns=columns), side(seed + 9, fall=7, columns=columns))
        assert finding.subject == "true class = 7"
        assert finding.severity is Severity.FAIL
        numbers = finding.numbers
        assert numbers["confused_with"] == "1"
        assert numbers["confused_share"] == pytest.approx(0.8, abs=0.08)
        assert finding.summary.startswith("Class 7 fell: 1")
        assert "is now called 1" in finding.summary
        first = finding.evidence.table().iloc[0]
        assert first["true class"] == "7"
        assert first["share_after"] - first["share_before"] > 0.6
        assert finding.evidence.plot().get_title() == "What became what"


def test_classes_go_by_their_names():
    schema = Schema(classes=[f"kind {i}" for i in range(10)])
    (finding,) = collapsed(side(0, schema=schema), side(1, fall=7, schema=schema))
    assert finding.subject == "true class = kind 7"
    assert "now called kind 1" in finding.summary


def test_a_class_that_attracts_predictions_is_named():
    found = collapsed(side(0), side(1, attract=3))
    assert found[0].subject == "predicted class = 3"
    assert found[0].summary.startswith("Predictions of class 3 fell")


@pytest.mark.parametrize("k", [3, 10])
def test_other_class_shares_are_no_collapse(k):
    shares = np.linspace(0.1, 1.0, k)
    for seed in range(8):
        assert collapsed(side(seed, k=k), side(seed + 90, k=k, shares=shares / shares.sum())) == []


def test_a_fall_of_all_classes_is_no_class():
    rng = np.random.default_rng(0)
    after = side(1)
    shuffled = torch.from_numpy(rng.random(len(after)) < 0.5)
    targets = torch.where(shuffled, after.targets[rng.permutation(len(after))], after.targets)
    assert collapsed(side(0), Records(after.features, targets, after.logits)) == []


def test_hundreds_of_classes_are_each_asked():
    (finding,) = collapsed(side(0, k=200, n=20_000), side(1, k=200, n=20_000, fall=77))
    assert finding.subject == "true class = 77"


def test_a_class_that_is_predicted_wrongly_in_one_column_is_found_in_validation():
    records = side(0, n=4000)
    predicted = records.logits.argmax(1)
    inside = (predicted == 4) & torch.tensor((records.features["b"] == "y").to_numpy())
    turned = torch.where(inside, (records.targets + 5) % 10, records.targets)
    broken = Records(records.features, turned, records.logits)
    found = [f for f in CHECKS["slices.worst"](broken) if f.severity.level >= 2]
    assert found[0].subject == "predicted class = 4 and b = y"
    assert [f.severity for f in CHECKS["slices.worst"](records)] == [Severity.OK]


def test_precision_is_expected_under_the_class_shares_of_production():
    true = torch.tensor([0] * 90 + [1] * 10)
    predicted = torch.tensor([0] * 81 + [1] * 9 + [1] * 10)
    later = torch.tensor([0] * 99 + [1])
    sums = precision_sums((predicted, true), (later, later), 2)
    rate = sums[0][:, 1] / sums[0][:, 0]
    # Of 1,000 rows with the later shares, 99 of class 0 and 10 of class 1 are called 1.
    assert rate.tolist() == pytest.approx([0.0, 99 / 109])
    assert sums[1].tolist() == [[99.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_cells_add_up():
    true, predicted = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 1])
    change = confusion_change((predicted, true), (predicted[2:], true[2:]), "abc")
    assert change.counts.sum(0).tolist() == [4, 2]
    assert change.confused(2) == (1, 0.5)
    assert change.confused(1, axis=1) == (2, 1.0)
    assert change.plot().get_xlabel() == "share of the true class"


def test_dates_as_text_are_no_subgroups():
    rng = np.random.default_rng(0)
    days = [f"2026-03-{i % 28 + 1:02d}" for i in range(3000)]
    sides = [side(0), side(1)]
    late = torch.tensor([day >= "2026-03-15" for day in days]) & torch.from_numpy(
        rng.random(3000) < 0.5
    )
    broken = torch.where(late, (sides[1].targets + 1) % 10, sides[1].targets)
    dated = [part.features.assign(day=days) for part in sides]
    assert (
        collapsed(
            Records(dated[0], sides[0].targets, sides[0].logits),
            Records(dated[1], broken, sides[1].logits),
        )
        == []
    )


@pytest.mark.parametrize(
    "codes", [["1", "2", "3"], ["01001", "02134", "90210"], ["may", "june", "x"]]
)
def test_texts_that_are_no_dates_are_sliced(codes):
    columns = slicing_columns(Records(pd.DataFrame({"code": codes})))
    assert list(columns) == ["code"]


@pytest.mark.parametrize(
    "dates",
    [
        ["2026-01-30", "2026-02-01"],
        ["30.01.2026", "01.02.2026"],
        ["2026-W05", "2026-W06"],
        ["2026-01-30T10:00:00", "2026-02-01T11:00:00"],
        [datetime.date(2026, 1, 30)] * 2,
    ],
)
def test_dates_in_any_form_are_not_sliced(dates):
    assert slicing_columns(Records(pd.DataFrame({"day": dates}))) is None

"""`shift`: no sentence contradicts another of the same page, or claims what was not compared."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.shift import change_kinds
from gendebug_torch.shift.checks.joint import columns_relate_as_before
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.serving_skew import inputs_are_computed_as_before
from gendebug_torch.stats.dependence.effective_sample_size import autocorrelation_time


def payments(seed, n, *, new=0.0, offset=0.0):
    """Fraud follows the amount's percentile and the merchant's risk; a merchant without history has
    the percentile 1 and the risk 0, as serving computes them."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "amount": rng.normal(size=n),
            "percentile": rng.random(n),
            "risk": rng.beta(2.0, 8.0, n) + offset,
            "age": rng.normal(40.0, 10.0, n),
        }
    )
    fresh = rng.random(n) < new
    table.loc[fresh, "risk"] = table.loc[fresh, "risk"] * 0.3
    score = table["amount"] + 6.0 * (table["percentile"] - 0.5) + 8.0 * (table["risk"] - 0.2)
    y = rng.random(n) < 1 / (1 + np.exp(-score.to_numpy()))
    table.loc[fresh, "percentile"] = 1.0
    return Records(table, torch.from_numpy(y.astype(np.int64)))


def test_a_column_that_moved_beside_one_that_is_stuck_is_judged_by_itself():
    for seed in range(3):
        kinds = change_kinds(payments(seed + 100, 2500, new=0.3), payments(seed, 2500))
        assert kinds.feature("percentile").kind == "train_serve_skew"
        assert "constant at 1" in kinds.feature("percentile").description
        assert kinds.feature("risk").kind == "covariate_shift"
        given = {
            "validation": payments(seed, 2500),
            "production": payments(seed + 100, 2500, new=0.3),
        }
        named = [f.subject for f in inputs_are_computed_as_before.run(given)]
        assert named == ["percentile"]


def test_a_column_that_labels_no_longer_follow_names_what_shifted_beside_it():
    live = payments(100, 2500, new=0.3)
    rng = np.random.default_rng(1)
    live.features["amount"] = rng.permutation(live.features["amount"].to_numpy()) + 1.0
    kinds = change_kinds(live, payments(0, 2500))
    text = kinds.feature("amount").description
    assert kinds.feature("amount").kind == "train_serve_skew"
    assert "nothing else" not in text
    assert "besides" not in text or ("percentile" in text and "risk" in text)


def in_time(rows, *, correlation):
    """Two columns that may be correlated, and one that changes a few times in the whole record."""
    rng = np.random.default_rng(rows)
    table = pd.DataFrame(rng.normal(size=(rows, 2)), columns=["a", "b"])
    table["b"] = correlation * table["a"] + np.sqrt(1 - correlation**2) * table["b"]
    table["weekend"] = np.sin(np.arange(rows) * 9 / rows) + 0.01 * rng.normal(size=rows)
    moments = pd.DataFrame({"t": np.arange(rows, dtype=float)})
    return Records(table, metadata=moments, schema=Schema(time="t"))


def test_a_changed_correlation_is_no_classifier_that_distinguishes_and_no_slow_column():
    (finding,) = columns_relate_as_before.run(
        {
            "validation": in_time(2001, correlation=0.0),
            "production": in_time(2000, correlation=0.35),
        }
    )
    assert finding.severity is Severity.WARN
    assert finding.summary.startswith("Columns relate in another way: the correlation of a and b")
    assert "a classifier does not distinguish" in finding.summary
    assert "weekend" not in finding.summary
    assert "slow" not in finding.numbers


def test_rows_in_time_are_judged_alike_by_every_check():
    """A column that swings once in the whole record shifts between its halves, by itself."""
    rows = 1500
    swing = np.sin(np.arange(2 * rows) * 1.2 * np.pi / rows) + 0.01 * np.random.default_rng(
        0
    ).normal(size=2 * rows)
    sides = [
        Records(
            pd.DataFrame({"swing": part, "a": np.random.default_rng(i).normal(size=rows)}),
            metadata=pd.DataFrame({"t": np.arange(rows) + i * rows}),
            schema=Schema(time="t"),
        )
        for i, part in enumerate(np.split(0.5 * swing, 2))
    ]
    findings = features_keep_their_distribution(sides[1], sides[0])
    assert all(f.severity.level < Severity.WARN.level for f in findings)
    assert change_kinds(sides[1], sides[0]).feature("swing") is None
    units = sides[1].features.assign(swing=100 * sides[1].features["swing"] + 300)
    live = Records(units, metadata=sides[1].metadata, schema=Schema(time="t"))
    assert change_kinds(live, sides[0]).feature("swing") is not None
    findings = features_keep_their_distribution(live, sides[0])
    (warned,) = [f for f in findings if f.severity.level >= Severity.WARN.level]
    assert "outside the whole range" in warned.summary
    assert warned.cause in (Cause.COVARIATE_SHIFT, Cause.TRAIN_SERVE_SKEW)


def test_the_autocorrelation_of_many_rows_is_that_of_a_part_and_of_spaced_rows():
    rows = 400_000
    noise = torch.randn(rows + 999, generator=torch.Generator().manual_seed(0))
    sums = torch.cat([torch.zeros(1), noise.double().cumsum(0)])
    columns = torch.stack(
        [noise[:rows].double(), sums[10 : rows + 10] - sums[:rows], sums[1000:] - sums[:rows]], 1
    )
    times = autocorrelation_time(columns)
    assert times[0] == 1.0
    assert float(times[1]) == pytest.approx(10.0, rel=0.1)
    assert float(times[2]) == pytest.approx(1000.0, rel=0.5), "its standard error is 23 %"

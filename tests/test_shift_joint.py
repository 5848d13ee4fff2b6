"""`shift`: all columns together, accuracy without labels, and change over time."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.checks.evidence import png
from gendebug_torch.errors import InputError
from gendebug_torch.shift import (
    DriftMonitor,
    change_point,
    estimated_accuracy,
    joint_shift,
    prepare_reference,
)
from gendebug_torch.shift.checks.estimated_accuracy import accuracy_is_expected_to_hold
from gendebug_torch.shift.checks.joint import columns_relate_as_before
from gendebug_torch.shift.checks.over_time import production_stays_the_same_over_time
from gendebug_torch.shift.two_sample.joint import slow_columns
from tests.contract.plants_shift import PLANTS


def samples(seed, n=600, d=6, rho=0.0):
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(n, d)) for _ in range(2)]
    sides[1][:, 1] = rho * sides[1][:, 0] + np.sqrt(1 - rho**2) * sides[1][:, 1]
    return [pd.DataFrame(side, columns=list("abcdef")[:d]) for side in sides]


def autocorrelated(seed, n=800, d=3, memory=0.95):
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(2 * n, d)) * np.sqrt(1 - memory**2)
    for t in range(1, 2 * n):
        steps[t] += memory * steps[t - 1]
    return torch.from_numpy(steps[:n]), torch.from_numpy(steps[n:])


def test_a_correlation_that_moved_is_named():
    shift = joint_shift(*samples(0, rho=0.6))
    assert set(shift.pairs.iloc[0][["one", "other"]]) == {"a", "b"}
    assert float(shift.pairs["p_holm"].iloc[0]) < 1e-9
    assert float(shift.pairs["after"].iloc[0]) == pytest.approx(0.6, abs=0.08)
    assert shift.p_value < 0.01
    assert set(list(shift.importance)[:2]) == {"a", "b"}
    assert len(shift.table())
    png(shift)


def test_correlation_only_shift_is_found_in_95_percent_at_its_stated_size():
    """Stated size: 1500 rows a side, 6 columns, a correlation that goes from 0 to 0.25."""
    found = sum(
        float(joint_shift(*samples(seed, 1500, rho=0.25), permutations=10).pairs["p_holm"].iloc[0])
        < 0.002
        for seed in range(20)
    )
    assert found == 20


@pytest.mark.parametrize("leading", ["ab", "a"], ids=["copies", "one"])
def test_columns_that_tell_the_same_are_named_together(leading):
    """Of an AUC near 1 nothing is lost without either of two copies, nor without noise."""
    before, after = samples(3, 400, 4)
    after["a"] += 5.0
    if leading == "ab":
        before["b"], after["b"] = (side["a"] + 0.1 * side["b"] for side in (before, after))
    sides = {"validation": Records(before), "production": Records(after)}
    (finding,) = diagnose(**sides, only="shift.joint").findings
    assert ("about as important as each other" in finding.summary) == (leading == "ab")
    assert sorted(finding.numbers["leading"]) == list(leading)


def test_no_difference_is_not_found():
    p = [joint_shift(*samples(seed, 200, 4), permutations=20) for seed in range(30)]
    assert sum(shift.p_value < 0.05 for shift in p) <= 5, (
        "P(more than 5 of 30 at 5 %) is under 0.4 %"
    )
    assert sum(float(shift.pairs["p_holm"].iloc[0]) < 0.05 for shift in p) <= 5
    assert all(not shift.importance for shift in p if shift.p_value >= 0.01)


def test_blocks_keep_autocorrelation_from_faking_a_shift():
    plain, blocked = [], []
    for seed in range(12):
        sides = autocorrelated(seed)
        plain.append(joint_shift(*sides, permutations=15).p_value)
        blocked.append(joint_shift(*sides, permutations=15, block=80).p_value)
    assert sum(p < 0.01 for p in plain) >= 8
    assert sum(p < 0.01 for p in blocked) <= 2


def test_time_ordered_records_are_permuted_in_blocks():
    schema = Schema(time="t")
    sides = [
        Records(
            pd.DataFrame(side.numpy()).rename(columns=str),
            metadata=pd.DataFrame({"t": range(len(side))}),
            schema=schema,
            name=name,
        )
        for side, name in zip(autocorrelated(3), ("validation", "production"), strict=True)
    ]
    (finding,) = columns_relate_as_before(sides[1], sides[0])
    assert finding.numbers["block"] == 32
    assert finding.severity is Severity.OK


def test_accuracy_without_labels_is_near_the_truth_where_its_assumption_holds():
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    hard = z[2000:] * 0.4
    truth = torch.multinomial(hard.softmax(1), 1, generator=generator)[:, 0]
    found = estimated_accuracy(z[:2000], y[:2000], hard, live_targets=truth)
    low, high = found.interval("confidence")
    assert low - 0.01 < found.counted[0] < high + 0.01
    assert found.drop("confidence")[0] > 0.1
    assert len(found.table()) == 5
    png(found)
    with pytest.raises(InputError, match="live_logits"):
        estimated_accuracy(z, y, z[:0])
    given = PLANTS["shift.estimated_accuracy"](0)
    (finding,) = accuracy_is_expected_to_hold(given["validation"], given["production"])
    assert finding.severity is Severity.WARN
    assert finding.numbers["counted"] < finding.numbers["before"] - 0.05


@pytest.mark.parametrize(
    ("change", "method"),
    [
        ("nothing", "confidence"),
        ("nothing", "threshold"),
        ("nothing", "classes"),
        ("inputs", "confidence"),
        ("shares", "classes"),
    ],
)
def test_intervals_of_accuracy_without_labels_hold_the_truth_where_their_assumption_does(
    change, method
):
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        z = (
            1.2
            + 2.0 * rng.normal(size=(2, 30_000))
            - np.array([[0.0], [1.2 if change == "inputs" else 0.0]])
        )
        y = rng.random(z.shape) < 1 / (1 + np.exp(-z))
        rows = np.arange(30_000)
        if change == "shares":
            rows = rng.permutation(
                np.concatenate([np.flatnonzero(y[1])[:3000], np.flatnonzero(~y[1])[:7000]])
            )
        logits, labels = (torch.from_numpy(side) for side in (z[1][rows], y[1][rows]))
        truth = float(((logits > 0) == labels).double().mean())
        found = estimated_accuracy(
            torch.from_numpy(z[0][:2000]), torch.from_numpy(y[0][:2000]).long(), logits[:2000]
        )
        low, high = found.interval(method)
        held += low <= truth <= high
    assert held >= 51, "P(fewer than 51 of 60 at 95 %) is under 0.3 %"


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: change_point(torch.zeros(30)), "values"),
        (lambda: change_point(torch.full((300,), torch.nan)), "values"),
        (lambda: joint_shift(torch.zeros(30, 2), torch.zeros(300, 2)), "live"),
        (
            lambda: joint_shift(torch.zeros(50, 2), torch.zeros(50, 2), permutations=3),
            "permutations",
        ),
        (lambda: DriftMonitor(prepare_reference(torch.zeros(3, 1)), alpha=0.0), "alpha"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}`"):
        call()


def test_change_point_level_place_and_kind():
    rng = np.random.default_rng(0)
    p = [change_point(torch.from_numpy(rng.normal(size=1000))).p_value for _ in range(200)]
    assert sum(value < 0.05 for value in p) <= 20
    assert min(p) > 1e-5
    memory = autocorrelated(0, 1000, 1, 0.5)[0][:, 0]
    assert change_point(memory).p_value > 0.002
    covered = 0
    for _ in range(40):
        values = torch.from_numpy(rng.normal(size=1500))
        values[900:] += 0.6
        found = change_point(values, name="loss")
        assert found.p_value < 1e-4
        assert found.sudden
        covered += found.low <= 900 <= found.high
    assert covered >= 38
    drifting = change_point(torch.from_numpy(rng.normal(size=1500) + np.linspace(0, 2, 1500)))
    assert drifting.sudden is False
    assert drifting.shape == "trend"
    assert change_point(torch.zeros(500)).p_value == 1.0
    png(found)
    assert len(found.table()) == 2


def test_the_monitor_keeps_its_error_rate_and_resumes():
    alarmed = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        monitor = DriftMonitor(
            prepare_reference(torch.randn(1000, 5, generator=generator)), alpha=0.05, min_effect=0.0
        )
        steps = [monitor.update(torch.randn(300, 5, generator=generator)) for _ in range(50)]
        alarmed += any(step.alarm for step in steps)
    assert alarmed <= 4
    again = DriftMonitor(monitor.reference)
    again.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    later = torch.randn(300, 5, generator=generator) + torch.tensor([0.0, 0.0, 0.6, 0.0, 0.0])
    assert again.update(later) == monitor.update(later)
    assert monitor.steps[-1].alarm
    assert monitor.steps[-1].feature == "column_2"
    assert not monitor.update(torch.zeros(0, 5)).alarm
    png(monitor)
    assert len(monitor.table()) == 52


def test_a_break_inside_production_is_dated():
    given = PLANTS["shift.over_time"](1)
    (finding,) = production_stays_the_same_over_time(given["production"])
    middle = len(given["production"]) // 2
    assert finding.numbers["low"] - 20 <= middle <= finding.numbers["high"] + 20
    assert finding.cause == "concept_drift"
    bare = Records(given["production"].features, logits=given["production"].logits)
    assert production_stays_the_same_over_time(bare)[0].severity is Severity.NOTE


def test_columns_slower_than_a_block_are_named_slowest_first_however_many_rows_there_are():
    rng = np.random.default_rng(0)
    for rows in (2500, 250_000):
        sides = []
        for _ in range(2):
            fast, slow, slowest = (
                np.interp(np.arange(rows), np.linspace(0, rows, knots), rng.normal(size=knots))
                for knots in (400, 12, 4)
            )
            columns = {"slow": slow, "fast": fast, "slowest": slowest, "code": slowest.round()}
            sides.append(pd.DataFrame(columns))
        assert slow_columns(*sides, 100, categorical=["code"]) == ["slowest", "slow"]


def test_rows_in_time_go_in_blocks_however_many_they_are():
    rng = np.random.default_rng(5)
    for rows in (2500, 90_000):
        sides = []
        for _ in range(2):
            walk = np.convolve(rng.normal(size=rows + 20), np.ones(20) / 20, mode="valid")[:rows]
            sides.append(torch.from_numpy(np.stack([walk, rng.normal(size=rows)], 1)))
        found = joint_shift(*sides, block=60)
        assert found.rows == (2500 if rows == 2500 else 2460, 2500 if rows == 2500 else 2460)
        assert found.p_value > 1e-4
    with pytest.raises(InputError, match="block"):
        joint_shift(*sides, block=3000)

"""`shift`: all columns together, accuracy without labels, splits, and change over time."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.checks.evidence import png
from gendebug_torch.errors import InputError
from gendebug_torch.shift import (
    DriftMonitor,
    change_point,
    compare_splits,
    estimated_accuracy,
    group_split,
    joint_shift,
    mmd_two_sample,
    prepare_reference,
    probe_judge,
    random_split,
    shifted_split,
    time_blocks,
    windowed_means,
)
from gendebug_torch.shift.checks.estimated_accuracy import accuracy_is_expected_to_hold
from gendebug_torch.shift.checks.joint import columns_relate_as_before
from gendebug_torch.shift.checks.over_time import production_stays_the_same_over_time
from gendebug_torch.stats.probe_network import design
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


def test_mmd_finds_shape_and_keeps_its_level():
    rng = np.random.default_rng(0)
    round_, square = (
        rng.normal(size=(300, 2)),
        rng.choice([-1.0, 1.0], size=(300, 2)) + 0.1 * rng.normal(size=(300, 2)),
    )
    value, p = mmd_two_sample(torch.from_numpy(round_), torch.from_numpy(square))
    assert p < 0.01
    points = np.concatenate([round_, square])
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    kernel = np.exp(-squared / np.median(squared[~np.eye(600, dtype=bool)]))
    expected = kernel[:300, :300].mean() + kernel[300:, 300:].mean() - 2 * kernel[:300, 300:].mean()
    assert value == pytest.approx(expected, rel=0.01)
    null = [
        mmd_two_sample(
            torch.from_numpy(rng.normal(size=(60, 2))), torch.from_numpy(rng.normal(size=(50, 2)))
        )[1]
        for _ in range(60)
    ]
    assert sum(p < 0.1 for p in null) <= 13


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


def test_splits_do_what_they_say():
    days = (
        pd.Series(pd.date_range("2024-01-01", periods=40, tz="UTC").repeat(5))
        .sample(frac=1.0, random_state=0)
        .reset_index(drop=True)
    )
    for split in time_blocks(days, blocks=4):
        assert days.iloc[split.train.numpy()].max() < days.iloc[split.test.numpy()].min()
    gapped = time_blocks(torch.arange(100), blocks=5, gap=10)[0]
    assert int(gapped.test[0] - gapped.train[-1]) == 11
    groups = np.repeat(np.arange(50), 4)
    split = group_split(groups)
    assert not set(groups[split.train]) & set(groups[split.test])
    assert len(split.train) + len(split.test) == 200
    both = random_split(100)
    assert torch.equal(torch.cat([both.train, both.test]).sort().values, torch.arange(100))
    rows = torch.arange(100)
    for whole in (pd.DataFrame({"x": rows}), rows, torch.utils.data.TensorDataset(rows)):
        parts = both.of(whole)
        assert [len(part) for part in parts] == [80, 20]
    assert int(parts[1][3][0]) == int(both.test[3])


def test_a_shifted_split_finds_the_region_the_source_and_the_old():
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(1000, 3)), columns=list("abc"))
    like = x.sample(400, random_state=1).assign(a=lambda frame: frame["a"] + 2)
    split = shifted_split(x, like=like)
    assert x["a"].iloc[split.test.numpy()].mean() > x["a"].iloc[split.train.numpy()].mean() + 1
    source = np.where(
        np.arange(1000) < 200, "north", np.where(np.arange(1000) < 600, "south", "east")
    )
    x.loc[source == "north", "b"] += 2
    assert shifted_split(x, source=source).name == "source north"
    assert shifted_split(x, time=np.arange(1000)[::-1]).test.sort().values.tolist() == list(
        range(800, 1000)
    )


def test_the_season_that_differs_most_is_left_out():
    days = pd.Series(pd.date_range("2023-01-01", "2024-12-31", tz="UTC"))
    rng = np.random.default_rng(0)
    x = pd.DataFrame(
        {
            "heat": rng.normal(size=len(days)) + 3.0 * days.dt.month.isin([6, 7, 8]),
            "b": rng.normal(size=len(days)),
        }
    )
    split = shifted_split(x, season=days)
    assert split.name == "season summer"
    assert set(days.iloc[split.test.numpy()].dt.month) == {6, 7, 8}
    assert not set(days.iloc[split.train.numpy()].dt.month) & {6, 7, 8}


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_judges_of_numbers_and_of_classes_have_honest_errors(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    y = 2 * x[:, 0] + rng.normal(size=4000)
    targets = torch.from_numpy(y if kind == "numbers" else np.digitize(y, [-1, 1]))
    judge = probe_judge(torch.from_numpy(x), targets)
    train, parts = torch.arange(2000), torch.arange(2000, 4000).split(100)
    told = torch.tensor([judge(train, part) for part in parts], dtype=torch.float64)
    assert told[:, 0].mean() > 0.6
    assert float(told[:, 1].mean()) == pytest.approx(float(told[:, 0].std()), rel=0.4)


def test_a_random_split_flatters_where_groups_repeat():
    rng = np.random.default_rng(0)
    customers = rng.integers(0, 60, 1200)
    traits = rng.normal(size=(60, 3))
    x = pd.DataFrame(traits[customers] + 0.02 * rng.normal(size=(1200, 3)), columns=list("abc"))
    y = torch.from_numpy(rng.integers(0, 2, 60)[customers])
    found = compare_splits([random_split(1200), group_split(customers)], probe_judge(x, y))
    assert found.flattery > 0.15
    assert len(found.table()) == 2
    png(found)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: time_blocks(pd.Series([None, pd.Timestamp(0)])), "time"),
        (lambda: time_blocks(["not", "a time"]), "time"),
        (lambda: time_blocks([1.0] * 50), "time"),
        (lambda: time_blocks(range(50), blocks=1), "blocks"),
        (lambda: group_split(["a"] * 5), "groups"),
        (lambda: group_split(["a", "b"], share=0.0), "share"),
        (lambda: shifted_split(torch.zeros(5, 2)), "like, source, time, season"),
        (lambda: shifted_split(torch.zeros(5, 2), season=[1, 2, 3, 4, 5]), "season"),
        (lambda: shifted_split(torch.zeros(5, 2), season=["2024-07-01"] * 5), "season"),
        (lambda: shifted_split(torch.zeros(5, 2), source=["a"] * 5), "source"),
        (lambda: change_point(torch.zeros(30)), "values"),
        (lambda: change_point(torch.full((300,), torch.nan)), "values"),
        (lambda: joint_shift(torch.zeros(30, 2), torch.zeros(300, 2)), "live"),
        (
            lambda: joint_shift(torch.zeros(50, 2), torch.zeros(50, 2), permutations=3),
            "permutations",
        ),
        (lambda: mmd_two_sample(torch.zeros(30, 2), torch.zeros(30, 3)), "live"),
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
    assert drifting.shape == "wander"
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


def test_windows_set_causes_beside_the_impact():
    table = windowed_means(
        {"loss": torch.arange(100.0), "amount": torch.ones(100)}, range(100), windows=4
    )
    assert table[("loss", "mean")].tolist() == [12.0, 37.0, 62.0, 87.0]
    assert table[("rows", "")].tolist() == [25] * 4


def test_a_break_inside_production_is_dated():
    given = PLANTS["shift.over_time"](1)
    (finding,) = production_stays_the_same_over_time(given["production"])
    middle = len(given["production"]) // 2
    assert finding.numbers["low"] - 20 <= middle <= finding.numbers["high"] + 20
    assert finding.cause == "concept_drift"
    bare = Records(given["production"].features, logits=given["production"].logits)
    assert production_stays_the_same_over_time(bare)[0].severity is Severity.NOTE


def test_a_design_serves_mmd():
    first, second = samples(0, 100, 3)
    built = design(first, second).values
    assert mmd_two_sample(built[:100], built[100:], permutations=50)[1] > 0.01


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

"""Slices that collapsed between two tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.errors import InputError
from gendebug_torch.slices import slice_change
from gendebug_torch.slices.statistics.odds_rise import log_p_of_odds_rise
from tests.reference import slices as reference

COLLAPSE = {check.name: check for check in all_checks()}["slices.collapse"]


def side(seed, n=20_000, rate=0.1, inside_rate=None, name="validation"):
    """Rows with an event; in `country = B and device = ios` its rate may be another."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "country": rng.choice(list("ABCDE"), n),
            "device": rng.choice(["ios", "android", "web"], n),
            "x": rng.normal(size=n),
        }
    )
    inside = np.array((frame["country"] == "B") & (frame["device"] == "ios"))
    p = np.full(n, rate) if np.isscalar(rate) else rate(frame)
    event = rng.random(n) < np.where(inside, p if inside_rate is None else inside_rate, p)
    return frame, torch.from_numpy(event)


@pytest.mark.parametrize("ratio", [0.7, 1.0, 2.5])
@pytest.mark.parametrize(
    ("before", "after"),
    [((200, 20), (150, 45)), ((60, 3), (80, 20)), ((500, 10), (40, 9)), ((100, 60), (120, 112))],
)
def test_the_rise_has_the_tail_of_fishers_noncentral_distribution(before, after, ratio):
    """With so many rows outside that their odds ratio is known."""
    outside = 10_000_000
    hits = round(outside * 0.1 * ratio / (0.9 + 0.1 * ratio))
    total = torch.tensor(
        [[outside + before[0], outside // 10 + before[1]], [outside + after[0], hits + after[1]]]
    )
    ours = float(log_p_of_odds_rise(torch.tensor([before]), torch.tensor([after]), total))
    exact = math.log(
        reference.noncentral_tail(after[1], before[1] + after[1], before[0], after[0], ratio)
    )
    assert exact * 1.01 - 0.02 <= ours <= 0.8 * exact if ours < 0 else exact > math.log(0.35)


def test_few_rows_outside_leave_the_rise_in_doubt():
    inside = torch.tensor([[200, 20]]), torch.tensor([[200, 50]])
    sure, unsure = (
        float(log_p_of_odds_rise(*inside, torch.tensor([[n + 200, k + 20], [n + 200, k + 50]])))
        for n, k in ((100_000, 10_000), (50, 5))
    )
    assert sure < 3 * unsure < 0


def test_a_collapsed_slice_is_named_while_the_whole_hardly_moves():
    change = slice_change(*side(0), *side(1, inside_rate=0.3))
    assert change.names[0] == "country = B and device = ios"
    assert abs(change.overall_change) < 0.03
    assert float(change.change[0]) > 0.15
    assert 0.5 < float(change.share_of_rise[0]) < 2.0
    assert len(change) <= 2


def losses(seed, n=8000, scale=1.0, inside_scale=None, name="validation"):
    """Absolute errors that depend on x, and on `country = B and device = ios` where it is asked."""
    frame, _ = side(seed, n)
    rng = np.random.default_rng(seed + 1000)
    inside = np.array((frame["country"] == "B") & (frame["device"] == "ios"))
    spread = scale * np.where(frame["x"] > 0, 2.0, 1.0)
    spread = np.where(inside, inside_scale or 1.0, 1.0) * spread
    return frame, torch.from_numpy(np.abs(spread * rng.standard_t(5, n)))


def test_a_slice_whose_loss_grew_is_named():
    change = slice_change(*losses(0), *losses(1, inside_scale=2.0), alpha=0.002)
    assert change.names == ("country = B and device = ios",)
    assert not change.is_count
    assert float(change.factor[0]) == pytest.approx(2.0, rel=0.15)
    low, high = change.interval()
    assert float(low[1, 0]) < float(change.rates[1, 0]) < float(high[1, 0])
    assert change.plot().get_xlabel() == "error (95 % interval)"


def test_a_loss_that_grew_everywhere_names_no_slice():
    loud = [
        len(slice_change(*losses(seed), *losses(seed + 50, scale=3.0), alpha=0.01))
        for seed in range(25)
    ]
    assert sum(map(bool, loud)) <= 1


def test_of_many_levels_the_most_changed_are_paired():
    rng = np.random.default_rng(0)
    sides = []
    for late in (False, True):
        frame = pd.DataFrame(rng.normal(size=(2000, 400))).add_prefix("x")
        inside = late & (frame["x3"] > 0.6) & (frame["x5"] > 0.6)
        sides += [frame, torch.from_numpy(rng.random(2000) < np.where(inside, 0.9, 0.1))]
    change = slice_change(*sides, alpha=0.002)
    assert "x3" in change.names[0]
    assert "x5" in change.names[0]
    assert change.tests > 1_000_000


def test_a_rise_of_the_whole_names_no_slice():
    """Twice the odds everywhere is many more points where errors are frequent: no slice of its
    own."""

    def rate(odds):
        return lambda frame: 1 / (1 + np.exp(-(frame["x"].to_numpy() - 2.5 + np.log(odds))))

    loud = sum(
        len(slice_change(*side(seed, rate=rate(1)), *side(seed + 100, rate=rate(2)), alpha=0.002))
        > 0
        for seed in range(10)
    )
    assert loud == 0


@pytest.mark.parametrize("size", [0, 1, 40])
def test_few_rows_name_nothing(size):
    frame, event = side(0, n=size)
    change = slice_change(*side(1, n=500), frame, event)
    assert len(change) == 0
    assert change.table().empty
    assert change.plot().get_title()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ways": 3}, "`ways`"),
        ({"live_event": torch.zeros(3)}, "`live_event`"),
        ({"live_event": torch.full((100,), -1.0)}, "`live_event`.*at least 0"),
    ],
)
def test_bad_input(arguments, words):
    frame, event = side(0, n=100)
    given = {
        "reference": frame,
        "reference_event": event,
        "live": frame,
        "live_event": event,
    } | arguments
    with pytest.raises(InputError, match=words):
        slice_change(**given)


def fraud(seed, blind, n=12_000):
    """A model that ranks well; in production it may be blind to the positives of one channel, 8 %
    of the rows."""
    rng = np.random.default_rng(seed)
    metadata = pd.DataFrame(
        {
            "channel": rng.choice(["web", "shop", "phone"], n, p=[0.5, 0.42, 0.08]),
            "day": rng.integers(0, 7, n),
        }
    )
    targets = rng.random(n) < 0.2
    logits = rng.normal(np.where(targets, 2.0, -2.0), 1.2)
    unseen = (metadata["channel"] == "phone").to_numpy() & targets & (rng.random(n) < blind)
    logits[unseen] -= 4.0
    return Records(
        None,
        torch.from_numpy(targets.astype(int)),
        torch.from_numpy(logits),
        metadata,
        name="production",
    )


def test_a_recall_that_falls_in_one_channel_behind_a_good_auc():
    from sklearn.metrics import roc_auc_score

    before, after = fraud(0, 0.0), fraud(1, 0.2)
    auc = [roc_auc_score(records.targets, records.logits) for records in (before, after)]
    assert auc[0] - auc[1] < 0.02
    alarms = [
        finding
        for finding in COLLAPSE(before, after)
        if finding.severity.level >= Severity.WARN.level
    ]
    assert [finding.subject for finding in alarms] == ["channel = phone"]
    assert alarms[0].numbers["event"] == "false negative"
    assert alarms[0].numbers["change"] > 0.1
    assert abs(alarms[0].numbers["change_overall"]) < 0.03


def test_production_without_that_column_or_labels_is_no_collapse():
    before, after = fraud(0, 0.0), fraud(1, 0.0)
    bare = Records(None, after.targets, after.logits, after.metadata[["day"]], name="production")
    assert max(finding.severity.level for finding in COLLAPSE(before, bare)) < Severity.WARN.level
    unlabeled = Records(None, None, after.logits, after.metadata, name="production")
    assert (
        COLLAPSE.run({"validation": before, "production": unlabeled})[0].severity
        is Severity.SKIPPED
    )


def test_half_of_production_and_a_period_of_time_are_no_subgroups():
    before, after = fraud(0, 0.0), fraud(1, 0.0)
    rng = np.random.default_rng(2)
    late = torch.arange(len(after)) >= len(after) // 3
    broken = torch.where(
        late & torch.from_numpy(rng.random(len(after)) < 0.6), -after.logits, after.logits
    )
    times = pd.date_range("2026-01-01", periods=len(after), freq="min")
    sides = [
        Records(
            None,
            records.targets,
            logits,
            records.metadata.assign(when=times, step=np.arange(len(after)), late=late.numpy()),
            Schema(time="step"),
            name,
        )
        for records, logits, name in (
            (before, before.logits, "validation"),
            (after, broken, "production"),
        )
    ]
    assert [finding.severity for finding in COLLAPSE(*sides)] == [Severity.OK]


def channels(seed, rates, task, n=6000):
    """Rows of three channels, each with an error rate, or with an absolute error, of its own."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(3, n, p=[0.45, 0.3, 0.25])
    metadata = pd.DataFrame(
        {"channel": np.array(["web", "shop", "phone"])[channel], "day": rng.integers(0, 7, n)}
    )
    own = np.array(rates)[channel]
    if task == "regression":
        truth = torch.from_numpy(own * rng.normal(size=n))
        schema = Schema(regression=True)
        return Records(None, truth, torch.zeros(n, dtype=torch.float64), metadata, schema=schema)
    truth = torch.from_numpy(rng.integers(0, 3, n))
    said = torch.where(torch.from_numpy(rng.random(n) < own), (truth + 1) % 3, truth)
    logits = 4.0 * torch.nn.functional.one_hot(said, 3).double()
    return Records(None, truth, logits, metadata)


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("classes", (0.1, 0.1, 0.1), (0.1, 0.4, 0.28)),
        ("regression", (1.0, 1.0, 1.0), (1.0, 3.0, 1.8)),
    ],
)
def test_one_collapse_does_not_hide_another(task, before, after):
    findings = COLLAPSE.run(
        {"validation": channels(0, before, task), "production": channels(1, after, task)}
    )
    assert [f.subject for f in findings] == ["channel = shop", "channel = phone"]
    _, second = findings
    assert "all rows outside channel = shop" in second.summary
    shares = [finding.numbers["share_of_rise"] for finding in findings]
    assert sum(shares) == pytest.approx(1.0, abs=0.1)
    (quiet,) = COLLAPSE.run(
        {"validation": channels(0, before, task), "production": channels(2, before, task)}
    )
    assert quiet.severity is Severity.OK

"""The search: levels, sums, tails, ranking, merging, confirmation, bad input."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch.errors import InputError
from gendebug_torch.slices import confirmed_slices, find_slices, isotonic_rate
from gendebug_torch.slices.levels.binning import MISSING, OTHER, fit_binnings, level_codes
from gendebug_torch.slices.levels.counting import pair_sums, slice_pairs
from gendebug_torch.slices.search.find import slices_on
from gendebug_torch.slices.search.result import Slices
from gendebug_torch.slices.statistics.tails import log_upper_tail
from tests.reference import slices as reference


def table(seed, n=3000, columns=4, values="abcde"):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({f"c{i}": rng.choice(list(values), n) for i in range(columns)}), rng


def planted(seed, n=20_000, columns=6, rate=0.1, worse=0.2):
    """A two-way slice of 2 % of the rows in which the event is twice as frequent."""
    frame, rng = table(seed, n, columns, "abcdefghij")
    frame.loc[rng.random(n) < 0.0102, ["c0", "c1"]] = "a"
    inside = np.array((frame["c0"] == "a") & (frame["c1"] == "a"))
    return frame, torch.from_numpy(rng.random(n) < np.where(inside, worse, rate)), inside


def test_levels_of_every_kind_of_column():
    frame = pd.DataFrame(
        {
            "amount": [0.5, 1.5, 2.5, 3.5, np.nan, 5.5, 6.5, np.inf],
            "items": [1, 2, 3, 4, 5, 6, 7, 8],
            "when": pd.to_datetime(
                [
                    "2026-01-01",
                    "2026-01-02",
                    None,
                    "2026-01-04",
                    "2026-01-05",
                    "2026-01-06",
                    "2026-01-07",
                    "2026-01-08",
                ]
            ),
            "flag": [True, False] * 4,
            "kind": ["x", "x", "y", None, "z", "x", "y", "w"],
            "constant": 1,
        }
    )
    cuts = {binning.column: binning for binning in fit_binnings(frame, bins=2, max_levels=2)}
    assert set(cuts) == {"amount", "items", "when", "flag", "kind"}
    labels = {name: [level.label for level in binning.levels] for name, binning in cuts.items()}
    assert labels["items"] == ["up to 4", "above 4", MISSING]
    assert labels["kind"] == ["x", "y", OTHER, MISSING]
    assert labels["flag"] == ["False", "True", OTHER, MISSING]
    assert labels["when"][0].startswith("up to 2026-01-0")
    assert [labels["kind"][code] for code in cuts["kind"].codes(frame)] == [
        "x",
        "x",
        "y",
        MISSING,
        OTHER,
        "x",
        "y",
        OTHER,
    ]
    assert cuts["amount"].codes(frame).tolist() == [0, 0, 0, 1, 2, 1, 1, 1]
    assert cuts["when"].codes(frame)[2] == 2
    assert cuts["items"].codes(pd.DataFrame({"other": [1, 2]})).tolist() == [2, 2]


def test_whole_numbers_read_alike_as_int_and_float():
    frame = pd.DataFrame({"code": [3, 7, 3, 7]})
    (cut,) = fit_binnings(frame, categorical=["code"])
    assert cut.codes(pd.DataFrame({"code": [3.0, np.nan, 7.0, 9.0]})).tolist() == [0, 3, 1, 2]


def test_texts_among_numbers_are_refused_by_name():
    binnings = fit_binnings(pd.DataFrame({"x": np.arange(100.0)}))
    with pytest.raises(InputError, match=r"`x`: expected numbers, .*0\.4'7"):
        level_codes(pd.DataFrame({"x": ["1.5", "0.4'7"]}), binnings)


def test_sums_equal_counting_one_by_one():
    frame, rng = table(0, n=400, columns=3)
    frame.loc[::7, "c1"] = None
    weights = rng.random(400)
    levels, codes = level_codes(frame, fit_binnings(frame))
    rows, sums = pair_sums(codes, torch.from_numpy(weights)[None], len(levels))
    first, second = slice_pairs(levels, 2)
    count, weight = reference.pair_counts(
        [[str(levels[code]) for code in row] for row in codes.tolist()], weights
    )
    ours = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        members = tuple(
            sorted({(int(levels[place].column[1]), str(levels[place])) for place in (a, b)})
        )
        ours[members] = (int(rows[a, b]), float(sums[0, a, b]))
    for members, expected in count.items():
        assert ours[members][0] == expected
        assert ours[members][1] == pytest.approx(weight[members], rel=1e-5)
    assert sum(n for n, _ in ours.values()) == sum(count.values())


@pytest.mark.parametrize(
    ("size", "marked", "drawn"), [(1000, 100, 30), (1000, 500, 60), (5000, 50, 200), (300, 60, 90)]
)
@pytest.mark.parametrize("sd", [1, 3, 5])
def test_the_tail_bounds_fisher_from_above_and_closely(size, marked, drawn, sd):
    rate = marked / size
    mean, variance = drawn * rate, drawn * rate * (1 - rate) * (1 - drawn / size)
    hits = math.ceil(mean + sd * variance**0.5)
    most = min(drawn, marked)
    ours = math.exp(
        float(log_upper_tail(*(torch.tensor([value]) for value in (hits, most, mean, variance))))
    )
    exact = reference.hypergeometric_tail(hits, drawn, marked, size)
    assert exact <= ours * 1.005
    assert math.log10(ours) <= 0.9 * math.log10(exact)


@pytest.mark.parametrize("kind", ["equal", "mixed", "two kinds"])
@pytest.mark.parametrize("sd", [1, 3, 5])
def test_the_tail_bounds_unequal_events_from_above_and_closely(kind, sd):
    rng = np.random.default_rng(0)
    probs = {
        "equal": np.full(80, 0.3),
        "mixed": rng.beta(0.5, 3, 300),
        "two kinds": np.r_[np.full(100, 0.01), np.full(10, 0.9)],
    }[kind]
    mean, variance = probs.sum(), (probs * (1 - probs)).sum()
    hits = math.ceil(mean + sd * variance**0.5)
    ours = math.exp(
        float(
            log_upper_tail(*(torch.tensor([value]) for value in (hits, len(probs), mean, variance)))
        )
    )
    exact = reference.poisson_binomial_tail(probs, hits)
    assert exact <= ours * (1 + 1e-9)
    assert math.log10(ours) <= (0.9999 if kind == "equal" else 0.7) * math.log10(exact)


def test_the_tail_ranks_where_no_double_reaches():
    log_p = log_upper_tail(
        torch.tensor([9000, 9900, 10_000]),
        torch.full((3,), 10_000),
        torch.full((3,), 100.0),
        torch.full((3,), 99.0),
    )
    assert bool(log_p.isfinite().all())
    assert bool((log_p.diff() < 0).all())
    assert float(log_p[-1]) == pytest.approx(10_000 * math.log(0.01), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_isotonic_rate_equals_the_literal_fit(seed):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 25, 60) / 10
    events = rng.random(60) < score / 3
    ours = isotonic_rate(torch.from_numpy(score), torch.from_numpy(events))
    np.testing.assert_allclose(
        ours.numpy(), reference.isotonic(score.tolist(), events.astype(float).tolist()), atol=1e-12
    )
    assert float(ours.sum()) == pytest.approx(events.sum())


def test_a_monotone_distortion_of_the_score_changes_no_rate():
    rng = np.random.default_rng(1)
    logit = torch.from_numpy(rng.normal(size=500))
    events = torch.rand(500, generator=torch.Generator().manual_seed(0)) < logit.sigmoid()
    assert torch.equal(
        isotonic_rate(logit, events), isotonic_rate((3 * logit - 1).sigmoid(), events)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slice_ranks_first(seed):
    frame, event, inside = planted(seed)
    found = find_slices(frame, event)
    assert set(map(str, found.members[0])) == {"c0 = a", "c1 = a"}
    assert int(found.support[0]) == inside.sum()
    assert float(found.lift[0]) == pytest.approx(
        float(event[inside].double().mean() / event.double().mean())
    )
    assert torch.equal(found.mask(frame, 0), torch.from_numpy(inside))
    assert len(found) <= 3, "what contains it, or overlaps with it, is told once"


def test_null_data_is_quiet():
    loud = 0
    for seed in range(60):
        frame, rng = table(seed, n=2000)
        loud += len(find_slices(frame, torch.from_numpy(rng.random(2000) < 0.1))) > 0
    assert loud <= 6


def test_duplicates_are_merged():
    frame, event, _ = planted(0)
    frame["copy"] = frame["c0"].str.upper()
    found = find_slices(frame, event)
    assert len(found) <= 3
    told = {found.names[0], *found.aliases[0]}
    assert {"c0 = a and c1 = a", "c1 = a and copy = A"} <= told


def test_a_loss_can_be_sliced():
    frame, _, inside = planted(0)
    rng = np.random.default_rng(0)
    loss = torch.from_numpy(rng.exponential(np.where(inside, 2.0, 1.0)))
    loss[5] = 1e6
    found = find_slices(frame, loss, name="loss")
    assert set(map(str, found.members[0])) == {"c0 = a", "c1 = a"}
    low, high = found.interval()
    assert float(low[0]) < float(found.rate[0]) < float(high[0])
    assert "mean loss" in found.plot().get_xlabel()


def test_a_loss_is_compared_with_what_is_expected_of_it():
    frame, _, inside = planted(0)
    rng = np.random.default_rng(0)
    hard = np.where(frame["c2"] == "b", 3.0, 1.0)
    loss = torch.from_numpy(hard * rng.exponential(np.where(inside, 2.5, 1.0)))
    assert "c2 = b" in find_slices(frame, loss).names
    found = find_slices(frame, loss, expected=torch.from_numpy(hard), alpha=0.002)
    assert found.names == ("c0 = a and c1 = a",)
    assert float(found.lift[0]) == pytest.approx(2.5, rel=0.15)
    assert float(found.expected_rate[0]) == pytest.approx(hard[inside].mean())
    (again,) = confirmed_slices(
        frame, loss, expected=lambda at: torch.from_numpy(hard)[at], alpha=0.002
    ).names
    assert again == "c0 = a and c1 = a"


@pytest.mark.parametrize("draw", ["exponential", "lognormal", "one in fifty"])
def test_excess_losses_of_any_skewness_are_quiet_without_a_plant(draw):
    loud = 0
    for seed in range(40):
        frame, rng = table(seed, n=3000)
        loss = {
            "exponential": lambda rng=rng: rng.exponential(size=3000),
            "lognormal": lambda rng=rng: rng.lognormal(sigma=1.5, size=3000),
            "one in fifty": lambda rng=rng: np.where(rng.random(3000) < 0.02, 50.0, 0.1),
        }[draw]()
        loss = torch.from_numpy(loss)
        expected = loss.mean().expand(3000)
        loud += len(find_slices(frame, loss, expected=expected, alpha=0.05)) > 0
    assert loud <= 4


def test_three_levels_are_found_by_beam():
    frame, rng = table(0, n=20_000, columns=5)
    inside = ((frame["c0"] == "a") & (frame["c1"] == "b") & (frame["c2"] == "c")).to_numpy()
    event = torch.from_numpy(rng.random(20_000) < np.where(inside, 0.6, 0.1))
    found = find_slices(frame, event, ways=3)
    assert set(map(str, found.members[0])) == {"c0 = a", "c1 = b", "c2 = c"}
    assert found.tests > find_slices(frame, event).tests


def test_hard_is_not_failing():
    """Errors that the confidence owns up to are no excess; the same errors without its knowing
    are."""
    rng = np.random.default_rng(0)
    frame, _ = table(0, n=20_000)
    hard = (frame["c0"] == "a").to_numpy()
    rate = np.where(hard, 0.3, 0.05)
    event = torch.from_numpy(rng.random(20_000) < rate)
    knows, ignorant = torch.from_numpy(rate), torch.from_numpy(rng.random(20_000))
    assert find_slices(frame, event).names[0] == "c0 = a"
    assert len(find_slices(frame, event, expected=isotonic_rate(knows, event), alpha=0.002)) == 0
    assert (
        find_slices(frame, event, expected=isotonic_rate(ignorant, event), alpha=0.002).names[0]
        == "c0 = a"
    )


def test_a_slice_that_is_surer_than_all_others_cannot_hide():
    rng = np.random.default_rng(0)
    frame, _ = table(0, n=10_000)
    inside = (frame["c0"] == "a").to_numpy() & (rng.random(10_000) < 0.2)
    frame["batch"] = np.where(inside, "new", "old")
    confidence = np.where(inside, 12.0, rng.normal(3, 1, 10_000))
    event = torch.from_numpy(
        rng.random(10_000) < np.where(inside, 0.3, 1 / (1 + np.exp(np.minimum(confidence, 8))))
    )
    found = find_slices(
        frame, event, expected=isotonic_rate(torch.from_numpy(-confidence), event), alpha=0.002
    )
    assert found.names[0] == "batch = new"


def test_halves_confirm_and_do_not_flatter():
    frame, event, inside = planted(0)
    found = confirmed_slices(frame, event)
    assert set(map(str, found.members[0])) == {"c0 = a", "c1 = a"}
    assert int(found.support[0]) < inside.sum()
    assert found.overall[0] == len(frame) - len(frame) // 2
    again = slices_on(found, frame, event)
    assert int(again.support[0]) == inside.sum()
    assert len(confirmed_slices(frame, event, seed=1)) >= 1


def test_global_random_state_and_inputs_are_left_alone():
    frame, event, _ = planted(0, n=2000)
    kept, state = frame.copy(), torch.get_rng_state()
    confirmed_slices(frame, event)
    pd.testing.assert_frame_equal(frame, kept)
    assert torch.equal(state, torch.get_rng_state())


def test_a_column_of_a_million_values_costs_a_level():
    n = 200_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": [f"user-{i}" for i in range(n)], "kind": rng.choice(list("ab"), n)})
    event = torch.from_numpy(rng.random(n) < np.where(frame["kind"] == "a", 0.2, 0.1))
    found = find_slices(frame, event)
    assert found.names[0] == "kind = a"
    assert found.tests < 100


def test_too_many_levels_to_pair_still_finds_the_strongest_columns():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(1500, 600))).add_prefix("x")
    event = torch.from_numpy(
        rng.random(1500) < np.where((frame["x3"] > 0.9) & (frame["x5"] > 0.9), 0.9, 0.1)
    )
    found = find_slices(frame, event)
    assert {level.column for level in found.members[0]} == {"x3", "x5"}
    assert found.tests > 1_000_000


@pytest.mark.parametrize("columns", [0, 2])
@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_slice_gives_no_slices(rows, columns):
    frame = pd.DataFrame({f"c{i}": ["a"] * rows for i in range(columns)}, index=range(rows))
    for metric in (torch.zeros(rows, dtype=torch.bool), torch.zeros(rows)):
        found = find_slices(frame, metric)
        assert len(found) == 0
        assert found.table().empty
        assert found.plot().get_title()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": torch.zeros(5, dtype=torch.bool)}, "`metric`"),
        ({"metric": torch.full((100,), math.nan)}, "NaN"),
        ({"expected": torch.full((100,), 1.5)}, "`expected`"),
        ({"metric": torch.zeros(100), "expected": torch.full((100,), math.nan)}, "`expected`"),
        ({"ways": 4}, "`ways`"),
    ],
)
def test_bad_input(change, words):
    frame, _ = table(0, n=100)
    arguments = {"frame": frame, "metric": torch.zeros(100, dtype=torch.bool)} | change
    with pytest.raises(InputError, match=words):
        find_slices(**arguments)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="NaN in 1 rows"):
        isotonic_rate(torch.tensor([0.1, math.nan]), torch.tensor([True, False]))


@pytest.mark.gpu
def test_cuda_finds_the_same():
    frame, event, _ = planted(0)
    on_cuda, on_cpu = (
        find_slices(frame, event, device="cuda", ways=3),
        find_slices(frame, event, ways=3),
    )
    assert isinstance(on_cuda, Slices)
    assert on_cuda.names == on_cpu.names
    assert torch.equal(on_cuda.total, on_cpu.total)

"""Rows that fail together by time or by a column of many levels are no failing subgroup."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.slices.checks.collapse import no_slice_collapsed
from gendebug_torch.slices.checks.worst import no_slice_fails
from gendebug_torch.slices.statistics.groups import dependence

ROWS, SPELL = 6000, 25


def hours(seed, *, spells=True, failing=0.0, shuffled=False):
    """Rows of half an hour: weather that stays for a while, and an unknown that comes in spells.

    Args:
        seed: of everything.
        spells: whether the unknown stays for a spell, or is new in each row.
        failing: share of wrong labels where the sun is strong.
        shuffled: whether rows are given in another order than that of time.
    """
    rng = np.random.default_rng(seed)
    weather = np.repeat(rng.normal(size=(ROWS // SPELL, 3)), SPELL, axis=0)
    table = pd.DataFrame(
        weather + 0.2 * rng.normal(size=(ROWS, 3)), columns=["wind", "rain", "sun"]
    )
    unknown = np.repeat(rng.normal(size=ROWS // SPELL), SPELL) if spells else rng.normal(size=ROWS)
    known = 2 * table["wind"] - table["rain"]
    labels = known + 2.5 * unknown > 0
    labels ^= (table["sun"] > 0.8) & (rng.random(ROWS) < failing)
    rows = rng.permutation(ROWS) if shuffled else np.arange(ROWS)
    times = pd.Timestamp("2025-03-01") + pd.to_timedelta(30 * rows, unit="min")
    return Records(
        table.iloc[rows].reset_index(drop=True),
        torch.from_numpy(labels.to_numpy().astype(np.int64)[rows]),
        torch.from_numpy(0.7 * known.to_numpy()[rows]),
        pd.DataFrame({"at": times}),
        Schema(time="at"),
    )


def cards(seed):
    """Payments of cards, half of them stolen and then wrong in a row; the amount is the card's."""
    rng = np.random.default_rng(seed)
    card = np.repeat(np.arange(600), 10)
    table = pd.DataFrame({name: rng.normal(size=600)[card] for name in ("amount", "shop", "age")})
    stolen = (rng.random(600) < 0.1)[card]
    known = 2 * table["amount"]
    labels = (known + rng.logistic(size=len(card)) > 0) ^ stolen
    return Records(
        table,
        torch.from_numpy(labels.to_numpy().astype(np.int64)),
        torch.tensor(known.to_numpy()),
        pd.DataFrame({"card": [f"c{i}" for i in card]}),
        Schema(ids="card"),
    )


def named(findings):
    return [f.subject for f in findings if f.severity.level >= Severity.WARN.level]


@pytest.mark.parametrize("shuffled", [False, True])
def test_errors_in_spells_are_no_subgroup(shuffled):
    sides = [hours(seed, shuffled=shuffled) for seed in range(12)]
    assert not any(named(no_slice_fails(side)) for side in sides)
    pairs = zip(sides[::2], sides[1::2], strict=True)
    assert not any(named(no_slice_collapsed(*pair)) for pair in pairs)


@pytest.mark.parametrize("spells", [True, False])
def test_a_subgroup_that_fails_in_all_spells_is_found(spells):
    clean, failing = hours(0, spells=spells), hours(1, spells=spells, failing=0.6)
    assert any("sun is above" in name for name in named(no_slice_fails(failing)))
    assert any("sun is above" in name for name in named(no_slice_collapsed(clean, failing)))


def test_errors_of_one_card_are_no_subgroup():
    assert not any(named(no_slice_fails(cards(seed))) for seed in range(8))


def test_independent_rows_count_whole_whatever_their_time():
    records = hours(0, spells=False)
    effects = []
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        residuals = (torch.rand(ROWS, generator=draw) < 0.1).double() - 0.1
        together = dependence(records, residuals)
        effects.append(together.effect(residuals, torch.arange(ROWS) < ROWS // 10))
    # A stretch of 600 rows: what is taken for likeness by chance costs a few rows, not the most.
    assert sorted(effects)[10] < 1.5
    assert max(effects) < 6
    nothing = dependence(Records(targets=torch.zeros(3)), torch.zeros(3))
    assert nothing.effect(torch.zeros(3), torch.tensor([True, False, True])) == 1.0


def test_a_stretch_counts_by_its_spells():
    residuals = torch.randn(
        ROWS // SPELL, generator=torch.Generator().manual_seed(1)
    ).repeat_interleave(SPELL)
    together = dependence(hours(0), residuals)
    stretch = torch.arange(ROWS) < 10 * SPELL
    spread = torch.rand(ROWS, generator=torch.Generator().manual_seed(2)) < 1 / SPELL
    assert SPELL / 2 < together.effect(residuals, stretch) < 5 * SPELL
    # Of rows at random each meets about one other row of its spell.
    assert 1.5 < together.effect(residuals, spread) < 2.6
    # Kept with the rows that are left.
    rest = together.at(torch.arange(ROWS) >= SPELL)
    assert rest.effect(residuals[SPELL:], stretch[SPELL:]) > SPELL / 3

"""`shift`: what the model says: the dip test against a linear program and its own null, modes
within predicted classes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gendebug_torch import Records, Severity
from gendebug_torch.checks.evidence import png
from gendebug_torch.errors import InputError
from gendebug_torch.shift import confidence_bimodality
from gendebug_torch.shift.checks.bimodality import predicted_classes_hold_one_population
from gendebug_torch.shift.scores.dip import dip, dip_p_value
from tests.contract.plants_shift import CLEAN, PLANTS
from tests.reference import shift as literal


def test_the_dip_equals_a_linear_program():
    rng = np.random.default_rng(0)
    for _ in range(25):
        knots = np.sort(rng.random(rng.integers(4, 14)))
        shares = rng.random(len(knots) - 1) ** 3
        cdf = np.concatenate([[0.0], shares.cumsum() / shares.sum()])
        assert dip(knots, cdf) == pytest.approx(literal.dip(knots, cdf), abs=1e-8)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([1, 1, 1, 1], 0.0),
        ([1, 2, 4, 2], 0.0),
        ([1, 0, 0, 1], 1 / 6),
        ([1] + [0] * 98 + [1], 49 / 198),
        ([5], 0.0),
    ],
)
def test_known_dips(shares, expected):
    cdf = np.concatenate([[0.0], np.cumsum(shares) / np.sum(shares)])
    assert dip(np.linspace(0.0, 1.0, len(cdf)), cdf) == pytest.approx(expected)


def test_p_values_of_the_dip_are_uniform_at_worst():
    rng = np.random.default_rng(1)
    knots = np.linspace(0.0, 1.0, 1001)
    counts = rng.multinomial(5000, np.full(1000, 1 / 1000), size=1000)
    p = np.array(
        [
            dip_p_value(dip(knots, np.concatenate([[0.0], row.cumsum() / 5000])), 5000)
            for row in counts
        ]
    )
    for level in (0.01, 0.05, 0.25, 0.5):
        spread = math.sqrt(level * (1 - level) / len(p))
        assert level - 5 * spread < (p <= level).mean() < level + 3 * spread
    assert math.isnan(dip_p_value(0.1, 0))
    values = [dip_p_value(0.001 * step, 1000) for step in range(250)]
    assert values == sorted(values, reverse=True)


def test_modes_add_and_name_their_classes():
    logits = (
        torch.randn(900, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    )
    probs = logits.softmax(1)
    whole = confidence_bimodality(probs, names=["a", "b", "c", "d"])
    found = logits.argmax(1).bincount()
    top = found.argsort(descending=True)[:3]
    assert whole.n.tolist() == found[top].tolist()
    assert whole.classes == tuple("abcd"[i] for i in top)
    parts = confidence_bimodality(probs[:300], classes=top.tolist()) + confidence_bimodality(
        probs[300:], classes=top.tolist()
    )
    assert torch.equal(parts.counts, whole.counts)
    with pytest.raises(InputError, match="other"):
        whole + confidence_bimodality(probs, classes=[0])
    binary = confidence_bimodality(torch.tensor([0.1, 0.8, 0.9]))
    assert binary.classes == ("class 1", "class 0")
    with pytest.raises(InputError, match="top"):
        confidence_bimodality(probs, top=0)
    png(confidence_bimodality(torch.zeros(0)))


def test_two_modes_are_described():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.normal(0.6, 0.02, 400), rng.normal(0.93, 0.01, 600)]).clip(
        0.51, 1.0
    )
    modes = confidence_bimodality(torch.from_numpy(confidence))
    lower, valley, upper, below = modes.valley(0)
    assert lower == pytest.approx(0.6, abs=0.03)
    assert upper == pytest.approx(0.93, abs=0.03)
    assert 0.66 < valley < 0.9
    assert below == pytest.approx(0.4, abs=0.02)
    assert float(modes.dip[0]) == pytest.approx(0.16, abs=0.02)
    assert float(modes.adjusted[0]) < 1e-9
    low, high = modes.interval()
    assert float(low) < float(modes.dip[0]) < float(high)


def test_saturated_confidence_has_one_mode():
    sure = torch.cat([torch.ones(5000), torch.linspace(0.5, 1.0, 200)]).double()
    assert float(confidence_bimodality(sure).dip[0]) < 0.01


def test_two_modes_alarm_only_where_validation_had_one():
    given = PLANTS["shift.bimodality"](0)
    finding = predicted_classes_hold_one_population(given["production"], given["validation"])[0]
    assert finding.severity.level >= Severity.WARN.level
    assert 0.25 < finding.numbers["share_below_valley"] < 0.45
    assert predicted_classes_hold_one_population(given["production"])[0].severity is Severity.NOTE
    again = replace(given["production"], name="validation")
    assert (
        predicted_classes_hold_one_population(given["production"], again)[0].severity
        is Severity.NOTE
    )
    clean = CLEAN["shift.bimodality"](0)
    (quiet,) = predicted_classes_hold_one_population(clean["production"], clean["validation"])
    assert quiet.severity is Severity.OK
    png(finding.evidence)


def test_bimodality_of_nothing_is_a_note():
    empty = Records(logits=torch.zeros(0, 3))
    assert predicted_classes_hold_one_population(empty)[0].severity is Severity.NOTE

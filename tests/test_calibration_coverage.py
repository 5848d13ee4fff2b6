"""Prediction intervals of a regression."""

import math

import pytest
import torch
from scipy.stats import poisson

from gendebug_torch import Records, Schema
from gendebug_torch.calibration.checks.coverage import intervals_cover_what_they_promise as check
from gendebug_torch.calibration.coverage import quantile_coverage
from gendebug_torch.errors import InputError
from gendebug_torch.stats.multiple_testing import holm_adjusted
from tests.contract.plants_calibration import quantities


@pytest.mark.parametrize("seed", [4, 5])
def test_the_coverage_is_counted_and_the_remedy_restores_it(seed):
    (finding,) = check(quantities(seed, n=4000, narrow=1.5))
    # The normal interval of 90 % divided by 1.5 holds 2 Phi(1.6449 / 1.5) - 1 = 72.7 %.
    assert finding.numbers["coverage"] == pytest.approx(0.727, abs=0.025)
    assert finding.severity == "fail"
    assert "The 90% intervals in validation hold 7" in finding.summary
    assert "Widen them by" in finding.remedy
    if seed == 4:
        records = quantities(seed, n=4000, narrow=1.5)
        by = finding.numbers["widening"] * torch.tensor([-1.0, 0.0, 1.0])
        covered = quantile_coverage(records.logits + by, records.targets, (0.05, 0.5, 0.95))
        assert covered.share == pytest.approx(0.9, abs=0.001)
    (wide,) = check(quantities(seed, n=4000, narrow=0.5))
    assert "Narrow them by" in wide.remedy
    table = finding.evidence.table()
    assert list(table) == ["level", "share", "low", "high"]
    assert len(finding.evidence.plot().lines) == 2
    total = finding.evidence + finding.evidence
    assert (total.rows, total.share) == (8000, finding.evidence.share)


@pytest.mark.parametrize("spread", ["variance", "log_variance", "standard_deviation"])
def test_the_second_output_is_what_the_schema_says(spread):
    generator = torch.Generator().manual_seed(0)
    deviation = 1 + torch.rand(2000, generator=generator)
    targets = 5 + deviation * torch.randn(2000, generator=generator)
    second = {
        "variance": deviation.square(),
        "log_variance": 2 * deviation.log(),
        "standard_deviation": deviation,
    }[spread]
    outputs = torch.stack([torch.full((2000,), 5.0), second], 1)
    schema = Schema(regression=True, spread=spread)
    (finding,) = check(Records(targets=targets, logits=outputs, schema=schema))
    assert finding.severity == "ok"
    assert finding.numbers["coverage"] == pytest.approx(0.9, abs=0.02)
    if spread != "log_variance":
        negative = Records(targets=targets, logits=-outputs, schema=schema)
        with pytest.raises(InputError, match="spread: log_variance"):
            check(negative)


def test_counts_lie_on_their_quantiles():
    """The exact quantiles of a Poisson distribution hold more than their level, rightly."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rate = 2 + 8 * torch.rand(600, generator=generator, dtype=torch.float64)
        targets = torch.poisson(rate, generator=generator)
        quantiles = torch.tensor(poisson.ppf([0.05, 0.5, 0.95], rate[:, None].numpy()))
        found = quantile_coverage(quantiles, targets, (0.05, 0.5, 0.95))
        assert float(holm_adjusted(found.p_values(600)).min()) > 0.002
        assert float(found.deviations.abs().max()) < 0.03


def test_what_is_not_judged_is_said():
    plain = Records(targets=torch.rand(80), logits=torch.rand(80))
    (finding,) = check(plain)
    assert "declare `quantiles` or `spread`" in finding.summary
    (finding,) = check(Records(targets=torch.ones(80), logits=torch.randn(80)))
    assert "of a regression" in finding.summary
    schema = Schema(regression=True, quantiles=(0.1, 0.9))
    (finding,) = check(Records(targets=torch.rand(80), logits=torch.rand(80), schema=schema))
    assert "declares 2 outputs" in finding.summary
    (finding,) = check(quantities(1, n=20))
    assert "too few" in finding.summary
    grouped = Records(
        targets=torch.rand(80), logits=torch.rand(80, 2).sort(1).values, schema=schema
    )
    (finding,) = check(grouped, grouped)[:1]
    assert finding.numbers["independent"] == 80


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantiles": (0.9, 0.1)}, "increasing levels"),
        ({"quantiles": (0.0, 0.5)}, "increasing levels"),
        ({"spread": "sigma"}, "log_variance"),
        ({"spread": "variance", "quantiles": (0.1, 0.9)}, "either"),
    ],
)
def test_outputs_that_are_no_intervals(fields, words):
    with pytest.raises(InputError, match=words):
        Schema(regression=True, **fields)
    assert math.isclose(sum(Schema(quantiles=[0.1, 0.9]).quantiles), 1.0)

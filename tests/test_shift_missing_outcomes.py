"""Labels that have not arrived in production are told from a drift of what the score means."""

from dataclasses import replace

import pytest
import torch

from gendebug_torch import Cause, Records, diagnose
from gendebug_torch.shift.kinds.missing_outcomes import missing_outcomes
from tests import planted


def rows(seed, n=3000, *, spread=3.0, offset=0.0, scale=1.0):
    """Scores, and labels whose log-odds are an affine function of them."""
    generator = torch.Generator().manual_seed(seed)
    z = spread * torch.randn(n, generator=generator, dtype=torch.float64) - 1
    y = torch.bernoulli((scale * z + offset).sigmoid(), generator=generator).long()
    return z, y


def incomplete(y, share, seed, event=1):
    generator = torch.Generator().manual_seed(seed)
    lost = torch.rand(len(y), generator=generator) < share
    return torch.where(lost & (y == event), 1 - event, y)


@pytest.mark.parametrize("event", [0, 1])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_share_that_is_missing_is_in_its_interval(event, share):
    covered = 0
    for seed in range(20):
        z, y = rows(seed)
        live, labels = rows(seed + 100)
        found = missing_outcomes(z, y, live, incomplete(labels, share, seed, event))
        assert found.event == event, seed
        covered += found.low <= share <= found.high
    assert covered >= 17


def test_two_columns_of_logits_are_one_of_their_difference():
    (z, y), (live, labels) = rows(1), rows(2)
    labels = incomplete(labels, 0.5, 3)
    wide = [torch.stack([torch.zeros_like(one), one], 1) for one in (z, live)]
    one, other = missing_outcomes(z, y, live, labels), missing_outcomes(wide[0], y, wide[1], labels)
    assert one.share == pytest.approx(other.share, abs=1e-6)


@pytest.mark.parametrize(
    "live",
    [{}, {"offset": -1.5}, {"offset": 1.0}, {"scale": 0.4}, {"scale": -1.0}, {"spread": 1.0}],
    ids=str,
)
def test_a_drift_is_no_missing_outcome(live):
    for seed in range(20):
        assert missing_outcomes(*rows(seed), *rows(seed + 100, **live)) is None, seed


def test_scores_that_are_never_sure_do_not_tell_the_two_apart():
    for seed in range(10):
        z, y = rows(seed, spread=0.3)
        live, labels = rows(seed + 100, spread=0.3)
        assert missing_outcomes(z, y, live, incomplete(labels, 0.5, seed)) is None
    few = [part[:150] for part in rows(0)]
    assert missing_outcomes(*few, *rows(1)) is None
    z, y = rows(0)
    assert missing_outcomes(z, torch.zeros_like(y), z, y) is None


def test_the_diagnosis_asks_to_complete_the_labels():
    given = planted.clean(20)
    complete = given["production"]
    labels = incomplete(complete.targets, 0.4, 0)
    diagnosis = diagnose(**given | {"production": replace(complete, targets=labels)})
    first = diagnosis.causes[0]
    assert (first.cause, first.subject) == (Cause.LABEL_NOISE, "production")
    assert len(diagnosis.causes) == 1
    assert diagnosis.decision == "fix_data"
    assert "carry the label of the other class, at every score alike" in first.findings[0].summary
    lines = {line.cause: line for line in diagnosis.bill.lines}
    assert lines["label_noise"].points == pytest.approx(diagnosis.bill.total)
    assert lines["label_noise"].remedy is None


def test_missing_outcomes_of_a_rare_class_are_no_small_drift():
    sides = {}
    for seed, name in enumerate(("validation", "production")):
        z, y = rows(seed, 30_000, offset=-9.0, spread=4.0)
        lost = incomplete(y, 0.35, seed) if seed else y
        sides[name] = Records(targets=lost, logits=z - 9.0, name=name)
    diagnosis = diagnose(**sides, only=["shift.concept_drift", "shift.quality"])
    (found,) = (f for f in diagnosis.findings if f.check == "shift.concept_drift")
    assert found.numbers["effect"] < 0.03
    assert (found.cause, diagnosis.decision) == (Cause.LABEL_NOISE, "fix_data")

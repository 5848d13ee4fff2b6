"""Regressions with a planted fault and a really trained network: the bench, thinned."""

import pytest

from gendebug_torch import Severity, diagnose
from tests.planted_regression import PLANTS, clean, made

# Checks that a fault is found by, and what keeps the diagnosis honest: the whole takes too long.
CHECKS = {
    "subgroup collapses": ("slices.collapse", "slices.worst"),
    "subgroup not learned": ("slices.collapse", "slices.worst"),
    "overfit": ("curves.regime", "curves.gap"),
    "shortcut column": ("attribution.shortcut", "slices.collapse"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_planted_fault_is_named(name):
    plant, causes, subject = PLANTS[name]
    world = made(5)
    plant(world)
    given = world.given()
    found = diagnose(given.pop("model"), only=list(CHECKS[name]), **given)
    assert found.causes[0].cause in causes
    assert subject in found.causes[0].subject


def test_a_clean_regression_is_quiet():
    world = made(6)
    clean(world)
    given = world.given()
    checks = sorted({check for checks in CHECKS.values() for check in checks})
    found = diagnose(given.pop("model"), only=checks, **given)
    assert all(finding.severity.level < Severity.WARN.level for finding in found.findings)
    text = " ".join(finding.summary for finding in found.findings)
    assert "probab" not in text
    assert "confidence" not in text

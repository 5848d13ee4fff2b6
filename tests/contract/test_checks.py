"""One battery over all registered checks: power, false alarms, determinism, untouched inputs, odd
inputs."""

import functools
import itertools
import math
import re
from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
import torch

from gendebug_torch import Finding, Records, Severity
from gendebug_torch.checks.evidence import axes
from gendebug_torch.checks.finding import findings_from_json, findings_to_json
from gendebug_torch.checks.registry import TOPICS, all_checks, derived_inputs
from tests.contract.test_devices import assert_same
from tests.sequential import assert_rate

CHECKS = {check.name: check for check in all_checks()}
PLANTS, CLEAN, EXPECTED = {}, {}, {}
# Faults of images have a file of their own, though their check is one of `shift`.
for topic in (*TOPICS, "modality"):
    module = import_module(f"tests.contract.plants_{topic}")
    PLANTS |= module.PLANTS
    CLEAN |= module.CLEAN
    EXPECTED |= module.EXPECTED
# Shares of planted faults that are found and of clean runs without an alarm: what a check promises,
# and what must be told from it.
FOUND, TOO_FEW, QUIET, TOO_LOUD = 0.98, 0.7, 0.998, 0.95
# Checks of one clean world beside each other, so that they share what they derive from it.
BY_WORLD = sorted(CHECKS, key=lambda name: [*CLEAN.values()].index(CLEAN[name]))
every_check = pytest.mark.parametrize("name", CHECKS)
both_inputs = pytest.mark.parametrize("inputs", ["plant", "clean"])


def worst(findings):
    return max((finding.severity for finding in findings), key=lambda severity: severity.level)


def alarmed(findings):
    assert worst(findings) is not Severity.ERRORED, [f.numbers.get("traceback") for f in findings]
    return worst(findings).level >= Severity.WARN.level


def run(name, given):
    return CHECKS[name].run(given)


@functools.lru_cache(maxsize=70)
def clean_world(make, seed):
    """A clean input and what checks derive from it, so that checks of one world share it."""
    given = make(seed)
    return given, derived_inputs(CHECKS.values(), given)


@functools.cache
def ran(name, inputs):
    """An input of a check and what it finds there, for all tests that ask; neither is changed."""
    given = made(name, inputs)
    return given, run(name, given)


def made(name, inputs):
    return {"plant": PLANTS, "clean": CLEAN}[inputs][name](0)


def said(findings):
    return [finding.to_dict() for finding in findings]


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_every_check_has_a_plant_and_a_clean_input():
    assert set(PLANTS) == set(CLEAN) == set(EXPECTED) == set(CHECKS)


@every_check
def test_power(name):
    """Planted faults are found, under the right cause and with the right subject."""
    cause, subject = EXPECTED[name]

    def named(findings):
        return alarmed(findings) and any(
            finding.severity.level >= Severity.WARN.level
            and finding.cause is cause
            and re.fullmatch(subject, finding.subject)
            for finding in findings
        )

    def outcome(seed):
        findings = ran(name, "plant")[1] if seed == 0 else run(name, PLANTS[name](seed))
        return named(findings), [finding.summary for finding in findings]

    assert_rate(outcome, itertools.count(), FOUND, TOO_FEW, wrongly_passed=0.01)


@pytest.mark.parametrize("name", BY_WORLD)
def test_false_alarms(name):
    """Without an alarm it passes after 61 runs; a check that alarms in 5 % of clean runs passes in
    at most 5 % of such tests."""

    def outcome(seed):
        given, shared = clean_world(CLEAN[name], seed)
        findings = CHECKS[name].run(given, shared=shared)
        return not alarmed(findings), [finding.summary for finding in findings]

    errors = {"wrongly_failed": 0.001, "wrongly_passed": 0.05}
    assert_rate(outcome, itertools.count(100), QUIET, TOO_LOUD, **errors)


@every_check
@both_inputs
def test_deterministic_and_inputs_unchanged(name, inputs):
    kept = made(name, inputs)
    given, first = ran(name, inputs)
    state = torch.get_rng_state()
    assert said(first) == said(run(name, given))
    assert torch.equal(state, torch.get_rng_state())
    for key, value in given.items():
        if isinstance(value, Records):
            assert equal(value, kept[key]), f"{name} changed {key}"
        if isinstance(value, torch.nn.Module):
            now, then = value.state_dict(), kept[key].state_dict()
            assert all(torch.equal(now[entry], then[entry]) for entry in then)
            assert [m.training for m in value.modules()] == [
                m.training for m in kept[key].modules()
            ]


def equal(a, b):
    for part in ("features", "targets", "logits", "metadata"):
        x, y = getattr(a, part), getattr(b, part)
        if isinstance(x, pd.DataFrame):
            pd.testing.assert_frame_equal(x, y)
        elif x is not None and not torch.equal(x, y):
            return False
    return True


@every_check
@both_inputs
def test_findings_are_sound(name, inputs):
    _, findings = ran(name, inputs)
    assert findings
    for finding in findings:
        assert finding.check == name
        assert finding.summary
        assert finding.remedy or finding.severity.level < Severity.WARN.level, (
            "an alarm says what to do"
        )
        assert finite(finding.to_dict()["numbers"])
        assert "nan" not in finding.summary.lower().split()
    assert findings_from_json(findings_to_json(findings)) == [
        replace(f, evidence=None) for f in findings
    ]


@every_check
def test_evidence_draws_on_a_given_axis(name):
    """Evidence is optional; what there is can be drawn and read."""
    _, findings = ran(name, "plant")
    drawn = [finding for finding in findings if finding.evidence is not None]
    for finding in drawn[:2]:
        ax = axes()
        assert finding.evidence.plot(ax) is ax
        assert ax.get_title()
        assert ax.get_xlabel()
        table = finding.evidence.table()
        assert isinstance(table, pd.DataFrame)
        assert len(table)


def records_of(given):
    return [key for key, value in given.items() if isinstance(value, Records)]


@every_check
@both_inputs
def test_row_order_does_not_matter(name, inputs):
    given, findings = ran(name, inputs)
    shuffled = dict(given)
    for key in records_of(given):
        shuffled[key] = given[key].select(
            torch.randperm(len(given[key]), generator=torch.Generator().manual_seed(9))
        )
    assert worst(run(name, shuffled)) is worst(findings)


@every_check
def test_float32_says_the_same(name):
    given, findings = ran(name, "plant")
    narrow = dict(given)
    for key in records_of(given):
        part = given[key]
        changes = {}
        if part.logits is not None:
            changes["logits"] = part.logits.float()
        if isinstance(part.features, pd.DataFrame):
            numeric = part.features.select_dtypes("float64").columns
            changes["features"] = part.features.astype(dict.fromkeys(numeric, "float32"))
        narrow[key] = replace(part, **changes)
    assert worst(run(name, narrow)) is worst(findings)


def odd(given, kind):
    """The same input made degenerate in every Records that it has."""
    changed = dict(given)
    for key in records_of(given):
        part = given[key]
        if kind in ("empty", "one row"):
            changed[key] = part.select(range(0 if kind == "empty" else 1))
        elif kind == "one class" and part.targets is not None and part.targets.dtype == torch.int64:
            changed[key] = replace(part, targets=torch.zeros_like(part.targets))
        elif kind == "constant" and part.features is not None:
            table = part.features
            constant = (
                table * 0 + 1
                if isinstance(table, torch.Tensor)
                else table.assign(**dict.fromkeys(table, 1.0))
            )
            changed[key] = replace(part, features=constant)
        elif kind == "missing" and isinstance(part.features, pd.DataFrame):
            changed[key] = replace(
                part, features=part.features.assign(**{part.features.columns[0]: float("nan")})
            )
    return changed


@every_check
@pytest.mark.parametrize("kind", ["empty", "one row", "one class", "constant", "missing"])
def test_odd_inputs_give_a_finding_or_a_refusal(name, kind):
    findings = run(name, odd(ran(name, "clean")[0], kind))
    assert findings
    for finding in findings:
        assert isinstance(finding, Finding)
        if finding.severity is Severity.ERRORED:
            assert finding.summary.startswith("Refused its input:"), finding.numbers["traceback"]
        assert finite(finding.to_dict()["numbers"])


@every_check
def test_features_may_be_a_tensor(name):
    given = dict(ran(name, "clean")[0])
    for key in records_of(given):
        if isinstance(given[key].features, pd.DataFrame):
            numbers = given[key].features.select_dtypes("number").to_numpy(dtype="float32")
            given[key] = replace(given[key], features=torch.from_numpy(numbers.copy()))
    if not CHECKS[name].lacks(given):
        CHECKS[name].cost(given)
    for finding in run(name, given):
        broke = finding.severity is Severity.ERRORED and not finding.summary.startswith(
            "Refused its input:"
        )
        assert not broke, finding.numbers["traceback"]


@every_check
def test_absent_input_is_reported_as_skipped(name):
    (finding,) = run(name, {})
    assert finding.severity is Severity.SKIPPED


@every_check
def test_cost_is_declared(name):
    cost = CHECKS[name].cost(ran(name, "clean")[0])
    assert cost.elements + cost.forwards + cost.backwards > 0


@pytest.mark.gpu
@every_check
def test_cuda_says_the_same(name):
    given = PLANTS[name](7)
    moved = {
        key: value.to("cuda") if isinstance(value, (Records, torch.nn.Module)) else value
        for key, value in given.items()
    }
    found, known = said(run(name, moved)), said(run(name, PLANTS[name](7)))
    assert_same(found, known, "findings")


def with_masks(part):
    """The records with one wrong class masked in every second row, where they hold logits of three
    or more classes."""
    if (
        not isinstance(part, Records)
        or part.logits is None
        or part.logits.ndim != 2
        or part.logits.shape[1] < 3
        or part.schema.multilabel
    ):
        return part
    rows, k = len(part), part.logits.shape[1]
    wrong = torch.arange(rows) % k
    own = part.targets is not None and part.targets.dtype == torch.int64 and part.targets.ndim == 1
    free = wrong != part.targets if own else torch.ones(rows, dtype=torch.bool)
    masked = torch.zeros(rows, k, dtype=torch.bool).scatter(
        1, wrong[:, None], (free & (torch.arange(rows) % 2 == 0))[:, None]
    )
    return replace(part, logits=part.logits.masked_fill(masked, -math.inf))


@every_check
def test_masked_classes(name):
    findings = run(name, {key: with_masks(part) for key, part in ran(name, "plant")[0].items()})
    assert worst(findings) is not Severity.ERRORED, [f.numbers.get("traceback") for f in findings]
    assert all(finite(finding.to_dict()["numbers"]) for finding in findings)

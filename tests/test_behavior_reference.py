"""Verdicts, near-identical inputs and the cover against slow literal versions, on random suites."""

import math

import numpy as np
import pytest
import torch

from gendebug_torch.behavior import Case, Suite, run_suite
from gendebug_torch.behavior.audit.near_duplicates import near_duplicates
from gendebug_torch.behavior.audit.redundancy import Redundancy
from tests.reference import behavior as literal

WORDS = ("same", "same_class", "higher", "lower", "not_higher", "not_lower")


def random_case(rng, number, classes):
    choice = rng.integers(0, 8)
    change = ()
    if choice < 2:
        expect = {"score": sorted(round(float(x), 1) for x in rng.random(2))}
    elif choice < 4:
        expect = {
            "class": list(
                map(str, rng.choice(classes, rng.integers(1, len(classes)), replace=False))
            )
        }
    else:
        expect = WORDS[rng.integers(0, len(WORDS))]
        change = tuple({"x": i} for i in range(rng.integers(1, 4)))
    of = [None, "predicted", str(rng.choice(classes))][rng.integers(0, 3)]
    tolerance = float(rng.choice([0.0, 0.1, 0.3]))
    return (
        Case(f"c{number}", {"x": -1}, expect, change, of=of, tolerance=tolerance),
        expect,
        of,
        tolerance,
    )


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_verdicts(k, threshold):
    rng = np.random.default_rng(10 * k + int(10 * threshold))
    classes = tuple("abcde"[:k])
    drawn = [random_case(rng, number, classes) for number in range(600)]
    suite = Suite(tuple(case for case, *_ in drawn), classes=classes, threshold=threshold)
    scores = [rng.dirichlet(np.ones(k), len(case.inputs)) for case in suite.cases]
    run = run_suite(suite, lambda rows: np.concatenate(scores))
    passed = [result.status == "passed" for result in run.results]
    expected = [
        literal.holds(expect, rows.tolist(), list(classes), threshold, of, tolerance)
        for (_, expect, of, tolerance), rows in zip(drawn, scores, strict=True)
    ]
    assert passed == expected
    assert 100 < sum(passed) < 500


def test_twins():
    rng = np.random.default_rng(0)
    vocabulary = ["good", "bad", "film", "plot", "the", "a", "was", "very", "dull"]
    cases = []
    for number in range(120):
        text = " ".join(rng.choice(vocabulary, 6))
        fields = {
            "amount": round(float(rng.choice([0, 1, 50, 50.5, 100])), 2),
            "code": str(rng.choice(["x", "y"])),
            "text": text,
        }
        expect = {"class": int(rng.integers(0, 2))}
        cases.append(Case(f"c{number}", fields, expect))
    suite = Suite(tuple(cases))
    found = near_duplicates(suite)
    assert sorted(found) == sorted(literal.near_duplicates(suite))
    assert len(found) > 3


@pytest.mark.parametrize("seed", range(10))
def test_the_cover_is_complete_and_within_its_bound(seed):
    noticed = torch.rand(9, 12, generator=torch.Generator().manual_seed(seed)) < 0.3
    found = Redundancy(tuple(f"c{i}" for i in range(9)), tuple(f"f{i}" for i in range(12)), noticed)
    least = literal.least_cover(noticed.tolist())
    assert least <= len(found.cover) <= least * (math.log(12) + 1)
    chosen = torch.stack([noticed[int(name[1:])] for name in found.cover]).any(0)
    assert torch.equal(chosen, noticed.any(0))

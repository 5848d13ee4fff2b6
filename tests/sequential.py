"""Promised rates, tested with no more runs than it takes to decide."""

import math


def assert_rate(outcome, seeds, promised, rejected, *, wrongly_failed=0.01, wrongly_passed=0.1):
    """A rate of successes is the promised one and not one that is to be rejected.

    Source: Wald (1945), Ann. Math. Statist. 16:117, the sequential probability ratio test.

    Args:
        outcome: seed -> whether it succeeded, and what is shown if the test fails.
        seeds: seeds, as many as it takes.
        promised: rate of which the test fails in `wrongly_failed` of cases at most.
        rejected: rate of which it passes in `wrongly_passed` of cases at most.
    """
    passes = math.log(wrongly_passed / (1 - wrongly_failed))
    fails = math.log((1 - wrongly_passed) / wrongly_failed)
    evidence, told = 0.0, {}
    for seed in seeds:
        success, told[seed] = outcome(seed)
        tried, kept = (rejected, promised) if success else (1 - rejected, 1 - promised)
        evidence += math.log(tried / kept)
        if not passes < evidence < fails:
            break
    assert evidence <= passes, told

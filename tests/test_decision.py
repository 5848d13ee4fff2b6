"""Every cause of the design, planted in tables with a really trained network: named, and quiet
where nothing is wrong."""

import pytest

from gendebug_torch import Cause, Severity, diagnose
from tests import planted

SEEDS = 10
# What each planted cause asks for; the rest of the causes ask for a look at the model's
# explanations or its suite.
DECISIONS = {
    "overfitting": {"retrain"},
    "underfitting": {"redesign"},
    "miscalibration": {"recalibrate"},
    "threshold": {"move_threshold", "recalibrate"},
    "covariate_shift": {"retrain"},
    "label_shift": {"move_threshold"},
    "concept_drift": {"retrain"},
    "target_leakage": {"fix_data"},
    "split_leakage": {"fix_data"},
    "preprocessing_leakage": {"fix_data"},
    "train_serve_skew": {"fix_data"},
    "label_noise": {"fix_data"},
    "shortcut_feature": {"fix_data"},
    "subgroup_failure": {"redesign"},
}


@pytest.mark.slow
@pytest.mark.parametrize("cause", [cause.value for cause in Cause if cause is not Cause.UNKNOWN])
def test_a_planted_cause_is_named_among_the_first_two(cause):
    named, decided, told = 0, 0, []
    for seed in range(SEEDS):
        diagnosis = diagnose(**getattr(planted, cause)(seed))
        assert not [
            finding for finding in diagnosis.findings if finding.severity is Severity.ERRORED
        ], str(diagnosis)
        likely = [story.cause.value for story in diagnosis.causes[:2]]
        named += cause in likely
        decided += diagnosis.decision in DECISIONS.get(cause, {diagnosis.decision})
        told.append((likely, diagnosis.decision))
    assert named >= 0.9 * SEEDS, told
    assert decided >= 0.9 * SEEDS, told


@pytest.mark.slow
def test_clean_tables_stay_quiet():
    alarms = {}
    for seed in range(100, 120):
        diagnosis = diagnose(**planted.clean(seed))
        if diagnosis.decision != "nothing" or diagnosis.causes:
            alarms[seed] = [
                finding.summary for story in diagnosis.causes for finding in story.findings
            ]
    assert len(alarms) <= 1, alarms

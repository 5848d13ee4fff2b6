import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Cause, Diagnosis, Finding, Records, Schema, Severity, collect, diagnose
from gendebug_torch.checks import registry
from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.checks.finding import findings_to_json
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.data.times import seconds_of
from gendebug_torch.diagnosis import budget as budgets
from gendebug_torch.diagnosis.budget import (
    CheckCost,
    Speed,
    by_value,
    overrun,
    probe_speed,
    run_within,
)
from gendebug_torch.diagnosis.causes import likely_causes
from gendebug_torch.diagnosis.decision import decide
from gendebug_torch.errors import Deadline, InputError, OutOfTime
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.kinds.change_kinds import change_kinds
from gendebug_torch.shift.quality.change import MetricChange
from gendebug_torch.shift.quality.quality_change import QualityChange, quality_change
from gendebug_torch.shift.quality.remedies import RemedyTrial
from tests import quality_sweep

INPUTS = {check.name: check.inputs for check in all_checks()}


def found(check, cause, severity=Severity.WARN, subject="", **numbers):
    return Finding(
        check,
        cause,
        severity,
        f"{check} says {subject or 'it'}",
        subject=subject,
        numbers=numbers,
        remedy="Repair it.",
        inputs=INPUTS.get(check, ()),
    )


def table(n, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    logit = 1.5 * x[:, 0] - x[:, 1]
    y = (torch.rand(n, generator=generator, dtype=torch.float64) < logit.sigmoid()).long()
    x[:, 2] += shift
    return Records(pd.DataFrame(x.numpy(), columns=["a", "b", "c"]), y, name="validation")


@pytest.fixture
def model():
    network = nn.Linear(3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.5, -1.0, 0.0]]))
        network.bias.zero_()
    return network


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [("90s", 90), ("2m", 120), ("1.5h", 5400), (7, 7), ("0.5", 0.5), (" 3 M ", 180)],
)
def test_budgets(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize("budget", ["", "-2m", "0", "soon", "2d", "nan", None])
def test_bad_budgets(budget):
    with pytest.raises(InputError, match="budget"):
        seconds_of(budget)


def test_speed_turns_work_into_seconds(model):
    assert Speed(10, 5, 1000).seconds(Cost(forwards=20, backwards=10, elements=500)) == 4.5
    speed = probe_speed(
        {"model": model, "validation": table(600, 0), "production": None, "train": None}
    )
    assert 0 < speed.backwards < float("inf")
    assert 0 < speed.forwards < float("inf")


def test_a_clean_input_is_clean(model):
    diagnosis = diagnose(model, validation=table(2000, 0), production=table(2000, 1))
    assert diagnosis.decision == "nothing", str(diagnosis)
    assert diagnosis.worst.level < Severity.WARN.level
    assert not diagnosis.causes
    assert {finding.check.partition(".")[0] for finding in diagnosis.skipped} <= {
        "behavior",
        "curves",
        "influence",
        "labels",
        "leakage",
        "network",
        "shift",
    }


def test_a_shifted_feature_is_named(model):
    diagnosis = diagnose(model, validation=table(2000, 0), production=table(2000, 1, shift=1.0))
    assert (diagnosis.causes[0].cause, diagnosis.causes[0].subject) == (Cause.COVARIATE_SHIFT, "c")
    assert diagnosis.decision == "retrain"
    assert any("c" in reason for reason in diagnosis.reasons)


def test_the_model_gives_logits_where_there_are_none(model):
    diagnosis = diagnose(model, validation=table(1000, 0), only="calibration.ece")
    (finding,) = diagnosis.findings
    assert finding.severity is Severity.OK
    assert "ece" in finding.numbers


def test_what_does_not_fit_the_budget_is_listed_with_its_cost(model):
    diagnosis = diagnose(model, validation=table(1000, 0), production=table(1000, 1), budget=1e-9)
    told = {finding.check: finding.severity for finding in diagnosis.findings}
    assert told.pop("diagnose.budget") is Severity.NOTE
    assert set(told.values()) == {Severity.SKIPPED}
    priced = [finding for finding in diagnosis.skipped if "estimated_seconds" in finding.numbers]
    assert priced
    assert all("Raise the budget" in finding.remedy for finding in priced)


def test_a_generous_budget_changes_nothing(model):
    given = {"validation": table(500, 0), "production": table(500, 1, shift=1.0)}
    free, bound = diagnose(model, **given), diagnose(model, **given, budget="10m")
    assert sorted(f.summary for f in free.findings) == sorted(f.summary for f in bound.findings)


def test_forms(model, tmp_path):
    diagnosis = diagnose(model, validation=table(500, 0), production=table(500, 1, shift=1.0))
    assert len(diagnosis.to_frame()) == len(diagnosis.findings)
    assert [entry["check"] for entry in json.loads(diagnosis.to_json())] == [
        finding.check for finding in diagnosis.findings
    ]
    page = diagnosis.to_html()
    assert "<html" in page
    assert diagnosis._repr_html_() == page
    assert "retrain" in str(diagnosis)
    diagnosis.write(tmp_path / "out", title="T")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bill.json",
        "findings.json",
        "report.html",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "at least one"),
        ({"validation": pd.DataFrame()}, "expected Records or a Profile, got DataFrame"),
        ({"validation": table(5, 0), "model": {"w": 1}}, "`model`"),
        ({"validation": table(5, 0), "only": "shift.kss"}, "Did you mean 'shift.ks'"),
        ({"validation": table(5, 0), "options": {"shift.ks": {"alhpa": 1}}}, "alhpa"),
        ({"validation": table(5, 0), "budget": "soon"}, "budget"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError, match=words):
        diagnose(**arguments)


def test_agreeing_checks_raise_a_cause():
    findings = [
        found("calibration.ece", Cause.MISCALIBRATION, Severity.FAIL),
        found("shift.ks", Cause.COVARIATE_SHIFT, Severity.WARN, "a"),
        found("shift.ks", Cause.COVARIATE_SHIFT, Severity.FAIL, "b"),
        found("attribution.production_errors", Cause.COVARIATE_SHIFT, Severity.FAIL, "b"),
        found("shift.confidence", Cause.COVARIATE_SHIFT, Severity.WARN),
        found("shift.missing", Cause.COVARIATE_SHIFT, Severity.OK, "c"),
    ]
    causes = likely_causes(findings)
    assert [(likely.cause, likely.subjects, likely.support) for likely in causes] == [
        (Cause.COVARIATE_SHIFT, ("b", "a"), 5),
        (Cause.MISCALIBRATION, (), 2),
    ]


def test_a_root_is_told_once_with_its_symptoms():
    leak = found("leakage.column", Cause.TARGET_LEAKAGE, Severity.FAIL, "refund")
    moved = found("shift.ks", Cause.COVARIATE_SHIFT, Severity.FAIL, "refund")
    sliced = found(
        "slices.collapse",
        Cause.SUBGROUP_FAILURE,
        Severity.WARN,
        "refund in [0, 1] and channel = web",
    )
    other = found("shift.ks", Cause.COVARIATE_SHIFT, Severity.WARN, "refund_count")
    first, second = likely_causes([moved, sliced, other, leak])
    assert (first.cause, first.subject, first.symptoms) == (
        Cause.TARGET_LEAKAGE,
        "refund",
        (moved, sliced),
    )
    assert (second.cause, second.subject) == (Cause.COVARIATE_SHIFT, "refund_count")


def test_what_came_after_does_not_explain_what_was_there_before():
    shifted = found("shift.ks", Cause.COVARIATE_SHIFT, Severity.FAIL, "b")
    before = found("calibration.ece", Cause.MISCALIBRATION)
    after = found("calibration.production_ece", Cause.MISCALIBRATION)
    assert [likely.cause for likely in likely_causes([shifted, after])] == [Cause.COVARIATE_SHIFT]
    assert [likely.cause for likely in likely_causes([shifted, before])] == [
        Cause.COVARIATE_SHIFT,
        Cause.MISCALIBRATION,
    ]


@pytest.mark.parametrize(
    ("share", "causes"),
    [(0.9, [Cause.CONCEPT_DRIFT, Cause.SUBGROUP_FAILURE]), (0.2, [Cause.CONCEPT_DRIFT])],
)
def test_a_slice_that_holds_most_of_a_change_is_no_symptom_of_it(share, causes):
    whole = found("shift.concept_drift", Cause.CONCEPT_DRIFT)
    part = found(
        "slices.collapse", Cause.SUBGROUP_FAILURE, Severity.WARN, "shop = 3", share_of_rise=share
    )
    assert [likely.cause for likely in likely_causes([whole, part])] == causes


def test_a_weak_finding_does_not_explain_a_strong_one():
    weak = found("shift.ks", Cause.COVARIATE_SHIFT, Severity.WARN, "b")
    strong = [
        found(f"calibration.production_{i}", Cause.MISCALIBRATION, Severity.FAIL) for i in range(2)
    ]
    assert {likely.cause for likely in likely_causes([weak, *strong])} == {
        Cause.COVARIATE_SHIFT,
        Cause.MISCALIBRATION,
    }


def test_the_same_feature_is_one_story_however_many_checks_tell_its_symptoms():
    root = found("attribution.shortcut", Cause.SHORTCUT_FEATURE, Severity.FAIL, "scanner")
    moved = found("shift.ks", Cause.COVARIATE_SHIFT, Severity.FAIL, "scanner")
    whole = [
        found(f"shift.{name}", Cause.COVARIATE_SHIFT)
        for name in ("confidence", "joint", "estimated_accuracy")
    ]
    (story,) = likely_causes([moved, *whole, root])
    assert (story.cause, story.subject, len(story.symptoms)) == (
        Cause.SHORTCUT_FEATURE,
        "scanner",
        4,
    )


@pytest.mark.parametrize("training", [Cause.UNDERFITTING, Cause.OVERFITTING])
def test_a_network_that_learned_wrong_fails_in_slices_and_one_slice_can_be_a_story_of_its_own(
    training,
):
    learned = found("curves.regime", training)
    slices = [
        found("slices.worst", Cause.SUBGROUP_FAILURE, Severity.FAIL, where)
        for where in ("age = old", "shop = 3")
    ]
    assert [likely.cause for likely in likely_causes([*slices, learned])] == [training]
    collapsed = found("slices.collapse", Cause.SUBGROUP_FAILURE, Severity.WARN, "shop = 3")
    assert [likely.subjects for likely in likely_causes([*slices, collapsed, learned])] == [
        ("shop = 3",),
        (),
    ]


def test_faint_noise_explains_probabilities_but_not_curves_that_fail():
    noise, curves = (
        found("labels.noise", Cause.LABEL_NOISE),
        found("curves.regime", Cause.OVERFITTING, Severity.FAIL),
    )
    gap, ece = (
        found("curves.gap", Cause.OVERFITTING),
        found("calibration.ece", Cause.MISCALIBRATION),
    )
    assert [likely.cause for likely in likely_causes([noise, curves, gap, ece])] == [
        Cause.OVERFITTING,
        Cause.LABEL_NOISE,
    ]


@pytest.mark.parametrize(
    ("findings", "decision"),
    [
        ([], "nothing"),
        ([("c.e", Cause.MISCALIBRATION)], "recalibrate"),
        ([("c.t", Cause.THRESHOLD)], "move_threshold"),
        ([("s.l", Cause.LABEL_SHIFT)], "move_threshold"),
        ([("c.e", Cause.MISCALIBRATION), ("s.k", Cause.COVARIATE_SHIFT)], "retrain"),
        ([("c.r", Cause.UNDERFITTING), ("c.g", Cause.OVERFITTING)], "redesign"),
        ([("s.w", Cause.SUBGROUP_FAILURE)], "redesign"),
        ([("l.c", Cause.TARGET_LEAKAGE)], "fix_data"),
        ([("a.c", Cause.UNRELIABLE_EXPLANATION)], "nothing"),
    ],
)
def test_decisions(findings, decision):
    verdict = decide(likely_causes(found(check, cause) for check, cause in findings))
    assert verdict.name == decision
    assert verdict.would_change
    assert bool(verdict.reasons) == (decision != "nothing")


def test_a_feature_stuck_on_one_value_is_to_be_mended():
    assert (
        decide(likely_causes([found("s.k", Cause.COVARIATE_SHIFT, to_repair=True)])).name
        == "fix_data"
    )


def test_a_subgroup_that_failed_since_validation_is_learned_again():
    rose = found("s.c", Cause.SUBGROUP_FAILURE, share_of_rise=0.8)
    assert decide(likely_causes([rose])).name == "retrain"
    failed_before = found("s.w", Cause.SUBGROUP_FAILURE)
    assert decide(likely_causes([rose, failed_before])).name == "redesign"


def quality_of(before, after, half, *remedies, name="AUC"):
    """One metric with an interval of this half width, and remedies that were tried."""
    change = after - before
    interval = change - half, change + half
    metric = MetricChange(name, before, after, *interval, 0.0, 0.99, (500, 500))
    return QualityChange((metric,), remedies=remedies)


def trial(name, gain, restores=False):
    interval = gain - 0.02, gain + 0.02
    return RemedyTrial(name, 0.1, gain, *interval, None, 0.99, 500, restores)


@pytest.mark.parametrize(("production", "decision"), [(0.89, "recalibrate"), (0.6, "retrain")])
def test_where_the_ranking_held_the_probabilities_are_mended(production, decision):
    quality = quality_of(0.9, production, 0.036)
    drift = found("shift.concept", Cause.CONCEPT_DRIFT, Severity.FAIL)
    verdict = decide(
        likely_causes([drift, found("calibration.production_ece", Cause.MISCALIBRATION)]), quality
    )
    assert verdict.name == decision
    assert any("AUC 0.900" in reason for reason in verdict.reasons)


def test_quality_of_a_model_that_drifts():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, generator=generator, dtype=torch.float64)
    time = torch.linspace(0, 1, 4000, dtype=torch.float64)
    truth = (torch.rand(4000, generator=generator, dtype=torch.float64) < logits.sigmoid()).long()
    turned = (
        torch.rand(4000, generator=generator, dtype=torch.float64) < (logits * (1 - time)).sigmoid()
    ).long()
    metadata = pd.DataFrame({"time": time.numpy()})
    before = Records(targets=truth, logits=logits, metadata=metadata, schema=Schema(time="time"))
    change = quality_change(before, replace(before, targets=turned))
    assert [metric.name for metric in change.metrics] == ["AUC", "accuracy"]
    assert change.fell
    assert change.principal.relative_fall > 0.05
    slope, error = change.trend
    assert abs(slope) > 1.96 * error
    slope, error = quality_change(before, before).trend
    assert abs(slope) < 1.96 * error
    parts = ["recall of class 0", "recall of class 1"]
    assert list(change.table()["metric"]) == ["AUC", "accuracy", *parts]
    assert quality_change(before, replace(before, targets=None)) is None
    one_class = replace(before, targets=torch.ones(4000, dtype=torch.int64))
    assert [metric.name for metric in quality_change(before, one_class).metrics] == ["accuracy"]


def test_the_schema_declares_the_threshold_once(model):
    schema = Schema(threshold=0.9)
    sides = {
        name: replace(table(1500, seed), schema=schema)
        for seed, name in enumerate(("validation", "production"))
    }
    (finding,) = [
        f
        for f in diagnose(model, **sides, only="shift.confidence").findings
        if "at or above" in f.summary
    ][:1]
    assert "0.9" in finding.summary
    with pytest.raises(InputError, match="threshold"):
        Schema(threshold=2.0)


def test_the_schedule_spreads_a_budget_over_causes():
    checks = [check for check in all_checks() if check.name.startswith(("shift.", "calibration."))]
    ordered = by_value(checks, {check.name: 1.0 for check in checks})
    distinct = len({check.cause for check in checks})
    assert len({check.cause for check, _ in ordered[:distinct]}) == distinct
    assert [value for _, value in ordered] == sorted((value for _, value in ordered), reverse=True)


def test_the_schedule_says_what_each_check_took(model):
    diagnosis = diagnose(model, validation=table(500, 0), production=table(500, 1), budget="1m")
    schedule = diagnosis.schedule()
    assert set(schedule["check"]) == {check.name for check in all_checks()}
    ran = schedule[schedule["spent_seconds"].notna()]
    assert (ran["estimated_seconds"] >= 0).all()
    assert "spent_seconds" in diagnosis.to_html()


def test_an_empty_diagnosis_reads_well():
    assert Diagnosis(()).worst is Severity.OK
    assert "nothing" in str(Diagnosis(()))


def test_causes_depend_on_the_findings_alone():
    """Read from findings.json in a fresh process that has imported no topic."""
    findings = [
        found("calibration.ece", Cause.MISCALIBRATION, Severity.FAIL),
        found("shift.label_shift", Cause.LABEL_SHIFT, Severity.FAIL),
    ]
    code = """
import sys
from gendebug_torch.checks.finding import findings_from_json
from gendebug_torch.diagnosis.causes import likely_causes
print([likely.cause.value for likely in likely_causes(findings_from_json(sys.stdin.read()))])
"""
    fresh = subprocess.run(
        [sys.executable, "-c", code],
        input=findings_to_json(findings),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [likely.cause.value for likely in likely_causes(findings)]
    assert fresh.stdout.strip() == str(expected)
    assert len(expected) == 2, "what was there before the deployment is not explained by the shift"


def test_a_step_that_breaks_is_an_errored_finding_and_the_rest_runs(monkeypatch):
    def explode(validation, production):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("gendebug_torch.diagnosis.quality.quality_change", explode)
    diagnosis = diagnose(validation=table(200, 0), production=table(200, 1), only="shift.ks")
    assert diagnosis.quality is None
    assert {finding.check for finding in diagnosis.findings} == {"shift.ks", "diagnose.quality"}
    (broken,) = [f for f in diagnosis.findings if f.severity is Severity.ERRORED]
    assert "boom" in broken.summary
    assert "boom" in broken.numbers["traceback"]


def test_local_time_across_a_change_of_the_clocks(model):
    """Texts with two offsets in one column are moments of one time line."""
    sides = {}
    for seed, name in enumerate(("validation", "production")):
        records = collect(model, table(400, seed))
        hours = pd.date_range("2026-10-25", periods=400, freq="min", tz="Europe/Berlin")
        metadata = pd.DataFrame({"time": [moment.isoformat() for moment in hours]})
        metadata.loc[7, "time"] = None
        sides[name] = replace(records, metadata=metadata, schema=Schema(time="time"))
    diagnosis = diagnose(**sides, only="calibration")
    slope, error = diagnosis.quality.trend
    assert abs(slope) < 3 * error
    assert not any(f.severity is Severity.ERRORED for f in diagnosis.findings)


def test_quality_that_fell_without_a_cause_is_investigated():
    fallen, held = quality_of(0.9, 0.8, 0.03), quality_of(0.9, 0.88, 0.07)
    assert decide([], fallen).name == "investigate"
    assert "AUC 0.900" in decide([], fallen).reasons[0]
    assert decide([], held).name == "nothing"
    recalibrate = likely_causes([found("calibration.ece", Cause.MISCALIBRATION, Severity.FAIL)])
    assert decide(recalibrate, held).name == "recalibrate"


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [(Cause.MISCALIBRATION, "recalibrate"), (Cause.LABEL_SHIFT, "move_threshold")],
)
def test_a_remedy_is_decided_only_where_it_was_tried_with_success(cause, remedy):
    causes = likely_causes([found("a.b", cause, Severity.FAIL)])

    def decision(before, after, *remedies, others=()):
        quality = quality_of(before, after, 0.03, *remedies, name="accuracy")
        return decide([*causes, *others], quality)

    assert decision(0.9, 0.8, trial(remedy, 0.09, restores=True)).name == remedy
    assert decision(0.9, 0.8, trial(remedy, 0.03)).name == "investigate"
    assert decision(0.9, 0.8).name == "investigate"
    assert decision(0.9, 0.9, trial(remedy, 0.03)).name == remedy
    vain = decision(0.9, 0.9, trial(remedy, 0.0))
    assert vain.name == "investigate"
    assert any("+0.000" in reason for reason in vain.reasons)
    overfit = likely_causes([found("c.g", Cause.OVERFITTING)])
    assert decision(0.9, 0.9, trial(remedy, 0.0), others=overfit).name == "retrain"


def test_an_unexplained_fall_is_the_last_cause_and_a_symptom_of_what_lowers_quality():
    fall = found("shift.quality", Cause.UNKNOWN, Severity.FAIL)
    drift = found("shift.concept_drift", Cause.CONCEPT_DRIFT)
    (root,) = likely_causes([fall, drift])
    assert (root.cause, root.symptoms) == (Cause.CONCEPT_DRIFT, (fall,))
    leak = found("leakage.duplicates", Cause.SPLIT_LEAKAGE)
    assert [likely.cause for likely in likely_causes([fall, leak])] == [Cause.SPLIT_LEAKAGE]
    before = found("slices.worst", Cause.SUBGROUP_FAILURE)
    overfit = found("curves.gap", Cause.OVERFITTING)
    for other in (before, overfit):
        causes = likely_causes([fall, other])
        assert [likely.cause for likely in causes] == [other.cause, Cause.UNKNOWN]
    assert decide(likely_causes([fall])).name == "investigate"


@pytest.mark.parametrize("share", [0.1, 0.45])
def test_what_would_change_the_decision_is_not_so_already(share):
    cluster = found("slices.error_clusters", Cause.CONCEPT_DRIFT, largest_share=share)
    (sentence,) = decide(likely_causes([cluster])).would_change
    assert ("now 10%" in sentence) == (share < 0.3)
    assert ("after retraining" in sentence) == (share >= 0.3)
    (sentence,) = decide([], quality_of(0.9, 0.84, 0.07)).would_change
    assert "-0.06 (99 % interval -0.13 to +0.01)" in sentence


def test_the_headline_says_what_was_judged_and_what_broke():
    findings = [
        found("shift.ks", Cause.COVARIATE_SHIFT, Severity.OK),
        found("shift.joint", Cause.COVARIATE_SHIFT, Severity.SKIPPED),
        found("labels.noise", Cause.LABEL_NOISE, Severity.ERRORED),
    ]
    diagnosis = Diagnosis(tuple(findings))
    assert diagnosis.decision == "nothing"
    assert diagnosis.reasons == (
        "Checks that found no cause: 1; skipped: 1.",
        "Checks that broke and judged nothing: labels.noise.",
    )
    assert all(reason in str(diagnosis) for reason in diagnosis.reasons)


def test_a_model_is_fed_by_column_name(model):
    """In another order, and with a column that training lacks: the same verdict, and a note."""
    validation, production = table(600, 0), table(600, 1)
    straight = diagnose(model, validation=validation, production=production)
    mixed = production.features[["c", "a", "b"]].assign(new=1.0)
    turned = diagnose(model, validation=validation, production=replace(production, features=mixed))
    (note,) = [f for f in turned.findings if f.check == "diagnose.columns"]
    assert note.severity is Severity.NOTE
    assert "new" in note.summary
    assert turned.quality.metrics == straight.quality.metrics
    rest = [f.to_dict() for f in turned.findings if f.check != "diagnose.columns"]
    assert rest == [f.to_dict() for f in straight.findings]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_partly_arrived_labels_are_not_wrong_labels(model, share):
    """Rows without a label count where labels are not needed, and nowhere as a class."""
    validation = collect(model, table(1500, 0))
    production = collect(model, table(1500, 1))
    arrived = torch.rand(1500, generator=torch.Generator().manual_seed(0)) < share
    partly = replace(production, targets=production.targets.masked_fill(~arrived, -100))
    diagnosis = diagnose(validation=validation, production=partly)
    assert not [f.summary for f in diagnosis.findings if f.severity is Severity.ERRORED]
    assert not [f.summary for f in diagnosis.findings if f.severity.level >= Severity.WARN.level]
    assert diagnosis.decision == "nothing"
    if share:
        expected = quality_change(validation, partly.labeled())
        assert diagnosis.quality.metrics == expected.metrics


def test_probes_that_wait_for_a_busy_machine_do_not_count(monkeypatch):
    now, durations = [0.0], iter([9.0, 0.15, 0.01, 7.0])
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: now[0])

    def work():
        now[0] += next(durations)

    assert budgets._seconds(work) == pytest.approx(0.01), "the first run is not timed"
    assert next(durations, None) is None, "no run after 0.2 s"


def test_a_budget_that_began_before_has_only_its_rest():
    given = {"validation": table(300, 0), "production": table(300, 1)}
    late = Deadline(60.0, since=time.monotonic() - 3600.0)
    diagnosis = diagnose(**given, budget=late)
    ran = [cost for cost in diagnosis.costs if cost.spent is not None]
    assert not ran
    (note,) = (f for f in diagnosis.findings if f.check == "diagnose.budget")
    assert note.numbers["budget"] == 60.0
    assert note.numbers["seconds"] > 3600.0


def test_an_overrun_budget_is_said_with_the_check_that_did_it():
    costs = [
        CheckCost("a.short", "unknown", 1.0, 1.0, 1.5),
        CheckCost("a.long", "unknown", 1.0, 2.0, 9.0),
        CheckCost("a.left", "unknown", 1.0, 5.0, None),
        CheckCost("a.lacks_inputs", "unknown", 1.0, 0.0, None),
    ]
    assert overrun(10.0, 11.9, costs) == []
    (note,) = overrun(10.0, 12.5, costs)
    assert note.severity == "note"
    assert note.summary == (
        "The budget of 10 s was exceeded: 12.5 s. a.long took 9 s of an estimated 2 s. "
        "1 checks did not run."
    )
    (note,) = overrun(10.0, 25.0, costs)
    assert "What comes before and after the checks took 14.5 s." in note.summary


def test_kinds_of_change_that_come_too_late_do_not_hide_the_change():
    rows = torch.randn(2, 2000, 4, generator=torch.Generator().manual_seed(0))
    before, after = Records(rows[0]), Records(rows[1] + 1.0)
    late = Deadline(0.0)
    with pytest.raises(OutOfTime):
        change_kinds(after, before, deadline=late)
    given = {"validation": before, "production": after, "deadline": late}
    found = features_keep_their_distribution.run(given)
    assert [finding.severity for finding in found if finding.subject == "feature_0"] == ["fail"]


@pytest.mark.parametrize("module", [True, False])
def test_a_model_that_runs_beyond_the_budget_is_stopped_between_batches(module, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("gendebug_torch.errors.time.monotonic", lambda: now[0])
    monkeypatch.setattr(registry, "_CHECKS", {})

    class Slow(torch.nn.Linear):
        def forward(self, x):
            now[0] += 1.0
            return super().forward(x)

    network = Slow(3, 1)
    model = network if module else lambda x: network(x)
    deadline = Deadline(2.5)
    calls = []

    @registry.check("demo.slow", cause=Cause.UNKNOWN)
    def runs_long(model: object) -> Iterator[Finding]:
        """Calls the model many times."""
        for step in range(10):
            model(torch.zeros(1, 3))
            calls.append(step)
        yield runs_long.finding(Severity.OK, "done")

    given = dict.fromkeys(("curves", "train", "validation", "production", "behavior"))
    ordered = [(runs_long, 1.0)]
    given |= {"model": model}
    found, costs = run_within(ordered, given, given, {"demo.slow": {}}, None, deadline)
    assert [finding.severity for finding in found] == [Severity.SKIPPED]
    assert "stopped" in found[0].summary
    assert calls == [0, 1, 2]
    assert costs[0].spent is not None
    assert not network._forward_pre_hooks


def test_a_diagnosis_leaves_what_is_reserved_to_the_report_and_pictures_end_with_the_whole():
    now = [0.0]
    deadline = Deadline(10.0, reserved=4.0, clock=lambda: now[0])
    now[0] = 5.0
    assert (deadline.left, deadline.whole.left, deadline.share(0.5).left) == (1.0, 5.0, 0.5)
    now[0] = 6.0
    with pytest.raises(OutOfTime):
        deadline.check()
    validation = table(500, 0)
    given = {"validation": validation, "production": replace(validation, targets=None)}
    diagnosis = diagnose(**given, budget=deadline)
    assert not [cost for cost in diagnosis.costs if cost.spent is not None]
    assert diagnosis.quality is None
    assert not [finding for finding in diagnosis.findings if finding.check == "diagnose.budget"]

    class Slow(BarEvidence):
        def plot(self, ax=None):
            now[0] += 1.5
            return super().plot(ax)

    frame = pd.DataFrame({"feature": ["a"], "points": [1.0]})
    slow = Slow(frame, "feature", "points", title="t", xlabel="x")
    pictures = {str(i): slow for i in range(5)}
    page = diagnosis.to_html(pictures=pictures, deadline=deadline.whole)
    # At 7.5 and at 9; the third would end after 10.
    assert page.count("data:image/png;base64") == 2
    assert page.count("not drawn: the budget was spent") == 3
    assert diagnosis.to_html(pictures=pictures).count("data:image/png;base64") == 5


LONG = ("labels.noise", "labels.validation_noise", "shift.joint", "shift.estimated_accuracy")
SLICES = ("slices.worst", "slices.collapse", "slices.error_clusters")


@pytest.mark.parametrize("name", [*LONG, *SLICES])
def test_long_checks_end_with_their_time(name):
    given = quality_sweep.Cell("3 classes", 0.8, 300, 0.0).given()
    given["train"] = replace(given["validation"], name="train")
    (check,) = (check for check in all_checks() if check.name == name)
    (finding,) = check.run({**given, "deadline": Deadline(0.0)})
    assert finding.severity is Severity.SKIPPED
    assert finding.numbers == {"stopped": True}

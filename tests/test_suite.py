import json

import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Cause, Diagnosis, Finding, Records, Severity, diagnose
from gendebug_torch.budget import Speed, probe_speed, seconds_of
from gendebug_torch.decision import decide, likely_causes
from gendebug_torch.errors import InputError
from gendebug_torch.registry import Cost


def found(check, cause, severity=Severity.WARN, subject="", **numbers):
    return Finding(check, cause, severity, f"{check} says {subject or 'it'}", subject=subject, numbers=numbers, remedy="Mend it.")


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


@pytest.mark.parametrize(("budget", "seconds"), [("90s", 90), ("2m", 120), ("1.5h", 5400), (7, 7), ("0.5", 0.5), (" 3 M ", 180)])
def test_budgets(budget, seconds):
    assert seconds_of(budget) == seconds


@pytest.mark.parametrize("budget", ["", "-2m", "0", "soon", "2d", "nan", None])
def test_bad_budgets(budget):
    with pytest.raises(InputError, match="budget"):
        seconds_of(budget)


def test_speed_turns_work_into_seconds(model):
    assert Speed(10, 5, 1000).seconds(Cost(forwards=20, backwards=10, elements=500)) == 4.5
    speed = probe_speed({"model": model, "validation": table(600, 0), "production": None, "train": None})
    assert 0 < speed.backwards < float("inf")
    assert 0 < speed.forwards < float("inf")


def test_a_clean_input_is_clean(model):
    diagnosis = diagnose(model, validation=table(2000, 0), production=table(2000, 1))
    assert diagnosis.decision == "nothing", str(diagnosis)
    assert diagnosis.worst.level < Severity.WARN.level
    assert not diagnosis.causes
    assert {finding.check.partition(".")[0] for finding in diagnosis.skipped} <= {"curves", "shift"}


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
    assert all(finding.severity is Severity.SKIPPED for finding in diagnosis.findings)
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
    assert [entry["check"] for entry in json.loads(diagnosis.to_json())] == [finding.check for finding in diagnosis.findings]
    assert "<html" in diagnosis.to_html()
    assert diagnosis._repr_html_() == diagnosis.to_html()
    assert "retrain" in str(diagnosis)
    diagnosis.write(tmp_path / "out", title="T")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["findings.json", "report.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "at least one"),
        ({"validation": pd.DataFrame()}, "`validation`: expected Records, got DataFrame"),
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
    assert [(likely.cause, likely.subject, likely.support) for likely in causes] == [
        (Cause.COVARIATE_SHIFT, "b", 5),
        (Cause.COVARIATE_SHIFT, "a", 2),
        (Cause.MISCALIBRATION, "", 2),
    ]


def test_decisions():
    def verdict(*findings):
        return decide(likely_causes(findings))

    assert verdict() == ("nothing", ())
    assert verdict(found("c.e", Cause.MISCALIBRATION))[0] == "recalibrate"
    assert verdict(found("c.e", Cause.MISCALIBRATION), found("s.k", Cause.COVARIATE_SHIFT))[0] == "retrain"
    assert verdict(found("s.k", Cause.COVARIATE_SHIFT, atom_value=0.5))[0] == "fix_data"
    assert verdict(found("c.r", Cause.UNDERFITTING), found("c.g", Cause.OVERFITTING))[0] == "redesign"
    assert verdict(found("a.c", Cause.UNRELIABLE_EXPLANATION))[0] == "nothing"


def test_an_empty_diagnosis_reads_well():
    assert Diagnosis(()).worst is Severity.OK
    assert "nothing" in str(Diagnosis(()))

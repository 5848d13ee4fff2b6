"""What changed between two runs: diagnoses, models on the same rows, and streams of profiles."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Diagnosis, Finding, Records, Schema, Severity, compare, profile
from gendebug_torch.cli.main import main
from gendebug_torch.diagnosis.apportioning.bill import Bill, BillLine, read_bill
from gendebug_torch.diagnosis.apportioning.remedies import Regained
from gendebug_torch.diagnosis.comparison.history import history
from gendebug_torch.diagnosis.comparison.paired_tests import paired_accuracy, paired_area
from gendebug_torch.errors import InputError
from gendebug_torch.stats.auc import rank_auc


def models(seed, *, planted=0.0, n=3000, task="binary"):
    """Two equally good models on the same rows; the second is random in a share of city B."""
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    x["city"] = rng.choice(list("ABCDE"), n)
    score = 2 * x["a"] + x["b"]
    scores = [torch.tensor((score + rng.normal(size=n)).to_numpy()) for _ in range(2)]
    lost = torch.tensor(((x["city"] == "B") & (rng.random(n) < planted)).to_numpy())
    scores[1] = torch.where(lost, torch.tensor(2 * rng.normal(size=n)), scores[1])
    y = torch.tensor((rng.random(n) < 1 / (1 + np.exp(-2 * score))).astype(int))
    if task == "multiclass":
        scores = [torch.stack([s * 0, s, s - 1], 1) for s in scores]
    if task == "regression":
        y = torch.tensor(score.to_numpy())
    return [Records(features=x, targets=y, logits=z, schema=Schema()) for z in scores]


def test_equal_models_are_not_worse_and_a_planted_slice_is():
    quiet = [compare(*models(seed)).worse for seed in range(12)]
    assert sum(quiet) <= 2
    for task in ("binary", "multiclass", "regression"):
        found = compare(*models(100, planted=0.9, task=task))
        assert found.worse
        assert any("city = B" in f.subject for f in found.findings if f.severity is Severity.WARN)
        assert {"question", "before", "after", "p_holm"} <= set(found.table().columns)


def test_the_other_way_round_is_better_and_no_alarm():
    before, after = models(101, planted=0.9)
    found = compare(after, before)
    assert not found.worse
    assert any("better" in f.summary for f in found.findings)
    rows = found.disagreements
    assert (rows["before"] != rows["after"]).all()


def test_paired_tests_are_those_of_the_literature():
    before = torch.tensor([True] * 60 + [False] * 40)
    after = torch.tensor([True] * 48 + [False] * 12 + [True] * 3 + [False] * 37)
    # statsmodels.stats.contingency_tables.mcnemar: exact 0.0352, mid-p 0.0213 of 12 against 3.
    assert paired_accuracy("accuracy", before, after).p_value == pytest.approx(0.0213, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(800, generator=generator) < 0.4
    scores = torch.randn(800, 2, generator=generator) + positive[:, None]
    change = paired_area("AUC", scores, positive)
    areas = rank_auc(scores, positive).auc
    assert (change.before, change.after) == pytest.approx(areas.tolist())
    independent = rank_auc(scores, positive).variance.sum().sqrt() * 1.96
    assert (change.high - change.low) / 2 == pytest.approx(float(independent), rel=0.15)


def test_rows_of_a_group_count_as_one():
    before = models(3, n=400)[0]
    change = torch.tensor(np.random.default_rng(0).normal(size=20) > 0.8).repeat_interleave(20)
    z = torch.where(change, -before.logits, before.logits)
    groups = pd.DataFrame({"who": np.repeat(np.arange(20), 20)})
    schema = Schema(group="who")
    pair = [
        Records(targets=before.targets, logits=side, metadata=groups, schema=schema)
        for side in (before.logits, z)
    ]
    alone = [Records(targets=before.targets, logits=side) for side in (before.logits, z)]
    grouped, single = (compare(*sides).table().set_index("question") for sides in (pair, alone))
    assert grouped["p_value"]["accuracy"] > 10 * single["p_value"]["accuracy"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda r: r.select(range(50)), "the same rows"),
        (lambda r: Records(targets=1 - r.targets, logits=r.logits), "the same targets"),
        (lambda r: Records(targets=r.targets), "logits"),
    ],
)
def test_other_rows_are_refused(other, words):
    before, after = models(4, n=200)
    with pytest.raises(InputError, match=words):
        compare(before, other(after))
    with pytest.raises(InputError, match="like with like"):
        compare(before, [])


def finding(check, severity, subject=""):
    return Finding(check, Cause.COVARIATE_SHIFT, severity, "It moved.", subject)


def test_findings_are_new_gone_worse_and_better():
    before = [finding("shift.ks", "warn", "a"), finding("shift.ks", "fail", "b")]
    before += [finding("shift.ks", "warn", "c"), finding("labels.noise", "warn")]
    after = [finding("shift.ks", "fail", "a"), finding("shift.ks", "warn", "b")]
    after += [finding("shift.ks", "warn", "d"), finding("labels.noise", "skipped")]
    found = compare(before, after)
    assert dict(zip(found.table()["subject"], found.table()["change"], strict=True)) == {
        "d": "new",
        "a": "worse",
        "": "no longer judged",
        "b": "better",
        "c": "gone",
    }
    assert found.worse
    assert not compare(before, before).worse


def test_two_bills_stand_side_by_side():
    lines = [BillLine("label_shift", "", 2.0, 1.0, 3.0), BillLine("unexplained", "", 0.5, 0, 1)]
    bills = [Bill("accuracy", "points", 90.0, 2.5, 1.0, 4.0, tuple(lines[:n])) for n in (2, 1)]
    found = compare(*(Diagnosis((), bill=bill) for bill in bills)).bills.set_index("cause")
    assert found["points_before"].to_dict() == {"label_shift": 2.0, "unexplained": 0.5}
    assert found["points_after"].isna().to_dict() == {"label_shift": False, "unexplained": True}


def test_the_command_line_shows_both_bills(tmp_path, capsys):
    won = Regained("move threshold", 1.5, 0.5, 2.5, "none")
    lines = [BillLine("label_shift", "", 2.0, 1.0, 3.0, won)]
    lines += [BillLine("concept_drift", "b", *[float("nan")] * 3, reason="no such rows")]
    lines += [BillLine("unexplained", "", 0.5, 0.0, 1.0)]
    bill = Bill("accuracy", "points", 90.0, 2.5, 1.0, 4.0, tuple(lines))
    for name, side in (("old", bill), ("new", replace(bill, total=3.5)), ("none", None)):
        Diagnosis((), bill=side).write(tmp_path / name)
    read = read_bill(tmp_path / "old" / "bill.json")
    assert read.to_json() == bill.to_json()
    out = str(tmp_path / "compared")
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--out", out]) == 0
    text = capsys.readouterr().out
    assert "Before: 2.5 points of accuracy" in text
    assert "After: 3.5 points of accuracy" in text
    assert "points_after" in (tmp_path / "compared" / "report.html").read_text()
    old = str(tmp_path / "old" / "findings.json")
    assert main(["compare", old, str(tmp_path / "none"), "--out", out]) == 0
    assert "After: no bill" in capsys.readouterr().out
    (tmp_path / "new" / "bill.json").write_text("{}")
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--out", out]) == 2


def weeks(seed, count, *, shift_from=None, n=600):
    rng = np.random.default_rng(seed)
    for week in range(count):
        x = rng.normal(size=(n, 3))
        frame = pd.DataFrame(x, columns=list("abc"))
        if shift_from is not None and week >= shift_from:
            frame["b"] += 0.6
        frame["score"] = 2 * x[:, 0]
        frame["label"] = (rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int)
        yield profile(frame, Schema(target="label", logits="score"), sample=100)


def test_a_history_names_the_first_week_and_the_broken_file(tmp_path):
    for at, week in enumerate(weeks(0, 8, shift_from=5)):
        week.save(tmp_path / f"week{at:02}.profile")
    (tmp_path / "week90.profile").write_bytes(b"broken")
    other = Schema(target="label", logits="score", ids="b")
    profile(pd.DataFrame({"b": [1.0], "score": 0.0, "label": 1}), other).save(
        tmp_path / "week91.profile"
    )
    found = history(tmp_path)
    assert "week05 is the first step" in found.findings[0].summary
    assert found.findings[0].subject == "b"
    assert "2 files were not read" in found.findings[1].summary
    assert "week90" in found.findings[1].summary
    assert "another reading of b in week91.profile" in found.findings[1].summary
    assert list(found.tables["Steps"]["alarm"]) == [False] * 5 + [True] * 3
    assert main(["history", str(tmp_path), "--out", str(tmp_path / "page")]) == 1
    assert (tmp_path / "page" / "report.html").stat().st_size > 10_000


def test_diagnoses_have_a_history(tmp_path):
    for name, severity in (("run1", "ok"), ("run2", "warn")):
        (tmp_path / name).mkdir()
        entries = [finding("shift.ks", severity, "a").to_dict()]
        (tmp_path / name / "findings.json").write_text(json.dumps(entries))
    found = history(tmp_path)
    assert found.tables["Findings by their first run"]["first"].tolist() == ["run2"]
    assert main(["history", str(tmp_path), "--out", str(tmp_path / "page")]) == 1
    pair = [str(tmp_path / name) for name in ("run1", "run2")]
    assert main(["compare", *pair, "--out", str(tmp_path / "difference")]) == 1
    with pytest.raises(InputError, match="at least two"):
        history(tmp_path / "run1")


def test_two_scored_tables_gate_a_pull_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("target: label\nlogits: score\n")
    for name, side in zip(("old", "new"), models(5, planted=0.9), strict=True):
        frame = side.features.assign(label=side.targets.numpy(), score=side.logits.numpy())
        frame.to_csv(f"{name}.csv", index=False)
    same = ["compare", "old.csv", "old.csv", "--schema", "s.yaml", "--out", "same"]
    worse = ["compare", "old.csv", "new.csv", "--schema", "s.yaml", "--out", "worse"]
    assert main(same) == 0
    assert main([*worse, "--also", "markdown", "--junit", "--sarif"]) == 1
    written = {p.name for p in (tmp_path / "worse").iterdir()}
    assert written >= {"findings.xml", "findings.md", "findings.sarif"}
    (run,) = json.loads((tmp_path / "worse" / "findings.sarif").read_text())["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert rules == {result["ruleId"] for result in run["results"]} == {"compare.models"}
    assert {result["level"] for result in run["results"]} <= {"error", "warning", "note"}
    assert main(["compare", "old.csv", "new.csv", "--out", "none"]) == 2

"""What leakage calls a leak, and what it leaves as a note: honest tables, labels in any form."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity, diagnose


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def records(frame, target="y", cut=2000, **schema):
    """The first rows as training, the rest as validation."""
    sides = {"train": frame[:cut], "validation": frame[cut:].reset_index(drop=True)}
    return {
        name: Records.from_frame(side, Schema(target=target, **schema), name=name)
        for name, side in sides.items()
    }


def alarms(diagnosis):
    return {
        (finding.check, finding.subject)
        for finding in diagnosis.findings
        if finding.severity.level >= Severity.WARN.level
    }


def columns_summary(**inputs):
    return diagnose(**inputs, only="leakage.columns").findings[-1]


@pytest.mark.parametrize("seed", range(5))
def test_an_easy_class_of_forty_is_no_leak(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 40, 4000)
    centres = rng.normal(size=(40, 6)) * 2
    x = centres[y] + rng.normal(size=(4000, 6))
    frame = pd.DataFrame(x, columns=list("abcdef")).assign(y=y)
    frame["g"] = np.where(y == 17, 5.0, 0.0) + 0.3 * rng.normal(size=4000)
    assert not alarms(diagnose(**records(frame, cut=3000), only="leakage"))


@pytest.mark.parametrize("others", [0.5, 0.3, 0.0], ids=["some", "less", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_an_honest_strong_predictor_of_a_quantity_is_no_leak(seed, others):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3000, 5))
    noise = np.sqrt(1 / 0.66 - 1 - others**2)
    y = x[:, 0] + others * x[:, 1] + noise * rng.normal(size=3000)
    assert np.corrcoef(x[:, 0], y)[0, 1] > 0.79
    frame = pd.DataFrame(x, columns=list("abcde")).assign(y=y)
    assert not alarms(diagnose(**records(frame, regression=True), only="leakage"))


def test_a_leaked_quantity_is_still_found(rng):
    x = rng.normal(size=(3000, 4))
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=3000)
    frame = pd.DataFrame(x, columns=list("abcd")).assign(y=y)
    frame["billed"] = y + 0.4 * rng.normal(size=3000)
    found = alarms(diagnose(**records(frame, regression=True), only="leakage"))
    assert found == {("leakage.columns", "billed")}


def strong_column(rng, kind, n=1500):
    """A table whose column `strong` explains nearly nine tenths of what a model can."""
    x = rng.normal(size=(n, 4))
    others, own, noise = x.sum(1) / 2, rng.normal(size=n), rng.normal(size=n)
    strong = (own + others) / np.sqrt(2) if kind == "mediates" else own
    shares = {"alone": (0.9, 0.0), "among causes": (0.88, 0.06), "mediates": (0.9, 0.0)}
    a, b = shares.get(kind, (0.0, 0.4))
    y = np.sqrt(a) * strong + np.sqrt(b) * others + np.sqrt(1 - a - b) * noise
    if kind == "recorded":
        strong = y + 0.3 * rng.normal(size=n)
    return pd.DataFrame(x, columns=list("abcd")).assign(strong=strong, y=y)


@pytest.mark.parametrize("regression", [True, False], ids=["quantity", "classes"])
@pytest.mark.parametrize("kind", ["alone", "among causes", "mediates"])
def test_an_honest_column_that_is_nearly_all_a_model_knows_is_a_note(rng, kind, regression):
    frame = strong_column(rng, kind)
    frame = frame if regression else frame.assign(y=(frame["y"] > 0).astype(int))
    finding = columns_summary(**records(frame, cut=1000, regression=regression))
    assert finding.severity is Severity.NOTE
    assert finding.summary.startswith("strong alone predicts nearly as well")
    assert "known before the answer?" in finding.summary


@pytest.mark.parametrize("regression", [True, False], ids=["quantity", "classes"])
def test_a_column_that_the_others_predict_as_they_predict_the_target_is_a_leak(rng, regression):
    frame = strong_column(rng, "recorded")
    if not regression:
        y = (frame["y"] > 0).astype(int)
        frame = frame.assign(y=y, strong=y + 0.33 * rng.normal(size=len(y)))
    sides = records(frame, cut=1000, regression=regression)
    (finding, _) = diagnose(**sides, only="leakage.columns").findings
    assert (finding.subject, finding.severity) == ("strong", Severity.FAIL)
    assert "as they would predict a record of the target" in finding.summary


def weak_leak(rng, n=3000):
    """A column of AUC about 0.75 that is nearly all that predicts the target."""
    x = rng.normal(size=(n, 3))
    y = (rng.random(n) < 0.5).astype(int)
    frame = pd.DataFrame(x, columns=list("abc")).assign(y=y)
    return frame.assign(calls=y + 1.0 * rng.normal(size=n))


def test_a_column_that_reaches_the_whole_skill_is_named_as_a_note(rng):
    finding = columns_summary(**records(weak_leak(rng)))
    assert finding.severity is Severity.NOTE
    assert finding.summary.startswith("calls alone predicts nearly as well as all columns together")
    assert "known before the answer?" in finding.summary
    exempt = columns_summary(**records(weak_leak(rng), causal=("calls",)))
    assert exempt.severity is Severity.OK


def never_written(frame):
    return frame.assign(calls=np.nan)


def constant(frame):
    return frame.assign(calls=0.0)


def without_relation(frame):
    return frame.assign(calls=np.random.default_rng(0).permutation(frame["calls"]))


@pytest.mark.parametrize("kept", [0.55, 0.02], ids=["rarer", "with the outcome"])
def test_missing_more_often_in_one_class_is_no_record_of_it(rng, kept):
    """What a column is missing with must be most of what it tells before it speaks against it."""
    frame = weak_leak(rng)
    told = np.where(frame["y"] == 1, 0.95, kept) > rng.random(len(frame))
    frame["calls"] = (frame["y"] + 0.6 * rng.normal(size=len(frame))).where(told)
    found = alarms(diagnose(**records(frame), only="leakage.columns"))
    assert found == (set() if kept > 0.1 else {("leakage.columns", "calls")})


FATES = {
    never_written: Cause.TARGET_LEAKAGE,
    constant: Cause.TARGET_LEAKAGE,
    without_relation: Cause.SHORTCUT_FEATURE,
}


@pytest.mark.parametrize("change", FATES)
def test_its_fate_in_production_makes_it_a_warning(rng, change):
    frame = weak_leak(rng, 5000)
    later = Records.from_frame(
        change(frame[3000:].reset_index(drop=True)), Schema(target="y"), name="production"
    )
    same = Records.from_frame(
        frame[3000:].reset_index(drop=True), Schema(target="y"), name="production"
    )
    (finding, _) = diagnose(
        **records(frame[:3000]), production=later, only="leakage.columns"
    ).findings
    assert (finding.subject, finding.severity) == ("calls", Severity.WARN)
    assert finding.cause is FATES[change]
    assert "production" in finding.summary
    quiet = diagnose(**records(frame[:3000]), production=same, only="leakage.columns")
    assert not alarms(quiet)


@pytest.mark.parametrize("change", [never_written, constant])
def test_a_column_that_others_tell_too_is_rather_lost_in_serving(rng, change):
    frame = weak_leak(rng, 5000)
    frame = frame.assign(calls_before=frame["calls"] + rng.normal(size=5000))
    later = Records.from_frame(
        change(frame[3000:].reset_index(drop=True)), Schema(target="y"), name="production"
    )
    (finding, _) = diagnose(
        **records(frame[:3000]), production=later, only="leakage.columns"
    ).findings
    assert (finding.subject, finding.severity) == ("calls", Severity.WARN)
    assert finding.cause is Cause.TRAIN_SERVE_SKEW
    assert "serving does not deliver it, or it is recorded after the outcome" in finding.summary


def test_a_target_that_all_columns_follow_less_is_no_shortcut(rng):
    """Outcomes that have not arrived yet: two of three events of production are not known."""
    frame = weak_leak(rng, 9000)
    frame = frame.assign(calls_before=frame["calls"] + rng.normal(size=9000))
    late = frame[3000:].reset_index(drop=True)
    late["y"] = late["y"] * (rng.random(6000) < 1 / 3)
    later = Records.from_frame(late, Schema(target="y"), name="production")
    diagnosis = diagnose(**records(frame[:3000]), production=later, only="leakage.columns")
    assert not alarms(diagnosis)


def test_its_missing_values_make_it_a_warning(rng):
    frame = weak_leak(rng)
    hidden = (frame["y"] == 0) & (rng.random(3000) < 0.3)
    frame.loc[hidden, "calls"] = np.nan
    (finding, _) = diagnose(**records(frame), only="leakage.columns").findings
    assert (finding.subject, finding.severity) == ("calls", Severity.WARN)
    assert "missing values" in finding.summary


def test_its_time_makes_it_a_warning(rng):
    frame = weak_leak(rng)
    label_time = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(3000), unit="h")
    offset = pd.to_timedelta(24 * frame["calls"], unit="h")
    frame = frame.assign(known=label_time, calls=pd.Timestamp("2026-03-01") + 20 * offset)
    (finding, _) = diagnose(**records(frame, label_time="known"), only="leakage.columns").findings
    assert (finding.subject, finding.severity) == ("calls", Severity.WARN)
    assert "dated after known" in finding.summary


LABELS = {
    "float32": lambda y: torch.from_numpy(y).float(),
    "float64": lambda y: torch.from_numpy(y).double(),
    "bool": lambda y: torch.from_numpy(y).bool(),
    "uint8": lambda y: torch.from_numpy(y).to(torch.uint8),
    "column": lambda y: torch.from_numpy(y)[:, None].float(),
}


@pytest.mark.parametrize("form", LABELS)
def test_findings_do_not_depend_on_the_form_of_the_labels(rng, form):
    frame = weak_leak(rng)
    y = frame.pop("y").to_numpy(copy=True)
    frame["fee"] = np.where(y == 1, rng.lognormal(size=3000), 0.0)
    frame.loc[2500:, ["a", "b", "c", "calls", "fee"]] = frame.loc[:499].to_numpy()
    y[2500:] = y[:500]

    def found(labels):
        sides = {
            "train": Records(frame[:2000], labels[:2000], name="train"),
            "validation": Records(
                frame[2000:].reset_index(drop=True), labels[2000:], name="validation"
            ),
        }
        return [f.to_dict() for f in diagnose(**sides, only="leakage").findings]

    assert found(LABELS[form](y)) == found(torch.from_numpy(y))


def test_findings_do_not_depend_on_the_names_of_the_classes(rng):
    frame = weak_leak(rng)
    frame["fee"] = np.where(frame["y"] == 1, rng.lognormal(size=3000), 0.0)
    words = frame.assign(y=frame["y"].map({0: "kept", 1: "returned"}))
    plain, named = (
        [f.to_dict() for f in diagnose(**sides, only="leakage").findings]
        for sides in (records(frame), records(words, classes=("kept", "returned")))
    )
    assert plain == named


def test_rows_without_a_label_are_left_out(rng):
    frame = weak_leak(rng)
    y = torch.from_numpy(frame.pop("y").to_numpy(copy=True))
    frame["fee"] = np.where(y.numpy() == 1, rng.lognormal(size=3000), 0.0)
    some = y.clone()
    some[::3] = -100
    labeled = some >= 0
    findings = [
        diagnose(train=Records(table, labels, name="train"), only="leakage").findings
        for table, labels in (
            (frame, some),
            (frame[labeled.numpy()].reset_index(drop=True), y[labeled]),
        )
    ]
    first, second = ([f.to_dict() for f in part] for part in findings)
    assert first == second


def copied_rows(rng, copies, memorised):
    """Validation with some rows of training, and a model of about 80 % accuracy."""
    x = rng.normal(size=(600, 4))
    y = (x[:, 0] + 0.7 * rng.normal(size=600) > 0).astype(np.int64)
    x[500 : 500 + copies], y[500 : 500 + copies] = x[:copies], y[:copies]
    logits = 3.0 * x[:, 0]
    if memorised:
        logits[500 : 500 + copies] = 5.0 * (2 * y[500 : 500 + copies] - 1)
    frame = pd.DataFrame(x, columns=list("abcd"))
    return {
        name: Records(
            frame[rows].reset_index(drop=True),
            torch.from_numpy(y[rows]),
            torch.from_numpy(logits[rows]),
            name=name,
        )
        for name, rows in (("train", slice(0, 500)), ("validation", slice(500, None)))
    }


def test_copies_without_effect_are_a_note(rng):
    sides = copied_rows(rng, 3, memorised=False)
    (finding,) = diagnose(**sides, only="leakage.duplicates").findings
    assert finding.severity is Severity.NOTE
    assert "nearly the same without them" in finding.summary
    assert not diagnose(**sides, only="leakage").causes


def test_copies_that_the_model_memorised_are_a_leak(rng):
    (finding,) = diagnose(
        **copied_rows(rng, 40, memorised=True), only="leakage.duplicates"
    ).findings
    assert finding.severity is Severity.FAIL


def test_the_text_that_a_model_reads_is_no_identifier(shared_data):
    frame = pd.read_parquet(shared_data / "sms_spam" / "sms.parquet").drop_duplicates("message")
    frame = frame.sample(frac=1.0, random_state=0).reset_index(drop=True)
    sides = records(frame, target="label", cut=4000, classes=("ham", "spam"))
    found = alarms(diagnose(**sides, only="leakage"))
    assert not {check for check, _ in found} & {"leakage.ids", "leakage.columns"}


def test_columns_of_lists_and_durations_break_no_check(rng):
    frame = weak_leak(rng, 800)
    frame["list"] = [[i % 3, 1] for i in range(800)]
    frame["array"] = [np.full(2, i % 2) for i in range(800)]
    frame["waited"] = pd.to_timedelta(rng.integers(0, 99, 800), unit="h")
    later = Records.from_frame(frame[600:].reset_index(drop=True), Schema(target="y"))
    diagnosis = diagnose(**records(frame[:600], cut=400), production=later, only="leakage")
    assert diagnosis.worst is not Severity.ERRORED, str(diagnosis)


def test_one_row_of_production_is_no_evidence(rng):
    frame = weak_leak(rng)
    later = Records.from_frame(frame[:1], Schema(target="y"), name="production")
    assert not alarms(diagnose(**records(frame), production=later, only="leakage"))


@pytest.mark.parametrize("seed", range(3))
def test_the_only_cause_of_ordered_classes_is_a_note(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3000, 5))
    y = np.digitize(3 * x[:, 0] + 0.7 * rng.normal(size=3000), [-1.0, 0.0, 1.0])
    frame = pd.DataFrame(x, columns=list("abcde")).assign(y=y)
    diagnosis = diagnose(**records(frame), only="leakage")
    assert not alarms(diagnosis)
    assert columns_summary(**records(frame)).numbers["sufficient"] == ["a"]

"""The walkthrough as a user runs it: its verdict follows from the data, not from the script."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PERCENTILE = "transaction_amount_percentile"


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def walk(capsys):
    def walked(out, *arguments):
        importlib.import_module("fraud_walkthrough").main(["--out", str(out), *arguments])
        return capsys.readouterr().out, json.loads((out / "findings.json").read_text())

    return walked


@pytest.mark.slow
def test_the_broken_feature_is_named_and_billed_with_its_remedy(tmp_path, walk):
    told, findings = walk(tmp_path, "--rows", "30000", "--epochs", "8")
    assert re.search(rf"Named cause: \w+ in {PERCENTILE}", told)
    assert any(
        f["check"] == "shift.ks"
        and f["subject"] == PERCENTILE
        and f["severity"] in ("warn", "fail")
        for f in findings
    )
    bill = rf"The bill in accuracy at the threshold[\s\S]+train_serve_skew +{PERCENTILE}"
    assert re.search(bill, told)
    assert (tmp_path / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_without_the_new_merchants_no_shift_is_found(tmp_path, walk):
    told, findings = walk(tmp_path, "--no-shift", "--rows", "50000", "--epochs", "6")
    assert "No shift was found: nothing to mend." in told
    assert not [
        f for f in findings if f["cause"] == "covariate_shift" and f["severity"] in ("warn", "fail")
    ]


@pytest.mark.slow
def test_somebody_elses_transactions(tmp_path, walk, shared_data):
    days = sorted((shared_data / "fraud_handbook_simulated").glob("*.parquet"))
    table = pd.concat(map(pd.read_parquet, days), ignore_index=True)
    table[table["CUSTOMER_ID"].astype(int) % 40 == 0].to_parquet(tmp_path / "some.parquet")
    told, findings = walk(
        tmp_path / "out", "--data", str(tmp_path / "some.parquet"), "--epochs", "1"
    )
    assert "Diagnosis:" in told
    assert {"check", "cause", "severity", "summary"} <= set(findings[0])
    assert "TX_FRAUD_SCENARIO" not in json.dumps(findings)


# Example -> its words, and what it has to say.
STORIES = {
    "regression_drift": (("--epochs", "8"), "Diagnosis: retrain"),
    "sensor_series": (("--epochs", "2"), "channels 0 and 1 are exchanged"),
    "image_shortcut": (
        ("--rows", "400", "--epochs", "8", "--only", "attribution.region_shortcut"),
        "The lower right corner of class sick makes the class by itself",
    ),
    "label_audit": (("--epochs", "15", "--size", "120"), "reviewed labels were wrong"),
    "network_that_does_not_learn": (
        ("--epochs", "4"),
        "fail: 100% of the units of body.6 are dead",
    ),
    "ci_gate": ((), "broken: exit code 1"),
    "recalibrate_and_ship": (("--epochs", "40"), "network.onnx: exit code 0"),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_story_of_the_gallery(tmp_path, monkeypatch, capsys, name):
    words, said = STORIES[name]
    monkeypatch.chdir(EXAMPLES)
    importlib.import_module(name).main([*words, "--out", str(tmp_path)])
    assert said in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_an_unknown_table_is_refused_in_words(tmp_path, walk):
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "t.csv")
    with pytest.raises(
        SystemExit, match="the table lacks CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT"
    ) as refused:
        walk(tmp_path / "o", "--data", str(tmp_path / "t.csv"))
    # A text: the interpreter prints it and exits with code 1.
    assert isinstance(refused.value.code, str)
    assert not (tmp_path / "o").exists()


def test_counting_before_equals_the_literal_count():
    from fraud_features import count_not_larger_before, window

    rng = np.random.default_rng(0)
    group, value = rng.integers(0, 7, 300), rng.integers(0, 20, 300)
    literal = [
        sum(group[j] == group[i] and value[j] <= value[i] for j in range(i)) for i in range(300)
    ]
    assert count_not_larger_before(group, value).tolist() == literal
    time = np.sort(rng.uniform(0, 100, 300))
    count, mean = window(group, time, value.astype(float), 10.0)
    inside = [
        (group == group[i]) & (np.arange(300) <= i) & (time > time[i] - 10.0) for i in range(300)
    ]
    assert count.tolist() == [int(rows.sum()) for rows in inside]
    assert np.allclose(mean, [value[rows].mean() for rows in inside])


def test_features_know_nothing_of_the_future():
    from fraud_data import DAY, simulate
    from fraud_features import build_features

    table = simulate(3, rows=4000)
    cut = table["time"] < 120 * DAY
    whole, early = (
        build_features(table)[cut.to_numpy()],
        build_features(table[cut].reset_index(drop=True)),
    )
    pd.testing.assert_frame_equal(whole.reset_index(drop=True), early)


@pytest.mark.parametrize(("fault", "subject"), [("cut", "cut at the end"), ("upper", "upper case")])
def test_what_serving_does_to_reviews_is_named(tmp_path, fault, subject, capsys):
    import text_serving_fault

    diagnosis = text_serving_fault.main(["--fault", fault, "--out", str(tmp_path)])
    cause = diagnosis.causes[0]
    assert (cause.cause, cause.subject) == ("train_serve_skew", subject)
    assert diagnosis.decision == "fix_data"
    assert (tmp_path / "report.html").stat().st_size < 3e6
    assert "points lost in production" in capsys.readouterr().out

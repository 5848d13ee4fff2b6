"""Slices of one profile against what the model's scores imply, by sums over all rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Profile, Records, Schema, diagnose, profile
from gendebug_torch.errors import InputError
from gendebug_torch.profiles.answers import slice_scores
from gendebug_torch.profiles.build import sum_of
from gendebug_torch.slices.search.error_events import errors_by_prediction
from gendebug_torch.slices.search.row_losses import quantity_losses

SCHEMA = Schema(target="label", logits="score", ids="row")
QUANTITY = Schema(target="label", logits="score", ids="row", regression=True)


def rows(seed, n=20_000, wrong=0.0):
    """A calibrated model; in 1 % of the rows, those of Zug, a share of the labels is wrong."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    cities = ["Bern", "Basel", "Genf", "Zug"]
    frame["city"] = rng.choice(cities, n, p=[0.33, 0.33, 0.33, 0.01])
    frame["row"], frame["score"] = np.arange(n), 1.5 * frame["a"] - 0.5
    label = (rng.random(n) < 1 / (1 + np.exp(-frame["score"]))).astype(int)
    turned = (frame["city"] == "Zug") & (rng.random(n) < wrong)
    return frame.assign(label=np.where(turned, 1 - label, label))


def as_quantity(frame, wrong):
    noise = np.random.default_rng(len(frame)).normal(size=len(frame)) * (1 + (frame["a"] > 1))
    lost = wrong * (frame["city"] == "Zug")
    return frame.assign(label=frame["score"] + noise + lost)


REFERENCE = rows(100)


def sides(frame, schema, count=1, sample=1000):
    reference = as_quantity(REFERENCE, 0) if schema is QUANTITY else REFERENCE
    known = profile(reference, schema)
    order = np.random.default_rng(count).permutation(len(frame))
    parts = [frame.iloc[part] for part in np.array_split(order, count)]
    return sum_of(profile(p, schema, reference=known, sample=sample) for p in parts)


def worst(side, **options):
    found = diagnose(validation=side, only="slices.worst", **options).findings
    return {f.subject: f for f in found if f.check == "slices.worst"}


def test_errors_of_a_slice_are_counted_and_expected_as_by_all_rows():
    frame = rows(0, wrong=0.6)
    counts = slice_scores(sides(frame, SCHEMA, 3))
    logits, labels = (torch.tensor(frame[name].to_numpy()) for name in ("score", "label"))
    (at,) = [i for i, level in enumerate(counts.binnings[-1].levels) if level.label == "Zug"]
    at += sum(len(binning.levels) for binning in counts.binnings[:-1])
    for event in errors_by_prediction(logits, labels):
        inside = torch.tensor((frame["city"] == "Zug").to_numpy())[event.rows]
        errors, expected, _ = counts.weights(event.name)[:, at, at].tolist()
        assert int(counts.rows(event.name)[at, at]) == int(inside.sum())
        assert int(errors) == int(event.errors[inside].sum())
        assert expected == pytest.approx(float(event.expected_rate()[inside].sum()), rel=0.03)
        # What the bins imply adds up to all errors.
        total = counts.over_rows(counts.weights(event.name))
        assert float(total[0]) == pytest.approx(float(total[1]))


def test_losses_of_a_slice_are_expected_as_by_all_rows():
    frame = as_quantity(rows(1), 3)
    counts = slice_scores(sides(frame, QUANTITY, 3))
    columns = [torch.tensor(frame[name].to_numpy()) for name in ("score", "label")]
    losses, name = quantity_losses(*columns), "mean absolute error"
    inside = torch.tensor((frame["city"] == "Zug").to_numpy())
    (at,) = [i for i, level in enumerate(counts.binnings[-1].levels) if level.label == "Zug"]
    at += sum(len(binning.levels) for binning in counts.binnings[:-1])
    excess, squares = counts.weights(name)[:, at, at].tolist()
    own = (losses.mean - losses.expected())[inside]
    assert excess == pytest.approx(float(own.sum()), rel=0.03)
    assert squares == pytest.approx(float(own.square().sum()), rel=0.03)


@pytest.mark.parametrize("schema", [SCHEMA, QUANTITY])
def test_a_rare_slice_fails_on_all_rows_alike_for_every_partitioning(schema, tmp_path):
    """Of 200 rows the sample has twenty, too few for a slice."""
    frame = rows(2, wrong=0.6) if schema is SCHEMA else as_quantity(rows(2), 8)
    found = [worst(sides(frame, schema, count, 2000)) for count in (1, 16, 64)]
    texts = [{name: (f.severity, f.summary) for name, f in one.items()} for one in found]
    assert texts[0] == texts[1] == texts[2]
    number = found[0]["city = Zug"].numbers
    inside = frame[frame["city"] == "Zug"]
    assert number["support"] == len(inside)
    loss = (inside["score"] - inside["label"]).abs()
    rate = loss if schema is QUANTITY else (inside["score"] > 0) != inside["label"]
    assert number["rate"] == pytest.approx(rate.mean())
    assert "city = Zug" in worst(Records.from_frame(frame, schema))
    assert "city = Zug" not in worst(profile(frame, schema, sample=2000))
    side = sides(frame, schema, sample=2000)
    twin = Profile.load(side.save(tmp_path / "a.profile"))
    assert twin.cells.cuts == side.cells.cuts
    assert worst(twin)["city = Zug"].summary == found[0]["city = Zug"].summary


def test_a_calibrated_model_has_no_failing_slice():
    quiet = [worst(sides(rows(200 + seed, 8000), SCHEMA)) for seed in range(20)]
    assert sum(list(found) != [""] for found in quiet) <= 1
    (finding,) = quiet[0].values()
    assert finding.numbers["rows"] == 8000


def test_slices_are_judged_on_the_sample_where_sums_do_not_say():
    frame = rows(3, 4000)
    grouped = Schema(target="label", logits="score", ids="row", group="city")
    known = profile(frame, grouped)
    assert slice_scores(profile(frame, grouped, reference=known, sample=500)) is None
    side = sides(frame, SCHEMA)
    assert side.cells.bins == 16
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(900, 60))).add_prefix("x")
    wide = wide.assign(score=wide["x0"], label=(wide["x1"] > 0).astype(int))
    schema = Schema(target="label", logits="score")
    assert profile(wide, schema, reference=profile(wide, schema)).cells.bins == 1
    unscored = profile(frame.drop(columns="score"), SCHEMA)
    plain = profile(frame, SCHEMA, reference=unscored, sample=500)
    assert plain.cells.cuts == ()
    assert slice_scores(plain) is None
    reference = profile(frame.assign(score=frame["b"]), SCHEMA)
    other = profile(frame, SCHEMA, reference=reference, sample=1000)
    with pytest.raises(InputError, match="frozen on the same reference"):
        _ = side + other
    # At another threshold the decisions are others, and the sample is asked.
    found = worst(side, options={"slices.worst": {"threshold": 0.3}})
    assert found[""].numbers["rows"] == 1000

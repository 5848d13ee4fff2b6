"""What single columns tell of the target, and confidence of classes, by sums over all rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Profile, Records, Schema, diagnose, profile
from gendebug_torch.leakage.checks._candidates import column_screen
from gendebug_torch.leakage.columns.missing_values import missing_value_association
from gendebug_torch.profiles.associations import counted_missing, with_counted_columns
from gendebug_torch.profiles.build import sum_of

KINDS = ("two", "three", "real")


def schema_of(kind):
    return Schema(target="y", categorical="zip", ids="row", regression=kind == "real")


def rows(seed, kind, n=30_000):
    """A table whose columns follow the target in several ways, and miss values for one class."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    signal = x + 0.7 * rng.normal(size=n)
    y = {"two": (signal > 0.5) * 1, "three": 4 + (signal > 0) + (signal > 1), "real": 1e5 + signal}
    frame = pd.DataFrame({"x": x, "large": 1e6 + x, "square": x**2, "noise": rng.normal(size=n)})
    frame["zero"] = np.where(rng.random(n) < 0.4, 0.0, np.exp(2 * x))
    frame["wide"] = np.exp(4 * rng.normal(size=n)) * np.sign(x)
    frame["wide"] = frame["wide"].where(rng.random(n) > 0.01, np.inf)
    frame["lost"] = np.where((signal > 1) & (rng.random(n) < 0.3), np.nan, rng.normal(size=n))
    frame["age"] = rng.integers(18, 90, n)
    frame["zip"] = np.where(signal > 1, rng.choice([1001, 8000], n), rng.choice([8000, 3012], n))
    frame["name"] = [f"n{i}" for i in (rng.integers(0, 400, n) + 100 * (signal > 0))]
    return frame.assign(row=np.arange(n), y=y[kind])


def parts_of(frame, count):
    order = np.random.default_rng(count).permutation(len(frame))
    return [frame.iloc[part] for part in np.array_split(order, count)]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_tell_of_the_target_what_all_rows_tell(kind):
    frame, schema = rows(0, kind), schema_of(kind)
    records, side = Records.from_frame(frame, schema), profile(frame, schema, sample=2000)
    whole = column_screen(records).found
    found = with_counted_columns(column_screen(side.records), side).found
    assert (found.names, found.n, found.classes) == (whole.names, whole.n, whole.classes)
    near = {"explained": 5e-3, "explained_error": 1e-3, "auc": 2e-3, "best_explained": 5e-3}
    near |= {} if kind == "real" else {"information": 5e-3, "information_error": 1e-3}
    for measure, tolerance in near.items():
        pair = getattr(found, measure), getattr(whole, measure)
        assert torch.allclose(*pair, rtol=0, atol=tolerance, equal_nan=True), measure
    # No bins: correlations and columns of names are exact.
    assert torch.allclose(found.pearson, whole.pearson, rtol=0, atol=1e-8, equal_nan=True)
    for name in ("zip", "name"):
        i = found.names.index(name)
        assert float(found.explained[i]) == pytest.approx(float(whole.explained[i]), rel=1e-9)
    indicators = pd.get_dummies(frame["y"]).astype(float) if kind == "three" else frame[["y"]]
    r = max((np.corrcoef(frame["x"], y)[0, 1] for y in indicators.to_numpy().T), key=abs)
    assert float(found.pearson[found.names.index("x")]) == pytest.approx(r, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_are_counted_against_the_target(kind):
    frame, schema = rows(1, kind), schema_of(kind)
    records, side = Records.from_frame(frame, schema), profile(frame, schema, sample=2000)
    whole = missing_value_association(records.features, records.targets)
    found = counted_missing(side)
    assert found.names == whole.names
    assert torch.equal(found.missing, whole.missing)
    assert torch.equal(found.classes, whole.classes)
    # The ranges of a real target end within a cell.
    least = 0.002 * len(frame) if kind == "real" else 0
    assert float((found.hits - whole.hits).abs().max()) <= least
    assert torch.allclose(found.correlation, whole.correlation, atol=1e-9, equal_nan=True)
    lost = frame["lost"].isna()
    at = found.names.index("lost")
    assert int(found.missing[at]) == lost.sum()
    if kind == "two":
        r = np.corrcoef(lost, frame["y"])[0, 1]
        assert float(found.correlation[at]) == pytest.approx(r, abs=1e-9)


def judged(sides, only):
    found = diagnose(**sides, only=only)
    return {(f.check, f.subject, f.severity): f for f in found.findings}


def test_a_leak_in_rows_that_are_hardly_sampled_is_found():
    """One row in 300 lacks a value, always with the rare class: seven rows of the sample."""
    rng = np.random.default_rng(2)
    y = (rng.random(60_000) < 0.003) * 1
    frame = pd.DataFrame({"x": rng.normal(size=60_000), "y": y})
    frame["refund"] = np.where(y == 1, np.nan, rng.normal(size=60_000))
    schema = Schema(target="y")
    side = profile(frame, schema, sample=1000)
    whole = judged({"train": Records.from_frame(frame, schema)}, "leakage.missing")
    found = judged({"train": side}, "leakage.missing")
    (key,) = [key for key in whole if key[1] == "refund"]
    assert found[key].numbers == pytest.approx(whole[key].numbers)
    assert found[key].summary == whole[key].summary


@pytest.mark.parametrize("kind", KINDS)
def test_findings_on_columns_are_the_same_for_every_partitioning(kind):
    frame, schema = rows(3, kind, 12_000), schema_of(kind)
    frame["leak"] = frame["y"] + 0.01 * np.random.default_rng(0).normal(size=len(frame))
    texts = []
    for count in (1, 16, 64):
        parts = (profile(part, schema, sample=1000) for part in parts_of(frame, count))
        found = diagnose(train=sum_of(parts), only="leakage")
        texts.append([(f.check, f.subject, f.severity, f.summary) for f in found.findings])
    assert texts[0] == texts[1] == texts[2]
    assert any(line[:2] == ("leakage.columns", "leak") for line in texts[0])
    sides = found, diagnose(train=Records.from_frame(frame, schema), only="leakage.columns")
    pair = [
        next(f for f in side.findings if f.check == "leakage.columns" and f.subject == "leak")
        for side in sides
    ]
    for number in ("explained", "pearson", "n"):
        assert pair[0].numbers[number] == pytest.approx(pair[1].numbers[number], abs=5e-3), number


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_the_target_are_stored_and_small(kind, tmp_path):
    frame, schema = rows(4, kind), schema_of(kind)
    side = profile(frame, schema, sample=500)
    twin = Profile.load(side.save(tmp_path / "a.profile"))
    for name, column in side.columns.items():
        one, other = column.target, twin.columns[name].target
        assert one.names == other.names
        for part in ("levels", "moments", "missing"):
            assert np.array_equal(getattr(one, part), getattr(other, part)), (name, part)
        if one.cells is not None:
            assert np.array_equal(one.cells.sums, other.cells.sums)
            assert one.cells.sums.size <= 1 << 14
    more = side + profile(rows(5, kind), schema, sample=500)
    size = (tmp_path / "a.profile").stat().st_size
    assert more.save(tmp_path / "b.profile").stat().st_size < 1.2 * size


def test_labels_may_lack_in_parts_and_names_may_be_too_many():
    frame, schema = rows(6, "two", 9000), schema_of("two")
    frame["key"] = [f"k{i}" for i in range(9000)]
    frame["gone"] = np.nan
    known = frame[:6000]
    both = profile(known, schema) + profile(frame[6000:].drop(columns="y"), schema)
    column = both.columns["x"].target
    assert column.cells.sums.sum(0).tolist() == known["y"].value_counts().sort_index().tolist()
    assert both.columns["key"].target.names is None
    assert both.columns["gone"].target.missing.sum() == 6000
    filled = profile(frame.assign(gone=1.0), schema) + both
    assert filled.columns["gone"].target.cells.sums.sum() == 9000
    zeros = [profile(known[known["y"] == label], schema) for label in (0, 1)]
    whole, halves = profile(known, schema), sum_of(zeros)
    for name in ("x", "wide", "age"):
        pair = whole.columns[name].target.cells, halves.columns[name].target.cells
        assert np.array_equal(pair[0].keys, pair[1].keys)
        assert np.array_equal(pair[0].sums, pair[1].sums)


def scored(seed, scale, n=40_000):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n, 3))
    frame = pd.DataFrame(logits, columns=["one", "two", "three"])
    return frame.assign(x=rng.normal(size=n), y=logits.argmax(1))


def test_confidence_of_classes_is_compared_on_all_rows(tmp_path):
    schema = Schema(target="y", logits=("one", "two", "three"))
    frames = {"validation": scored(7, 1.0), "production": scored(8, 1.3)}
    whole = {name: Records.from_frame(frame, schema) for name, frame in frames.items()}
    sides = {
        name: sum_of(profile(part, schema, sample=300) for part in parts_of(frame, 5))
        for name, frame in frames.items()
    }
    expected, found = judged(whole, "shift.confidence"), judged(sides, "shift.confidence")
    (key,) = [key for key in expected if key[0] == "shift.confidence"]
    for number in ("statistic", "n", "m", "mean_production", "near_low", "near_high"):
        assert found[key].numbers[number] == pytest.approx(expected[key].numbers[number], abs=2e-3)
    twin = Profile.load(sides["production"].save(tmp_path / "a.profile"))
    assert np.array_equal(twin.outcomes.top.counts, sides["production"].outcomes.top.counts)
    unlabeled = profile(frames["production"].drop(columns="y"), schema)
    assert unlabeled.outcomes.top.n == 40_000

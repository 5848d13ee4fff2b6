"""Profiles: the same whatever the partitions, order and form of rows; saved, refused, judged."""

import json
from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from gendebug_torch import Profile, Records, Schema, Severity, compare, diagnose, profile
from gendebug_torch.cli.main import main
from gendebug_torch.errors import InputError, MissingExtraError
from gendebug_torch.profiles.build import sum_of
from gendebug_torch.profiles.engines.extras import library
from gendebug_torch.profiles.sums.sketch import sketch

# Numbers that are fitted to folds of the rows, whose order differs.
_FITTED = ("gain", "after", "error", "temperature")
SCHEMA = Schema(target="label", logits="score", time="at", ids="row", categorical="zip")


def rows(seed, n=6000, **shift):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["a"] += shift.get("a", 0.0)
    frame["b"] = frame["b"].where(rng.random(n) > shift.get("missing", 0.1))
    frame["age"] = rng.integers(18, 90, n)
    frame["zip"] = rng.choice(["01001", "8000", "3012"], n)
    frame["city"] = rng.choice(["Bern", "Basel", shift.get("city", "Genf")], n)
    frame["row"] = np.arange(n)
    frame["at"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), "s")
    frame["score"] = 1.5 * x[:, 0]
    sharp = shift.get("sharp", 1.0)
    frame["label"] = (rng.random(n) < 1 / (1 + np.exp(-frame["score"] * sharp))).astype(int)
    return frame


def parts_of(frame, count, seed=0):
    order = np.random.default_rng(seed).permutation(len(frame))
    return [frame.iloc[part] for part in np.array_split(order, count)]


def equal(one, other):
    """Whether two profiles hold the same counts, grids and rows, and sums to a part in 1e12."""
    a, b = one._tensors(), other._tensors()
    assert a.keys() == b.keys()
    for key in ("sample.table", "extremes"):
        del a[key], b[key]
    assert one.sample.table.equals(other.sample.table)
    assert one.extremes.equals(other.extremes)
    for name, tensor in a.items():
        near = tensor.is_floating_point() and name.startswith(("outcomes", "windows"))
        near |= name.endswith("target.moments")
        same = torch.allclose(tensor, b[name], rtol=1e-12) if near else torch.equal(tensor, b[name])
        assert same, name
    assert one.rows == other.rows
    for name, column in one.columns.items():
        twin = other.columns[name]
        assert (column.kind, column.missing, column.levels) == (
            twin.kind,
            twin.missing,
            twin.levels,
        )


@pytest.mark.parametrize("count", [3, 16, 200])
def test_partitions_in_any_order_make_one_profile(count):
    frame = rows(0, 40_000)
    whole = profile(frame, SCHEMA, sample=500)
    parts = [profile(part, SCHEMA, sample=500) for part in parts_of(frame, count, count)]
    equal(whole, sum_of(parts))
    equal(whole, reduce(Profile.__add__, parts[::-1]))


def test_a_sketch_is_as_near_as_it_says_and_exact_where_values_are_few():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=200_000), rng.lognormal(0, 3, 200_000), rng.random(200_000)):
        found = sketch(values)
        stored = found.quantiles(1000)
        ranks = np.searchsorted(np.sort(values), stored) / len(values)
        assert np.abs(ranks - (np.arange(1000) + 0.5) / 1000).max() <= found.error + 1e-3
        assert found.error < 0.002
    few = rng.integers(-50, 50, 100_000).astype(float)
    assert sketch(few).error == 0
    assert np.array_equal(sketch(few).quantiles(100_000), np.sort(few))


def test_every_form_of_rows_gives_the_same_profile(tmp_path):
    frame = rows(1)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    whole = profile(frame, SCHEMA)
    (tmp_path / "parts" / "day=1").mkdir(parents=True)
    for at, part in enumerate(parts_of(frame, 3)):
        pq.write_table(
            pa.Table.from_pandas(part, preserve_index=False), tmp_path / "parts" / f"{at}.parquet"
        )
    forms = [table, table.to_batches(1000), iter(parts_of(frame, 4)), str(tmp_path / "parts")]
    forms += [ds.dataset(table), ds.dataset(table).scanner().to_reader()]
    forms += [str(tmp_path / "parts" / "*.parquet"), f"file://{tmp_path}/parts"]
    for form in forms:
        equal(whole, profile(form, SCHEMA))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    read = profile(tmp_path / "rows.csv", SCHEMA)
    assert read.columns["zip"].levels == whole.columns["zip"].levels
    assert torch.equal(read.outcomes.confusion, whole.outcomes.confusion)


def test_a_saved_profile_is_the_same_and_small(tmp_path):
    found = profile(rows(2, 60_000), SCHEMA, sample=2000)
    path = found.save(tmp_path / "a.profile")
    equal(found, Profile.load(path))
    equal(found, Profile.from_bytes(found.to_bytes()))
    twice = found + profile(rows(3, 60_000), SCHEMA, sample=2000)
    assert twice.save(tmp_path / "b.profile").stat().st_size < 1.2 * path.stat().st_size
    assert list(found.table()["column"]) == ["a", "b", "c", "age", "zip", "city"]


def key(finding):
    return finding.check, finding.subject, finding.severity


def judged(validation, production, **options):
    found = diagnose(validation=validation, production=production, **options)
    return {key(f): f for f in found.findings if not f.check.startswith("diagnose.")}


def test_few_rows_are_judged_as_records_are():
    schema = Schema(target="label", logits="score", ids="row", metadata="at", categorical="zip")
    sides = rows(4), rows(5, a=0.5, missing=0.4, city="Biel", sharp=0.5)
    records = [Records.from_frame(side, schema) for side in sides]
    profiles = [profile(side, schema) for side in sides]
    only = ["shift.ks", "shift.categories", "shift.missing", "shift.quality", "calibration.ece"]
    only += ["calibration.production_ece"]
    expected, found = judged(*records, only=only), judged(*profiles, only=only)
    assert expected.keys() == found.keys()
    for name, finding in expected.items():
        for number, value in finding.numbers.items():
            if isinstance(value, float) and not number.endswith(
                ("gain", "after", "error", "ature")
            ):
                other = found[name].numbers[number]
                assert other == pytest.approx(value, rel=1e-6, abs=2e-3), (name, number)


def test_many_rows_are_judged_by_their_sums_and_the_sample_is_named():
    schema = Schema(target="label", logits="score", ids="row", metadata="at", categorical="zip")
    sides = rows(6, 60_000), rows(7, 60_000, a=0.4, missing=0.4, sharp=0.6)
    compared = {
        "shift.ks": "a",
        "shift.missing": "b",
        "shift.quality": "",
        "calibration.production_ece": "",
        "calibration.threshold": "",
        "shift.confidence": "",
    }
    whole = judged(*(Records.from_frame(side, schema) for side in sides), only=list(compared))
    profiles = [profile(side, schema, sample=4000) for side in sides]
    found = diagnose(validation=profiles[0], production=profiles[1])
    named = [f for f in found.findings if f.check == "diagnose.profiles"]
    assert "sample of 4,000" in named[0].summary
    assert found.context["production"] == "60,000 rows"
    sums = {key(f): f for f in found.findings}
    for check, subject in compared.items():
        (known,) = [f for k, f in whole.items() if k[:2] == (check, subject)]
        assert key(known) in sums
        numbers = ["statistic", "difference", "AUC production", "accuracy production", "ece"]
        for number in [*numbers, "auc_production", "positive_rate_production", "near_low", "n"]:
            if number in known.numbers:
                assert sums[key(known)].numbers[number] == pytest.approx(
                    known.numbers[number], abs=2e-3
                )
        if "m" in known.numbers:
            assert sums[key(known)].numbers["m"] == known.numbers["m"]


OUTPUTS = Schema(target="label", logits="score", ids="row", metadata="at", categorical="zip")
CLASSES = Schema(target="label", logits=("one", "two", "three"), ids="row", metadata="at")
QUANTITY = Schema(target="label", logits="score", regression=True, ids="row", metadata="at")


def with_errors(frame, schema, rows, seed=0):
    """The same with labels or answers that are wrong in some rows."""
    rng = np.random.default_rng(seed)
    frame = frame.copy()
    if schema is QUANTITY:
        noise = np.where(rows, 4.0, 1.0) * rng.normal(size=len(frame))
        return frame.assign(label=frame["score"] + noise)
    if schema is CLASSES:
        frame["label"] = rng.integers(0, 3, len(frame))
        answer = np.where(rows | (rng.random(len(frame)) < 0.1), 2 - frame["label"], frame["label"])
        names = ("one", "two", "three")
        return frame.assign(**{name: 3.0 * (answer == i) for i, name in enumerate(names)})
    return frame.assign(label=np.where(rows, 1 - frame["label"], frame["label"]))


@pytest.mark.parametrize("schema", [OUTPUTS, CLASSES, QUANTITY])
def test_slices_of_a_reference_are_judged_on_all_rows(schema, tmp_path):
    """Few rows are sampled, so that a slice of 1 % has next to none of them."""
    frames = [rows(seed, 20_000) for seed in (20, 21)]
    rare = [np.random.default_rng(seed).random(20_000) < 0.01 for seed in (0, 1)]
    for frame, chosen in zip(frames, rare, strict=True):
        frame.loc[chosen, "city"] = "Zug"
    before = with_errors(frames[0], schema, np.zeros(20_000, bool))
    after = with_errors(frames[1], schema, rare[1], 1)
    reference = profile(before, schema)
    sides = [
        sum_of(profile(p, schema, reference=reference, sample=500) for p in parts_of(frame, 3))
        for frame in (before, after)
    ]
    whole = profile(after, schema, reference=reference, sample=500)
    assert torch.allclose(sides[1].cells.sums, whole.cells.sums, rtol=1e-12)
    equal(whole, Profile.load(whole.save(tmp_path / "a.profile")))
    assert Profile.from_bytes(whole.to_bytes()).cells.binnings == whole.cells.binnings
    records = [Records.from_frame(frame, schema) for frame in (before, after)]
    expected = judged(*records, only="slices.collapse")
    found = judged(*sides, only="slices.collapse")
    (name,) = [name for name in expected if name[1] == "city = Zug"]
    for number in ("rate_validation", "rate_production", "support", "change_overall"):
        assert found[name].numbers[number] == pytest.approx(expected[name].numbers[number])
    assert compare(*sides).worse
    plain = [profile(frame, schema, sample=500) for frame in (before, after)]
    assert name not in judged(*plain, only="slices.collapse")


def test_slices_need_one_reference_of_the_same_columns():
    frame = rows(22, 600)
    reference = profile(frame, OUTPUTS)
    part = profile(frame, OUTPUTS, reference=reference)
    # The slices of a profile are those of whatever refers to it in turn.
    assert profile(frame, OUTPUTS, reference=part).cells.binnings == part.cells.binnings
    with pytest.raises(InputError, match="in all parts"):
        _ = part + profile(frame, OUTPUTS)
    with pytest.raises(InputError, match="frozen on the same reference"):
        _ = part + profile(frame, OUTPUTS, reference=profile(frame.assign(a=frame["b"]), OUTPUTS))
    with pytest.raises(InputError, match="city"):
        profile(frame.drop(columns="city"), OUTPUTS, reference=reference)
    with pytest.raises(InputError, match="a Profile"):
        profile(frame, OUTPUTS, reference=frame)
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 100))).add_prefix("x")
    with pytest.raises(InputError, match="at most 512 levels"):
        profile(wide, Schema(), reference=profile(wide, Schema()))
    unlabeled = frame.drop(columns=["label", "score"])
    assert profile(unlabeled, OUTPUTS, reference=reference).cells.sums is None


def test_findings_are_the_same_for_every_partitioning():
    schema = Schema(target="label", logits="score", ids="row", metadata="at", categorical="zip")
    sides = rows(8, 30_000), rows(9, 30_000, a=0.3)
    texts = []
    for count in (1, 7, 60):
        pair = [
            sum_of(profile(part, schema, sample=1000) for part in parts_of(side, count))
            for side in sides
        ]
        found = diagnose(validation=pair[0], production=pair[1], only=["shift", "calibration"])
        texts.append([(f.check, f.subject, f.severity, f.summary) for f in found.findings])
    assert texts[0] == texts[1] == texts[2]


def test_records_stand_beside_a_profile():
    schema = Schema(target="label", logits="score", ids="row", metadata="at", categorical="zip")
    before = Records.from_frame(rows(10), schema)
    found = judged(before, profile(rows(11, a=0.6), schema), only="shift.ks")
    assert ("shift.ks", "a", Severity.WARN) in found


def test_records_add_to_rows_of_a_file_by_the_names_of_their_classes():
    frame = rows(23, 900)
    frame["label"] = frame["label"].map({0: "on time", 1: "late"}).where(frame["a"] < 2)
    schema = Schema(**{**SCHEMA.__dict__, "classes": ("on time", "late")})
    records = Records.from_frame(frame[:400], schema)
    whole, halves = profile(frame, schema), profile(records) + profile(frame[400:], schema)
    assert torch.equal(whole.outcomes.confusion, halves.outcomes.confusion)
    assert int(halves.outcomes.labels.sum()) == int(frame["label"].notna().sum())


def test_regression_and_many_classes_add_up():
    rng = np.random.default_rng(0)
    y = rng.normal(size=5000)
    frame = pd.DataFrame({"x": y, "y": y, "out": y + 0.5 * rng.normal(size=5000)})
    schema = Schema(target="y", logits="out", regression=True)
    found = profile(frame[:2000], schema) + profile(frame[2000:], schema)
    assert found.outcomes.loss.mean == pytest.approx(float(((frame.out - frame.y) ** 2).mean()))
    logits = pd.DataFrame(rng.normal(size=(5000, 4)), columns=list("abcd"))
    frame = logits.assign(x=1.0, y=logits.to_numpy().argmax(1))
    whole = profile(frame, Schema(target="y", logits=list("abcd")))
    assert whole.outcomes.confusion.trace() == 5000


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda f: f.drop(columns="c"), "c in one part alone"),
        (lambda f: f.assign(a=f["a"].astype(str)), "quantity in all parts"),
        (lambda f: f.drop(columns="at"), "missing"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(other, words):
    frame = rows(12, 500)
    with pytest.raises(InputError, match=words):
        _ = profile(frame, SCHEMA) + profile(other(frame), SCHEMA)


def test_schemas_versions_and_foreign_files_are_refused(tmp_path):
    frame = rows(13, 500)
    found = profile(frame, SCHEMA)
    with pytest.raises(InputError, match="another threshold"):
        _ = found + profile(frame, Schema(**{**SCHEMA.__dict__, "threshold": 0.3}))
    other = Schema(**{**SCHEMA.__dict__, "ids": ("row", "age"), "regression": True})
    with pytest.raises(InputError, match="another reading of age, regression in production"):
        diagnose(validation=found, production=profile(frame, other))
    with pytest.raises(InputError, match="sample of"):
        _ = found + profile(frame, SCHEMA, sample=10)
    other = found.to_bytes().replace(b'\\"version\\": 1', b'\\"version\\": 9')
    with pytest.raises(InputError, match="version 1"):
        Profile.from_bytes(other)
    (tmp_path / "a.profile").write_bytes(b"no profile")
    with pytest.raises(InputError, match=r"a\.profile"):
        Profile.load(tmp_path / "a.profile")
    with pytest.raises(MissingExtraError, match=r"gendebug_torch\[ray\]"):
        library("no_such_engine", "ray")


def test_empty_partitions_gaps_and_other_orders_add():
    frame = rows(14, 1000)
    whole = profile(frame, SCHEMA)
    for empty in (frame[:0], pd.DataFrame()):
        schema = SCHEMA
        equal(whole, profile([frame[:0], frame], schema))
        if empty.shape[1]:
            equal(whole, profile(empty, schema) + whole)
    turned = frame[frame.columns[::-1]]
    halves = profile(frame[:400], SCHEMA) + profile(turned[400:], SCHEMA)
    assert np.array_equal(halves.sample.hashes, whole.sample.hashes)
    gaps = frame.assign(age=None, city=None)
    both = profile(frame, SCHEMA) + profile(gaps, SCHEMA)
    assert both.columns["age"].missing == both.columns["city"].missing == 1000


def test_clocks_in_two_zones_are_one_time():
    frame = rows(15, 2000)
    utc = frame.assign(at=frame["at"].dt.tz_localize("UTC"))
    bern = frame.assign(at=utc["at"].dt.tz_convert("Europe/Zurich"))
    halves = profile(utc[:1000], SCHEMA) + profile(bern[1000:], SCHEMA)
    equal(profile(utc, SCHEMA), halves)
    assert halves.windows.table()["rows"].sum() == 2000


def test_broken_files_of_a_folder_are_named_and_counted(tmp_path):
    for at, part in enumerate(parts_of(rows(16, 900), 3)):
        part.to_parquet(tmp_path / f"{at}.parquet", index=False)
    (tmp_path / "1.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match=r"1 of 3 that cannot be read: .*1\.parquet"):
        profile(tmp_path, SCHEMA)
    rows(17, 30).drop(columns="c").to_parquet(tmp_path / "1.parquet")
    with pytest.raises(InputError, match=r"1\.parquet: .*c in one part alone"):
        profile(tmp_path, SCHEMA)
    with pytest.raises(InputError, match="no such file"):
        profile(tmp_path / "none.parquet", SCHEMA)


def test_a_model_over_a_loader_makes_a_profile():
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 3)
    batches = [(torch.randn(32, 4), torch.randint(0, 3, (32,))) for _ in range(70)]
    found = profile(batches, model=network)
    assert found.rows == found.outcomes.labeled == 70 * 32
    logits = network(torch.cat([x for x, _ in batches]))
    right = (logits.argmax(1) == torch.cat([y for _, y in batches])).sum()
    assert found.outcomes.confusion.trace() == right


def test_the_commands_write_read_and_compare_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "target: label\nlogits: score\nids: row\nmetadata: at\ncategorical: zip\n"
    )
    reference = []
    for name, frame in (("v", rows(17)), ("w", rows(18, a=0.6))):
        frame.to_parquet(f"{name}.parquet")
        words = ["profile", f"{name}.parquet", "--schema", "s.yaml", "--out", f"{name}.profile"]
        assert main([*words, *reference]) == 0
        reference = ["--reference", "v.profile"]
    assert main([*words, "--reference", "s.yaml"]) == 2
    sides = ["--validation", "v.profile", "--production", "w.profile"]
    assert main(["diagnose", *sides, "--out", "out", "--only", "shift.ks"]) == 1
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert any(f["subject"] == "a" and f["severity"] == "warn" for f in found)
    assert main(["compare", "v.profile", "v.profile", "--out", "same"]) == 0
    assert main(["compare", "v.profile", "w.profile", "--out", "other"]) == 1
    assert main(["compare", "v.profile", "out", "--out", "mixed"]) == 2


def test_a_file_that_links_lead_to_as_well_is_read_once(tmp_path):
    folder = tmp_path / "weeks"
    (folder / "week1").mkdir(parents=True)
    frame = pd.DataFrame({"a": range(30)})
    frame.to_csv(folder / "week1" / "rows.csv", index=False)
    (folder / "latest.csv").symlink_to("week1/rows.csv")
    (folder / "week1" / "again").symlink_to("..")
    assert profile(str(folder), Schema()).rows == 30
    assert profile(str(folder / "*.csv"), Schema()).rows == 30


def test_a_file_with_a_colon_in_its_name_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"x": range(5), "label": [0, 1, 0, 1, 1]}).to_csv("week:47.csv", index=False)
    assert profile("week:47.csv", Schema(target="label")).rows == 5
    with pytest.raises(InputError, match=r"os:getcwd: no such file"):
        profile("os:getcwd", Schema(target="label"))

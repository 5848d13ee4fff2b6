"""`shift`: tables read in chunks and prepared in constant size, against the same tables in memory;
the command on them."""

import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.cli.main import main
from gendebug_torch.errors import InputError
from gendebug_torch.shift import (
    PreparedReference,
    ks_two_sample,
    prepare_reference,
    prepare_table,
)
from gendebug_torch.shift.checks._columns import PreparedPair
from gendebug_torch.shift.checks.categories import categories_keep_their_shares
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.missing import values_are_missing_as_often
from gendebug_torch.shift.columns import chunks
from gendebug_torch.shift.columns.prepared_table import PreparedTable, table_comparison


def table(seed, n=20_000):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    frame.loc[rng.random(n) < 0.3, "b"] = np.nan
    frame["c"] = rng.integers(0, 5, n)
    frame["word"] = rng.choice(["x", "y", "z"], n, p=[0.5, 0.3, 0.2])
    return frame


def write(frame, path, groups=(7, 5000, 1, 12_000)):
    """One file with row groups of unequal size."""
    whole = pa.Table.from_pandas(frame, preserve_index=False)
    with pq.ParquetWriter(path, whole.schema) as writer:
        start = 0
        for rows in (*groups, len(frame)):
            writer.write_table(whole.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    return path


def numbers(frame):
    return torch.from_numpy(frame[["a", "b", "c"]].to_numpy(dtype=np.float64, copy=True))


def distance(one, other):
    """Largest distance of two distribution functions, column by column."""
    return ks_two_sample(one, other.columns.T).statistic


COLUMN_CHECKS = (
    features_keep_their_distribution,
    values_are_missing_as_often,
    categories_keep_their_shares,
)


def table_findings(pair):
    """What the checks of columns say of two prepared tables."""
    prepared, rows = PreparedPair(pair), Records(pd.DataFrame({"a": []}), name="production")
    return [finding for check in COLUMN_CHECKS for finding in check(rows, column_pair=prepared)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(chunks, "CHUNK_COLUMNS", 2)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 16)


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize("size", [64, 500, 30_000])
def test_a_file_in_chunks_says_what_the_table_in_memory_says(tmp_path, small_chunks, size, kind):
    before, after = (
        table(0),
        table(1).assign(a=lambda frame: frame["a"] + 0.2)[["word", "c", "b", "a"]],
    )
    paths = [tmp_path / f"{name}.{kind}" for name in ("before", "after")]
    for frame, path in zip((before, after), paths, strict=True):
        _ = write(frame, path) if kind == "parquet" else frame.to_csv(path, index=False)
    known, live = (prepare_table(path, size=size) for path in paths)
    found, whole = known.quantities, prepare_reference(numbers(before))
    assert (found.names, known.rows, known.columns) == (
        ("a", "b", "c"),
        20_000,
        ("a", "b", "c", "word"),
    )
    assert torch.equal(found.n, whole.n)
    assert torch.equal(found.missing, whole.missing)
    assert (distance(whole, found) <= found.error + 1e-12).all()
    assert (found.error <= (2 + math.log2(40)) / (2 * size)).all()
    pair = table_comparison(known, live)
    test, full = pair.quantities.independent, ks_two_sample(whole, numbers(after))
    assert ((test.statistic - full.statistic).abs() <= test.error + 1e-12).all()
    assert (test.p_value >= full.p_value).all()
    assert size == 64 or float(test.p_value[0]) < 1e-6
    if size == 30_000:
        assert torch.equal(test.statistic, full.statistic)
        assert torch.equal(test.conditional_p_value, full.conditional_p_value)
        assert not test.error.any()
    assert pair.missing.reference.tolist() == [0, int(before["b"].isna().sum()), 0, 0]
    (words,) = pair.categories
    assert words.reference.tolist() == before["word"].value_counts().sort_index().tolist()


def test_prepared_tables_say_what_the_checks_say_of_records(tmp_path, small_chunks):
    before = table(0)
    after = table(1).assign(a=lambda frame: frame["a"] + 0.5, word="x", b=np.nan)
    sides = [
        prepare_table(write(frame, tmp_path / f"{i}.parquet"), size=30_000)
        for i, frame in enumerate((before, after))
    ]
    pair = Records(after, name="1"), Records(before, name="0")
    told = table_findings(table_comparison(*sides))
    expected = [finding for check in COLUMN_CHECKS for finding in check(*pair)]
    assert [(f.check, f.subject, f.severity) for f in told] == [
        (f.check, f.subject, f.severity) for f in expected
    ]
    assert [f.numbers for f in told] == [f.numbers for f in expected]
    assert {
        finding.subject for finding in told if finding.severity.level >= Severity.WARN.level
    } == {"a", "b", "word"}


def test_a_saved_table_says_the_same_in_constant_size(tmp_path):
    sizes = []
    for n in (20_000, 60_000):
        known = prepare_table(write(table(0, n), tmp_path / "before.parquet"), size=256)
        loaded = PreparedTable.load(known.save(tmp_path / "before.profile"))
        live = prepare_table(write(table(1, 300), tmp_path / "after.parquet"))
        pairs = [table_comparison(one, live) for one in (known, loaded)]
        assert torch.equal(pairs[0].quantities.test.p_value, pairs[1].quantities.test.p_value)
        assert pairs[0].categories[0].p_value == pairs[1].categories[0].p_value
        sizes.append((tmp_path / "before.profile").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 100
    prepare_reference(torch.zeros(3, 1), names=["a"]).save(tmp_path / "other.safetensors")
    for broken in ("other.safetensors", "before.parquet", "absent"):
        with pytest.raises(InputError, match=r"^`path`"):
            PreparedTable.load(tmp_path / broken)


def test_references_add_in_any_order_within_their_error():
    rows = torch.randn(9000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:4000, 1] = math.nan
    parts = [prepare_reference(piece).sketch(100) for piece in rows.split([10, 3990, 50, 4950])]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = sum((parts[i] for i in order[1:]), parts[order[0]])
        assert total.n.tolist() == [9000, 5000]
        assert total.missing.tolist() == [0, 4000]
        assert total.columns.shape == (2, 100)
        assert (distance(prepare_reference(rows), total) <= total.error + 1e-12).all()
        assert (total.error < 0.025).all()
    exact = prepare_reference(rows[:4500]) + prepare_reference(rows[4500:])
    assert torch.equal(
        exact.columns.nan_to_num(9.0)[:, :9000], prepare_reference(rows).columns.nan_to_num(9.0)
    )
    assert isinstance(exact, PreparedReference)
    with pytest.raises(InputError, match=r"^`other`"):
        parts[0] + prepare_reference(rows).sketch(50)


def test_odd_files(tmp_path):
    frame = table(0, 50).assign(
        flag=True, day=pd.Timestamp(0), empty=np.nan, whole=pd.array([1, None] * 25, dtype="Int64")
    )
    frame["id"] = np.arange(50) + 2**60
    path = write(frame, tmp_path / "odd.parquet")
    found = prepare_table(path, schema=Schema(target="c", categorical=("a",)))
    assert found.quantities.names == ("b", "empty", "whole", "id")
    assert found.quantities.n.tolist()[1:] == [0, 25, 50]
    assert found.identifiers == {"id"}
    assert found.columns == ("a", "b", "word", "flag", "day", "empty", "whole", "id")
    assert found.missing["empty"] == 50
    assert len(found.levels["a"]) == 50
    nothing = prepare_table(write(frame.iloc[:0], tmp_path / "nothing.parquet"))
    pair = table_comparison(prepare_table(path), nothing)
    assert pair.quantities.test.statistic.isnan().all()
    assert {finding.severity for finding in table_findings(pair)} <= {
        Severity.NOTE,
        Severity.OK,
    }
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    calls = {
        "path": lambda: prepare_table(tmp_path / "broken.parquet"),
        "schema": lambda: prepare_table(path, schema=Schema(time="when")),
        "size": lambda: prepare_table(path, size=1),
        "other": lambda: found + prepare_table(path),
    }
    for argument, call in calls.items():
        with pytest.raises(InputError, match=f"^`{argument}`"):
            call()


def test_codes_are_compared_as_they_are_written_whatever_a_file_suggests(tmp_path):
    before, after = ["1001", "2002"] * 100, ["1001", "2002"] * 98 + ["01001", "K1A0B", "", ""]
    for name, codes in (("before", before), ("after", after)):
        pd.DataFrame({"zip": codes, "x": 1.5}).to_csv(tmp_path / f"{name}.csv", index=False)
    schema = Schema(categorical=("zip",))
    tables, samples = zip(
        *(
            chunks.read_table_in_chunks(tmp_path / f"{name}.csv", schema)
            for name in ("before", "after")
        ),
        strict=True,
    )
    (codes,) = table_comparison(*tables).categories
    assert codes.levels == ("01001", "1001", "2002", "K1A0B")
    assert codes.unseen[0] == 2
    assert tables[1].missing["zip"] == 2
    assert [sample.features["zip"].dtype.kind for sample in samples] == ["i", "O"]


def test_decimals_are_quantities_and_a_column_without_values_stays_one(tmp_path):
    rng = np.random.default_rng(0)
    sides = []
    for name, shift in (("before", 0), ("after", 30)):
        values = rng.integers(50, 150, 400) + shift
        columns = {
            "amount": pa.array([Decimal(int(value)) for value in values], pa.decimal128(12, 2)),
            "ratio": pa.array(values.astype(np.float16)),
            "whole": pa.array(values, pa.uint8()),
        }
        columns["empty"] = pa.nulls(400) if shift else pa.array(values * 1.5)
        columns["when"] = pa.array(range(400), pa.timestamp("s"))
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        sides.append(prepare_table(tmp_path / f"{name}.parquet", schema=Schema(time="when")))
    pair = table_comparison(*sides)
    assert pair.quantities.test.names == ("amount", "ratio", "whole", "empty")
    assert (pair.quantities.test.adjusted[:3] < 1e-6).all()
    assert pair.non_numeric == ()
    assert pair.missing.live.tolist() == [0, 0, 0, 400]


def test_columns_of_types_that_cannot_be_compared_are_left_out_and_named(tmp_path):
    kinds = {"day": pa.date32(), "waited": pa.duration("s"), "seen": pa.timestamp("us")}
    sides = []
    for name, shift in (("before", 0), ("after", 500)):
        columns = {kind: pa.array(range(shift, shift + 300), of) for kind, of in kinds.items()}
        columns |= {"tags": pa.array([[1], [2, 3], None] * 100), "raw": pa.array([b"x"] * 300)}
        columns |= {"x": pa.array(np.arange(300) / 7 + shift)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        table = prepare_table(tmp_path / f"{name}.parquet")
        sides.append(PreparedTable.load(table.save(tmp_path / f"{name}.safetensors")))
    pair = table_comparison(*sides)
    assert list(pair.excluded) == ["day", "waited", "seen", "tags", "raw"]
    assert pair.quantities.test.names == ("x",)
    assert pair.missing.reference.tolist() == [0, 0, 0, 100, 0, 0]
    findings = table_findings(pair)
    (note,) = (finding for finding in findings if "Not compared" in finding.summary)
    assert "day (it holds dates), waited (it holds durations)" in note.summary
    assert [finding.subject for finding in findings if finding.severity is Severity.FAIL] == ["x"]


def test_columns_that_cannot_be_compared_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_COUNTED_LEVELS", 10)
    before = table(0, 2000).assign(
        key=[f"k{i}" for i in range(2000)], gone=1.0, price=1.5, row=range(2000)
    )
    after = before.drop(columns="gone").assign(price="1.50", row=range(5000, 7000))
    sides = [
        prepare_table(write(frame, tmp_path / f"{i}.parquet"))
        for i, frame in enumerate((before, after))
    ]
    told = table_findings(table_comparison(*sides))
    failed = {
        finding.subject: finding.summary for finding in told if finding.severity is Severity.FAIL
    }
    assert failed.keys() == {"gone", "price"}
    assert "absent" in failed["gone"]
    assert "no longer numeric" in failed["price"]
    assert any("Not compared" in finding.summary and "key" in finding.summary for finding in told)
    assert any(finding.subject == "row" and finding.severity is Severity.NOTE for finding in told)


def test_rows_drawn_are_the_same_in_every_pass_and_stay_in_order(tmp_path, small_chunks):
    frame = pd.DataFrame({f"c{i}": np.arange(20_000) for i in range(5)})
    path = write(frame, tmp_path / "rows.parquet")
    drawn = chunks.read_table_in_chunks(path, Schema(), cells=5000)[1].features
    assert len(drawn) == 1000
    assert (drawn.to_numpy() == drawn[["c0"]].to_numpy()).all()
    assert (np.diff(drawn["c0"]) > 0).all()
    thirds = np.histogram(drawn["c0"], bins=4)[0]
    assert (abs(thirds - 250) < 60).all()
    assert len(chunks.read_table_in_chunks(path, Schema(), cells=10**6)[1]) == 20_000


def test_rows_in_time_are_worth_less_also_when_drawn(tmp_path):
    rng = np.random.default_rng(0)
    walk = np.convolve(rng.normal(size=40_399), np.ones(400) / 20, mode="valid")
    frame = pd.DataFrame({"slow": walk, "fast": rng.normal(size=40_000), "when": np.arange(40_000)})
    path = write(frame, tmp_path / "time.parquet")
    for cells in (10**6, 30_000):
        found = chunks.read_table_in_chunks(path, Schema(time="when"), cells=cells)[0]
        slow, fast = found.times.tolist()
        assert slow == pytest.approx(400, rel=0.4)
        assert fast == 1.0
        assert found.timed_rows == min(40_000, cells // 3)


def shift(place, *arguments, expect):
    (place / "schema.yaml").write_text("target: y\nlogits: score\n")
    assert (
        main(
            [
                "shift",
                *map(str, arguments),
                "--schema",
                str(place / "schema.yaml"),
                "--out",
                str(place / "out"),
            ]
        )
        == expect
    )
    return json.loads((place / "out" / "findings.json").read_text())


def with_scores(seed, n=4000, moved=0.0):
    frame = table(seed, n)
    rng = np.random.default_rng(seed + 100)
    frame["score"] = 1.5 * frame["a"]
    frame["y"] = (rng.random(n) < 1 / (1 + np.exp(-frame["score"]))).astype(int)
    frame["a"] += moved
    return frame


@pytest.mark.slow
def test_the_command_reads_large_tables_in_chunks_and_saves_its_reference(
    tmp_path, monkeypatch, small_chunks, capsys
):
    monkeypatch.setattr(chunks, "MAX_CELLS", 12_000)
    before = write(with_scores(0), tmp_path / "before.parquet")
    moved = write(with_scores(1, moved=1.0), tmp_path / "moved.parquet")
    saved = tmp_path / "before.profile"
    clean = shift(
        tmp_path,
        before,
        write(with_scores(2), tmp_path / "clean.parquet"),
        "--save-reference",
        saved,
        expect=0,
    )
    assert {finding["check"] for finding in clean} >= {
        "shift.ks",
        "shift.missing",
        "shift.categories",
        "shift.joint",
        "shift.confidence",
    }
    for reference in (before, saved):
        told = shift(tmp_path, reference, moved, expect=1)
        worst = next(finding for finding in told if finding["severity"] == "fail")
        assert (worst["check"], worst["subject"], worst["numbers"]["n"]) == ("shift.ks", "a", 4000)
        assert 0.3 < worst["numbers"]["low"] < 2 * 0.1915 < worst["numbers"]["high"]
    before.unlink()
    assert shift(tmp_path, saved, tmp_path / "clean.parquet", expect=0)
    assert (
        main(
            [
                "shift",
                str(tmp_path / "absent.profile"),
                str(moved),
                "--schema",
                str(tmp_path / "schema.yaml"),
                "--out",
                "x",
            ]
        )
        == 2
    )
    assert "absent.profile" in capsys.readouterr().err

"""`shift`: references built from Parquet in chunks, against the ones built in memory."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gendebug_torch import Schema
from gendebug_torch.errors import InputError
from gendebug_torch.shift import (
    PreparedReference,
    ks_of_parquet,
    ks_two_sample,
    prepare_reference,
    prepare_reference_from_parquet,
    quantile_sketch,
    sketch,
    sketch_parquet,
)


def table(seed, n=20_000):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    frame.loc[rng.random(n) < 0.3, "b"] = np.nan
    frame["c"] = rng.integers(0, 5, n)
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


def values(frame):
    return torch.from_numpy(frame.to_numpy(dtype=np.float64, copy=True))


def distance(one, other):
    """Largest distance of two distribution functions, column by column."""
    return ks_two_sample(one, other.columns.T).statistic


@pytest.mark.parametrize("size", [64, 500, 30_000])
def test_a_file_in_chunks_says_what_the_table_in_memory_says(tmp_path, monkeypatch, size):
    monkeypatch.setattr(sketch, "ROWS", 1000)
    monkeypatch.setattr(sketch, "COLUMNS", 2)
    before, after = table(0), table(1).assign(a=lambda frame: frame["a"] + 0.2)
    paths = [write(frame, tmp_path / f"{name}.parquet") for name, frame in (("before", before), ("after", after[["c", "b", "a"]]))]
    found, whole = sketch_parquet(paths[0], size=size), prepare_reference(values(before))
    assert found.names == ("a", "b", "c")
    assert torch.equal(found.rows, whole.n)
    assert torch.equal(found.missing, whole.missing)
    assert (distance(whole, found.prepared()) <= found.error + 1e-12).all()
    assert (found.error <= (2 + math.log2(21)) / (2 * size)).all()
    other = sketch_parquet(paths[1], found.names, size=size)
    test, full = ks_of_parquet(*paths, size=size), ks_two_sample(whole, values(after))
    assert ((test.statistic - full.statistic).abs() <= found.error + other.error + 1e-12).all()
    assert test.names == found.names
    again = ks_of_parquet(prepare_reference_from_parquet(paths[0], size=size), paths[1], size=size)
    assert torch.equal(again.statistic, test.statistic)
    if size == 30_000:
        assert torch.equal(test.statistic, full.statistic)
        assert torch.equal(test.p_value, full.p_value)
        assert not found.error.any()
    else:
        assert (test.p_value >= full.p_value).all()


def test_sketches_add_in_any_order_within_their_error():
    rows = torch.randn(9000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:4000, 1] = math.nan
    parts = [quantile_sketch(piece, size=100) for piece in rows.split([10, 3990, 50, 4950])]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = sum((parts[i] for i in order[1:]), parts[order[0]])
        assert total.rows.tolist() == [9000, 5000]
        assert (distance(prepare_reference(rows), total.prepared()) <= total.error + 1e-12).all()
        assert (total.error < 0.025).all()
    assert PreparedReference(total.columns, total.n).columns.shape == (2, 100)
    with pytest.raises(InputError, match=r"^`other`"):
        parts[0] + quantile_sketch(rows, size=50)


def test_odd_files(tmp_path):
    frame = table(0, 50).assign(flag=True, word="x", day=pd.Timestamp(0), empty=np.nan, whole=pd.array([1, None] * 25, dtype="Int64"))
    path = write(frame, tmp_path / "odd.parquet")
    found = sketch_parquet(path, schema=Schema(target="c", categorical=("a",)))
    assert found.names == ("b", "flag", "empty", "whole")
    assert found.rows.tolist()[1:] == [50, 0, 25]
    assert found.missing.tolist()[2:] == [50, 25]
    nothing = write(frame.iloc[:0], tmp_path / "nothing.parquet")
    assert ks_of_parquet(path, nothing, ["a", "b"]).statistic.isnan().all()
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    calls = {
        "path": lambda: sketch_parquet(tmp_path / "broken.parquet"),
        "columns": lambda: sketch_parquet(path, ["a", "word"]),
        "size": lambda: sketch_parquet(path, size=1),
        "reference": lambda: ks_of_parquet(prepare_reference(torch.zeros(3, 1)), path),
    }
    for argument, call in calls.items():
        with pytest.raises(InputError, match=f"^`{argument}`"):
            call()

"""A short campaign; `scripts/fuzz` runs a long one."""

import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from gendebug_torch import Records, Schema
from gendebug_torch.data.files import check_expansion
from gendebug_torch.errors import InputError
from tests.fuzz.campaign import ACCEPTED, REFUSED, outcome
from tests.fuzz.readers import READERS
from tests.versions import require_raw_weights

# Damaged inputs of each reader; of slow ones fewer, by their cost, and none of the slowest.
INPUTS, SLOW = 12, 300
QUICK = [name for name, reader in READERS.items() if reader.cost <= SLOW]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    reader = READERS[name]
    inputs = min(INPUTS, SLOW // reader.cost)
    seen = [outcome(reader, number, "suite", tmp_path / "x") for number in range(inputs)]
    assert not [text for kind, text in seen if kind not in (ACCEPTED, REFUSED)]
    refused = [text for kind, text in seen if kind == REFUSED]
    assert refused or inputs < INPUTS
    assert all("." in text for text in refused)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_undamaged_files_are_read(tmp_path, name):
    for path, content in READERS[name].files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
        if path.endswith(".pt2"):
            require_raw_weights(tmp_path / path)
    READERS[name].read(tmp_path)


def test_what_unpacks_to_more_than_a_machine_holds_is_refused_unread(tmp_path):
    path = tmp_path / "rows.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + bytes(80))
        archive.filelist[0].file_size = 2**60
    with pytest.raises(InputError, match=r"rows\.npz.*unpack to .* GiB"):
        Records.from_file(path)


def test_zeros_packed_beyond_measure_are_refused(tmp_path):
    path = tmp_path / "rows.npz"
    path.write_bytes(bytes(1000))
    check_expansion(path, 2**30)
    with pytest.raises(InputError, match="unpack"):
        check_expansion(path, 2**30 + 1)


def test_a_packed_table_is_not_read_beyond_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("gendebug_torch.data.files._FREE_BYTES", 10_000)
    monkeypatch.setattr("gendebug_torch.data.files._MAX_EXPANSION", 100)
    rng, schema = np.random.default_rng(0), Schema("label")
    honest = pd.DataFrame({"a": rng.normal(size=3000), "label": 0})
    path = tmp_path / "rows.csv.gz"
    honest.to_csv(path, index=False)
    assert len(Records.from_file(path, schema)) == 3000
    with gzip.open(path, "wb") as file:
        file.write(b"a,label\n" + b"0,0\n" * 300_000)
    with pytest.raises(InputError, match="unpack"):
        Records.from_file(path, schema)
    honest.iloc[:1].reindex(range(3000), method="ffill").to_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr("gendebug_torch.data.files._MAX_EXPANSION", 1)
    with pytest.raises(InputError, match="unpack"):
        Records.from_file(tmp_path / "rows.parquet", schema)


def test_a_header_that_claims_what_is_not_there_is_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("logits.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + b"\n")
    (tmp_path / "rows.npz").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match=r"rows\.npz"):
        Records.from_file(tmp_path / "rows.npz")

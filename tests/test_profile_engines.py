"""Engines give the profile that the rows give, as far as they are installed."""

import importlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import distributed

from gendebug_torch import Profile, Schema, profile
from gendebug_torch.errors import InputError
from gendebug_torch.profiles.engines.distributed import gathered
from tests.processes import run_ranks
from tests.test_profiles import SCHEMA, equal, parts_of, rows

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDS = {"dask": "dask.dataframe", "duckdb": "duckdb", "ray": "ray.data", "spark": "pyspark"}


@pytest.fixture(autouse=True, scope="module")
def stopped():
    """Engines that run processes are stopped."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    if "pyspark.sql" in sys.modules:
        session = sys.modules["pyspark.sql"].SparkSession.getActiveSession()
        if session is not None:
            session.stop()


# What engines warn of is theirs.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", NEEDS)
def test_an_engine_reads_partitions_as_one_table(engine, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS[engine])
    # Otherwise the workers of Spark start the first Python on the path.
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    frame = rows(0, 4000)
    frame["at"] = frame["at"].astype("datetime64[us]").dt.tz_localize("UTC")
    for at, part in enumerate(parts_of(frame, 3)):
        part.to_parquet(tmp_path / f"{at}.parquet", index=False)
    assert pq.read_table(tmp_path).num_rows == 4000
    module = importlib.import_module(f"gendebug_torch.profiles.engines.{engine}")
    options = {"sample": 300, "reference": profile(frame[:500], SCHEMA)}
    found = module.profile_of(str(tmp_path / "*.parquet"), SCHEMA, **options)
    equal(profile(frame, SCHEMA, **options), found)
    frame.drop(columns="at").to_csv(tmp_path / "rows.csv", index=False)
    codes = Schema(target="label", logits="score", ids="row", categorical="zip")
    read = module.profile_of(str(tmp_path / "*.csv"), codes)
    assert read.columns["zip"].levels == found.columns["zip"].levels
    assert read.outcomes.labels.tolist() == found.outcomes.labels.tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_network_scores_and_explains_over_ray(tmp_path):
    pytest.importorskip("ray.data")
    words = [sys.executable, str(EXAMPLES / "ray_data.py"), "--rows", "3000"]
    subprocess.run([*words, "--out", str(tmp_path)], check=True, capture_output=True)
    found = Profile.load(tmp_path / "invoices.profile")
    assert found.rows == found.outcomes.labeled == 3000
    assert {"by_amount", "by_days", "by_orders"} <= found.columns.keys()


def test_dates_beyond_the_calendar_are_refused():
    """An engine writes them; Python has none after the year 9999."""
    days = pa.array([0, 2**31 - 5], pa.int32()).cast(pa.date32())
    with pytest.raises(InputError, match="`day`: expected values that Python can hold"):
        profile(pa.table({"day": days}))


def test_ranks_add_their_parts(tmp_path):
    part = profile(rows(1, 300), SCHEMA)
    assert gathered(part) is part
    run_ranks(_rank, str(tmp_path / "store"))


def _rank(rank, store):
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    parts = [profile(rows(seed, 300), SCHEMA) for seed in (2, 3)]
    equal(parts[0] + parts[1], gathered(parts[rank]))
    distributed.destroy_process_group()

"""Runs that are killed, streamed, or shared by ranks."""

import subprocess
import sys

import pytest
import torch

from gendebug_torch import attribute
from gendebug_torch.attribution import attributions as module
from gendebug_torch.errors import InputError
from tests.attribution_cases import network, rows


def loader(n=60, size=7):
    return list(rows(n).split(size))


def interrupted(at):
    for number, part in enumerate(loader()):
        if number == at:
            raise RuntimeError("killed")
        yield part


@pytest.fixture
def often(monkeypatch):
    """Shards after every batch, so that a small run has several."""
    monkeypatch.setattr("gendebug_torch.runner._FLUSH_BYTES", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap"])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, often, stream, method):
    model = network()
    whole = attribute(model, loader(), method)
    with pytest.raises(RuntimeError, match="killed"):
        attribute(model, interrupted(4), method, checkpoint=tmp_path, stream=stream)
    assert len(list(tmp_path.glob("rank0-*"))) == 4
    made = attribute(model, loader(), method, checkpoint=tmp_path, stream=stream)
    for name, value in whole.per_row().items():
        assert torch.equal(made.per_row()[name], value), name
    assert made.table().equals(whole.table())


def test_shards_of_another_question_are_refused(tmp_path):
    model = network()
    attribute(model, loader(), checkpoint=tmp_path)
    for change in ({"steps": 20}, {"target": 1}, {"method": "saliency"}, {"baseline": 0.5}):
        with pytest.raises(InputError, match="another run"):
            attribute(model, loader(), checkpoint=tmp_path, **change)
    with pytest.raises(InputError, match="another run"):
        attribute(network(1), loader(), checkpoint=tmp_path)
    with pytest.raises(InputError, match="directory to stream to"):
        attribute(model, loader(), stream=True)


STREAM = """
import resource, sys, tempfile, torch
from torch import nn
from gendebug_torch import attribute
torch.set_num_threads(1)
model = nn.Linear(2000, 2)
class Rows:
    def __init__(self, batches): self.batches = batches
    def __iter__(self):
        for i in range(self.batches): yield torch.full((1000, 2000), float(i + 1))
with tempfile.TemporaryDirectory() as place:
    attribute(model, Rows(2), "saliency", checkpoint=place + "/a", stream=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = attribute(model, Rows(int(sys.argv[1])), "saliency", checkpoint=place + "/b", stream=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(made) == 1000 * int(sys.argv[1])
    print((after - before) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    grown = subprocess.run([sys.executable, "-c", STREAM, "40"], capture_output=True, text=True, check=True)
    # Forty batches hold 640 MB of values and inputs; what is alive at once is one flush of 64 MB and its copies.
    assert float(grown.stdout) < 250


def _rank(rank, place, x, expected):
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
    made = attribute(network(), x, batch_size=7, steps=16)
    streamed = attribute(network(), x, batch_size=7, steps=16, checkpoint=f"{place}/shards", stream=True)
    assert torch.equal(made.values, expected)
    assert torch.equal(streamed.values, expected)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    x = rows(40)
    expected = attribute(network(), x, batch_size=7, steps=16).values
    torch.multiprocessing.spawn(_rank, args=(tmp_path, x, expected), nprocs=2)


def test_a_summary_needs_no_copy_of_all_values(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 10)
    made = attribute(network(), rows(35))
    monkeypatch.undo()
    assert made.table()["mean_abs"].tolist() == pytest.approx(made.flat.abs().mean(0).sort(descending=True).values.tolist())

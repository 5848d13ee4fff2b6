"""Runs that are killed, streamed, shared by ranks or devices, short of memory, compiled, or in half
precision."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gendebug_torch import attribute
from gendebug_torch.attribution import attributions as module
from gendebug_torch.attribution.compare.precision import compare_precisions
from gendebug_torch.errors import InputError, UnsupportedError
from tests.attribution_cases import METHODS, OWN, Named, close, network, rows, run, state
from tests.processes import run_ranks


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
    monkeypatch.setattr("gendebug_torch.model.runner._FLUSH_BYTES", 1)


def assert_same(made, whole):
    assert made.names == whole.names
    for name, value in whole.per_row().items():
        assert torch.equal(made.per_row()[name], value), name


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap"])
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path, often, stream, method):
    model = network()
    whole = attribute(model, loader(), method)
    with pytest.raises(RuntimeError, match="killed"):
        attribute(model, interrupted(4), method, checkpoint=tmp_path, stream=stream, trust=False)
    assert len(list(tmp_path.glob("batches-*"))) == 4
    made = attribute(model, loader(), method, checkpoint=tmp_path, stream=stream)
    assert_same(made, whole)
    assert made.table().equals(whole.table())


KILLED = """
import sys, time, torch
from gendebug_torch import attribute
from gendebug_torch.model import runner
from tests.attribution_cases import Named, rows
runner._FLUSH_BYTES = 1
class Slow:
    def __iter__(self):
        for part in rows(60).split(7):
            yield {"x": part}
            time.sleep(0.3)
options = {"checkpoint": sys.argv[1], "stream": True, "trust": False}
attribute(Named(), Slow(), "smooth_grad", unpack=lambda batch: (batch, None), **options)
"""


def test_a_process_that_was_killed_is_continued_with_the_same_bits(tmp_path):
    """The names of the inputs are known of a mapping only; they survive as well."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("batches-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.glob("batches-*")))
    assert 3 <= done < 9
    batches, how = (
        [{"x": part} for part in loader()],
        {"unpack": lambda batch: (batch, None), "trust": False},
    )
    whole = attribute(Named(), batches, "smooth_grad", **how)
    for _ in range(2):
        made = attribute(Named(), batches, "smooth_grad", checkpoint=tmp_path, stream=True, **how)
        assert_same(made, whole)
        assert made.names == tuple(f"x_{i}" for i in range(5))


def test_shards_of_another_question_are_refused(tmp_path):
    model = network()
    attribute(model, loader(), checkpoint=tmp_path)
    for change in ({"steps": 20}, {"target": 1}, {"method": "saliency"}, {"baseline": 0.5}):
        with pytest.raises(InputError, match="another run"):
            attribute(model, loader(), checkpoint=tmp_path, **change)
    with pytest.raises(InputError, match=r"another run \(model\)"):
        attribute(network(1), loader(), checkpoint=tmp_path)
    with pytest.raises(InputError, match="directory to stream to"):
        attribute(model, loader(), stream=True)
    attribute(model, rows(20), checkpoint=tmp_path / "table", batch_size=5)
    with pytest.raises(InputError, match=r"another run \(batch size\)"):
        attribute(model, rows(20), checkpoint=tmp_path / "table")
    with pytest.raises(InputError, match=r"another run \(rows\)"):
        attribute(model, rows(21), checkpoint=tmp_path / "table", batch_size=5)


def test_a_shuffled_loader_is_refused_where_batches_must_be_the_same_again(tmp_path):
    shuffled = DataLoader(TensorDataset(rows(20)), batch_size=5, shuffle=True)
    assert len(attribute(network(), shuffled)) == 20
    with pytest.raises(InputError, match="shuffle=False"):
        attribute(network(), shuffled, checkpoint=tmp_path)


STREAM = """
import sys, tempfile, torch
from torch import nn
from gendebug_torch import attribute
torch.set_num_threads(1)
model = nn.Linear(2000, 2)
def held():
    # Without the pages of files that are mapped, which the system drops when it needs the memory.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
class Rows:
    def __init__(self, batches): self.batches, self.most = batches, 0
    def __iter__(self):
        for i in range(self.batches):
            self.most = max(self.most, held())
            yield torch.full((1000, 2000), float(i + 1))
with tempfile.TemporaryDirectory() as place:
    few, many = Rows(9), Rows(int(sys.argv[1]))
    attribute(model, few, "saliency", checkpoint=place + "/a", stream=True)
    made = attribute(model, many, "saliency", checkpoint=place + "/b", stream=True)
    assert len(made) == 1000 * many.batches
    print(max(many.most, held()) - few.most)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="needs Linux to tell memory of one's own from mapped files",
)
def test_memory_does_not_grow_with_the_rows():
    grown = subprocess.run(
        [sys.executable, "-c", STREAM, "28"], capture_output=True, text=True, check=True
    )
    # So many batches hold 448 MB of values and inputs; what is alive at once is one flush of 64 MB
    # and its copies.
    assert float(grown.stdout) < 150


class Counted(Dataset):
    """Rows that write down that they were read."""

    def __init__(self, place, n):
        self.place, self.x = place, rows(n)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        with open(f"{self.place}/read-{os.getpid()}", "a") as file:
            file.write(f"{at}\n")
        return (self.x[at],)


def _rank(rank, place, x, expected):
    os.environ["LOCAL_RANK"] = str(rank)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/store", rank=rank, world_size=2
    )
    made = attribute(network(), x, batch_size=7, steps=16)
    assert torch.equal(made.values, expected)
    assert made.trust is not None
    streamed = attribute(
        network(), x, batch_size=7, steps=16, checkpoint=f"{place}/shards", stream=True
    )
    assert torch.equal(streamed.values, expected)
    wrapped = nn.parallel.DistributedDataParallel(network())
    assert torch.equal(attribute(wrapped, x, batch_size=7, steps=16, trust=False).values, expected)
    # One batch for two ranks: the other one learns the names all the same.
    alone = attribute(Named(), [{"x": x}], "saliency", unpack=lambda batch: (batch, None))
    assert alone.names == tuple(f"x_{i}" for i in range(5))
    attribute(network(), DataLoader(Counted(place, 40), batch_size=7), "saliency", trust=False)
    with pytest.raises(InputError, match="whose ranks share the rows"):
        attribute(network(), x, devices=2)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_two_ranks_equal_one_and_each_reads_its_own_rows_alone(tmp_path):
    x = rows(40)
    expected = attribute(network(), x, batch_size=7, steps=16).values
    run_ranks(_rank, tmp_path, x, expected)
    read = [file.read_text().split() for file in tmp_path.glob("read-*")]
    assert sorted(map(len, read)) == [19, 21]
    assert sorted(int(row) for part in read for row in part) == list(range(40))
    # What two ranks left is taken over by one.
    assert torch.equal(
        attribute(network(), x, batch_size=7, steps=16, checkpoint=tmp_path / "shards").values,
        expected,
    )


@pytest.mark.slow
def test_two_devices_equal_one(tmp_path, capfd):
    x, model = rows(40), network()
    before = state(model)
    expected = attribute(model, x, batch_size=7, steps=16)
    made = attribute(
        model,
        DataLoader(TensorDataset(x), batch_size=7),
        devices=2,
        device="cpu",
        steps=16,
        checkpoint=tmp_path / "shards",
    )
    assert_same(made, expected)
    assert made.trust is not None
    assert state(model) == before
    assert not {"MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
    with pytest.raises(InputError, match="top of a module"):
        attribute(model, x, devices=2, device="cpu", unpack=lambda batch: (batch, None))


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["torch", "python"]
)
def test_a_pass_that_does_not_fit_is_made_smaller(monkeypatch, method, error):
    # Collecting the garbage of all tests before takes a second each time.
    monkeypatch.setattr("gendebug_torch.model.devices.gc.collect", lambda: 0)

    class Small(type(network())):
        most, refused = 12, 0

        def forward(self, x):
            if len(x) > self.most:
                self.refused += 1
                raise error
            return super().forward(x)

    model, x = network(), rows(30)
    whole = run(model, x, method, trust=False)
    model.__class__ = Small
    before = state(model)
    made = run(model, x, method, trust=False)
    assert close(made.values, whole.values)
    # Once for the rows and once for the points, each by halves, and never again.
    assert 1 <= model.refused <= 12
    model.refused = 0
    assert {**state(model), "attributes": 0} == {**before, "attributes": 0}
    model.most = 0
    with pytest.raises(type(error)):
        run(model, x, method, trust=False)


class Waits(TorchDispatchMode):
    """Counts the operations for which the host has to wait for a device."""

    waiting = frozenset(
        (
            "_local_scalar_dense",
            "nonzero",
            "is_nonzero",
            "equal",
            "_unique2",
            "unique_dim",
            "masked_select",
        )
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.waiting
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize(
    "more", [{}, {"groups": [0, 0, 1, 2, 2]}, {"baseline": "mean"}, {"target": "margin"}], ids=str
)
def test_the_host_does_not_wait_in_the_loop(method, more):
    if method == "occlusion" and "groups" in more:
        pytest.skip("windows know no groups")
    counts = []
    for n in (2, 9):
        with Waits() as seen:
            run(network(), list(rows(8 * n).split(8)), method, trust=False, **more)
        counts.append(seen.count)
    # KernelSHAP lists its coalitions, which lie on the host, once more per batch.
    allowed = 7 * 12 if method == "kernel_shap" else 0
    assert counts[1] - counts[0] <= allowed


@pytest.mark.gpu
@pytest.mark.parametrize("method", OWN)
def test_the_device_is_not_waited_for(method):
    def batches():
        for number, part in enumerate(rows(4000).split(500)):
            # The first batch finds out how much fits, and caches what all share.
            torch.cuda.set_sync_debug_mode("error" if number else "default")
            yield part

    try:
        # On the device already: moving a network back to the host waits.
        run(network().cuda(), batches(), method, device="cuda", trust=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_run_gives_the_same_answers():
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except RuntimeError as error:
        pytest.skip(f"no compiler for torch.compile: {type(error).__name__}")
    model, x = network(), rows(40)
    before = state(model)
    for method in ("integrated_gradients", "kernel_shap", "DeepLift"):
        plain, compiled = (
            run(model, x, method, trust=False, compile=flag, batch_size=16)
            for flag in (False, True)
        )
        assert close(compiled.values, plain.values), method
    assert state(model) == before


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in ("captum.KernelShap", "captum.GradientShap")]
)
def test_half_precision_comes_with_what_it_changes(method):
    model, x = network(), rows(60)
    single, half = (
        run(model, x, method, trust=False),
        run(model, x, method, trust=False, precision="bf16-mixed"),
    )
    assert single.precision is None
    assert half.precision.rows == 32
    assert half.precision.accurate
    flat, other = single.flat, half.flat
    change = (other - flat).norm(dim=1) / flat.norm(dim=1)
    assert half.precision.typical == pytest.approx(float(change.median()), abs=0.02)
    assert "32 rows" in str(half.precision)


class Cancelling(nn.Module):
    """A small difference of large numbers, which half precision does not hold."""

    def __init__(self, size):
        super().__init__()
        self.up = nn.Linear(5, 2, bias=False)
        self.up.weight.data = torch.stack([torch.ones(5), torch.ones(5) + torch.arange(5) * size])

    def forward(self, x):
        both = self.up(x + 100)
        return both[:, 1] - both[:, 0]


def test_half_precision_that_is_rounding_is_refused_and_doubtful_one_is_labelled():
    with pytest.raises(UnsupportedError, match="mostly rounding"):
        attribute(Cancelling(1e-4), rows(40), "feature_ablation", precision="bf16-mixed")
    with pytest.warns(UserWarning, match="`32-true` avoids it"):
        made = attribute(
            Cancelling(0.01), rows(40), "input_x_gradient", precision="bf16-mixed", trust=False
        )
    assert not made.precision.accurate
    assert "off in bf16-mixed" in made.plot().get_title()


def test_the_comparison_of_precisions_counts_what_it_says():
    single = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [torch.nan, 0.0, 0.0, 0.0]])
    half = torch.tensor([[1.0, 2.0, 3.0, 4.4], [4.0, 2.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    made = compare_precisions(half, single, "bf16-mixed")
    size = np.sqrt(30)
    assert made.rows == 2
    assert made.reordered == 0.5
    assert made.largest == pytest.approx(np.sqrt(18) / size)
    assert made.typical == pytest.approx(0.4 / size, rel=1e-6)
    lost = compare_precisions(torch.full((1, 4), torch.nan), single[:1], "16-mixed")
    assert not lost.usable
    assert compare_precisions(single[:0], single[:0], "16-mixed").accurate


def test_a_summary_needs_no_copy_of_all_values(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 10)
    made = attribute(network(), rows(35))
    monkeypatch.undo()
    assert made.table()["mean_abs"].tolist() == pytest.approx(
        made.flat.abs().mean(0).sort(descending=True).values.tolist()
    )

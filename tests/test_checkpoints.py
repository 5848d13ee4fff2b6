"""A checkpoint answers for its own rows and model only; what is damaged is made again."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, attribute, collect
from gendebug_torch.errors import InputError
from gendebug_torch.model.runner import map_rows


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def rows(seed, n=100):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


FORMS = {
    "tensor": lambda x, y: x,
    "records": lambda x, y: Records(x, y),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=10),
    "list": lambda x, y: list(zip(x.split(10), y.split(10), strict=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_rows_of_the_same_length_are_refused(network, tmp_path, form):
    validation, production = (FORMS[form](*rows(seed)) for seed in (1, 2))
    kwargs = {"batch_size": 10, "checkpoint": tmp_path / "run"}
    first = collect(network, validation, **kwargs)
    assert torch.equal(collect(network, validation, **kwargs).logits, first.logits)
    with pytest.raises(InputError, match=r"checkpoint.*made of other rows.*empty directory"):
        collect(network, production, **kwargs)


def test_other_targets_are_refused(network, tmp_path):
    x, y = rows(1)
    collect(network, FORMS["loader"](x, y), checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match="other rows"):
        collect(network, FORMS["loader"](x, 2 - y), checkpoint=tmp_path / "run")


def test_one_changed_batch_in_the_middle_is_noticed(network, tmp_path):
    x, _ = rows(1)
    collect(network, x, batch_size=10, checkpoint=tmp_path / "run")
    x[55] += 1
    with pytest.raises(InputError, match="batch 5"):
        collect(network, x, batch_size=10, checkpoint=tmp_path / "run")


def test_one_changed_value_of_a_large_batch_is_noticed(network, tmp_path):
    """Also in a column that samples at even distances never meet."""
    x = rows(1, 4096)[0]
    collect(network, x, batch_size=4096, checkpoint=tmp_path / "run")
    x[77, 1] += 1
    with pytest.raises(InputError, match="other rows"):
        collect(network, x, batch_size=4096, checkpoint=tmp_path / "run")


def test_attributions_of_other_rows_are_refused(network, tmp_path):
    options = {"method": "saliency", "checkpoint": tmp_path / "run", "trust": False}
    attribute(network, rows(1)[0], **options)
    with pytest.raises(InputError, match="other rows"):
        attribute(network, rows(2)[0], **options)


def test_another_embedding_is_refused(tmp_path):
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    collect(network, rows(1)[0], embedding="0", checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match=r"another run \(question\)"):
        collect(network, rows(1)[0], embedding="1", checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-50],
        lambda data: b"",
        lambda data: data[:-2] + bytes([data[-2] ^ 64]) + data[-1:],
        lambda data: data.replace(b"checksum", b"checkzum"),
    ],
    ids=["cut", "empty", "one bit", "no checksum"],
)
def test_a_damaged_shard_is_named_and_made_again(network, tmp_path, damage):
    x, _ = rows(1)
    first = collect(network, x, batch_size=10, checkpoint=tmp_path / "run")
    (shard,) = (tmp_path / "run").glob("batches-*")
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.warns(UserWarning, match=f"{shard.name} is damaged"):
        again = collect(network, x, batch_size=10, checkpoint=tmp_path / "run")
    assert torch.equal(again.logits, first.logits)
    assert torch.equal(
        collect(network, x, batch_size=10, checkpoint=tmp_path / "run").logits, first.logits
    )


@pytest.mark.parametrize("name", ["run.json", "notes.json"])
@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "\xff"])
def test_damaged_notes_are_refused_in_words(network, tmp_path, name, text):
    x, _ = rows(1)
    collect(network, x, checkpoint=tmp_path / "run")
    (tmp_path / "run" / name).write_text(text, encoding="latin-1")
    if (name, text) == ("run.json", "null"):
        return
    with pytest.raises(InputError, match="checkpoint"):
        collect(network, x, checkpoint=tmp_path / "run")


def test_a_shard_is_written_when_its_time_has_come(network, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("gendebug_torch.model.runner.time.monotonic", lambda: now[0])
    shards = []

    def step(inputs, targets):
        now[0] += 25.0
        shards.append(len(list((tmp_path / "run").glob("batches-*"))))
        return {"logits": network(inputs)}

    options = {"batch_size": 10, "checkpoint": tmp_path / "run", "every": "1m"}
    map_rows(step, rows(1)[0], model=network, **options)
    assert shards == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    with pytest.raises(InputError, match="every"):
        map_rows(step, rows(1)[0], model=network, every="soon")


def test_a_full_disk_is_said_and_leaves_the_shards_whole(network, tmp_path, monkeypatch):
    x, _ = rows(1)
    collect(network, x[:50], batch_size=10, checkpoint=tmp_path / "a")

    write = Path.write_bytes

    def full(path, data):
        if "batches" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        collect(network, x, batch_size=10, checkpoint=tmp_path / "b")
    assert not list((tmp_path / "b").glob("batches-*"))
    assert json.loads((tmp_path / "b" / "run.json").read_text())["rows"] == 100


class Counting(nn.Module):
    """Writes into a buffer and replaces another in every forward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.last = x[:1, 0].detach().clone()
        return self.layer(x)


def test_buffers_written_in_forward_are_put_back():
    model = Counting()
    calls, last = model.calls, model.last
    collect(model, rows(1)[0])
    assert model.calls is calls
    assert model.last is last
    assert float(calls) == 0.0


class Caching(nn.Module):
    """Fills an empty buffer, and registers another, in its first forward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("angles", None)

    def forward(self, x):
        if self.angles is None:
            self.angles = torch.ones(())
            self.register_buffer("late", torch.ones(()))
        return self.layer(x) * self.angles


def test_buffers_made_in_forward_are_taken_away():
    model = Caching()
    collect(model, rows(1)[0])
    assert dict(model.named_buffers(remove_duplicate=False)) == {}
    assert model._buffers == {"angles": None}


def test_parameters_made_under_inference_mode(network):
    with torch.inference_mode():
        frozen = nn.Linear(4, 3)
    assert frozen.weight.is_inference()
    collect(frozen, rows(1)[0])
    assert frozen.weight.requires_grad


def test_buffers_made_under_inference_mode():
    with torch.inference_mode():
        frozen = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = frozen[1].running_mean.clone()
    collect(frozen, rows(1)[0])
    assert torch.equal(frozen[1].running_mean, before)


def test_a_large_buffer_that_is_written_is_named(monkeypatch):
    monkeypatch.setattr("gendebug_torch.model.evaluation._LARGEST_BUFFER", 0)
    with pytest.warns(UserWarning, match="wrote into the buffer `calls`"):
        collect(Counting(), rows(1)[0])


def test_a_lazy_network_is_refused_before_its_first_batch():
    with pytest.raises(InputError, match=r"`0.weight`, whose shape is not known"):
        collect(nn.Sequential(nn.LazyLinear(3)), rows(1)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_trust_of_attributions_in_the_dtype_of_the_weights(dtype):
    torch.manual_seed(0)
    x, y = rows(1)
    network = nn.Sequential(nn.Linear(4, 3)).to(dtype)
    assert attribute(network, Records(x, y), "saliency").trust is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tables_are_fed_in_the_dtype_of_the_weights(network, dtype):
    x, y = rows(1)
    expected = collect(network, Records(x, y)).logits
    logits = collect(network.to(dtype), Records(x, y)).logits
    assert torch.allclose(logits.float(), expected, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_frozen_torchscript_has_no_mode_to_put_back(network):
    x, _ = rows(1)
    frozen = torch.jit.freeze(torch.jit.trace(network.eval(), x))
    assert torch.equal(collect(frozen, x).logits, collect(network, x).logits)

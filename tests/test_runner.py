import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, collect
from gendebug_torch.errors import InputError
from gendebug_torch.model.batches import rows_at_once
from gendebug_torch.model.evaluation import evaluating
from gendebug_torch.model.runner import map_rows
from tests.processes import run_ranks


class Network(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, k)
        )

    def forward(self, x):
        return self.body(x)


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Network()
    model.body[1].eval()
    model.body[4].bias.requires_grad_(False)
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    return model


def data(n=50):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def state(model):
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    rng = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    values = {key: value.clone() for key, value in model.state_dict().items()}
    return modes, flags, grads, hooks, rng, values


def same(a, b):
    return (
        a[0] == b[0]
        and a[1] == b[1]
        and all(
            (x is None and y is None) or torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True)
        )
        and a[3:5] == b[3:5]
        and all(torch.equal(a[5][key], b[5][key]) for key in a[5])
    )


def test_logits_targets_and_features_in_order(network):
    x, y = data()
    made = collect(network, DataLoader(TensorDataset(x, y), batch_size=7))
    with evaluating(network), torch.no_grad():
        expected = network(x)
    assert torch.allclose(made.logits, expected, atol=1e-6)
    assert torch.equal(made.targets, y)
    assert torch.equal(made.features, x)


def test_the_model_is_left_as_it_was(network):
    before = state(network)
    collect(network, data()[0])
    assert same(before, state(network))


def test_the_model_is_left_as_it_was_after_a_failure(network):
    before = state(network)

    def step(inputs, targets):
        random.random()
        np.random.rand()
        torch.rand(1)
        network.body[0].register_forward_hook(lambda *a: None)
        network.train()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        map_rows(step, data()[0], model=network)
    assert same(before, state(network))


def test_a_row_does_not_depend_on_its_batch(network):
    x, _ = data(64)
    whole = collect(network, x, batch_size=64).logits
    for size in (1, 5, 63):
        assert torch.allclose(collect(network, x, batch_size=size).logits, whole, atol=1e-6)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(collect(network, x[order]).logits, whole[order], atol=1e-6)


def test_records_keep_their_table(network):
    x, y = data(20)
    table = pd.DataFrame(x.numpy(), columns=list("abcd"))
    made = collect(network, Records(features=table, targets=y, name="validation"))
    assert made.features is table
    assert made.name == "validation"
    assert made.logits.shape == (20, 3)


def test_one_column_of_logits_is_binary():
    assert collect(nn.Linear(4, 1), data(5)[0]).logits.shape == (5,)


def test_unpack_and_mappings():
    class TwoInputs(nn.Module):
        def forward(self, a, b):
            return a + b

    batches = [{"a": torch.ones(2, 3), "b": torch.zeros(2, 3), "y": torch.tensor([0, 1])}]
    made = collect(
        TwoInputs(), batches, unpack=lambda batch: ({"a": batch["a"], "b": batch["b"]}, batch["y"])
    )
    assert made.logits.tolist() == torch.ones(2, 3).tolist()
    assert made.targets.tolist() == [0, 1]


def test_memory_is_halved_until_it_fits(network):
    x, _ = data(50)
    sizes = []

    def step(inputs, targets):
        sizes.append(len(inputs))
        if len(inputs) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"sum": inputs.sum(1)}

    out = map_rows(step, x, batch_size=25)
    assert torch.allclose(out["sum"], x.sum(1))
    assert sizes[:4] == [25, 12, 6, 6]
    assert max(sizes[3:]) == 6


def test_other_errors_are_not_taken_for_memory():
    def step(inputs, targets):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        map_rows(step, data()[0])


def test_a_killed_run_goes_on_where_it_stopped(network, tmp_path, monkeypatch):
    x, _ = data(40)
    monkeypatch.setattr("gendebug_torch.model.runner._FLUSH_BYTES", 1)
    seen = []

    def step(inputs, targets, stop=None):
        if stop is not None and len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(len(inputs))
        return {"logits": network(inputs)}

    with pytest.raises(KeyboardInterrupt):
        map_rows(
            lambda i, t: step(i, t, 3), x, model=network, batch_size=10, checkpoint=tmp_path / "run"
        )
    out = map_rows(step, x, model=network, batch_size=10, checkpoint=tmp_path / "run")
    assert len(seen) == 4
    assert torch.equal(out["logits"], map_rows(step, x, model=network, batch_size=10)["logits"])


def test_shards_of_another_run_are_refused(network, tmp_path):
    collect(network, data()[0], checkpoint=tmp_path / "run", batch_size=10)
    with pytest.raises(InputError, match="another run"):
        collect(network, data()[0], checkpoint=tmp_path / "run", batch_size=11)
    with pytest.raises(InputError, match="another run"):
        collect(Network(), data()[0], checkpoint=tmp_path / "run", batch_size=10)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([("a", "b")], "tuple of"),
        ([{"x": "a"}], "dict"),
        ("text", "str"),
        (pd.DataFrame({"a": [1]}), "DataFrame"),
        (3, "int"),
        ([], "at least one batch"),
        (iter([]), "at least one batch"),
    ],
)
def test_unknown_loaders(network, loader, words):
    with pytest.raises(InputError, match=words):
        collect(network, loader)


def test_models_that_return_something_else():
    with pytest.raises(InputError, match="tuple"):
        collect(lambda x: (x, x), data()[0])
    with pytest.raises(InputError, match=r"keys \['scores'\]"):
        collect(lambda x: {"scores": x}, data()[0])


@pytest.mark.parametrize(
    ("options", "words"), [({"precision": "8"}, "precision"), ({"device": "moon"}, "device")]
)
def test_bad_options(network, options, words):
    with pytest.raises(InputError, match=words):
        collect(network, data()[0], **options)


def test_a_device_that_is_not_here(network):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InputError, match="machine has"):
        collect(network, data()[0], device="cuda")


def test_no_rows(network):
    made = collect(network, torch.empty(0, 4))
    assert made.logits.shape == (0, 3)


def test_gradients_where_asked(network):
    x, _ = data(12)

    def step(inputs, targets):
        points = inputs.detach().requires_grad_()
        return {"gradient": torch.autograd.grad(network(points).sum(), points)[0]}

    assert map_rows(step, x, model=network, grad=True, batch_size=5)["gradient"].shape == x.shape
    assert all(p.grad is None for p in list(network.parameters())[1:])


def _two_ranks(rank, path, x):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    out = map_rows(lambda inputs, targets: {"sum": inputs.sum(1)}, x, batch_size=3)
    assert torch.equal(out["sum"], x.sum(1))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_share_the_rows(tmp_path):
    run_ranks(_two_ranks, tmp_path / "store", data(20)[0])


@pytest.mark.gpu
def test_cuda_gives_the_same_answers_without_waiting(network):
    x, _ = data(5000)
    expected = collect(network, x, device="cpu").logits
    assert torch.allclose(collect(network, x, device="cuda").logits, expected, atol=1e-4)
    assert next(network.parameters()).device.type == "cpu"
    network.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = collect(network, list(x.split(700)), device="cuda").logits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(found, expected, atol=1e-4)
    assert next(network.parameters()).is_cuda


@pytest.mark.parametrize(
    ("shape", "rows"), [((8,), 16384), ((3, 224, 224), 445), ((2**27,), 1)], ids=str
)
def test_rows_at_once_take_at_most_a_quarter_of_a_gibibyte(shape, rows):
    data = torch.empty(1, device="meta").expand(20_000, *shape)
    assert rows_at_once(data, None, torch.device("cuda")) == rows
    assert rows_at_once(data, 7, torch.device("cuda")) == 7

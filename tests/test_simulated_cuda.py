"""The simulated CUDA devices: what they refuse, count and run out of."""

import pytest
import torch

pytestmark = pytest.mark.gpu


def on_device(*shape, device="cuda"):
    return torch.ones(*shape, device=device)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: on_device(3) + torch.ones(3), "same device"),
        (lambda: on_device(3) + on_device(3, device="cuda:1"), "same device"),
        (lambda: torch.cat([on_device(3), torch.zeros(1)]), "same device"),
        (lambda: on_device(3).gather(0, torch.tensor([1])), "same device"),
        (lambda: torch.nn.Linear(2, 2).cuda()(torch.ones(1, 2)), "same device"),
        (lambda: torch.randperm(3, device="cuda", generator=torch.Generator()), "generator"),
        (lambda: on_device(2, 2).long() @ on_device(2, 2).long(), "not implemented"),
        (lambda: torch.histogram(on_device(3), 2), "CUDA"),
        (lambda: on_device(3, device="cuda:2"), "invalid device ordinal"),
        (lambda: on_device(3).numpy(), "cpu"),
    ],
)
def test_what_a_gpu_refuses_is_refused(simulated, call, words):
    with pytest.raises((RuntimeError, TypeError), match=words):
        call()


def test_numbers_of_the_host_may_meet_a_tensor(simulated):
    assert (on_device(3) * torch.tensor(2.0)).tolist() == [2.0] * 3
    assert on_device(3)[torch.tensor([0, 2])].tolist() == [1.0, 1.0]


def filled(mask, values):
    table = on_device(4)
    table[mask] = values


@pytest.mark.parametrize(
    ("call", "waits"),
    [
        (lambda x: x + 1, 0),
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x[torch.tensor([0])], 1),
        (lambda x: x[[0, 1]], 1),
        (lambda x: filled(x > 0, 0.0), 0),
        (lambda x: filled(x > 0, x), 1),
        (lambda x: torch.where(x > 0, x, 0.0), 0),
        (lambda x: x.masked_fill(x > 0, 0.0), 0),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.long().bincount(), 2),
        (lambda x: x.unique(), 1),
        (lambda x: x.sort().values[:2], 0),
        (lambda x: x.repeat_interleave(x.long()), 1),
        (lambda x: x.repeat_interleave(x.long(), output_size=4), 0),
        (lambda x: torch.ones(4).to("cuda"), 1),
        (lambda x: torch.ones(4).pin_memory().to("cuda", non_blocking=True), 0),
    ],
)
def test_waits_are_counted(simulated, call, waits):
    x = on_device(4)
    with simulated.counts() as counted:
        call(x)
    assert counted.waits.total() == waits, counted.waits


def test_operations_are_counted(simulated):
    x, layer = on_device(4, 2), torch.nn.Linear(2, 3).cuda()
    with simulated.counts() as counted:
        layer(x).relu().sum()
    assert dict(counted.operations) == {"aten::addmm": 1, "aten::relu": 1, "aten::sum": 1}


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_have_gradients(simulated, groups):
    layer, x = torch.nn.Conv2d(4, 4, 3, groups=groups), torch.ones(2, 4, 5, 5)
    layer(x).square().sum().backward()
    known = layer.weight.grad.clone()
    layer.cuda().zero_grad()
    layer(x.cuda()).square().sum().backward()
    assert torch.allclose(layer.weight.grad.cpu(), known, rtol=1e-5)


def test_a_wait_is_an_error_where_that_is_asked_for(simulated):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            on_device(3).sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert on_device(3).sum().item() == 3


def test_memory_runs_out_and_is_given_back(simulated):
    with simulated.memory(8000):
        for _ in range(5):
            kept = on_device(900)
        with pytest.raises(torch.OutOfMemoryError):
            kept + kept.double()
    assert len(kept + kept.double()) == 900


def test_sums_without_an_order_are_refused_in_deterministic_mode(simulated):
    torch.use_deterministic_algorithms(True)
    try:
        assert on_device(3).long().bincount().tolist() == [0, 3]
        with pytest.raises(RuntimeError, match="deterministic"):
            on_device(3).cumsum(0)
        with pytest.raises(RuntimeError, match="deterministic"):
            on_device(3).long().bincount(weights=on_device(3))
    finally:
        torch.use_deterministic_algorithms(False)

import pandas as pd
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy

from gendebug_torch import Records
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.errors import InputError
from tests.attribution_cases import network, rows, state
from tests.reference import attribution as literal


def labeled(model, n=300, d=5):
    x = rows(n, d)
    with torch.no_grad():
        y = model.eval()(x).argmax(1) if isinstance(model, nn.Module) else model(x).argmax(1)
    return Records(pd.DataFrame(x.numpy(), columns=list("abcde")[:d]), y)


@pytest.mark.parametrize("shape", ["module", "sequential"])
def test_it_is_the_rise_of_the_loss_under_the_same_shuffles(shape):
    model = network() if shape == "module" else network().body.eval()
    data = labeled(model)
    found = permutation_importance(model, data, repeats=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(300, generator=generator) for _ in range(2)]
    x = torch.from_numpy(data.features.to_numpy(copy=True))

    def loss(inputs, targets):
        return cross_entropy(model(inputs), targets)

    with torch.no_grad():
        model.eval()
        rises = [
            [literal.permutation_rise(loss, x, data.targets, column, order) for column in range(5)]
            for order in orders
        ]
    assert torch.allclose(
        found.importance, torch.tensor(rises, dtype=torch.float64).mean(0), atol=1e-6
    )


class Plain(nn.Module):
    """The same network, of which nobody knows the first layer."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    "kind", ["plain", "missing", "infinite", "outlier", "hooked", "hooked layer", "patched"]
)
def test_the_first_layer_is_only_left_out_where_that_changes_nothing(kind):
    body, x = network().body.eval(), rows(300)
    y = body(x).argmax(1)
    if kind in ("missing", "infinite", "outlier"):
        x[7, 2] = {"missing": torch.nan, "infinite": torch.inf, "outlier": 1e9}[kind]
    if kind.startswith("hooked"):
        (body if kind == "hooked" else body[0]).register_forward_hook(
            lambda module, given, out: out.roll(1, 1)
        )
    if kind == "patched":
        inner = body[0]
        inner.forward = lambda x: nn.functional.linear(x.abs(), inner.weight, inner.bias)
    short, whole = (
        permutation_importance(model, Records(x, y), repeats=2) for model in (body, Plain(body))
    )
    assert torch.allclose(short.importance, whole.importance, atol=1e-6, equal_nan=True)
    assert torch.allclose(short.standard_error, whole.standard_error, atol=1e-6, equal_nan=True)


def test_the_standard_error_covers_shuffles_and_rows():
    model, x = network(), rows(20_000)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    true = permutation_importance(model, Records(x, y), repeats=5).importance
    seen, errors = [], []
    for part in range(40):
        cut = slice(part * 500, part * 500 + 500)
        found = permutation_importance(model, Records(x[cut], y[cut]), repeats=3, seed=part)
        seen.append(found.importance)
        errors.append(found.standard_error)
    z = (torch.stack(seen) - true) / torch.stack(errors)
    assert 0.7 < float(z.square().mean().sqrt()) < 1.3


def test_columns_and_groups():
    model = network()
    data = labeled(model)
    whole = permutation_importance(model, data)
    some = permutation_importance(model, data, columns=["d", "b"])
    assert some.names == ("d", "b")
    assert torch.allclose(some.importance, whole.importance[[3, 1]])
    grouped = permutation_importance(model, data, columns={"first two": ["a", "b"], "c": ["c"]})
    assert grouped.names == ("first two", "c")
    assert torch.allclose(grouped.importance[1], whole.importance[2])
    with pytest.raises(InputError, match="columns among"):
        permutation_importance(model, data, columns=["z"])


def test_any_metric_of_torchmetrics_knows_its_own_direction():
    model = network()
    data = labeled(model)
    accuracy = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    ours = permutation_importance(model, data, metric="error")
    theirs = permutation_importance(model, data, metric=accuracy)
    assert torch.allclose(ours.importance, theirs.importance, atol=1e-6)
    function = torchmetrics.functional.classification.multiclass_accuracy
    named = permutation_importance(
        model,
        data,
        metric=lambda said, y: function(said, y, 3, average="micro"),
        greater_is_better=True,
    )
    assert torch.allclose(named.importance, theirs.importance)
    assert (theirs.standard_error > 0).any()


def test_a_column_that_the_model_ignores_has_no_importance():
    class Half(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], -x[:, 1]], 1)

    found = permutation_importance(Half(), labeled(Half()))
    assert found.importance[2:].tolist() == [0.0, 0.0, 0.0]
    assert found.standard_error[2:].tolist() == [0.0, 0.0, 0.0]
    assert found.table()["feature"].tolist()[:2] in (["a", "b"], ["b", "a"])


def test_the_model_is_left_as_it_was_and_changes_no_input():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x.mul_(1.0))

    model = InPlace()
    data = Records(rows(50), torch.zeros(50, dtype=torch.int64))
    before, kept = state(model), data.features.clone()
    permutation_importance(model, data)
    assert state(model) == before
    assert torch.equal(data.features, kept)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"metric": "auc"}, "nll"), ({"metric": 3}, "function"), ({"repeats": 0}, "at least 1")],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(InputError, match=words):
        permutation_importance(network(), labeled(network()), **change)
    with pytest.raises(InputError, match="targets"):
        permutation_importance(network(), Records(rows(5)))


@pytest.mark.parametrize("kind", ["module", "sequential"])
def test_a_pass_that_does_not_fit_is_made_smaller(kind):
    inner = network()
    model = inner if kind == "module" else inner.body
    x, sizes = rows(300), []
    data = Records(x, torch.arange(300) % 3)
    whole = permutation_importance(model, data, repeats=2)

    def short_of_memory(module, given, output):
        sizes.append(len(output))
        if len(output) > 100:
            raise torch.OutOfMemoryError("out of memory")

    # A hook on a layer behind the first one, so that the first one is still left out.
    inner.body[2].register_forward_hook(short_of_memory)
    made = permutation_importance(model, data, repeats=2)
    assert torch.allclose(made.importance, whole.importance, atol=1e-6)
    assert [size > 100 for size in sizes].count(True) <= 3


@pytest.mark.gpu
def test_a_network_stays_on_its_device():
    model, data = network(), Records(rows(200), torch.arange(200) % 3)
    expected = permutation_importance(model, data)
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].device.type))
    found = permutation_importance(model.cuda(), data)
    assert set(seen) == {"cuda"}
    assert torch.allclose(found.importance, expected.importance, atol=1e-5)
    assert next(model.parameters()).is_cuda

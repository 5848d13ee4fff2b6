import captum.attr
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, Schema, attribute
from gendebug_torch.attribution import Attributions
from gendebug_torch.errors import InputError
from gendebug_torch.model.evaluation import evaluating
from tests.attribution_cases import METHODS, OWN, close, network, rows, run, state
from tests.reference import attribution as literal


def test_integrated_gradients_equal_captum_and_the_paper():
    model, x = network(), rows(20)
    ours = attribute(model, x, target=1, steps=50, baseline=0.3)
    with evaluating(model):
        theirs = captum.attr.IntegratedGradients(model).attribute(x, 0.3, target=1, n_steps=50)
        assert close(ours.values, theirs.float())
        slow = literal.integrated_gradients(lambda p: model(p)[:, 1], x[3], torch.full((5,), 0.3))
    assert torch.allclose(ours.values[3], slow, atol=2e-3)


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap", "gradient_shap"])
def test_contributions_sum_to_the_change_of_the_output_row_by_row(method):
    model, x = network(), rows(30)
    options = {"steps": 400} if method == "integrated_gradients" else METHODS[method]
    made = attribute(model, x, method, **(options | {"baseline": "sample"}))
    assert made.convergence_delta.shape == (30,)
    error = made.flat.sum(1) - (made.outputs.double() - made.base.double())
    assert torch.allclose(error, made.convergence_delta.double(), atol=1e-6)
    if method != "gradient_shap":
        assert float(made.relative_delta.median()) < 0.005


def test_only_rows_that_have_not_converged_get_more_steps():
    class Kinked(nn.Module):
        points = 0

        def forward(self, x):
            Kinked.points += len(x)
            return torch.relu(x[:, 0] - 0.331) * 3 + x[:, 1]

    x = torch.zeros(100, 2)
    x[:, 1] = 1.0
    x[:10, 0] = torch.linspace(0.34, 0.5, 10)
    plain = attribute(Kinked(), x, steps=4)
    spent, Kinked.points = Kinked.points, 0
    adaptive = attribute(Kinked(), x, steps=4, max_steps=256, tolerance=0.001)
    assert float(plain.relative_delta.max()) > 0.01
    assert float(adaptive.relative_delta.max()) < 0.01
    assert Kinked.points < spent + 10 * 600
    assert torch.equal(adaptive.values[10:], plain.values[10:])


def test_targets():
    model, x = network(), rows(30)
    y = torch.arange(30) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    with evaluating(model), torch.no_grad():
        logits = model(x)
    predicted = attribute(model, loader, steps=16)
    assert torch.equal(predicted.targets, logits.argmax(1))
    assert torch.allclose(predicted.outputs, logits.amax(1), atol=1e-5)
    assert torch.equal(attribute(model, loader, target="target", steps=16).targets, y)
    assert torch.allclose(
        attribute(model, loader, target=2, steps=16).outputs, logits[:, 2], atol=1e-5
    )
    top = logits.topk(2, 1).values
    assert torch.allclose(
        attribute(model, loader, target="margin", steps=16).outputs,
        top[:, 0] - top[:, 1],
        atol=1e-5,
    )


def test_a_single_logit_is_class_one_and_its_negative_class_zero():
    model, x = network(k=1), rows(10)
    whole = attribute(model, x)
    assert (whole.targets == -1).all()
    assert torch.equal(attribute(model, x, target=1).values, whole.values)
    assert close(attribute(model, x, target=0).values, -whole.values)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "integrated_gradient"}, "Did you mean"),
        ({"method": "integrated_gradients", "n_steps": 5}, "steps"),
        ({"method": "saliency", "steps": 5}, "no options"),
        ({"method": "kernel_shap", "samples": 3}, "at least"),
        ({"method": "lime", "samples": 3}, "at least"),
        ({"method": "Saliency", "n_step": 5}, "arguments of Saliency"),
        ({"method": "Saliency", "baseline": 0.0}, "baseline"),
        ({"method": "LayerActivation"}, "layer"),
        ({"method": 7}, "instance"),
        ({"steps": 0}, "at least 1"),
        ({"target": "label"}, "predicted"),
        ({"target": 3}, r"0\.\.2"),
        ({"target": True}, "class id"),
        ({"target": "target"}, "class targets"),
        ({"baseline": "average"}, "blur"),
        ({"baseline": "blur"}, "images"),
        ({"baseline": torch.zeros(4)}, "broadcasts to a row"),
        ({"groups": [0, 1]}, "one number for each of 5"),
        ({"parts": ["age"]}, "Name the Tensors"),
        ({"method": "occlusion", "window": 9}, "edges"),
    ],
)
def test_bad_input_is_named(arguments, words):
    model, x = network(), rows(6)
    before = state(model)
    with pytest.raises(InputError, match=words):
        attribute(model, x, **arguments)
    assert state(model) == before


def test_names_come_from_the_table_and_its_schema_is_no_input():
    table = pd.DataFrame({"age": [1.0, 2.0, 3.0], "income": [5.0, 1.0, 0.0]})
    made = attribute(network(d=2), Records(table, schema=Schema(noise=("age",))))
    assert made.names == ("age", "income")
    assert list(made.to_frame().columns[:3]) == ["age", "income", "target"]


def test_attributions_add_up_and_can_be_cut():
    model, x = network(), rows(20)
    whole, parts = attribute(model, x), attribute(model, x[:8]) + attribute(model, x[8:])
    assert close(parts.values, whole.values)
    pd.testing.assert_frame_equal(parts.table(), whole.table(), rtol=1e-5)
    assert torch.equal(whole.select(torch.arange(3)).values, whole.values[:3])
    assert isinstance(parts, Attributions)


def test_the_table_has_the_moments_of_the_rows():
    made = attribute(network(), rows(50))
    table = made.table().set_index("feature").loc[list(made.names)]
    flat = made.flat
    assert torch.allclose(torch.tensor(table["mean_abs"].to_numpy()), flat.abs().mean(0))
    assert torch.allclose(
        torch.tensor(table["standard_error"].to_numpy()), flat.abs().std(0) / 50**0.5
    )
    assert torch.allclose(
        torch.tensor(table["mean_standard_error"].to_numpy()), flat.std(0) / 50**0.5
    )
    assert float(table["share"].sum()) == pytest.approx(1.0)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    model, x = network(), rows(30)
    whole = attribute(model, x, batch_size=7)
    calls = []

    class Stopping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            calls.append(len(x))
            return self.inner(x)

    loader = [x[i : i + 7] for i in range(0, 30, 7)]

    def broken():
        yield from loader[:3]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        attribute(Stopping(), broken(), checkpoint=tmp_path)
    made = attribute(Stopping(), loader, checkpoint=tmp_path)
    assert torch.equal(made.values, whole.values)


@pytest.mark.gpu
@pytest.mark.parametrize("method", OWN)
def test_cuda_gives_the_same_answers(method):
    model, x = network(), rows(200)
    expected = run(model, x, method, device="cpu")
    made = run(model, x, method, device="cuda")
    assert close(made.values, expected.values, 1e-4)
    assert next(model.parameters()).device.type == "cpu"

import warnings

import captum.attr
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, Schema, attribute
from gendebug_torch.attribution import Attributions
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.runner import evaluating
from tests.attribution_cases import GRADIENT, METHODS, OWN, network, rows, state
from tests.reference import attribution as literal

every_method = pytest.mark.parametrize("method", METHODS)


def run(model, x, method, **more):
    return attribute(model, x, method, **(METHODS.get(method, {}) | more))


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, atol=tolerance * float(b.abs().max().clamp(min=1.0)), rtol=0)


def test_integrated_gradients_equal_captum_and_the_paper():
    model, x = network(), rows(20)
    ours = attribute(model, x, target=1, steps=50, baseline=0.3)
    with evaluating(model):
        theirs = captum.attr.IntegratedGradients(model).attribute(x, 0.3, target=1, n_steps=50)
        assert close(ours.values, theirs.float())
        slow = literal.integrated_gradients(lambda p: model(p)[:, 1], x[3], torch.full((5,), 0.3))
    assert torch.allclose(ours.values[3], slow, atol=2e-3)


@pytest.mark.parametrize("way", ["by name", "snake case", "instance"])
@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "InputXGradient", "DeepLift", "GuidedBackprop", "FeatureAblation"])
def test_any_captum_method_by_name_and_as_an_instance(name, way):
    model, x = network(), rows(20)
    cls = getattr(captum.attr, name)
    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = cls(model).attribute(x, target=model(x).argmax(1)).detach()
    snake = "captum." + "".join("_" + c.lower() if c.isupper() else c for c in name).strip("_")
    method = {"by name": f"captum.{name}", "snake case": snake, "instance": cls(model)}[way]
    assert close(attribute(model, x, method, batch_size=7).values, expected)


def test_every_class_of_captum_runs_or_says_why_not():
    model, x = network(), rows(6)
    more = {"layer": "body.0", "neuron_selector": 0, "attribution_method": "Saliency", "n_samples": 10}
    ran, refused = [], {}
    for name in sorted(n for n in vars(captum.attr) if isinstance(getattr(captum.attr, n), type)):
        cls = getattr(captum.attr, name)
        if not (issubclass(cls, captum.attr.Attribution) and hasattr(cls, "attribute")):
            continue
        wanted = {k: v for k, v in more.items() if k in cls.__init__.__annotations__ or k in cls.attribute.__annotations__}
        try:
            ran.append(len(attribute(model, x, name, **wanted)) == 6)
        except (InputError, UnsupportedError) as error:
            refused[name] = str(error)
    assert all(ran)
    assert len(ran) >= 20
    assert all("Pass" in words or name in words for name, words in refused.items())


@pytest.mark.parametrize("method", ["layer_conductance", "LayerActivation", "LayerGradCam"])
def test_layer_methods_take_a_layer_by_name(method):
    model, x = network(), rows(9)
    made = attribute(model, x, method, layer="body.0")
    assert len(made) == 9
    with pytest.raises(InputError, match="submodule"):
        attribute(model, x, method, layer="body.9")


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


@every_method
def test_the_model_and_the_random_states_are_left_as_they_were(method):
    model, x = network(), rows(12)
    before, kept = state(model), x.clone()
    run(model, x, method)
    assert state(model) == before
    assert torch.equal(x, kept)
    assert not x.requires_grad


@every_method
def test_so_they_are_after_a_forward_that_raises(method):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.left = network(), 10**9

        def forward(self, x):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the network broke")
            return self.inner(x)

    model, x = Fragile(), rows(12)
    run(model, x, method)
    calls = 10**9 - model.left
    model.left = calls - 1
    before, kept = state(model), x.clone()
    with pytest.raises((RuntimeError, AssertionError), match="the network broke"):
        run(model, x, method)
    assert state(model) == before
    assert torch.equal(x, kept)


@every_method
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_row_has_one_answer_in_any_batch(method, batch_size):
    model, x = network(), rows(40)
    whole = run(model, x, method, batch_size=1000)
    assert close(run(model, x, method, batch_size=batch_size).values, whole.values)


@every_method
def test_a_row_has_one_answer_in_any_order(method):
    model, x = network(), rows(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    more = {"baseline": x[:3]} if METHODS[method].get("baseline") == "sample" else {}
    assert close(run(model, x[order], method, **more).values, run(model, x, method, **more).values[order])


@every_method
def test_the_same_seed_gives_the_same_answer_whatever_the_global_state(method):
    model, x = network(), rows(10)
    first = run(model, x, method).values
    with torch.random.fork_rng():
        torch.manual_seed(77)
        assert torch.equal(run(model, x, method).values, first)


@every_method
def test_no_rows_and_one_row(method):
    model, x = network(), rows(3)
    more = {"baseline": x} if METHODS[method].get("baseline") == "sample" else {}
    assert run(model, x[:1], method, **more).values.shape == (1, 5)
    if not method.startswith("captum") and method not in ("DeepLift", "GuidedBackprop"):
        empty = run(model, x[:0], method, **more)
        assert empty.values.shape == (0, 5)
        assert len(empty.table()) == 5


@pytest.mark.parametrize("method", OWN)
def test_one_feature(method):
    model, x = network(d=1), rows(6, d=1)
    more = {"samples": 4} if method in ("kernel_shap", "lime") else {}
    made = run(model, x, method, **more)
    assert made.values.shape == (6, 1)
    if method in ("kernel_shap", "feature_ablation"):
        assert torch.allclose(made.values[:, 0], made.outputs - made.base, atol=1e-5)


@pytest.mark.parametrize("method", ["DeepLift", "GuidedBackprop", "FeatureAblation", "captum.KernelShap", "captum.Saliency"])
def test_captum_is_kept_from_rows_without_an_output(method):
    model, x = network(), rows(12)
    whole = run(model, x, method)
    x[4, 2], x[7, 0] = torch.nan, torch.inf
    made = run(model, x, method)
    known = torch.tensor([i not in (4, 7) for i in range(12)])
    assert close(made.values[known], whole.values[known])
    assert made.usable.tolist() == known.tolist()
    assert "2 left out" in made.plot().get_title()
    assert not run(model, torch.full((3, 5), torch.nan), method).usable.any()


def test_a_missing_value_does_not_hide_that_deep_lift_misses_an_operation():
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(5, 8)

        def forward(self, x):
            return nn.functional.silu(3 * self.body(x)).sum(1)

    x = rows(30)
    x[0, 0] = torch.nan
    with pytest.raises(UnsupportedError, match="no rule"):
        attribute(Smooth(), x, "DeepLift")


@pytest.mark.parametrize("method", OWN)
def test_a_missing_value_stays_in_its_row(method):
    model, x = network(), rows(12)
    more = {"baseline": x[:3].clone()} if METHODS[method].get("baseline") == "sample" else {}
    whole = run(model, x, method, **more)
    x[4, 2] = torch.nan
    made = run(model, x, method, **more)
    others = torch.arange(12) != 4
    assert close(made.values[others], whole.values[others])
    assert made.usable.tolist() == others.tolist() or made.usable.all()
    assert made.table()["mean_abs"].notna().all()


@pytest.mark.parametrize("method", GRADIENT)
def test_inputs_that_the_network_ignores_get_nothing(method):
    class Half(nn.Module):
        def forward(self, x):
            return x[:, 0] * x[:, 1]

    made = run(Half(), rows(8), method)
    assert float(made.values[:, 2:].abs().max()) == 0.0


@pytest.mark.parametrize("method", GRADIENT)
def test_a_network_without_gradient_is_refused(method):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().sum(1)

    with pytest.raises(UnsupportedError, match="no gradient"):
        run(Detached(), rows(8), method)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(method, mode):
    model, x = network(), rows(8)
    expected = run(model, x, method)
    with mode():
        assert close(run(model, x.clone(), method).values, expected.values)


@pytest.mark.parametrize("method", OWN)
def test_a_first_operation_in_place_changes_nothing_outside(method):
    class InPlace(nn.Module):
        def forward(self, x):
            x.mul_(2.0).add_(1.0)
            return x.square().sum(1)

    class Same(nn.Module):
        def forward(self, x):
            return (2.0 * x + 1.0).square().sum(1)

    x = rows(8)
    kept = x.clone()
    assert close(run(InPlace(), x, method).values, run(Same(), x, method).values)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("method", OWN)
def test_float64_and_autocast(method):
    model, x = network(), rows(16)
    single = run(model, x, method)
    half = run(model, x, method, precision="bf16-mixed")
    double = run(model.double(), x.double(), method)
    scale = float(single.values.abs().max())
    assert float((double.values - single.values).abs().max()) < 1e-4 * scale
    assert float((half.values - single.values).norm() / single.values.norm()) < 0.1
    assert half.values.dtype == torch.float32


@pytest.mark.parametrize("method", OWN)
def test_recurrent_networks_and_sequences(method):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 1)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    made = run(Recurrent(), rows(6, d=8).reshape(6, 4, 2), method, **({"baseline": 0.0} if method == "gradient_shap" else {}))
    assert made.values.shape == (6, 4, 2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_and_parallel_wrappers():
    model, x = network(), rows(10)
    expected = attribute(model, x).values
    compiled = torch.compile(model, backend="eager")
    assert close(attribute(compiled, x).values, expected)
    assert close(attribute(compiled, x, "DeepLift").values, attribute(model, x, "DeepLift").values)
    assert close(attribute(nn.DataParallel(model), x).values, expected)


def functional(x):
    return torch.nn.functional.silu(x)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), functional])
def test_deep_lift_is_refused_where_it_does_not_add_up(activation):
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = activation
            self.first, self.last = nn.Linear(5, 32), nn.Linear(32, 1)

        def forward(self, x):
            return self.last(self.act(self.first(x)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Smooth()
    with pytest.raises(UnsupportedError, match="integrated_gradients"):
        attribute(model, 3 * rows(40), "DeepLift")


def test_deep_lift_through_a_softmax_does_not_depend_on_the_other_rows_or_is_refused():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))
    x = rows(12)
    with pytest.raises(UnsupportedError, match="misses the change"):
        attribute(model, x, "DeepLift")
    inside = nn.Sequential(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 3), nn.ReLU())
    with pytest.raises(UnsupportedError, match="misses the change"):
        attribute(inside, x, "DeepLift")


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
    assert torch.allclose(attribute(model, loader, target=2, steps=16).outputs, logits[:, 2], atol=1e-5)
    top = logits.topk(2, 1).values
    assert torch.allclose(attribute(model, loader, target="margin", steps=16).outputs, top[:, 0] - top[:, 1], atol=1e-5)


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


@pytest.mark.parametrize("method", ["FeaturePermutation", "captum.FeaturePermutation"])
def test_a_method_that_explains_no_rows_is_refused(method):
    with pytest.raises(UnsupportedError, match="permutation_importance"):
        attribute(network(), rows(6), method)


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
    assert torch.allclose(torch.tensor(table["standard_error"].to_numpy()), flat.abs().std(0) / 50**0.5)
    assert torch.allclose(torch.tensor(table["mean_standard_error"].to_numpy()), flat.std(0) / 50**0.5)
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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", OWN)
def test_cuda_gives_the_same_answers(method):
    model, x = network(), rows(200)
    expected = run(model, x, method, device="cpu")
    made = run(model, x, method, device="cuda")
    assert close(made.values, expected.values, 1e-4)
    assert next(model.parameters()).device.type == "cpu"

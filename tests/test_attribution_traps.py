"""The sixteen groups of traps into which libraries of attribution fall: each a test by its number,
over all methods where it applies.

 1  left in training mode: BatchNorm moves, dropout drops; modes of single submodules are lost
 2  a forward that raises leaves `requires_grad`, hooks or attributes behind
 3  a rectifier that is re-used, or called as a function: DeepLIFT and guided backpropagation are
 wrong without a word 4  a first operation in place
 5  forms of output: one logit, two, a margin, a mapping, three axes
 6  forms of input: mappings, integers, embeddings, unused inputs, no gradient
 7  NaN and infinite cells
 8  one feature, one row, a last batch of one row
 9  the same row in another batch or order
10  the global random states of Python, NumPy and torch
11  ties and zeros: a constant network, a row that is its own baseline, no change of the output
12  half and double precision
13  weights, baselines and targets on other devices
14  callers under no_grad, wrappers, recurrent layers on cuDNN
15  defaults that drop signs or small contributions
16  groups with gaps, no rows, more inputs than fit squared

More of 3 is in test_attribution_captum.py, more of 6 in test_attribution_inputs.py, of 14 and 16 in
test_attribution_runs.py.
"""

import random

import lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gendebug_torch import attribute
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.model.evaluation import evaluating
from tests.attribution_cases import (
    GRADIENT,
    METHODS,
    OF_INPUTS,
    OWN,
    close,
    every_method,
    network,
    rows,
    run,
    state,
)


def lightning_module(model):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)

    return Module()


def compiled(model):
    return torch.compile(model, backend="eager")


@every_method
def test_trap_01_the_model_its_statistics_and_the_random_states_are_left_as_they_were(method):
    model, x = network().train(), rows(12)
    model.body[1].eval()
    before, kept = state(model), x.clone()
    run(model, x, method)
    assert state(model) == before
    assert torch.equal(x, kept)
    assert not x.requires_grad


@every_method
def test_trap_01_batch_norm_and_dropout_answer_as_in_evaluation(method):
    model, x = network().train(), rows(12)
    assert torch.equal(run(model, x, method).values, run(network().eval(), x, method).values)


@every_method
def test_trap_02_so_they_are_after_a_forward_that_raises(method):
    class Fragile(type(network())):
        left = 10**9

        def forward(self, x):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the network broke")
            return super().forward(x)

    model, x = network(), rows(12)
    model.__class__ = Fragile
    run(model, x, method, trust=False)
    calls = 10**9 - model.left
    model.left = calls - 1
    before, kept = state(model), x.clone()
    with pytest.raises((RuntimeError, AssertionError), match="the network broke"):
        run(model, x, method, trust=False)
    assert state(model) == before
    assert torch.equal(x, kept)


@every_method
def test_trap_03_a_rectifier_called_as_a_function_is_right_or_refused(method):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 32), nn.Linear(32, 1))

        def forward(self, x):
            return self.body[1](nn.functional.relu(self.body[0](x)))

    functional, x = Functional(), 3 * rows(40)
    modules = nn.Sequential(functional.body[0], nn.ReLU(), functional.body[1])
    options = {"layer": "0"} if method.startswith("Layer") else {}
    expected = run(modules, x, method, **options)
    if method in ("DeepLift", "DeepLiftShap", "GuidedBackprop"):
        with pytest.raises(UnsupportedError, match="relu"):
            run(functional, x, method)
    else:
        assert close(run(functional, x, method).values, expected.values)


@pytest.mark.parametrize("method", OF_INPUTS)
def test_trap_04_a_first_operation_in_place_changes_nothing_outside(method):
    class InPlace(type(network())):
        def forward(self, x):
            x.mul_(2.0).add_(1.0)
            return super().forward(x)

    class Same(type(network())):
        def forward(self, x):
            return super().forward(2.0 * x + 1.0)

    x = rows(8)
    kept = x.clone()
    changing, same = network(), network()
    changing.__class__, same.__class__ = InPlace, Same
    assert close(run(changing, x, method).values, run(same, x, method).values)
    assert torch.equal(x, kept)


class Single(nn.Module):
    """One logit `[n]` of two, `[n, 2]`, or `[n, 1]`."""

    def __init__(self, form):
        super().__init__()
        self.body, self.form = network(k=1).body, form

    def forward(self, x):
        logit = self.body(x)
        return {"column": logit, "flat": logit[:, 0], "pair": torch.cat([0 * logit, logit], 1)}[
            self.form
        ]


@pytest.mark.parametrize("method", OF_INPUTS)
@pytest.mark.parametrize("form", ["column", "flat"])
def test_trap_05_a_single_logit_is_class_one_and_its_negative_class_zero(method, form):
    x = rows(10)
    plain, one = run(Single(form), x, method), run(Single(form), x, method, target=1)
    assert (plain.targets == -1).all()
    assert torch.equal(plain.values, one.values)
    assert close(one.values, run(Single("pair"), x, method, target=1).values)
    zero = run(Single(form), x, method, target=0)
    # What Captum's saliency and guided backpropagation give have a sign of their own.
    assert close(zero.values, -one.values) or method == "GuidedBackprop"
    assert close(zero.outputs, -one.outputs)


@pytest.mark.parametrize("method", [m for m in OF_INPUTS if m != "GuidedBackprop"])
def test_trap_05_a_margin_is_the_difference_of_two_classes(method):
    model, x = network(), rows(10)
    margin = run(model, x, method, target="margin")
    with evaluating(model), torch.no_grad():
        best = model(x).topk(2, 1).indices
    classes = torch.stack([run(model, x, method, target=k).values for k in range(3)])
    at = torch.arange(10)
    assert close(margin.values, classes[best[:, 0], at] - classes[best[:, 1], at], 1e-4)


@every_method
@pytest.mark.parametrize(
    "output",
    [lambda x: {"hidden": x}, lambda x: (x, x), lambda x: x[:, :, None]],
    ids=["dict", "tuple", "axes"],
)
def test_trap_05_another_form_of_output_is_named(method, output):
    class Wrapped(type(network())):
        def forward(self, x):
            return output(super().forward(x))

    model = network()
    model.__class__ = Wrapped
    with pytest.raises(InputError, match=r"`model`.*Wrap"):
        run(model, rows(6), method)


@every_method
def test_trap_05_logits_by_name_are_the_output(method):
    class Named(type(network())):
        def forward(self, x):
            return {"logits": super().forward(x)}

    model = network()
    expected = run(model, rows(6), method).values
    model.__class__ = Named
    assert close(run(model, rows(6), method).values, expected)


class Mixed(nn.Module):
    """Numbers and codes by name; `unused` goes nowhere."""

    def __init__(self):
        super().__init__()
        self.code, self.head, self.act = nn.Embedding(6, 3), nn.Linear(5 + 3, 2), nn.Tanh()

    def forward(self, numbers, codes, unused):
        return self.act(self.head(torch.cat([numbers, self.code(codes[:, 0])], 1)))


# Methods that sample, at enough samples; what they give an unused input is the error of sampling.
MANY = {
    "kernel_shap": {"samples": 2000},
    "lime": {"samples": 2000},
    "captum.KernelShap": {"n_samples": 500},
}
NOTHING = {"lime": 0.01, "captum.KernelShap": 0.05}


@pytest.mark.parametrize("method", OF_INPUTS)
def test_trap_06_a_mapping_of_numbers_codes_and_something_unused(method):
    if method == "occlusion":
        pytest.skip("windows need one Tensor: the refusal is in the next test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mixed()
    codes = torch.randint(6, (9, 1), generator=torch.Generator().manual_seed(0))
    inputs = {"numbers": rows(9), "codes": codes, "unused": rows(9, 2, seed=3)}
    batches = [{key: value[i : i + 4] for key, value in inputs.items()} for i in range(0, 9, 4)]
    several = method in ("DeepLiftShap", "captum.GradientShap", "gradient_shap")
    start = {key: value[:3] for key, value in inputs.items()} if several else None
    options = {
        key: value for key, value in METHODS[method].items() if key != "baseline"
    } | MANY.get(method, {})
    made = attribute(
        model,
        batches,
        method,
        target=1,
        baseline=start,
        unpack=lambda batch: (batch, None),
        **options,
    )
    assert sorted(made.names) == sorted(
        [*(f"numbers_{i}" for i in range(5)), "unused_0", "unused_1", made.names[-1]]
    )
    assert made.values.shape == (9, 8)
    unused = [made.names.index("unused_0"), made.names.index("unused_1")]
    assert float(made.values[:, unused].abs().max()) < NOTHING.get(method, 1e-5)
    assert float(made.values[:, -1].abs().max()) > 0


def test_trap_06_windows_over_several_tensors_are_refused():
    with pytest.raises(InputError, match="one Tensor per batch"):
        attribute(
            Mixed(),
            [{"numbers": rows(4), "codes": torch.ones(4, 1, dtype=torch.int64), "unused": rows(4)}],
            "occlusion",
            unpack=lambda batch: (batch, None),
        )


@pytest.mark.parametrize("method", OF_INPUTS)
def test_trap_06_integers_without_an_embedding_are_steps_or_refused(method):
    class Counts(nn.Module):
        def forward(self, x):
            return x.float().sum(1)

    x = torch.ones(4, 5, dtype=torch.int64)
    if method in ("kernel_shap", "lime", "feature_ablation", "occlusion"):
        assert torch.allclose(run(Counts(), x, method).values, torch.ones(4, 5), atol=1e-4)
    else:
        with pytest.raises(InputError, match=r"nn\.Embedding"):
            run(Counts(), x, method)


@pytest.mark.parametrize("method", GRADIENT)
def test_trap_06_a_network_without_gradient_is_refused(method):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().sum(1)

    with pytest.raises(UnsupportedError, match="no gradient"):
        run(Detached(), rows(8), method)


@every_method
def test_trap_07_a_missing_value_stays_in_its_row(method):
    model, x = network(), rows(12)
    whole = run(model, x, method)
    x[4, 2], x[7, 0] = torch.nan, torch.inf
    made = run(model, x, method)
    known = torch.tensor([i not in (4, 7) for i in range(12)])
    assert close(made.values[known], whole.values[known])
    # Where the output is not finite no contribution is, but for a feature that was replaced.
    assert not made.values[~known].flatten(1).isfinite().all(1).any()
    assert made.usable.tolist() == known.tolist()
    assert made.table()["mean_abs"].notna().all()
    assert "2 left out with NaN" in made.plot().get_title()


@every_method
def test_trap_07_a_batch_without_a_usable_row(method):
    model, x = network(), rows(6)
    x[3:] = torch.nan
    made = run(model, x, method, batch_size=3)
    assert made.usable.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("method", OF_INPUTS)
def test_trap_08_one_feature(method):
    model, x = network(d=1), rows(6, d=1)
    more = {"samples": 4} if method in ("kernel_shap", "lime") else {}
    more |= (
        {"baseline": torch.linspace(-1, 1, 3)[:, None]}
        if isinstance(METHODS[method].get("baseline"), torch.Tensor)
        else {}
    )
    if method == "captum.KernelShap":
        with pytest.raises(UnsupportedError, match="KernelShap cannot explain"):
            run(model, x, method)
        return
    made = run(model, x, method, **more)
    assert made.values.shape == (6, 1)
    if method in ("kernel_shap", "feature_ablation", "occlusion"):
        assert torch.allclose(made.values[:, 0], made.outputs - made.base, atol=1e-5)


@every_method
def test_trap_08_a_last_batch_of_one_row_and_one_row_alone(method):
    model, x = network(), rows(9)
    whole = run(model, x, method)
    assert close(run(model, x, method, batch_size=4).values, whole.values)
    assert close(run(model, x[:1], method).values, whole.values[:1])


@every_method
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_trap_09_a_row_has_one_answer_in_any_batch(method, batch_size):
    model, x = network(), rows(40)
    whole = run(model, x, method, batch_size=1000)
    assert close(run(model, x, method, batch_size=batch_size).values, whole.values)


@every_method
def test_trap_09_a_row_has_one_answer_in_any_order(method):
    model, x = network(), rows(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert close(run(model, x[order], method).values, run(model, x, method).values[order])


@every_method
def test_trap_10_no_global_random_state_matters(method):
    model, x = network(), rows(10)
    first = run(model, x, method).values
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        np.random.seed(77)
        random.seed(77)
        assert torch.equal(run(model, x, method).values, first)
    random.setstate(states[0])
    np.random.set_state(states[1])


@every_method
def test_trap_11_a_network_that_looks_at_nothing(method):
    class Constant(type(network())):
        def forward(self, x):
            return 0 * super().forward(x) + torch.tensor([0.0, 1.0, -1.0])

    model = network()
    model.__class__ = Constant
    made = run(model, rows(8), method)
    table = made.table()
    assert float(table["mean_abs"].abs().max()) < 1e-6
    assert table.notna().all(axis=None)
    assert made.convergence_delta is None or bool(made.relative_delta.isfinite().all())
    made.plot().figure.canvas.draw()


@pytest.mark.parametrize(
    "method", [m for m in OF_INPUTS if "Shap" not in m and m != "gradient_shap"]
)
def test_trap_11_a_row_that_is_its_own_baseline(method):
    model, x = network(), rows(8)
    if method == "GuidedBackprop":
        with pytest.raises(InputError, match="baseline"):
            run(model, x, method, baseline=x[0])
        return
    made = run(model, x, method, baseline=x[0])
    assert bool(made.values.isfinite().all())
    assert made.convergence_delta is None or bool(made.relative_delta.isfinite().all())
    if method not in ("saliency", "smooth_grad"):
        assert float(made.values[0].abs().max()) < 1e-5


@pytest.mark.parametrize("method", OF_INPUTS)
def test_trap_12_float64_and_autocast(method):
    model, x = network(), rows(16)
    single = run(model, x, method)
    half = run(model, x, method, precision="bf16-mixed")
    assert half.precision.rows == 16
    start = METHODS[method].get("baseline")
    more = {"baseline": start.double()} if isinstance(start, torch.Tensor) else {}
    double = run(model.double(), x.double(), method, **more)
    scale = float(single.values.abs().max())
    assert float((double.values - single.values).abs().max()) < 1e-4 * scale
    assert float((half.values - single.values).norm() / single.values.norm()) < 0.1
    assert half.values.dtype == torch.float32


@every_method
def test_trap_13_weights_that_are_nowhere_or_in_two_places_are_named(method):
    model = network().to("meta")
    with pytest.raises(InputError, match="meta device"):
        run(model, rows(4), method)


@pytest.mark.gpu
@every_method
def test_trap_13_baseline_and_targets_elsewhere_than_the_network(method):
    model, x = network(), rows(40)
    expected = run(model, x, method, device="cpu")
    made = run(model.cuda(), x, method, device="cuda")
    assert close(made.values, expected.values, 1e-4)
    assert next(model.parameters()).is_cuda


@every_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trap_14_callers_without_gradients(method, mode):
    model, x = network(), rows(8)
    expected = run(model, x, method)
    with mode():
        assert close(run(model, x.clone(), method).values, expected.values)


@every_method
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lightning_module])
def test_trap_14_wrappers(method, wrap):
    model, x = network(), rows(10)
    expected = run(model, x, method).values
    more = (
        {"layer": "model.body.0"} if method.startswith("Layer") and wrap is lightning_module else {}
    )
    wrapped = wrap(model)
    before = state(model)
    assert close(run(wrapped, x, method, **more).values, expected)
    assert state(model) == before


@pytest.mark.parametrize(
    "method", ["saliency", "captum.Saliency", "kernel_shap", "lime", "captum.KernelShap"]
)
def test_trap_15_signs_and_small_contributions_are_kept(method):
    weight = torch.cat([torch.tensor([-5.0, 3.0]), 0.001 * torch.arange(1.0, 14)])
    linear = nn.Linear(15, 1)
    linear.weight.data, linear.bias.data = weight[None], torch.zeros(1)
    more = (
        {"abs": False}
        if method == "captum.Saliency"
        else {"samples": 200}
        if method in ("kernel_shap", "lime")
        else {}
    )
    more |= {"n_samples": 400} if method == "captum.KernelShap" else {}
    made = attribute(linear, torch.ones(2, 15), method, **more)
    assert torch.allclose(made.values[0], weight, atol=2e-4)


@pytest.mark.parametrize("method", [*GRADIENT, "kernel_shap", "lime", "feature_ablation"])
def test_trap_16_groups_with_gaps_across_tensors(method):
    class Two(nn.Module):
        def forward(self, a, b):
            return (a * b).sum(1)

    a, b = rows(7, 3), rows(7, 3, seed=2)
    options = METHODS[method] | ({"baseline": 0.0} if method == "gradient_shap" else {})
    options |= {"groups": [9, 2, 2, 9, 2, 2], "unpack": lambda batch: (batch, None)}
    made = attribute(Two(), [(a[:4], b[:4]), (a[4:], b[4:])], method, **options)
    assert made.values.shape == (7, 2)
    if method in ("integrated_gradients", "kernel_shap", "feature_ablation"):
        assert close(made.values, torch.stack([(a * b)[:, 1:].sum(1), a[:, 0] * b[:, 0]], 1))


@every_method
def test_trap_16_no_rows(method):
    made = run(network(), rows(3)[:0], method)
    assert len(made) == 0
    assert made.values.shape[1:] in {(5,), (16,)}
    assert made.table()["mean_abs"].tolist() == [0.0] * made.values.shape[1]


class Largest(TorchDispatchMode):
    """The most numbers in any result."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        parts = out if isinstance(out, (tuple, list)) else [out]
        self.most = max(
            [self.most, *(part.numel() for part in parts if isinstance(part, torch.Tensor))]
        )
        return out


@pytest.mark.parametrize("method", [*GRADIENT, "feature_ablation", "occlusion"])
def test_trap_16_no_object_of_rows_times_inputs_squared(method):
    d = 3000
    options = (
        {"window": 500}
        if method == "occlusion"
        else {key: value for key, value in METHODS[method].items() if key != "baseline"}
    )
    with Largest() as seen:
        attribute(nn.Linear(d, 1), rows(8, d), method, **options)
    assert seen.most < 8 * d * d / 4


@pytest.mark.parametrize("method", OWN)
def test_trap_14_recurrent_networks_and_sequences(method):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 1)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    made = run(
        Recurrent(),
        rows(6, d=8).reshape(6, 4, 2),
        method,
        **({"baseline": 0.0} if method == "gradient_shap" else {}),
    )
    assert made.values.shape == (6, 4, 2)

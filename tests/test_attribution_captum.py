"""Methods of Captum: the same numbers as its own calls, over whole loaders, and refused where it
would be wrong without a word."""

import warnings

import captum.attr
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from gendebug_torch import Records, attribute
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.model.evaluation import evaluating
from tests.attribution_cases import close, network, rows


@pytest.mark.parametrize("way", ["by name", "snake case", "instance"])
@pytest.mark.parametrize(
    "name",
    [
        "IntegratedGradients",
        "Saliency",
        "InputXGradient",
        "DeepLift",
        "GuidedBackprop",
        "FeatureAblation",
    ],
)
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
    more = {
        "layer": "body.0",
        "neuron_selector": 0,
        "attribution_method": "Saliency",
        "n_samples": 10,
    }
    ran, refused = [], {}
    for name in sorted(n for n in vars(captum.attr) if isinstance(getattr(captum.attr, n), type)):
        cls = getattr(captum.attr, name)
        if not (issubclass(cls, captum.attr.Attribution) and hasattr(cls, "attribute")):
            continue
        wanted = {
            k: v
            for k, v in more.items()
            if k in cls.__init__.__annotations__ or k in cls.attribute.__annotations__
        }
        try:
            ran.append(len(attribute(model, x, name, **wanted)) == 6)
        except (InputError, UnsupportedError) as error:
            refused[name] = str(error)
    assert all(ran)
    assert len(ran) >= 20
    assert all("Pass" in words or name in words for name, words in refused.items())


def theirs(model, make, *arguments, **more):
    """What Captum says itself, in evaluation mode, of the predicted class."""
    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            make(model).attribute(*arguments, target=model(arguments[0]).argmax(1), **more).detach()
        )


@pytest.mark.parametrize(
    "name",
    [
        "LayerConductance",
        "LayerIntegratedGradients",
        "LayerGradCam",
        "LayerDeepLift",
        "LayerActivation",
        "InternalInfluence",
    ],
)
def test_layer_methods_take_a_layer_by_name(name):
    model, x = network(), rows(20)
    cls = getattr(captum.attr, name)
    if name == "LayerActivation":
        with evaluating(model):
            expected = model.body[0](x).detach()
    else:
        expected = theirs(model, lambda m: cls(m, m.body[0]), x)
    made = attribute(model, x, name, layer="body.0", batch_size=7)
    assert close(made.values, expected)
    assert made.inputs is None
    with pytest.raises(InputError, match="submodule"):
        attribute(model, x, name, layer="body.9")


def test_units_of_a_layer_do_not_take_the_names_of_as_many_inputs():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    table = Records(pd.DataFrame({"age": [1.0, 2.0], "income": [0.5, 3.0]}))
    made = attribute(model, table, "LayerConductance", layer="0")
    assert made.names == ("feature_0", "feature_1")
    assert made.inputs is None


def test_deep_lift_shap_explains_rows_and_backgrounds_together():
    model, x, background = network(), rows(20), rows(6, seed=5)
    expected = theirs(model, captum.attr.DeepLiftShap, x, background)
    calls = []
    model.body.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    made = attribute(model, x, "DeepLiftShap", baseline=background)
    assert close(made.values, expected)
    assert max(calls) == 20 * 6 * 2
    assert len(calls) < 20
    assert float(made.relative_delta.max()) < 1e-4
    by_class = attribute(model, x, "LayerDeepLiftShap", layer="body.0", baseline=background)
    assert close(
        by_class.values,
        theirs(model, lambda m: captum.attr.LayerDeepLiftShap(m, m.body[0]), x, background),
    )


def test_a_row_against_several_baselines_is_the_mean_over_them():
    model, x, background = network(), rows(9), rows(4, seed=5)
    singles = [theirs(model, captum.attr.DeepLift, x, start.expand_as(x)) for start in background]
    made = attribute(model, x, "DeepLift", baseline=background)
    assert close(made.values, torch.stack(singles).mean(0))
    assert float(made.convergence_delta.abs().max()) < 1e-4


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.head = nn.Embedding(20, 6), nn.Linear(6, 2)

    def forward(self, tokens):
        return self.head(self.word(tokens).tanh().mean(1))


@pytest.mark.parametrize(
    "name", ["LayerIntegratedGradients", "LayerConductance", "LayerGradientXActivation"]
)
def test_layers_over_integers_are_those_of_the_embedding(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Words()
    tokens = torch.randint(20, (9, 7), generator=torch.Generator().manual_seed(0))
    made = attribute(model, tokens, name, layer="word", batch_size=4)
    # One number per token: the sum over its vector.
    assert made.values.shape == (9, 7)
    if name == "LayerIntegratedGradients":
        padding = torch.zeros_like(tokens)
        assert close(
            made.values,
            theirs(
                model, lambda m: captum.attr.LayerIntegratedGradients(m, m.word), tokens, padding
            ).sum(-1),
        )
        assert float(made.convergence_delta.abs().max()) < 1e-4


def test_activations_of_an_embedding_stay_vectors():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Words()
    tokens = torch.randint(20, (9, 7), generator=torch.Generator().manual_seed(0))
    made = attribute(model, tokens, "LayerActivation", layer="word", trust=False)
    assert torch.equal(made.values, model.word(tokens).detach())


def test_an_operation_in_place_behind_a_hook_is_refused_by_name():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    with pytest.raises(UnsupportedError, match="Captum's LayerIntegratedGradients cannot explain"):
        attribute(model, rows(6), "LayerIntegratedGradients", layer="0")


class Eye(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Linear(4 * 36, 3),
        )

    def forward(self, x):
        return self.head(self.act(self.first(x)).flatten(1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LayerGradCam", {"layer": "first"}),
        ("GuidedGradCam", {"layer": "first"}),
        ("GuidedBackprop", {}),
        ("Deconvolution", {}),
        ("Occlusion", {"sliding_window_shapes": (2, 3, 3), "strides": (2, 3, 3)}),
        ("DeepLift", {}),
        ("LRP", {}),
    ],
)
def test_images_through_captum(name, options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Eye()
    x = rows(7, 72).reshape(7, 2, 6, 6)
    cls, calling = (
        getattr(captum.attr, name),
        {key: value for key, value in options.items() if key != "layer"},
    )
    expected = theirs(
        model, lambda m: cls(m, m.first) if "layer" in options else cls(m), x, **calling
    )
    made = attribute(model, x, name, batch_size=3, **options)
    assert close(made.values, expected)
    assert (made.inputs is None) == name.startswith("Layer")


def test_an_object_of_the_user_keeps_its_settings():
    model, x = network(), rows(12)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
    made = attribute(model, x, tunnel, nt_samples=4, stdevs=0.0, abs=False)
    assert close(made.values, attribute(model, x, "saliency").values)
    halves = captum.attr.IntegratedGradients(model, multiply_by_inputs=False)
    assert close(
        attribute(model, x, halves, baseline=0.5, n_steps=20).values,
        theirs(model, lambda m: halves, x, 0.5, n_steps=20).float(),
    )


def test_an_object_that_explains_another_number_is_refused():
    model, single, x = network(), network(k=1), rows(6)
    for target, network_of, asked in [
        ("predicted", network(1), model),
        ("margin", model, model),
        (0, single, single),
    ]:
        with pytest.raises(UnsupportedError, match="explains an output of"):
            attribute(asked, x, captum.attr.Saliency(network_of), target=target)
    for target in (1, "predicted"):
        made = attribute(single, x, captum.attr.InputXGradient(single), target=target)
        assert close(made.values, attribute(single, x, "input_x_gradient").values)


def test_rows_go_to_captum_in_blocks_that_fit():
    model, x, sizes = network(), rows(30), []

    def short_of_memory(module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 200:
            raise torch.OutOfMemoryError("out of memory")

    whole = attribute(model, x, "captum.IntegratedGradients", n_steps=20)
    model.body.register_forward_pre_hook(short_of_memory)
    made = attribute(model, x, "captum.IntegratedGradients", n_steps=20)
    assert close(made.values, whole.values)
    assert max(sizes[-5:]) <= 200


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


class Activated(nn.Module):
    def __init__(self, act):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(5, 32), nn.Linear(32, 1)
        self.act = act

    def forward(self, x):
        return self.last(self.act(self.first(x)))


@pytest.mark.parametrize("method", ["DeepLift", "DeepLiftShap", "GuidedBackprop", "Deconvolution"])
@pytest.mark.parametrize(
    ("activation", "operation"),
    [
        (functional.relu, "relu"),
        (functional.gelu, "gelu"),
        (functional.silu, "silu"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.ReLU6(), "hardtanh"),
        (lambda x: x.clamp(min=0), "clamp"),
    ],
)
def test_an_operation_without_a_rule_is_named_and_refused(method, activation, operation):
    more = {"baseline": rows(3, seed=8)} if method == "DeepLiftShap" else {}
    with pytest.raises(UnsupportedError, match=rf"{operation}.*integrated_gradients"):
        attribute(Activated(activation), 3 * rows(40), method, **more)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus()])
def test_an_operation_with_a_rule_adds_up(activation):
    assert float(attribute(Activated(activation), rows(40), "DeepLift").relative_delta.max()) < 1e-3


def test_a_module_used_twice_is_refused_by_deep_lift():
    twice = nn.ReLU()
    model = nn.Sequential(nn.Linear(5, 8), twice, nn.Linear(8, 8), twice, nn.Linear(8, 1))
    with pytest.raises(UnsupportedError, match="more than once"):
        attribute(model, rows(6), "DeepLift")
    assert not [name for name in vars(twice) if name in ("input", "output")]


def test_deep_lift_through_a_softmax_does_not_depend_on_the_other_rows_or_is_refused():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))
    x = rows(12)
    with pytest.raises(UnsupportedError, match="misses the change"):
        attribute(model, x, "DeepLift")
    inside = nn.Sequential(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 3), nn.ReLU())
    # Outputs that are all 0 would change by nothing.
    nn.init.constant_(inside[2].bias, 1.0)
    with pytest.raises(UnsupportedError, match="misses the change"):
        attribute(inside, x, "DeepLift")


@pytest.mark.parametrize("method", ["FeaturePermutation", "captum.FeaturePermutation"])
def test_a_method_that_explains_no_rows_is_refused(method):
    with pytest.raises(UnsupportedError, match="permutation_importance"):
        attribute(network(), rows(6), method)

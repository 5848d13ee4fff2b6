import pytest
import torch
from torch import nn

from gendebug_torch import attribute
from gendebug_torch.attribution.methods.coalitions import shapley_coalitions
from gendebug_torch.errors import InputError
from tests.attribution_cases import rows
from tests.reference import attribution as literal


def bumpy(d, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
        )
    for parameter in model.parameters():
        parameter.data *= 1.7
    return model


def test_full_enumeration_gives_the_values_of_shapley():
    model, x = bumpy(5), rows(4, 5)
    made = attribute(model, x, "kernel_shap", baseline=0.2)
    with torch.no_grad():
        slow = torch.stack(
            [
                literal.shapley_values(lambda p: model(p)[:, 0], row, torch.full((5,), 0.2))
                for row in x
            ]
        )
    assert torch.allclose(made.flat, slow, atol=1e-5)
    assert float(made.standard_error.max()) == 0.0


@pytest.mark.parametrize("samples", [40, 120, 400])
def test_samples_come_close_and_know_how_close(samples):
    model, x = bumpy(10), rows(20, 10)
    exact = attribute(model, x, "kernel_shap", samples=1022).values
    scores = []
    for seed in range(6):
        made = attribute(model, x, "kernel_shap", samples=samples, seed=seed)
        scores.append((made.values - exact) / made.standard_error.clamp(min=1e-9))
        assert torch.allclose(made.values.sum(1), made.outputs - made.base, atol=1e-4)
    assert 0.7 < float(torch.stack(scores).square().mean().sqrt()) < 1.4


def test_more_samples_err_less_and_fidelity_says_how_additive_the_output_is():
    model, x = bumpy(12), rows(10, 12)
    exact = attribute(model, x, "kernel_shap").values
    errors = [
        float((attribute(model, x, "kernel_shap", samples=n).values - exact).norm())
        for n in (60, 240, 960)
    ]
    assert errors[0] > errors[1] > errors[2]
    additive = attribute(nn.Linear(12, 1), x, "kernel_shap", samples=100)
    assert float(additive.held_out.min()) > 0.999
    rough = attribute(model, x, "kernel_shap", samples=100)
    assert float(rough.held_out.median()) < 0.999


@pytest.mark.parametrize(
    ("features", "samples"), [(4, 14), (7, 60), (10, 500), (16, 900), (30, 500), (60, 1000)]
)
def test_coalitions_come_in_pairs_without_repeats_and_weigh_what_they_should(features, samples):
    drawn = shapley_coalitions(features, samples, 0)
    both = torch.cat([drawn.masks, ~drawn.masks])
    assert len(both.unique(dim=0)) == len(both)
    assert len(both) <= samples
    assert len(both) >= min(samples, 2**features - 2) - features
    sizes = range(1, features // 2 + 1)
    kernel = [
        (features - 1) / (k * (features - k)) / (2 if 2 * k == features else 1) for k in sizes
    ]
    for size, weight in zip(sizes, kernel, strict=True):
        own = drawn.size == size
        assert bool((drawn.masks[own].sum(1) == size).all())
        if bool(own.any()):
            assert float(drawn.weight[own].sum()) == pytest.approx(weight)


def test_every_seed_draws_its_own_and_too_few_are_refused():
    first, second = shapley_coalitions(30, 200, 0), shapley_coalitions(30, 200, 1)
    assert not torch.equal(first.masks, second.masks)
    with pytest.raises(InputError, match="at least 60 for 30"):
        shapley_coalitions(30, 50, 0)


def test_lime_is_a_weighted_regression_on_presence():
    model, x = bumpy(6), rows(3, 6)
    made = attribute(model, x, "lime", samples=300)
    from gendebug_torch.attribution.methods.coalitions import lime_fit

    masks, fit = lime_fit(6, 300, 0, 0.75, 0.0)
    with torch.no_grad():
        said = model(torch.where(masks, x[1], torch.zeros(6)))[:, 0].double()
    root = fit.weight.sqrt()[:, None]
    design = torch.cat([torch.ones(300, 1), masks.float()], 1).double()
    slow = torch.linalg.lstsq(design * root, said[:, None] * root).solution[1:, 0]
    assert torch.allclose(made.flat[1], slow, atol=1e-5)
    assert 0 < float(made.held_out[1]) < float(made.fidelity[1]) <= 1


def test_a_background_of_rows_is_averaged():
    model, x = bumpy(6), rows(10, 6)
    background = rows(4, 6, seed=9)
    made = attribute(model, x, "kernel_shap", baseline=background)
    singles = torch.stack(
        [attribute(model, x, "kernel_shap", baseline=row).values for row in background]
    )
    assert torch.allclose(made.values, singles.mean(0), atol=1e-4)

"""Methods against each other, and columns against random ones."""

import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from gendebug_torch import Records, attribute
from gendebug_torch.attribution import permutation_importance, rank_agreement
from gendebug_torch.attribution.compare.rank_agreement import spearman
from gendebug_torch.errors import InputError
from tests.attribution_cases import rows

TRUE = torch.tensor([2.0, -1.4, 0.9, 0.5, 0.25, 0.0])


def linear(weights=TRUE):
    model = nn.Sequential(nn.Linear(len(weights), 1), nn.Flatten(0))
    with torch.no_grad():
        model[0].weight.copy_(weights[None])
        model[0].bias.zero_()
    return model


def labeled(n=600, seed=0, weights=TRUE):
    x = rows(n, len(weights), seed=seed)
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1))
    return Records(
        pd.DataFrame(x.numpy(), columns=list("abcdefgh")[: len(weights)]),
        (drawn < (x @ weights).sigmoid()).long(),
    )


def test_ranks_share_ties_as_in_scipy():
    first = torch.tensor([[1.0, 1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    second = torch.tensor([[0.0, 2.0, 0.0, 3.0, 1.0], [4.0, 4.0, 2.0, 1.0, 0.0]])
    expected = [
        spearmanr(a, b).statistic for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    assert spearman(first, second).tolist() == pytest.approx(expected)
    assert spearman(torch.ones(1, 4), first[:1, :4]).isnan().all()


def test_methods_agree_on_a_linear_model():
    model, data = linear(), labeled()
    sizes = {
        method: attribute(model, data, method, baseline="median", trust=False).flat.abs()
        for method in ("integrated_gradients", "kernel_shap")
    }
    found = rank_agreement(sizes, list("abcdef"))
    assert found.methods == ("integrated_gradients", "kernel_shap")
    assert len(found.table()) == 1
    assert found.correlation[0] == pytest.approx(1.0)
    assert bool((found.low <= found.correlation).all())
    assert bool((found.correlation <= found.high).all())
    assert rank_agreement(sizes, list("abcdef")).table().equals(found.table())


def test_methods_that_rank_otherwise_do_not_agree():
    size = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) + torch.arange(5)
    found = rank_agreement(
        {"up": size, "down": size.flip(1), "none": torch.ones(300, 5)}, list("abcde")
    )
    assert found.correlation[0] == pytest.approx(-1.0)
    assert float(found.high[0]) < 0
    assert found.correlation[1:].isnan().all()
    assert found.low[1:].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_interval_covers_the_agreement_of_all_rows(noise):
    """Two noisy views of the same sizes: the correlation of very many rows lies in the intervals of
    few."""
    generator = torch.Generator().manual_seed(0)
    size = torch.linspace(0, 1, 12)
    shifts = {"first": torch.zeros(12), "second": 0.5 * torch.rand(12, generator=generator)}
    views = {
        name: size + shift + noise * torch.randn(40_000, 12, generator=generator)
        for name, shift in shifts.items()
    }
    truth = float(rank_agreement(views, list("abcdefghijkl"), replicates=10).correlation[0])
    inside = 0
    for part in range(60):
        cut = slice(part * 600, part * 600 + 600)
        found = rank_agreement(
            {name: value[cut] for name, value in views.items()}, list("abcdefghijkl"), seed=part
        )
        inside += float(found.low[0]) <= truth <= float(found.high[0])
    assert inside >= 52


def test_rows_with_missing_values_are_left_out():
    size = rows(50, 4).abs()
    holed = size.clone()
    holed[3, 1] = torch.nan
    found = rank_agreement({"one": holed, "two": size}, list("abcd"))
    assert found.rows == 49
    assert found.correlation[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "per_row",
    [
        {"one": rows(9, 3)},
        {"one": rows(9, 3), "two": rows(8, 3)},
        {"one": rows(1, 3), "two": rows(1, 3)},
        {},
    ],
)
def test_bad_input_is_named(per_row):
    with pytest.raises(InputError, match="per_row"):
        rank_agreement(per_row, list("abc"))


def test_a_random_column_is_under_its_probe_and_a_real_one_is_not():
    weights = torch.tensor([2.0, -1.4, 0.9, 0.5])
    model = linear(torch.cat([weights, torch.tensor([1.0, 1.0])]))
    under = torch.zeros(6)
    for seed in range(100):
        data = labeled(400, seed=seed, weights=torch.cat([weights, torch.zeros(2)]))
        found = permutation_importance(model, data, repeats=3, seed=seed)
        under += torch.tensor([name in found.unimportant for name in "abcdef"])
    assert under[:3].max() <= 2
    # The network uses the last two, which carry no information, so that shuffling them changes
    # nothing.
    assert under[4:].min() >= 90


def test_one_shuffle_has_no_probe_and_a_metric_of_the_whole_has_one():
    model, data = linear(), labeled()
    assert permutation_importance(model, data, repeats=1).unimportant == ()
    found = permutation_importance(
        model, data, metric=lambda logits, targets: (logits - targets).abs().mean(), repeats=4
    )
    assert found.probe is not None
    assert bool((found.probe >= 0).all())
    assert "probe" in found.table()


def test_the_trust_card_names_what_is_noise_and_how_the_ranking_agrees():
    weights = torch.cat([TRUE[:5], torch.tensor([0.0, 1.0])])
    data = labeled(4000, weights=torch.cat([TRUE[:5], torch.zeros(2)]))
    card = attribute(linear(weights), data).trust
    assert "g" in card.below_probe
    assert not {"a", "b", "c"} & set(card.below_probe)
    assert card.measures["permutation"].value > 0.2
    assert any("permutation" in line for line in card.table()["measure"])
    assert any("random column" in line for line in card.notes)
    assert "permutation" not in attribute(linear(weights), rows(40, 7)).trust.measures


def test_a_ranking_that_shuffling_contradicts_is_not_usable():
    """Strong contributions of columns that tell nothing, weak ones of those that do."""
    used, informative = (
        torch.tensor([1.0, 0.9, 0.8, 0.3, 0.4, 0.5]),
        torch.tensor([0.0, 0.0, 0.0, 3.0, 4.0, 5.0]),
    )
    card = attribute(linear(used), labeled(6000, weights=informative)).trust
    assert "permutation" in card.failed
    assert not card.ranking_usable
